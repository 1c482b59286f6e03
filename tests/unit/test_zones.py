"""Time zones, and the windows that caps count over."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from io import BytesIO
from itertools import chain
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.engine.zones import DAY, HOUR, SECOND, TZDATA_VERSION, Window, Zone, zone
from pointsman.model import instant, micros

MINUTE = 60 * SECOND


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


@cache
def names() -> list[str]:
    return files("tzdata").joinpath("zones").read_text().split()


def data(name: str) -> bytes:
    return files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()


@cache
def distinct() -> list[str]:
    """One name of every zone that exists; the others are links to these."""
    return list({data(name): name for name in names()}.values())


@cache
def oracle(name: str) -> ZoneInfo:
    return ZoneInfo.from_file(BytesIO(data(name)))


def wall(name: str, instant_: int) -> datetime:
    """What the local clock shows, as zoneinfo has it."""
    return instant(instant_).astimezone(oracle(name)).replace(tzinfo=None)


def shifted(name: str, instant_: int) -> int:
    """The offset in seconds, as zoneinfo has it."""
    return (wall(name, instant_) - instant(instant_).replace(tzinfo=None)) // timedelta(seconds=1)


def named(name: str) -> Zone:
    found = zone(name)
    assert found is not None
    return found


@cache
def changes(name: str, since: str = "1800-01-01", until: str = "2045-01-01") -> list[int]:
    """The instants at which the local clock jumps."""
    return [start for start, _, _ in named(name).spans(at(since), at(until))][1:]


def span(window: Window) -> tuple[str, str]:
    return f"{window.opens:%Y-%m-%dT%H:%M:%S}", f"{window.closes:%Y-%m-%dT%H:%M:%S}"


zone_names = st.sampled_from(distinct())
instants = st.integers(at("1800-01-01"), at("9998-01-01"))


@st.composite
def near_changes(draw: st.DrawFn) -> tuple[str, int]:
    """A zone, and an instant close to a jump of its clock, where offsets and jumps are whole minutes (since 1972)."""
    name = draw(zone_names.filter(lambda name: bool(changes(name, "1972-06-01"))))
    change = draw(st.sampled_from(changes(name, "1972-06-01")))
    return name, change + draw(st.integers(-36 * HOUR, 36 * HOUR))


def test_a_zone_is_known_by_its_exact_name() -> None:
    assert [name for name in names() if named(name).name != name] == []


@pytest.mark.parametrize(
    "name",
    [
        "america/new_york",
        "AMERICA/NEW_YORK",
        " UTC",
        "",
        "Mars/Olympus",
        "../zones",
        "America/../UTC",
        "America",
        "tzdata.zi",
        "UTC\0",
        b"UTC",
        None,
        1,
        True,
        ["UTC"],
        {"UTC": 1},
    ],
)
def test_anything_but_the_exact_name_of_a_zone_is_no_zone(name: object) -> None:
    assert zone(name) is None


def test_a_name_has_one_zone_object() -> None:
    assert zone("Europe/Paris") is zone("Europe/Paris")


def test_a_zone_shows_how_to_get_it() -> None:
    paris = named("Europe/Paris")
    assert paris is eval(repr(paris))


def test_data_are_of_the_release_that_the_module_names() -> None:
    first_line = files("tzdata").joinpath("zoneinfo", "tzdata.zi").read_text().splitlines()[0]
    assert f"# version {TZDATA_VERSION}" == first_line


@pytest.mark.no_cover  # long
def test_offsets_are_those_of_zoneinfo_on_both_sides_of_every_change_in_every_zone() -> None:
    for name in distinct():
        for change in changes(name):
            for moment in (change - 1, change):
                assert shifted(name, moment) == named(name).offset(moment), (name, instant(moment))


@pytest.mark.no_cover  # long
def test_no_change_is_missed_in_any_zone() -> None:
    centuries = range(at("1800-01-01"), at("2110-01-01"), 173 * DAY)
    years = range(at("2026-01-01"), at("2030-01-01"), 5 * DAY)
    for name in distinct():
        for moment in chain(centuries, years):
            assert shifted(name, moment) == named(name).offset(moment), (name, instant(moment))


@settings(deadline=None)
@given(zone_names, instants)
def test_offset_and_local_time_are_those_of_zoneinfo_at_any_instant(name: str, moment: int) -> None:
    assert shifted(name, moment) == named(name).offset(moment)
    assert wall(name, moment).isoformat(timespec="seconds") == named(name).local(moment)


def test_order_of_questions_does_not_change_an_answer() -> None:
    paris = Zone("Europe/Paris", data("Europe/Paris"))
    moments = [at(f"{year}-07-01") for year in (2026, 1930, 2150, 1996, 9998, 2024)]
    assert [shifted("Europe/Paris", moment) for moment in moments] == [paris.offset(moment) for moment in moments]


def test_clocks_answer_to_the_end_of_datetime() -> None:
    paris = named("Europe/Paris")
    assert wall("Europe/Paris", at("9999-12-31T22:30:00")).isoformat() == paris.local(at("9999-12-31T22:30:00"))
    assert datetime.max.replace(tzinfo=UTC) == paris.day(at("9999-12-31T23:30:00")).closes


def check_neighbours(name: str, moment: int) -> None:
    for window_of in (named(name).hour, named(name).day):
        window = window_of(moment)
        assert window.start <= moment < window.end, (name, instant(moment))
        assert window == window_of(window.start) == window_of(window.end - 1)
        assert window.end == window_of(window.end).start
        assert window.start == window_of(window.start - 1).end
        assert (window.opens, window.closes) == (instant(window.start), instant(window.end))


@pytest.mark.no_cover  # long
def test_windows_tile_time_around_every_change_in_every_zone() -> None:
    for name in distinct():
        for change in changes(name)[::2]:
            check_neighbours(name, change)
        for change in changes(name)[1::2]:
            check_neighbours(name, change - 1)


@settings(deadline=None)
@given(zone_names, instants)
def test_windows_tile_time_at_any_instant(name: str, moment: int) -> None:
    check_neighbours(name, moment)


@settings(deadline=None)
@given(zone_names, instants)
def test_an_hour_starts_at_a_full_local_hour(name: str, moment: int) -> None:
    window = named(name).hour(moment)
    for edge in (window.start, window.end):
        shown = wall(name, edge)
        assert shown.replace(minute=0, second=0, microsecond=0) == shown


@settings(max_examples=150, deadline=None)
@given(near_changes())
def test_an_hour_runs_from_one_full_local_hour_to_the_next(case: tuple[str, int]) -> None:
    name, moment = case
    minute = moment // MINUTE * MINUTE
    before = next(m for m in range(minute, minute - DAY, -MINUTE) if wall(name, m).minute == 0)
    after = next(m for m in range(minute + MINUTE, minute + DAY, MINUTE) if wall(name, m).minute == 0)
    window = named(name).hour(moment)
    expected = "hour", before, after
    assert expected == (window.kind, window.start, window.end)


@settings(max_examples=120, deadline=None)
@given(near_changes())
def test_a_day_runs_from_the_first_instant_of_its_date_to_the_first_of_a_later_one(case: tuple[str, int]) -> None:
    name, moment = case
    minute = moment // MINUTE * MINUTE
    latest, starts = wall(name, minute - 4 * DAY).date(), []
    for m in range(minute - 4 * DAY, minute + 3 * DAY, MINUTE):
        if wall(name, m).date() > latest:
            latest = wall(name, m).date()
            starts.append(m)
    window = named(name).day(moment)
    expected = "day", max(m for m in starts if m <= moment), min(m for m in starts if m > moment)
    assert expected == (window.kind, window.start, window.end)


@pytest.mark.parametrize(
    ("name", "moment", "expected"),
    [
        pytest.param("UTC", "2026-06-01T10:30:00", ("2026-06-01T10:00:00", "2026-06-01T11:00:00"), id="utc"),
        pytest.param("UTC", "2026-06-01T10:00:00", ("2026-06-01T10:00:00", "2026-06-01T11:00:00"), id="its first"),
        pytest.param(
            "Asia/Kathmandu",
            "2026-06-01T12:00:00",
            ("2026-06-01T11:15:00", "2026-06-01T12:15:00"),
            id="five forty-five",
        ),
        pytest.param(
            "America/New_York", "2026-11-01T05:30:00", ("2026-11-01T05:00:00", "2026-11-01T06:00:00"), id="first pass"
        ),
        pytest.param(
            "America/New_York", "2026-11-01T06:30:00", ("2026-11-01T06:00:00", "2026-11-01T07:00:00"), id="second pass"
        ),
        pytest.param(
            "America/New_York", "2026-03-08T06:59:59", ("2026-03-08T06:00:00", "2026-03-08T07:00:00"), id="skipped hour"
        ),
        pytest.param(
            "Australia/Lord_Howe",
            "2024-04-06T15:10:00",
            ("2024-04-06T14:00:00", "2024-04-06T15:30:00"),
            id="half an hour back",
        ),
        pytest.param(
            "Australia/Lord_Howe",
            "2024-10-05T15:45:00",
            ("2024-10-05T14:30:00", "2024-10-05T16:00:00"),
            id="half an hour on",
        ),
        pytest.param(
            "Europe/Paris", "1800-01-01T00:00:00", ("1799-12-31T23:50:39", "1800-01-01T00:50:39"), id="local mean time"
        ),
    ],
)
def test_hour_windows_follow_the_local_clock(name: str, moment: str, expected: tuple[str, str]) -> None:
    assert expected == span(named(name).hour(at(moment)))


@pytest.mark.parametrize(
    ("name", "moment", "expected"),
    [
        pytest.param(
            "America/New_York", "2026-03-08T12:00:00", ("2026-03-08T05:00:00", "2026-03-09T04:00:00"), id="23 hours"
        ),
        pytest.param(
            "America/New_York", "2026-11-01T12:00:00", ("2026-11-01T04:00:00", "2026-11-02T05:00:00"), id="25 hours"
        ),
        pytest.param(
            "America/New_York", "2222-07-01T12:00:00", ("2222-07-01T04:00:00", "2222-07-02T04:00:00"), id="far ahead"
        ),
        pytest.param(
            "America/Sao_Paulo", "2018-11-04T03:00:00", ("2018-11-04T03:00:00", "2018-11-05T02:00:00"), id="no midnight"
        ),
        pytest.param(
            "America/Sao_Paulo", "2018-02-18T02:30:00", ("2018-02-17T02:00:00", "2018-02-18T03:00:00"), id="two 23:00"
        ),
        pytest.param(
            "America/Havana", "2010-10-31T05:30:00", ("2010-10-31T04:00:00", "2010-11-01T05:00:00"), id="two midnights"
        ),
        pytest.param(
            "America/St_Johns",
            "2010-11-07T02:29:59",
            ("2010-11-06T02:30:00", "2010-11-07T02:30:00"),
            id="before crossing midnight back",
        ),
        pytest.param(
            "America/St_Johns",
            "2010-11-07T02:45:00",
            ("2010-11-07T02:30:00", "2010-11-08T03:30:00"),
            id="clock crossed midnight back",
        ),
        pytest.param(
            "Pacific/Apia", "2011-12-30T09:59:59", ("2011-12-29T10:00:00", "2011-12-30T10:00:00"), id="before no date"
        ),
        pytest.param(
            "Pacific/Apia", "2011-12-30T10:00:00", ("2011-12-30T10:00:00", "2011-12-31T10:00:00"), id="after no date"
        ),
        pytest.param(
            "Pacific/Kwajalein",
            "1993-08-21T12:00:00",
            ("1993-08-21T12:00:00", "1993-08-22T12:00:00"),
            id="Kwajalein has no 21 August 1993",
        ),
        pytest.param(
            "Asia/Manila",
            "1844-12-31T15:56:07",
            ("1844-12-30T15:56:08", "1844-12-31T15:56:08"),
            id="Manila has no last day of 1844",
        ),
        pytest.param(
            "America/Sitka",
            "1867-10-19T12:00:00",
            ("1867-10-18T09:01:13", "1867-10-20T09:01:13"),
            id="a date lived twice is one day",
        ),
        pytest.param(
            "Antarctica/Vostok", "1994-01-31T20:00:00", ("1994-01-30T17:00:00", "1994-02-01T00:00:00"), id="31 hours"
        ),
        pytest.param(
            "Antarctica/Vostok", "1994-11-01T12:00:00", ("1994-11-01T00:00:00", "1994-11-01T17:00:00"), id="17 hours"
        ),
        pytest.param(
            "Antarctica/Vostok", "2023-12-17T22:00:00", ("2023-12-17T17:00:00", "2023-12-18T19:00:00"), id="26 hours"
        ),
        pytest.param(
            "Antarctica/Casey", "2009-10-17T20:00:00", ("2009-10-17T16:00:00", "2009-10-18T13:00:00"), id="21 hours"
        ),
    ],
)
def test_day_windows_follow_the_local_calendar(name: str, moment: str, expected: tuple[str, str]) -> None:
    """By the rules of the tz database, worked out by hand from its source.

    Files `northamerica` (New_York, Havana, St_Johns, Sitka: 1867 and the date line), `southamerica` (Sao_Paulo),
    `australasia` (Apia's missing 30 December 2011, Kwajalein's 21 August 1993), `asia` (Manila, 1844) and `antarctica`:
    Vostok was at +07 until February 1994, at 0 until November, at +07 again, and is at +05 since 18 December 2023,
    2:00; Casey went from +08 to +11 on 18 October 2009, 2:00.
    """
    assert expected == span(named(name).day(at(moment)))


def test_the_date_that_a_zone_left_out_has_no_window() -> None:
    apia = named("Pacific/Apia")
    starts = [apia.day(at(f"2011-12-{day}T12:00:00")).start for day in (28, 29, 30, 31)]
    expected = ["2011-12-28", "2011-12-29", "2011-12-31", "2012-01-01"]
    assert expected == [apia.local(start)[:10] for start in starts]


def test_a_window_is_remembered() -> None:
    paris = named("Europe/Paris")
    moment = at("2026-06-01T10:30:00")
    assert paris.hour(moment) is paris.hour(moment + MINUTE)
    assert paris.day(moment) is paris.day(moment + HOUR)

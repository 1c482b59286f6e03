"""Acceptance hours."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import cache
from importlib.resources import files
from io import BytesIO
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pointsman.engine.hours import WEEKDAYS, Hours, UnknownZone, UnreadableHours, compile_hours, read_hours
from pointsman.engine.zones import DAY, HOUR, SECOND, Zone, zone
from pointsman.model import instant, micros

MINUTE = 60 * SECOND
NINE_TO_FIVE = [["09:00", "17:00"]]
ALL_DAY = [["00:00", "24:00"]]

Document = dict[str, Any]


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def named(name: str) -> Zone:
    found = zone(name)
    assert found is not None
    return found


def make_hours(zone_name: str = "UTC", **document: object) -> Hours:
    return compile_hours({"weekly": {}} | document, named(zone_name))


def opening(hours: Hours, moment: str) -> str | None:
    found = hours.next_opening(at(moment))
    return None if found is None else f"{instant(found):%Y-%m-%dT%H:%M:%S}"


# The oracle: what zoneinfo shows on the wall, looked up in the document as it stands.


@cache
def oracle(name: str) -> ZoneInfo:
    return ZoneInfo.from_file(BytesIO(files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()))


def row(document: Document, day: date) -> list[list[str]]:
    intervals: list[list[str]] = document.get("dates", {}).get(
        day.isoformat(), document["weekly"].get(WEEKDAYS[day.weekday()], [])
    )
    return intervals


def shows_open(document: Document, name: str, moment: int) -> bool:
    wall = instant(moment).astimezone(oracle(name))
    clock, before = f"{wall:%H:%M}", wall.date() - timedelta(days=1)
    today = any(start <= clock and (clock < end or end < start) for start, end in row(document, wall.date()))
    return today or any(end < start and clock < end for start, end in row(document, before))


zone_names = st.sampled_from(files("tzdata").joinpath("zones").read_text().split())
times = st.builds("{:02}:{:02}".format, st.sampled_from([*range(24), 0, 1, 2, 3, 23]), st.sampled_from([0, 1, 30, 59]))
intervals = st.tuples(times, times | st.just("24:00")).filter(lambda times: times[0] != times[1]).map(list)
rows = st.lists(intervals, max_size=3)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Document, str, int]:
    """A document, a zone, and an instant close to a jump of its clock, if it has any (whole minutes since 1972)."""
    name = draw(zone_names)
    changes = [start for start, _, _ in named(name).spans(at("1972-06-01"), at("2045-01-01"))]
    moment = draw(st.sampled_from([at("2026-06-01"), *changes])) + draw(st.integers(-40 * HOUR, 40 * HOUR))
    days = st.integers(-3, 4).map(lambda days: (instant(moment) + timedelta(days=days)).date().isoformat())
    document = {
        "weekly": draw(st.dictionaries(st.sampled_from(WEEKDAYS), rows)),
        "dates": draw(st.dictionaries(days, rows, max_size=4)),
    }
    return document, name, moment


@settings(max_examples=150, deadline=None)
@given(cases(), st.lists(st.integers(-3 * DAY, 3 * DAY), max_size=20))
@example(({"weekly": {"sun": [["02:15", "02:45"]]}}, "Australia/Lord_Howe", at("2024-10-05T15:30:00")), [0, -1, MINUTE])
def test_open_is_what_the_wall_clock_shows_inside_the_hours(
    case: tuple[Document, str, int], distances: list[int]
) -> None:
    document, name, moment = case
    hours = compile_hours(document, named(name))
    for distance in [0, *distances]:
        assert shows_open(document, name, moment + distance) == hours.is_open(moment + distance)


@settings(max_examples=120, deadline=None)
@given(cases())
def test_next_opening_is_the_first_open_instant_of_a_closed_buyer(case: tuple[Document, str, int]) -> None:
    document, name, moment = case
    hours = compile_hours(document, named(name))
    if hours.is_open(moment):
        assert hours.next_opening(moment) is None
        return
    minutes = range(moment // MINUTE * MINUTE + MINUTE, moment + 9 * DAY, MINUTE)
    first = next((minute for minute in minutes if shows_open(document, name, minute)), None)
    found = hours.next_opening(moment)
    assert first == found or (first is None and found not in minutes)
    assert found is not None or not any(document["weekly"].values())


@settings(deadline=None)
@given(cases())
def test_an_answer_does_not_depend_on_earlier_questions(case: tuple[Document, str, int]) -> None:
    document, name, moment = case
    used = compile_hours(document, named(name))
    for earlier in (moment + 400 * DAY, moment - 7 * DAY, moment + 1):
        used.is_open(earlier)
        used.next_opening(earlier)
    fresh = compile_hours(document, named(name))
    assert (fresh.next_opening(moment), fresh.is_open(moment)) == (used.next_opening(moment), used.is_open(moment))


def test_an_interval_holds_its_start_and_not_its_end() -> None:
    hours = make_hours(weekly={"mon": NINE_TO_FIVE})
    moments = ["08:59:59.999999", "09:00:00", "16:59:59.999999", "17:00:00"]
    expected = [False, True, True, False]
    assert expected == [hours.is_open(at(f"2026-06-01T{moment}")) for moment in moments]


def test_a_weekday_that_is_absent_is_closed() -> None:
    hours = make_hours(weekly={"mon": ALL_DAY})
    expected = [True, *[False] * 6]
    assert expected == [hours.is_open(at(f"2026-06-0{day}T12:00:00")) for day in range(1, 8)]


def test_saturday_night_runs_into_sunday_morning() -> None:
    hours = make_hours(weekly={"sat": [["20:00", "02:00"]]})
    moments = ["2026-06-06T01:00", "2026-06-06T20:00", "2026-06-07T01:59", "2026-06-07T02:00", "2026-06-07T20:00"]
    expected = [False, True, True, False, False]
    assert expected == [hours.is_open(at(moment)) for moment in moments]


def test_twenty_four_is_the_midnight_that_ends_the_day() -> None:
    hours = make_hours(weekly={"mon": [["20:00", "24:00"]]})
    expected = [True, False]
    assert expected == [hours.is_open(at(moment)) for moment in ("2026-06-01T23:59:59", "2026-06-02T00:00:00")]


def test_an_end_at_zero_is_the_next_midnight() -> None:
    assert read_hours({"weekly": {"mon": [["20:00", "24:00"]]}}) == read_hours(
        {"weekly": {"mon": [["20:00", "00:00"]]}}
    )


def test_overlapping_intervals_are_a_union() -> None:
    hours = make_hours(weekly={"mon": [["12:00", "17:00"], ["09:00", "13:00"], ["10:00", "11:00"], ["17:00", "18:00"]]})
    opens_and_closes = [hour for hour in range(24) if hours.is_open(at(f"2026-06-01T{hour:02}:00"))]
    assert list(range(9, 18)) == opens_and_closes
    assert opening(hours, "2026-06-01T08:00:00") == "2026-06-01T09:00:00"


def test_a_date_replaces_its_weekly_row_and_keeps_the_tail_of_the_evening_before() -> None:
    hours = make_hours(weekly={"thu": [["20:00", "02:00"]], "fri": [["01:00", "17:00"]]}, dates={"2026-12-25": []})
    moments = ["2026-12-25T01:59", "2026-12-25T02:00", "2026-12-25T12:00", "2027-01-01T12:00"]
    expected = [True, False, False, True]
    assert expected == [hours.is_open(at(moment)) for moment in moments]


def test_the_tail_of_a_date_holds_on_the_day_after() -> None:
    hours = make_hours(dates={"2026-12-31": [["22:00", "03:00"]]})
    expected = [True, False]
    assert expected == [hours.is_open(at(moment)) for moment in ("2027-01-01T02:59", "2027-01-01T03:00")]


def test_the_tail_of_an_interval_of_nearly_a_day_holds_to_its_end() -> None:
    hours = make_hours("America/New_York", weekly={"tue": [["20:00", "19:59"]]})
    moments = ["2026-01-07T00:59", "2026-01-07T01:00", "2026-01-08T00:58", "2026-01-08T00:59"]
    expected = [False, True, True, False]
    assert expected == [hours.is_open(at(moment)) for moment in moments]


def test_a_night_over_a_skipped_hour_is_an_hour_shorter() -> None:
    hours = make_hours("America/New_York", weekly={"sat": [["20:00", "04:00"]]})
    expected = [False, True, True, False]  # 01:00Z to 08:00Z
    moments = ["2026-03-08T00:59", "2026-03-08T01:00", "2026-03-08T07:59", "2026-03-08T08:00"]
    assert expected == [hours.is_open(at(moment)) for moment in moments]


def test_both_passes_of_a_repeated_hour_count() -> None:
    hours = make_hours("America/New_York", weekly={"sun": [["01:15", "01:45"]]})
    moments = ["05:14", "05:15", "05:45", "06:14", "06:15", "06:44", "06:45"]
    expected = [False, True, False, False, True, True, False]
    assert expected == [hours.is_open(at(f"2026-11-01T{moment}")) for moment in moments]


def test_an_interval_in_a_skipped_hour_does_not_exist() -> None:
    hours = make_hours("America/New_York", weekly={"sun": [["02:15", "02:45"]]})
    expected = "2026-03-15T06:15:00"
    assert expected == opening(hours, "2026-03-08T05:00:00")


def test_an_interval_that_starts_in_a_skipped_hour_opens_when_the_clock_jumps_into_it() -> None:
    hours = make_hours("America/New_York", weekly={"sun": [["02:15", "03:30"]]})
    expected = "2026-03-08T07:00:00"
    assert expected == opening(hours, "2026-03-08T05:00:00")


def test_a_date_that_the_zone_left_out_never_opens() -> None:
    hours = make_hours("Pacific/Apia", dates={"2011-12-30": ALL_DAY})
    assert opening(hours, "2011-12-01T00:00:00") is None


def test_hours_name_their_own_zone_before_the_buyers() -> None:
    hours = make_hours("UTC", timezone="America/New_York", weekly={"mon": NINE_TO_FIVE})
    assert named("America/New_York") is hours.zone
    assert hours.is_open(at("2026-06-01T13:00"))
    assert not hours.is_open(at("2026-06-01T12:59"))


def test_next_opening_comes_after_the_weekend() -> None:
    hours = make_hours(weekly=dict.fromkeys(WEEKDAYS[:5], NINE_TO_FIVE))
    expected = "2026-06-08T09:00:00"
    assert expected == opening(hours, "2026-06-05T17:00:00")


def test_next_opening_finds_a_single_date_however_far_away() -> None:
    hours = make_hours("Europe/Paris", dates={"2027-01-01": [], "9998-07-01": NINE_TO_FIVE, "1999-01-01": ALL_DAY})
    expected = "9998-07-01T07:00:00"
    assert expected == opening(hours, "2026-06-05T17:00:00")


def test_next_opening_passes_years_of_closed_dates() -> None:
    closed: dict[str, list[object]] = {(date(2026, 1, 1) + timedelta(days)).isoformat(): [] for days in range(3652)}
    hours = make_hours(weekly=dict.fromkeys(WEEKDAYS, NINE_TO_FIVE), dates=closed)
    expected = "2036-01-01T09:00:00"
    assert expected == opening(hours, "2026-01-02")


def test_calendars_end_where_datetime_does() -> None:
    hours = make_hours("Europe/Paris", weekly={"mon": NINE_TO_FIVE}, dates={"9999-12-31": ALL_DAY})
    assert hours.is_open(at("9999-12-31T12:00:00"))
    assert opening(make_hours("Europe/Paris", dates={"2026-01-01": ALL_DAY}), "9999-12-31T23:59:59") is None


def test_next_opening_is_a_midnight_where_the_week_is_always_open() -> None:
    hours = make_hours(weekly=dict.fromkeys(WEEKDAYS, ALL_DAY), dates={"2026-06-03": []})
    expected = "2026-06-04T00:00:00"
    assert expected == opening(hours, "2026-06-03T00:00:00")


@pytest.mark.parametrize("day", range(1, 15))
@pytest.mark.parametrize("zone_name", ["UTC", "America/New_York", "Pacific/Kiritimati"])
@pytest.mark.parametrize("start", ["00:00", "22:00"])
def test_next_opening_is_found_across_the_edge_of_any_week(start: str, zone_name: str, day: int) -> None:
    hours = make_hours(zone_name, dates={f"2026-06-{day:02}": [[start, "23:00"]]})
    found = hours.next_opening(at("2026-05-28T12:00:00"))
    assert found is not None
    expected = f"2026-06-{day:02}T{start}:00"
    assert expected == hours.zone.local(found)


@pytest.mark.parametrize("dates", [{}, {"2026-12-25": []}, {"2026-01-01": ALL_DAY}])
def test_what_never_opens_again_has_no_next_opening(dates: object) -> None:
    assert opening(make_hours(dates=dates), "2026-06-01T00:00:00") is None


def test_what_is_open_has_no_next_opening() -> None:
    assert opening(make_hours(weekly={"mon": NINE_TO_FIVE}), "2026-06-01T10:00:00") is None


def test_hours_without_any_zone_are_of_an_unknown_zone() -> None:
    with pytest.raises(UnknownZone):
        compile_hours({"weekly": {}}, None)
    assert named("UTC") is compile_hours({"weekly": {}, "timezone": "UTC"}, None).zone


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (None, "acceptance hours must be an object"),
        ([], "acceptance hours must be an object"),
        ("mon", "acceptance hours must be an object"),
        ({}, "acceptance hours need `weekly`"),
        ({"weekly": {}, "Weekly": {}}, "acceptance hours have no key `Weekly`"),
        ({"weekly": {}, "holidays": []}, "acceptance hours have no key `holidays`"),
        ({"weekly": None}, "`weekly` must be an object"),
        ({"weekly": []}, "`weekly` must be an object"),
        ({"weekly": {"monday": []}}, "`weekly` has no day `monday`, only mon, tue, wed, thu, fri, sat and sun"),
        ({"weekly": {"Mon": []}}, "`weekly` has no day `Mon`, only mon, tue, wed, thu, fri, sat and sun"),
        ({"weekly": {"mon": None}}, "`weekly.mon` must be a list of intervals"),
        ({"weekly": {"mon": {}}}, "`weekly.mon` must be a list of intervals"),
        ({"weekly": {"mon": ["09:00", "17:00"]}}, "`weekly.mon[0]` must be a list of a start and an end"),
        ({"weekly": {"mon": [["09:00"]]}}, "`weekly.mon[0]` must be a list of a start and an end"),
        ({"weekly": {"mon": [["09:00", "17:00", "18:00"]]}}, "`weekly.mon[0]` must be a list of a start and an end"),
        ({"weekly": {"mon": [["09:00", "17:00"], 5]}}, "`weekly.mon[1]` must be a list of a start and an end"),
        ({"weekly": {"mon": [["09:00", "09:00"]]}}, "`weekly.mon[0]` must not end when it starts"),
        ({"weekly": {"mon": [["24:00", "02:00"]]}}, "`weekly.mon[0]` must not start at 24:00, which is an end only"),
        ({"weekly": {}, "dates": None}, "`dates` must be an object"),
        ({"weekly": {}, "dates": []}, "`dates` must be an object"),
        ({"weekly": {}, "dates": {"2026-12-25": None}}, "`dates.2026-12-25` must be a list of intervals"),
        ({"weekly": {}, "dates": {"2026-12-25": [["1", "2"]]}}, "`dates.2026-12-25[0][0]` must be a time as HH:MM"),
    ],
)
def test_unreadable_hours_name_the_place(document: object, message: str) -> None:
    with pytest.raises(UnreadableHours) as caught:
        read_hours(document)
    assert str(caught.value).startswith(message)


BAD_TIMES = ["9:00", "09:0", "09:60", "25:00", "24:01", "09:00:00", "0900", "09.00", " 09:00", "09:00\n", "٠٩:٠٠", ""]
BAD_DATES = ["2026-02-30", "2026-2-3", "20261225", "2026-W52-5", "2026-12-25T00:00", "0000-01-01", "٢٠٢٦-01-01", "fri"]
BAD_ZONES = ["america/new_york", "Mars/Olympus", "", None, 1, True, ["UTC"]]


@pytest.mark.parametrize("time", [*BAD_TIMES, None, 9, 9.5, True, ["09:00"], {}])
@pytest.mark.parametrize("interval", [lambda time: [time, "23:00"], lambda time: ["09:30", time]], ids=["start", "end"])
def test_a_time_is_hours_and_minutes(time: object, interval: Callable[[object], list[object]]) -> None:
    with pytest.raises(UnreadableHours):
        read_hours({"weekly": {"mon": [interval(time)]}})


@pytest.mark.parametrize("text", BAD_DATES)
def test_a_date_is_a_real_one_in_full(text: str) -> None:
    with pytest.raises(UnreadableHours):
        read_hours({"weekly": {}, "dates": {text: []}})


@pytest.mark.parametrize("name", BAD_ZONES)
def test_a_zone_inside_the_hours_that_cannot_be_read_makes_them_unreadable(name: object) -> None:
    with pytest.raises(UnreadableHours):
        compile_hours({"weekly": {}, "timezone": name}, named("UTC"))


def test_unreadable_hours_are_reported_before_an_unknown_zone() -> None:
    with pytest.raises(UnreadableHours):
        compile_hours({"weekly": {"mon": [["09:00", "09:00"]]}}, None)

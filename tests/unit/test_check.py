"""Findings from worlds that have just one thing wrong, and none from a clean one."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from pointsman.check import ADVICE, TITLES, finding_json
from pointsman.engine.capacity import State
from pointsman.engine.decide import decide
from pointsman.engine.exclusivity import holding
from pointsman.findings import Code, Configuration, Finding, Level, findings
from pointsman.model import Lead
from pointsman.ownership import Ownership, Role, ownership
from pointsman.wire import plain
from pointsman.world import build
from pointsman.world import leads as new_leads
from tests.images import images_of

from .worlds import (
    CLOSED,
    LEAD,
    MARKET,
    NOON,
    OFFER,
    ONE,
    OTHER_MARKET,
    OTHER_OFFER,
    OTHER_VERTICAL,
    POLICY,
    THREE,
    TOKEN,
    TWO,
    UNREADABLE,
    VERTICAL,
    Image,
    candidate,
    exclusivity,
    make_area,
    make_buyer,
    make_enrollment,
    make_lead,
    make_offer,
    make_policy,
    make_rules,
    make_state,
    make_world,
    uid,
)

Rows = Iterable[tuple[str, Image]]

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "check.md"
FALLBACK = {"exclusivity": {"when_ineligible": "fallback_allowed"}}
WEIGHTED = {"strategy": {"kind": "weighted"}}
DAY_MICROS = 86_400_000_000


def world(*rows: Rows, rules: dict[str, Any] | None = None, moment: int = NOON) -> Configuration:
    """The default offer and a policy for everything, with `rows` besides."""
    configuration = Configuration(1, TOKEN, moment)
    configuration.add("offers", make_offer())
    configuration.add("routing_policies", make_policy(rules=make_rules(**(rules or {}))))
    for some in rows:
        for table, image in some:
            configuration.add(table, image)
    return configuration


def found(*rows: Rows, rules: dict[str, Any] | None = None, moment: int = NOON) -> list[Finding]:
    return findings(world(*rows, rules=rules, moment=moment))


def codes(found: Iterable[Finding]) -> list[tuple[Code, Level]]:
    return [(finding.code, finding.level) for finding in found]


def only(found: list[Finding], code: Code, level: Level) -> Finding:
    """The one finding of a code, which has this level."""
    (one,) = [finding for finding in found if finding.code is code]
    assert level is one.level
    return one


def hours(
    *intervals: list[str], days: Iterable[str] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun"), **more: Any
) -> str:
    return json.dumps({"weekly": {day: list(intervals) for day in days}, **more})


def policy(number: int, **over: Any) -> Rows:
    return [("routing_policies", make_policy(id=uid(0xC, number), **over))]


def offer(**over: Any) -> Rows:
    return [("offers", make_offer(**over))]


# a clean world


def test_a_clean_world_has_no_findings() -> None:
    clean = [
        *candidate(1, daily_cap=50, hourly_cap=5),
        *candidate(2, acceptance_hours=hours(["09:00", "17:00"]), timezone="America/Chicago"),
        *candidate(3, priority_rank=200, weight=3, buyer_daily_cap=100),
    ]
    held = exclusivity(scope="postal_code", market_id=MARKET, value="60614", valid_to=NOON + 90 * DAY_MICROS)
    assert found(clean, held) == []


def test_an_empty_configuration_has_no_findings() -> None:
    assert findings(Configuration(1, TOKEN, NOON)) == []


def test_the_order_of_rows_does_not_matter() -> None:
    rows = [
        *candidate(1, acceptance_hours=CLOSED),
        *candidate(2, weight=0, hourly_cap=0),
        *candidate(3, status="Active"),
        *exclusivity(),
        *exclusivity(id=uid(0xD, 2), buyer_id=TWO),
    ]
    assert [plain(finding_json(finding)) for finding in found(rows)] == [
        plain(finding_json(finding)) for finding in found(sorted(rows, key=lambda row: (row[0] != "buyers", str(row))))
    ]
    assert found(rows)


# every code in its words and its section


def test_every_code_has_a_title_advice_and_a_section_and_every_section_is_a_code() -> None:
    sections = re.findall(r"^### `(\w+)`$", DOCUMENT.read_text("utf-8"), re.MULTILINE)
    assert sections == [code.value for code in Code]
    assert list(TITLES) == list(ADVICE) == list(Code)


# rows


@pytest.mark.parametrize(
    ("over", "problem"),
    [
        ({"scope": "county", "value": "Cook"}, "county"),
        ({"scope": "city", "value": " "}, "needs a `value`"),
        ({"market_id": None}, "`market_id` is missing"),
        ({"buyer_id": None}, "`buyer_id` is missing"),
    ],
)
def test_an_area_that_the_router_leaves_out_is_malformed(over: dict[str, Any], problem: str) -> None:
    bad = [("buyer_service_areas", make_area(id=uid(0x5, 9), **over))]
    (finding,) = found(candidate(1), bad)
    assert (Code.ROW_MALFORMED, Level.ERROR) == (finding.code, finding.level)
    assert problem in finding.facts["problem"]
    assert finding.rows[0].ids == {"id": uid(0x5, 9)}
    assert found(candidate(1), [("buyer_service_areas", make_area(id=uid(0x5, 9), **over, is_active=False))]) == []


def test_an_area_of_a_market_with_a_value_covers_more_than_it_says() -> None:
    finding = only(found(candidate(1, area={"value": "60614"})), Code.ROW_MALFORMED, Level.WARNING)
    assert "there is a `value`" in finding.facts["problem"]


@pytest.mark.parametrize(
    ("over", "problem"),
    [
        ({"scope": "offer", "market_id": MARKET}, "for all markets"),
        ({"scope": "market"}, "needs a `market_id`"),
        ({"scope": "city", "market_id": MARKET}, "needs a `value`"),
        ({"scope": "state", "market_id": MARKET}, "state"),
        ({"offer_id": None}, "`offer_id` is missing"),
        ({"valid_from": NOON, "valid_to": NOON - 1}, "ends before it begins"),
    ],
)
def test_an_exclusivity_that_holds_nothing_is_malformed(over: dict[str, Any], problem: str) -> None:
    (finding,) = found(candidate(1), exclusivity(**over))
    assert (Code.ROW_MALFORMED, Level.ERROR) == (finding.code, finding.level)
    assert problem in finding.facts["problem"]


def test_an_exclusivity_for_another_market_than_its_offer_holds_nothing() -> None:
    held = exclusivity(scope="market", market_id=OTHER_MARKET)
    rows = found(offer(market_id=MARKET), candidate(1), held)
    assert [(Code.ROW_MALFORMED, Level.WARNING)] == codes(rows)


def test_rows_that_name_what_does_not_exist_are_orphaned() -> None:
    lost = [
        ("buyer_offers", make_enrollment(buyer_id=TWO)),
        ("buyer_service_areas", make_area(id=uid(0x5, 2), buyer_id=THREE)),
        *exclusivity(offer_id=OTHER_OFFER),
    ]
    assert [(Code.ROW_ORPHANED, Level.WARNING)] * 3 == codes(found(candidate(1), lost))


def test_numbers_that_cannot_be_used_are_errors() -> None:
    wrong = found(candidate(1), candidate(2, hourly_cap=-1, weight=None, buyer_daily_cap=-2))
    fields = {
        (finding.rows[0].table, finding.facts["field"]) for finding in wrong if finding.code is Code.VALUE_UNUSABLE
    }
    assert {("buyers", "daily_cap"), ("buyer_offers", "hourly_cap"), ("buyer_offers", "weight")} == fields


# policies


def test_an_invalid_policy_that_leads_reach_is_an_error() -> None:
    finding = only(found(candidate(1), policy(2, offer_id=OFFER, rules={})), Code.POLICY_INVALID, Level.ERROR)
    assert "strategy" in finding.facts["problem"]


def test_an_invalid_policy_that_no_lead_reaches_is_a_warning() -> None:
    only(found(candidate(1), policy(2, rules={}, version=0)), Code.POLICY_INVALID, Level.WARNING)


def test_an_older_version_is_shadowed_as_intended() -> None:
    finding = only(found(candidate(1), policy(2, version=2)), Code.POLICY_SHADOWED, Level.NOTICE)
    assert (POLICY, uid(0xC, 2)) == (finding.rows[0].ids["id"], finding.facts["by"])


def test_the_same_version_twice_is_decided_by_id_alone() -> None:
    finding = only(found(candidate(1), policy(2)), Code.POLICY_SHADOWED, Level.WARNING)
    assert uid(0xC, 2) == finding.rows[0].ids["id"]


@pytest.mark.parametrize(
    "over",
    [
        {"offer_id": OTHER_OFFER},
        {"vertical_id": OTHER_VERTICAL},
        {"offer_id": OFFER, "vertical_id": OTHER_VERTICAL},
    ],
)
def test_a_policy_that_no_offer_matches(over: dict[str, Any]) -> None:
    assert [(Code.POLICY_MATCHES_NO_OFFER, Level.WARNING)] == codes(found(candidate(1), policy(2, **over)))


def test_a_policy_of_a_market_that_its_offer_is_not_for() -> None:
    elsewhere = policy(2, offer_id=OFFER, market_id=OTHER_MARKET)
    only(found(offer(market_id=MARKET), candidate(1), elsewhere), Code.POLICY_MATCHES_NO_OFFER, Level.WARNING)


def test_a_policy_of_an_inactive_offer_is_nothing_to_report() -> None:
    resting = offer(id=OTHER_OFFER, is_active=False)
    assert found(resting, candidate(1), policy(2, offer_id=OTHER_OFFER)) == []


def test_a_policy_whose_leads_all_go_to_more_specific_ones_is_never_reached() -> None:
    every = found(candidate(1), policy(2, offer_id=OFFER), policy(3, vertical_id=VERTICAL))
    assert {POLICY, uid(0xC, 3)} == {
        finding.rows[0].ids["id"] for finding in every if finding.code is Code.POLICY_NEVER_REACHED
    }


# offers


def test_an_offer_that_no_policy_is_meant_for_is_an_error() -> None:
    rows = [*offer(id=OTHER_OFFER, vertical_id=OTHER_VERTICAL), ("buyer_offers", make_enrollment(offer_id=OTHER_OFFER))]
    narrow = [("routing_policies", make_policy(vertical_id=VERTICAL))]
    finding = only(found(candidate(1), rows, narrow), Code.OFFER_WITHOUT_POLICY, Level.ERROR)
    assert (OTHER_OFFER, [MARKET]) == (finding.rows[0].ids["id"], finding.facts["markets"])


def test_an_offer_that_nobody_can_serve_is_an_error() -> None:
    assert [(Code.OFFER_WITHOUT_BUYERS, Level.ERROR)] == codes(found())
    assert [(Code.OFFER_WITHOUT_BUYERS, Level.ERROR)] == codes(
        found(candidate(1, is_active=False, area={"is_active": False}))
    )


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"status": "paused"}, "buyer_paused"),
        ({"funded": False}, "below_min_balance"),
        ({"daily_cap": 0}, "daily_cap_reached"),
        ({"acceptance_hours": CLOSED}, "outside_acceptance_hours"),
    ],
)
def test_nobody_ever_takes_the_leads_of_an_offer_in_a_market(over: dict[str, Any], reason: str) -> None:
    finding = only(found(candidate(1, **over)), Code.NOBODY_EVER, Level.ERROR)
    assert ([reason], MARKET) == (finding.facts["reasons"], finding.facts["market_id"])


def test_hours_without_a_buyer_come_with_a_table_in_the_most_common_zone() -> None:
    office = hours(["09:00", "17:00"], days=("mon", "tue"))
    rows = [candidate(number, acceptance_hours=office, timezone="America/Chicago") for number in (1, 2)]
    finding = only(
        found(*rows, candidate(3, acceptance_hours=office, timezone="America/New_York")),
        Code.NOBODY_AT_SOME_HOURS,
        Level.WARNING,
    )
    facts = finding.facts
    assert ("America/Chicago", 3, 168 - 18) == (facts["timezone"], facts["buyers"], facts["hours_without_buyer"])
    assert [0] * 8 + [1] + [3] * 7 + [2] + [0] * 7 == facts["buyers_open"]["mon"]
    assert [0] * 24 == facts["buyers_open"]["sun"]


def test_half_an_hour_without_anyone_counts_for_the_whole_hour() -> None:
    lunch = hours(["00:00", "12:00"], ["12:30", "24:00"])
    facts = only(found(candidate(1, acceptance_hours=lunch)), Code.NOBODY_AT_SOME_HOURS, Level.WARNING).facts
    assert (7, 0, 1) == (facts["hours_without_buyer"], facts["buyers_open"]["wed"][12], facts["buyers_open"]["wed"][13])


def test_hours_that_follow_each_other_leave_no_gap() -> None:
    day, night = hours(["08:00", "20:00"]), hours(["20:00", "08:00"])
    assert found(candidate(1, acceptance_hours=day), candidate(2, acceptance_hours=night)) == []


def test_hours_do_not_matter_where_no_policy_enforces_them() -> None:
    office = hours(["09:00", "17:00"])
    assert found(candidate(1, acceptance_hours=office), rules={"constraints": []}) == []


def test_under_an_exclusivity_of_the_market_only_the_holders_hours_count() -> None:
    office = hours(["09:00", "17:00"])
    held = exclusivity(scope="market", market_id=MARKET)
    rows = [candidate(1, acceptance_hours=office), candidate(2)]
    assert 1 == only(found(*rows, held), Code.NOBODY_AT_SOME_HOURS, Level.WARNING).facts["buyers"]
    assert found(*rows, held, rules=FALLBACK) == []


# exclusivities


@pytest.mark.parametrize(
    ("over", "reason"),
    [
        ({"status": "paused"}, "buyer_paused"),
        ({"is_active": False}, "enrollment_inactive"),
        ({"hourly_cap": 0}, "hourly_cap_reached"),
        ({"buyer_daily_cap": 0}, "daily_cap_reached"),
        ({"acceptance_hours": CLOSED}, "outside_acceptance_hours"),
        ({"area": {"market_id": OTHER_MARKET}}, "not_in_service_area"),
        ({"area": {"scope": "postal_code", "value": "60602"}}, "not_in_service_area"),
    ],
)
def test_an_exclusivity_whose_holder_can_take_nothing_is_dead(over: dict[str, Any], reason: str) -> None:
    held = exclusivity(scope="postal_code", market_id=MARKET, value="60614")
    finding = only(found(candidate(1, **over), candidate(2), held), Code.EXCLUSIVITY_DEAD, Level.ERROR)
    assert ([reason], "fail_closed") == (finding.facts["reasons"], finding.facts["when_ineligible"])
    only(found(candidate(1, **over), candidate(2), held, rules=FALLBACK), Code.EXCLUSIVITY_DEAD, Level.WARNING)


def test_a_holder_that_is_not_enrolled_makes_a_dead_exclusivity() -> None:
    stranger = [("buyers", make_buyer(id=TWO)), ("buyer_service_areas", make_area(id=uid(0x5, 2), buyer_id=TWO))]
    finding = only(found(candidate(1), stranger, exclusivity(buyer_id=TWO)), Code.EXCLUSIVITY_DEAD, Level.ERROR)
    assert ["not_enrolled"] == finding.facts["reasons"]


def test_a_dead_exclusivity_that_is_not_due_yet_is_a_warning() -> None:
    held = exclusivity(valid_from=NOON + 1)
    only(found(candidate(1, status="paused"), candidate(2), held), Code.EXCLUSIVITY_DEAD, Level.WARNING)


def test_an_expired_exclusivity_is_nothing_to_report() -> None:
    assert found(candidate(1), candidate(2), exclusivity(buyer_id=THREE, valid_to=NOON)) == []


def test_a_holder_that_covers_a_part_of_its_territory_makes_a_partly_dead_one() -> None:
    elsewhere = candidate(2, area={"market_id": OTHER_MARKET})
    finding = only(found(candidate(1), elsewhere, exclusivity()), Code.EXCLUSIVITY_PARTLY_DEAD, Level.WARNING)
    assert [OTHER_MARKET] == finding.facts["markets"]
    in_one_city = candidate(1, area={"scope": "city", "value": "Chicago"})
    held = exclusivity(scope="market", market_id=MARKET)
    only(found(in_one_city, candidate(2), held), Code.EXCLUSIVITY_PARTLY_DEAD, Level.WARNING)


def test_two_holders_of_one_place_overlap_however_it_is_written() -> None:
    one = exclusivity(scope="city", market_id=MARKET, value="STRASSE")
    two = exclusivity(id=uid(0xD, 2), scope="city", market_id=MARKET, value="straße", buyer_id=TWO)
    rows = [candidate(1), candidate(2)]
    finding = only(found(*rows, one, two), Code.EXCLUSIVITY_OVERLAPS, Level.ERROR)
    assert (uid(0xD, 1), [ONE, TWO]) == (finding.facts["counts"], finding.facts["holders"])
    twice = exclusivity(id=uid(0xD, 2), scope="city", market_id=MARKET, value="straße")
    only(found(*rows, one, twice), Code.EXCLUSIVITY_OVERLAPS, Level.NOTICE)


def test_rows_that_follow_each_other_do_not_overlap() -> None:
    later = NOON + 60 * DAY_MICROS
    one, two = exclusivity(valid_to=later), exclusivity(id=uid(0xD, 2), buyer_id=TWO, valid_from=later)
    assert found(candidate(1), candidate(2), one, two) == []


def test_a_narrower_row_of_another_holder_shadows_a_wider_one() -> None:
    wide = exclusivity()
    narrow = exclusivity(id=uid(0xD, 2), buyer_id=TWO, scope="market", market_id=MARKET)
    rows = [candidate(1), candidate(2)]
    finding = only(found(*rows, wide, narrow), Code.EXCLUSIVITY_SHADOWED, Level.NOTICE)
    assert (uid(0xD, 1), [uid(0xD, 2)]) == (finding.rows[0].ids["id"], finding.facts["by"])
    finding = only(found(offer(market_id=MARKET), *rows, wide, narrow), Code.EXCLUSIVITY_SHADOWED, Level.WARNING)
    assert finding.facts["never_counts"]


def test_an_exclusivity_that_ends_soon_is_reported_with_the_gap() -> None:
    ends, begins = NOON + 10 * DAY_MICROS, NOON + 12 * DAY_MICROS
    row = exclusivity(valid_to=ends)
    only(found(candidate(1), row), Code.EXCLUSIVITY_EXPIRES, Level.NOTICE)
    late = exclusivity(id=uid(0xD, 2), valid_from=begins)
    finding = only(found(candidate(1), row, late), Code.EXCLUSIVITY_EXPIRES, Level.WARNING)
    assert "2026-06-22T12:00:00Z" == plain(finding.facts["next_begins"])
    assert found(candidate(1), row, exclusivity(id=uid(0xD, 2), valid_from=ends)) == []


# buyers


def test_a_time_zone_that_is_needed_and_cannot_be_read_is_an_error() -> None:
    rows = [candidate(1), candidate(2, timezone="america/chicago", daily_cap=5)]
    finding = only(found(*rows), Code.TIMEZONE_UNREADABLE, Level.ERROR)
    assert (TWO, "america/chicago") == (finding.rows[0].ids["id"], finding.facts["timezone"])
    only(found(candidate(1), candidate(2, timezone=None)), Code.TIMEZONE_UNREADABLE, Level.WARNING)
    office = hours(["09:00", "17:00"])
    only(
        found(candidate(1), candidate(2, timezone=None, acceptance_hours=office)), Code.TIMEZONE_UNREADABLE, Level.ERROR
    )


def test_a_status_that_nobody_knows_is_reported() -> None:
    assert (
        "Active"
        == only(found(candidate(1), candidate(2, status="Active")), Code.STATUS_UNKNOWN, Level.WARNING).facts["status"]
    )


def test_hours_that_cannot_be_read_are_an_error() -> None:
    finding = only(found(candidate(1), candidate(2, acceptance_hours=UNREADABLE)), Code.HOURS_UNREADABLE, Level.ERROR)
    assert "weekly.mon" in finding.facts["problem"]


def test_hours_that_never_open_are_reported() -> None:
    only(found(candidate(1), candidate(2, acceptance_hours=CLOSED)), Code.HOURS_NEVER_OPEN, Level.WARNING)
    on_a_date = json.dumps({"weekly": {}, "dates": {"2026-12-01": [["09:00", "17:00"]]}})
    assert found(candidate(1), candidate(2, acceptance_hours=on_a_date)) == []


def test_a_day_that_ends_at_23_59_loses_a_minute() -> None:
    nearly = hours(["00:00", "23:59"], days=("mon", "tue"))
    finding = only(found(candidate(1), candidate(2, acceptance_hours=nearly)), Code.HOURS_LOSE_A_MINUTE, Level.WARNING)
    assert ["mon", "tue"] == finding.facts["weekdays"]


def test_hours_over_midnight_for_most_of_a_day_are_hardly_meant() -> None:
    typo = hours(["09:00", "05:00"], days=("mon",))
    finding = only(found(candidate(1), candidate(2, acceptance_hours=typo)), Code.HOURS_LONG_NIGHT, Level.WARNING)
    assert ("mon", "09:00", "05:00", 20) == tuple(finding.facts[fact] for fact in ("weekday", "start", "end", "hours"))


def test_hours_that_are_open_all_week_are_noticed() -> None:
    assert [(Code.HOURS_AROUND_THE_CLOCK, Level.NOTICE)] == codes(
        found(candidate(1, acceptance_hours=hours(["00:00", "24:00"])))
    )


@pytest.mark.parametrize(
    ("zone", "interval", "level", "date", "minutes"),
    [
        ("America/Chicago", ["22:00", "06:00"], Level.NOTICE, "2027-03-14", 60),
        ("America/Chicago", ["02:00", "03:00"], Level.WARNING, "2027-03-14", 60),
        ("Australia/Lord_Howe", ["01:00", "05:00"], Level.NOTICE, "2026-10-04", 30),
    ],
)
def test_hours_that_shrink_at_the_next_jump_of_the_clock(
    zone: str, interval: list[str], level: Level, date: str, minutes: int
) -> None:
    night = candidate(2, acceptance_hours=hours(interval), timezone=zone)
    finding = only(found(candidate(1), night), Code.HOURS_SHRINK_AT_DST, level)
    assert (date, minutes, zone) == (finding.facts["date"], finding.facts["minutes"], finding.facts["timezone"])


def test_hours_in_the_daytime_or_in_a_zone_without_jumps_do_not_shrink() -> None:
    day = candidate(2, acceptance_hours=hours(["09:00", "17:00"]), timezone="America/Chicago")
    night = candidate(3, acceptance_hours=hours(["22:00", "06:00"]), timezone="America/Phoenix")
    assert found(candidate(1), day, night) == []


# caps, weights, priorities


def test_a_cap_of_zero_is_never_and_null_is_unlimited() -> None:
    rows = found(candidate(1), candidate(2, hourly_cap=0, buyer_daily_cap=0))
    assert {("buyer_offers", "hourly_cap"), ("buyers", "daily_cap")} == {
        (finding.rows[0].table, finding.facts["field"]) for finding in rows if finding.code is Code.CAP_ZERO
    }


def test_a_cap_an_hour_above_the_cap_a_day_has_no_effect() -> None:
    assert [(Code.CAP_WITHOUT_EFFECT, Level.NOTICE)] == codes(found(candidate(1, hourly_cap=9, daily_cap=5)))


def test_a_weight_of_zero_matters_under_weighted_only() -> None:
    rows = [candidate(1), candidate(2, weight=0)]
    finding = only(found(*rows, rules=WEIGHTED), Code.WEIGHT_ZERO, Level.WARNING)
    assert {"buyer_id": TWO, "offer_id": OFFER} == finding.rows[0].ids
    assert found(*rows) == []


def test_a_rank_behind_an_uncapped_buyer_that_never_closes_gets_no_turn() -> None:
    finding = only(found(candidate(1), candidate(2, priority_rank=200)), Code.PRIORITY_NEVER_REACHED, Level.WARNING)
    assert (TWO, [ONE]) == (finding.rows[0].ids["buyer_id"], finding.facts["behind"])


@pytest.mark.parametrize(
    ("first", "second", "rules"),
    [
        ({"daily_cap": 50}, {}, {}),
        ({"buyer_hourly_cap": 50}, {}, {}),
        ({"acceptance_hours": hours(["00:00", "24:00"], dates={"2026-12-25": []})}, {}, {}),
        ({"area": {"scope": "postal_code", "value": "60614"}}, {}, {}),
        ({}, {"priority_rank": 100}, {}),
        ({}, {}, WEIGHTED),
        ({}, {"sla_response_seconds": 60}, {"sla": {"mode": "prefer", "max_response_seconds": 300}}),
    ],
)
def test_a_rank_that_can_be_reached_is_nothing_to_report(
    first: dict[str, Any], second: dict[str, Any], rules: dict[str, Any]
) -> None:
    rows = found(candidate(1, **first), candidate(2, **{"priority_rank": 200, **second}), rules=rules)
    behind = [finding.rows[0].ids["buyer_id"] for finding in rows if finding.code is Code.PRIORITY_NEVER_REACHED]
    assert TWO not in behind


def test_a_holder_of_an_exclusivity_gets_its_turn_whatever_its_rank() -> None:
    held = exclusivity(buyer_id=TWO, scope="postal_code", market_id=MARKET, value="60614")
    assert found(candidate(1), candidate(2, priority_rank=200), held) == []


def test_several_buyers_together_can_stand_before_one_everywhere() -> None:
    codes_of = ("60614", "60615")
    firsts = [candidate(number, area={"scope": "postal_code", "value": codes_of[number - 1]}) for number in (1, 2)]
    areas = [
        ("buyer_service_areas", make_area(id=uid(0x5, 10 + number), buyer_id=THREE, scope="postal_code", value=value))
        for number, value in enumerate(codes_of)
    ]
    last = [
        ("buyers", make_buyer(id=THREE)),
        ("buyer_offers", make_enrollment(buyer_id=THREE, priority_rank=300)),
        *areas,
    ]
    finding = only(found(*firsts, last), Code.PRIORITY_NEVER_REACHED, Level.WARNING)
    assert [ONE, TWO] == finding.facts["behind"]


# enrollments and areas


def test_an_enrollment_without_an_area_where_the_offer_is_for() -> None:
    nowhere = candidate(2, area={"is_active": False})
    only(found(candidate(1), nowhere), Code.ENROLLMENT_WITHOUT_AREA, Level.WARNING)
    elsewhere = candidate(2, area={"market_id": OTHER_MARKET})
    only(found(offer(market_id=MARKET), candidate(1), elsewhere), Code.ENROLLMENT_WITHOUT_AREA, Level.WARNING)


def test_areas_of_a_buyer_without_an_offer_are_noticed() -> None:
    assert [(Code.AREA_WITHOUT_ENROLLMENT, Level.NOTICE)] == codes(found(candidate(1), candidate(2, is_active=False)))


def test_facts_name_a_few_of_many_rows_and_count_them_all() -> None:
    narrow = [
        row
        for number in range(2, 14)
        for row in exclusivity(
            id=uid(0xD, number), buyer_id=TWO, scope="postal_code", market_id=MARKET, value=f"{number}"
        )
    ]
    facts = only(
        found(candidate(1), candidate(2), exclusivity(), narrow), Code.EXCLUSIVITY_SHADOWED, Level.NOTICE
    ).facts
    assert (10, 12) == (len(facts["by"]), facts["by_in_all"])


# what is said holds when leads come


def test_what_is_found_to_be_impossible_never_happens() -> None:
    built = build(seed=11, buyers=300, areas=3_000, exclusivities=120)
    configuration = Configuration(1, TOKEN, NOON)
    for table, image in images_of(built):
        configuration.add(table, image)
    every = findings(configuration)
    impossible = {(finding.code, *finding.rows[0].ids.values()) for finding in every}
    barren = {
        (finding.rows[0].ids["id"], finding.facts["market_id"]) for finding in every if finding.code is Code.NOBODY_EVER
    }
    leads = [Lead(*new) for new in new_leads(built, 1_500, seed=3)]
    routed = 0
    for number, lead in enumerate(leads):
        moment = NOON + number % 168 * 3_600_000_000
        decision = decide(lead, configuration.indexes, State(), moment)
        held = holding(configuration.indexes.exclusivities(lead), moment)
        if decision.winner is None:
            continue
        routed += 1
        assert (lead.offer_id, lead.market_id) not in barren
        assert (Code.PRIORITY_NEVER_REACHED, decision.winner.buyer_id, lead.offer_id) not in impossible
        assert (Code.OFFER_WITHOUT_BUYERS, lead.offer_id) not in impossible
        assert (Code.OFFER_WITHOUT_POLICY, lead.offer_id) not in impossible
        if held is not None and (Code.EXCLUSIVITY_DEAD, held.exclusivity.id) in impossible:
            assert decision.winner.buyer_id != held.exclusivity.buyer_id
        assert decision.policy is not None
        assert (Code.POLICY_NEVER_REACHED, decision.policy.id) not in impossible
        assert (Code.POLICY_SHADOWED, decision.policy.id) not in impossible
    assert routed > 300
    assert barren
    assert {Code.PRIORITY_NEVER_REACHED, Code.EXCLUSIVITY_DEAD, Code.POLICY_SHADOWED} <= {
        code for code, *_ in impossible
    }


# who owns


def owns(*rows: Rows, rules: dict[str, Any] | None = None, **lead: Any) -> Ownership:
    state = make_state({(ONE, OFFER, "day"): 5})
    indexes = make_world(*rows, rules=make_rules(**(rules or {})))
    return ownership(indexes, state, make_lead(id=LEAD, **lead), NOON)


def test_who_owns_says_which_exclusivity_counts_and_what_becomes_of_the_others() -> None:
    answer = owns(
        candidate(1),
        candidate(2),
        exclusivity(),
        exclusivity(id=uid(0xD, 2), buyer_id=TWO, scope="postal_code", market_id=MARKET, value="60601"),
        exclusivity(id=uid(0xD, 3), scope="postal_code", market_id=MARKET, value="6 0601"),
        exclusivity(id=uid(0xD, 4), scope="city", market_id=MARKET, value="chicago", valid_from=NOON + 1),
        exclusivity(id=uid(0xD, 5), scope="market", market_id=MARKET, valid_to=NOON),
    )
    assert [Role.COUNTS, Role.SET_ASIDE, Role.NOT_YET, Role.EXPIRED, Role.SHADOWED] == [
        link.role for link in answer.chain
    ]
    assert (TWO, (), "routed") == (answer.holder, answer.holder_reasons, answer.outcome)
    assert ["held_by_exclusive_buyer"] == [reason.code for reason in answer.excluded[0].reasons]


def test_who_owns_says_why_a_holder_gets_nothing() -> None:
    held = exclusivity(scope="market", market_id=MARKET)
    answer = owns(candidate(1, daily_cap=5), candidate(2), held)
    assert (ONE, "no_route_exclusive_fail_closed") == (answer.holder, answer.outcome)
    assert ["daily_cap_reached"] == [reason.code for reason in answer.holder_reasons]
    answer = owns(candidate(1, daily_cap=5), candidate(2), held, rules=FALLBACK)
    assert ("routed", [TWO], "fallback_allowed") == (
        answer.outcome,
        [ranked.buyer_id for ranked in answer.eligible],
        answer.when_ineligible,
    )


def test_who_owns_says_where_the_order_is_each_leads_own() -> None:
    assert owns(candidate(1), candidate(2), rules=WEIGHTED).order_depends_on_lead
    assert not owns(candidate(1), candidate(2)).order_depends_on_lead
    assert owns(candidate(1), candidate(2)).holder is None

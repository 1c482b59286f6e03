"""Who may have a lead, and every reason why not."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from pointsman.engine.capacity import State, caps
from pointsman.engine.configuration import Buyer, Enrollment
from pointsman.engine.eligibility import is_prompt, reasons
from pointsman.engine.search import Search
from pointsman.model import ReasonCode

from .worlds import (
    CLOSED,
    DAY_START,
    HOUR_START,
    NOON,
    OFFER,
    ONE,
    UNREADABLE,
    candidate,
    codes,
    explained,
    facts,
    make_buyer,
    make_enrollment,
    make_lead,
    make_rules,
    make_state,
    make_world,
    read,
    winner,
)

WEIGHTED = make_rules(strategy={"kind": "weighted"})
ROTATION = make_rules(strategy={"kind": "rotation"})
UNCONSTRAINED = make_rules(constraints=[])


def require(seconds, **over):
    return make_rules(sla={"mode": "require", "max_response_seconds": seconds}, **over)


def prefer(seconds):
    return make_rules(sla={"mode": "prefer", "max_response_seconds": seconds})


def tied_by(name, kind="rotation"):
    return make_rules(strategy={"kind": kind}, tie_breakers=[name, "buyer_id"])


def why(rules=None, state=None, *, area=None, **over):
    """The reasons of one buyer as codes and facts."""
    world = make_world(candidate(1, area=area, **over), rules=rules or make_rules())
    standing = explained(world, state)
    return list(zip(codes(standing), facts(standing), strict=True))


def invalid(*fields):
    return [("invalid_configuration", {"field": field}) for field in fields]


def test_a_buyer_that_nothing_forbids_is_eligible():
    assert winner(make_world(candidate(1))) == ONE


# where it stands


def test_an_inactive_enrollment_is_not_examined_further():
    assert why(is_active=False, status="paused", funded=False, area={"is_active": False}) == [
        ("enrollment_inactive", {})
    ]


def test_a_buyer_elsewhere_is_not_examined_further():
    assert why(status="paused", funded=False, area={"is_active": False}) == [("not_in_service_area", {})]


def test_all_failing_checks_are_found_in_order():
    state = make_state({(ONE, where, kind): 9 for where in (OFFER, None) for kind in ("hour", "day")})
    found = why(
        require(5, strategy={"kind": "weighted"}, tie_breakers=["priority_rank", "buyer_id"]),
        state,
        status="paused",
        acceptance_hours=CLOSED,
        hourly_cap=1,
        daily_cap=2,
        buyer_hourly_cap=3,
        buyer_daily_cap=4,
        funded=False,
        sla_response_seconds=6,
        weight=0,
        priority_rank=None,
    )
    assert [code for code, _ in found] == [
        "invalid_configuration",
        "buyer_paused",
        "outside_acceptance_hours",
        "hourly_cap_reached",
        "hourly_cap_reached",
        "daily_cap_reached",
        "daily_cap_reached",
        "below_min_balance",
        "sla_too_slow",
        "zero_weight",
    ]


def test_reason_codes_are_declared_in_the_order_of_the_contract():
    assert [code.value for code in ReasonCode] == [
        "enrollment_inactive",
        "geo_missing",
        "not_in_service_area",
        "invalid_configuration",
        "buyer_paused",
        "outside_acceptance_hours",
        "hourly_cap_reached",
        "daily_cap_reached",
        "below_min_balance",
        "sla_too_slow",
        "zero_weight",
        "not_enrolled",
        "held_by_exclusive_buyer",
    ]


# buyer_active


@pytest.mark.parametrize("status", ["paused", "Active", "ACTIVE", "", " active", None, "deleted"])
def test_any_status_but_active_is_paused(status):
    assert why(status=status) == [("buyer_paused", {})]


def test_a_paused_buyer_is_eligible_where_the_policy_does_not_ask():
    assert why(make_rules(constraints=["acceptance_hours"]), status="paused") == []


# acceptance_hours


def test_a_buyer_outside_its_hours_says_when_it_opens():
    hours = json.dumps({"timezone": "America/New_York", "weekly": {"thu": [["09:00", "17:00"]]}})
    assert why(acceptance_hours=hours) == [
        (
            "outside_acceptance_hours",
            {
                "timezone": "America/New_York",
                "local_time": "2026-06-10T08:00:00",
                "next_opening": datetime(2026, 6, 11, 13, tzinfo=UTC),
            },
        )
    ]


def test_hours_without_a_zone_are_the_buyers():
    hours = json.dumps({"weekly": {"wed": [["14:00", "15:00"]]}})
    assert why(acceptance_hours=hours, timezone="Europe/Berlin") == []


def test_a_buyer_that_never_opens_has_no_next_opening():
    assert why(acceptance_hours=CLOSED) == [
        ("outside_acceptance_hours", {"timezone": "UTC", "local_time": "2026-06-10T12:00:00", "next_opening": None})
    ]


@pytest.mark.parametrize("hours", [None, "null", " null "])
def test_null_hours_are_always_open(hours):
    assert why(acceptance_hours=hours, timezone="nowhere") == []


@pytest.mark.parametrize("hours", [CLOSED, UNREADABLE, "{"])
def test_hours_do_not_matter_where_the_policy_does_not_ask(hours):
    assert why(make_rules(constraints=["buyer_active"]), acceptance_hours=hours, timezone=None) == []


# invalid configuration


@pytest.mark.parametrize(
    "hours",
    [
        UNREADABLE,
        "",
        "{",
        "[]",
        "1",
        "{}",
        '{"weekly": {}, "open": true}',
        '{"weekly": {}, "timezone": "Mars/Olympus"}',
        '{"weekly": {}, "timezone": null}',
        '{"weekly": {"mon": [["09:00", "09:00"]]}}',
        "[" * 100_000,
        '{"weekly": {}, "x": ' + "1" * 5000 + "}",
    ],
)
def test_hours_that_cannot_be_read_are_invalid_configuration(hours):
    assert invalid("acceptance_hours") == why(acceptance_hours=hours)


@pytest.mark.parametrize("name", [None, "", "Mars/Olympus", "america/chicago", "../UTC"])
def test_a_zone_that_the_hours_need_and_that_cannot_be_read_is_invalid_configuration(name):
    assert invalid("timezone") == why(acceptance_hours=CLOSED, timezone=name)


def test_a_zone_that_nothing_needs_is_not_looked_at():
    assert why(timezone=None) == []


def test_hours_with_a_zone_of_their_own_do_not_need_the_buyers():
    hours = json.dumps({"timezone": "UTC", "weekly": {"wed": [["00:00", "24:00"]]}})
    assert why(acceptance_hours=hours, timezone=None) == []


@pytest.mark.parametrize("cap", ["hourly_cap", "daily_cap", "buyer_hourly_cap", "buyer_daily_cap"])
@pytest.mark.parametrize("limit", [0, 5])
def test_a_cap_whose_window_cannot_be_known_gives_that_reason_alone(cap, limit):
    assert invalid("timezone") == why(UNCONSTRAINED, timezone="nowhere", **{cap: limit})


def test_a_zone_that_hours_and_caps_need_is_told_once():
    assert invalid("timezone") == why(acceptance_hours=CLOSED, timezone=None, hourly_cap=1)


def test_bad_hours_go_before_a_bad_zone():
    assert invalid("acceptance_hours", "timezone") == why(acceptance_hours=UNREADABLE, timezone=None, daily_cap=1)


@pytest.mark.parametrize("kind", ["hourly_cap", "daily_cap"])
def test_a_negative_cap_binds_whatever_the_policy_asks(kind):
    assert invalid(kind) == why(UNCONSTRAINED, **{kind: -1})


@pytest.mark.parametrize("kind", ["hourly_cap", "daily_cap"])
def test_a_negative_cap_of_the_buyer_is_the_same_field(kind):
    assert invalid(kind) == why(**{kind: -1, f"buyer_{kind}": -1})


@pytest.mark.parametrize("rank", [None, -1])
@pytest.mark.parametrize("rules", [make_rules(), tied_by("priority_rank"), tied_by("priority_rank", "weighted")])
def test_a_bad_priority_rank_is_invalid_where_the_policy_orders_by_it(rank, rules):
    assert invalid("priority_rank") == why(rules, priority_rank=rank)


@pytest.mark.parametrize("rank", [None, -1])
def test_a_bad_priority_rank_does_not_matter_elsewhere(rank):
    assert why(ROTATION, priority_rank=rank) == []


def test_a_priority_rank_of_zero_is_good():
    assert why(priority_rank=0) == []


@pytest.mark.parametrize("weight", [None, -1])
@pytest.mark.parametrize("rules", [WEIGHTED, tied_by("weight")])
def test_a_bad_weight_is_invalid_where_the_policy_orders_by_it(weight, rules):
    assert invalid("weight") == why(rules, weight=weight)


@pytest.mark.parametrize("weight", [None, -1, 0])
def test_a_bad_weight_does_not_matter_elsewhere(weight):
    assert why(ROTATION, weight=weight) == []


@pytest.mark.parametrize("rules", [require(5), prefer(5), tied_by("sla_response_seconds")])
def test_a_negative_response_time_is_invalid_where_the_policy_asks_for_it(rules):
    assert invalid("sla_response_seconds") == why(rules, sla_response_seconds=-1)


@pytest.mark.parametrize("rules", [ROTATION, make_rules(sla={"mode": "off", "max_response_seconds": 1})])
def test_a_negative_response_time_does_not_matter_elsewhere(rules):
    assert why(rules, sla_response_seconds=-1) == []


def test_all_bad_fields_are_told_in_order():
    rules = require(5, strategy={"kind": "weighted"}, tie_breakers=["priority_rank", "buyer_id"])
    assert invalid(
        "acceptance_hours",
        "timezone",
        "hourly_cap",
        "daily_cap",
        "priority_rank",
        "weight",
        "sla_response_seconds",
    ) == why(
        rules,
        acceptance_hours=UNREADABLE,
        timezone=None,
        hourly_cap=-1,
        buyer_daily_cap=-1,
        daily_cap=1,
        priority_rank=-1,
        weight=-1,
        sla_response_seconds=-1,
    )


@pytest.mark.parametrize("over", [{}, {"is_active": False}, {"hourly_cap": -1}, {"weight": None}])
@pytest.mark.parametrize("covers", [True, False])
def test_an_enrollment_without_a_buyer_has_no_other_reason(over, covers):
    _, enrollment, area = candidate(1, area={"is_active": covers}, **over)
    assert [
        (reason.code, reason.facts)
        for excluded in explained(make_world([enrollment, area], rules=WEIGHTED)).excluded
        for reason in excluded.reasons
    ] == [("invalid_configuration", {"field": "buyer"})]


def test_an_enrollment_without_a_buyer_has_no_caps():
    assert list(caps(Enrollment(make_enrollment(hourly_cap=1), None, 1), NOON)) == []


# caps


@pytest.mark.parametrize(
    ("cap", "level", "offer", "kind", "code"),
    [
        ("hourly_cap", "enrollment", OFFER, "hour", "hourly_cap_reached"),
        ("buyer_hourly_cap", "buyer", None, "hour", "hourly_cap_reached"),
        ("daily_cap", "enrollment", OFFER, "day", "daily_cap_reached"),
        ("buyer_daily_cap", "buyer", None, "day", "daily_cap_reached"),
    ],
)
@pytest.mark.parametrize("used", [3, 4])
def test_a_full_cap_tells_level_usage_and_window(cap, level, offer, kind, code, used):
    start, hours = (HOUR_START, 1) if kind == "hour" else (DAY_START, 24)
    assert why(UNCONSTRAINED, make_state({(ONE, offer, kind): used}), **{cap: 3}) == [
        (
            code,
            {
                "level": level,
                "used": used,
                "cap": 3,
                "window_start": datetime.fromtimestamp(start / 1e6, UTC),
                "window_end": datetime.fromtimestamp(start / 1e6 + hours * 3600, UTC),
            },
        )
    ]


@pytest.mark.parametrize("cap", ["hourly_cap", "daily_cap", "buyer_hourly_cap", "buyer_daily_cap"])
def test_a_cap_of_zero_is_never(cap):
    assert why(**{cap: 0})[0][1] | {"used": 0, "cap": 0} == why(**{cap: 0})[0][1]


# balance


def test_a_buyer_below_its_minimum_balance_is_told_only_that():
    assert why(UNCONSTRAINED, funded=False) == [("below_min_balance", {})]


# response time


@pytest.mark.parametrize("seconds", [0, 299, 300])
def test_a_response_time_within_the_limit_is_prompt(seconds):
    assert why(require(300), sla_response_seconds=seconds) == []


@pytest.mark.parametrize("seconds", [301, None])
def test_a_response_time_beyond_the_limit_or_unknown_is_too_slow(seconds):
    assert why(require(300), sla_response_seconds=seconds) == [
        ("sla_too_slow", {"sla_response_seconds": seconds, "max_response_seconds": 300})
    ]


@pytest.mark.parametrize("rules", [prefer(300), make_rules(sla={"mode": "off", "max_response_seconds": 300})])
def test_nobody_is_too_slow_unless_the_policy_requires(rules):
    assert why(rules, sla_response_seconds=301) == []


def test_no_buyer_is_not_prompt():
    assert not is_prompt(Enrollment(make_enrollment(), None, 1), read())


# weight


def test_a_weight_of_zero_is_never_chosen_under_weighted():
    assert why(WEIGHTED, weight=0) == [("zero_weight", {})]


@pytest.mark.parametrize("kind", ["priority", "rotation"])
def test_a_weight_of_zero_is_a_weight_elsewhere(kind):
    assert why(tied_by("weight", kind), weight=0) == []


# what a search makes of it


def searched(enrollment: Enrollment, state: State) -> tuple[Enrollment | None, list[Enrollment]]:
    search = Search(read(), make_lead(), state, NOON)
    return search.first([enrollment]), [full.enrollment for full in search.full]


def test_whom_a_search_passes_over_has_reasons_and_nobody_else_has():
    enrollment = Enrollment(make_enrollment(hourly_cap=1), Buyer(make_buyer(), 1), 1)
    free, used_up = make_state(), make_state({(ONE, OFFER, "hour"): 1})
    assert (searched(enrollment, free), reasons(enrollment, read(), free, NOON)) == ((enrollment, []), ())
    assert searched(enrollment, used_up) == (None, [enrollment])
    assert reasons(enrollment, read(), used_up, NOON) != ()


def test_a_buyer_that_more_than_its_caps_forbids_is_not_full():
    enrollment = Enrollment(make_enrollment(hourly_cap=0), Buyer(make_buyer(status="paused"), 1), 1)
    assert searched(enrollment, State()) == (None, [])

"""Caps and what they count; windows themselves are tested with the zones."""

from __future__ import annotations

import pytest

from pointsman.engine import zones
from pointsman.engine.capacity import Counter, State, caps
from pointsman.engine.configuration import NOBODY, Buyer, Caps, Enrollment, turn

from .worlds import (
    DAY_START,
    NOON,
    OFFER,
    ONE,
    OTHER_OFFER,
    TWO,
    at,
    candidate,
    gone,
    make_buyer,
    make_enrollment,
    make_state,
    make_world,
    put,
    winner,
)

ALL = [("enrollment", "hour"), ("buyer", "hour"), ("enrollment", "day"), ("buyer", "day")]


def bound(enrollment=None, buyer=None, moment=NOON, changed=(1, 1)):
    made = Enrollment(make_enrollment(**(enrollment or {})), Buyer(make_buyer(**(buyer or {})), changed[1]), changed[0])
    return list(caps(made, moment))


def both(hourly=None, daily=None):
    return {"hourly_cap": hourly, "daily_cap": daily}


def test_no_cap_is_unlimited():
    assert bound() == []


def test_all_caps_bind_the_enrollments_before_the_buyers_hours_before_days():
    assert [(cap.level, cap.window.kind) for cap in bound(both(1, 2), both(3, 4))] == ALL


def test_each_cap_has_its_own_limit():
    assert [cap.limit for cap in bound(both(1, 3), both(2, 4))] == [1, 2, 3, 4]


@pytest.mark.parametrize("level", ["enrollment", "buyer"])
@pytest.mark.parametrize("kind", ["hour", "day"])
def test_a_cap_binds_alone(level, kind):
    limits = both(**{{"hour": "hourly", "day": "daily"}[kind]: 7})
    assert [(level, kind, 7)] == [(cap.level, cap.window.kind, cap.limit) for cap in bound(**{level: limits})]


def test_counters_of_an_enrollment_are_its_own_and_those_of_a_buyer_cover_all_its_offers():
    assert [cap.counter for cap in bound(both(1, 1), both(1, 1))] == [
        Counter.of(ONE, OFFER, "hour", NOON),
        Counter.of(ONE, NOBODY, "hour", NOON),
        Counter.of(ONE, OFFER, "day", DAY_START),
        Counter.of(ONE, NOBODY, "day", DAY_START),
    ]


def test_windows_are_in_the_buyers_zone():
    (hour, day) = bound(both(1, 1), {"timezone": "Asia/Kathmandu"}, at("2026-06-10T20:10"))
    assert (at("2026-06-10T19:15"), at("2026-06-10T18:15")) == (hour.window.start, day.window.start)


def test_windows_do_not_depend_on_the_zone_of_the_hours():
    hours = '{"timezone": "Asia/Kathmandu", "weekly": {}}'
    (day,) = bound(both(daily=1), {"acceptance_hours": hours})
    assert day.window.start == DAY_START


def test_without_a_zone_there_is_no_window():
    assert bound(both(1, 1), {"timezone": None, **both(1, 1)}) == []


def test_a_negative_cap_is_none():
    assert Caps(None, 3) == Enrollment(make_enrollment(**both(-1, 3)), None, 1).caps


def test_a_counter_of_the_enrollment_changed_with_the_enrollment_or_its_buyer():
    assert [cap.changed for cap in bound(both(1), both(1), changed=(5, 3))] == [5, 3]
    assert [cap.changed for cap in bound(both(1), both(1), changed=(3, 5))] == [5, 5]


# state


def test_what_is_not_known_was_never_used_and_never_served():
    enrollment = Enrollment(make_enrollment(hourly_cap=1), Buyer(make_buyer(), 1), 1)
    (cap,) = caps(enrollment, NOON)
    assert (State().usage(cap.counter), State().position(enrollment)) == (0, 0)


def test_usage_is_read_by_window():
    (cap,) = bound(both(1))
    state = make_state({(ONE, OFFER, "hour"): 4}, moment=NOON - 1)
    assert state.usage(cap.counter) == 0


def test_a_position_is_the_enrollments_own():
    state = State()
    state.positions[turn(ONE, OTHER_OFFER)] = 7
    assert state.position(Enrollment(make_enrollment(), None, 1)) == 0


def test_a_cap_says_whose_it_is():
    assert [cap.level for cap in bound(both(1, 1), both(1, 1))] == ["enrollment", "buyer"] * 2


def test_a_cap_is_that_of_the_window_asked_about_whatever_was_asked_before():
    enrollment = Enrollment(make_enrollment(hourly_cap=1), Buyer(make_buyer(), 1), 1)
    later = NOON + 3 * zones.HOUR
    starts = [cap.window.start for at in (NOON, later, NOON) for cap in caps(enrollment, at)]
    assert starts == [NOON, later, NOON]


# decisions


@pytest.mark.parametrize("cap", ["hourly_cap", "daily_cap", "buyer_hourly_cap", "buyer_daily_cap"])
@pytest.mark.parametrize(("used", "expected"), [(1, ONE), (2, TWO), (3, TWO)])
def test_every_cap_that_is_set_must_have_room(cap, used, expected):
    offer, kind = None if cap.startswith("buyer") else OFFER, "day" if "daily" in cap else "hour"
    world = make_world(candidate(1, **{cap: 2}), candidate(2))
    assert expected == winner(world, make_state({(ONE, offer, kind): used}))


def test_room_in_one_window_does_not_help_another():
    world = make_world(candidate(1, hourly_cap=2, daily_cap=5), candidate(2))
    assert winner(world, make_state({(ONE, OFFER, "hour"): 1, (ONE, OFFER, "day"): 5})) == TWO


def test_usage_of_another_offer_fills_only_the_buyers_cap():
    world = make_world(candidate(1, hourly_cap=1))
    assert winner(world, make_state({(ONE, OTHER_OFFER, "hour"): 9})) == ONE


def test_usage_counts_until_the_last_instant_of_its_window():
    world = make_world(candidate(1, hourly_cap=1))
    state = make_state({(ONE, OFFER, "hour"): 1})
    hour = 3_600_000_000
    assert [winner(world, state, moment=moment) for moment in (NOON + hour - 1, NOON + hour)] == [None, ONE]


# since when a holder counts like this


def changed(world, buyer=ONE):
    enrollment = world.enrollments[OFFER][buyer]
    return enrollment.changed, enrollment.buyer.changed


@pytest.mark.parametrize(
    ("table", "over", "expected"),
    [
        ("buyer_offers", {"hourly_cap": 1}, (2, 1)),
        ("buyer_offers", {"daily_cap": 1}, (2, 1)),
        ("buyer_offers", {"weight": 5, "priority_rank": 1, "is_active": False}, (1, 1)),
        ("buyers", {"hourly_cap": 1}, (1, 2)),
        ("buyers", {"daily_cap": 1}, (1, 2)),
        ("buyers", {"timezone": "Asia/Tokyo"}, (1, 2)),
        ("buyers", {"timezone": None}, (1, 2)),
        ("buyers", {"status": "paused", "funded": False, "sla_response_seconds": 3}, (1, 1)),
    ],
)
def test_a_holder_changes_when_its_caps_or_its_zone_do(table, over, expected):
    world = make_world(candidate(1))
    make = make_buyer if table == "buyers" else make_enrollment
    world.apply(put(table, make(**over)), 2)
    assert expected == changed(world)


@pytest.mark.parametrize(("table", "expected"), [("buyer_offers", (3, 1)), ("buyers", (1, 3))])
def test_a_holder_that_is_made_again_has_changed(table, expected):
    world = make_world(candidate(1))
    image = make_buyer() if table == "buyers" else make_enrollment()
    world.apply(gone(table, image), 2)
    world.apply(put(table, image), 3)
    assert expected == changed(world)

"""What was missing: one change that would have done, or none; and what an eligible buyer lost by."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from decimal import Decimal
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import State
from pointsman.engine.configuration import read_area
from pointsman.engine.decide import decide
from pointsman.engine.explain import Standing, explain
from pointsman.engine.hours import WEEKDAYS
from pointsman.engine.nearest import short_of_balance, with_balance, with_nearest
from pointsman.model import Lead, LostBy, NearestMiss, micros

from .chance import a_case, state_of
from .oracle import Case
from .worlds import (
    MARKET,
    NOON,
    OFFER,
    ONE,
    THREE,
    TWO,
    Image,
    candidate,
    decided,
    exclusivity,
    make_area,
    make_indexes,
    make_lead,
    make_rules,
    make_state,
    make_world,
    uid,
)


def standing(world: Indexes, state: State | None = None, lead: Lead | None = None) -> Standing:
    known, decision = state or State(), decided(world, state, lead)
    return with_nearest(explain(decision, world, known), decision, world, known)


def miss(found: Standing, buyer: UUID = ONE) -> NearestMiss | None:
    (excluded,) = (excluded for excluded in found.excluded if excluded.buyer_id == buyer)
    return excluded.nearest_miss


def lost(found: Standing, rank: int = 2) -> LostBy | None:
    return found.eligible[rank - 1].lost_by


STRANGER = uid(0xB, 9)
HOURS = json.dumps({"weekly": {day: [["12:42", "13:00"]] for day in WEEKDAYS}})


@pytest.mark.parametrize(
    ("over", "change", "facts"),
    [
        ({"status": "paused"}, "resume_buyer", {}),
        ({"is_active": False}, "activate_enrollment", {}),
        ({"daily_cap": 0}, "raise_cap", {"level": "enrollment", "window": "day", "slots": 1}),
        ({"buyer_hourly_cap": 0}, "raise_cap", {"level": "buyer", "window": "hour", "slots": 1}),
        ({"funded": False}, "add_balance", {"amount": None}),
        ({"priority_rank": -1}, "repair", {"field": "priority_rank"}),
        ({"area": {"scope": "city", "value": "Peoria"}}, "add_service_area", None),
    ],
)
def test_one_change_would_have_done(over: dict[str, Any], change: str, facts: dict[str, Any] | None) -> None:
    found = miss(standing(make_world(candidate(1, **over))))
    assert found is not None
    assert change == found.change
    if facts is not None:
        assert facts == found.facts


def test_next_opening_is_told_as_how_much_later() -> None:
    found = miss(standing(make_world(candidate(1, acceptance_hours=HOURS))))
    opening = datetime.fromtimestamp(NOON / 1_000_000, UTC).replace(hour=12, minute=42, second=0, microsecond=0)
    assert NearestMiss("later", {"seconds": (opening.timestamp() - NOON / 1e6), "at": opening}) == found


def test_two_failed_checks_have_no_single_change() -> None:
    assert miss(standing(make_world(candidate(1, status="paused", funded=False)))) is None
    assert miss(standing(make_world(candidate(1, is_active=False, status="paused")))) is None
    assert miss(standing(make_world(candidate(1, is_active=False, area={"scope": "city", "value": "Peoria"})))) is None
    assert miss(standing(make_world(candidate(1, status="paused", area={"scope": "city", "value": "Peoria"})))) is None
    assert miss(standing(make_world(candidate(1, daily_cap=0, buyer_daily_cap=0)))) is None


def test_cap_that_was_passed_needs_as_many_slots() -> None:
    world = make_world(candidate(1, daily_cap=2))
    state = make_state({(ONE, OFFER, "day"): 4})
    assert NearestMiss("raise_cap", {"level": "enrollment", "window": "day", "slots": 3}) == miss(
        standing(world, state)
    )


def test_area_that_would_hold_the_lead_is_named_normalised() -> None:
    world = make_world(candidate(1, area={"scope": "city", "value": "Peoria"}))
    facts = {"market_id": MARKET, "postal_code": "60614", "city": "chicago"}
    lead = make_lead(postal_code=" 606 14", city="CHICAGO")
    assert NearestMiss("add_service_area", facts) == miss(standing(world, lead=lead))
    bare = standing(world, lead=make_lead(postal_code=None))
    assert NearestMiss("add_service_area", {"market_id": MARKET, "city": "chicago"}) == miss(bare)


def test_lead_that_lacks_its_place_is_to_be_completed() -> None:
    world = make_world(candidate(1, area={"scope": "city", "value": "Peoria"}))
    found = miss(standing(world, lead=make_lead(city=None)))
    assert NearestMiss("complete_lead", {"missing": ["city"]}) == found


def test_balance_is_told_where_it_was_looked_up() -> None:
    found = standing(make_world(candidate(1, funded=False), candidate(2, funded=False, status="paused")))
    assert [ONE] == short_of_balance(found)
    assert NearestMiss("add_balance", {"amount": "12.50"}) == miss(with_balance(found, {ONE: Decimal("12.50")}))
    assert NearestMiss("add_balance", {"amount": None}) == miss(with_balance(found, {ONE: None}))


def test_response_time_and_weight() -> None:
    slow = make_rules(sla={"mode": "require", "max_response_seconds": 60})
    world = make_world(candidate(1, sla_response_seconds=90), rules=slow)
    assert NearestMiss("respond_within", {"seconds": 60}) == miss(standing(world))
    weightless = make_world(candidate(1, weight=0), rules=make_rules(strategy={"kind": "weighted"}))
    assert NearestMiss("raise_weight", {"weight": 1}) == miss(standing(weightless))


def test_exclusivity_is_the_change_for_who_could_have_it_and_bars_the_others() -> None:
    world = make_world(candidate(1), candidate(2), candidate(3, status="paused"), exclusivity(buyer_id=ONE))
    found = standing(world)
    assert NearestMiss("end_exclusivity", {"exclusivity_id": uid(0xD, 1)}) == miss(found, TWO)
    assert miss(found, uid(0xB, 3)) is None


@pytest.mark.parametrize("when_ineligible", ["fail_closed", "fallback_allowed"])
@pytest.mark.parametrize("next_holder", [TWO, THREE, STRANGER])
def test_end_of_an_exclusivity_is_the_change_unless_a_wider_one_would_hold_the_lead_then(
    when_ineligible: str, next_holder: UUID
) -> None:
    world = make_world(
        candidate(1),
        candidate(2),
        candidate(3),
        exclusivity(buyer_id=ONE, scope="market", market_id=MARKET),
        exclusivity(id=uid(0xD, 2), buyer_id=next_holder),
        rules=make_rules(exclusivity={"when_ineligible": when_ineligible}),
    )
    found = standing(world)
    end = NearestMiss("end_exclusivity", {"exclusivity_id": uid(0xD, 1)})
    is_open = next_holder == TWO or (next_holder == STRANGER and when_ineligible == "fallback_allowed")
    assert (end if is_open else None) == miss(found, TWO)


def test_no_area_would_hold_a_lead_without_a_market() -> None:
    assert miss(standing(make_world(candidate(1)), lead=make_lead(market_id=None))) is None


def test_holder_that_is_not_enrolled_has_no_single_change() -> None:
    assert miss(standing(make_world(candidate(2), exclusivity(buyer_id=ONE)))) is None


@pytest.mark.no_cover  # long
@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_the_change_that_is_named_does_it_in_any_world(rng: Random) -> None:
    """Made, it leaves the buyer eligible; another instant or a fuller lead may fall under another's exclusivity."""
    case = a_case(rng)
    for excluded in told(case).excluded:
        near = excluded.nearest_miss
        if near is None:
            continue
        event(near.change)
        for other in with_change(case, excluded.buyer_id, near):
            found = told(other)
            left = [
                reason.code for out in found.excluded if out.buyer_id == excluded.buyer_id for reason in out.reasons
            ]
            if near.change == "repair":
                assert "invalid_configuration" not in left
            elif left:
                assert near.change in ("complete_lead", "later")
                assert ["held_by_exclusive_buyer"] == left
            else:
                assert excluded.buyer_id in [ranked.buyer_id for ranked in found.eligible]


def told(case: Case) -> Standing:
    world, state, at = make_indexes(case.rows), state_of(case), micros(case.at)
    decision = decide(case.lead, world, state, at)
    return with_nearest(explain(decision, world, state), decision, world, state)


def with_change(case: Case, buyer: UUID, near: NearestMiss) -> list[Case]:
    """The case after the change that is named; several where any of some would do."""
    facts, lead = near.facts, case.lead
    match near.change:
        case "end_exclusivity":
            return [case._replace(rows=[row for row in case.rows if row[1].get("id") != facts["exclusivity_id"]])]
        case "later":
            return [case._replace(at=facts["at"])]
        case "complete_lead":
            return [
                case._replace(lead=lead._replace(**{area.scope: area.value}))
                for area in (read_area(image) for table, image in case.rows if table == "buyer_service_areas")
                if area
                and (area.buyer_id, area.market_id) == (buyer, lead.market_id)
                and area.scope in facts["missing"]
            ]
        case "add_service_area":
            place = {"buyer_id": buyer, "market_id": facts["market_id"], "id": uid(0x5, 999)}
            scopes = [scope for scope in ("postal_code", "city") if scope in facts] or ["market"]
            areas = [make_area(**place, scope=scope, value=facts.get(scope)) for scope in scopes]
            return [case._replace(rows=[*case.rows, ("buyer_service_areas", area)]) for area in areas]
        case _:
            return [
                case._replace(rows=[(table, changed(table, image, case, buyer, near)) for table, image in case.rows])
            ]


GOOD = {
    "acceptance_hours": None,
    "timezone": "UTC",
    "hourly_cap": None,
    "daily_cap": None,
    "priority_rank": 1,
    "weight": 1,
    "sla_response_seconds": 0,
}


def changed(table: str, image: Image, case: Case, buyer: UUID, near: NearestMiss) -> Image:
    """A row as the change makes it, if it is the buyer's or its enrollment's."""
    facts = near.facts
    is_buyer = table == "buyers" and image["id"] == buyer
    is_enrollment = table == "buyer_offers" and (image["buyer_id"], image["offer_id"]) == (buyer, case.lead.offer_id)
    if not is_buyer and not is_enrollment:
        return image
    over: dict[str, Any] = {}
    match near.change:
        case "activate_enrollment":
            over = {"is_active": True}
        case "raise_weight":
            over = {"weight": facts["weight"]}
        case "resume_buyer":
            over = {"status": "active"}
        case "add_balance":
            over = {"funded": True}
        case "respond_within":
            over = {"sla_response_seconds": facts["seconds"]}
        case "repair":
            over = {facts["field"]: GOOD[facts["field"]]}
        case "raise_cap" if is_buyer == (facts["level"] == "buyer"):
            cap = "hourly_cap" if facts["window"] == "hour" else "daily_cap"
            over = {cap: image[cap] + facts["slots"]}
    return {**image, **{column: value for column, value in over.items() if column in image}}


def test_winner_lost_by_nothing() -> None:
    assert lost(standing(make_world(candidate(1), candidate(2))), 1) is None


def test_loser_by_strategy_value() -> None:
    found = standing(make_world(candidate(1, priority_rank=7), candidate(2, priority_rank=3)))
    assert LostBy("strategy", "priority_rank", 3, 7) == lost(found)


def test_loser_by_sla_preference() -> None:
    rules = make_rules(sla={"mode": "prefer", "max_response_seconds": 60})
    found = standing(
        make_world(candidate(1, priority_rank=9, sla_response_seconds=50), candidate(2, priority_rank=1), rules=rules)
    )
    assert ONE == found.eligible[0].buyer_id
    assert LostBy("sla", "sla", True, False) == lost(found)


def test_loser_by_turn() -> None:
    rules = make_rules(strategy={"kind": "rotation"})
    state = make_state(positions={ONE: 4, TWO: 3})
    found = standing(make_world(candidate(1), candidate(2), rules=rules), state)
    assert LostBy("strategy", "least_recently_routed", 3, 4) == lost(found)


def test_loser_by_the_draw_of_weights() -> None:
    found = standing(
        make_world(candidate(1, weight=1), candidate(2, weight=10**9), rules=make_rules(strategy={"kind": "weighted"}))
    )
    seen = lost(found)
    assert seen is not None
    assert ("strategy", "score") == (seen.step, seen.by)
    assert {"weight": 10**9, "lead_hash": found.eligible[0].lead_hash} == seen.winner


@pytest.mark.parametrize(
    ("tie_breaker", "one", "two", "values"),
    [
        ("weight", {"weight": 5}, {"weight": 2}, (5, 2)),
        ("sla_response_seconds", {"sla_response_seconds": 30}, {}, (30, None)),
        ("enrolled_at", {"enrolled_at": 0}, {"enrolled_at": None}, (datetime(1970, 1, 1, tzinfo=UTC), None)),
        ("buyer_id", {}, {}, None),
    ],
)
def test_loser_by_tie_breaker(tie_breaker: str, one: Any, two: Any, values: tuple[Any, Any] | None) -> None:
    order = [tie_breaker, "buyer_id"] if tie_breaker != "buyer_id" else ["buyer_id"]
    found = lost(standing(make_world(candidate(1, **one), candidate(2, **two), rules=make_rules(tie_breakers=order))))
    assert LostBy("tie_breaker", tie_breaker, *(values or (ONE, TWO))) == found


def test_loser_by_lead_hash() -> None:
    found = standing(make_world(candidate(1), candidate(2), rules=make_rules(tie_breakers=["lead_hash", "buyer_id"])))
    first, second = found.eligible
    assert LostBy("tie_breaker", "lead_hash", first.lead_hash, second.lead_hash) == second.lost_by
    assert first.lead_hash < second.lead_hash


def test_priority_rank_as_the_tie_breaker_of_another_strategy() -> None:
    rules = make_rules(strategy={"kind": "rotation"}, tie_breakers=["priority_rank", "buyer_id"])
    found = standing(make_world(candidate(1, priority_rank=1), candidate(2, priority_rank=2), rules=rules))
    assert LostBy("tie_breaker", "priority_rank", 1, 2) == lost(found)


def test_nobody_looked_at_is_nobody_to_tell() -> None:
    world = make_world(candidate(1), rules="{}")
    assert Standing() == standing(world)

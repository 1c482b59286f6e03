"""The one pure call, against the contract as an oracle reads it, and what holds whatever the world."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import State
from pointsman.engine.decide import Decision, decide
from pointsman.engine.explain import Standing, explain
from pointsman.model import Cause, Flag, OutcomeKind, ReasonCode, micros

from . import oracle
from .chance import BUYERS, a_case, state_of
from .worlds import (
    MARKET,
    NOON,
    OFFER,
    ONE,
    OTHER_MARKET,
    OTHER_VERTICAL,
    THREE,
    TWO,
    buyer_id,
    candidate,
    decided,
    exclusivity,
    explained,
    gone,
    make_buyer,
    make_enrollment,
    make_indexes,
    make_lead,
    make_offer,
    make_policy,
    make_rules,
    make_state,
    make_world,
    put,
    uid,
    winner,
)

randoms = st.randoms(use_true_random=False)
TURNS = make_rules(strategy={"kind": "rotation"})
FALLBACK = {"when_ineligible": "fallback_allowed"}

# causes, in order


def alone(*rows, lead=None):
    decision = decided(make_indexes(rows), lead=lead)
    return decision.outcome, decision.cause, decision.policy and decision.policy.id


POLICY = ("routing_policies", make_policy())
INVALID = ("routing_policies", make_policy(rules={}))
ID = make_policy()["id"]


@pytest.mark.parametrize(
    ("rows", "cause", "policy_id"),
    [
        ([], Cause.NO_POLICY, None),
        ([INVALID], Cause.POLICY_INVALID, ID),
        ([POLICY], Cause.OFFER_INACTIVE, ID),
        ([POLICY, ("offers", make_offer(is_active=False, vertical_id=None))], Cause.OFFER_INACTIVE, ID),
        (
            [POLICY, ("offers", make_offer(vertical_id=OTHER_VERTICAL, market_id=OTHER_MARKET))],
            Cause.OFFER_VERTICAL_MISMATCH,
            ID,
        ),
        ([POLICY, ("offers", make_offer(vertical_id=None))], Cause.OFFER_VERTICAL_MISMATCH, ID),
        ([POLICY, ("offers", make_offer(market_id=OTHER_MARKET))], Cause.OFFER_MARKET_MISMATCH, ID),
        ([POLICY, ("offers", make_offer(market_id=MARKET))], Cause.NO_ELIGIBLE_BUYERS, ID),
        ([POLICY, ("offers", make_offer())], Cause.NO_ELIGIBLE_BUYERS, ID),
    ],
)
def test_causes_are_looked_for_in_order(rows, cause, policy_id):
    assert (OutcomeKind.NO_ROUTE, cause, policy_id) == alone(*rows)


@pytest.mark.parametrize(("rows", "cause"), [([], Cause.NO_POLICY), ([POLICY], Cause.OFFER_INACTIVE)])
def test_a_lead_without_an_offer_is_no_route(rows, cause):
    assert cause == alone(*rows, ("offers", make_offer()), lead=make_lead(offer_id=None))[1]


def test_a_lead_without_a_market_misses_an_offer_that_names_one():
    rows = [POLICY, ("offers", make_offer(market_id=MARKET))]
    assert alone(*rows, lead=make_lead(market_id=None))[1] == Cause.OFFER_MARKET_MISMATCH


def test_causes_are_declared_in_the_order_of_the_contract():
    assert [cause.value for cause in Cause] == [
        "no_policy",
        "policy_invalid",
        "offer_inactive",
        "offer_vertical_mismatch",
        "offer_market_mismatch",
        "no_eligible_buyers",
    ]


def test_flags_are_declared_in_the_order_of_the_contract():
    assert [flag.value for flag in Flag] == ["exclusive", "exclusive_fallback", "exclusivity_conflict"]


@pytest.mark.parametrize("rows", [[INVALID], [POLICY]])
def test_before_buyers_are_looked_at_no_exclusivity_speaks(rows):
    decision = decided(make_indexes([*rows, ("offers", make_offer(is_active=False)), *exclusivity()]))
    assert (decision.flags, decision.takes, decision.full, decision.compared) == ((), (), (), ())


# what a decision rests on


def rests_on(*rows, state=None, **rules):
    decision = decided(make_world(*rows, rules=make_rules(**rules)), state)
    return (
        [(cap.buyer_id, cap.level, cap.window.kind) for cap in decision.takes],
        [(cap.buyer_id, cap.level, cap.window.kind) for cap in decision.full],
        [enrollment.buyer_id for enrollment in decision.compared],
    )


def test_the_winner_takes_every_cap_that_is_set_on_it():
    takes, _, _ = rests_on(candidate(1, hourly_cap=1, buyer_daily_cap=1), candidate(2, daily_cap=1))
    assert takes == [(ONE, "enrollment", "hour"), (ONE, "buyer", "day")]


def test_a_full_buyer_that_would_have_gone_first_is_proved_full():
    _, full, _ = rests_on(
        candidate(1, hourly_cap=5, daily_cap=1), candidate(2), state=make_state({(ONE, OFFER, "day"): 1})
    )
    assert full == [(ONE, "enrollment", "day")]


def test_the_first_full_cap_is_the_proof():
    state = make_state({(ONE, offer, kind): 1 for offer in (OFFER, None) for kind in ("hour", "day")})
    _, full, _ = rests_on(candidate(1, hourly_cap=2, buyer_hourly_cap=1, daily_cap=1, buyer_daily_cap=1), state=state)
    assert full == [(ONE, "buyer", "hour")]


def test_a_full_buyer_behind_the_winner_needs_no_proof():
    _, full, _ = rests_on(
        candidate(1), candidate(2, priority_rank=101, daily_cap=1), state=make_state({(TWO, OFFER, "day"): 1})
    )
    assert full == []


def test_a_full_buyer_that_only_its_turn_could_put_first_is_proved_full():
    state = make_state({(TWO, OFFER, "day"): 1}, {TWO: 9, ONE: 1})
    _, full, _ = rests_on(candidate(1), candidate(2, daily_cap=1), state=state, strategy={"kind": "rotation"})
    assert full == [(TWO, "enrollment", "day")]


def test_a_cap_of_zero_needs_no_proof():
    assert rests_on(candidate(1, hourly_cap=0, daily_cap=1), candidate(2))[1] == []


def test_a_full_buyer_that_something_else_forbids_needs_no_proof():
    state = make_state({(ONE, OFFER, "day"): 1})
    assert rests_on(candidate(1, daily_cap=1, status="paused"), candidate(2), state=state)[1] == []


def test_a_full_holder_is_proved_full_wherever_it_ranks():
    _, full, _ = rests_on(
        candidate(1), candidate(2, priority_rank=200, daily_cap=1), exclusivity(buyer_id=TWO),
        state=make_state({(TWO, OFFER, "day"): 1}), exclusivity=FALLBACK,
    )  # fmt: skip
    assert full == [(TWO, "enrollment", "day")]


def test_failing_closed_rests_on_the_holder_alone():
    _, full, _ = rests_on(
        candidate(1, daily_cap=1), candidate(2, daily_cap=1), exclusivity(buyer_id=TWO),
        state=make_state({(ONE, OFFER, "day"): 1, (TWO, OFFER, "day"): 1}),
    )  # fmt: skip
    assert full == [(TWO, "enrollment", "day")]


def test_a_no_route_rests_on_everyone_who_is_full():
    state = make_state({(ONE, None, "hour"): 1, (TWO, OFFER, "day"): 1})
    _, full, _ = rests_on(candidate(1, buyer_hourly_cap=1), candidate(2, daily_cap=1), state=state)
    assert full == [(ONE, "buyer", "hour"), (TWO, "enrollment", "day")]


def test_positions_are_compared_among_those_that_nothing_before_tells_apart():
    _, _, compared = rests_on(
        candidate(3), candidate(1), candidate(2, priority_rank=101), tie_breakers=["least_recently_routed", "buyer_id"]
    )
    assert compared == [ONE, THREE]


@pytest.mark.parametrize("rows", [[candidate(1)], [candidate(1), candidate(2, priority_rank=101)]])
def test_a_winner_that_its_turn_did_not_decide_is_compared_with_nobody(rows):
    assert rests_on(*rows, tie_breakers=["least_recently_routed", "buyer_id"])[2] == []


def test_without_turns_in_the_policy_nobody_is_compared():
    assert rests_on(candidate(1), candidate(2))[2] == []


def test_a_decision_keeps_its_lead_and_its_instant():
    lead = make_lead()
    decision = decided(make_world(candidate(1)), lead=lead)
    assert (lead, NOON) == (decision.lead, decision.at)


# against the oracle


def made(case: oracle.Case, rng: Random | None = None) -> Indexes:
    rows = list(case.rows)
    if rng is not None:
        rng.shuffle(rows)
    return make_indexes(rows)


def both(case: oracle.Case, world: Indexes, state: State | None = None) -> tuple[Decision, Standing]:
    state = state or state_of(case)
    decision = decide(case.lead, world, state, micros(case.at))
    return decision, explain(decision, world, state)


def as_answer(decision: Decision, standing: Standing) -> oracle.Answer:
    """What the engine says, in the oracle's words."""
    return oracle.Answer(
        decision.outcome.value,
        None if decision.cause is None else decision.cause.value,
        [flag.value for flag in decision.flags],
        None if decision.policy is None else decision.policy.id,
        None if decision.winner is None else decision.winner.buyer_id,
        [
            {
                "buyer_id": ranked.buyer_id,
                "rank": ranked.rank,
                "priority_rank": ranked.priority_rank,
                "weight": ranked.weight,
                "sla_response_seconds": ranked.sla_response_seconds,
                "position": ranked.position,
                "lead_hash": ranked.lead_hash,
            }
            for ranked in standing.eligible
        ],
        [
            (exclusion.buyer_id, [(reason.code.value, reason.facts) for reason in exclusion.reasons])
            for exclusion in standing.excluded
        ],
    )


def features(decision: Decision, standing: Standing) -> Iterator[str]:
    """What a case reached."""
    yield decision.outcome
    if decision.cause:
        yield decision.cause
    yield from decision.flags
    for exclusion in standing.excluded:
        for reason in exclusion.reasons:
            yield reason.code
            yield from (f"field {reason.facts['field']}",) if "field" in reason.facts else ()
            yield from (f"{reason.code} {reason.facts['level']}",) if "level" in reason.facts else ()
    if decision.policy is not None and decision.policy.rules is not None and len(standing.eligible) > 1:
        rules = decision.policy.rules
        yield rules.strategy
        yield from (f"tie {name}" for name in rules.order)
        yield f"sla {'require' if rules.sla_required else 'prefer' if rules.sla_preferred else 'off'}"


REACHED = {
    *OutcomeKind,
    *Cause,
    *Flag,
    *ReasonCode,
    *(f"field {field}" for field in (
        "buyer", "acceptance_hours", "timezone", "hourly_cap", "daily_cap", "priority_rank", "weight",
        "sla_response_seconds",
    )),
    *(f"{code} {level}" for code in ("hourly_cap_reached", "daily_cap_reached") for level in ("enrollment", "buyer")),
    "priority", "rotation", "weighted",
    *(f"tie {name}" for name in oracle.TIES),
    "tie sla", "tie score",
    "sla off", "sla prefer", "sla require",
} - {OutcomeKind.ALREADY_ROUTED, OutcomeKind.NOT_VALIDATED}  # fmt: skip
"""Every word of the contract that a decision can say; the last two are said of leads that are not decided."""


def test_the_engine_says_what_the_contract_says_over_a_sweep_that_reaches_everything():
    reached: Counter[str] = Counter()
    for seed in range(2_500):
        case = a_case(Random(seed))
        found = both(case, made(case))
        assert oracle.answer(case) == as_answer(*found), f"seed {seed}"
        reached.update(set(features(*found)))
    assert {} == {feature: reached[feature] for feature in REACHED if reached[feature] < 10}


@settings(max_examples=150, deadline=None)
@given(randoms)
def test_the_engine_says_what_the_contract_says(rng):
    case = a_case(rng)
    found = both(case, made(case))
    for feature in sorted(set(features(*found))):
        event(feature)
    assert oracle.answer(case) == as_answer(*found)


# whatever the world

SEEDS = range(250)


def routed_cases() -> Iterator[tuple[oracle.Case, Indexes, Decision, Standing]]:
    for seed in range(800):
        case = a_case(Random(seed))
        world = made(case)
        decision, standing = both(case, world)
        if decision.winner is not None:
            yield case, world, decision, standing


def test_the_order_of_rows_does_not_matter():
    for seed in SEEDS:
        case = a_case(Random(seed))
        assert as_answer(*both(case, made(case))) == as_answer(*both(case, made(case, Random(seed)))), f"seed {seed}"


def test_what_a_decision_rests_on_does_not_hang_on_the_order_of_rows():
    def basis(decision: Decision) -> Any:
        return (
            decision.takes,
            sorted(decision.full),
            [enrollment.buyer_id for enrollment in decision.compared],
            sorted(enrollment.buyer_id for enrollment in decision.covering),
        )

    for seed in SEEDS:
        case = a_case(Random(seed))
        assert basis(both(case, made(case))[0]) == basis(both(case, made(case, Random(seed)))[0]), f"seed {seed}"


def test_the_same_question_has_the_same_answer():
    for seed in SEEDS:
        case = a_case(Random(seed))
        world, state = made(case), state_of(case)
        assert both(case, world, state) == both(case, world, state)


def test_a_decision_changes_nothing():
    for seed in SEEDS:
        case = a_case(Random(seed))
        world, state = made(case), state_of(case)
        both(case, world, state)
        assert (state_of(case).used, state_of(case).positions) == (state.used, state.positions)


INELIGIBLE = [
    ({"is_active": False}, {}, "enrollment_inactive"),
    ({"hourly_cap": 0}, {"timezone": "UTC"}, "hourly_cap_reached"),
    ({}, {"funded": False}, "below_min_balance"),
    ({"daily_cap": -1}, {}, "invalid_configuration"),
]


@pytest.mark.parametrize(("of_enrollment", "of_buyer", "code"), INELIGIBLE)
@pytest.mark.parametrize("number", [0, 99])
def test_adding_an_ineligible_buyer_changes_nothing_but_its_exclusion(of_enrollment, of_buyer, code, number):
    for seed in SEEDS:
        case = a_case(Random(seed))
        before = as_answer(*both(case, made(case)))
        world, added = made(case), buyer_id(number)
        world.apply(put("buyers", make_buyer(id=added, **of_buyer)), 2)
        world.apply(
            put("buyer_offers", make_enrollment(buyer_id=added, priority_rank=0, weight=10**6, **of_enrollment)), 2
        )
        for table, image in candidate(number)[2:]:
            world.apply(put(table, {**image, "id": uid(0x5, 999), "market_id": case.lead.market_id}), 2)
        after = as_answer(*both(case, world))
        others = [(buyer, why) for buyer, why in after.excluded if buyer != added]
        assert before == after._replace(excluded=others), f"seed {seed}"
        if case.lead.offer_id == OFFER and case.lead.market_id and before.cause in (None, "no_eligible_buyers"):
            assert code in {reason for buyer, why in after.excluded if buyer == added for reason, _ in why}


def test_removing_a_loser_never_changes_the_winner():
    strategies: Counter[str] = Counter()
    for case, world, decision, _ in routed_cases():
        for buyer in BUYERS:
            if buyer != decision.winner.buyer_id and buyer in world.enrolled(case.lead.offer_id):
                without = made(case)
                without.apply(gone("buyer_offers", make_enrollment(buyer_id=buyer, offer_id=case.lead.offer_id)), 2)
                assert decision.winner.buyer_id == both(case, without)[0].winner.buyer_id
                strategies[decision.policy.rules.strategy] += 1
    assert min(strategies[kind] for kind in ("priority", "rotation", "weighted")) > 50


def test_without_the_winner_the_second_wins_unless_the_winner_held_the_lead():
    seconds = 0
    for case, _, decision, standing in routed_cases():
        if Flag.EXCLUSIVE in decision.flags:
            continue
        without = made(case)
        without.apply(
            gone("buyer_offers", make_enrollment(buyer_id=decision.winner.buyer_id, offer_id=case.lead.offer_id)), 2
        )
        expected = [ranked.buyer_id for ranked in standing.eligible[1:]]
        assert expected == [ranked.buyer_id for ranked in both(case, without)[1].eligible]
        seconds += bool(expected)
    assert seconds > 100


def test_usage_below_every_cap_does_not_matter():
    world = make_world(candidate(1, hourly_cap=3, buyer_daily_cap=9), candidate(2))
    assert {ONE} == {winner(world, make_state({(ONE, OFFER, "hour"): n, (ONE, None, "day"): n})) for n in range(3)}


def test_serving_buyers_in_turn_gives_everyone_the_same():
    world = make_world(*(candidate(number) for number in range(1, 5)), rules=TURNS)
    state, served = State(), []
    for decision_id in range(1, 41):
        enrollment = decided(world, state, make_lead(id=uid(1, decision_id))).winner
        state.positions[enrollment.turn] = decision_id
        served.append(enrollment.buyer_id)
    assert [buyer_id(1 + turn % 4) for turn in range(40)] == served


def test_a_buyer_that_gets_every_lead_up_to_its_cap_gets_no_more():
    world, state, served = make_world(candidate(1, daily_cap=3), candidate(2)), State(), []
    for _ in range(5):
        decision = decided(world, state)
        served.append(decision.winner.buyer_id)
        for cap in decision.takes:
            state.used[cap.counter] = state.usage(cap.counter) + 1
    assert served == [ONE, ONE, ONE, TWO, TWO]


def test_decide_and_explain_agree():
    for seed in range(1_500):
        case = a_case(Random(seed))
        decision, standing = both(case, made(case))
        first = standing.eligible[0].buyer_id if standing.eligible else None
        assert first == (None if decision.winner is None else decision.winner.buyer_id)
        assert (decision.outcome == OutcomeKind.ROUTED) is bool(standing.eligible)


def test_everyone_enrolled_is_eligible_or_excluded_and_never_both():
    for seed in range(1_500):
        case = a_case(Random(seed))
        world = made(case)
        decision, standing = both(case, world)
        if decision.cause not in (None, Cause.NO_ELIGIBLE_BUYERS):
            assert standing == Standing()
            continue
        told = [*(one.buyer_id for one in standing.eligible), *(one.buyer_id for one in standing.excluded)]
        assert len(told) == len(set(told))
        assert set(world.enrolled(case.lead.offer_id)) <= set(told)


def test_explain_is_deterministic_in_its_order():
    standing = explained(make_world(*(candidate(number, status="paused") for number in (3, 1, 2))))
    assert [excluded.buyer_id for excluded in standing.excluded] == [ONE, TWO, THREE]

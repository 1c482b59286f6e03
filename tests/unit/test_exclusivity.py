"""Which exclusivity speaks for a lead, and what its holder's standing means."""

from __future__ import annotations

from itertools import permutations

import pytest

from pointsman.model import Cause, Flag, OutcomeKind

from .worlds import (
    MARKET,
    NOON,
    OFFER,
    ONE,
    OTHER_MARKET,
    OTHER_OFFER,
    THREE,
    TWO,
    candidate,
    codes,
    decided,
    exclusivity,
    explained,
    facts,
    make_lead,
    make_rules,
    make_state,
    make_world,
    ranks,
    uid,
    winner,
)

FALLBACK = make_rules(exclusivity={"when_ineligible": "fallback_allowed"})
CLOSED = make_rules()

SCOPES = {
    "offer": {"scope": "offer"},
    "market": {"scope": "market", "market_id": MARKET},
    "city": {"scope": "city", "market_id": MARKET, "value": " CHICAGO "},
    "postal_code": {"scope": "postal_code", "market_id": MARKET, "value": "606 01"},
}


def held(scope="offer", number=1, **over):
    return exclusivity(id=uid(0xD, number), **{**SCOPES[scope], "buyer_id": TWO, **over})


def told(decision):
    return decision.outcome, decision.cause, decision.winner and decision.winner.buyer_id, decision.flags


# the holder


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("rules", [FALLBACK, CLOSED])
def test_an_eligible_holder_is_the_only_candidate(scope, rules):
    world = make_world(candidate(1), candidate(2), held(scope), rules=rules)
    assert told(decided(world)) == (OutcomeKind.ROUTED, None, TWO, (Flag.EXCLUSIVE,))


def test_with_an_eligible_holder_every_other_eligible_buyer_is_held_off():
    world = make_world(candidate(1), candidate(2), candidate(3), held())
    standing = explained(world)
    assert [ranked.buyer_id for ranked in standing.eligible] == [TWO]
    for other in (ONE, THREE):
        assert codes(standing, other) == ["held_by_exclusive_buyer"]
        assert facts(standing, other) == [{"buyer_id": TWO, "exclusivity_id": uid(0xD, 1)}]


def test_an_ineligible_buyer_keeps_its_own_reasons_beside_a_holder():
    world = make_world(candidate(1, status="paused"), candidate(2), held())
    assert codes(explained(world)) == ["buyer_paused"]


INELIGIBLE = {
    "over its cap": {"hourly_cap": 1},
    "never": {"buyer_daily_cap": 0},
    "paused": {"status": "paused"},
    "unfunded": {"funded": False},
    "inactive": {"is_active": False},
    "elsewhere": {"area": {"scope": "city", "value": "elsewhere"}},
}
FULL = make_state({(TWO, OFFER, "hour"): 1})


@pytest.mark.parametrize("why", INELIGIBLE)
def test_an_ineligible_holder_fails_closed(why):
    world = make_world(candidate(1), candidate(2, **INELIGIBLE[why]), held(), rules=CLOSED)
    expected = (OutcomeKind.NO_ROUTE_EXCLUSIVE_FAIL_CLOSED, None, None, (Flag.EXCLUSIVE,))
    assert expected == told(decided(world, FULL))


def test_when_failed_closed_every_other_eligible_buyer_is_held_off():
    world = make_world(candidate(1), candidate(2, status="paused"), candidate(3, funded=False), held(), rules=CLOSED)
    standing = explained(world)
    assert standing.eligible == ()
    assert [codes(standing, buyer) for buyer in (ONE, TWO, THREE)] == [
        ["held_by_exclusive_buyer"],
        ["buyer_paused"],
        ["below_min_balance"],
    ]


@pytest.mark.parametrize("why", INELIGIBLE)
def test_an_ineligible_holder_is_passed_over_where_fallback_is_allowed(why):
    world = make_world(candidate(1), candidate(2, **INELIGIBLE[why]), held(), rules=FALLBACK)
    assert told(decided(world, FULL)) == (OutcomeKind.ROUTED, None, ONE, (Flag.EXCLUSIVE_FALLBACK,))


def test_a_fallback_that_finds_nobody_says_so_too():
    world = make_world(candidate(1, status="paused"), candidate(2, status="paused"), held(), rules=FALLBACK)
    assert told(decided(world)) == (
        OutcomeKind.NO_ROUTE,
        Cause.NO_ELIGIBLE_BUYERS,
        None,
        (Flag.EXCLUSIVE_FALLBACK,),
    )


def test_under_fallback_the_others_are_not_held_off():
    world = make_world(candidate(1), candidate(2, status="paused"), candidate(3), held(), rules=FALLBACK)
    assert ranks(world) == [ONE, THREE]


@pytest.mark.parametrize(("rules", "expected"), [(CLOSED, None), (FALLBACK, ONE)])
def test_a_holder_that_is_not_enrolled_is_ineligible(rules, expected):
    assert expected == winner(make_world(candidate(1), held(), rules=rules))


@pytest.mark.parametrize("rules", [CLOSED, FALLBACK])
def test_a_holder_that_is_not_enrolled_is_listed(rules):
    standing = explained(make_world(candidate(3), held(), rules=rules))
    assert [TWO, *([THREE] if rules is CLOSED else [])] == [excluded.buyer_id for excluded in standing.excluded]
    assert codes(standing, TWO) == ["not_enrolled"]


def test_a_holder_that_is_enrolled_elsewhere_only_is_not_enrolled():
    rows = [candidate(2)[0], candidate(2, offer_id=OTHER_OFFER)[1], candidate(2)[2]]
    assert codes(explained(make_world(rows, held())), TWO) == ["not_enrolled"]


def test_a_holder_without_a_buyer_row_is_ineligible():
    rows = candidate(2)[1:]
    world = make_world(candidate(1), rows, held(), rules=FALLBACK)
    assert (winner(world), codes(explained(world), TWO)) == (ONE, ["invalid_configuration"])


def test_without_an_exclusivity_there_is_no_flag():
    assert decided(make_world(candidate(1))).flags == ()


# the scope


@pytest.mark.parametrize(("narrow", "wide"), [*permutations(("postal_code", "city", "market", "offer"), 2)])
def test_only_the_most_specific_scope_counts(narrow, wide):
    order = ("postal_code", "city", "market", "offer")
    world = make_world(
        candidate(1), candidate(2), held(wide, 1, buyer_id=ONE), held(narrow, 2, buyer_id=TWO), rules=CLOSED
    )
    assert (TWO if order.index(narrow) < order.index(wide) else ONE) == winner(world)


@pytest.mark.parametrize("rules", [CLOSED, FALLBACK])
def test_a_more_specific_row_shadows_the_wider_ones_even_when_its_holder_is_ineligible(rules):
    world = make_world(
        candidate(1), candidate(2, status="paused"), candidate(3), held("city", 1), held("offer", 2, buyer_id=THREE),
        rules=rules,
    )  # fmt: skip
    assert (None if rules is CLOSED else ONE) == winner(world)


def test_rows_of_different_scopes_are_no_conflict():
    world = make_world(candidate(2), *(held(scope, number) for number, scope in enumerate(SCOPES)))
    assert decided(world).flags == (Flag.EXCLUSIVE,)


def test_a_more_specific_row_that_is_not_valid_yet_shadows_nothing():
    world = make_world(
        candidate(1), candidate(2), held("city", 1, buyer_id=ONE, valid_from=NOON + 1), held("market", 2)
    )
    assert winner(world) == TWO


@pytest.mark.parametrize(
    "row",
    [
        held("offer", offer_id=OTHER_OFFER),
        held("market", market_id=OTHER_MARKET),
        held("city", value="Chicago Heights"),
        held("city", market_id=OTHER_MARKET),
        held("postal_code", value="0601"),
        held("postal_code", market_id=OTHER_MARKET),
        held("offer", is_active=False),
    ],
)
def test_a_row_whose_scope_does_not_match_holds_nothing(row):
    assert decided(make_world(candidate(1), row)).flags == ()


@pytest.mark.parametrize(
    "row",
    [
        held("market", market_id=None),
        held("market", value="x"),
        held("city", market_id=None),
        held("city", value=None),
        held("city", value=" "),
        held("postal_code", market_id=None),
        held("postal_code", value=None),
        held("postal_code", value="\u3000"),
        held("offer", market_id=MARKET),
        held("offer", value="x"),
        exclusivity(buyer_id=TWO, scope="county"),
        exclusivity(buyer_id=TWO, scope=None),
        exclusivity(buyer_id=TWO, scope="OFFER"),
        held("offer", buyer_id=None),
        held("offer", offer_id=None),
    ],
)
@pytest.mark.parametrize("lead", [{}, {"market_id": None}, {"city": None, "postal_code": " "}])
def test_a_row_made_otherwise_matches_nothing(row, lead):
    assert decided(make_world(candidate(1), row), lead=make_lead(**lead)).flags == ()


@pytest.mark.parametrize(
    ("lead", "scopes"),
    [
        ({"market_id": None}, ["market", "city", "postal_code"]),
        ({"city": None}, ["city"]),
        ({"postal_code": " "}, ["postal_code"]),
    ],
)
def test_a_scope_that_the_lead_cannot_be_matched_with_does_not_speak(lead, scopes):
    world = make_world(*(held(scope, number, buyer_id=THREE) for number, scope in enumerate(scopes)), held("offer", 9))
    assert codes(explained(world, lead=make_lead(**lead)), TWO) == ["not_enrolled"]


# the time


@pytest.mark.parametrize(
    ("valid_from", "valid_to", "holds"),
    [
        (None, None, True),
        (NOON, None, True),
        (NOON + 1, None, False),
        (None, NOON, False),
        (None, NOON + 1, True),
        (NOON, NOON + 1, True),
        (NOON, NOON, False),
        (NOON - 2, NOON - 1, False),
        (NOON + 5, NOON - 5, False),
        (-(2**63), 2**63 - 1, True),
    ],
)
def test_a_row_is_valid_from_its_start_until_before_its_end(valid_from, valid_to, holds):
    world = make_world(candidate(1), held(valid_from=valid_from, valid_to=valid_to))
    assert holds is (decided(world).flags != ())


# two rows of one scope


@pytest.mark.parametrize("scope", SCOPES)
def test_two_rows_of_one_scope_are_a_conflict(scope):
    world = make_world(candidate(1), candidate(2), held(scope, 1), held(scope, 2, buyer_id=ONE))
    assert decided(world).flags == (Flag.EXCLUSIVE, Flag.EXCLUSIVITY_CONFLICT)


def test_a_conflict_is_told_under_fallback_too():
    world = make_world(candidate(1), held(number=1), held(number=2), rules=FALLBACK)
    assert decided(world).flags == (Flag.EXCLUSIVE_FALLBACK, Flag.EXCLUSIVITY_CONFLICT)


def test_rows_that_are_equal_once_normalised_are_a_conflict():
    world = make_world(candidate(2), held("city", 1, value="chicago"), held("city", 2, value="ＣＨＩＣＡＧＯ"))
    assert Flag.EXCLUSIVITY_CONFLICT in decided(world).flags


def test_rows_that_follow_each_other_are_no_conflict():
    world = make_world(candidate(2), held(number=1, valid_to=NOON), held(number=2, valid_from=NOON))
    assert decided(world).flags == (Flag.EXCLUSIVE,)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"valid_from": None, "number": 2}, {"valid_from": -(10**15), "number": 1}),
        ({"valid_from": None, "number": 2}, {"valid_from": 0, "number": 1}),
        ({"valid_from": -5, "number": 2}, {"valid_from": 3, "number": 1}),
        ({"valid_from": 3, "number": 1}, {"valid_from": 3, "number": 2}),
        ({"valid_from": None, "number": 1}, {"valid_from": None, "number": 2}),
    ],
)
def test_of_two_rows_the_one_valid_since_longest_counts_then_the_smallest_id(first, second):
    for rows in permutations([held(**first), held(**second, buyer_id=ONE)]):
        assert winner(make_world(candidate(1), candidate(2), *rows)) == TWO


def test_a_conflict_names_the_row_that_counts():
    world = make_world(candidate(1), candidate(2), held(number=1), held(number=2, buyer_id=ONE))
    assert [{"buyer_id": TWO, "exclusivity_id": uid(0xD, 1)}] == facts(explained(world))

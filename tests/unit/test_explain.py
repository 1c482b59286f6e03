"""What an explanation says of everyone; the oracle in `test_decide` checks the rest."""

from __future__ import annotations

from random import Random

import pytest

from pointsman.engine.explain import Standing
from pointsman.engine.strategy import lead_hash
from pointsman.model import Exclusion, Ranked, Reason, ReasonCode

from .worlds import (
    LEAD,
    MARKET,
    OFFER,
    ONE,
    OTHER_OFFER,
    THREE,
    TWO,
    candidate,
    codes,
    decided,
    exclusivity,
    explained,
    make_indexes,
    make_lead,
    make_offer,
    make_policy,
    make_rules,
    make_state,
    make_world,
    put,
    uid,
)

ROWS = [candidate(1, priority_rank=2, weight=3, sla_response_seconds=60), candidate(2, priority_rank=1)]


def test_an_eligible_buyer_is_told_with_all_that_ranks_it():
    assert explained(make_world(*ROWS), make_state(positions={ONE: 7})).eligible == (
        Ranked(TWO, 1, 1, 1, None, None, f"{lead_hash(LEAD, TWO, b''):016x}"),
        Ranked(ONE, 2, 2, 3, 60, 7, f"{lead_hash(LEAD, ONE, b''):016x}"),
    )


def test_what_the_policy_does_not_use_is_told_as_it_stands():
    rules = make_rules(strategy={"kind": "rotation"})
    (ranked,) = explained(make_world(candidate(1, priority_rank=None, weight=-1), rules=rules)).eligible
    assert (None, -1) == (ranked.priority_rank, ranked.weight)


def test_an_excluded_buyer_is_told_with_its_reasons():
    standing = explained(make_world(candidate(1, status="paused", funded=False)))
    reasons = Reason(ReasonCode.BUYER_PAUSED), Reason(ReasonCode.BELOW_MIN_BALANCE)
    assert standing == Standing((), (Exclusion(ONE, reasons),))


def test_the_excluded_are_in_order_of_buyer_id():
    rows = [candidate(number, funded=False) for number in (2, 3, 1)]
    standing = explained(make_world(*rows, exclusivity(buyer_id=uid(0, 9))))
    assert [exclusion.buyer_id for exclusion in standing.excluded] == [uid(0, 9), ONE, TWO, THREE]


def test_who_is_enrolled_elsewhere_only_is_not_told():
    assert explained(make_world(candidate(1, offer_id=OTHER_OFFER))) == Standing()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [("routing_policies", make_policy(rules={}))],
        [("routing_policies", make_policy())],
        [("routing_policies", make_policy()), ("offers", make_offer(vertical_id=None))],
        [("routing_policies", make_policy()), ("offers", make_offer(market_id=uid(0, 1)))],
    ],
)
def test_a_cause_before_the_search_for_buyers_leaves_nobody_eligible_and_nobody_excluded(rows):
    everyone = [*candidate(1), *candidate(2, status="paused"), *exclusivity(buyer_id=THREE)]
    assert explained(make_indexes([*rows, *everyone])) == Standing()


def test_no_eligible_buyers_excludes_everyone_with_a_reason():
    standing = explained(make_world(candidate(1, funded=False), candidate(2, area={"is_active": False})))
    assert [["below_min_balance"], ["not_in_service_area"]] == [codes(standing, ONE), codes(standing, TWO)]


def test_a_lead_without_a_market_is_in_nobodys_service_area():
    assert codes(explained(make_world(candidate(1)), lead=make_lead(market_id=None))) == ["not_in_service_area"]


def test_rank_one_is_the_winner_in_whatever_order_rows_came():
    rows = [row for some in ROWS for row in some]
    for seed in range(20):
        Random(seed).shuffle(rows)
        world = make_world(rows)
        assert decided(world).winner.buyer_id == explained(world).eligible[0].buyer_id


def test_a_buyer_is_explained_as_it_is_now():
    world = make_world(candidate(1))
    explained(world)
    world.apply(put("buyers", candidate(1, status="paused")[0][1]), 2)
    assert codes(explained(world)) == ["buyer_paused"]


def test_an_exclusivity_of_another_offer_is_not_told():
    assert explained(make_world(exclusivity(offer_id=OTHER_OFFER, buyer_id=THREE))) == Standing()


@pytest.mark.parametrize("scope", [{"scope": "offer"}, {"scope": "market", "market_id": MARKET}])
def test_a_holder_that_is_excluded_already_keeps_its_reasons(scope):
    standing = explained(make_world(candidate(1, funded=False), exclusivity(offer_id=OFFER, **scope)))
    assert codes(standing) == ["below_min_balance"]

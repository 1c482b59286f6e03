"""Shares that the strategies give, measured; `docs/fairness.md` shows these very numbers.

Leads have seeded random ids, so that every run measures the same.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise
from math import sqrt
from pathlib import Path
from random import Random
from typing import Any
from uuid import UUID

import pytest

from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import State
from pointsman.engine.decide import decide
from pointsman.model import Lead

from .worlds import NOON, buyer_id, candidate, make_lead, make_rules, make_world, put

pytestmark = pytest.mark.no_cover  # they are long, and reach nothing that others do not

DOCUMENT = (Path(__file__).resolve().parents[2] / "docs" / "fairness.md").read_text("utf-8")
LEADS = 100_000
WEIGHTED = make_rules(strategy={"kind": "weighted"}, tie_breakers=["buyer_id"])
ROTATION = make_rules(strategy={"kind": "rotation"}, tie_breakers=["lead_hash", "buyer_id"])
EQUAL_RANKS = make_rules(tie_breakers=["lead_hash", "buyer_id"])
WEIGHTS = {1: 1, 2: 2, 3: 3, 4: 4}


def leads(count: int, seed: int = 1) -> Iterator[Lead]:
    random = Random(seed)
    for _ in range(count):
        yield make_lead(id=UUID(int=random.getrandbits(128), version=4))


def in_two_halves(count: int) -> Iterator[Lead]:
    """Leads of two postal codes, by chance."""
    random = Random(2)
    return (lead._replace(postal_code=random.choice(["60601", "60602"])) for lead in leads(count))


def served(world: Indexes, arrivals: Iterator[Lead], between: Callable[[int], None] = lambda turn: None) -> list[int]:
    """Who gets each lead, by number, 0 for nobody; `between` may change the world before a lead."""
    state, order = State(), []
    for turn, lead in enumerate(arrivals, start=1):
        between(turn)
        decision = decide(lead, world, state, NOON)
        if decision.winner is None:
            order.append(0)
            continue
        for cap in decision.takes:
            state.used[cap.counter] = state.usage(cap.counter) + 1
        state.positions[decision.winner.turn] = turn
        order.append(decision.winner.buyer_id.int & 0xFF)
    return order


def weighted_world(**over: int) -> Indexes:
    return make_world(
        *(candidate(number, weight=weight, **(over if number == 4 else {})) for number, weight in WEIGHTS.items()),
        rules=WEIGHTED,
    )


@cache
def by_weight() -> list[int]:
    return served(weighted_world(), leads(LEADS))


def assert_binomial(count: int, of: int, share: float) -> None:
    """Within 4.5 standard deviations: a fair draw fails one time in 150,000."""
    assert abs(count - of * share) < 4.5 * sqrt(of * share * (1 - share)), (count, of * share)


def assert_documented(*cells: object) -> None:
    row = "| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells) + " |"
    assert row in DOCUMENT, row


def share(count: int, of: int) -> str:
    return f"{100 * count / of:.2f} %"


def gaps(order: list[int], number: int) -> Counter[int]:
    """How many turns lie between two leads of a buyer."""
    turns = [turn for turn, one in enumerate(order) if one == number]
    return Counter(after - before for before, after in pairwise(turns))


@pytest.mark.parametrize(("number", "weight"), WEIGHTS.items())
def test_shares_follow_the_weights(number: int, weight: int) -> None:
    count = by_weight().count(number)
    assert_binomial(count, LEADS, weight / 10)
    assert_documented(weight, f"{10 * weight} %", count, share(count, LEADS))


def test_a_buyer_that_leaves_moves_only_its_own_leads() -> None:
    world = weighted_world()
    for table, image in candidate(4, weight=4, status="paused"):
        world.apply(put(table, image), 2)
    after = served(world, leads(LEADS))
    moved = [one for one, was in zip(after, by_weight(), strict=True) if one != was]
    assert by_weight().count(4) == len(moved)
    assert 4 not in after
    for number in (1, 2, 3):
        assert_binomial(moved.count(number), len(moved), number / 6)
        assert_documented(number, share(6 * number, 36), moved.count(number), share(moved.count(number), len(moved)))


def test_a_buyer_that_returns_gets_its_own_leads_again_and_does_not_catch_up() -> None:
    world = weighted_world()

    def between(turn: int) -> None:
        if turn in (3_001, 6_001):
            for table, image in candidate(4, weight=4, status="paused" if turn == 3_001 else "active"):
                world.apply(put(table, image), turn)

    order = served(world, leads(10_000), between)
    assert 4 not in order[3_000:6_000]
    assert by_weight()[6_000:10_000] == order[6_000:]


def test_a_capped_buyer_s_overflow_goes_to_the_others_by_their_weights() -> None:
    order = served(weighted_world(daily_cap=10_000), leads(LEADS))
    assert 10_000 == order.count(4)
    full_from = max(turn for turn, one in enumerate(order) if one == 4) + 1
    rest = order[full_from:]
    for number in (1, 2, 3):
        assert_binomial(rest.count(number), len(rest), number / 6)
    assert_documented("with a daily cap of 10,000", *(order.count(number) for number in WEIGHTS), 0)


def test_a_weighted_buyer_of_half_the_area_gets_its_share_of_that_half() -> None:
    half = {"scope": "postal_code", "value": "60601"}
    world = make_world(
        *(candidate(number, weight=number, area=half if number == 4 else None) for number in WEIGHTS), rules=WEIGHTED
    )
    arrivals = list(in_two_halves(LEADS))
    order = served(world, iter(arrivals))
    within = [one for lead, one in zip(arrivals, order, strict=True) if lead.postal_code == "60601"]
    outside = [one for lead, one in zip(arrivals, order, strict=True) if lead.postal_code != "60601"]
    assert 4 not in outside
    assert_binomial(within.count(4), len(within), 4 / 10)
    for number in (1, 2, 3):
        assert_binomial(outside.count(number), len(outside), number / 6)
    assert_documented("buyer 4 serves half of the leads", *(order.count(number) for number in WEIGHTS), 0)


def test_equal_ranks_share_equally_by_the_hash() -> None:
    order = served(make_world(*(candidate(number) for number in range(1, 5)), rules=EQUAL_RANKS), leads(LEADS))
    for number in range(1, 5):
        assert_binomial(order.count(number), LEADS, 1 / 4)
    assert_documented("equal ranks, `lead_hash`", *(order.count(number) for number in range(1, 5)), 0)


def test_in_a_rotation_each_has_its_turn_before_anybody_has_two() -> None:
    order = served(make_world(*(candidate(number) for number in range(1, 5)), rules=ROTATION), leads(10_000))
    for number in range(1, 5):
        assert {4: 2_499} == gaps(order, number)
    assert_documented("four, all eligible", "4", "2,500 each")


def test_who_returns_from_a_pause_gets_the_next_lead_and_then_its_turn() -> None:
    world = make_world(*(candidate(number) for number in range(1, 5)), rules=ROTATION)

    def between(turn: int) -> None:
        if turn in (101, 201):
            for table, image in candidate(4, status="paused" if turn == 101 else "active"):
                world.apply(put(table, image), turn)

    order = served(world, leads(300), between)
    assert 0 == order[100:200].count(4)
    assert 4 == order[200]
    assert {4: 24} == gaps(order[200:], 4)
    assert {3} == set(gaps(order[100:200], 1))
    assert_documented("one returns after 100 leads of pause", "next lead, then every 4th", "25 of the next 100")


def test_a_full_buyer_leaves_its_turns_to_the_others() -> None:
    world = make_world(
        *(candidate(number, daily_cap=10 if number == 4 else None) for number in range(1, 5)), rules=ROTATION
    )
    order = served(world, leads(1_000))
    assert 10 == order.count(4)
    assert {3} == set(gaps(order[40:], 1))
    assert_documented("one with a daily cap of 10, 1,000 leads", "4, then 3", "330 each, 10 for the capped one")


def test_a_buyer_of_half_the_area_gets_its_turns_where_it_serves() -> None:
    world = make_world(
        candidate(1), candidate(2), candidate(3, area={"scope": "postal_code", "value": "60601"}), rules=ROTATION
    )
    order = served(world, in_two_halves(10_000))
    counts = [order.count(number) for number in (1, 2, 3)]
    assert 2_300 < counts[2] < 2_700
    assert_documented(
        "one of three serves half of the leads", "as it is due, where it serves", "{:,}, {:,} and {:,}".format(*counts)
    )


def test_a_new_buyer_has_one_lead_before_the_others_and_no_more() -> None:
    world = make_world(*(candidate(number) for number in range(1, 4)), rules=ROTATION)

    def between(turn: int) -> None:
        if turn == 301:
            for table, image in candidate(4):
                world.apply(put(table, image), turn)

    order = served(world, leads(500), between)
    assert (4, {4}) == (order[300], set(gaps(order[300:], 4)))
    assert buyer_id(4) in world.buyers
    assert_documented("a fourth joins after 300 leads", "next lead, then every 4th", "50 of the next 200")


@pytest.mark.parametrize(
    ("what", "first"),
    [
        ("all eligible", {}),
        ("the first with a daily cap of 100", {"daily_cap": 100}),
        ("the first serves half of the leads", {"area": {"scope": "postal_code", "value": "60601"}}),
    ],
)
def test_by_priority_the_next_one_gets_what_the_first_cannot_take(what: str, first: dict[str, Any]) -> None:
    world = make_world(
        candidate(1, priority_rank=1, **first), candidate(2, priority_rank=2), candidate(3, priority_rank=3)
    )
    order = served(world, in_two_halves(1_000))
    assert 0 == order.count(3)
    assert_documented(what, *(order.count(number) for number in (1, 2, 3)))

"""What a batch sends, by the names that the database has for it: both claims take dozens of arguments by place."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from pointsman import store
from pointsman.cache.indexes import Indexes
from pointsman.claim import VERSIONS, Batch, Beliefs
from pointsman.engine.capacity import caps
from pointsman.engine.configuration import NOBODY
from pointsman.engine.decide import Decision, decide
from pointsman.engine.record import digest, head, packed_state
from pointsman.model import Lead, instant
from pointsman.store import Version, queries_of
from tests.unit.worlds import (
    MARKET,
    NOON,
    OFFER,
    ONE,
    POLICY,
    THREE,
    TOKEN,
    TWO,
    VERTICAL,
    candidate,
    exclusivity,
    make_enrollment,
    make_lead,
    make_rules,
    make_world,
    put,
    uid,
)

FENCE, XMIN = 4_711, 815
AT = instant(NOON)
HOUR, DAY = AT, AT.replace(hour=0)
HOUR_END, DAY_END = HOUR + timedelta(hours=1), DAY + timedelta(days=1)
FIRST, SECOND, THIRD = (make_lead(id=uid(0x1, number)) for number in (1, 2, 3))
NOBODYS = make_lead(id=uid(0x1, 4), market_id=None, postal_code=None)


def make_scene() -> Indexes:
    """The first buyer is full, the second has every cap, the third has none; the holder of the offer cannot have it."""
    made = make_world(
        candidate(1),
        candidate(2, buyer_hourly_cap=13, buyer_daily_cap=14),
        candidate(3),
        exclusivity(buyer_id=uid(0xB, 9)),
        rules=make_rules(strategy={"kind": "rotation"}, exclusivity={"when_ineligible": "fallback_allowed"}),
    )
    for enrollment in (
        make_enrollment(buyer_id=ONE, daily_cap=6),
        make_enrollment(buyer_id=TWO, hourly_cap=11, daily_cap=12),
    ):
        made.apply(put("buyer_offers", enrollment), 2)
    made.version = 2
    return made


WORLD = make_scene()
BASIS = {
    "p_version": 2,
    "p_token": TOKEN,
    "p_fence": FENCE,
    "p_at": AT,
    **dict(zip(("p_engine", "p_tzdata", "p_unicode"), VERSIONS, strict=True)),
}


def make_batch() -> Batch:
    """A batch on beliefs to which one counter is new."""
    known = Beliefs()
    full, second, third = WORLD.covering(FIRST)
    hourly, hourly_of_buyer, _, daily_of_buyer = caps(second, NOON)
    for cap, used in ((caps(full, NOON)[0], 7), (hourly, 3), (hourly_of_buyer, 4), (daily_of_buyer, 5)):
        known.remember(cap.counter, used, cap.changed)
    known.positions = {second.turn: 70, third.turn: 90}
    return Batch(Version(WORLD.version, WORLD.token), AT, FENCE, known, known)


def decided(batch: Batch, lead: Lead) -> Decision:
    return decide(lead, WORLD, batch, NOON)


async def by_name(connection: asyncpg.Connection, function: str, arguments: Sequence[Any] | None) -> dict[str, Any]:
    """The arguments by the names under which the function takes them."""
    names = await connection.fetchval(
        "select proargnames[:pronargs] from pg_proc where oid = $1::text::regproc", f"pointsman.{function}"
    )
    assert arguments is not None
    return dict(zip(names, arguments, strict=True))


async def test_a_batch_sends_each_argument_in_the_place_where_the_claim_takes_it(
    connection: asyncpg.Connection,
) -> None:
    batch, leads = make_batch(), [FIRST, SECOND, THIRD, NOBODYS]
    for lead in leads:
        batch.add(decided(batch, lead))
    assert {
        **BASIS,
        "l_id": [lead.id for lead in leads],
        "l_offer": [OFFER] * 4,
        "l_vertical": [VERTICAL] * 4,
        "l_market": [MARKET, MARKET, MARKET, None],
        "l_postal_code": ["60601", "60601", "60601", None],
        "l_city": ["Chicago"] * 4,
        "l_outcome": ["routed", "routed", "routed", "no_route"],
        "l_cause": [None, None, None, "no_eligible_buyers"],
        "l_flags": ["exclusive_fallback"] * 4,
        "l_buyer": [TWO, THREE, TWO, None],
        "l_policy": [POLICY] * 4,
        "l_policy_version": [1] * 4,
        "l_winner": [1, 2, 1, 0],
        "l_head": [head(decision, 2, TOKEN) for decision in batch.decisions],
        "l_uses": [5, 6, 11, 11],
        "l_compares": [2, 4, 6, 6],
        "k_taken": 4,
        "k_buyer": [TWO, TWO, TWO, TWO, ONE],
        "k_offer": [NOBODY, NOBODY, OFFER, OFFER, OFFER],
        "k_kind": ["day", "hour", "day", "hour", "day"],
        "k_from": [DAY, HOUR, DAY, HOUR, DAY],
        "k_to": [DAY_END, HOUR_END, DAY_END, HOUR_END, DAY_END],
        "k_cap": [14, 13, 12, 11, 6],
        "k_changed": [1, 1, 2, 2, 2],
        "k_new": [False, False, True, False, False],
        "k_need": [2, 2, 2, 2, 0],
        "u_counter": [4, 2, 3, 1, -5, -5, 4, 2, 3, 1, -5],
        "u_ahead": [0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 0],
        "u_name": [4, 6, 5, 7, 1, 1, 4, 6, 5, 7, 1],
        "r_taken": 2,
        "r_buyer": [TWO, THREE],
        "r_offer": [OFFER, OFFER],
        "r_position": [70, 90],
        "r_new": [False, False],
        "c_entry": [-1, 2, 1, -2, -1, 2],
        "c_after": [0, 0, 1, 0, 1, 2],
    } == await by_name(connection, "claim_1", batch.arguments())


async def test_a_lone_lead_sends_each_argument_in_the_place_where_its_claim_takes_it(
    connection: asyncpg.Connection,
) -> None:
    batch = make_batch()
    batch.end(decided(batch, FIRST))
    record_head = head(batch.decisions[0], 2, TOKEN)
    state = packed_state([(4, 3), (6, 4), (5, 0), (7, 5), (1, 7)], [70, 90])
    assert {
        **BASIS,
        "p_undecided": XMIN,
        "p_lead": FIRST.id,
        "p_offer": OFFER,
        "p_vertical": VERTICAL,
        "p_market": MARKET,
        "p_postal_code": "60601",
        "p_city": "Chicago",
        "p_outcome": "routed",
        "p_cause": None,
        "p_flags": "exclusive_fallback",
        "p_buyer": TWO,
        "p_policy": POLICY,
        "p_policy_version": 1,
        "p_head": record_head,
        "p_state": state,
        "p_digest": digest(record_head, state),
        "p_hour": HOUR,
        "p_day": DAY,
        "p_hour_end": HOUR_END,
        "p_day_end": DAY_END,
        "e_changed": 2,
        "b_changed": 1,
        "p_place": 4,
        "e_hourly": 11,
        "e_daily": 12,
        "b_hourly": 13,
        "b_daily": 14,
        "e_hourly_used": 3,
        "e_daily_used": 0,
        "b_hourly_used": 4,
        "b_daily_used": 5,
        "is_new": True,
        "is_first": False,
        "f_buyer": [ONE],
        "f_from": [DAY],
        "f_name": [1],
        "f_cap": [6],
        "f_changed": [2],
        "f_used": [7],
        "p_position": 70,
        "v_buyer": [TWO, THREE],
        "v_position": [70, 90],
    } == await by_name(connection, "claim_one_1", batch.alone(XMIN))


@pytest.mark.parametrize(
    ("name", "function", "of_nobody"),
    [("claim", "claim_1", store._CLAIM_OF_NOTHING), ("claim_one", "claim_one_1", store._CLAIM_OF_NOBODY)],
)
async def test_a_statement_and_the_claim_that_prepares_it_have_as_many_arguments_as_the_function(
    connection: asyncpg.Connection, name: str, function: str, of_nobody: tuple[Any, ...]
) -> None:
    taken = await by_name(connection, function, of_nobody)
    sql = queries_of("queries")[name]
    assert [f"${place}" for place in range(1, len(taken) + 1)] == re.findall(r"\$\d+", sql)

"""Backtest: the same rules give what is recorded; others move caps and turns forward from their own choices."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.backtest import BuyerChange, backtest
from pointsman.errors import HistoryHole, InvalidHypothesis
from tests.builders import make_candidate, make_exclusivity, make_lead, make_offer, make_policy, rules
from tests.stage import set_clock, written

NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)
ROTATION = rules(strategy={"kind": "rotation"})
WEIGHTED = rules(strategy={"kind": "weighted", "salt": "2026"}, exclusivity={"when_ineligible": "fallback_allowed"})
PROMPT_FIRST = rules(
    tie_breakers=["least_recently_routed", "lead_hash", "buyer_id"], sla={"mode": "prefer", "max_response_seconds": 60}
)


async def random_past(database: str, connection: asyncpg.Connection, policy: Any, seed: int) -> None:
    """Some days of routing, batches and repeats included, while caps, zones, hours and enrollments change."""
    random = Random(seed)
    offers = [await make_offer(connection) for _ in range(2)]
    buyers: list[UUID] = []
    for _ in range(6):
        buyers.append(
            await make_candidate(
                connection,
                offers[0],
                enrollment={"daily_cap": random.choice([1, 2, 4]), "priority_rank": random.choice([1, 1, 2])},
                hourly_cap=random.choice([None, 1, 3]),
                sla_response_seconds=random.choice([None, 30, 90]),
            )
        )
        await connection.execute(
            "insert into buyer_offers (buyer_id, offer_id, weight, daily_cap) values ($1, $2, 3, 2)",
            buyers[-1],
            offers[1],
        )
    await make_exclusivity(connection, offers[1], buyers[0], scope="offer", valid_to=NOON + timedelta(hours=9))
    await make_policy(connection, rules=policy)
    changes = (
        "update buyers set timezone = 'Asia/Kolkata' where id = $1",
        "update buyers set hourly_cap = 2 where id = $1",
        "update buyers set status = case status when 'active' then 'paused' else 'active' end where id = $1",
        "update buyer_offers set daily_cap = 5 where buyer_id = $1",
        "delete from buyer_service_areas where buyer_id = $1",
        "insert into buyer_service_areas (id, buyer_id, market_id, scope, is_active)"
        " select gen_random_uuid(), $1, '00000000-0000-4000-8000-00000000000b', 'market', true on conflict do nothing",
    )
    leads: list[UUID] = []
    async with Router.open(database) as router:
        for step in range(25):
            await set_clock(connection, NOON + timedelta(minutes=47 * step))
            leads += [await make_lead(connection, random.choice(offers)) for _ in range(4)]
            await router.route_many(random.sample(leads, min(7, len(leads))))
            await connection.execute(random.choice(changes), random.choice(buyers))
            if step % 6 == 5:  # validated anew: another attempt
                await connection.execute(
                    "update leads set status = 'validated', buyer_id = null where id = $1", random.choice(leads)
                )


@pytest.mark.parametrize(("policy", "seed"), [(ROTATION, 1), (WEIGHTED, 2), (PROMPT_FIRST, 3), (rules(), 4)])
async def test_the_policy_that_was_in_force_gives_what_is_recorded(
    database: str, connection: asyncpg.Connection, policy: Any, seed: int
) -> None:
    await random_past(database, connection, policy, seed)
    found = await backtest(database, policy)
    assert found.leads > 40
    assert 0 == found.changed
    assert found.recorded == found.drafted
    assert found.recorded["routed"] > 20
    assert found.hours
    assert all((buyer.gained, buyer.lost) == (0, 0) for buyer in found.buyers)
    middle = await connection.fetchval("select decided_at from pointsman.decisions where id = 40")
    assert 0 == (await backtest(database, policy, since=middle)).changed


async def test_draft_that_rotates_gives_the_second_buyer_its_turns(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    async with Router.open(database) as router:
        for _ in range(4):
            await router.route(await make_lead(connection, offer))
    before = await written(connection)
    seen: list[tuple[int, int]] = []
    found = await backtest(database, ROTATION, progress=lambda done, total: seen.append((done, total)))
    assert before == await written(connection)
    assert {BuyerChange(first, 4, 2, 0, 2), BuyerChange(second, 0, 2, 2, 0)} == set(found.buyers)
    assert (4, 2, 0, {}) == (found.leads, found.changed, found.new_routes, found.new_no_routes)
    assert [(4, 4)] == seen


async def test_caps_move_forward_from_the_draft_s_own_choices(database: str, connection: asyncpg.Connection) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    capped = await make_candidate(connection, offer, enrollment={"priority_rank": 2, "daily_cap": 1})
    closing = await make_candidate(
        connection, offer, enrollment={"priority_rank": 1}, hours={"weekly": {"wed": [["12:00", "12:30"]]}}
    )
    await make_policy(connection, rules=rules(constraints=[]))
    leads = [await make_lead(connection, offer) for _ in range(3)]
    async with Router.open(database) as router:
        await router.route(leads[0])
        await set_clock(connection, NOON + timedelta(hours=1))
        for lead in leads[1:]:
            await router.route(lead)
    found = await backtest(database, rules())
    # the second lead goes to the capped buyer, for the third there is nobody
    assert {capped: (0, 1), closing: (3, 1)} == {
        buyer.buyer_id: (buyer.recorded, buyer.drafted) for buyer in found.buyers
    }
    assert {"no_eligible_buyers": 1} == found.new_no_routes
    assert [(NOON + timedelta(hours=1), 0, 1)] == [(hour.start, hour.recorded, hour.drafted) for hour in found.hours]


async def test_lead_that_the_draft_has_routed_is_not_decided_again(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, status="paused")
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        await router.route(lead)
        await connection.execute("update buyers set status = 'active'")
        await router.route(lead)
    found = await backtest(database, rules(constraints=[]))
    assert (1, 0, [BuyerChange(buyer, 1, 1, 0, 0)]) == (found.leads, found.changed, found.buyers)


async def test_draft_may_stand_in_for_one_policy_alone(database: str, connection: asyncpg.Connection) -> None:
    offer, other = await make_offer(connection), await make_offer(connection)
    for one in (offer, other):
        await make_candidate(connection, one)
    await make_policy(connection)
    replaced = await make_policy(connection, offer_id=other)
    async with Router.open(database) as router:
        for one in (offer, other):
            await router.route(await make_lead(connection, one))
    strict = rules(sla={"mode": "require", "max_response_seconds": 1})
    assert 2 == (await backtest(database, strict)).changed
    assert 1 == (await backtest(database, strict, replaces=replaced)).changed
    assert 0 == (await backtest(database, strict, replaces=uuid4())).changed


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("delete from pointsman.config_commit where version = {version}", "have lost their commit"),
        (
            "with c as (delete from pointsman.config_commit where version = {version} returning change_set)"
            " delete from pointsman.config_log l using c where l.change_set = c.change_set",
            "version {version}, which decision 1",
        ),
        (
            "delete from pointsman.config_log where change_set ="
            " (select change_set from pointsman.config_commit where version = {version})",
            "what version {version} changed is missing",
        ),
        ("delete from pointsman.config_log where rel = 'routing_policies'", "the policy `"),
        ("update pointsman.config_commit set baseline = false", "has no baseline"),
    ],
    ids=["commit", "version", "entries", "policy", "baseline"],
)
async def test_history_with_a_hole_is_told_and_not_decided_on(
    database: str, connection: asyncpg.Connection, damage: str, said: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    async with connection.transaction():  # so that what they lose does not leave an empty commit
        await make_policy(connection)
        await make_offer(connection)
    async with Router.open(database) as router:
        version = (await router.route(await make_lead(connection, offer))).config_version
    assert await connection.execute(damage.format(version=version)) not in ("UPDATE 0", "DELETE 0")
    with pytest.raises(HistoryHole, match=said.format(version=version)):
        await backtest(database, rules())


async def test_row_that_was_changed_is_no_hole(database: str, connection: asyncpg.Connection) -> None:
    """Replay's business: a backtest goes by what the row says."""
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    async with Router.open(database) as router:
        await router.route(await make_lead(connection, offer))
    await connection.execute("update pointsman.decisions set policy_id = gen_random_uuid()")
    assert 0 == (await backtest(database, rules())).changed


async def test_rules_that_cannot_be_used_are_refused_with_their_place(database: str) -> None:
    with pytest.raises(InvalidHypothesis, match="tie_breakers"):
        await backtest(database, rules(tie_breakers=[]))


async def test_nothing_recorded_is_nothing_to_compare(database: str) -> None:
    assert 0 == (await backtest(database, rules())).leads

"""The routers that the bench compares ours with: they do the same job, or their figures mean nothing."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from random import Random

import asyncpg
import pytest

from bench.checks import STREAMS, TIMES, Disagreement, check
from bench.peers import install
from bench.peers.rules import NOBODY, is_open
from bench.peers.unbatched import unbatched
from bench.workloads import PEERS, SQL, UNBATCHED
from bench.worlds import BenchWorld, Form, fill, fresh
from pointsman import world as demo
from pointsman.engine.hours import compile_hours
from pointsman.engine.zones import zone
from pointsman.model import micros

pytestmark = pytest.mark.timeout(60)

ZONES = ("America/New_York", "America/Phoenix", "Pacific/Honolulu")


@pytest.fixture
async def small(database: str) -> BenchWorld:
    world = BenchWorld(Form(buyers=1_000))
    await fill(database, world)
    await install(database)
    return world


async def test_every_peer_gives_the_same_leads_to_the_same_buyers(database: str, small: BenchWorld) -> None:
    assert STREAMS * TIMES == await check(database, small, {**PEERS, UNBATCHED: unbatched})


async def test_a_peer_that_gives_leads_to_other_buyers_is_found_out(
    connection: asyncpg.Connection, database: str, small: BenchWorld
) -> None:
    body = await connection.fetchval("select pg_get_functiondef('peers.route(uuid)'::regprocedure)")
    await connection.execute(body.replace("e.weight desc", "e.weight"))
    with pytest.raises(Disagreement, match=SQL):
        await check(database, small, {SQL: PEERS[SQL]})


@pytest.mark.parametrize("name", PEERS)
async def test_no_peer_passes_a_cap_with_many_callers(
    connection: asyncpg.Connection, database: str, small: BenchWorld, name: str
) -> None:
    await connection.execute("update buyer_offers set hourly_cap = 3; update buyers set daily_cap = 5")
    leads = fresh(small.streams("caps", 4), 120, Random(1))
    await demo.insert_leads(connection, leads)
    async with PEERS[name](database) as peer:
        await asyncio.gather(*(peer.route(lead.id) for lead in leads))
    used = await connection.fetch("select offer_id = $1 as is_buyers, kind, used from peers.usage", NOBODY)
    of_enrollments = [row["used"] for row in used if row["kind"] == "hour" and not row["is_buyers"]]
    of_buyers = [row["used"] for row in used if row["kind"] == "day" and row["is_buyers"]]
    assert 3 == max(of_enrollments)
    assert 5 >= max(of_buyers)
    routed = await connection.fetchval("select count(*) from leads where buyer_id is not null")
    assert (routed, routed) == (sum(of_enrollments), sum(of_buyers))


async def test_the_peers_know_acceptance_hours_as_the_engine_does(
    connection: asyncpg.Connection, small: BenchWorld
) -> None:
    dice = Random(7)
    weeks = [buyer.acceptance_hours for buyer in small.buyers() if buyer.acceptance_hours]
    asked = [
        (dice.choice(weeks), dice.choice(ZONES), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(minutes=minute))
        for minute in dice.choices(range(365 * 24 * 60), k=400)
    ]
    expected = [compile_hours(json.loads(week), zone(timezone)).is_open(micros(at)) for week, timezone, at in asked]
    in_sql = [await connection.fetchval("select peers.is_open($1, $2, $3)", *question) for question in asked]
    assert expected == in_sql
    assert expected == [is_open(json.loads(week), timezone, at) for week, timezone, at in asked]
    assert {True, False} == set(expected)

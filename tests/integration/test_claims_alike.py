"""However leads come to be claimed, one by one, in batches, by several routers, what is written is the same."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from pointsman import Outcome, Router, world
from pointsman.claim import Batch
from pointsman.store import Store
from tests.conftest import Server
from tests.stage import set_clock

NOON = datetime(2026, 6, 10, 17, 5, tzinfo=UTC)
WRITTEN = {
    "decisions": "select * from pointsman.decisions order by id",
    "counters": "select buyer_id, offer_id, kind, window_start, used from pointsman.cap_usage order by 1, 2, 3, 4",
    "turns": "select buyer_id, offer_id, position from pointsman.rotation order by 1, 2",
    "leads": "select * from leads order by id",
}

Route = Callable[[str, list[UUID]], Awaitable[None]]


@pytest.fixture(params=range(3))
async def seed(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture
async def scene(server: Server, template: str, seed: int) -> AsyncIterator[tuple[str, list[UUID]]]:
    """The name of a database with a small, busy world, for copying, and its leads in order."""
    name = await server.create(template)
    connection = await asyncpg.connect(server.dsn_for(name))
    made = world.build(seed, buyers=40, areas=500, exclusivities=15)
    await world.insert(connection, made)
    await world.insert_leads(connection, world.leads(made, 150, seed))
    await connection.execute("update buyer_offers set hourly_cap = 2 where hashtext(buyer_id::text) % 2 = 0")
    await set_clock(connection, NOON)
    leads = [row["id"] for row in await connection.fetch("select id from leads order by md5(id::text)")]
    await connection.close()
    yield name, leads
    await server.drop(name)


async def written(server: Server, scene: tuple[str, list[UUID]], route: Route) -> dict[str, list[tuple[Any, ...]]]:
    """What is in a copy of the scene after its leads, and an hour later the first of them once more, were routed."""
    name = await server.create(scene[0])
    try:
        connection = await asyncpg.connect(server.dsn_for(name))
        leads = scene[1]
        await route(server.dsn_for(name), leads[:110])
        await set_clock(connection, NOON + timedelta(hours=1))
        await connection.execute(
            "update leads set status = 'validated', buyer_id = null where id = any($1::uuid[])", leads[:20]
        )
        await route(server.dsn_for(name), leads[:20] + leads[110:])
        found = {what: [tuple(row) for row in await connection.fetch(sql)] for what, sql in WRITTEN.items()}
        gates = [turn for turn in found["turns"] if turn[1] != UUID(int=0)]
        await connection.close()
        return found | {"turns": gates}
    finally:
        await server.drop(name)


async def one_by_one(dsn: str, leads: list[UUID]) -> None:
    async with Router.open(dsn) as router:
        for lead in leads:
            await router.route(lead)


async def all_at_once(dsn: str, leads: list[UUID]) -> None:
    async with Router.open(dsn) as router:
        assert all(isinstance(answer, Outcome) for answer in await router.route_many(leads))


async def by_two_routers_in_turn(dsn: str, leads: list[UUID]) -> None:
    """Each finds usage and positions other than it believes."""
    async with Router.open(dsn) as one, Router.open(dsn) as other:
        for index, lead in enumerate(leads):
            await (one, other)[index % 2].route(lead)


async def test_a_lone_claim_writes_what_the_batchs_claim_writes(
    server: Server, scene: tuple[str, list[UUID]], monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    claim, claim_one = Store.claim, Store.claim_one

    async def noted(*arguments: Any) -> list[int] | None:
        answers.append(await claim_one(*arguments))
        return answers[-1]

    async def of_nobody(self: Store, connection: asyncpg.Connection, arguments: list[Any]) -> Any:
        assert arguments[16] == [None]  # no-routes that may have been recorded before; first turns come alone too
        return await claim(self, connection, arguments)

    monkeypatch.setattr(Store, "claim", of_nobody)
    monkeypatch.setattr(Store, "claim_one", noted)
    alone = await written(server, scene, one_by_one)
    monkeypatch.setattr(Store, "claim", claim)
    assert len(answers) > 100
    assert None not in answers
    assert {"routed", "no_route"} <= {row[11] for row in alone["decisions"]}
    monkeypatch.setattr(Batch, "alone", lambda batch, undecided: None)
    assert alone == await written(server, scene, one_by_one)


async def test_batches_write_what_lone_claims_write(server: Server, scene: tuple[str, list[UUID]], seed: int) -> None:
    async def in_batches(dsn: str, leads: list[UUID]) -> None:
        cuts = sorted({0, len(leads), *random.Random(seed).sample(range(1, len(leads)), 12)})
        async with Router.open(dsn) as router:
            for start, end in pairwise(cuts):
                await router.route_many(leads[start:end])

    alone = await written(server, scene, one_by_one)
    assert alone == await written(server, scene, in_batches)
    assert alone == await written(server, scene, all_at_once)


async def test_wrong_beliefs_change_nothing_that_is_written(server: Server, scene: tuple[str, list[UUID]]) -> None:
    alone = await written(server, scene, one_by_one)
    rivals = await written(server, scene, by_two_routers_in_turn)
    # a claim that did not hold draws no number, or one that nobody sees
    assert as_counted(alone) == as_counted(rivals)


def as_counted(found: dict[str, list[tuple[Any, ...]]]) -> list[Any]:
    """All but what the numbers of the decisions enter: who got which lead in which order, and what was counted."""
    return [[row[1:19] for row in found["decisions"]], found["counters"], found["leads"]]

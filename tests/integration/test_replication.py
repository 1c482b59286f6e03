"""Configuration that logical replication itself writes, and transactions that are prepared: on a server of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from pointsman import Router
from pointsman.cache.indexes import TABLES
from pointsman.migrate import migrate
from tests.builders import enroll, make_area, make_buyer, make_candidate, make_lead, make_offer, make_policy
from tests.conftest import Server
from tests.invariants import violations
from tests.stage import another, follows, until, version


@asynccontextmanager
async def subscribed(server: Server, publisher: str, subscriber: str) -> AsyncIterator[None]:
    """All configuration tables of `publisher` replicated into `subscriber`, what is in them already included."""
    name = f"config_{subscriber[-16:]}"
    async with another(server.dsn_for(publisher)) as source, another(server.dsn_for(subscriber)) as target:
        await source.execute(f"create publication {name} for table {', '.join(TABLES)}")
        # on one server a subscription that made its own slot would wait for itself
        await source.execute("select pg_create_logical_replication_slot($1, 'pgoutput')", name)
        await target.execute(
            f"create subscription {name} connection '{server.dsn_for(publisher)}' publication {name}"
            " with (create_slot = false)"
        )
        try:
            yield
        finally:
            await target.execute(f"drop subscription {name}")


async def copied(connection: asyncpg.Connection) -> None:
    """Wait until the tables' first copy is done, and only changes come."""

    async def ready() -> bool:
        return await connection.fetchval("select count(*) = 6 and bool_and(srsubstate = 'r') from pg_subscription_rel")

    await until(ready, "the first copy")


async def gets(connection: asyncpg.Connection, query: str, expected: object) -> None:
    """Wait until the subscriber has what the publisher wrote."""

    async def has() -> bool:
        return await connection.fetchval(query) == expected

    await until(has, query)


@pytest.fixture
async def published(replicating_server: Server) -> AsyncIterator[tuple[str, str]]:
    """The addresses of a publisher without our schema in use and of a subscriber that routes."""
    server = replicating_server
    publisher, subscriber = [await server.create("template0") for _ in range(2)]
    for name in (publisher, subscriber):
        await migrate(server.dsn_for(name), with_host_tables=True)
    try:
        async with subscribed(server, publisher, subscriber):
            yield server.dsn_for(publisher), server.dsn_for(subscriber)
    finally:
        await server.drop(subscriber)
        await server.drop(publisher)


@pytest.fixture
async def preparing(replicating_server: Server) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a migrated database where transactions can be prepared."""
    name = await replicating_server.create("template0")
    await migrate(replicating_server.dsn_for(name), with_host_tables=True)
    async with another(replicating_server.dsn_for(name)) as connection:
        yield connection
    await replicating_server.drop(name)


async def test_change_that_is_applied_by_logical_replication_moves_the_version_and_reaches_the_cache(
    published: tuple[str, str],
) -> None:
    publisher, subscriber = published
    async with (
        another(publisher) as source,
        another(subscriber) as target,
        Router.open(subscriber) as router,
    ):
        async with source.transaction():
            offer = await make_offer(source)
            first = await make_candidate(source, offer, enrollment={"priority_rank": 1})
            second = await make_candidate(source, offer, enrollment={"priority_rank": 2})
            await make_policy(source)
        await copied(target)
        await gets(target, "select count(*) from buyer_service_areas", 2)
        assert first == (await router.route(await make_lead(target, offer))).buyer_id

        before = await version(target)
        await source.execute("update buyers set status = 'paused' where id = $1", first)
        await gets(target, "select count(*) from buyers where status = 'paused'", 1)
        assert before + 1 == await version(target)
        await follows(router, target)  # unasked
        assert second == (await router.route(await make_lead(target, offer))).buyer_id

        async with source.transaction():  # whole or not at all
            third = await make_buyer(source)
            await make_area(source, third)
            await enroll(source, third, offer, priority_rank=0)
            await source.execute("delete from buyer_offers where buyer_id = $1", second)
        await gets(target, "select count(*) from buyer_offers where priority_rank = 0", 1)
        assert before + 2 == await version(target)
        assert third == (await router.route(await make_lead(target, offer))).buyer_id

        await source.execute("truncate buyer_service_areas")
        await gets(target, "select count(*) from buyer_service_areas", 0)
        assert "no_route" == (await router.route(await make_lead(target, offer))).outcome
        await follows(router, target)
        assert {} == await router.cache.verify()
        assert [] == await violations(target)


async def test_change_of_configuration_cannot_be_prepared_and_leaves_no_version(preparing: asyncpg.Connection) -> None:
    before = await version(preparing)
    await preparing.execute("begin")
    await make_buyer(preparing)
    with pytest.raises(asyncpg.FeatureNotSupportedError, match="NOTIFY"):
        await preparing.execute("prepare transaction 'change'")
    await preparing.execute("rollback")
    assert before == await version(preparing)
    for statement in ("begin", "prepare transaction 'nothing'", "rollback prepared 'nothing'"):
        await preparing.execute(statement)  # this server refuses no other

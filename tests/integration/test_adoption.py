"""The router comes to a database that somebody else made, while that somebody goes on, and leaves it as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import pytest

import pointsman.migrate
from pointsman import Router
from pointsman.migrate import migrate, remove
from tests.catalog import catalog
from tests.hosts import Traffic, fill, make_django, make_sqlalchemy
from tests.invariants import violations
from tests.stage import another, kinds, records, served, until, waiting_for_a_lock

LEADS = 50_000
MADE_BY = pytest.mark.parametrize("make", [make_django, make_sqlalchemy], ids=["django", "sqlalchemy"])
HOST_TABLES = (
    "buyer_offers",
    "buyer_service_areas",
    "buyers",
    "leads",
    "offer_exclusivities",
    "offers",
    "routing_policies",
)
HELD = """
select l.relation::regclass::text as "table", l.mode from pg_locks l join pg_stat_activity a using (pid)
where a.application_name = 'pointsman migrate' and a.datname = current_database() and l.granted
  and l.relation::regclass::text = any($1) order by 1, 2
"""


async def digests(dsn: str) -> dict[str, str]:
    """A digest of each table's rows, of leads without what a router writes."""
    found = {}
    async with another(dsn) as connection:
        for table in HOST_TABLES:
            row = "to_jsonb(r) - '{status,buyer_id,routed_at}'::text[]" if table == "leads" else "to_jsonb(r)"
            found[table] = await connection.fetchval(
                f"select md5(string_agg(x, ' ' order by x)) from (select ({row})::text as x from {table} r) x"
            )
    return found


async def held(connection: asyncpg.Connection) -> list[tuple[str, str]]:
    """The locks on the host's tables that a migration has."""
    return [tuple(row) for row in await connection.fetch(HELD, list(HOST_TABLES))]


class Report:
    """What a migration tells, to be waited for."""

    def __init__(self) -> None:
        self.gave_way = asyncio.Event()

    def __call__(self, line: str) -> None:
        if "trying again" in line:
            self.gave_way.set()


@MADE_BY
async def test_database_of_somebody_elses_is_routed_on_and_left_as_it_was(
    empty_database: str, make: Callable[[str], Awaitable[None]]
) -> None:
    await make(empty_database)
    await fill(empty_database, leads=400)
    before = await catalog(empty_database), await digests(empty_database)
    await migrate(empty_database)
    assert before[0] != await catalog(empty_database)
    async with another(empty_database) as connection, Router.open(empty_database) as router:
        leads = [row["id"] for row in await connection.fetch("select id from leads order by id")]
        assert {"routed"} == set(kinds(await router.route_many(leads[:300])))
        assert 300 == len(await served(connection))
        assert [] == await violations(connection)
    await remove(empty_database)
    assert before == (await catalog(empty_database), await digests(empty_database))
    async with another(empty_database) as connection:
        rows = await connection.fetch("select status::text, count(buyer_id) from leads group by 1 order by 1")
        assert [("routed", 300), ("validated", 0)] == [tuple(row) for row in rows]


async def test_buyer_deleted_under_a_claim_is_a_conflict_though_its_keys_are_checked_at_commit(
    empty_database: str,
) -> None:
    await make_django(empty_database)
    await fill(empty_database, leads=1)
    await migrate(empty_database)
    async with (
        another(empty_database) as connection,
        another(empty_database) as host,
        Router.open(empty_database) as router,
    ):
        lead = await connection.fetchval("select id from leads")
        first = (await router.explain(lead)).eligible[0].buyer_id
        async with host.transaction():
            await host.execute("delete from buyer_offers where buyer_id = $1", first)
            await host.execute("delete from buyer_service_areas where buyer_id = $1", first)
            await host.execute("delete from offer_exclusivities where buyer_id = $1", first)
            await host.execute("delete from buyers where id = $1", first)
            call = asyncio.ensure_future(router.route(lead))
            await waiting_for_a_lock(connection)
        answer = await call
        assert "routed" == answer.outcome
        assert first != answer.buyer_id
        assert [] == await violations(connection)


async def test_host_goes_on_while_the_router_comes_and_goes(empty_database: str) -> None:
    await make_django(empty_database)
    await fill(empty_database, leads=LEADS, areas=10_000)
    before = await catalog(empty_database)
    async with Traffic(empty_database, LEADS) as traffic:
        await migrate(empty_database)
        async with another(empty_database) as connection, Router.open(empty_database) as router:
            leads = [row["id"] for row in await connection.fetch("select id from leads limit 500")]
            assert {"routed"} == set(kinds(await router.route_many(leads)))
            assert 500 == len(await records(connection))

            async def everybody_worked() -> bool:
                return len(traffic.done) == 5 and min(traffic.done.values()) > 2

            await until(everybody_worked, "traffic")
            assert [] == await violations(connection)
        await remove(empty_database)
    assert before == await catalog(empty_database)


async def comes(dsn: str, report: Callable[[str], None]) -> None:
    await migrate(dsn, report=report)


async def goes(dsn: str, report: Callable[[str], None]) -> None:
    await remove(dsn, report=report)


@pytest.mark.parametrize("way", [comes, goes])
@pytest.mark.parametrize("table", ["offers", "buyers", "routing_policies"])
async def test_migration_that_waits_for_a_table_lets_the_host_pass_and_holds_no_other(
    database: str, connection: asyncpg.Connection, way: Callable[..., Awaitable[None]], table: str
) -> None:
    if way is comes:
        await remove(database)
    report = Report()
    async with another(database) as host:
        transaction = host.transaction()
        await transaction.start()
        await host.execute(f"update {table} set name = name")
        migration = asyncio.create_task(way(database, report))
        await asyncio.wait_for(report.gave_way.wait(), 20)
        for other in HOST_TABLES:
            # to be let in, a statement waits for the end of a try and no longer, however long the host's transaction is
            await connection.execute(f"lock table {other} in row exclusive mode; select 1")
        assert [] == await held(connection)
        assert not migration.done()
        await transaction.commit()
        await asyncio.wait_for(migration, 60)


async def test_migration_asks_for_locks_no_longer_than_a_host_can_bear(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    attach = pointsman.migrate._attach
    timeouts = []

    async def watched(migrating: asyncpg.Connection, *arguments: Any) -> bool:
        timeouts.append(await migrating.fetchval("select setting::int from pg_settings where name = 'lock_timeout'"))
        assert [] == await held(connection)
        return await attach(migrating, *arguments)

    await remove(database)
    monkeypatch.setattr(pointsman.migrate, "_attach", watched)
    await migrate(database)
    assert [100] * 6 == timeouts


async def test_baseline_reads_with_locks_that_stop_no_statement_of_the_host(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_table = pointsman.migrate._log_table
    seen = set()

    async def watched(*arguments: Any) -> int:
        rows = await log_table(*arguments)
        seen.update(await held(connection))
        return rows

    await remove(database)
    await connection.execute("insert into buyers (name) select 'Ann' from generate_series(1, 100)")
    monkeypatch.setattr(pointsman.migrate, "_log_table", watched)
    await migrate(database)
    assert {(table, "AccessShareLock") for table in HOST_TABLES if table != "leads"} == seen

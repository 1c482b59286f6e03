"""Installing, upgrading and taking away the router's schema, beside a host that goes on writing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

import pointsman.migrate
from pointsman.cache.indexes import TABLES
from pointsman.errors import Busy, DatabaseUnfit, PointsmanError, StoreUnavailable
from pointsman.migrate import (
    SchemaNewer,
    SchemaUnfit,
    grants,
    migrate,
    migrations,
    remove,
    required_version,
)
from tests.catalog import catalog

LOG = """
select c.version, c.baseline, l.rel, l.op::text as op, l.key, l.row::text as row
from pointsman.config_commit c join pointsman.config_log l using (change_set)
where c.version >= (select max(version) from pointsman.config_commit where baseline) order by c.version, l.seq
"""
COMMITS = "select version, baseline from pointsman.config_commit order by version"
ADOPTED = """
create schema app;
create type app.lead_status as enum ('fresh', 'validated', 'routed', 'lost');
create domain app.key as uuid;
create domain app.label as varchar(40) check (value <> '');
create table app.offers (id app.key primary key, name varchar(9), vertical_id uuid, is_active bool, colour text);
create table app.buyers (name text, status app.label, id uuid unique, acceptance_hours json, hourly_cap smallint,
                         min_balance numeric);
create table app.buyer_offers (offer_id uuid, buyer_id uuid, is_active bool, priority_rank bigint, weight smallint,
                               hourly_cap int, daily_cap int, created_at timestamptz(3),
                               primary key (offer_id, buyer_id));
create table app.buyer_service_areas (id uuid primary key, buyer_id uuid, market_id uuid, scope varchar, value char(8),
                                      is_active bool);
create table app.offer_exclusivities (id uuid primary key, offer_id uuid, buyer_id uuid, market_id uuid, scope text,
                                      value text, valid_from timestamptz, valid_to timestamptz, is_active bool);
create table app.routing_policies (id uuid primary key, name text, offer_id uuid, vertical_id uuid, market_id uuid,
                                   version smallint, is_active bool, rules json);
create table app.leads (id uuid primary key, offer_id uuid, vertical_id uuid, market_id uuid, postal_code varchar(9),
                        city text, status app.lead_status, buyer_id uuid, routed_at timestamptz,
                        created_at timestamptz);
"""
State = dict[tuple[str, str], dict[str, Any]]


@asynccontextmanager
async def connected(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pointsman.migrate, "LOCK_TIMEOUT", "50ms")
    monkeypatch.setattr(pointsman.migrate, "PATIENCE_SECONDS", 0.1)


async def run(dsn: str, script: str) -> None:
    async with connected(dsn) as connection:
        await connection.execute(script)


async def commits(dsn: str) -> list[tuple[int, bool]]:
    """(version, baseline) of every commit."""
    async with connected(dsn) as connection:
        return [tuple(row) for row in await connection.fetch(COMMITS)]


async def by_tables(connection: asyncpg.Connection) -> State:
    state: State = {}
    for table in TABLES:
        for (text,) in await connection.fetch(f"select to_jsonb(i)::text from pointsman.image_{table} i"):
            image = json.loads(text)
            key = f"{image['buyer_id']}:{image['offer_id']}" if table == "buyer_offers" else image["id"]
            state[table, key] = image
    return state


async def by_log(connection: asyncpg.Connection) -> State:
    """The state since the last baseline; what is made must not have been there, and what goes must have been."""
    state: State = {}
    for _, baseline, table, op, key, image in await connection.fetch(LOG):
        if table == "":  # for caches: load anew
            continue
        assert baseline == (op in "bt")
        assert op not in "ib" or (table, key) not in state
        if op == "d":
            del state[table, key]
        elif op != "t":
            state[table, key] = json.loads(image)
    return state


def at(dsn: str, **settings: str) -> str:
    """`dsn` with server settings."""
    return dsn + ("&" if "?" in dsn else "?") + "&".join(f"{name}={value}" for name, value in settings.items())


# installing


async def test_fresh_install_makes_the_tables_and_a_baseline_as_first_version(empty_database: str) -> None:
    done = await migrate(empty_database, with_host_tables=True)
    assert done.made_host_tables
    assert done.applied == tuple(migration.version for migration in migrations())
    assert done.attached == TABLES
    assert (done.host_schema, done.baseline) == ("public", 1)
    assert await commits(empty_database) == [(1, True)]


async def test_second_run_changes_nothing(database: str) -> None:
    before, versions = await catalog(database), await commits(database)
    for with_host_tables in (False, True):
        assert not (await migrate(database, with_host_tables=with_host_tables)).changed
    assert await catalog(database) == before
    assert await commits(database) == versions


async def test_fresh_install_equals_upgrade_step_by_step(
    database: str, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations()
    for count in range(1, len(steps) + 1):
        monkeypatch.setattr(pointsman.migrate, "migrations", lambda count=count: steps[:count])
        done = await migrate(empty_database, with_host_tables=count == 1)
        assert done.applied == (steps[count - 1].version,)
    assert await catalog(empty_database) == await catalog(database)


async def test_migration_that_fails_leaves_nothing_of_itself(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = migrations()
    broken = steps[0]._replace(sql=steps[0].sql + ";select 1/0")
    monkeypatch.setattr(pointsman.migrate, "migrations", lambda: [broken, *steps[1:]])
    with pytest.raises(DatabaseUnfit, match="division by zero"):
        await migrate(empty_database, with_host_tables=True)
    assert [line for line in await catalog(empty_database) if "pointsman" in line] == []
    monkeypatch.setattr(pointsman.migrate, "migrations", lambda: steps)
    assert (await migrate(empty_database)).baseline == 1


async def test_two_at_once_are_one_after_the_other(empty_database: str) -> None:
    both = await asyncio.gather(*(migrate(empty_database, with_host_tables=True) for _ in range(2)))
    assert sorted(done.changed for done in both) == [False, True]
    assert await commits(empty_database) == [(1, True)]


async def test_schema_of_a_later_release_is_refused(database: str) -> None:
    await run(database, f"insert into pointsman.migration (version, name) values ({required_version() + 1}, 'later')")
    with pytest.raises(SchemaNewer, match="upgrade the router"):
        await migrate(database)


async def test_empty_schema_that_was_made_for_the_router_is_used(empty_database: str) -> None:
    await run(empty_database, "create schema pointsman")
    assert (await migrate(empty_database, with_host_tables=True)).baseline == 1


async def test_hosts_tables_are_never_made_in_the_routers_schema(empty_database: str) -> None:
    await run(empty_database, "create schema pointsman")
    with pytest.raises(DatabaseUnfit, match="no schema but `pointsman` on the search path"):
        await migrate(at(empty_database, search_path="pointsman"), with_host_tables=True)
    routers_first = at(empty_database, search_path="pointsman,public")
    assert (await migrate(routers_first, with_host_tables=True)).host_schema == "public"
    await remove(routers_first)
    async with connected(empty_database) as connection:
        assert await connection.fetchval("select to_regclass('public.leads') is not null")


async def test_schema_of_somebody_else_is_left_alone(empty_database: str) -> None:
    await run(empty_database, "create schema pointsman; create table pointsman.trains (id int)")
    with pytest.raises(DatabaseUnfit, match="belongs to something else"):
        await migrate(empty_database, with_host_tables=True)


@pytest.mark.parametrize(
    ("dsn", "error"),
    [
        ("postgresql://127.0.0.1:1/nobody", StoreUnavailable),
        ("nonsense://", DatabaseUnfit),
        ("postgresql://127.0.0.1:port/x", DatabaseUnfit),
    ],
)
async def test_database_that_cannot_be_reached_is_one_clear_error(dsn: str, error: type[PointsmanError]) -> None:
    with pytest.raises(error, match="address"):
        await migrate(dsn)


async def test_database_that_does_not_exist_is_one_clear_error(empty_database: str) -> None:
    with pytest.raises(DatabaseUnfit, match="does not exist; check its address"):
        await migrate(urlsplit(empty_database)._replace(path=f"/none_{uuid4().hex}").geturl())


async def test_read_only_database_is_one_clear_error(empty_database: str) -> None:
    with pytest.raises(DatabaseUnfit, match="read-only"):
        await migrate(at(empty_database, default_transaction_read_only="on"), with_host_tables=True)


# a host's own tables


async def test_tables_of_compatible_types_are_adopted(empty_database: str) -> None:
    await run(empty_database, ADOPTED)
    await run(empty_database, "create extension if not exists citext")
    await run(empty_database, "alter table app.buyers alter status type citext")
    before = [line for line in await catalog(empty_database) if "pointsman" not in line]
    offer, buyer, other = uuid4(), uuid4(), uuid4()
    async with connected(empty_database) as connection:
        await connection.execute("set search_path = app")
        await connection.execute("insert into offers (id, is_active) values ($1, null)", offer)
        await connection.execute("insert into buyers (id, status, min_balance) values ($1, 'Active', 0)", buyer)
        await connection.execute("insert into buyers (id, status) values (null, 'no key')")
        await connection.execute(
            "insert into buyer_offers (buyer_id, offer_id, weight) values ($1, $2, 3)", buyer, offer
        )
        done = await migrate(at(empty_database, search_path="nowhere,app,public"))
        assert (done.host_schema, done.made_host_tables) == ("app", False)

        state = await by_tables(connection)
        assert await by_log(connection) == state
        assert state["offers", str(offer)] == {
            "id": str(offer),
            "vertical_id": None,
            "market_id": None,
            "is_active": False,
        }
        assert state["buyers", str(buyer)] == {
            "id": str(buyer),
            "status": "Active",
            "timezone": "UTC",
            "acceptance_hours": None,
            "funded": True,
            "sla_response_seconds": None,
            "hourly_cap": None,
            "daily_cap": None,
        }
        assert state["buyer_offers", f"{buyer}:{offer}"]["weight"] == 3
        assert len(state) == 3

        # what citext, json and a key without NOT NULL admit
        await connection.execute("update buyers set status = 'active' where id = $1", buyer)
        await connection.execute(
            r"""update buyers set acceptance_hours = '{"a": "\u0000", "a": 1}' where id = $1""", buyer
        )
        assert (await by_log(connection))["buyers", str(buyer)]["acceptance_hours"] == r'{"a": "\u0000", "a": 1}'
        assert (await by_log(connection))["buyers", str(buyer)]["status"] == "active"
        await connection.execute("update buyers set id = $1 where id is null", other)
        assert ("buyers", str(other)) in await by_log(connection)
        await connection.execute("update buyers set id = null where id = $1", buyer)
        await connection.execute("insert into buyers (id) values (null)")
        await connection.execute("delete from buyers where id is null")
        assert await by_log(connection) == await by_tables(connection)
    await remove(empty_database)
    assert await catalog(empty_database) == before


async def test_everything_that_does_not_fit_is_listed_at_once_and_nothing_is_changed(empty_database: str) -> None:
    await run(empty_database, ADOPTED)
    await run(
        empty_database,
        """
        drop table app.leads;
        create table app.leads (id uuid, offer_id uuid, vertical_id uuid, market_id uuid, postal_code int, city text,
                                status app.label, buyer_id uuid, routed_at timestamp, created_at timestamptz);
        create type app.half as enum ('routed');
        alter table app.leads alter status type app.half using 'routed';
        create unique index on app.leads (id) where status = 'routed';
        drop table app.offers;
        alter table app.buyers drop status, alter hourly_cap type numeric, alter min_balance type float8;
        alter table app.buyer_offers drop constraint buyer_offers_pkey, add unique (buyer_id, offer_id, weight);
        create table app.child () inherits (app.buyer_service_areas);
        alter table app.routing_policies set unlogged, alter rules type text;
        drop table app.offer_exclusivities;
        create table app.offer_exclusivities (
          id uuid primary key, offer_id uuid, buyer_id uuid, market_id uuid, scope text, value text,
          valid_from timestamptz, valid_to timestamptz, is_active bool) partition by hash (id);
        """,
    )
    before = await catalog(empty_database)
    for with_host_tables in (False, True):
        with pytest.raises(SchemaUnfit) as caught:
            await migrate(at(empty_database, search_path="app"), with_host_tables=with_host_tables)
        assert caught.value.faults == (
            "table offers is missing in schema app",
            "column buyers.status (text) is missing",
            "column buyers.min_balance is double precision, not numeric",
            "column buyers.hourly_cap is numeric, not integer",
            "table buyer_offers needs a primary or unique key on (buyer_id, offer_id)",
            "table buyer_service_areas takes part in inheritance",
            "table offer_exclusivities is a partitioned table, not a plain one",
            "table routing_policies is unlogged: a crash empties it unseen",
            "column routing_policies.rules is text, not jsonb",
            "column leads.postal_code is integer, not text",
            "column leads.status (half) lacks the value validated",
            "column leads.routed_at is timestamp without time zone, not timestamptz",
            "table leads needs a primary or unique key on (id)",
        )
        assert all(fault in str(caught.value) for fault in caught.value.faults)
    assert await catalog(empty_database) == before


async def test_database_without_any_of_the_tables_says_so(empty_database: str) -> None:
    with pytest.raises(SchemaUnfit, match="table offers is missing in schema public; table buyers is missing"):
        await migrate(empty_database)


async def test_tables_of_another_owner_or_with_hidden_rows_are_refused(empty_database: str) -> None:
    role = f"guest_{uuid4().hex[:8]}"
    await run(
        empty_database,
        f"{ADOPTED}; create role {role}; grant all on schema app to {role};"
        f"grant all on all tables in schema app to {role}; alter table app.offers owner to {role};"
        "alter table app.buyers enable row level security",
    )
    try:
        with pytest.raises(SchemaUnfit) as caught:
            await migrate(at(empty_database, search_path="app", role=role))
        assert "table offers belongs to another role; migrate as its owner" not in caught.value.faults
        assert "table buyer_offers belongs to another role; migrate as its owner" in caught.value.faults
        assert any(fault.startswith("table buyers hides rows from this role") for fault in caught.value.faults)
    finally:
        await run(empty_database, f"drop owned by {role}; drop role {role}")


async def test_host_schema_is_remembered(empty_database: str) -> None:
    await run(empty_database, ADOPTED)
    await migrate(at(empty_database, search_path="app"))
    assert not (done := await migrate(empty_database)).changed
    assert done.host_schema == "app"


# beside a host that goes on


async def churn(dsn: str, stop: asyncio.Event) -> None:
    """Change configuration until told to stop, and a little longer."""
    rounds, longer, market = 0, 10, uuid4()
    async with connected(dsn) as connection:
        await connection.execute("set lock_timeout = '20s'")
        while longer:
            rounds += 1
            longer -= stop.is_set()
            async with connection.transaction():
                (buyer,) = await connection.fetchrow("insert into buyers (hourly_cap) values (1) returning id")
                await connection.execute(
                    "insert into buyer_service_areas (buyer_id, market_id, scope) values ($1, $2, 'market')",
                    buyer,
                    market,
                )
            await connection.execute("update buyers set hourly_cap = hourly_cap + 1 where id = $1", buyer)
            if rounds % 2:
                await connection.execute("delete from buyers where id = $1", buyer)


async def test_baseline_is_the_state_at_its_version_while_others_write(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pointsman.migrate, "SLICE_BLOCKS", 2)
    await run(database, "insert into buyers (name) select 'Ann' from generate_series(1, 3000)")
    for _ in range(3):
        await remove(database)
        stop = asyncio.Event()
        writers = asyncio.gather(*(churn(database, stop) for _ in range(4)))
        done = await migrate(database)
        stop.set()
        await writers
        async with connected(database) as connection:
            assert await by_log(connection) == await by_tables(connection)
            later = "select count(*) from pointsman.config_commit where version > $1"
            assert await connection.fetchval(later, done.baseline) >= 80


async def test_lock_that_somebody_holds_is_given_up_and_tried_again(database: str, impatient: None) -> None:
    await remove(database)
    async with connected(database) as host:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("insert into buyers (name) values ('Ann')")
        with pytest.raises(Busy, match="run it again"):
            await migrate(database)
        await transaction.commit()
    done = await migrate(database)
    assert (done.applied, done.baseline) == ((), 1)
    assert "buyers" in done.attached


async def test_baseline_waits_for_a_truncate_without_holding_up_commits(database: str) -> None:
    waiting = asyncio.Event()
    await run(database, "update pointsman.attachment set baseline = null; insert into buyers (name) values ('Ann')")
    async with connected(database) as host, connected(database) as writer:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("truncate buyers cascade")
        migration = asyncio.create_task(
            migrate(database, report=lambda line: waiting.set() if "trying again" in line else None)
        )
        await asyncio.wait_for(waiting.wait(), 10)
        await writer.execute("set lock_timeout = '5s'")
        await writer.execute("insert into offers (vertical_id) values (gen_random_uuid())")
        await transaction.commit()
        done = await asyncio.wait_for(migration, 20)
        assert done.baseline is not None
        assert await by_log(host) == await by_tables(host)
        assert [place[0] for place in await by_tables(host)] == ["offers"]


async def test_baseline_waits_for_a_commit_that_has_its_version_already(database: str) -> None:
    waiting = asyncio.Event()
    await run(database, "insert into buyers (name) values ('Ann'); update pointsman.attachment set baseline = null")
    async with connected(database) as host:
        async with host.transaction():
            await host.execute("update buyers set hourly_cap = 1; set constraints all immediate")
            version = await host.fetchval("select max(version) from pointsman.config_commit")
            migration = asyncio.create_task(
                migrate(database, report=lambda line: waiting.set() if "trying again" in line else None)
            )
            await asyncio.wait_for(waiting.wait(), 10)
        assert (await asyncio.wait_for(migration, 20)).baseline > version
        assert await by_log(host) == await by_tables(host)


async def test_table_cannot_be_emptied_between_a_baselines_snapshot_and_its_reading(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_table = pointsman.migrate._log_table
    await run(database, "insert into buyers (name) values ('Ann'); update pointsman.attachment set baseline = null")

    async def attacked(connection: asyncpg.Connection, host: str, table: str, change_set: int) -> int:
        with pytest.raises(asyncpg.LockNotAvailableError):
            await run(database, "set lock_timeout = '1ms'; truncate buyers cascade")
        return await log_table(connection, host, table, change_set)

    monkeypatch.setattr(pointsman.migrate, "_log_table", attacked)
    await migrate(database)
    async with connected(database) as connection:
        assert [place[0] for place in await by_log(connection)] == ["buyers"]


async def test_table_whose_triggers_were_off_is_attached_again_and_loaded_anew(database: str) -> None:
    await run(
        database,
        "insert into buyers (name) values ('Ann'); alter table buyers disable trigger pointsman_update;"
        "update buyers set status = 'paused'",
    )
    async with connected(database) as connection:
        assert await connection.fetchval("select array_agg(t) from pointsman.detached() t") == ["buyers"]
        assert (await migrate(database)).attached == ("buyers",)
        assert await connection.fetch("select * from pointsman.detached()") == []
        assert await by_log(connection) == await by_tables(connection)
        entries = [tuple(row)[2:4] for row in await connection.fetch(LOG)]
        assert ("buyers", "t") in entries
        assert ("offers", "t") not in entries
    assert not (await migrate(database)).changed


async def test_optional_column_that_comes_or_goes_is_followed_by_the_next_run(database: str) -> None:
    await run(database, "insert into buyers (daily_cap) values (5)")
    with pytest.raises(asyncpg.DependentObjectsStillExistError):
        await run(database, "alter table buyers drop column daily_cap")
    await run(database, "drop view pointsman.image_buyers; alter table buyers drop column daily_cap")
    assert (await migrate(database)).attached == ("buyers",)
    async with connected(database) as connection:
        assert [image["daily_cap"] for image in (await by_log(connection)).values()] == [None]
        await connection.execute("alter table buyers add column daily_cap bigint default 7")
        await migrate(database)
        assert [image["daily_cap"] for image in (await by_log(connection)).values()] == [7]
        await connection.execute("update buyers set daily_cap = 8")
        assert await by_log(connection) == await by_tables(connection)


# taking away


async def test_remove_leaves_the_hosts_tables_as_they_were(empty_database: str) -> None:
    await run(empty_database, ADOPTED)
    before = await catalog(empty_database)
    await migrate(at(empty_database, search_path="app"))
    assert await catalog(empty_database) != before
    await remove(empty_database)
    assert await catalog(empty_database) == before
    await remove(empty_database)
    assert (await migrate(at(empty_database, search_path="app"))).baseline == 1


# rights


async def test_service_role_has_what_it_needs_and_no_more(database: str) -> None:
    role = f"service_{uuid4().hex[:8]}"
    async with connected(database) as connection:
        await connection.execute(f"create role {role}")
        try:
            await connection.execute(grants(role))
            await connection.execute(f"set role {role}")
            for table in TABLES:
                await connection.fetch(f"select * from pointsman.image_{table}")
                for statement in (f"delete from {table}", f"update {table} set is_active = true"):
                    with pytest.raises((asyncpg.InsufficientPrivilegeError, asyncpg.UndefinedColumnError)):
                        await connection.execute(statement)
            await connection.execute("select pointsman.clock(), pointsman.detached()")
            await connection.execute(
                "update leads set status = 'routed', buyer_id = null, routed_at = null where false"
            )
            await connection.fetch("select id from leads for no key update")
            for statement in (
                "update leads set city = ''",
                "delete from leads",
                "insert into pointsman.config_commit default values",
                "delete from pointsman.decisions",
                "select pointsman.change_set()",
                "select pointsman.attach('public', 'offers')",
                "select nextval('pointsman.config_version_seq')",
            ):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await connection.execute(statement)
        finally:
            await connection.execute(f"reset role; drop owned by {role}; drop role {role}")


# the protections of fresh host tables

A, B, C = (str(UUID(int=n)) for n in (10, 11, 12))
SEED = f"""
insert into buyers (id) values ('{A}'), ('{B}');
insert into offers (id, vertical_id) values ('{A}', '{A}');
insert into buyer_offers (buyer_id, offer_id) values ('{A}', '{A}');
insert into buyer_service_areas (buyer_id, market_id, scope, value)
  values ('{A}', '{A}', 'city', 'Bern'), ('{A}', '{A}', 'market', null);
insert into offer_exclusivities (offer_id, buyer_id, market_id, scope, value, valid_from, valid_to) values
  ('{A}', '{A}', null, 'offer', null, null, '2026-01-01'), ('{A}', '{A}', '{A}', 'postal_code', 'EC1A 1BB', null, null),
  ('{A}', '{A}', '{A}', 'city', 'St  Gallen', null, null);
"""
HOLD = (
    "insert into offer_exclusivities (offer_id, buyer_id, market_id, scope, value, valid_from, valid_to, is_active) "
    "values "
)


@pytest.mark.parametrize(
    ("statement", "constraint"),
    [
        ("insert into buyers (status) values ('gone')", "buyers_status_known"),
        ("insert into buyers (hourly_cap) values (-1)", "buyers_hourly_cap_not_negative"),
        ("insert into buyers (daily_cap) values (-1)", "buyers_daily_cap_not_negative"),
        ("insert into buyers (sla_response_seconds) values (-1)", "buyers_sla_response_seconds_not_negative"),
        ("update buyer_offers set weight = -1", "buyer_offers_weight_not_negative"),
        ("update buyer_offers set hourly_cap = -1", "buyer_offers_hourly_cap_not_negative"),
        ("update buyer_offers set daily_cap = -1", "buyer_offers_daily_cap_not_negative"),
        ("update buyer_offers set priority_rank = -1", "buyer_offers_priority_rank_not_negative"),
        (f"update buyer_offers set buyer_id = '{C}'", "buyer_offers_buyer"),
        (f"update buyer_offers set offer_id = '{C}'", "buyer_offers_offer"),
        ("update buyer_service_areas set scope = 'planet', value = 'Earth'", "buyer_service_areas_scope_known"),
        ("update buyer_service_areas set value = 'Bern'", "buyer_service_areas_value_unless_market"),
        ("update buyer_service_areas set value = null", "buyer_service_areas_value_unless_market"),
        (f"update buyer_service_areas set buyer_id = '{C}'", "buyer_service_areas_buyer"),
        (
            f"insert into buyer_service_areas (buyer_id, market_id, scope) values ('{A}', '{A}', 'market')",
            "buyer_service_areas_once",
        ),
        (HOLD + f"('{A}', '{B}', '{B}', 'planet', null, null, null, true)", "offer_exclusivities_scope_known"),
        (HOLD + f"('{A}', '{B}', '{B}', 'offer', null, null, null, true)", "offer_exclusivities_market_unless_offer"),
        (HOLD + f"('{A}', '{B}', null, 'market', null, null, null, true)", "offer_exclusivities_market_unless_offer"),
        (
            HOLD + f"('{A}', '{B}', '{B}', 'city', null, null, null, true)",
            "offer_exclusivities_value_for_city_or_postal_code",
        ),
        (
            HOLD + f"('{A}', '{B}', '{B}', 'market', 'x', null, null, true)",
            "offer_exclusivities_value_for_city_or_postal_code",
        ),
        (
            HOLD + f"('{A}', '{B}', null, 'offer', null, '2026-02-01', '2026-01-01', true)",
            "offer_exclusivities_valid_from_before_valid_to",
        ),
        (HOLD + f"('{A}', '{B}', null, 'offer', null, '2025-01-01', null, true)", "offer_exclusivities_one_holder"),
        (HOLD + f"('{A}', '{B}', '{A}', 'postal_code', 'ec1a1bb', null, null, true)", "offer_exclusivities_one_holder"),
        (HOLD + f"('{A}', '{B}', '{A}', 'city', ' st gallen ', null, null, true)", "offer_exclusivities_one_holder"),
        (f"insert into routing_policies (offer_id, rules) values ('{C}', '{{}}')", "routing_policies_offer"),
        (f"insert into leads (offer_id) values ('{C}')", "leads_offer"),
        (f"insert into leads (buyer_id) values ('{C}')", "leads_buyer"),
    ],
)
async def test_fresh_tables_refuse(connection: asyncpg.Connection, statement: str, constraint: str) -> None:
    await connection.execute(SEED)
    with pytest.raises(asyncpg.IntegrityConstraintViolationError) as caught:
        await connection.execute(statement)
    assert caught.value.constraint_name == constraint


@pytest.mark.parametrize(
    "statement",
    [
        HOLD + f"('{A}', '{B}', null, 'offer', null, '2026-01-01', null, true)",
        HOLD + f"('{A}', '{B}', null, 'offer', null, null, null, false)",
        HOLD + f"('{A}', '{B}', '{A}', 'postal_code', 'EC1A 1BC', null, null, true)",
        HOLD + f"('{A}', '{B}', '{A}', 'city', 'StGallen', null, null, true)",
        HOLD + f"('{A}', '{B}', '{B}', 'city', 'St Gallen', null, null, true)",
        HOLD + f"('{A}', '{B}', '{A}', 'market', null, '-infinity', 'infinity', true)",
        f"insert into buyer_service_areas (buyer_id, market_id, scope, value) values ('{A}', '{A}', 'city', 'Biel')",
        "insert into leads (status) values ('somebody else''s')",
        "insert into buyers (balance, min_balance) values ('NaN', 1)",
        "update buyer_offers set weight = 0, hourly_cap = 0",
    ],
)
async def test_fresh_tables_take(connection: asyncpg.Connection, statement: str) -> None:
    await connection.execute(SEED)
    await connection.execute(statement)

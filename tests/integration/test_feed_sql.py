"""The feed in SQL: what is logged, under which version, and that the log says the same as the tables."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

TABLES = ("offers", "buyers", "buyer_offers", "buyer_service_areas", "offer_exclusivities", "routing_policies")
LOG = """
select c.version, l.rel, l.op::text as op, l.key, l.row::text as row
from pointsman.config_commit c join pointsman.config_log l using (change_set)
where c.version > $1 order by c.version, l.seq
"""
VERSION = "select version from pointsman.config_commit where version is not null order by version desc limit 1"
State = dict[tuple[str, str], dict[str, Any]]


@asynccontextmanager
async def another(database: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(database)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def version(connection: asyncpg.Connection) -> int:
    return await connection.fetchval(VERSION)


async def logged(connection: asyncpg.Connection, since: int) -> list[tuple[str, str, str]]:
    """(table, op, key) of everything after version `since`."""
    return [(row["rel"], row["op"], row["key"]) for row in await connection.fetch(LOG, since)]


async def by_tables(connection: asyncpg.Connection) -> State:
    state: State = {}
    for table in TABLES:
        for (text,) in await connection.fetch(f"select to_jsonb(i)::text from pointsman.image_{table} i"):
            image = json.loads(text)
            key = f"{image['buyer_id']}:{image['offer_id']}" if table == "buyer_offers" else image["id"]
            state[table, key] = image
    return state


async def by_log(connection: asyncpg.Connection, until: int | None = None) -> State:
    state: State = {}
    for at, table, op, key, image in await connection.fetch(LOG, 0):
        if until is not None and at > until:
            break
        if op == "t":
            state = {place: row for place, row in state.items() if place[0] != table}
        elif op == "d":
            state.pop((table, key), None)
        else:
            state[table, key] = json.loads(image)
    return state


async def make_buyer(connection: asyncpg.Connection, **over: Any) -> UUID:
    columns = {"id": uuid4()} | over
    names = ", ".join(columns)
    places = ", ".join(f"${place}" for place in range(1, len(columns) + 1))
    return await connection.fetchval(f"insert into buyers ({names}) values ({places}) returning id", *columns.values())


async def make_offer(connection: asyncpg.Connection) -> UUID:
    return await connection.fetchval("insert into offers (vertical_id) values (gen_random_uuid()) returning id")


async def image_of(connection: asyncpg.Connection, buyer: UUID) -> dict[str, Any]:
    """The last logged image of a buyer."""
    text = await connection.fetchval(
        "select row::text from pointsman.config_log where key = $1 order by seq desc limit 1", str(buyer)
    )
    return json.loads(text)


# what is logged


async def test_insert_update_and_delete_log_each_row_once_with_the_image_after_it(
    connection: asyncpg.Connection,
) -> None:
    before = await version(connection)
    buyer = await make_buyer(connection, hourly_cap=3)
    assert [("buyers", "i", str(buyer))] == await logged(connection, before)
    await connection.execute("update buyers set status = 'paused', hourly_cap = 5")
    assert {"status": "paused", "hourly_cap": 5}.items() <= (await image_of(connection, buyer)).items()
    await connection.execute("delete from buyers")
    assert [op for _, op, _ in await logged(connection, before)] == ["i", "u", "d"]
    assert before + 3 == await version(connection)


async def test_update_of_columns_that_the_router_does_not_use_writes_nothing(connection: asyncpg.Connection) -> None:
    await make_buyer(connection)
    await make_offer(connection)
    before = await version(connection)
    await connection.execute("update buyers set name = 'Ann'")
    await connection.execute("update offers set name = 'Roofs', is_active = is_active")
    assert before == await version(connection)
    assert await connection.fetchval("select count(*) from pointsman.config_commit where version is null") == 0


async def test_balance_alone_is_logged_only_when_it_crosses_the_floor(connection: asyncpg.Connection) -> None:
    buyer = await make_buyer(connection, balance=100, min_balance=50)
    before = await version(connection)
    for balance in (90, 50, 51):
        await connection.execute("update buyers set balance = $1", balance)
    assert before == await version(connection)
    await connection.execute("update buyers set balance = 49.99")
    assert before + 1 == await version(connection)
    assert (await image_of(connection, buyer))["funded"] is False
    await connection.execute("update buyers set min_balance = null")
    assert (await image_of(connection, buyer))["funded"] is True


async def test_balance_that_is_not_a_number_is_below_every_floor(connection: asyncpg.Connection) -> None:
    buyer = await make_buyer(connection, balance="NaN", min_balance=0)
    assert (await image_of(connection, buyer))["funded"] is False
    await connection.execute("update buyers set min_balance = null")
    assert (await image_of(connection, buyer))["funded"] is True


async def test_key_change_is_the_end_of_the_old_row_and_a_new_one(connection: asyncpg.Connection) -> None:
    buyer, offer = await make_buyer(connection), await make_offer(connection)
    await connection.execute("insert into buyer_offers (buyer_id, offer_id) values ($1, $2)", buyer, offer)
    other, before = await make_offer(connection), await version(connection)
    await connection.execute("update buyer_offers set offer_id = $1", other)
    expected = [("buyer_offers", "d", f"{buyer}:{offer}"), ("buyer_offers", "u", f"{buyer}:{other}")]
    assert expected == sorted(await logged(connection, before))


async def test_rows_that_swap_their_keys_are_both_logged(connection: asyncpg.Connection) -> None:
    await connection.execute("alter table buyers drop constraint buyers_pkey cascade")
    await connection.execute("alter table buyers add unique (id) deferrable")
    one, two = await make_buyer(connection, hourly_cap=1), await make_buyer(connection, hourly_cap=2)
    await connection.execute("update buyers set id = case id when $1 then $2::uuid else $1::uuid end", one, two)
    assert tuple([(await image_of(connection, buyer))["hourly_cap"] for buyer in (one, two)]) == (2, 1)
    assert await by_tables(connection) == await by_log(connection)


async def test_truncate_is_logged_as_a_reload_of_every_table_it_empties(connection: asyncpg.Connection) -> None:
    await make_buyer(connection)
    before = await version(connection)
    await connection.execute("truncate buyers cascade")
    emptied = {"buyers", "buyer_offers", "buyer_service_areas", "offer_exclusivities"}
    assert {(table, "t", "") for table in emptied} == set(await logged(connection, before))
    assert before + 1 == await version(connection)


async def test_copy_merge_and_upsert_log_each_row_once(connection: asyncpg.Connection) -> None:
    kept, gone, upserted = [await make_buyer(connection) for _ in range(3)]
    made = [uuid4() for _ in range(4)]
    before = await version(connection)
    await connection.copy_records_to_table("buyers", records=[(made[0],), (made[1],)], columns=["id"])
    await connection.execute(
        "merge into buyers b using (select unnest($1::uuid[]) id) s on b.id = s.id "
        "when matched and b.id = $2 then delete when matched then update set hourly_cap = 1 "
        "when not matched then insert (id) values (s.id)",
        [kept, gone, made[2]],
        gone,
    )
    await connection.execute(
        "insert into buyers (id) select unnest($1::uuid[]) on conflict (id) do update set daily_cap = 1",
        [upserted, made[3]],
    )
    entries = await logged(connection, before)
    assert Counter(
        {(str(kept), "u"): 1, (str(gone), "d"): 1, (str(upserted), "u"): 1} | {(str(b), "i"): 1 for b in made}
    ) == (Counter((key, op) for _, op, key in entries))
    assert await by_tables(connection) == await by_log(connection)


async def test_rows_deleted_by_a_cascade_are_logged(connection: asyncpg.Connection) -> None:
    buyer, offer = await make_buyer(connection), await make_offer(connection)
    await connection.execute("insert into buyer_offers (buyer_id, offer_id) values ($1, $2)", buyer, offer)
    before = await version(connection)
    await connection.execute("delete from buyers")
    expected = [("buyer_offers", "d", f"{buyer}:{offer}"), ("buyers", "d", str(buyer))]
    assert expected == sorted(await logged(connection, before))
    assert before + 1 == await version(connection)


async def test_last_entry_of_a_row_is_true_when_a_host_trigger_changes_it_in_the_midst(
    connection: asyncpg.Connection,
) -> None:
    await connection.execute(
        "create function again() returns trigger language plpgsql as $$ begin "
        "if new.hourly_cap = 99 then delete from buyers where id = new.id; "
        "else update buyers set daily_cap = coalesce(new.hourly_cap, 0) + 1 where id = new.id "
        "  and daily_cap is distinct from coalesce(new.hourly_cap, 0) + 1; end if; return null; end $$"
    )
    await connection.execute(
        "create trigger again after insert or update on buyers for each row execute function again()"
    )
    buyer = await make_buyer(connection)
    assert (await image_of(connection, buyer))["daily_cap"] == 1
    await connection.execute("update buyers set hourly_cap = 7")
    assert (await image_of(connection, buyer))["daily_cap"] == 8
    await make_buyer(connection, hourly_cap=99)
    async with connection.transaction():
        await make_buyer(connection, hourly_cap=1)
        await make_buyer(connection, hourly_cap=99)
        await connection.execute("update buyers set hourly_cap = 99 where hourly_cap = 1")
    assert await by_tables(connection) == await by_log(connection)


async def test_session_that_replicates_is_logged_too(connection: asyncpg.Connection) -> None:
    buyer, offer = await make_buyer(connection), await make_offer(connection)
    before = await version(connection)
    async with connection.transaction():
        await connection.execute("set local session_replication_role = replica")
        await connection.execute("update buyers set name = 'unused'")
        added = await make_buyer(connection)
        await connection.execute("update buyers set status = 'paused' where id = $1", buyer)
        await connection.execute("delete from offers")
    expected = [("buyers", "i", str(added)), ("buyers", "u", str(buyer)), ("offers", "d", str(offer))]
    assert expected == await logged(connection, before)
    assert before + 1 == await version(connection)
    async with connection.transaction():
        await connection.execute("set local session_replication_role = replica; truncate offers cascade")
    assert ("offers", "t", "") in await logged(connection, before + 1)


async def test_instants_are_microseconds_whatever_the_time_zone_and_infinities_stay_apart(
    connection: asyncpg.Connection,
) -> None:
    buyer, offer = await make_buyer(connection), await make_offer(connection)
    for zone in ("UTC", "Asia/Kathmandu"):
        await connection.execute(f"set timezone = '{zone}'")
        await connection.execute("delete from offer_exclusivities; delete from buyer_offers")
        for start, end in (
            ("2026-01-02 03:04:05.678901+00", None),
            ("-infinity", "infinity"),
            ("infinity", "infinity"),
            ("-infinity", "-infinity"),
            ("294276-12-31 00:00:00+00", "294276-12-31 00:00:00+00"),
        ):
            await connection.execute(
                "insert into offer_exclusivities (offer_id, buyer_id, scope, market_id, valid_from, valid_to) "
                "values ($1, $2, 'market', gen_random_uuid(), $3::text::timestamptz, $4::text::timestamptz)",
                offer,
                buyer,
                start,
                end,
            )
        top, bottom = 2**63 - 1, -(2**63)
        expected = [(1767323045678901, None), (None, None), (top, None), (None, bottom), (top, None)]
        rows = await connection.fetch("select valid_from, valid_to from pointsman.image_offer_exclusivities")
        assert sorted(expected, key=str) == sorted((tuple(row) for row in rows), key=str)
        for at in ("infinity", "-infinity", "1969-12-31 23:59:59.999999+00"):
            await connection.execute(
                "insert into buyer_offers (buyer_id, offer_id, created_at) values ($1, $2, $3::text::timestamptz) "
                "on conflict (buyer_id, offer_id) do update set created_at = excluded.created_at",
                buyer,
                offer,
                at,
            )
            (micros,) = await connection.fetchrow("select enrolled_at from pointsman.image_buyer_offers")
            assert {"infinity": top, "-infinity": bottom}.get(at, -1) == micros
    assert await by_tables(connection) == await by_log(connection)


# versions


async def test_transaction_of_several_statements_is_one_version(connection: asyncpg.Connection) -> None:
    before = await version(connection)
    async with connection.transaction():
        buyer = await make_buyer(connection)
        offer = await make_offer(connection)
        await connection.execute("insert into buyer_offers (buyer_id, offer_id) values ($1, $2)", buyer, offer)
        await connection.execute("update buyers set hourly_cap = 1")
    assert {before + 1} == {row["version"] for row in await connection.fetch(LOG, before)}
    assert await by_tables(connection) == await by_log(connection)


async def test_what_is_rolled_back_or_touches_no_row_writes_nothing(connection: asyncpg.Connection) -> None:
    await make_buyer(connection)
    before = await version(connection)
    transaction = connection.transaction()
    await transaction.start()
    await connection.execute("update buyers set hourly_cap = 1")
    await transaction.rollback()
    async with connection.transaction():
        savepoint = connection.transaction()
        await savepoint.start()
        await connection.execute("update buyers set hourly_cap = 2")
        await savepoint.rollback()
    await connection.execute("update buyers set hourly_cap = 3 where false")
    await connection.execute("insert into buyers (id) select gen_random_uuid() where false")
    await connection.execute("delete from buyers where false")
    # nor what has no key, where the host's key is no primary one: no version may be empty, replay takes that for a hole
    await connection.execute(
        "alter table routing_policies drop constraint routing_policies_pkey, alter id drop not null, add unique (id)"
    )
    await connection.execute("insert into routing_policies (id, name, version, rules) values (null, 'x', 1, '{}')")
    assert await logged(connection, before) == []
    assert before == await version(connection)


async def test_commit_rings_the_doorbell(connection: asyncpg.Connection, database: str) -> None:
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with another(database) as listener:
        await listener.add_listener("pointsman", lambda *_: heard.put_nowait("rang"))
        await make_buyer(connection)
        assert await asyncio.wait_for(heard.get(), 5) == "rang"


async def test_commit_has_a_token_and_keeps_no_transaction_id(connection: asyncpg.Connection) -> None:
    await make_buyer(connection)
    row = await connection.fetchrow(
        "select token, xid, baseline, committed_at from pointsman.config_commit order by change_set desc limit 1"
    )
    assert row["token"] is not None
    assert row["committed_at"] is not None
    assert row["xid"] is None
    assert not row["baseline"]


async def test_current_version_is_read_from_an_index(connection: asyncpg.Connection) -> None:
    await connection.execute("set enable_seqscan = off")
    plan = await connection.fetch(f"explain {VERSION.replace('version from', 'version, token from')}")
    text = "\n".join(row[0] for row in plan)
    assert "Index Scan Backward using config_commit_version_key" in text
    assert "Sort" not in text


async def test_repeatable_read_writers_of_unrelated_rows_both_commit(
    connection: asyncpg.Connection, database: str
) -> None:
    one, two = await make_buyer(connection), await make_buyer(connection)
    before = await version(connection)
    async with another(database) as other:
        first, second = (c.transaction(isolation="repeatable_read") for c in (connection, other))
        await first.start()
        await second.start()
        await connection.execute("update buyers set hourly_cap = 1 where id = $1", one)
        await other.execute("update buyers set hourly_cap = 2 where id = $1", two)
        await second.commit()
        await first.commit()
    assert [str(two), str(one)] == [key for _, _, key in await logged(connection, before)]


async def test_long_transaction_blocks_no_commit_of_another(connection: asyncpg.Connection, database: str) -> None:
    one, two = await make_buyer(connection), await make_buyer(connection)
    before = await version(connection)
    async with another(database) as other:
        await other.execute("set lock_timeout = '5s'")
        async with connection.transaction():
            await connection.execute("update buyers set hourly_cap = 1 where id = $1", one)
            await other.execute("update buyers set hourly_cap = 2 where id = $1", two)
            assert before + 1 == await version(other)
    assert [str(two), str(one)] == [key for _, _, key in await logged(connection, before)]


async def test_writer_without_any_right_on_the_routers_schema_may_write(connection: asyncpg.Connection) -> None:
    role = f"writer_{uuid4().hex[:8]}"
    await connection.execute(f"create role {role}; grant usage on schema public to {role}")
    try:
        await connection.execute(f"grant select, insert, update, delete, truncate on buyers to {role}")
        before = await version(connection)
        await connection.execute(f"set role {role}")
        buyer = await make_buyer(connection)
        await connection.execute("update buyers set hourly_cap = 1")
        await connection.execute("delete from buyers")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("select * from pointsman.config_log")
        await connection.execute("reset role")
        assert [("buyers", op, str(buyer)) for op in "iud"] == await logged(connection, before)
    finally:
        await connection.execute(f"reset role; drop owned by {role}; drop role {role}")


async def test_trigger_functions_do_not_look_into_the_writers_search_path(connection: asyncpg.Connection) -> None:
    await connection.execute(
        "create schema trap; "
        "create function trap.to_jsonb(anyelement) returns jsonb language sql as $$ select '1'::jsonb $$;"
        "create function trap.pg_notify(text, text) returns void language sql as $$ select 1/0 $$;"
        "create temp table new_rows (id int); set search_path = trap, pg_temp, public"
    )
    buyer = await make_buyer(connection)
    assert (await image_of(connection, buyer))["status"] == "active"


async def test_plan_of_a_small_table_does_not_scan_it_once_it_is_large(connection: asyncpg.Connection) -> None:
    await connection.execute("set plan_cache_mode = force_generic_plan")
    for _ in range(3):
        await make_buyer(connection)
    await connection.execute("analyze buyers")
    await connection.execute("update buyers set hourly_cap = 1")
    async with connection.transaction():
        await connection.execute("insert into buyers (id) select gen_random_uuid() from generate_series(1, 30000)")
        await connection.execute("update buyers set hourly_cap = 2", timeout=15)
    assert (
        await connection.fetchval(
            "select count(*) from pointsman.config_log where op = 'u' and row ->> 'hourly_cap' = '2'"
        )
        == 30003
    )


# the whole


async def write(database: str, seed: int, rounds: int) -> Counter[str]:
    """One of several writers: random changes in transactions with savepoints and rollbacks; how they ended."""
    ends: Counter[str] = Counter()
    chance = random.Random(seed)
    async with another(database) as connection:
        for _ in range(rounds):
            isolation = chance.choice(("read_committed", "repeatable_read"))
            transaction = connection.transaction(isolation=isolation)
            await transaction.start()
            try:
                for _ in range(chance.randint(1, 4)):
                    savepoint = connection.transaction()
                    await savepoint.start()
                    await connection.execute(chance.choice(CHANGES))
                    await (savepoint.rollback() if chance.random() < 0.25 else savepoint.commit())
            except (
                asyncpg.SerializationError,
                asyncpg.DeadlockDetectedError,
                asyncpg.IntegrityConstraintViolationError,
            ) as error:
                ends[type(error).__name__] += 1
                await transaction.rollback()
            else:
                end = "rollback" if chance.random() < 0.2 else "commit"
                await getattr(transaction, end)()
                ends[end] += 1
    return ends


_SOME = "(select id from {} order by random() limit {})"
CHANGES = (
    "insert into buyers (id, hourly_cap) select gen_random_uuid(), i from generate_series(1, 3) i",
    f"update buyers set hourly_cap = (random() * 9)::int where id in {_SOME.format('buyers', 2)}",
    f"update buyers set name = random()::text where id in {_SOME.format('buyers', 3)}",
    f"update buyers set id = gen_random_uuid() where id in {_SOME.format('buyers', 1)} "
    "and id not in (select buyer_id from buyer_offers)",
    f"delete from buyers where id in {_SOME.format('buyers', 1)}",
    "insert into buyer_offers (buyer_id, offer_id) select b.id, o.id from "
    "(select id from buyers order by random() limit 3) b, (select id from offers order by random() limit 1) o "
    "on conflict (buyer_id, offer_id) do update set weight = buyer_offers.weight + 1",
    "insert into offers (vertical_id) values (gen_random_uuid())",
    f"update offers set is_active = not is_active where id in {_SOME.format('offers', 1)}",
    "insert into buyer_service_areas (buyer_id, market_id, scope, value) "
    "select id, gen_random_uuid(), 'city', 'Bern' from buyers order by random() limit 2",
    "delete from buyer_service_areas where random() < 0.1",
)


async def test_versions_are_the_order_of_commits_and_tell_the_same_as_the_tables(
    connection: asyncpg.Connection, database: str
) -> None:
    await connection.execute("insert into offers (vertical_id) select gen_random_uuid() from generate_series(1, 20)")
    writers = asyncio.gather(*(write(database, seed, 60) for seed in range(10)))
    applied, state, compared = 0, {}, 0
    while not writers.done():
        async with connection.transaction(isolation="repeatable_read"):
            for at, table, op, key, image in await connection.fetch(LOG, applied):
                applied = max(applied, at)
                if op == "d":
                    state.pop((table, key), None)
                else:
                    state[table, key] = json.loads(image)
            assert state == await by_tables(connection)
            compared += 1
        await asyncio.sleep(0)
    ends = sum(await writers, Counter())
    assert ends["commit"] > 200, ends
    assert compared > 10
    assert await by_tables(connection) == await by_log(connection)
    assert (
        await connection.fetchval(
            "select count(*) from pointsman.config_commit where version is null or xid is not null"
        )
        == 0
    )

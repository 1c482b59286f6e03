"""What a change feed gets wrong elsewhere: each trap that DESIGN 3 names, and what was found besides, as a test."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from pointsman import Router
from pointsman.cache import feed
from pointsman.errors import StoreUnavailable
from pointsman.migrate import migrate
from pointsman.store import Store
from tests.builders import make_area, make_buyer, make_candidate, make_lead, make_offer, make_policy
from tests.invariants import violations
from tests.stage import PATIENCE, another, end_sessions, follows, until, version
from tests.storm.relay import Relay


async def scene(connection: asyncpg.Connection) -> tuple[Any, Any, Any]:
    """An offer, the buyer that goes first, and the one that goes second."""
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    return offer, first, second


async def pause_unseen(connection: asyncpg.Connection, buyer: Any) -> None:
    """A change that no trigger logs."""
    async with connection.transaction():
        await connection.execute("alter table buyers disable trigger user")
        await connection.execute("update buyers set status = 'paused' where id = $1", buyer)
        await connection.execute("alter table buyers enable trigger user")
        await connection.execute("alter table buyers enable replica trigger pointsman_row")
        await connection.execute("alter table buyers enable always trigger pointsman_truncate")


# what the feed cannot tell


async def test_change_that_was_never_logged_is_found_when_the_cache_is_compared(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await scene(connection)
    async with Router.open(database) as router:
        assert {} == await router.cache.verify()
        await pause_unseen(connection, first)
        assert first == (await router.route(await make_lead(connection, offer))).buyer_id  # nobody can know
        assert {"buyers": 1} == await router.cache.verify()
        assert second == (await router.route(await make_lead(connection, offer))).buyer_id
        assert {} == await router.cache.verify()
        assert 1 == router.cache.differences


async def test_connection_that_comes_back_brings_a_comparison(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "VERIFY_SECONDS", 0.0)
    _, first, _ = await scene(connection)
    async with Router.open(database) as router:
        await pause_unseen(connection, first)
        await end_sessions(connection)

        async def repaired() -> bool:
            return router.cache.differences == 1

        await until(repaired, "the comparison")


async def test_row_of_every_table_is_compared(database: str, connection: asyncpg.Connection) -> None:
    offer, first, _ = await scene(connection)
    await connection.execute(
        "insert into offer_exclusivities (offer_id, buyer_id, scope) values ($1, $2, 'offer')", offer, first
    )
    changes = {
        "offers": "update offers set is_active = false",
        "buyers": "update buyers set acceptance_hours = '{\"weekly\": {}}'",
        "buyer_offers": "update buyer_offers set weight = 9",
        "buyer_service_areas": "delete from buyer_service_areas",
        "offer_exclusivities": "update offer_exclusivities set valid_to = now()",
        "routing_policies": "update routing_policies set version = 3",
    }
    async with Router.open(database) as router:
        for table, change in changes.items():
            await connection.execute(f"alter table {table} disable trigger user; {change}")
            assert [table] == list(await router.cache.verify())


async def test_switched_off_trigger_is_told_at_the_start(database: str, connection: asyncpg.Connection) -> None:
    await scene(connection)
    await connection.execute("alter table buyers disable trigger pointsman_update")
    with capture_logs() as lines:
        async with Router.open(database):
            pass
    assert [["buyers"]] == [line["tables"] for line in lines if "not logged" in line["event"]]


async def test_later_baseline_that_commits_after_younger_versions_makes_caches_load_anew(
    database: str, connection: asyncpg.Connection
) -> None:
    """A baseline's version is drawn when it begins to read. A cache that has followed others since never sees it."""
    offer, first, second = await scene(connection)
    inside, go_on = threading.Event(), threading.Event()

    def hold_it_up(line: str) -> None:
        if line.startswith("baseline:"):
            inside.set()
            go_on.wait(20)

    async with Router.open(database) as router:
        await connection.execute("alter table buyers disable trigger pointsman_update")
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        run = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(migrate(database, report=hold_it_up))))
        await asyncio.to_thread(inside.wait, 20)
        await make_offer(connection)
        await follows(router, connection)  # it is ahead of the baseline now
        go_on.set()
        await run
        assert second == (await router.route(await make_lead(connection, offer))).buyer_id
    assert [] == await violations(connection)


# notifications


async def test_notifications_that_come_many_at_once_or_folded_lead_to_the_newest_version(
    database: str, connection: asyncpg.Connection
) -> None:
    async with Router.open(database) as router:
        async with connection.transaction():
            for _ in range(20):
                await make_buyer(connection)
                await connection.execute("notify pointsman")
        await asyncio.gather(*(_commit_some(database) for _ in range(4)))
        await follows(router, connection)


async def _commit_some(database: str) -> None:
    async with another(database) as writer:
        for _ in range(15):
            await make_buyer(writer)


async def test_changes_that_commit_while_a_router_opens_are_not_missed(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", (60.0, 60.0))  # notifications alone
    done = asyncio.Event()

    async def write() -> None:
        async with another(database) as writer:
            while not done.is_set():
                await make_buyer(writer)

    writing = asyncio.create_task(write())
    routers = [await Router.open(database) for _ in range(8)]
    done.set()
    await writing
    for router in routers:
        await follows(router, connection)
        await router.close()


# connections


async def test_silent_listener_keeps_nobody_waiting_and_is_replaced(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await scene(connection)
    async with Relay(database) as relay, Router.open(database, listen_dsn=relay.dsn, timeout=60.0) as router:
        relay.open.clear()
        await asyncio.sleep(0.3)  # it has asked, and nothing comes back
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        async with asyncio.timeout(PATIENCE):  # and not until the listener is given up
            assert second == (await router.route(await make_lead(connection, offer))).buyer_id
        relay.open.set()
        relay.cut()
        await connection.execute("update buyers set status = 'active' where id = $1", first)
        await follows(router, connection)


@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InternalClientError("unexpected termination of the backend"),  # neither of the two roots below
        asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation"),
        asyncpg.AdminShutdownError("terminating connection due to administrator command"),
        asyncpg.CannotConnectNowError("the database system is shutting down"),
        asyncpg.QueryCanceledError("canceling statement due to user request"),
        asyncpg.InterfaceError("connection is closed"),
        ConnectionResetError(104, "Connection reset by peer"),
        TimeoutError(),
        ValueError("what nobody thought of"),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_listener_is_replaced_whatever_it_raises(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    monkeypatch.setattr(feed, "POLL_SECONDS", (0.01, 0.02))
    monkeypatch.setattr(feed, "BACKOFF_SECONDS", (0.01, 0.02))
    _, first, _ = await scene(connection)
    broken = asyncio.Event()
    catch_up = feed.Cache.catch_up

    async def break_once(self: feed.Cache, listener: Any) -> None:
        if not broken.is_set():
            broken.set()
            raise error
        await catch_up(self, listener)

    async with Router.open(database) as router:
        monkeypatch.setattr(feed.Cache, "catch_up", break_once)
        await asyncio.wait_for(broken.wait(), PATIENCE)
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        await follows(router, connection)
        assert "fresh" == router.cache.state


async def test_silent_network_is_noticed_within_the_bound_and_the_router_comes_back(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "STALE_AFTER_SECONDS", 1.0)
    offer, first, _ = await scene(connection)
    before, threads = set(asyncio.all_tasks()), set(threading.enumerate())
    async with Relay(database) as relay:
        async with Router.open(relay.dsn, timeout=1.0) as router:
            relay.open.clear()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(StoreUnavailable, match=r"did not answer|cannot be reached"):
                    await router.route(await make_lead(connection, offer))
            assert router.cache.state in ("stale", "down")
            relay.open.set()
            relay.cut()

            async def fresh() -> bool:
                return router.cache.state == "fresh"

            await until(fresh, "a fresh cache")
            assert first == (await router.route(await make_lead(connection, offer))).buyer_id
        left = {task.get_name() for task in asyncio.all_tasks() - before if "pointsman" in task.get_name()}
        assert set() == left
        assert threads >= set(threading.enumerate())


async def test_routers_do_not_come_back_all_at_once_when_the_database_does(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits for a time between a half and the whole of a pause, which doubles, up to a bound."""
    pauses = []

    def drawn(shortest: float, longest: float) -> float:
        if (shortest, longest) != feed.POLL_SECONDS:
            pauses.append((shortest, longest))
        return shortest

    monkeypatch.setattr(feed, "BACKOFF_SECONDS", (0.02, 0.08))
    monkeypatch.setattr(feed.random, "uniform", drawn)
    _, first, _ = await scene(connection)
    async with Relay(database) as relay, Router.open(database, listen_dsn=relay.dsn) as router:
        relay.refuses = True
        relay.cut()

        async def tried_often() -> bool:
            return len(pauses) >= 5

        await until(tried_often, "five tries")
        assert [(0.01, 0.02), (0.02, 0.04), (0.04, 0.08), (0.04, 0.08), (0.04, 0.08)] == pauses[:5]
        relay.refuses = False
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        await follows(router, connection)


@pytest.mark.parametrize("reads_later", [False, True], ids=["the same", "more"])
async def test_changes_that_were_read_while_somebody_else_applied_theirs_are_applied_once(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, reads_later: bool
) -> None:
    _, first, _ = await scene(connection)
    store = await Store.open(database, size=2, timeout=10)
    cache = feed.Cache(store)
    held = {name: (asyncio.Event(), asyncio.Event()) for name in ("one", "other")}
    read_changes = Store.changes

    async def hold_back(self: Store, reader: asyncpg.Connection, *arguments: Any) -> Any:
        changes = await read_changes(self, reader, *arguments)
        has_read, go_on = held[asyncio.current_task().get_name()]  # type: ignore[union-attr]
        has_read.set()
        await go_on.wait()
        return changes

    async def pause(status: str) -> None:
        await connection.execute("update buyers set status = $1 where id = $2", status, first)

    async with store.connection() as a, store.connection() as b:
        await cache.catch_up(a)
        monkeypatch.setattr(Store, "changes", hold_back)
        await pause("paused")
        one = asyncio.create_task(cache.catch_up(a), name="one")
        await held["one"][0].wait()
        if reads_later:
            await pause("active")
        other = asyncio.create_task(cache.catch_up(b), name="other")
        await held["other"][0].wait()
        for name, task in (("one", one), ("other", other)):
            held[name][1].set()
            await task
        found = await cache.at_least(await store.version(a), a)  # type: ignore[arg-type]
        assert await version(connection) == found.version
        assert reads_later == (not found.buyers[first].faults)
    await store.close()


# history


async def test_what_follows_a_version_is_looked_up_alone_after_a_commit_of_many_rows(
    connection: asyncpg.Connection,
) -> None:
    """By the statistics every commit has as many; planned for these, a look-up would be compiled for milliseconds."""
    buyer = await make_buyer(connection)
    before = await version(connection)
    await connection.execute(
        "insert into buyer_service_areas (buyer_id, market_id, scope, value)"
        " select $1, gen_random_uuid(), 'city', n::text from generate_series(1, 20000) n",
        buyer,
    )
    await connection.execute("analyze pointsman.config_commit, pointsman.config_log")
    for since, rows in ((await version(connection), 0), (before, 10)):
        asked = f"select * from pointsman.changes_1({since}, 11)"
        assert rows + 1 == len(await connection.fetch(asked))
        (told,) = await connection.fetchrow(f"explain (analyze, buffers, format json) {asked}")
        plan = json.loads(told)[0]["Plan"]
        assert 100 > plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    (settings,) = await connection.fetchrow("select proconfig from pg_proc where proname = 'changes_1'")
    assert "jit=off" in settings


async def test_history_that_is_pruned_between_two_reads_is_loaded_anew(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when a process is frozen there for a long time: half of what it missed is gone when it reads on."""
    offer, first, second = await scene(connection)
    read_changes = Store.all_changes

    async def prune_first(self: Store, reader: asyncpg.Connection, *arguments: Any) -> AsyncIterator[Any]:
        async with another(database) as pruner:
            await pruner.execute(
                "with old as (delete from pointsman.config_commit where version <= $1 returning change_set)"
                " delete from pointsman.config_log where change_set in (select change_set from old)",
                paused_at,
            )
        async for changes in read_changes(self, reader, *arguments):
            yield changes

    async with Router.open(database) as router:
        await follows(router, connection)
        monkeypatch.setattr(feed, "LOGGED_ROWS", 1)  # so that the first trip does not bring all
        monkeypatch.setattr(Store, "all_changes", prune_first)
        async with router.cache._lock:  # the router is elsewhere
            await connection.execute("update buyers set status = 'paused' where id = $1", first)
            paused_at = await version(connection)
            await make_area(connection, second, scope="city", value="Chicago")
        assert second == (await router.route(await make_lead(connection, offer))).buyer_id


async def test_change_in_a_session_that_replicates_is_obeyed(database: str, connection: asyncpg.Connection) -> None:
    offer, first, second = await scene(connection)
    async with Router.open(database) as router:
        await connection.execute("set session_replication_role = replica")
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        await connection.execute("set session_replication_role = origin")
        assert second == (await router.route(await make_lead(connection, offer))).buyer_id

"""The cache on a real database: whole versions, in order, whatever becomes of notifications, sessions and history."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from uuid import UUID

import asyncpg
import pytest

from pointsman import Router
from pointsman.cache.indexes import Indexes
from pointsman.errors import PointsmanError
from pointsman.model import Outcome
from pointsman.store import Store
from tests.builders import (
    enroll,
    make_area,
    make_buyer,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)
from tests.invariants import violations
from tests.stage import (
    Wire,
    analyse_for_good,
    another,
    end_sessions,
    ended,
    follows,
    kinds,
    records,
    rows_read,
    until,
    version,
)

ROTATION = rules(strategy={"kind": "rotation"}, tie_breakers=["buyer_id"])
FORK = "update pointsman.config_commit set token = gen_random_uuid() where version is not null"
PRUNE = """
with gone as (delete from pointsman.config_commit where not baseline and version < $1 returning change_set)
delete from pointsman.config_log l using gone g where l.change_set = g.change_set
"""


def indexes(router: Router) -> Indexes:
    """What the router's cache holds; a test's look through the keyhole."""
    found = router.cache._indexes
    assert found is not None
    return found


async def same_as_a_fresh_one(router: Router, database: str, connection: asyncpg.Connection) -> None:
    """The followed cache holds what a newly loaded one does."""
    await follows(router, connection)
    async with Router.open(database) as fresh:
        assert indexes(fresh).version == indexes(router).version
        assert indexes(fresh).token == indexes(router).token
        assert indexes(fresh).sizes() == indexes(router).sizes()
        assert indexes(fresh).areas == indexes(router).areas
        assert indexes(fresh).policies == indexes(router).policies
        assert indexes(fresh).offers == indexes(router).offers
        assert indexes(fresh).exclusivity_rows == indexes(router).exclusivity_rows


async def two_buyers(connection: asyncpg.Connection) -> tuple[UUID, UUID, UUID]:
    """An offer and its two candidates, the better first."""
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    return offer, first, second


# before, between and during decisions


async def test_router_is_ready_when_open_returns_and_holds_the_current_version(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, *_ = await two_buyers(connection)
    async with Router.open(database) as router:
        status = router.status()
        assert ("fresh", await version(connection)) == (status["state"], status["config_version"])
        assert status["lag"] < 5
        assert {
            "offers": 1,
            "buyers": 2,
            "enrollments": 2,
            "service_areas": 2,
            "exclusivities": 0,
            "policies": 1,
        } == status["sizes"]
        assert indexes(router).offers[offer].is_active


PAUSES = {
    "pause": "update buyers set status = 'paused' where id = $1",
    "enrollment": "update buyer_offers set is_active = false where buyer_id = $1",
    "enrollment deleted": "delete from buyer_offers where buyer_id = $1",
    "area": "update buyer_service_areas set market_id = gen_random_uuid() where buyer_id = $1",
    "area deleted": "delete from buyer_service_areas where buyer_id = $1",
    "balance": "update buyers set min_balance = 10, balance = 9.99 where id = $1",
    "cap": "update buyers set daily_cap = 0 where id = $1",
    "hours": """update buyers set acceptance_hours = '{"weekly": {}}' where id = $1""",
    "rank": "update buyer_offers set priority_rank = 3 where buyer_id = $1",
    "deleted": "delete from buyers where id = $1",
}


@pytest.mark.parametrize("change", PAUSES)
async def test_change_that_was_committed_before_the_call_is_obeyed(
    database: str, connection: asyncpg.Connection, change: str
) -> None:
    offer, first, second = await two_buyers(connection)
    one, two = await make_lead(connection, offer), await make_lead(connection, offer)
    async with Router.open(database) as router:
        would = await router.explain(one)
        assert would.outcome.buyer_id == first
        await connection.execute(PAUSES[change], first)
        outcome = await router.route(two)  # at once: nobody waited for the feed
        assert second == outcome.buyer_id
        assert await version(connection) == outcome.config_version
        await same_as_a_fresh_one(router, database, connection)
    assert [] == await violations(connection)


async def test_pause_and_its_end_are_obeyed_as_often_as_they_come(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await two_buyers(connection)
    found = []
    async with Router.open(database) as router:
        for status in ("paused", "active") * 5:
            await connection.execute("update buyers set status = $1 where id = $2", status, first)
            found.append((await router.route(await make_lead(connection, offer))).buyer_id)
    assert [second, first] * 5 == found


async def test_rows_of_every_kind_that_come_while_the_router_runs_are_taken_in(
    database: str, connection: asyncpg.Connection
) -> None:
    async with Router.open(database) as router:
        offer = await make_offer(connection)
        lead = await make_lead(connection, offer)
        causes = [(await router.route(lead)).cause]
        await make_policy(connection)
        buyer = await make_buyer(connection)
        causes.append((await router.route(lead)).cause)
        await make_area(connection, buyer)
        await enroll(connection, buyer, offer)
        other = await make_candidate(connection, offer)
        await make_exclusivity(connection, offer, buyer)
        outcome = await router.route(lead)
        assert ["no_policy", "no_eligible_buyers"] == causes
        assert (buyer, ("exclusive",)) == (outcome.buyer_id, outcome.flags)
        await connection.execute("delete from offer_exclusivities")
        await connection.execute("update buyer_offers set priority_rank = 1 where buyer_id = $1", other)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == other
        await same_as_a_fresh_one(router, database, connection)


async def test_transaction_with_several_rows_is_seen_whole_or_not_at_all(
    database: str, connection: asyncpg.Connection
) -> None:
    """One of the two is always active, and always the one whose area holds the lead."""
    offer, first, second = await two_buyers(connection)
    await connection.execute("update buyers set status = 'paused' where id = $1", second)
    await connection.execute("update buyer_service_areas set market_id = gen_random_uuid() where buyer_id = $1", second)
    market = await connection.fetchval("select market_id from buyer_service_areas where buyer_id = $1", first)
    answers: list[Outcome | PointsmanError] = []
    done, swaps = asyncio.Event(), 0

    async def swap() -> None:
        nonlocal swaps
        async with another(database) as host:
            while not done.is_set():
                async with host.transaction():
                    await host.execute(
                        "update buyers set status = case status when 'active' then 'paused' else 'active' end"
                    )
                    await host.execute(
                        "update buyer_service_areas a set market_id = case b.status when 'active' then $1"
                        " else gen_random_uuid() end from buyers b where b.id = a.buyer_id",
                        market,
                    )
                swaps += 1

    async with Router.open(database) as router:
        writer = asyncio.ensure_future(swap())
        while not writer.done() and (len(answers) < 60 or swaps <= 5):
            answers += await router.route_many([await make_lead(connection, offer)])
        done.set()
        await writer
    assert swaps > 5
    assert len(answers) >= 60
    assert {"routed"} == set(kinds(answers))
    assert [] == await violations(connection)


async def test_uncommitted_change_is_not_seen(database: str, connection: asyncpg.Connection) -> None:
    offer, first, second = await two_buyers(connection)
    async with another(database) as host, Router.open(database) as router:
        await host.execute("begin; update buyers set status = 'paused'")
        assert (await router.route(await make_lead(connection, offer))).buyer_id == first
        await host.execute("rollback")
        assert (await router.route(await make_lead(connection, offer))).buyer_id == first
        assert second != first


async def test_change_in_thousands_of_rows_is_followed_and_obeyed_at_once(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await two_buyers(connection)
    add = "insert into buyer_service_areas (buyer_id, market_id, scope, value)"
    async with Router.open(database) as router:
        await connection.execute(
            f"{add} select $1, gen_random_uuid(), 'postal_code', n::text from generate_series(1, 5000) n", first
        )
        async with connection.transaction():
            await connection.execute("update buyer_service_areas set is_active = false where buyer_id = $1", first)
            await connection.execute("delete from buyer_service_areas where value like '1%'")
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        assert len(indexes(router).areas) == 1
        await same_as_a_fresh_one(router, database, connection)


# a feed that misses things


async def test_feed_follows_without_being_asked_to_route(database: str, connection: asyncpg.Connection) -> None:
    async with Router.open(database) as router:
        for _ in range(3):
            await make_offer(connection)
            await follows(router, connection)
        await same_as_a_fresh_one(router, database, connection)


async def test_lost_notification_costs_no_wrong_buyer_and_the_poll_catches_up(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await two_buyers(connection)
    await connection.execute(
        "create or replace function pointsman.seal() returns trigger language plpgsql security definer as $$ begin "
        "perform pg_advisory_xact_lock(7203377); "
        "update pointsman.config_commit set version = nextval('pointsman.config_version_seq'), xid = null, "
        "token = gen_random_uuid(), committed_at = clock_timestamp() where change_set = new.change_set; "
        "return null; end $$"  # as it is, without its NOTIFY
    )
    async with Router.open(database) as router:
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        await connection.execute("update buyers set status = 'active' where id = $1", first)
        await follows(router, connection)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == first


async def test_dead_listener_costs_no_wrong_buyer_and_is_replaced(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await two_buyers(connection)
    async with Wire(database) as wire, Router.open(database, listen_dsn=wire.dsn) as router:
        await wire.cut()
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        await connection.execute("update buyers set status = 'active' where id = $1", first)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == first
        await wire.mend()
        await make_offer(connection)
        await follows(router, connection)
        await same_as_a_fresh_one(router, database, connection)


async def test_listener_whose_session_the_server_ended_is_replaced(
    database: str, connection: asyncpg.Connection
) -> None:
    async with Router.open(database) as router:
        for _ in range(2):
            assert await end_sessions(connection) >= 1
            await make_offer(connection)
            await follows(router, connection)
        await same_as_a_fresh_one(router, database, connection)


async def test_feed_that_gets_no_answer_is_stale_and_then_down_and_fresh_again(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.cache.feed.STALE_AFTER_SECONDS", 0.0)

    async def state_is(wanted: str) -> None:
        async def reached() -> bool:
            return router.status()["state"] == wanted

        await until(reached, f"state {wanted}")

    async with Wire(database) as wire, Router.open(wire.dsn) as router:
        assert router.status()["state"] == "stale"  # any age is too old
        await wire.cut()
        await state_is("down")
        monkeypatch.setattr("pointsman.cache.feed.STALE_AFTER_SECONDS", 5.0)
        await wire.mend()
        await state_is("fresh")


async def test_router_closes_though_its_doorbell_rings_at_that_moment(
    database: str, connection: asyncpg.Connection
) -> None:
    for number in range(10):
        router = await Router.open(database)
        await connection.fetchval("select pg_sleep($1)", number / 1_000)  # until the feed waits for the bell
        router.cache._ring()
        async with asyncio.timeout(5):
            await router.close()


# another history


async def test_emptied_table_is_loaded_anew(database: str, connection: asyncpg.Connection) -> None:
    offer, first, second = await two_buyers(connection)
    async with Router.open(database) as router:
        await make_exclusivity(connection, offer, second)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        await connection.execute("truncate offer_exclusivities")
        assert (await router.route(await make_lead(connection, offer))).buyer_id == first
        await connection.execute("truncate buyer_service_areas")
        assert (await router.route(await make_lead(connection, offer))).cause == "no_eligible_buyers"
        async with connection.transaction():
            await connection.execute("truncate buyer_offers")
            await enroll(connection, second, offer)
            await make_area(connection, second)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        await same_as_a_fresh_one(router, database, connection)


async def test_indexes_that_are_replaced_are_freed_piece_by_piece(
    database: str, connection: asyncpg.Connection
) -> None:
    _, first, _ = await two_buyers(connection)
    async with Router.open(database) as router:
        buyers = indexes(router).buyers
        await connection.execute("truncate offer_exclusivities")

        async def freed() -> bool:
            return not buyers

        await until(freed, "the old indexes are freed")
        assert first in indexes(router).buyers


async def test_indexes_that_are_replaced_stay_whole_for_those_who_hold_them(
    database: str, connection: asyncpg.Connection
) -> None:
    _, first, _ = await two_buyers(connection)
    async with Router.open(database) as router:
        before = indexes(router)
        await connection.execute("truncate offer_exclusivities")
        await follows(router, connection)
        await router.cache.verify()  # which clears away what is left
        assert [] == router.cache._replaced
        assert first in before.buyers


async def test_reading_that_stops_early_leaves_the_connection_to_others(
    database: str, connection: asyncpg.Connection
) -> None:
    """The next rows have been asked for by then."""
    await two_buyers(connection)
    store = await Store.open(database, size=1, timeout=10)
    async with store.connection() as reader, reader.transaction():
        async with aclosing(store.images(reader, "buyers", 1)) as slices:
            assert 1 == len(await anext(slices))
        assert 2 == await reader.fetchval("select count(*) from buyers")
    await store.close()


async def test_fork_with_the_same_version_is_loaded_anew(database: str, connection: asyncpg.Connection) -> None:
    """After a fail-over that lost a commit: the number is the same, what happened under it is not."""
    offer, first, second = await two_buyers(connection)
    async with Router.open(database) as router:
        before = indexes(router)
        async with connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            await connection.execute("alter table buyers disable trigger pointsman_row")
            await connection.execute("update buyers set status = 'paused' where id = $1", first)
            await connection.execute("alter table buyers enable replica trigger pointsman_row")
            await connection.execute(FORK)
        assert indexes(router).version == await version(connection)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        assert indexes(router) is not before
        await same_as_a_fresh_one(router, database, connection)


async def test_history_that_went_back_is_loaded_anew(database: str, connection: asyncpg.Connection) -> None:
    """A restore of yesterday: the router is at a higher version than the database."""
    offer, first, second = await two_buyers(connection)
    async with Router.open(database) as router:
        for status in ("paused", "active", "paused"):
            await connection.execute("update buyers set status = $1 where id = $2", status, first)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == second
        async with connection.transaction():
            await connection.execute("set local session_replication_role = replica")
            await connection.execute("alter table buyers disable trigger pointsman_row")
            await connection.execute("update buyers set status = 'active'")
            await connection.execute("alter table buyers enable replica trigger pointsman_row")
            await connection.execute(
                "delete from pointsman.config_commit where version > $1", await version(connection) - 3
            )
        outcome = await router.route(await make_lead(connection, offer))
        assert (first, await version(connection)) == (outcome.buyer_id, outcome.config_version)


async def test_router_older_than_the_pruned_history_loads_anew(database: str, connection: asyncpg.Connection) -> None:
    offer, first, second = await two_buyers(connection)
    async with Wire(database) as wire, Router.open(wire.dsn) as router:
        await wire.cut()
        for status in ("paused", "active", "paused"):
            await connection.execute("update buyers set status = $1 where id = $2", status, first)
        await connection.execute("select 1")
        await connection.fetch(PRUNE, await version(connection))
        await wire.mend()

        async def routed() -> Outcome | None:
            (answer,) = await router.route_many([lead])
            return answer if isinstance(answer, Outcome) else None

        lead = await make_lead(connection, offer)
        assert (await until(routed, "a decision")).buyer_id == second
        await same_as_a_fresh_one(router, database, connection)


async def test_version_without_any_row_is_followed(database: str, connection: asyncpg.Connection) -> None:
    offer, first, _ = await two_buyers(connection)
    async with Router.open(database) as router:
        async with connection.transaction():
            buyer = await make_buyer(connection)
            await connection.execute("delete from pointsman.config_log where key = $1", str(buyer))
        outcome = await router.route(await make_lead(connection, offer))
        assert (first, await version(connection)) == (outcome.buyer_id, outcome.config_version)


async def test_apply_that_breaks_off_loads_anew_and_never_decides_on_half_a_version(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, first, second = await two_buyers(connection)
    apply, broken = Indexes.apply, []

    def fail_once(self: Indexes, change: object, at: int) -> None:
        if not broken and self.version > 0 and self is before:
            broken.append(change)
            raise RuntimeError("out of the blue")
        apply(self, change, at)  # type: ignore[arg-type]

    async with Router.open(database) as router:
        before = indexes(router)
        monkeypatch.setattr(Indexes, "apply", fail_once)
        await connection.execute("update buyers set status = 'paused' where id = $1", first)

        async def routed() -> Outcome | None:
            try:
                return await router.route(lead)
            except RuntimeError:
                return None

        lead = await make_lead(connection, offer)
        assert (await until(routed, "a decision")).buyer_id == second
        assert broken
        assert indexes(router) is not before


@pytest.mark.parametrize("ending", ["caller", "connection"])
async def test_import_whose_reader_goes_away_is_gone_on_with_and_not_loaded_anew(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    offer, first, second = await two_buyers(connection)
    lead = await make_lead(connection, offer)
    apply, applied = Indexes.apply, []

    async with Router.open(database) as router, another(database) as own:
        before = indexes(router)
        await router.cache.stop()  # so that only callers apply what comes

        def interrupted(self: Indexes, change: object, at: int) -> None:
            apply(self, change, at)  # type: ignore[arg-type]
            applied.append(at)
            if len(applied) == 700:
                if ending == "caller":
                    task.cancel()
                else:
                    raise ConnectionResetError("by peer")

        monkeypatch.setattr(Indexes, "apply", interrupted)
        async with connection.transaction():
            await connection.execute("update buyers set status = 'paused' where id = $1", first)
            for cap in (5, 7, 5):
                await connection.execute("update buyer_offers set daily_cap = $1", cap)
            for number in range(500):
                await make_area(connection, second, scope="postal_code", value=str(10_000 + number))
            await connection.execute("delete from buyer_service_areas where value < '10250'")
            await connection.execute("update buyer_service_areas set value = '1' || value where value is not null")

        async def routed() -> Outcome:
            async with own.transaction():
                return await router.route(lead, connection=own)

        task = asyncio.create_task(routed())
        with pytest.raises((asyncio.CancelledError, PointsmanError)):
            await task
        assert len(applied) in (700, 750)  # to the end of the slice
        assert second == (await router.route(lead)).buyer_id
        assert indexes(router) is before
        assert {} == await router.cache.verify()


# many routers, few connections


async def test_positions_that_a_new_router_reads_are_kept_under_the_caches_own_turns(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, one, two = await two_buyers(connection)
    await make_policy(connection, rules=ROTATION, version=2)
    async with Router.open(database) as router:
        assert {one, two} == {(await router.route(await make_lead(connection, offer))).buyer_id for _ in range(2)}
    await connection.execute("delete from buyer_offers where buyer_id = $1", two)
    async with Router.open(database) as router:
        own = indexes(router).enrollments[offer][one].turn
        (kept,) = (turn for turn in router._beliefs.positions if turn[:16] == one.bytes)
        assert kept is own
        assert len(router._beliefs.positions) == 2  # whoever is enrolled no more may be again


async def test_feed_whose_plans_are_older_than_the_log_reads_what_is_new_alone(
    database: str, connection: asyncpg.Connection
) -> None:
    await two_buyers(connection)
    tables = ["pointsman.config_commit", "pointsman.config_log"]
    await analyse_for_good(connection, tables)
    async with Router.open(database) as router, another(database) as writer:
        await writer.execute("set application_name = 'pointsman'")  # whose end is waited for
        await follows(router, connection)
        before = await rows_read(connection, tables)
        for number in range(400):
            await writer.execute("update buyers set sla_response_seconds = $1", number)
            if number % 4 == 0:
                await follows(router, connection)
    await ended(connection)
    assert 400 < await rows_read(connection, tables) - before < 400 * 10


@pytest.mark.parametrize("connections", [1, 2])
async def test_router_with_few_connections_never_waits_for_itself(
    database: str, connection: asyncpg.Connection, connections: int
) -> None:
    """Each of these is behind at once, and holds a connection while it catches up."""
    offer, first, second = await two_buyers(connection)
    async with Router.open(database, connections=connections) as router:
        for status in ("paused", "active") * 3:
            leads = [await make_lead(connection, offer) for _ in range(12)]
            await connection.execute("update buyers set status = $1 where id = $2", status, first)
            async with asyncio.timeout(10):
                explained, *routed = await asyncio.gather(
                    asyncio.gather(*map(router.explain, leads[:6])), *map(router.route, leads[6:])
                )
            outcomes = [*routed, *(explanation.outcome for explanation in explained)]
            assert {second if status == "paused" else first} == {outcome.buyer_id for outcome in outcomes}


async def test_callers_transaction_that_is_behind_catches_up_beside_it(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, first, second = await two_buyers(connection)
    async with another(database) as host, Router.open(database, connections=1) as router:
        for status, expected in (("paused", second), ("active", first)) * 3:
            lead = await make_lead(connection, offer)
            await connection.execute("update buyers set status = $1 where id = $2", status, first)
            async with asyncio.timeout(10), host.transaction():
                assert (await router.route(lead, connection=host)).buyer_id == expected


async def test_last_resort_works_with_one_connection(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.router.PLAIN_TRIES", 0)
    offer, first, second = await two_buyers(connection)
    async with Router.open(database, connections=1) as router:
        for status, expected in (("paused", second), ("active", first)) * 2:
            await connection.execute("update buyers set status = $1 where id = $2", status, first)
            async with asyncio.timeout(10):
                assert (await router.route(await make_lead(connection, offer))).buyer_id == expected
    assert [] == await violations(connection)


async def test_last_resort_alone_decides_as_the_plain_way_does(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pointsman.router.PLAIN_TRIES", 0)
    offer = await make_offer(connection)
    buyers = sorted([await make_candidate(connection, offer, enrollment={"daily_cap": 4}) for _ in range(3)])
    await make_policy(connection, rules=ROTATION)
    leads = [await make_lead(connection, offer) for _ in range(14)]
    async with Router.open(database) as one, Router.open(database) as two:
        answers = await asyncio.gather(one.route_many(leads[:5]), two.route_many(leads[5:]), one.route_many(leads))
    assert {"routed", "already_routed", "no_route"} == {kind for batch in answers for kind in kinds(batch)}
    assert buyers * 4 == [row["buyer_id"] for row in await records(connection) if row["buyer_id"]]
    assert [] == await violations(connection)

"""What makes a claim wrong, slow or stuck elsewhere, as tests; DESIGN 4 and what was found besides."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from pointsman import Outcome, PointsmanError, Router
from pointsman import router as router_module
from pointsman.cache.feed import Cache
from pointsman.errors import Busy, StoreUnavailable
from pointsman.store import Store
from tests.builders import (
    enroll,
    make_area,
    make_buyer,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_leads,
    make_offer,
    make_policy,
    rules,
)
from tests.invariants import violations
from tests.stage import another, kinds, until, waiting_for_a_lock, written

SECOND_CHOICE = {"priority_rank": 2}


async def scene(connection: asyncpg.Connection, **over: Any) -> tuple[UUID, UUID]:
    """An offer and a buyer that takes all of it."""
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, **over)
    await make_policy(connection)
    return offer, buyer


@pytest.fixture
def last_resort_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every lead goes the way that is kept for those that conflict again and again."""
    monkeypatch.setattr(router_module, "PLAIN_TRIES", 0)


# the last resort


async def test_router_that_stops_in_the_last_resort_blocks_configuration_for_a_second_at_most(
    database: str, connection: asyncpg.Connection, last_resort_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, buyer = await scene(connection)
    lead = await make_lead(connection, offer)
    stopped = asyncio.Event()
    hold = Store.hold

    async def stop(self: Store, *arguments: Any) -> Any:
        answer = await hold(self, *arguments)
        stopped.set()
        await asyncio.sleep(3)  # as SIGSTOP would, with every lock held
        return answer

    async with Router.open(database) as router:
        monkeypatch.setattr(Store, "hold", stop)
        call = asyncio.create_task(router.route(lead))
        await asyncio.wait_for(stopped.wait(), 10)
        began = asyncio.get_running_loop().time()
        await connection.execute("update buyers set status = 'paused' where id = $1", buyer)
        assert asyncio.get_running_loop().time() - began < 1.0
        with pytest.raises(StoreUnavailable):  # the server has ended its session
            await call
        monkeypatch.setattr(Store, "hold", hold)
        assert (await router.route(lead)).outcome == "no_route"
    assert [] == await violations(connection)


async def test_lead_that_changes_before_the_last_resort_holds_it_is_decided_as_it_is_then(
    database: str, connection: asyncpg.Connection, last_resort_only: None
) -> None:
    offer, _ = await scene(connection)
    other_offer = await make_offer(connection)
    other_buyer = await make_candidate(connection, other_offer)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router, another(database) as host:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("update leads set offer_id = $2 where id = $1", lead, other_offer)
        call = asyncio.create_task(router.route(lead))
        await waiting_for_a_lock(connection)
        await transaction.commit()
        assert other_buyer == (await call).buyer_id
    assert [] == await violations(connection)


async def test_large_batch_is_held_a_part_at_a_time(
    database: str, connection: asyncpg.Connection, last_resort_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the time to decide it, with the seal held, would grow past what the server allows a transaction to idle."""
    offer, _ = await scene(connection, daily_cap=90)
    leads = await make_leads(connection, offer, 110)
    share_seal, lock_leads, seals, held = Store.share_seal, Store.lock_leads, [], []

    async def watched_seal(self: Store, *arguments: Any) -> None:
        seals.append(len(held))
        await share_seal(self, *arguments)

    async def watched_locks(self: Store, sealed: Any, lead_ids: list[UUID]) -> None:
        held.append(len(lead_ids))
        await lock_leads(self, sealed, lead_ids)

    monkeypatch.setattr(Store, "share_seal", watched_seal)
    monkeypatch.setattr(Store, "lock_leads", watched_locks)
    async with Router.open(database) as router:
        answers = await router.route_many(leads)
    assert ["routed"] * 90 + ["no_route"] * 20 == kinds(answers)
    assert [25, 25, 5] * 2 == held
    assert [0, 1, 2, 3, 4, 5] == seals
    assert [] == await violations(connection)


async def test_routers_that_all_take_the_last_resort_never_wait_for_each_other_in_a_circle(
    database: str, connection: asyncpg.Connection, last_resort_only: None
) -> None:
    offers = [await make_offer(connection) for _ in range(3)]
    for _ in range(6):
        buyer = await make_buyer(connection, hourly_cap=40, daily_cap=50)
        await make_area(connection, buyer)
        for offer in offers:
            await enroll(connection, buyer, offer, hourly_cap=20, daily_cap=30)
    await make_policy(connection, rules=rules(strategy={"kind": "rotation"}))
    leads = [lead for offer in offers for lead in await make_leads(connection, offer, 40)]
    name = await connection.fetchval("select quote_ident(current_database())")
    await connection.execute(f"alter database {name} set deadlock_timeout = '15ms'")
    routers = [await Router.open(database) for _ in range(4)]
    rnd = random.Random(5)
    answers = await asyncio.gather(*(router.route_many(rnd.sample(leads, 30)) for router in routers for _ in range(3)))
    for router in routers:
        await router.close()
    messages = [str(answer) for batch in answers for answer in batch if isinstance(answer, PointsmanError)]
    assert [] == [message for message in messages if "deadlock" in message]
    assert [] == await violations(connection)


# the host's locks


async def test_host_that_locks_leads_in_the_other_order_wins_and_the_router_comes_after(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, _ = await scene(connection)
    first, second = sorted(await make_leads(connection, offer, 2))
    async with Router.open(database) as router, another(database) as host:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("update leads set city = 'Evanston' where id = $1", second)
        call = asyncio.create_task(router.route_many([first, second]))
        await waiting_for_a_lock(connection)  # for the second, with the first in its hands
        await host.execute("update leads set city = 'Evanston' where id = $1", first)
        await transaction.commit()
        await call
        assert {"routed", "already_routed"} >= set(kinds(await router.route_many([first, second])))
    assert [] == await violations(connection)


async def test_hundreds_of_leads_that_somebody_holds_delay_the_others_of_their_batch_a_little(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, _ = await scene(connection)
    held, free = await make_leads(connection, offer, 200), await make_leads(connection, offer, 50)
    mixed = random.Random(3).sample([*held, *free], 250)
    async with Router.open(database) as router, another(database) as host:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("select from leads where id = any($1) for update", held)
        began = asyncio.get_running_loop().time()
        answers = dict(zip(mixed, await router.route_many(mixed), strict=True))
        assert asyncio.get_running_loop().time() - began < 3.0
        assert {"routed"} == set(kinds(answers[lead] for lead in free))
        assert {"Busy"} == set(kinds(answers[lead] for lead in held))
        await transaction.rollback()
        assert {"routed"} == set(kinds(await router.route_many(held)))


async def test_counter_that_a_callers_transaction_holds_makes_a_batch_busy_within_a_bound(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, _ = await scene(connection, hourly_cap=1000)
    leads = await make_leads(connection, offer, 120)
    async with Router.open(database) as router, another(database) as caller:
        transaction = caller.transaction()
        await transaction.start()
        await router.route(leads[0], connection=caller)
        began = asyncio.get_running_loop().time()
        assert {"Busy"} == set(kinds(await router.route_many(leads[1:])))
        assert asyncio.get_running_loop().time() - began < 6.0
        await transaction.commit()
        assert {"routed"} == set(kinds(await router.route_many(leads[1:])))
    assert [] == await violations(connection)


async def test_caller_whose_tries_all_conflict_is_busy_and_its_transaction_goes_on(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, _ = await scene(connection)
    lead = await make_lead(connection, offer)
    claim, claim_one = Store.claim, Store.claim_one

    async def change_before(self: Store, *arguments: Any) -> Any:
        await make_buyer(connection)  # between the decision and its claim, each time
        return await claim(self, *arguments)

    async def change_before_one(self: Store, *arguments: Any) -> Any:
        await make_buyer(connection)
        return await claim_one(self, *arguments)

    async with Router.open(database) as router, another(database) as caller, caller.transaction():
        monkeypatch.setattr(Store, "claim", change_before)
        monkeypatch.setattr(Store, "claim_one", change_before_one)
        with pytest.raises(Busy):
            await router.route(lead, connection=caller)
        monkeypatch.undo()
        assert (await router.route(lead, connection=caller)).outcome == "routed"
    assert [] == await violations(connection)


@pytest.mark.parametrize(
    ("overtaken", "expected"),
    [
        (1, [20, 20, 20, 40, 40]),  # one of two abreast, which says nothing yet
        (2, [20, 20, 20, 20, 10, 13, 17, 20, 20]),  # and again: the third try holds configuration still
    ],
)
async def test_batches_shrink_while_configuration_overtakes_them_again_and_again_and_grow_again(
    overtaken: int, expected: list[int], database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, _ = await scene(connection)
    leads = [await make_lead(connection, offer) for _ in range(120)]
    claim, sizes = Store.claim, list[int]()

    async def overtaken_at_first(self: Store, on: asyncpg.Connection, arguments: Any) -> Any:
        sizes.append(len(arguments[7]))
        if len(sizes) <= overtaken:
            await make_buyer(connection)
        return await claim(self, on, arguments)

    monkeypatch.setattr(Store, "claim", overtaken_at_first)
    async with Router.open(database) as router:
        await router.route_many(leads[:40])
        await router.route_many(leads[40:])
    assert expected == sizes
    assert [] == await violations(connection)


async def test_what_configuration_alone_overtook_is_decided_again_without_another_reading(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, buyer = await scene(connection)
    leads = await make_leads(connection, offer, 3)
    claim, read, readings = Store.claim, Store.read_leads, list[int]()

    async def paused_before(self: Store, *arguments: Any) -> Any:
        await connection.execute("update buyers set status = 'paused' where id = $1", buyer)
        return await claim(self, *arguments)

    async def noted(self: Store, on: asyncpg.Connection, lead_ids: list[UUID]) -> Any:
        readings.append(len(lead_ids))
        return await read(self, on, lead_ids)

    async with Router.open(database) as router:
        monkeypatch.setattr(Store, "claim", paused_before)
        monkeypatch.setattr(Store, "read_leads", noted)
        assert {"no_route"} == set(kinds(await router.route_many(leads)))
    assert [3] == readings
    assert [] == await violations(connection)


async def test_each_try_has_an_instant_of_its_own(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, _ = await scene(connection)
    holder = await make_candidate(connection, offer, enrollment=SECOND_CHOICE)
    leads, claim, changes = await make_leads(connection, offer, 3), Store.claim, iter(range(1))

    async def held_before(self: Store, *arguments: Any) -> Any:
        for _ in changes:
            await make_exclusivity(connection, offer, holder, valid_from=datetime.now(UTC))
        return await claim(self, *arguments)

    async with Router.open(database) as router:
        monkeypatch.setattr(Store, "claim", held_before)
        assert ["routed"] * 3 == kinds(await router.route_many(leads))
    assert [holder] * 3 == [buyer for _, _, buyer, _ in (await written(connection))["leads"]]
    assert not await connection.fetchval(
        "select exists (select from pointsman.decisions d join pointsman.config_commit c"
        " on c.version = d.config_version where d.decided_at < c.committed_at)"
    )
    assert [] == await violations(connection)


class Feed:
    """A router's feed that hears of a change while leads are read, and asks what it is when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, change: Callable[[], Awaitable[object]]) -> None:
        self.may_ask = asyncio.Event()
        self.may_ask.set()
        self.waits = 0
        """How often a claim waited for it."""
        self.failed: list[dict[str, Any] | None] = []
        """What came of each claim."""
        read, changes, claim = Store.read_leads, Store.changes, Store.claim
        listen, quiet, ring = Store.listener, Cache.quiet, Cache._ring
        rung = asyncio.Event()

        async def listener(store: Store, *arguments: Any) -> Any:
            self._listener = await listen(store, *arguments)
            return self._listener

        async def changed_meanwhile(store: Store, *arguments: Any) -> Any:
            reading = await read(store, *arguments)
            if not rung.is_set():
                self.may_ask.clear()
                await change()
                await asyncio.wait_for(rung.wait(), 10)
            return reading

        async def asked(store: Store, on: asyncpg.Connection, *arguments: Any) -> Any:
            if on is self._listener:
                await self.may_ask.wait()
            return await changes(store, on, *arguments)

        async def waited_for(cache: Cache) -> None:
            self.waits += 1
            self.heard()
            await quiet(cache)

        async def noted(store: Store, *arguments: Any) -> Any:
            claimed = await claim(store, *arguments)
            self.failed.append(claimed.failed)
            return claimed

        def rings(cache: Cache, *arguments: object) -> None:
            ring(cache, *arguments)
            rung.set()

        for owner, name, method in (
            (Store, "listener", listener),
            (Store, "read_leads", changed_meanwhile),
            (Store, "changes", asked),
            (Store, "claim", noted),
            (Cache, "quiet", waited_for),
            (Cache, "_ring", rings),
        ):
            monkeypatch.setattr(owner, name, method)

    def heard(self) -> None:
        """What happens when a claim begins to wait."""
        self.may_ask.set()


async def test_claim_waits_for_what_was_notified_of_since_it_could_not_hold(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, buyer = await scene(connection)
    leads = await make_leads(connection, offer, 3)
    feed = Feed(monkeypatch, lambda: connection.execute("update buyers set status = 'paused' where id = $1", buyer))
    async with Router.open(database) as router:
        assert {"no_route"} == set(kinds(await router.route_many(leads)))
    assert (1, [None]) == (feed.waits, feed.failed)
    assert [] == await violations(connection)


async def test_claim_does_not_wait_for_a_listener_that_has_gone_silent(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer, buyer = await scene(connection)
    leads = await make_leads(connection, offer, 3)
    feed = Feed(monkeypatch, lambda: connection.execute("update buyers set status = 'paused' where id = $1", buyer))
    monkeypatch.setattr(feed, "heard", lambda: None)
    async with Router.open(database) as router:
        assert {"no_route"} == set(kinds(await router.route_many(leads)))
        overtaken, settled = feed.failed  # it found out by itself
        feed.may_ask.set()
    assert overtaken is not None
    assert "version" in overtaken
    assert settled is None
    assert [] == await violations(connection)


# caps to the last lead, on a clock of the test's own


async def test_caps_are_used_to_the_last_lead_and_no_further_while_windows_roll_over(
    database: str, connection: asyncpg.Connection
) -> None:
    """Eight routers, 64 callers. `violations` decides each lead again on what came before it: one that was refused
    while there was room differs as much as one that was taken without.
    """
    rnd = random.Random(17)
    await connection.execute("create table public.hour (at timestamptz not null)")
    await connection.execute("insert into public.hour values ($1)", datetime(2026, 3, 7, 20, 0, tzinfo=UTC))
    await connection.execute(
        "create or replace function pointsman.clock() returns timestamptz language sql volatile"
        " as $$ select at from public.hour $$"
    )
    offers = [await make_offer(connection) for _ in range(2)]
    for _ in range(5):
        zone = rnd.choice(("America/Chicago", "UTC", "Asia/Kathmandu"))
        buyer = await make_buyer(connection, timezone=zone, hourly_cap=rnd.randint(1, 50), daily_cap=50)
        await make_area(connection, buyer)
        for offer in offers:
            await enroll(connection, buyer, offer, hourly_cap=rnd.randint(1, 20), daily_cap=rnd.randint(1, 50))
    await make_policy(connection, rules=rules(strategy={"kind": "rotation"}))
    leads = [lead for offer in offers for lead in await make_leads(connection, offer, 250)]
    routers = [await Router.open(database) for _ in range(8)]
    queue = rnd.sample(leads, len(leads))

    async def call(router: Router) -> None:
        while queue:
            lead = queue.pop()
            answer = (await router.route_many([lead]))[0]
            if isinstance(answer, Busy):  # the hour struck in the midst of its last resort
                queue.append(lead)
                continue
            assert isinstance(answer, Outcome), answer
            if len(queue) % 100 == 0:
                async with one_by_one:
                    await connection.execute("update public.hour set at = at + interval '31 min'")

    one_by_one = asyncio.Lock()
    await asyncio.gather(*(call(router) for router in routers for _ in range(8)))
    for router in routers:
        await router.close()
    assert [] == await violations(connection)


# what an abandoned or broken call leaves


async def test_callers_transaction_whose_session_dies_leaves_nothing(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, _ = await scene(connection, daily_cap=1)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router, another(database) as caller:
        before = await written(connection)
        await caller.execute("begin")
        assert (await router.route(lead, connection=caller)).outcome == "routed"
        await connection.execute("select pg_terminate_backend($1)", caller.get_server_pid())

        async def gone() -> bool:
            return before == await written(connection)

        await until(gone, "the end of the session")
        assert (await router.route(lead)).outcome == "routed"
    assert [] == await violations(connection)


async def test_calls_that_are_all_abandoned_leave_a_router_that_works(
    database: str, connection: asyncpg.Connection
) -> None:
    offer, _ = await scene(connection)
    leads = await make_leads(connection, offer, 60)
    async with Router.open(database) as router:
        calls = [asyncio.create_task(router.route(lead)) for lead in leads]
        for _ in range(3):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        assert {"routed", "already_routed"} >= set(kinds(await router.route_many(leads)))
    assert [] == await violations(connection)

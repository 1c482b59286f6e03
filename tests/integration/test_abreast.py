"""Two flushes under way at once: the second is decided on what the first takes, and claimed after it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Outcome, Router
from pointsman.store import Store
from tests.builders import make_area, make_candidate, make_lead, make_leads, make_offer, make_policy, rules
from tests.invariants import violations
from tests.stage import another, kinds, served, waiting_for_a_lock

FIRST, SECOND = {"priority_rank": 1}, {"priority_rank": 2}
ROTATION = rules(strategy={"kind": "rotation"})
ELSEWHERE = uuid4()


class Watched:
    """The claims and readings of the routers of a test: how large, and what was under way at the same time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sizes: list[int] = []
        self.failed: list[dict[str, Any] | None] = []
        self.at_once = 0
        self.reads_beside_a_claim = 0
        self.before: dict[int, Callable[[], Awaitable[object]]] = {}
        """What is to happen between the decisions of a claim, by its number, and the claim itself."""
        self._under_way = 0
        claim, read = Store.claim, Store.read_leads

        async def watched_claim(store: Store, on: asyncpg.Connection, arguments: Any) -> Any:
            self._under_way += 1
            self.at_once = max(self.at_once, self._under_way)
            self.sizes.append(len(arguments[7]))
            try:
                if happens := self.before.get(len(self.sizes)):
                    await happens()
                claimed = await claim(store, on, arguments)
            finally:
                self._under_way -= 1
            self.failed.append(claimed.failed)
            return claimed

        async def watched_read(store: Store, *arguments: Any) -> Any:
            self.reads_beside_a_claim += self._under_way
            return await read(store, *arguments)

        monkeypatch.setattr(Store, "claim", watched_claim)
        monkeypatch.setattr(Store, "read_leads", watched_read)


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Watched:
    return Watched(monkeypatch)


def buyers(answers: list[Any]) -> list[UUID | None]:
    """Who got each lead, in the order in which they were wanted."""
    assert all(isinstance(answer, Outcome) for answer in answers)
    return [answer.buyer_id for answer in answers]


async def test_second_flush_leaves_the_room_that_the_first_takes(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, daily_cap=45, enrollment=FIRST)
    second = await make_candidate(connection, offer, enrollment=SECOND)
    await make_policy(connection)
    async with Router.open(database) as router:
        answers = await router.route_many(await make_leads(connection, offer, 60))
    assert [first] * 45 + [second] * 15 == buyers(answers)
    assert [30, 30] == watched.sizes
    assert [None, None] == watched.failed
    assert [] == await violations(connection)


async def test_rotation_goes_on_from_flush_to_flush(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    for _ in range(7):
        await make_candidate(connection, offer)
    await make_policy(connection, rules=ROTATION)
    leads = await make_leads(connection, offer, 120)
    async with Router.open(database) as router:
        answers = [*await router.route_many(leads[:60]), *await router.route_many(leads[60:])]
    turns = buyers(answers)
    assert turns == [turns[place % 7] for place in range(120)]
    assert turns == await served(connection)
    assert [None] * 4 == watched.failed
    assert [] == await violations(connection)


async def test_claims_never_overlap_and_the_next_batch_is_read_beside_them(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = iter(await make_leads(connection, offer, 400))
    async with Router.open(database) as router:

        async def caller() -> None:
            for lead in leads:
                await router.route(lead)

        await asyncio.gather(*(caller() for _ in range(50)))
    assert watched.at_once == 1
    assert watched.reads_beside_a_claim >= 5
    assert sum(watched.sizes) == 400
    assert {"routed": 400} == dict(await connection.fetch("select status, count(*) from leads group by 1"))
    assert [] == await violations(connection)


async def test_few_leads_are_one_flush(database: str, connection: asyncpg.Connection, watched: Watched) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    async with Router.open(database) as router:
        await router.route_many(await make_leads(connection, offer, 38))
        await router.route_many(await make_leads(connection, offer, 39))
    assert [38, 20, 19] == watched.sizes
    assert [] == await violations(connection)


async def test_batch_is_decided_again_where_configuration_overtook_the_one_before_it(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment=FIRST)
    second = await make_candidate(connection, offer, enrollment=SECOND)
    await make_policy(connection)

    async def pause() -> None:
        await connection.execute("update buyers set status = 'paused' where id = $1", first)

    watched.before[1] = pause
    async with Router.open(database) as router:
        answers = await router.route_many(await make_leads(connection, offer, 60))
    assert [second] * 60 == buyers(answers)
    assert [30, 30, 30] == watched.sizes
    assert [{"version", "token", "now"}] == [set(failed) for failed in watched.failed if failed]
    assert [] == await violations(connection)


async def test_batch_is_decided_again_where_a_rival_took_the_room_of_the_one_before_it(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, daily_cap=45, enrollment=FIRST)
    second = await make_candidate(connection, offer, enrollment=SECOND)
    await make_policy(connection)
    async with Router.open(database) as router, Router.open(database) as rival:

        async def take() -> None:
            watched.before.clear()
            await rival.route_many(await make_leads(connection, offer, 20))

        watched.before[1] = take
        answers = await router.route_many(await make_leads(connection, offer, 60))
    assert Counter({first: 25, second: 35}) == Counter(buyers(answers))
    assert [first] * 25 == buyers(answers)[:25]  # whoever came first has what is left
    assert [] == await violations(connection)


async def test_turn_that_a_rival_took_meanwhile_is_found_out_though_the_batch_before_told_of_it(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    """The first batch learns where the enrollment stands now; the second was decided on where it stood."""
    offer = await make_offer(connection)
    for _ in range(30):
        await make_candidate(connection, offer)
    await make_policy(connection, rules=ROTATION)
    async with Router.open(database) as router, Router.open(database) as rival:
        turns = buyers(await router.route_many(await make_leads(connection, offer, 30)))
        assert len(set(turns)) == 30
        taken = turns[24]
        await make_area(connection, taken, market_id=ELSEWHERE)

        async def take() -> None:
            outcome = await rival.route(await make_lead(connection, offer, market_id=ELSEWHERE))
            assert outcome.buyer_id == taken

        watched.before[len(watched.sizes) + 1] = take
        answers = buyers(await router.route_many(await make_leads(connection, offer, 40)))
    assert turns[:20] == answers[:20]
    assert [*turns[20:24], *turns[25:], taken, *turns[:10]] == answers[20:]
    assert [] == await violations(connection)


async def test_leads_that_somebody_holds_do_not_keep_the_next_batch_waiting(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 60)
    async with Router.open(database) as router, another(database) as host:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("select from leads where id = $1 for update", leads[0])
        calls = [asyncio.ensure_future(router.route(lead)) for lead in leads]
        await waiting_for_a_lock(connection)
        assert ["routed"] * 30 == kinds(await asyncio.gather(*calls[30:]))
        assert not calls[0].done()  # it is waited for a second time
        await transaction.rollback()
        assert ["routed"] * 30 == kinds(await asyncio.gather(*calls[:30]))
    assert [] == await violations(connection)


async def test_server_that_has_gone_silent_keeps_the_next_batch_waiting_for_a_second(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 60)
    heard = asyncio.Event()
    watched.before[1] = heard.wait
    async with Router.open(database) as router:
        calls = [asyncio.ensure_future(router.route(lead)) for lead in leads]
        assert ["routed"] * 30 == kinds(await asyncio.gather(*calls[30:]))
        assert not calls[0].done()
        heard.set()
        assert ["routed"] * 30 == kinds(await asyncio.gather(*calls[:30]))
    assert watched.at_once == 2
    assert [] == await violations(connection)


async def test_lead_that_is_wanted_again_while_it_is_under_way_waits_until_it_is_settled(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 60)
    again: list[asyncio.Future[Any]] = []
    async with Router.open(database) as router:

        async def want_again() -> None:
            again.extend(asyncio.ensure_future(router.route(lead)) for lead in leads)
            await asyncio.sleep(0)

        watched.before[1] = want_again
        assert ["routed"] * 60 == kinds(await router.route_many(leads))
        answers = await asyncio.gather(*again)
    assert ["already_routed"] * 60 == kinds(answers)
    assert {buyer} == set(buyers(answers))
    assert [30, 30] == watched.sizes
    assert [] == await violations(connection)


async def test_router_that_closes_answers_both_flushes(
    database: str, connection: asyncpg.Connection, watched: Watched
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    router = await Router.open(database)
    calls = [asyncio.ensure_future(router.route(lead)) for lead in await make_leads(connection, offer, 60)]
    claiming = asyncio.Event()

    async def begun() -> None:
        claiming.set()

    watched.before[1] = begun
    await claiming.wait()
    await router.close()
    assert ["routed"] * 60 == kinds([await call for call in calls])
    assert [] == await violations(connection)

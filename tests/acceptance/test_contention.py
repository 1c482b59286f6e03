"""Several routers in several processes, on one database, while everything moves."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from random import Random
from uuid import UUID

import asyncpg
import pytest

from pointsman import Router
from pointsman.errors import Busy, StoreUnavailable
from pointsman.model import Outcome
from tests.acceptance.processes import Process, add_leads, build_market, dealt, outcomes
from tests.builders import (
    enroll,
    make_area,
    make_buyer,
    make_candidate,
    make_offer,
    make_policy,
    rules,
)
from tests.invariants import violations
from tests.stage import NOBODY, another, kinds, records, served, until, version

PROCESSES = 4
ROTATION = rules(strategy={"kind": "rotation"}, tie_breakers=["buyer_id"])


@pytest.fixture(scope="module")
async def started() -> AsyncIterator[list[Process]]:
    """Processes that live as long as this module's tests, since Python takes its time to start."""
    processes = await asyncio.gather(*(Process.start() for _ in range(PROCESSES)))
    yield processes
    await asyncio.gather(*(process.end() for process in processes))


@pytest.fixture
async def processes(started: list[Process], database: str) -> AsyncIterator[list[Process]]:
    """The processes with routers on the test's database."""
    await asyncio.gather(*(process.ask("open", database) for process in started))
    yield started
    await asyncio.gather(*(process.ask("close") for process in started))


async def repeatedly(done: asyncio.Event, step: Callable[[], Awaitable[object]]) -> int:
    """Do it until `done`; how often that was."""
    count = 0
    while not done.is_set():
        await step()
        count += 1
    return count


async def deadlocks(connection: asyncpg.Connection) -> int:
    return await connection.fetchval("select deadlocks from pg_stat_database where datname = current_database()")


# one lead, one cap, one turn


async def test_ten_calls_for_one_lead_through_several_processes_have_one_winner(
    database: str, connection: asyncpg.Connection, processes: list[Process]
) -> None:
    offer = await make_offer(connection)
    for _ in range(3):
        await make_candidate(connection, offer, enrollment={"hourly_cap": 1})
    await make_policy(connection, rules=ROTATION)
    async with Router.open(database) as one, Router.open(database) as two:
        for lead in await add_leads(connection, [offer], 3):
            here = asyncio.gather(*(router.route(lead) for router in (one, two)))
            there = await asyncio.gather(*(process.route([lead, lead]) for process in processes))
            answers = [answer for batch in there for answer in batch]
            answers += [[o.outcome, str(o.buyer_id), o.decision_id, o.config_version] for o in await here]
            assert {"routed": 1, "already_routed": 9} == Counter(answer[0] for answer in answers)
            assert 1 == len({tuple(answer[1:]) for answer in answers})
            assert 1 == len(await records(connection, lead))
    assert [] == await violations(connection)


@pytest.mark.parametrize("cap", ["hourly_cap", "daily_cap"])
@pytest.mark.parametrize("level", ["enrollment", "buyer"])
async def test_cap_reached_by_concurrent_calls_in_four_processes_is_exact(
    connection: asyncpg.Connection, processes: list[Process], level: str, cap: str
) -> None:
    offers = [await make_offer(connection) for _ in range(2)]
    buyer = await make_buyer(connection, **({cap: 23} if level == "buyer" else {}))
    await make_area(connection, buyer)
    for offer in offers:
        await enroll(connection, buyer, offer, **({cap: 23} if level == "enrollment" else {}))
    await make_policy(connection)
    leads = await add_leads(connection, offers, 120)
    answers = await asyncio.gather(
        *(process.route(part) for process, part in zip(processes, dealt(leads, PROCESSES), strict=True))
    )
    expected = 23 if level == "buyer" else 2 * 23
    assert {"routed": expected, "no_route": 120 - expected} == outcomes(answers)
    assert expected == await connection.fetchval("select count(*) from leads where buyer_id = $1", buyer)
    assert [] == await violations(connection)


async def test_caps_are_used_to_the_last_lead_by_64_callers_in_eight_processes_while_windows_roll_over(
    database: str, connection: asyncpg.Connection, processes: list[Process]
) -> None:
    """`violations` decides each lead again on what came before it: one that was refused while there was room differs
    as much as one that was taken without. The clock goes on by 31 minutes after every 60 decisions.
    """
    await connection.execute(
        "create or replace function pointsman.clock() returns timestamptz language sql volatile as"
        " $$ select timestamptz '2026-03-07 20:00Z' + (select last_value from pointsman.decisions_id_seq) / 60"
        " * interval '31 min' $$"
    )
    random, caps = Random(23), ("hourly_cap", "daily_cap")
    offers = [await make_offer(connection) for _ in range(2)]
    for zone in ("America/Chicago", "UTC", "Asia/Kathmandu") * 2:
        buyer = await make_buyer(connection, timezone=zone, hourly_cap=random.randint(1, 50), daily_cap=50)
        await make_area(connection, buyer)
        for offer in offers:
            await enroll(connection, buyer, offer, **{cap: random.randint(1, 50) for cap in caps})
    await make_policy(connection, rules=ROTATION)
    leads = await add_leads(connection, offers, 960)
    more = await asyncio.gather(*(Process.start() for _ in range(8 - PROCESSES)))
    try:
        await asyncio.gather(*(process.ask("open", database) for process in more))
        together = zip((*processes, *more), dealt(leads, 8), strict=True)
        answers = await asyncio.gather(*(process.route(part, "callers", 8) for process, part in together))
    finally:
        await asyncio.gather(*(process.end() for process in more))
    assert {"routed", "no_route"} == set(outcomes(answers))
    assert 960 == sum(map(len, answers))
    full = await connection.fetchval(
        "select count(*) from pointsman.cap_usage c join buyers b on b.id = c.buyer_id"
        " where c.kind = 'hour' and c.offer_id = $1 and c.used = b.hourly_cap",
        NOBODY,
    )
    windows = await connection.fetchval("select count(distinct window_start) from pointsman.cap_usage")
    assert full > 5
    assert windows > 5
    assert [] == await violations(connection)


async def test_rotation_serves_in_strict_turn_over_four_processes(
    connection: asyncpg.Connection, processes: list[Process]
) -> None:
    offer = await make_offer(connection)
    buyers = sorted([await make_candidate(connection, offer) for _ in range(6)])
    await make_policy(connection, rules=ROTATION)
    leads = await add_leads(connection, [offer], 120)
    answers = await asyncio.gather(
        *(process.route(part) for process, part in zip(processes, dealt(leads, PROCESSES), strict=True))
    )
    assert {"routed": 120} == outcomes(answers)
    assert buyers * 20 == await served(connection)
    assert [] == await violations(connection)


# while everything moves


CHANGES = (
    "update buyers set status = case status when 'active' then 'paused' else 'active' end where id = $1",
    "update buyers set daily_cap = case when daily_cap is null then 60 end where id = $1",
    "update buyers set timezone = case timezone when 'UTC' then 'America/Chicago' else 'UTC' end where id = $1",
    "update buyer_offers set hourly_cap = case when hourly_cap is null then 30 end where buyer_id = $1",
    "update buyer_offers set priority_rank = (priority_rank + 1) % 3 where buyer_id = $1",
    "update buyer_offers set is_active = not is_active where buyer_id = $1",
    "update buyer_service_areas set scope = 'market', value = null where buyer_id = $1",
    "update buyer_service_areas set scope = 'city', value = 'Chicago' where buyer_id = $1",
    "update offer_exclusivities set buyer_id = $1",
)


async def test_storm_of_leads_changes_and_callers_that_roll_back_leaves_every_decision_right(
    database: str, connection: asyncpg.Connection, processes: list[Process]
) -> None:
    await connection.execute(f"alter database {database.rpartition('/')[2]} set deadlock_timeout = '15ms'")
    offers, buyers = await build_market(connection)
    leads = await add_leads(connection, offers, 320) + await add_leads(connection, offers, 80, city="Evanston")
    Random(7).shuffle(leads)
    remote, local, embedded = leads[:240], leads[240:340], leads[340:]
    random, done = Random(11), asyncio.Event()

    async with (
        another(database) as writer,
        another(database) as watcher,
        another(database) as host,
        Router.open(database) as router,
    ):

        async def change() -> None:
            async with writer.transaction():
                for statement in random.sample(CHANGES, k=random.choice((1, 1, 2, 3))):
                    await writer.execute(statement, random.choice(buyers))

        async def route_here() -> list[str]:
            found = []
            for lead in local:
                known = await version(watcher)
                (answer,) = await router.route_many([lead])
                if isinstance(answer, Outcome):
                    assert (answer.config_version or 0) >= known
                found += kinds([answer])
            return found

        async def embed() -> list[str]:
            found = []
            for number, lead in enumerate(embedded):
                transaction = host.transaction()
                await transaction.start()
                try:
                    found.append(str((await router.route(lead, connection=host)).outcome))
                except Busy:
                    found.append("Busy")
                await (transaction.rollback() if number % 2 else transaction.commit())
            return found

        writing = asyncio.ensure_future(repeatedly(done, change))
        answers, here, embeds = await asyncio.gather(
            asyncio.gather(*(p.route(part, "in turn") for p, part in zip(processes, dealt(remote, 4), strict=True))),
            route_here(),
            embed(),
        )
        done.set()
        assert await writing > 20
    assert set(outcomes(answers)) | set(here) <= {"routed", "no_route"}
    assert set(embeds) <= {"routed", "no_route", "Busy"}
    assert outcomes(answers)["routed"] > 50
    assert [] == await violations(connection)
    assert 0 == await deadlocks(connection)


async def test_pause_that_was_committed_is_obeyed_by_every_process_at_once(
    connection: asyncpg.Connection, processes: list[Process]
) -> None:
    offer = await make_offer(connection)
    buyers = [await make_candidate(connection, offer) for _ in range(3)]
    await make_policy(connection, rules=ROTATION)
    for paused in buyers * 3:
        await connection.execute("update buyers set status = case id when $1 then 'paused' else 'active' end", paused)
        known = await version(connection)
        leads = await add_leads(connection, [offer], 8)
        answers = await asyncio.gather(
            *(process.route(part) for process, part in zip(processes, dealt(leads, PROCESSES), strict=True))
        )
        assert {"routed": 8} == outcomes(answers)
        assert str(paused) not in {answer[1] for batch in answers for answer in batch}
        assert all(answer[3] >= known for batch in answers for answer in batch)
    assert [] == await violations(connection)


# while things break


async def test_process_that_is_killed_in_the_midst_of_its_work_loses_no_lead(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    for _ in range(3):
        await make_candidate(connection, offer, daily_cap=100)
    await make_policy(connection, rules=ROTATION)
    leads = await add_leads(connection, [offer], 400)
    process = await Process.start()
    await process.ask("open", database)
    work = asyncio.ensure_future(process.route(leads, "in turn"))

    async def some_are_routed() -> bool:
        return len(await served(connection)) >= 10

    await until(some_are_routed, "work")
    await process.end()
    with pytest.raises(AssertionError, match="ended"):
        await work
    before = len(await served(connection))
    assert 10 <= before < 300
    async with Router.open(database) as router:
        found = Counter(kinds(await router.route_many(leads)))
    assert 300 == found["routed"] + found["already_routed"]
    assert 100 == found["no_route"]
    assert before <= found["already_routed"] <= before + 1
    assert [] == await violations(connection)


async def test_sessions_that_are_ended_at_random_cost_tries_and_no_lead(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyers = [await make_candidate(connection, offer, daily_cap=50, enrollment={"hourly_cap": 50}) for _ in range(3)]
    await make_policy(connection, rules=ROTATION)
    leads = await add_leads(connection, [offer], 150)

    async def end_one() -> None:
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database()"
            " and application_name = 'pointsman' order by state = 'active' desc, random() limit 1"
        )

    async def until_answered(router: Router, lead: UUID) -> str:
        for _ in range(10):
            (answer,) = await router.route_many([lead])
            if not isinstance(answer, StoreUnavailable | Busy):
                break
        return kinds([answer])[0]

    async with Router.open(database) as one, Router.open(database) as two:
        found = []
        for part in dealt(leads, 15):
            calls = [until_answered(router, lead) for router, lead in zip((one, two) * 5, part, strict=True)]
            _, *answers = await asyncio.gather(end_one(), *calls)
            found += answers
    assert {"routed", "already_routed"} >= set(found)  # the latter where the answer to a claim was lost
    assert dict.fromkeys(buyers, 50) == Counter(await served(connection))
    assert [] == await violations(connection)

"""The whole path under load: calls one after another, calls at once, one hot buyer, several processes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from random import Random
from uuid import UUID

import asyncpg

from bench.figures import Figures, percentiles
from bench.peers import Opened, Peer
from bench.peers.bare import bare_trips
from bench.peers.by_hand import by_hand
from bench.peers.orm import orm
from bench.peers.sql_only import sql_only
from bench.peers.unbatched import unbatched
from bench.worlds import BenchWorld, fresh
from pointsman import Router
from pointsman import world as demo
from pointsman.cache import collector
from pointsman.migrate import migrate
from pointsman.world import NewLead

Call = Callable[[UUID], Awaitable[object]]

OURS, BARE, UNBATCHED = "Pointsman", "two bare trips", "Pointsman, unbatched"
SQL, HAND, ORM = "SQL only", "asyncpg by hand", "SQLAlchemy ORM"
FLOORS: Mapping[str, Opened] = {BARE: bare_trips, OURS: Router.open, UNBATCHED: unbatched}
PEERS: Mapping[str, Opened] = {SQL: sql_only, HAND: by_hand, ORM: orm}

SEQUENTIAL = "one after another"
HOT_PROCESSES = "one hot buyer, processes"
TRIPS = "round trips a lead"
BRIEF = "the brief's load, on the demo's world"
ON_DISK = ("bytes on disk", "a decision's record, indexes included", "bytes")
LEVELS = (10, 50, 200, 1_000)
"""How many callers there are at once."""
WRITTEN = ("leads", "pointsman.decisions", "pointsman.cap_usage", "pointsman.rotation", "peers.usage")
SHARES = {SQL: 0.08, HAND: 0.08, ORM: 0.03, UNBATCHED: 0.5}
"""How many leads a slower subject is given at once, of those that the others get."""


class Stage:
    """A database with a world, what routes on it, and new leads for them.

    `leads`: how many a subject is given one after another, a round. `streams`: kinds of leads in the steady case; so
    many that no buyer is hot, so few that each one's counters are soon there.
    """

    def __init__(
        self, dsn: str, world: BenchWorld, figures: Figures, *, rounds: int, leads: int, streams: int = 1_000
    ) -> None:
        self.dsn = dsn
        self.world = world
        self.figures = figures
        self.rounds = rounds
        self.count = leads
        self.subjects: dict[str, Peer] = {}
        self._dice = Random(f"leads/{datetime.now(UTC)}")
        self._steady = world.streams("steady", streams)
        self._fresh = 0
        self._warmed_in: datetime | None = None

    async def __aenter__(self) -> Stage:
        self.connection = await asyncpg.connect(self.dsn)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.connection.close()

    @asynccontextmanager
    async def having(self, subjects: Mapping[str, Opened]) -> AsyncIterator[None]:
        """Open what is to be measured, and close it again."""
        async with AsyncExitStack() as stack:
            for name, opened in subjects.items():
                self.subjects[name] = await stack.enter_async_context(opened(self.dsn))
            self._warmed_in = None
            collector.settle()  # as the service does
            yield
            for name in subjects:
                del self.subjects[name]

    async def leads(self, rows: Sequence[NewLead]) -> list[UUID]:
        """Put new leads into the host's table."""
        await demo.insert_leads(self.connection, rows)
        return [row.id for row in rows]

    async def steady(self, count: int) -> list[UUID]:
        """Leads whose buyers have counters already: what most leads are, of a busy day."""
        hour = datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
        if self._warmed_in != hour:
            self._warmed_in = hour
            await self._warm()
        return await self.leads(fresh(self._steady, count, self._dice))

    async def cold(self, count: int) -> list[UUID]:
        """Leads of kinds that were never seen: most are the first of their buyers' windows."""
        self._fresh += 1
        name = f"cold/{self._fresh}/{self._dice.random()}"
        return await self.leads(self.world.streams(name, count))

    async def hot(self, count: int) -> list[UUID]:
        """Leads that one capped buyer alone can have."""
        return await self.leads(demo.like(self.world.hot_stream(), count, self._dice.getrandbits(32)))

    async def _warm(self) -> None:
        """Route some of each kind, so that counters are there and the small caps are full."""
        for name, times in ((OURS, 4), (SQL, 1)):
            if name in self.subjects:
                for _ in range(times):
                    ids = await self.leads([stream._replace(id=lead_id) for stream, lead_id in self._with_new_ids()])
                    await at_once(self.subjects[name].route, ids, 50)
        # Else statistics would still say that the tables are empty, and plans would scan them whole, which is what a
        # database looks like for its first minute and not on a busy day. It concerns every subject alike.
        for table in WRITTEN:
            await self.connection.execute(f"vacuum analyze {table}")
        for subject in self.subjects.values():
            await one_after_another(subject.route, await self.leads(fresh(self._steady, 20, self._dice)))

    def _with_new_ids(self) -> Iterator[tuple[NewLead, UUID]]:
        for stream in self._steady:
            yield stream, UUID(int=self._dice.getrandbits(128), version=4)

    def turns(self, number: int, names: Sequence[str]) -> list[str]:
        """The subjects of a round, each round another one first."""
        present = [name for name in names if name in self.subjects]
        number %= len(present) or 1
        return present[number:] + present[:number]


async def one_after_another(call: Call, leads: Sequence[UUID]) -> list[float]:
    """Milliseconds of each call."""
    times = []
    for lead_id in leads:
        began = time.perf_counter()
        await call(lead_id)
        times.append((time.perf_counter() - began) * 1000)
    return times


async def at_once(call: Call, leads: Sequence[UUID], callers: int) -> tuple[float, list[float]]:
    """Calls a second with so many callers in a closed loop, and the milliseconds of each."""
    todo, times = iter(leads), []

    async def caller() -> None:
        for lead_id in todo:
            since = time.perf_counter()
            await call(lead_id)
            times.append((time.perf_counter() - since) * 1000)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return len(leads) / (time.perf_counter() - began), times


def callers_name(kind: str, callers: int) -> str:
    return f"{kind}, {callers} callers"


async def measure_steady(stage: Stage, levels: Sequence[int], prefix: str = "") -> None:
    """One after another, then with more and more callers, every subject in turn."""
    names = list(stage.subjects)
    for number in range(stage.rounds):
        for name in stage.turns(number, names):
            ids = await stage.steady(max(50, int(stage.count * SHARES.get(name, 1))))
            times = await one_after_another(stage.subjects[name].route, ids)
            stage.figures.note(prefix + SEQUENTIAL, name, **percentiles(times))
        for callers in levels:
            for name in stage.turns(number, names if callers <= 50 else list(FLOORS)):
                await _at_once(stage, prefix + callers_name("steady", callers), name, callers, stage.steady)


async def measure_cold(stage: Stage) -> None:
    """The same for leads that are the first of their buyers' windows, and how many counters they made."""
    for number in range(stage.rounds):
        for name in stage.turns(number, list(FLOORS)):
            ids = await stage.cold(stage.count)
            before = await _counters(stage)
            times = await one_after_another(stage.subjects[name].route, ids)
            made = (await _counters(stage) - before) / len(ids)
            stage.figures.note(f"cold, {SEQUENTIAL}", name, **percentiles(times), new_counters=made)
        for callers in (50, 200):
            for name in stage.turns(number, list(FLOORS)):
                await _at_once(stage, callers_name("cold", callers), name, callers, stage.cold)


async def measure_hot(stage: Stage) -> None:
    """All leads want one capped buyer."""
    for number in range(stage.rounds):
        for callers in (50, 200):
            for name in stage.turns(number, list(FLOORS)):
                await _at_once(stage, callers_name("one hot buyer", callers), name, callers, stage.hot)


async def _at_once(
    stage: Stage, workload: str, name: str, callers: int, leads: Callable[[int], Awaitable[list[UUID]]]
) -> None:
    ids = await leads(max(3 * callers, int(8 * stage.count * SHARES.get(name, 1))))
    rate, times = await at_once(stage.subjects[name].route, ids, callers)
    stage.figures.note(workload, name, rate=rate, **percentiles(times))


async def _counters(stage: Stage) -> float:
    return float(await stage.connection.fetchval("select count(*) from pointsman.cap_usage"))


async def measure_trips(stage: Stage) -> None:
    """Statements that the router sends, a lead: alone, and in batches; and bytes on disk of a record."""
    sent = 0

    def count(_: object) -> None:
        nonlocal sent
        sent += 1

    size = "select pg_total_relation_size('pointsman.decisions'), (select count(*) from pointsman.decisions)"
    async with Router.open(stage.dsn, on_connect=lambda connection: connection.add_query_logger(count)) as router:
        await router.route_many(await stage.steady(50))
        ids = await stage.steady(stage.count)
        sent = 0
        await one_after_another(router.route, ids)
        stage.figures.note(TRIPS, SEQUENTIAL, trips=sent / len(ids))
        await stage.connection.execute("vacuum pointsman.decisions")
        before = await stage.connection.fetchrow(size)
        ids = await stage.steady(8 * stage.count)
        sent = 0
        await at_once(router.route, ids, 50)
        stage.figures.note(TRIPS, "50 callers", trips=sent / len(ids))
        after = await stage.connection.fetchrow(size)
        grown, rows = (after[place] - before[place] for place in (0, 1))
        stage.figures.note(*ON_DISK[:2], bytes=grown / rows)


async def measure_brief(server: str, figures: Figures, rounds: int) -> None:
    """The brief's load on the demo's world: 1,000 one after another, 50 at once, 10 callers on one lead."""
    dsn = await _demo_database(server)
    connection = await asyncpg.connect(dsn)
    made = demo.build(1)
    async with Router.open(dsn) as router:
        collector.settle()  # as the service does
        for number in range(rounds):
            rows = demo.leads(made, 1_101, 100 + number)
            await demo.insert_leads(connection, rows)
            ids = [row.id for row in rows]
            await one_after_another(router.route, ids[:50])
            times = await one_after_another(router.route, ids[50:1_050])
            figures.note(BRIEF, "1,000 one after another", **percentiles(times))
            _, times = await at_once(router.route, ids[1_050:1_100], 50)
            figures.note(BRIEF, "50 at once", **percentiles(times))
            _, times = await at_once(router.route, ids[1_100:] * 10, 10)
            figures.note(BRIEF, "10 on one lead", **percentiles(times))
    await connection.close()


async def _demo_database(server: str) -> str:
    name = "pointsman_bench_demo"
    admin = await asyncpg.connect(server)
    await admin.execute(f"drop database if exists {name} with (force)")
    await admin.execute(f"create database {name}")
    await admin.close()
    dsn = f"{server.rpartition('/')[0]}/{name}"
    await migrate(dsn, with_host_tables=True)
    connection = await asyncpg.connect(dsn)
    await demo.insert(connection, demo.build(1))
    await connection.execute("vacuum analyze")
    await connection.close()
    return dsn


async def measure_processes(stage: Stage, processes: int = 4, callers: int = 50) -> None:
    """All leads want one capped buyer, routed by one process and by several."""
    async with AsyncExitStack() as stack:
        workers = [await stack.enter_async_context(_worker(stage.dsn, callers)) for _ in range(processes)]
        for worker in workers:
            await _line(worker)
        for _ in range(stage.rounds):
            for number in (1, processes):
                rate = await _by_workers(workers[:number], await stage.hot(4 * stage.count * number))
                stage.figures.note(HOT_PROCESSES, f"{number} process{'es' * (number > 1)}", rate=rate)


async def _by_workers(workers: Sequence[Process], leads: Sequence[UUID]) -> float:
    """Leads a second, from the first worker's beginning to the last one's end."""
    for number, worker in enumerate(workers):
        assert worker.stdin is not None
        worker.stdin.write(json.dumps([str(lead_id) for lead_id in leads[number :: len(workers)]]).encode() + b"\n")
    spans = [json.loads(await _line(worker)) for worker in workers]
    return len(leads) / (max(ended for _, ended in spans) - min(began for began, _ in spans))


@asynccontextmanager
async def _worker(dsn: str, callers: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.worker", dsn, str(callers)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    return await process.stdout.readline()

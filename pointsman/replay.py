"""Proof: recorded decisions, decided again on the configuration of their time.

A replay reads one moment of the database and walks the history of the configuration once, in the order of commits. Each
decision is decided again on its recorded state; that the state is what the decisions before it left is checked besides.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from pointsman import engine
from pointsman.cache.collector import paused
from pointsman.claim import VERSIONS, Question
from pointsman.engine.capacity import State
from pointsman.errors import DecisionNotFound, LeadNotFound, PointsmanError
from pointsman.history import SLICE, Extent, History, missing_version, read_extent
from pointsman.proof import Again, Answers, Before, Difference, Fact, Served, again, compare, instant_of, require_named
from pointsman.store import connect, queries_of, translated

Connection = asyncpg.Connection
Progress = Callable[[int, int], None]
"""Told how many decisions are done, and of how many."""

LISTED = 1_000
"""Differences that a report names; the others are counted."""
CONNECT_SECONDS = 10

_versions_of = itemgetter("engine_version", "tzdata_version", "unicode_version")
_CHOSEN = """(($1::timestamptz is null or d.decided_at >= $1) and ($2::uuid is null or d.lead_id = $2)
  and ($3::bigint[] is null or d.id = any($3)))"""


class NewerRecord(PointsmanError):
    """The decision was made by a newer release, which decides or records otherwise."""


@dataclass(slots=True)
class Tally:
    """Decisions that are the same again, and those that are not."""

    equal: int = 0
    different: int = 0
    differences: list[Difference] = field(default_factory=list)

    def add(self, difference: Difference | None) -> None:
        if difference is None:
            self.equal += 1
            return
        self.different += 1
        if len(self.differences) < LISTED:
            self.differences.append(difference)

    def join(self, other: Tally) -> None:
        self.equal += other.equal
        self.different += other.different
        self.differences = [*self.differences, *other.differences][:LISTED]


@dataclass(slots=True)
class Report:
    """What a replay found.

    `other_version`: decisions of another engine, tzdata or Unicode release, in rows that are intact.
    `pruned`: decisions whose configuration is no longer kept. `seconds`: how long it took.
    `unsupported`, until the end: decisions that are the same again on their recorded state, which is not what the
    decisions before them left.
    """

    same_version: Tally = field(default_factory=Tally)
    other_version: Tally = field(default_factory=Tally)
    pruned: int = 0
    seconds: float = 0.0
    unsupported: Tally = field(default_factory=Tally)

    @property
    def decisions(self) -> int:
        """How many decisions were decided again."""
        return sum(tally.equal + tally.different for tally in (self.same_version, self.other_version))

    @property
    def rate(self) -> float:
        """Decisions a second."""
        return self.decisions / self.seconds if self.seconds else 0.0

    def join(self, other: Report) -> None:
        self.same_version.join(other.same_version)
        self.other_version.join(other.other_version)
        self.pruned += other.pruned
        self.unsupported.join(other.unsupported)

    def settle(self) -> Report:
        """Judge the unsupported: a row that was changed explains them, else they differ themselves."""
        if any(not difference.is_intact for difference in self.same_version.differences):
            self.same_version.equal += self.unsupported.different
        else:
            self.same_version.join(self.unsupported)
        self.unsupported = Tally()
        return self

    def as_json(self) -> dict[str, Any]:
        """For a program to read; ids and bytes are still Python's."""
        return {
            "decisions": self.decisions,
            "equal": self.same_version.equal,
            "different": self.same_version.different,
            "differences": [_difference_json(difference) for difference in self.same_version.differences],
            "other_version": {
                "equal": self.other_version.equal,
                "different": self.other_version.different,
                "differences": [_difference_json(difference) for difference in self.other_version.differences],
            },
            "pruned": self.pruned,
            "seconds": round(self.seconds, 3),
            "decisions_per_second": round(self.rate),
        }


@dataclass(frozen=True, slots=True)
class Selection:
    """Which decisions; all of them by default."""

    since: datetime | None = None
    lead_id: UUID | None = None
    ids: tuple[int, ...] | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        return self.since, self.lead_id, self.ids

    @property
    def is_scattered(self) -> bool:
        """Whether the decisions between the chosen ones are mostly not chosen."""
        return (self.lead_id, self.ids) != (None, None)


class Part(NamedTuple):
    """A stretch of the chosen decisions by config version and id; the end is not in it, None has none."""

    first: tuple[int, int] = (-(1 << 63), -(1 << 63))
    end: tuple[int, int] | None = None

    @property
    def arguments(self) -> tuple[Any, ...]:
        return *self.first, *(self.end or (None, None))


async def replay(
    dsn: str,
    *,
    since: datetime | None = None,
    lead_id: UUID | None = None,
    decision_id: int | None = None,
    sample: int | None = None,
    jobs: int = 1,
    progress: Progress | None = None,
) -> Report:
    """Decide recorded decisions again and say what differs; writes nothing.

    Raises `DecisionNotFound`, `LeadNotFound` (a lead without decisions), `HistoryHole`, and what stands in the way of
    reading the database.
    """
    async with reading(dsn) as connection:
        selection = Selection(since, lead_id, None if decision_id is None else (decision_id,))
        if sample is not None and decision_id is None:
            with translated():
                selection = replace(selection, ids=await _sample(connection, selection, sample))
        if jobs == 1 or selection.is_scattered:
            return await replay_on(connection, selection, progress)
        return await _in_processes(dsn, connection, selection, jobs, progress)


async def replay_on(
    connection: Connection, selection: Selection | None = None, progress: Progress | None = None
) -> Report:
    """The same on an open connection in a transaction, which should see one moment (REPEATABLE READ)."""
    began = time.monotonic()
    selection = selection or Selection()
    with translated():
        replaying = await Replaying.begin(connection, selection)
        report = await replaying.preliminary()
        if replaying.is_possible:
            report.join(await replaying.run(Part(), progress or _nothing))
    report.seconds = time.monotonic() - began
    return report.settle()


def newer(report: Report) -> Difference | None:
    """A difference that a newer release's decision makes, which this release is in no position to judge."""
    return next((found for found in report.other_version.differences if _is_newer(found.engine_version)), None)


async def _sample(connection: Connection, selection: Selection, count: int) -> tuple[int, ...]:
    rows = await connection.fetch(queries()["sample"], selection.since, selection.lead_id, count)
    return tuple(row["id"] for row in rows)


# a run


class Replaying:
    """A run over chosen decisions in one transaction."""

    def __init__(self, connection: Connection, selection: Selection, extent: Extent) -> None:
        self._connection = connection
        self._selection = selection
        self._sql = queries()
        self._extent = extent

    @classmethod
    async def begin(cls, connection: Connection, selection: Selection) -> Replaying:
        return cls(connection, selection, await read_extent(connection))

    @property
    def is_possible(self) -> bool:
        """Whether any configuration is kept."""
        return self._extent.first_version is not None

    async def count(self) -> int:
        count: int = await self._fetchval("chosen")
        return count

    async def bounds(self, jobs: int) -> list[Part]:
        """Parts of about the same size, one for each job, or fewer."""
        rows = await self._connection.fetch(self._sql["bounds"], *self._selection.arguments, jobs)
        firsts = [(row["config_version"], row["id"]) for row in rows]
        return list(map(Part, firsts, [*firsts[1:], None]))

    async def preliminary(self) -> Report:
        """What can be said before anything is decided again; raises what makes a replay impossible."""
        selection, extent = self._selection, self._extent
        count = await self.count()
        if not count and selection.lead_id is not None:
            raise LeadNotFound(f"the router has no decision of the lead `{selection.lead_id}`")
        if not count and selection.ids:
            raise DecisionNotFound(f"no such decision: `{selection.ids[0]}`")
        if count or self.is_possible:
            extent.require_whole()
        report = Report()
        if count and extent.whole_from is not None:
            report.pruned = await self._fetchval("pruned", extent.first_version)
        for row in await self._connection.fetch(self._sql["strangers"], *selection.arguments):
            self._judge_stranger(row, report)
        return report

    def _judge_stranger(self, row: asyncpg.Record, report: Report) -> None:
        """A decision of a version that is not there: pruned, tampered with, or proof of a hole."""
        version = row["config_version"]
        if self._extent.is_pruned(version):
            return
        if self._extent.is_within(version):
            raise missing_version(version, row["id"])
        fact = Fact("config_version", version, None)
        report.same_version.add(Difference(row["id"], row["lead_id"], engine.__version__, False, (fact,)))

    async def run(self, part: Part, progress: Progress) -> Report:
        """Decide a part of the chosen decisions again."""
        report = Report()
        first_id = await self._fetchval("first_id", *part.arguments)
        if first_id is None:
            return report
        total, done = await self.count(), 0
        served = None if self._selection.is_scattered else await self._served(first_id)
        history: History | None = None
        async for rows in self._decisions(part):
            if history is None:
                history = History(self._connection, rows[0]["config_version"])
            with paused():  # a slice leaves nothing to collect, and the configuration has no cycles
                await self._decide_again(rows, history, served, report)
            done += len(rows)
            progress(done, total)
        return report

    async def _decide_again(
        self, rows: list[asyncpg.Record], history: History, served: _ServedSoFar | None, report: Report
    ) -> None:
        for row in rows:
            version, indexes = row["config_version"], history.indexes
            if indexes.version != version:
                indexes = await history.advance(version)
                if indexes.version != version:
                    continue  # judged already
            made = again(row, indexes)
            if served is None:
                self._judge(made, await self._answers(made), report)
            else:
                await served.advance(row["id"])
                self._judge(made, served.served, report)

    def _judge(self, made: Again, served: Before, report: Report) -> None:
        row = made.row
        found = compare(made, served)
        if found is not None:
            require_named(row, made.indexes)
        is_ours = _versions_of(row) == VERSIONS
        # a row that does not fit its digest was changed afterwards, unless a newer release makes digests otherwise
        ours = is_ours or (found is not None and not found.is_intact and not _is_newer(row["engine_version"]))
        if found is not None and found.is_unsupported:
            report.unsupported.add(found)
        else:
            (report.same_version if ours else report.other_version).add(found)

    async def _decisions(self, part: Part) -> AsyncIterator[list[asyncpg.Record]]:
        assert self._extent.first_version is not None  # or nothing would be possible
        part = _kept(part, self._extent.first_version)
        cursor = await self._connection.cursor(self._sql["decisions"], *self._selection.arguments, *part.arguments)
        while rows := await cursor.fetch(SLICE):
            yield rows
            await asyncio.sleep(0)

    async def _served(self, first_id: int) -> _ServedSoFar:
        served = await served_before(self._connection, first_id, self._extent.whole_from)
        return _ServedSoFar(served, await self._connection.cursor(self._sql["served"], first_id))

    async def _answers(self, made: Again) -> Before:
        """What the decisions before one left, asked of the database for just that one."""
        decision = made.decision
        if decision is None or not (decision.takes or decision.full or decision.compared):
            return Answers(State())
        question = Question(decision.compared, (*decision.takes, *decision.full))
        row = await self._connection.fetchrow(
            queries_of("queries")["state_before"], *question.arguments(), made.row["id"]
        )
        assert row is not None
        return Answers(question.answered(row["used"], row["positions"]))

    async def _fetchval(self, statement: str, *arguments: Any) -> Any:
        return await self._connection.fetchval(self._sql[statement], *self._selection.arguments, *arguments)


class _ServedSoFar:
    """Who was served, read on in the order of ids as far as it is asked for."""

    def __init__(self, served: Served, cursor: Any) -> None:
        self.served = served
        self._cursor = cursor
        self._ahead: Iterator[asyncpg.Record] = iter(())
        self._next: asyncpg.Record | None = None

    async def advance(self, decision_id: int) -> None:
        """Take in every decision before `decision_id`."""
        row = self._next or await self._read_on()
        while row is not None and row["id"] < decision_id:
            take_in(self.served, row)
            row = next(self._ahead, None) or await self._read_on()
        self._next = row

    async def _read_on(self) -> asyncpg.Record | None:
        """The first row that was not read yet."""
        self._ahead = iter(await self._cursor.fetch(SLICE))
        return next(self._ahead, None)


async def served_before(connection: Connection, first_id: int, known_from: int | None = None) -> Served:
    """Who was served by decisions before one, as far as windows may still count them, and by each one's last."""
    served = Served(known_from)
    async for row in connection.cursor(queries()["served_before"], first_id, prefetch=SLICE):
        take_in(served, row)
    return served


def take_in(served: Served, row: asyncpg.Record) -> None:
    """Let `served` know of the next decision in the order of ids."""
    served.add(row["id"], instant_of(row), row["turn"])


def _kept(part: Part, version: int) -> Part:
    """The part without what is older than the history that is kept."""
    return part._replace(first=max(part.first, (version, part.first[1] if part.first[0] == version else -(1 << 63))))


# in several processes

_done: Any = None
"""In a worker: where it counts the decisions that it has done, for the parent to read."""


async def _in_processes(
    dsn: str, connection: Connection, selection: Selection, jobs: int, progress: Progress | None
) -> Report:
    """Cut the decisions into parts, and let a process of its own replay each, all on the same moment."""
    began = time.monotonic()
    with translated():
        replaying = await Replaying.begin(connection, selection)
        report = await replaying.preliminary()
        parts = await replaying.bounds(jobs) if replaying.is_possible else []
        snapshot = await connection.fetchval(queries()["export_snapshot"])
        total = await replaying.count()
    spawn = multiprocessing.get_context("spawn")
    done = spawn.Value("q", 0)
    with ProcessPoolExecutor(jobs, spawn, _count_in, (done,)) as pool:
        loop = asyncio.get_running_loop()
        work = [loop.run_in_executor(pool, _run_part, dsn, snapshot, selection, part) for part in parts]
        while work and (await asyncio.wait(work, timeout=0.2))[1]:
            (progress or _nothing)(done.value, total)
        for found in await asyncio.gather(*work):
            report.join(found)
    (progress or _nothing)(total, total)
    report.seconds = time.monotonic() - began
    return report.settle()


def _count_in(done: Any) -> None:
    global _done  # how a pool hands its workers what cannot be pickled
    _done = done


def _run_part(dsn: str, snapshot: str, selection: Selection, part: Part) -> Report:
    return asyncio.run(_replay_part(dsn, snapshot, selection, part))


async def _replay_part(dsn: str, snapshot: str, selection: Selection, part: Part) -> Report:
    counted = 0

    def count(done: int, _: int) -> None:
        nonlocal counted
        with _done.get_lock():
            _done.value += done - counted
        counted = done

    async with reading(dsn, snapshot) as connection:
        with translated():
            return await (await Replaying.begin(connection, selection)).run(part, count)


@asynccontextmanager
async def reading(dsn: str, snapshot: str | None = None) -> AsyncIterator[Connection]:
    """A connection in a transaction that sees one moment, whatever happens meanwhile."""
    with translated():
        connection = await connect(dsn, CONNECT_SECONDS, "pointsman replay", {"jit": "off"})
    try:
        with translated():
            await connection.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                if snapshot is not None:
                    await connection.execute(f"set transaction snapshot '{snapshot}'")
                yield connection
    finally:
        await connection.close(timeout=CONNECT_SECONDS)


@cache
def queries() -> dict[str, str]:
    """The statements by name, where decisions are chosen as a `Selection` says."""
    return {name: sql.replace("@chosen@", _CHOSEN) for name, sql in queries_of("replay").items()}


def _nothing(done: int, total: int) -> None:
    """Progress that nobody looks at."""


def _is_newer(version: str) -> bool:
    return _numbers(version) > _numbers(engine.__version__)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isascii() and part.isdigit()]


def _difference_json(difference: Difference) -> dict[str, Any]:
    return asdict(replace(difference, facts=())) | {"facts": [fact._asdict() for fact in difference.facts]}

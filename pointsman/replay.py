"""Proof: recorded decisions, decided again on the configuration of their time.

A replay reads one moment of the database and walks the history of the configuration once, in the order of commits. Each
decision is decided again on its recorded state; that the state is what the decisions before it left is checked besides.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from asyncpg.pgproto import pgproto

from pointsman import engine
from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.claim import VERSIONS, counter_arrays
from pointsman.engine.capacity import Cap, Counter, State
from pointsman.engine.configuration import NOBODY, Enrollment
from pointsman.engine.decide import Decision
from pointsman.engine.policy import Policy
from pointsman.engine.record import StoredState, digest, head, named, read_state, redecide
from pointsman.engine.zones import Window
from pointsman.errors import DecisionNotFound, LeadNotFound, PointsmanError
from pointsman.model import Lead, micros
from pointsman.store import connect, read_queries, translated

Connection = asyncpg.Connection
Progress = Callable[[int, int], None]
"""Told how many decisions are done, and of how many."""

SLICE = 1_000
LISTED = 1_000
"""Differences that a report names; the others are counted."""
CONNECT_SECONDS = 10

_IDS = frozenset({"id", "offer_id", "vertical_id", "market_id", "buyer_id"})
_BACK_SECONDS = 60 * 1_000_000
"""How far the instants of decisions may stand behind the order of their ids."""
_CHOSEN = """(($1::timestamptz is null or d.decided_at >= $1) and ($2::uuid is null or d.lead_id = $2)
  and ($3::bigint[] is null or d.id = any($3)))"""


class HistoryHole(PointsmanError):
    """The history of the configuration has a hole."""


class NewerRecord(PointsmanError):
    """The decision was made by a newer release, which decides otherwise."""


class Fact(NamedTuple):
    """One thing that is not the same again."""

    field: str
    recorded: Any
    replayed: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that is not the same again. `is_intact`: the row is as it was written, by its own digest."""

    decision_id: int
    lead_id: UUID
    engine_version: str
    is_intact: bool
    facts: tuple[Fact, ...]

    @property
    def is_unsupported(self) -> bool:
        """Whether only the state that it rests on is not what the decisions before it left."""
        return all(fact.field.startswith(("used:", "position:")) for fact in self.facts)


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
    rows = await connection.fetch(queries("replay.sql")["sample"], selection.since, selection.lead_id, count)
    return tuple(row["id"] for row in rows)


# the configuration


class History:
    """The configuration at one version after another, from a single walk over the log in the order of commits.

    A baseline is a new beginning: it says all that there is at its version.
    """

    def __init__(self, connection: Connection, sql: str, first: int) -> None:
        self._connection = connection
        self._sql = sql
        self._first = first
        self._cursor: Any = None
        self._rows: Sequence[asyncpg.Record] = ()
        self._place = 0
        self.indexes = Indexes(0, NOBODY)

    async def advance(self, version: int) -> Indexes:
        """The configuration at `version`, or at the last version before it that there is."""
        while (row := await self._next()) is not None and row["version"] <= version:
            self._place += 1
            if row["version"] != self.indexes.version:
                self._begin(row)
            if row["rel"]:  # none: nothing was changed; blank: caches were told to load anew
                self._apply(row)
        return self.indexes

    async def _next(self) -> asyncpg.Record | None:
        if self._place == len(self._rows):
            if self._cursor is None:
                self._cursor = await self._connection.cursor(self._sql, self._first)
            self._rows, self._place = await self._cursor.fetch(SLICE), 0
        return self._rows[self._place] if self._rows else None

    def _begin(self, row: asyncpg.Record) -> None:
        if row["baseline"]:
            self.indexes = Indexes(row["version"], row["token"])
        self.indexes.version, self.indexes.token = row["version"], row["token"]

    def _apply(self, row: asyncpg.Record) -> None:
        if row["op"] == "t":
            for key in _keys(self.indexes, row["rel"]):
                self.indexes.apply(Change(row["rel"], key, None), row["version"])
        else:
            self.indexes.apply(Change(row["rel"], row["key"], read_image(row["image"])), row["version"])


def read_image(text: str | None) -> dict[str, Any] | None:
    """A logged row image, its ids as ids; its JSON columns stay text."""
    if text is None:
        return None
    return {
        column: pgproto.UUID(value) if value is not None and column in _IDS else value
        for column, value in json.loads(text).items()
    }


def _keys(indexes: Indexes, table: str) -> list[str]:
    """The keys of all rows of a table that are in force."""
    if table == "buyer_offers":
        return [f"{buyer}:{offer}" for offer, of_offer in indexes.enrollments.items() for buyer in of_offer]
    rows: Sequence[dict[UUID, Any]] = (
        indexes.offers,
        indexes.buyers,
        {},
        indexes.areas,
        indexes.exclusivity_rows,
        indexes.policies,
    )
    return [str(key) for key in rows[TABLES.index(table)]]


# the routing state


class Served:
    """Who was served when: what the decisions before any decision left.

    Of decisions before the instant `known_from`, which may have been pruned, only the last turns are known.
    """

    def __init__(self, known_from: int | None = None) -> None:
        self._known_from = known_from
        self._turns: dict[tuple[UUID, UUID], _Turns] = defaultdict(_Turns)

    def add(self, decision_id: int, at: int, buyer_id: UUID, offer_id: UUID) -> None:
        """Take a decision in, in the order of ids."""
        for holder in self.holders(buyer_id, offer_id):
            self._turns[holder].add(decision_id, at)

    @staticmethod
    def holders(buyer_id: UUID, offer_id: UUID) -> tuple[tuple[UUID, UUID], ...]:
        """Whose caps a lead counts under: the enrollment's and the buyer's."""
        return (buyer_id, offer_id), (buyer_id, NOBODY)

    def used(self, cap: Cap, before: int) -> int | None:
        """Leads that count under `cap` by decisions with smaller ids, None where some of these were pruned."""
        if self._known_from is not None and cap.window.start < self._known_from:
            return None
        return self.counted((cap.buyer_id, cap.offer_id), cap.window, before)

    def counted(self, holder: tuple[UUID, UUID], window: Window, before: int) -> int:
        """The holder's leads in a window by decisions with smaller ids, as far as they are kept."""
        return self._turns[holder].count(window, before)

    def position(self, enrollment: Enrollment, before: int) -> int:
        """The last decision with a smaller id that served `enrollment`, 0 if none did."""
        return self._turns[enrollment.buyer_id, enrollment.offer_id].last(before)


class _Turns:
    """The decisions that served one holder, in the order of ids, which is nearly that of their instants.

    No instant stands more than `_BACK_SECONDS` behind the latest one before it, which is kept beside it: it only grows,
    so a window's decisions are found by bisection, and only those near its edges are looked at one by one.
    """

    __slots__ = ("_ids", "_instants", "_latest")

    def __init__(self) -> None:
        self._ids = array("q")
        self._instants = array("q")
        self._latest = array("q")

    def add(self, decision_id: int, at: int) -> None:
        latest = self._latest
        self._ids.append(decision_id)
        self._instants.append(at)
        latest.append(max(at, latest[-1]) if latest else at)

    def last(self, before: int) -> int:
        """The last id smaller than `before`, 0 if there is none."""
        place = bisect_left(self._ids, before)
        return self._ids[place - 1] if place else 0

    def count(self, window: Window, before: int) -> int:
        """How many decisions with smaller ids have their instants in `window`."""
        latest, end = self._latest, bisect_left(self._ids, before)
        first = bisect_left(latest, window.start, 0, end)
        surely_in = bisect_left(latest, window.start + _BACK_SECONDS, first, end)
        surely_to = bisect_left(latest, window.end, surely_in, end)
        last = bisect_left(latest, window.end + _BACK_SECONDS, surely_to, end)
        edges = (*self._instants[first:surely_in], *self._instants[surely_to:last])
        return surely_to - surely_in + sum(window.start <= at < window.end for at in edges)


class Answers(Served):
    """The same for one decision, as the database answered it."""

    def __init__(
        self, known_from: int | None, used: dict[Counter, int], positions: dict[tuple[UUID, UUID], int]
    ) -> None:
        super().__init__(known_from)
        self._used = used
        self._positions = positions

    def used(self, cap: Cap, before: int) -> int | None:
        if self._known_from is not None and cap.window.start < self._known_from:
            return None
        return self._used[cap.counter]

    def position(self, enrollment: Enrollment, before: int) -> int:
        return self._positions[enrollment.buyer_id, enrollment.offer_id]


# one decision


class Again(NamedTuple):
    """A record and what its decision is when it is made again; `decision` is None where that cannot be done."""

    row: asyncpg.Record
    indexes: Indexes
    stored: StoredState
    decision: Decision | None
    problem: str = ""


def instant_of(row: asyncpg.Record) -> int:
    """The instant of a record; infinities, which only a row that was tampered with has, come without UTC."""
    decided_at: datetime = row["decided_at"]
    return micros(decided_at if decided_at.tzinfo else decided_at.replace(tzinfo=UTC))


def lead_of(row: asyncpg.Record) -> Lead:
    """The lead of a record, as it was read."""
    return Lead(row["lead_id"], row["offer_id"], row["vertical_id"], row["market_id"], row["postal_code"], row["city"])


def again(row: asyncpg.Record, indexes: Indexes) -> Again:
    """Decide a record again; a row that was tampered with may not even allow that."""
    stored = StoredState({}, ())
    try:
        stored = read_state(row["state"])
        decision = redecide(lead_of(row), indexes, stored, instant_of(row), State())
    except (ValueError, ArithmeticError) as error:
        return Again(row, indexes, stored, None, str(error))
    return Again(row, indexes, stored, decision)


def compare(made: Again, served: Served) -> Difference | None:
    """What is not the same again, None if all is."""
    row, decision = made.row, made.decision
    if decision is None:
        return _difference(row, _is_intact(row, made.indexes), [Fact("state", row["state"].hex(), made.problem)])
    facts = list(_results(row, decision))
    # where the result is the same, both have the same head
    intact = _digest_of(made) == row["digest"] if not facts else _is_intact(row, made.indexes)
    if not intact:
        facts.append(Fact("digest", row["digest"].hex(), _digest_of_row(row, made.indexes).hex()))
    elif not facts:
        facts += _premises(made, decision, served)
    return _difference(row, intact, facts) if facts else None


def _difference(row: asyncpg.Record, is_intact: bool, facts: Iterable[Fact]) -> Difference:
    return Difference(row["id"], row["lead_id"], row["engine_version"], is_intact, tuple(facts))


def _results(row: asyncpg.Record, decision: Decision) -> Iterator[Fact]:
    policy, winner = decision.policy, decision.winner
    for column, replayed in (
        ("outcome", decision.outcome),
        ("cause", decision.cause),
        ("buyer_id", None if winner is None else winner.buyer_id),
        ("policy_id", None if policy is None else policy.id),
        ("policy_version", None if policy is None else policy.version),
    ):
        if row[column] != replayed:
            yield Fact(column, row[column], replayed)
    flags = row["flags"] or []
    if flags != list(decision.flags):
        yield Fact("flags", flags, list(decision.flags))


def _digest_of(made: Again) -> bytes:
    assert made.decision is not None
    return digest(head(made.decision, made.indexes.version, made.indexes.token), made.row["state"])


def _digest_of_row(row: asyncpg.Record, indexes: Indexes) -> bytes:
    """The digest that a row with these fields would have been given."""
    policy_id, buyer_id = row["policy_id"], row["buyer_id"]
    decision = Decision(
        lead_of(row),
        instant_of(row),
        row["outcome"],
        row["cause"],
        None if policy_id is None else Policy(policy_id, None, None, None, row["policy_version"] or 0, None),
        None if buyer_id is None else _named(buyer_id),
        tuple(row["flags"] or ()),
    )
    return digest(head(decision, row["config_version"], indexes.token), row["state"])


def _is_intact(row: asyncpg.Record, indexes: Indexes) -> bool:
    recorded: bytes = row["digest"]
    return _digest_of_row(row, indexes) == recorded


def _require_named(row: asyncpg.Record, indexes: Indexes) -> None:
    """Raise `HistoryHole` where an intact row names a policy or a buyer that its version does not have.

    Whatever was changed in the history since, what a decision was made with was in it.
    """
    policy_id, offer_id, buyer_id = row["policy_id"], row["offer_id"], row["buyer_id"]
    for what, named_id, is_there in (
        ("policy", policy_id, policy_id in indexes.policies),
        ("buyer", buyer_id, buyer_id in indexes.buyers and buyer_id in indexes.enrollments.get(offer_id, ())),
    ):
        if named_id is not None and not is_there:
            raise HistoryHole(
                f"the history of the configuration has a hole: the {what} `{named_id}`, which decision {row['id']} was "
                f"made with, is missing at version {indexes.version}; restore `pointsman.config_log`"
            )


def _named(buyer_id: UUID) -> Enrollment:
    """An enrollment of which nothing but the buyer is known."""
    blank = dict.fromkeys(("priority_rank", "weight", "enrolled_at", "hourly_cap", "daily_cap"))
    return Enrollment({**blank, "buyer_id": buyer_id, "offer_id": NOBODY, "is_active": False}, None, 0)


def _premises(made: Again, decision: Decision, served: Served) -> Iterator[Fact]:
    """Where the recorded state is not what the decisions before it left.

    What the winner took was locked, so its numbers are exact. Who was passed over was read without a lock: whoever was
    full then is full, and whoever stood behind stands there or further back.
    """
    stored, before = made.stored, made.row["id"]
    if not decision.takes and not decision.full and not decision.compared:
        if stored.used or stored.positions:
            yield Fact("state", made.row["state"].hex(), "nothing to be recorded")
        return
    names = [number for _, number in named(decision)]
    if names != list(stored.used) or len(stored.positions) != len(decision.compared):
        yield Fact("state", made.row["state"].hex(), "other counters and turns")
        return
    numbers = list(stored.used.values())
    for cap, number in zip(decision.takes, numbers, strict=False):
        if served.used(cap, before) not in (number, None):
            yield Fact(f"used:{cap.buyer_id}:{cap.level}:{cap.window.kind}", number, served.used(cap, before))
    for cap, number in zip(decision.full, numbers[len(decision.takes) :], strict=True):
        true = served.used(cap, before)
        if true is not None and true < cap.limit:
            yield Fact(f"used:{cap.buyer_id}:{cap.level}:{cap.window.kind}", number, true)
    for enrollment, position in zip(decision.compared, stored.positions, strict=True):
        last = served.position(enrollment, before)
        if last < position or (enrollment is decision.winner and last != position):
            yield Fact(f"position:{enrollment.buyer_id}", position, last)


# a run


class Replaying:
    """A run over chosen decisions in one transaction."""

    def __init__(
        self, connection: Connection, selection: Selection, sql: dict[str, str], extent: asyncpg.Record
    ) -> None:
        self._connection = connection
        self._selection = selection
        self._sql = sql
        self._extent = extent
        self._known_from = None if extent["whole_from"] is None else micros(extent["whole_from"])

    @classmethod
    async def begin(cls, connection: Connection, selection: Selection) -> Replaying:
        sql = queries("replay.sql")
        extent = await connection.fetchrow(sql["extent"])
        assert extent is not None
        return cls(connection, selection, sql, extent)

    @property
    def is_possible(self) -> bool:
        """Whether any configuration is kept."""
        return self._extent["first_version"] is not None

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
        if count and extent["first_version"] is None:
            raise HistoryHole("the history of the configuration has no baseline; restore `pointsman.config_log`")
        if extent["has_orphans"]:
            raise HistoryHole(
                "the history of the configuration has a hole: entries of `pointsman.config_log` have lost their commit"
            )
        if extent["emptied"] is not None:
            raise HistoryHole(
                f"the history of the configuration has a hole: what version {extent['emptied']} changed is missing; "
                "restore `pointsman.config_log`"
            )
        report = Report()
        if count and extent["whole_from"] is not None:
            report.pruned = await self._fetchval("pruned", extent["first_version"])
        for row in await self._connection.fetch(self._sql["strangers"], *selection.arguments):
            self._judge_stranger(row, report)
        return report

    def _judge_stranger(self, row: asyncpg.Record, report: Report) -> None:
        """A decision of a version that is not there: pruned, tampered with, or proof of a hole."""
        version = row["config_version"]
        if self._extent["whole_from"] is not None and version < self._extent["first_version"]:
            return
        if self._extent["first_version"] <= version <= self._extent["last_version"]:
            raise HistoryHole(
                f"the history of the configuration has a hole: version {version}, which decision {row['id']} was made "
                "on, is missing"
            )
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
                history = History(self._connection, self._sql["history"], rows[0]["config_version"])
            if served is not None:
                await served.advance(max(row["id"] for row in rows))
            for row in rows:
                indexes = await history.advance(row["config_version"])
                if indexes.version != row["config_version"]:
                    continue  # judged already
                made = again(row, indexes)
                self._judge(made, served.served if served else await self._answers(made), report)
            done += len(rows)
            progress(done, total)
        return report

    def _judge(self, made: Again, served: Served, report: Report) -> None:
        row = made.row
        found = compare(made, served)
        if found is not None and found.is_intact:
            _require_named(row, made.indexes)
        is_ours = (row["engine_version"], row["tzdata_version"], row["unicode_version"]) == VERSIONS
        # whoever made it, a row that does not fit its digest was changed afterwards
        ours = is_ours or (found is not None and not found.is_intact)
        if found is not None and found.is_unsupported:
            report.unsupported.add(found)
        else:
            (report.same_version if ours else report.other_version).add(found)

    async def _decisions(self, part: Part) -> AsyncIterator[list[asyncpg.Record]]:
        part = _kept(part, self._extent["first_version"])
        cursor = await self._connection.cursor(self._sql["decisions"], *self._selection.arguments, *part.arguments)
        while rows := await cursor.fetch(SLICE):
            yield rows
            await asyncio.sleep(0)

    async def _served(self, first_id: int) -> _ServedSoFar:
        served = Served(self._known_from)
        before = await self._connection.fetch(self._sql["served_before"], first_id)
        take_in(served, before)
        return _ServedSoFar(served, await self._connection.cursor(self._sql["served"], first_id))

    async def _answers(self, made: Again) -> Served:
        """What the decisions before one left, asked of the database for just that one."""
        decision = made.decision
        if decision is None or not (decision.takes or decision.full or decision.compared):
            return Served(self._known_from)
        asked = {cap.counter: cap for cap in (*decision.takes, *decision.full)}
        turns = [(enrollment.buyer_id, enrollment.offer_id) for enrollment in decision.compared]
        buyers, offers, kinds, starts, ends, _, changed = counter_arrays(asked.values())
        row = await self._connection.fetchrow(
            queries("queries.sql")["state_before"],
            *(buyers, offers, kinds, starts, ends, changed),
            [turn[0] for turn in turns],
            [turn[1] for turn in turns],
            made.row["id"],
        )
        assert row is not None
        return Answers(
            self._known_from,
            dict(zip(asked, row["used"], strict=True)),
            dict(zip(turns, row["positions"], strict=True)),
        )

    async def _fetchval(self, statement: str, *arguments: Any) -> Any:
        return await self._connection.fetchval(self._sql[statement], *self._selection.arguments, *arguments)


class _ServedSoFar:
    """Who was served, read on in the order of ids as far as it is asked for."""

    def __init__(self, served: Served, cursor: Any) -> None:
        self.served = served
        self._cursor = cursor
        self._read_to = -1

    async def advance(self, decision_id: int) -> None:
        """Take in every decision up to `decision_id`, and perhaps some after it."""
        while self._read_to < decision_id and (rows := await self._cursor.fetch(SLICE)):
            take_in(self.served, rows)
            self._read_to = rows[-1]["id"]


def take_in(served: Served, rows: Iterable[asyncpg.Record]) -> None:
    """Let `served` know of decisions, in the order of ids."""
    for row in rows:
        served.add(row["id"], instant_of(row), row["buyer_id"], row["offer_id"])


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
        snapshot = await connection.fetchval(queries("replay.sql")["export_snapshot"])
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
def queries(file: str) -> dict[str, str]:
    """The named statements of a file, where decisions are chosen as a `Selection` says."""
    text = (files("pointsman.sql") / file).read_text("utf-8")
    return {name: sql.replace("@chosen@", _CHOSEN) for name, sql in read_queries(text).items()}


def _nothing(done: int, total: int) -> None:
    """Progress that nobody looks at."""


def _is_newer(version: str) -> bool:
    return _numbers(version) > _numbers(engine.__version__)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part.isascii() and part.isdigit()]


def _difference_json(difference: Difference) -> dict[str, Any]:
    return asdict(replace(difference, facts=())) | {"facts": [fact._asdict() for fact in difference.facts]}

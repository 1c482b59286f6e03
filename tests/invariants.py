"""What must be true of a database whatever happened to it, from its tables and what callers and writers saw.

`violations(connection)` rebuilds the configuration at every version from the log, decides every recorded decision
again, on its recorded state and on what the decisions with smaller ids left, and compares rows that must agree. With
a `Witness` it also holds every answer against the tables, and every decision's version against the commits that had
returned before its call began.

Of a database that was pruned it judges what is kept: windows that began before the kept decisions do are passed over,
and positions go on from the turns that prune remembers. What a witness saw must not have been pruned.

`python -m tests.invariants postgresql://...` judges any database, also one that is in use.
"""

from __future__ import annotations

import asyncio
import json
import sys
from bisect import bisect_left, bisect_right
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from math import inf
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.engine.capacity import Cap, State, caps
from pointsman.engine.configuration import NOBODY, Buyer, Enrollment
from pointsman.engine.decide import Decision, decide
from pointsman.engine.record import digest, head, read_state, redecide
from pointsman.engine.zones import Window
from pointsman.model import Lead, micros

LOG = """
select c.version, c.token, l.rel, l.op::text, l.key, l.row::text as image
from pointsman.config_commit c left join pointsman.config_log l using (change_set)
where c.version >= (select min(version) from pointsman.config_commit where baseline) order by c.version, l.seq
"""
IDS = {"id", "offer_id", "vertical_id", "market_id", "buyer_id"}
ENOUGH = 100
"""Violations after which the search ends: what is wrong so often is wrong for one reason."""

Holder = tuple[UUID, UUID]


class Answer(NamedTuple):
    """An answer that a caller got for a call that began at `began` (time.monotonic, which all processes share)."""

    began: float
    lead_id: UUID
    outcome: str
    cause: str | None
    buyer_id: UUID | None
    decision_id: int | None
    config_version: int | None


class Committed(NamedTuple):
    """A change of configuration whose COMMIT had returned at `returned`."""

    returned: float
    change_set: int


@dataclass
class Witness:
    """What callers and writers saw. `resets`: how often the host set each lead back to validated."""

    answers: list[Answer] = field(default_factory=list)
    commits: list[Committed] = field(default_factory=list)
    resets: Mapping[UUID, int] | None = None


class Past:
    """Who was served when, to be asked for the state before any decision. `pruned_turns`: where those stand whose turns
    were pruned; `known_from`: the instant since which all decisions are kept.
    """

    def __init__(
        self, decisions: Iterable[asyncpg.Record], pruned_turns: Mapping[Holder, int], known_from: float
    ) -> None:
        self._pruned_turns = pruned_turns
        self.known_from = known_from
        self._ids: dict[Holder, list[int]] = defaultdict(list)
        self._by_time: dict[Holder, list[tuple[int, int]]] = defaultdict(list)
        for row in decisions:
            if row["buyer_id"] is not None:
                served = (micros(row["decided_at"]), row["id"])
                self._ids[row["buyer_id"], row["offer_id"]].append(row["id"])
                self._by_time[row["buyer_id"], row["offer_id"]].append(served)
                self._by_time[row["buyer_id"], NOBODY].append(served)
        for served_at in self._by_time.values():
            served_at.sort()
        self._in_window: dict[tuple[Holder, Window], list[int]] = {}

    @classmethod
    async def read(cls, connection: asyncpg.Connection, decisions: Iterable[asyncpg.Record]) -> Past:
        """The past that `decisions` and what prune remembers tell of."""
        turns = await connection.fetch("select buyer_id, offer_id, position from pointsman.pruned_turn")
        before = await connection.fetchval("select before from pointsman.pruned")
        return cls(
            decisions,
            {(row["buyer_id"], row["offer_id"]): row["position"] for row in turns},
            -inf if before is None else micros(before),
        )

    def knows(self, candidates: Iterable[Enrollment], at: int) -> bool:
        """Whether every decision is kept that counts for the candidates at `at`."""
        windows = (cap.window for enrollment in candidates for cap in caps(enrollment, at))
        return at >= self.known_from and all(window.start >= self.known_from for window in windows)

    def used(self, cap: Cap, before: int) -> int:
        """Leads in the window of `cap` by decisions with ids below `before`."""
        return bisect_left(self.ids_in((cap.buyer_id, cap.offer_id), cap.window), before)

    def ids_in(self, holder: Holder, window: Window) -> list[int]:
        """The decisions that served the holder in a window, by id."""
        if (holder, window) not in self._in_window:
            served = self._by_time.get(holder, [])
            first, last = bisect_left(served, (window.start, 0)), bisect_left(served, (window.end, 0))
            self._in_window[holder, window] = sorted(decision_id for _, decision_id in served[first:last])
        return self._in_window[holder, window]

    def position(self, enrollment: Enrollment, before: int) -> int:
        """The last decision below `before` that served the enrollment, 0 for none."""
        holder = enrollment.buyer_id, enrollment.offer_id
        ids = self._ids.get(holder, [])
        index = bisect_left(ids, before)
        return ids[index - 1] if index else self._pruned_turns.get(holder, 0)

    def state(self, candidates: Iterable[Enrollment], at: int, before: int) -> State:
        """Usage and positions of all candidates as the decisions below `before` left them."""
        state = State()
        for enrollment in candidates:
            state.positions[enrollment.turn] = self.position(enrollment, before)
            for cap in caps(enrollment, at):
                state.used[cap.counter] = self.used(cap, before)
        return state


class History:
    """The configuration, moved on version by version as the log has it."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self._cursor: Any = None
        self._log: list[asyncpg.Record] = []
        self._place = 0
        self.indexes = Indexes(0, UUID(int=0))
        self.rows: dict[str, dict[str, str]] = {table: {} for table in TABLES}
        self.faults: list[str] = []

    async def move_to(self, version: float) -> None:
        """Apply every entry up to `version`."""
        while (entry := await self._next()) and entry["version"] <= version:
            self._place += 1
            if entry["rel"]:
                self._apply(entry)
            self.indexes.version, self.indexes.token = entry["version"], entry["token"]

    async def _next(self) -> asyncpg.Record | None:
        if self._place == len(self._log):
            if self._cursor is None:
                self._cursor = await self._connection.cursor(LOG)
            self._log, self._place = await self._cursor.fetch(10_000), 0
        return self._log[self._place] if self._log else None

    def _apply(self, entry: asyncpg.Record) -> None:
        table, op, key, image, version = (entry[name] for name in ("rel", "op", "key", "image", "version"))
        rows = self.rows[table]
        if op == "t":
            for gone in rows:
                self.indexes.apply(Change(table, gone, None), version)
            rows.clear()
            return
        if op == "b" and rows.get(key, image) != image:
            self.faults.append(f"baseline {version} has another image of {table} {key} than the log before it")
        self.indexes.apply(Change(table, key, _image(image)), version)
        if image is None:
            rows.pop(key, None)
        else:
            rows[key] = image


async def violations(connection: asyncpg.Connection, witness: Witness | None = None) -> list[str]:
    """One line for each thing that is not as it must be, up to `ENOUGH`; all of one moment."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        found = []
        async for line in _violations(connection, witness):
            found.append(line)
            if len(found) == ENOUGH:
                break
        return found


async def _violations(connection: asyncpg.Connection, witness: Witness | None) -> AsyncIterator[str]:
    decisions = await connection.fetch("select * from pointsman.decisions order by id")
    past, history = await Past.read(connection, decisions), History(connection)
    async for line in _wrong_decisions(decisions, past, history):
        yield line
    await history.move_to(inf)
    for line in history.faults:
        yield line
    async for line in _wrong_log(connection, history):
        yield line
    async for line in _wrong_counters(connection, past, history.indexes):
        yield line
    async for line in _wrong_rows(connection):
        yield line
    if witness is not None:
        rows = await connection.fetch("select change_set, version from pointsman.config_commit where version > 0")
        versions = {row["change_set"]: row["version"] for row in rows}
        for line in _wrong_testimony(witness, {row["id"]: row for row in decisions}, versions):
            yield line


# decisions


async def _wrong_decisions(decisions: list[asyncpg.Record], past: Past, history: History) -> AsyncIterator[str]:
    for row in sorted(decisions, key=lambda row: (row["config_version"], row["id"])):
        await history.move_to(row["config_version"])
        for line in _wrong(row, history.indexes, past):
            yield f"decision {row['id']}: {line}"


def _wrong(row: asyncpg.Record, indexes: Indexes, past: Past) -> Iterator[str]:
    if indexes.version != row["config_version"]:
        yield f"its config version {row['config_version']} is not in the history"
        return
    lead = Lead(row["lead_id"], row["offer_id"], row["vertical_id"], row["market_id"], row["postal_code"], row["city"])
    at = micros(row["decided_at"])
    again = redecide(lead, indexes, read_state(row["state"]), at, State())
    if _result(again) != _recorded(row):
        yield f"on its recorded state {_result(again)} instead of {_recorded(row)}"
    if digest(head(again, indexes.version, indexes.token), row["state"]) != row["digest"]:
        yield "its digest is another one"
    candidates = list(indexes.covering(lead))
    if not past.knows(candidates, at):
        return
    true = decide(lead, indexes, past.state(candidates, at, row["id"]), at)
    if _result(true) != _recorded(row):
        yield f"on what came before it {_result(true)} instead of {_recorded(row)}"
    if row["buyer_id"] is not None:
        winner = indexes.enrolled(lead.offer_id).get(row["buyer_id"])
        if winner is None:
            yield "its buyer was not enrolled"
            return
        for cap in caps(winner, at):
            if past.used(cap, row["id"]) >= cap.limit:
                yield f"passes a cap: {cap}"


def _result(decision: Decision) -> tuple[object, ...]:
    return (
        decision.outcome,
        decision.cause,
        decision.winner and decision.winner.buyer_id,
        decision.policy and decision.policy.id,
        decision.flags,
    )


def _recorded(row: asyncpg.Record) -> tuple[object, ...]:
    return row["outcome"], row["cause"], row["buyer_id"], row["policy_id"], tuple(row["flags"] or ())


# tables that must say the same


async def _wrong_log(connection: asyncpg.Connection, history: History) -> AsyncIterator[str]:
    """What the log ends with is what the tables have: no change was missed, none was logged that was rolled back."""
    for table in TABLES:
        true = {}
        for (text,) in await connection.fetch(f"select to_jsonb(i)::text from pointsman.image_{table} i"):
            image = json.loads(text)
            true[f"{image['buyer_id']}:{image['offer_id']}" if table == "buyer_offers" else image["id"]] = text
        logged = history.rows[table]
        for key in sorted(true.keys() | logged.keys()):
            if true.get(key) != logged.get(key):
                yield f"{table} {key} is {true.get(key)}, and the log has {logged.get(key)}"


async def _wrong_counters(connection: asyncpg.Connection, past: Past, indexes: Indexes) -> AsyncIterator[str]:
    """Counters equal the counts where their holder counts as it did when they were counted last."""
    for row in await connection.fetch("select * from pointsman.cap_usage"):
        window = _window(row, indexes)
        if window is not None and window.start >= past.known_from:
            true = len(past.ids_in((row["buyer_id"], row["offer_id"]), window))
            if true != row["used"]:
                yield f"counter {dict(row)} should say {true}"


def _window(row: asyncpg.Record, indexes: Indexes) -> Window | None:
    """The window of a counter that has counted every lead in it, None where it may not have."""
    buyer = indexes.buyers.get(row["buyer_id"])
    if buyer is None or buyer.zone is None:
        return None
    holder: Buyer | Enrollment = buyer
    if row["offer_id"] != NOBODY:
        enrollment = indexes.enrolled(row["offer_id"]).get(buyer.id)
        if enrollment is None:
            return None
        holder = enrollment
    limit = holder.caps.hourly if row["kind"] == "hour" else holder.caps.daily
    if limit is None or row["since"] < max(holder.changed, buyer.changed):
        return None
    start = micros(row["window_start"])
    return buyer.zone.hour(start) if row["kind"] == "hour" else buyer.zone.day(start)


async def _wrong_rows(connection: asyncpg.Connection) -> AsyncIterator[str]:
    checks = {
        "lead %s has a buyer that its last decision did not give it, or not then": """
            select l.id from leads l
            left join lateral (
              select * from pointsman.decisions d
              where d.lead_id = l.id and d.outcome = 'routed' order by d.id desc limit 1) d on true
            where l.status = 'routed' and (l.buyer_id, l.routed_at) is distinct from (d.buyer_id, d.decided_at)
              and (d.id is not null or not exists (select from pointsman.pruned p where l.routed_at < p.before))""",
        "lead %s was assigned twice in one attempt, or an attempt is missing": """
            select distinct d.lead_id from (
              select *, lag(attempt) over (partition by lead_id order by id) as last
              from pointsman.decisions where outcome = 'routed') d
            where d.attempt is distinct from coalesce(
              d.last + 1, case when exists (select from pointsman.pruned) then d.attempt else 1 end)""",
        "counter %s of leads that nobody got": """
            select c from pointsman.cap_usage c where c.used < 0""",
        "enrollment %s does not stand where it was served last": """
            select r from pointsman.rotation r
            where r.offer_id <> '00000000-0000-0000-0000-000000000000' and r.position is distinct from coalesce((
              select max(d.id) from (
                select id, buyer_id, offer_id from pointsman.decisions
                union all select position, buyer_id, offer_id from pointsman.pruned_turn) d
              where d.buyer_id = r.buyer_id and d.offer_id = r.offer_id), 0)""",
        "decision %s gave a turn that was not written down": """
            select d.id from pointsman.decisions d where d.outcome = 'routed' and not exists (
              select from pointsman.rotation r where r.buyer_id = d.buyer_id and r.offer_id = d.offer_id)""",
        "change set %s is committed and has no version": """
            select c.change_set from pointsman.config_commit c where c.version is null""",
        "change set %s of the log was never committed": """
            select distinct l.change_set from pointsman.config_log l
            where not exists (select from pointsman.config_commit c where c.change_set = l.change_set)""",
    }
    for line, query in checks.items():
        for row in await connection.fetch(query):
            yield line % str(row[0])


# what callers and writers saw


def _wrong_testimony(
    witness: Witness, decisions: Mapping[int, asyncpg.Record], versions: Mapping[int, int]
) -> Iterator[str]:
    yield from _lost_commits(witness, versions)
    known = _Returned(witness.commits, versions)
    winners: Tally[int] = Tally()
    for answer in witness.answers:
        for line in _wrong_answer(answer, decisions, known):
            yield f"answer {answer}: {line}"
        if answer.outcome == "routed" and answer.decision_id is not None:
            winners[answer.decision_id] += 1
    for decision_id, count in winners.items():
        if count > 1:
            yield f"decision {decision_id} was answered with `routed` {count} times"
    if witness.resets is not None:
        assigned = Tally(row["lead_id"] for row in decisions.values() if row["outcome"] == "routed")
        for lead_id, count in assigned.items():
            if count > 1 + witness.resets.get(lead_id, 0):
                yield f"lead {lead_id} was assigned {count} times and set back {witness.resets.get(lead_id, 0)} times"


class _Returned:
    """The newest version that was known to be committed at a time."""

    def __init__(self, commits: Iterable[Committed], versions: Mapping[int, int]) -> None:
        self._times: list[float] = []
        self._newest: list[int] = []
        for returned, change_set in sorted(commits):
            if change_set in versions:
                self._times.append(returned)
                self._newest.append(max(versions[change_set], self._newest[-1] if self._newest else 0))

    def at(self, time: float) -> int:
        index = bisect_right(self._times, time)
        return self._newest[index - 1] if index else 0


def _lost_commits(witness: Witness, versions: Mapping[int, int]) -> Iterator[str]:
    for commit in witness.commits:
        if commit.change_set not in versions:
            yield f"change set {commit.change_set}, whose COMMIT had returned, has no version"


def _wrong_answer(answer: Answer, decisions: Mapping[int, asyncpg.Record], known: _Returned) -> Iterator[str]:
    if answer.outcome == "not_validated":
        return
    if answer.decision_id is None:
        if answer.outcome != "already_routed":
            yield "it names no decision"
        return
    row: Any = decisions.get(answer.decision_id)
    if row is None:
        yield "there is no such decision"
        return
    if (answer.lead_id, answer.buyer_id) != (row["lead_id"], row["buyer_id"]):
        yield f"the decision was {row['buyer_id']} for {row['lead_id']}"
    if answer.config_version != row["config_version"]:
        yield f"the decision was made at config version {row['config_version']}"
    if answer.outcome == "already_routed":
        return
    if (answer.outcome, answer.cause) != (row["outcome"], row["cause"]):
        yield f"the decision was {row['outcome']}, {row['cause']}"
    if row["config_version"] < known.at(answer.began):
        yield f"version {known.at(answer.began)} was committed before the call began"


def _image(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    return {
        column: UUID(value) if column in IDS and value is not None else value
        for column, value in json.loads(text).items()
    }


async def main(dsn: str) -> int:
    """Print what is not as it must be; how many lines."""
    connection = await asyncpg.connect(dsn)
    try:
        found = await violations(connection)
    finally:
        await connection.close(timeout=10)
    sys.stdout.write("\n".join(found or ["nothing is wrong"]) + "\n")
    return len(found)


if __name__ == "__main__":
    sys.exit(min(1, asyncio.run(main(sys.argv[1]))))

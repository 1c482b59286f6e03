"""The router: the one place where cache, engine and store meet."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Generator, Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from time import perf_counter
from typing import Any, NamedTuple, NoReturn
from uuid import UUID

import asyncpg
import structlog

from pointsman import engine, tracing
from pointsman.batching import ABREAST, Batching, Turn
from pointsman.cache import collector
from pointsman.cache.feed import SLICE_ROWS, Cache, FeedState, take_in
from pointsman.cache.indexes import Change, Indexes
from pointsman.claim import Batch, Beliefs, Question
from pointsman.engine.capacity import Counter, State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision, decide
from pointsman.engine.draft import Drafted, read_draft
from pointsman.engine.explain import WideSnapshot, explain
from pointsman.engine.nearest import short_of_balance, with_balance, with_nearest
from pointsman.engine.policy import Rules
from pointsman.engine.record import read_state, redecide
from pointsman.errors import (
    Busy,
    DatabaseUnfit,
    DecisionDiffers,
    DecisionNotFound,
    HistoryPruned,
    InvalidHypothesis,
    LeadNotFound,
    PointsmanError,
    Refused,
    UnsuitableTransaction,
)
from pointsman.history import Extent, missing_version, read_extent
from pointsman.metrics import Answer, Gauges, Metrics
from pointsman.model import EARLIEST, LATEST, Explanation, Lead, Outcome, OutcomeKind, Record, instant, micros
from pointsman.proof import Answers, again, compare, is_intact, require_named
from pointsman.store import (
    Claimed,
    Connection,
    DeletedUnderClaim,
    LeadRow,
    LostWhileReading,
    Reading,
    Store,
    Version,
    known,
    read_record,
    translated,
)

PLAIN_TRIES = 2
"""Tries without holding configuration still: on beliefs, then on what was read."""
CALLERS_TRIES = 6
"""Tries in a caller's transaction, which must not hold configuration still; at 30 changes a second two are too few."""
LARGEST_HELD = 25
"""How many leads the last resort takes at once: what is decided under the seal must be done long before the server ends
an idle transaction, however many buyers each lead is compared on (500 leads of 1,000 buyers took 1.3 s)."""
DEAD_CONNECTIONS = 8
"""How many connections in a row may turn out to be dead before the database is said to be away."""
HELD_SECONDS = 0.15
"""How long somebody may hold a lead before it is left to them: as long as a claim would wait for the lock."""
PATIENCE_SECONDS = 2.0
"""How long a batch that somebody's locks keep from being claimed is halved to find out which leads they keep."""
EXPLAIN_TRIES = 20
NO_FENCE = 2**63 - 1
"""The fence where none is known: nothing is past it."""

log = structlog.get_logger()


class _Conflict(Exception):
    """Something that the decision rested on moved; roll back and decide again."""


class _Open(NamedTuple):
    """Leads that can be routed, as they were read, and the config version that they are at the least decided on."""

    reading: Reading
    leads: list[Lead]
    version: Version


class _Opening:
    """What `Router.open` returns: awaited it is the open router, in `async with` it closes again."""

    def __init__(self, make: Callable[[], Awaitable[Router]]) -> None:
        self._make = make
        self._router: Router | None = None

    def __await__(self) -> Generator[Any, None, Router]:
        return self._make().__await__()

    async def __aenter__(self) -> Router:
        self._router = await self._make()
        return self._router

    async def __aexit__(self, *_: object) -> None:
        if self._router is not None:
            await self._router.close()


class Router:
    """Routes leads: `async with Router.open(dsn) as router`, then `await router.route(lead_id)`."""

    def __init__(self, store: Store, cache: Cache, beliefs: Beliefs, metrics: Metrics) -> None:
        self.cache = cache
        self.metrics = metrics
        self._store = store
        self._beliefs = beliefs
        # a host that has not set structlog up would have every decision printed
        self._tells = structlog.is_configured() and log.is_enabled_for(logging.DEBUG)
        self._batching = Batching(tracing.traced("pointsman.batch", self._settle), metrics)
        self._watch: asyncio.Task[NoReturn] | None = None
        self._fence: tuple[Version | None, int] = (None, 0)
        if tracing.is_on():
            self._trace()

    def _trace(self) -> None:
        """Have spans made of calls, and of what batches go through."""
        traced = tracing.traced
        vars(self).update(
            route=traced("pointsman.route", tracing.told(self.route)),
            route_many=traced("pointsman.route_many", self.route_many),
            _read=traced("pointsman.read", self._read),
            _decide=traced("pointsman.decide", self._decide),
            _claim=traced("pointsman.claim", self._claim),
        )

    @classmethod
    def open(
        cls,
        dsn: str,
        *,
        listen_dsn: str | None = None,
        connections: int = 4,
        timeout: float = 5.0,
        on_connect: Callable[[asyncpg.Connection], None] | None = None,
        prepared_statements: bool = True,
    ) -> _Opening:
        """Open a router on a migrated database; it is ready when this returns, or raises what stands in the way.

        `listen_dsn` is a direct address where `dsn` is a pooler's. `timeout` (seconds) bounds every statement.
        `on_connect` sees each connection that leads are routed on. Without `prepared_statements` the router works
        through a pooler in transaction mode that keeps none, at four round trips a statement.
        """

        async def make() -> Router:
            store = await Store.open(
                dsn,
                size=connections,
                timeout=timeout,
                on_connect=on_connect,
                prepared_statements=prepared_statements,
            )
            metrics = Metrics(FeedState)
            cache = Cache(store, listen_dsn, timeout, metrics)
            try:
                await store.have_ready(ABREAST)
                await cache.start()
                router = cls(store, cache, await _remembered(store, cache), metrics)
            except BaseException:
                await cache.stop()
                await store.close()
                raise
            router._watch = asyncio.create_task(metrics.watch(router.gauges), name="pointsman-watch")
            return router

        return _Opening(make)

    async def close(self) -> None:
        """Answer what is under way, refuse what is queued, and let go of the database."""
        await self._batching.close()
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.wait([self._watch])
        await self.cache.stop()
        await self._store.close()

    # routing

    async def route(self, lead_id: UUID | str, *, connection: Any = None) -> Outcome:
        """Assign the lead to exactly one buyer, or say why nobody takes it.

        With `connection` (asyncpg's, or SQLAlchemy's `AsyncConnection` or `AsyncSession`) it happens inside the
        caller's open READ COMMITTED transaction, and stands if that commits. Raises the errors of `pointsman.errors`.
        """
        lead_id = _id(lead_id)
        if connection is None:
            answer = await self._batching.enqueue(lead_id)
        else:
            answer = await self._within(await _driver_connection(connection), lead_id)
        if self._tells:
            _log(lead_id, answer)
        return _raised(answer)

    async def route_many(self, lead_ids: Sequence[UUID | str]) -> list[Answer]:
        """Route each lead, in order; an error stands in the place of its lead instead of being raised."""
        ids = [_id(lead_id) for lead_id in lead_ids]
        answers = await asyncio.gather(*map(self._batching.enqueue, ids))
        if self._tells:
            for pair in zip(ids, answers, strict=True):
                _log(*pair)
        return answers

    async def _settle(
        self,
        lead_ids: list[UUID],
        answers: dict[UUID, Answer],
        turn: Turn | None = None,
        *,
        until: float = float("inf"),
        attempt: int = 0,
    ) -> None:
        """Put an answer for each of distinct leads into `answers`; raises what concerns them all.

        Nothing is claimed before its `turn`. After `until` (the loop's time) a batch that fails for somebody's locks is
        not halved any more, and all of its leads are answered with that.
        """
        turn = turn or Turn()
        waiting, lost, overtaken = lead_ids, 0, None  # what was read, if configuration alone moved on
        while waiting and attempt <= PLAIN_TRIES:
            if attempt == PLAIN_TRIES and len(waiting) > LARGEST_HELD:
                for first in range(0, len(waiting), LARGEST_HELD):
                    part = waiting[first : first + LARGEST_HELD]
                    await self._settle(part, answers, turn, until=until, attempt=attempt)
                return
            self.metrics.tried(attempt)
            try:
                if attempt < PLAIN_TRIES:
                    reread = attempt > 0 and overtaken is None
                    waiting, overtaken = await self._try(waiting, answers, turn, overtaken, reread=reread)
                else:
                    await turn.comes(None)
                    async with self._store.connection() as connection:
                        waiting = await self._last_resort(connection, waiting, answers)
            except LostWhileReading:
                lost += 1
                if lost > DEAD_CONNECTIONS:
                    raise
                continue  # the server has ended it while it lay idle, and nothing had been asked of it
            except (Busy, DatabaseUnfit, Refused) as error:
                if len(waiting) > 1:
                    turn.end()  # who waits for somebody's locks keeps nobody else waiting
                    await self._settle_apart(waiting, answers, error, until)
                    return
                answers[waiting[0]] = error
                if not isinstance(error, Busy | DeletedUnderClaim):
                    return
            attempt += 1
        for lead_id in waiting:
            answers.setdefault(lead_id, Busy("what this lead needs did not hold still long enough"))

    async def _settle_apart(
        self, lead_ids: list[UUID], answers: dict[UUID, Answer], error: PointsmanError, until: float
    ) -> None:
        """Halve a batch that fails as a whole, until the lead that makes it fail stands alone.

        Leads that somebody holds are found at once: each of them would cost a wait of its own, and whoever queues
        behind this batch would wait for them all.
        """
        now = asyncio.get_running_loop().time()
        if isinstance(error, Busy):
            if now > until:
                _leave(lead_ids, error, answers)
                return
            if held := await self._held(lead_ids):
                until = min(until, now + PATIENCE_SECONDS)
                await self._settle([lead_id for lead_id in lead_ids if lead_id not in held], answers, until=until)
                await asyncio.sleep(HELD_SECONDS)
                still_held = await self._held(held)
                _leave(still_held, error, answers)
                await self._settle([lead_id for lead_id in held if lead_id not in still_held], answers, until=until)
                return
        until = min(until, now + PATIENCE_SECONDS)
        middle = len(lead_ids) // 2
        await self._settle(lead_ids[:middle], answers, until=until)
        await self._settle(lead_ids[middle:], answers, until=until)

    async def _held(self, lead_ids: list[UUID]) -> list[UUID]:
        """The leads that somebody else has locked at this moment, in their order."""
        async with self._store.connection() as connection:
            held = await self._store.held_leads(connection, lead_ids)
        return [lead_id for lead_id in lead_ids if lead_id in held]

    async def _try(
        self,
        lead_ids: list[UUID],
        answers: dict[UUID, Answer],
        turn: Turn,
        overtaken: _Open | None,
        *,
        reread: bool,
    ) -> tuple[list[UUID], _Open | None]:
        """Read, decide, claim. The leads whose claim did not hold, with what was read if configuration alone moved on.

        What an overtaken try has read is read no more, since the next claim proves it like any other; the next instant
        came with the refusal.
        """
        claimed: Claimed | None = None
        async with self._store.connection() as connection:
            found = overtaken or await self._open(connection, lead_ids, answers)
            if found is None:
                return [], None
            reading, leads, version = found
            seen: State = self._beliefs
            if reread:
                await self.cache.catch_up(connection)
                seen = await self._true_state(connection, leads, reading, version)
            first = reading if overtaken is None and not reread else None
            indexes = await self.cache.at_least(version, connection)
            foreseen = turn.before
            batch = turn.pending = self._decide(leads, indexes, reading, seen, foreseen)
            if turn.has_come and self.cache.is_quiet:
                claimed = await self._claim(connection, batch, first)
        if claimed is None:
            # whoever reads meanwhile does so on that connection, and whoever claims has the other: then the server's
            # two processes each stay on a core, where with changing parts both were often found waiting for one
            batch.complete()
            is_as_foreseen = turn.has_come or await turn.comes(foreseen)
            await self.cache.quiet()
            async with self._store.connection() as connection:
                indexes = await self.cache.at_least(version, connection)
                if not is_as_foreseen or batch.version != (indexes.version, indexes.token):
                    batch = turn.pending = self._decide(leads, indexes, reading, seen)
                claimed = await self._claim(connection, batch, first)
        self._learn(batch, claimed)
        if all(claimed.done):
            turn.end(batch)
        return _taken_up(batch, claimed, answers), _overtaken(found, claimed)

    async def _last_resort(
        self, connection: Connection, lead_ids: list[UUID], answers: dict[UUID, Answer]
    ) -> list[UUID]:
        """Decide while no configuration can commit and nobody else can touch what the leads rest on."""
        settled: dict[UUID, Answer] = {}
        await self.cache.catch_up(connection)  # not under the seal: a large change would take longer than that may last
        async with connection.transaction():
            await self._store.share_seal(connection)
            await self._store.lock_leads(connection, lead_ids)  # or what is held for them could be for other fields
            found = await self._open(connection, lead_ids, settled)
            if found is None:
                answers.update(settled)
                return []
            reading, leads, version = found
            indexes = await self.cache.at_least(version, connection)
            question = Question.of(_candidates(indexes, leads), micros(reading.now))
            held = await self._store.hold(
                connection, [version.number, [lead.id for lead in leads], *question.arguments()]
            )
            state = question.answered(*held)
            batch = self._decide(leads, indexes, reading, state)
            claimed = await self._claim(connection, batch, None)
            waiting = _taken_up(batch, claimed, settled)
        self._learn(batch, claimed)
        answers.update(settled)
        return waiting

    async def _within(self, connection: Connection, lead_id: UUID) -> Answer:
        """Route inside a caller's transaction, and count what came of it."""
        since = perf_counter()
        try:
            answer: Answer = await self._route_within(connection, lead_id)
        except PointsmanError as error:
            answer = error
        self.metrics.answered((answer,), since)
        return answer

    async def _route_within(self, connection: Connection, lead_id: UUID) -> Outcome:
        """Route inside a caller's transaction; it may be rolled back, so nothing of it is remembered."""
        if not connection.is_in_transaction():
            raise UnsuitableTransaction("the connection has no open transaction; a decision needs one to be part of")
        with translated():
            fault = await self._store.transaction_faults(connection)
        if fault is not None:
            raise UnsuitableTransaction(f"the transaction cannot carry a decision: {fault}")
        for attempt in range(1, CALLERS_TRIES + 1):
            answers: dict[UUID, Answer] = {}
            self.metrics.tried(min(attempt, 2) - 1)  # on beliefs, then on what was read
            try:
                with translated():
                    async with self._store.savepoint(connection):
                        if await self._try_within(connection, lead_id, answers, reread=attempt > 1):
                            raise _Conflict
            except _Conflict:
                continue
            except DeletedUnderClaim:
                if attempt == CALLERS_TRIES:
                    raise
                continue
            return _raised(answers[lead_id])
        raise Busy("what this lead needs did not hold still long enough")

    async def _try_within(
        self, connection: Connection, lead_id: UUID, answers: dict[UUID, Answer], *, reread: bool
    ) -> bool:
        """One try in a savepoint; true if the claim did not hold."""
        found = await self._open(connection, [lead_id], answers)
        if found is None:
            return False
        reading, leads, version = found
        seen: State = self._beliefs
        if reread:
            seen = await self._true_state(connection, leads, reading, version)
        indexes = await self.cache.at_least(version, connection)
        batch = self._decide(leads, indexes, reading, seen)
        claimed = await self._claim(connection, batch, None if reread else reading)
        if claimed.failed is not None and "missing" in claimed.failed:
            self._beliefs.forget(batch)
        return bool(_taken_up(batch, claimed, answers))

    async def _true_state(
        self, connection: Connection, leads: Sequence[Lead], reading: Reading, version: Version
    ) -> State:
        """Usage and positions of all that the leads could be given to, read now."""
        indexes = await self.cache.at_least(version, connection)
        question = Question.of(_candidates(indexes, leads), micros(reading.now))
        return question.answered(*await self._store.state(connection, question.arguments()))

    async def _open(
        self, connection: Connection, lead_ids: Sequence[UUID], answers: dict[UUID, Answer]
    ) -> _Open | None:
        """Read leads; what can be routed of them, None if nothing can; the others' state goes into `answers`."""
        reading = await self._read(connection, lead_ids)
        leads = _open_leads(lead_ids, reading, answers)
        return _Open(reading, leads, known(reading.version)) if leads else None

    async def _read(self, connection: Connection, lead_ids: Sequence[UUID]) -> Reading:
        since = perf_counter()
        reading = await self._store.read_leads(connection, lead_ids)
        self.metrics.took(self.metrics.read, since)
        return reading

    def _decide(
        self, leads: Sequence[Lead], indexes: Indexes, reading: Reading, seen: State, before: Batch | None = None
    ) -> Batch:
        since = perf_counter()
        self._beliefs.take_up(indexes.recounted)
        batch = Batch(
            Version(indexes.version, indexes.token),
            reading.now,
            self._fenced(indexes, reading),
            seen,
            self._beliefs,
            before,
        )
        _decide_in_order(leads, indexes, batch, micros(reading.now))
        self.metrics.took(self.metrics.decide, since)
        return batch

    def _fenced(self, indexes: Indexes, reading: Reading) -> int:
        """A transaction id such that whatever claimed on a configuration before that of `indexes` has a smaller one.

        Who claimed on it locked rows, and so had its id, before the next version could be seen.
        """
        version, fence = self._fence
        if reading.version != version:
            version, fence = self._fence = reading.version, reading.fence
        return fence if version == (indexes.version, indexes.token) else NO_FENCE

    async def _claim(self, connection: Connection, batch: Batch, first: Reading | None) -> Claimed:
        """Claim a batch: a lone lead, as `first` read, in the short form; what that refuses the next try settles."""
        since = perf_counter()
        alone = None if first is None else batch.alone(first.undecided)
        if alone is None:
            claimed = await self._store.claim(connection, batch.arguments())
        else:
            claimed = batch.answered_alone(await self._store.claim_one(connection, alone))
        self.metrics.took(self.metrics.claim, since)
        if claimed.failed is not None:
            self.metrics.conflicted(claimed.failed)
        self._batching.adapt(len(batch.decisions), is_overtaken=_newer_version(claimed) is not None)
        return claimed

    def _learn(self, batch: Batch, claimed: Claimed) -> None:
        if claimed.failed is not None and "missing" in claimed.failed:
            self._beliefs.forget(batch)
        elif claimed.failed is None or "leads" in claimed.failed:
            self._beliefs.learn(batch, claimed)

    # explaining

    async def explain(self, lead_id: UUID | str) -> Explanation:
        """What would happen to the lead now, or, if the router has assigned it, what happened. Writes nothing."""
        lead_id = _id(lead_id)
        async with self._store.reader() as connection:
            reading = await self._store.read_leads(connection, [lead_id])
            settled: dict[UUID, Answer] = {}
            leads = _open_leads([lead_id], reading, settled)
            if not leads:
                assignment = reading.rows[0].assignment
                outcome = _raised(settled[lead_id])
                if assignment is None:
                    return Explanation(outcome)
                return await self._explain_record(connection, assignment.decision_id, outcome.status)
            return await self._explain_now(connection, leads[0], known(reading.version), micros(reading.now))

    async def explain_hypothetical(
        self, lead: Lead | UUID | str, *, at: datetime | None = None, policy: object = None
    ) -> Explanation:
        """What would happen to a lead, whatever became of it, at an instant, under draft rules. Writes nothing.

        `lead` is one that is there, by its id, or made up; `policy` a decoded JSON document of rules, in the place of
        whatever policy the lead falls under. The configuration and the positions are those of now, and so is what the
        windows of `at` have counted. Raises `InvalidHypothesis` with the place of what cannot be.
        """
        rules = None if policy is None else read_draft(policy)
        if at is not None and (at.tzinfo is None or not EARLIEST <= at <= LATEST):
            raise InvalidHypothesis(f"`at` is `{at}`; it must be an instant from 1970 to 8999, with its offset")
        lead_id = lead.id if isinstance(lead, Lead) else _id(lead)
        async with self._store.reader() as connection:
            reading = await self._store.read_leads(connection, [lead_id])
            found = lead if isinstance(lead, Lead) else reading.rows[0].lead
            if found is None:
                raise LeadNotFound(f"no such lead: `{lead_id}`")
            now = micros(reading.now if at is None else at)
            return await self._explain_now(connection, found, known(reading.version), now, rules)

    async def _explain_now(
        self, connection: Connection, lead: Lead, version: Version, at: int, rules: Rules | None = None
    ) -> Explanation:
        """What would happen to the lead on the configuration and the state of now."""
        for _ in range(EXPLAIN_TRIES):
            indexes = await self.cache.at_least(version, connection)
            question = Question.of(indexes.covering(lead), at)
            state = question.answered(*await self._store.state(connection, question.arguments()))
            indexes = await self.cache.at_least(version, connection)
            if indexes.version == version.number:
                break
            version = Version(indexes.version, indexes.token)  # moved while the state was read
        else:
            raise Busy("the configuration did not hold still long enough for an explanation")
        # whole before the next await: the indexes change in place
        snapshot: WideSnapshot = indexes if rules is None else Drafted(indexes, rules)
        decision = decide(lead, snapshot, state, at)
        outcome = _outcome(decision, indexes.version, None, lead.status)
        if rules is not None:
            outcome = replace(outcome, policy_id=None, policy_version=None)
        standing = with_nearest(explain(decision, snapshot, state), decision, snapshot, state)
        missing = await self._store.missing_balance(connection, short_of_balance(standing))
        return Explanation(outcome, *with_balance(standing, missing))

    async def explain_decision(self, decision_id: int) -> Explanation:
        """What a recorded decision was decided from, recomputed.

        Raises `DecisionNotFound`, `HistoryPruned`, and rather than to explain what was not so, `HistoryHole` where some
        of the configuration's past is known to be lost and `DecisionDiffers` where the decision is not the same again.
        """
        async with self._store.reader() as connection:
            return await self._explain_record(connection, decision_id, None)

    async def decision(self, decision_id: int) -> Record:
        """One record; raises `DecisionNotFound`."""
        async with self._store.reader() as connection:
            return read_record(await self._record(connection, decision_id))

    async def decisions(self, lead_id: UUID) -> list[Record]:
        """The records of a lead, newest first; raises `LeadNotFound` where there is neither lead nor record."""
        async with self._store.reader() as connection:
            records = await self._store.decisions(connection, lead_id)
            if not records and (await self._store.read_leads(connection, [lead_id])).rows[0].lead is None:
                raise LeadNotFound(f"no such lead: `{lead_id}`")
            return records

    async def _record(self, connection: Connection, decision_id: int) -> asyncpg.Record:
        row = await self._store.decision(connection, decision_id)
        if row is None:
            raise DecisionNotFound(f"no such decision: `{decision_id}`")
        return row

    async def _explain_record(self, connection: Connection, decision_id: int, status: str | None) -> Explanation:
        """The explanation of a record, once the record is proved: all of one moment, whatever is pruned meanwhile."""
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            row = await self._record(connection, decision_id)
            if status is None:
                lead = (await self._store.read_leads(connection, [row["lead_id"]])).rows[0].lead
                status = "" if lead is None else lead.status
            extent = await read_extent(connection)
            record = read_record(row)
            indexes = await self._indexes_at(connection, record, extent)
            if not is_intact(row, indexes):
                raise _differing(row)
            question = Question.of(indexes.covering(record.lead), micros(record.decided_at))
            before = await self._store.state_before(connection, decision_id, question.arguments())
        around = question.answered(*before)
        require_named(row, indexes)
        if compare(again(row, indexes), Answers(around)) is not None:
            raise _differing(row)
        decision = redecide(record.lead, indexes, read_state(record.state), micros(record.decided_at), around)
        if not question.is_answered_by(around):
            raise HistoryPruned(
                f"decision {decision_id} fell into a day or an hour of which earlier decisions were pruned; how full "
                "each buyer was is no longer known"
            )
        outcome = _outcome(decision, record.config_version, decision_id, status)
        return Explanation(outcome, *with_nearest(explain(decision, indexes, around), decision, indexes, around))

    async def _indexes_at(self, connection: Connection, record: Record, extent: Extent) -> Indexes:
        """What the record's decision could look at, as it was at its config version."""
        version = record.config_version
        if extent.is_pruned(version):
            raise HistoryPruned(f"the configuration at version {version} is no longer kept")
        extent.require_whole(version)
        token, has_baseline = await self._store.token_at(connection, version)
        if token is None or not has_baseline:
            raise missing_version(version, record.decision_id)
        indexes = Indexes(version, token)
        for table, image in await self._store.images_at(
            connection, version, record.lead.offer_id, record.lead.market_id
        ):
            indexes.apply(Change(table, "", image), version)
        return indexes

    # watching

    def status(self) -> dict[str, Any]:
        """What `GET /v1/cache` answers."""
        return self.cache.status()

    def gauges(self) -> Gauges:
        """What is true now of cache, connections and queue."""
        return Gauges(**self.cache.gauges(), connections=self._store.connections(), queued=len(self._batching))

    def exposition(self) -> bytes:
        """What `GET /metrics` answers."""
        self.metrics.refresh(self.gauges())
        return self.metrics.exposition()


async def _remembered(store: Store, cache: Cache) -> Beliefs:
    """Current usage and positions, so that a new router's first claims mostly hold."""
    beliefs = Beliefs()

    def use(rows: list[asyncpg.Record]) -> None:
        for row in rows:
            counter = Counter.of(row["buyer_id"], row["offer_id"], row["kind"], micros(row["window_start"]))
            beliefs.remember(counter, row["used"], row["since"])

    def stand(rows: list[asyncpg.Record]) -> None:
        for row in rows:
            beliefs.positions[cache.turn(row["buyer_id"], row["offer_id"])] = row["position"]

    async with store.connection() as connection, connection.transaction(readonly=True):
        with collector.paused():
            await take_in(store.usage(connection, SLICE_ROWS), use)
            await take_in(store.positions(connection, SLICE_ROWS), stand)
    return beliefs


def _open_leads(lead_ids: Sequence[UUID], reading: Reading, answers: dict[UUID, Answer]) -> list[Lead]:
    """The leads that can be routed; what the others' state says already goes into `answers`."""
    leads = []
    for lead_id, row in zip(lead_ids, reading.rows, strict=True):
        if row.lead is not None and row.lead.buyer_id is None and row.lead.status == "validated":
            leads.append(row.lead)
        else:
            answers[lead_id] = _settled(lead_id, row)
    return leads


def _settled(lead_id: UUID, row: LeadRow) -> Answer:
    lead, assignment = row
    if lead is None:
        return LeadNotFound(f"no such lead: `{lead_id}`")
    if lead.buyer_id is None:
        return Outcome(lead_id, OutcomeKind.NOT_VALIDATED, None, None, lead.status)
    return Outcome(lead_id, OutcomeKind.ALREADY_ROUTED, None, lead.buyer_id, lead.status, *(assignment or ()))


def _newer_version(claimed: Claimed) -> Version | None:
    """The version that the claim found, if it found another one than was decided on."""
    if claimed.failed is None or claimed.failed.get("version") is None:
        return None
    return Version(claimed.failed["version"], UUID(claimed.failed["token"]))


def _overtaken(found: _Open, claimed: Claimed) -> _Open | None:
    """What the next try decides on, if configuration alone moved on: the same leads at another instant."""
    newer = _newer_version(claimed)
    if newer is None or claimed.failed is None:
        return None
    now = datetime.fromisoformat(claimed.failed["now"]).astimezone(UTC)
    return _Open(replace(found.reading, now=now), found.leads, newer)


def _candidates(indexes: Indexes, leads: Iterable[Lead]) -> Iterable[Enrollment]:
    for lead in leads:
        yield from indexes.covering(lead)


def _decide_in_order(leads: Sequence[Lead], indexes: Indexes, batch: Batch, at: int) -> None:
    """Decide leads in queue order, each on what those before it leave."""
    *others, last = leads
    for lead in others:
        batch.add(decide(lead, indexes, batch, at))
    batch.end(decide(last, indexes, batch, at))


def _taken_up(batch: Batch, claimed: Claimed, answers: dict[UUID, Answer]) -> list[UUID]:
    """Put the outcomes of claims that held into `answers`; returns the leads whose claim did not."""
    waiting = []
    for decision, decision_id, repeated in zip(batch.decisions, claimed.done, claimed.repeated, strict=True):
        if not decision_id:
            waiting.append(decision.lead.id)
            continue
        status = decision.lead.status if decision.winner is None else "routed"
        outcome = _outcome(decision, batch.version.number, decision_id, status)
        if repeated is not None:
            decided_at, flags = repeated
            outcome = replace(outcome, decided_at=decided_at, flags=flags)
        answers[decision.lead.id] = outcome
    return waiting


def _outcome(decision: Decision, config_version: int, decision_id: int | None, status: str) -> Outcome:
    return Outcome(
        decision.lead.id,
        decision.outcome,
        decision.cause,
        None if decision.winner is None else decision.winner.buyer_id,
        status,
        decision_id,
        None if decision.policy is None else decision.policy.id,
        None if decision.policy is None else decision.policy.version,
        config_version,
        instant(decision.at),
        decision.flags,
    )


def _differing(row: asyncpg.Record) -> DecisionDiffers:
    decision_id, release = row["id"], row["engine_version"]
    maker = "" if release == engine.__version__ else f", which release {release} made,"
    return DecisionDiffers(
        f"decision {decision_id}{maker} does not come out again as it is recorded; "
        f"`pointsman replay --decision {decision_id}` says what differs"
    )


def _log(lead_id: UUID, answer: Answer) -> None:
    """One line a decision at debug, in the context of whoever asked."""
    if isinstance(answer, PointsmanError):
        log.debug("not decided", lead_id=str(lead_id), error=str(answer))
        return
    log.debug(
        "decided",
        lead_id=str(lead_id),
        outcome=answer.outcome,
        cause=answer.cause,
        buyer_id=answer.buyer_id and str(answer.buyer_id),
        decision_id=answer.decision_id,
        config_version=answer.config_version,
    )


def _leave(lead_ids: Iterable[UUID], error: PointsmanError, answers: dict[UUID, Answer]) -> None:
    """Answer leads that have no answer yet with `error`."""
    for lead_id in lead_ids:
        answers.setdefault(lead_id, error)


def _id(lead_id: UUID | str) -> UUID:
    """The id itself; raises `ValueError` for text that is none."""
    return lead_id if isinstance(lead_id, UUID) else UUID(lead_id)


def _raised(answer: Answer) -> Outcome:
    if isinstance(answer, PointsmanError):
        raise answer
    return answer


async def _driver_connection(connection: Any) -> Connection:
    """The asyncpg connection that a caller's connection or session stands on."""
    if isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        return connection
    from pointsman.sqlalchemy import driver_connection  # the optional extra: hosts without it never get here

    return await driver_connection(connection)

"""Calls that wait for answers, the batches that they form, and the order in which these are claimed.

Whoever flushes takes what is queued: under load batches form by themselves, and an idle router adds no wait. Under more
load two flushes go abreast: while the database claims one batch, the other is read and decided, on what the first is
about to take. Batches are claimed one after another, in the order in which they were taken from the queue.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from contextvars import Context
from dataclasses import replace
from time import perf_counter
from uuid import UUID

from pointsman.claim import Batch
from pointsman.errors import NotReady, PointsmanError
from pointsman.metrics import Answer, Metrics
from pointsman.model import Outcome, OutcomeKind

LARGEST_BATCH = 500
LEAST_BATCH = 8
"""How small batches become while configuration changes faster than larger ones are claimed."""
ABREAST = 2
"""How many flushes are under way at once."""
PATIENCE_SECONDS = 1.0
"""How long a batch waits for its turn; mostly that is milliseconds, and what was read for it grows old."""
LEAST_ABREAST = 20
"""How many leads are worth a flush beside another: fewer cost more in batches of their own than they gain."""

Waiter = asyncio.Future[Answer]
Calls = dict[UUID, list[Waiter]]
"""The leads of a batch, each with all who asked for it."""


class Turn:
    """A batch's place in the order of claims. `pending`: its decisions, once they are made."""

    __slots__ = ("_before", "_over", "pending")

    def __init__(self, before: Turn | None = None) -> None:
        self._over: asyncio.Future[Batch | None] = asyncio.get_running_loop().create_future()
        self._before: Turn | None = before
        while self._before is not None and self._before._over.done():
            self._before = self._before._before
        self.pending: Batch | None = None

    @property
    def has_come(self) -> bool:
        """Whether nothing is to be claimed before this one any more."""
        return self._before is None

    @property
    def before(self) -> Batch | None:
        """What is claimed before this one, as far as it is decided already."""
        return None if self._before is None else self._before.pending

    async def comes(self, foreseen: Batch | None) -> bool:
        """Wait for it; returns whether what is claimed before is `foreseen`, and holds as it was decided.

        Whoever waits for a server that has gone silent is not waited for: the order of claims is for speed.
        """
        if self._before is None:
            return False
        over, self._before = self._before._over, None
        await asyncio.wait([over], timeout=PATIENCE_SECONDS)
        return foreseen is not None and over.done() and over.result() is foreseen

    def end(self, claimed: Batch | None = None) -> None:
        """Let the next one come, and tell it what holds."""
        if not self._over.done():
            self._over.set_result(claimed)


class Batching:
    """The queue of a router. `settle` puts an answer for each of some leads into a mapping, in their turn."""

    def __init__(
        self,
        settle: Callable[[list[UUID], dict[UUID, Answer], Turn], Awaitable[None]],
        metrics: Metrics,
    ) -> None:
        self._settle = settle
        self._metrics = metrics
        self._queue: deque[tuple[UUID, Waiter, float]] = deque()
        self._flushes: set[asyncio.Task[bool]] = set()
        self._under_way: list[Calls] = []
        self._last: Turn | None = None
        self._most = LARGEST_BATCH
        self._overtaken = 0
        self._is_closed = False

    def __len__(self) -> int:
        """How many calls wait for a batch."""
        return len(self._queue)

    def enqueue(self, lead_id: UUID) -> Waiter:
        """Have a lead routed with whatever else is wanted at this moment."""
        waiter: Waiter = asyncio.get_running_loop().create_future()
        if self._is_closed:
            waiter.set_result(NotReady("the router is closed"))
            return waiter
        self._queue.append((lead_id, waiter, perf_counter()))
        self._start()
        return waiter

    async def close(self) -> None:
        """Answer what is under way, refuse what is queued."""
        self._is_closed = True
        while self._queue:
            _, waiter, _ = self._queue.popleft()
            if not waiter.done():
                waiter.set_result(NotReady("the router is closing"))
        if self._flushes:
            await asyncio.wait(self._flushes)

    def adapt(self, leads: int, *, is_overtaken: bool) -> None:
        """Half as many leads at once where configuration overtook two batches running, then slowly more again.

        One alone says nothing of how large they are: it is overtaken by chance, and smaller ones would be slower.
        """
        self._overtaken = self._overtaken + 1 if is_overtaken else 0
        if self._overtaken > 1:
            self._most = max(LEAST_BATCH, leads // 2)
        elif not is_overtaken and leads == self._most:
            self._most = min(LARGEST_BATCH, leads + leads // 4 + 1)

    def _start(self) -> None:
        """Set a flush going, if there is enough for it."""
        queued, under_way = len(self._queue), len(self._flushes)
        if not queued or (under_way and (queued < LEAST_ABREAST or under_way >= self._abreast())):
            return
        # a batch is of many callers, so it runs in the context of none; what is wanted until it begins comes along
        flush = asyncio.create_task(self._flush(), name="pointsman-flush", context=Context())
        self._flushes.add(flush)
        flush.add_done_callback(self._ended)

    def _abreast(self) -> int:
        """How many flushes may be under way: two, if batches of half of what is wanted pay and are not overtaken."""
        half = min(-(-self._wanted() // ABREAST), LARGEST_BATCH)
        return ABREAST if LEAST_ABREAST <= half <= self._most else 1

    def _wanted(self) -> int:
        return len(self._queue) + sum(map(len, self._under_way))

    def _ended(self, flush: asyncio.Task[bool]) -> None:
        self._flushes.discard(flush)
        if not flush.cancelled() and flush.result():
            self._start()

    async def _flush(self) -> bool:
        """Route one batch and answer everyone who waits for it, whatever happens; false if there was none to take."""
        batch, since = self._taken()
        if not batch:
            return False
        self._under_way.append(batch)
        turn = self._last = Turn(self._last)
        answers: dict[UUID, Answer] = {}
        failure: Exception = NotReady("the router was stopped before this lead was decided")
        try:
            await self._settle(list(batch), answers, turn)
        except Exception as error:  # noqa: BLE001 - whatever it was, it must reach those who wait
            failure = error
        finally:
            turn.end()
            self._under_way = [others for others in self._under_way if others is not batch]
            for lead_id, waiters in batch.items():
                _answer(waiters, answers.get(lead_id), failure)
        self._metrics.flushed(len(batch), answers.values(), failure, since)
        return True

    def _taken(self) -> tuple[Calls, float]:
        """The next batch out of the queue, and when the first of its calls came.

        Who wants a lead that is under way waits until it is settled: what was read for it may be older than the call.
        """
        most = min(self._most, -(-self._wanted() // self._abreast()))
        batch: Calls = {}
        since, later = perf_counter(), []
        while self._queue and len(batch) < most:
            call = lead_id, waiter, called = self._queue.popleft()
            if any(lead_id in others for others in self._under_way):
                later.append(call)
            elif not waiter.done():
                batch.setdefault(lead_id, []).append(waiter)
                since = min(since, called)
        self._queue.extendleft(reversed(later))
        return batch, since


def _answer(waiters: Iterable[Waiter], answer: Answer | None, failure: Exception) -> None:
    """Tell everyone who asked for one lead: the first of them caused what happened, the others find it done."""
    waiting = [waiter for waiter in waiters if not waiter.done()]
    if answer is None:
        if not isinstance(failure, PointsmanError):
            for waiter in waiting:
                waiter.set_exception(failure)
            return
        answer = failure
    for waiter in waiting[:1]:
        waiter.set_result(answer)
    if len(waiting) > 1:
        if isinstance(answer, Outcome) and answer.outcome is OutcomeKind.ROUTED:
            answer = replace(answer, outcome=OutcomeKind.ALREADY_ROUTED)
        for waiter in waiting[1:]:
            waiter.set_result(answer)

"""One router process of a storm: impatient callers, and a note of every answer and every error.

Started with a JSON object as its only argument. Notes go to a file, a line each, written at once: the process may be
killed at any moment. SIGTERM ends the calling; what is noted then is whether the router came back to `fresh` by
itself, and what it left behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any
from uuid import UUID

import asyncpg

from pointsman import Outcome, PointsmanError, Router, batching
from tests.invariants import Answer

HUNG_SECONDS = 60
"""After this long a call is taken for one that never ends. Only seconds count in which the process was awake."""


class Notes:
    """The file of notes."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_APPEND | os.O_WRONLY)

    def write(self, kind: str, **facts: Any) -> None:
        os.write(self._file, json.dumps({"kind": kind, **facts}, default=str).encode() + b"\n")

    def error(self, way: str, error: PointsmanError) -> None:
        self.write("error", way=way, error=type(error).__name__, message=str(error)[:200])

    def answer(self, began: float, outcome: Outcome) -> None:
        self.write(
            "answer",
            fact=Answer(
                began,
                outcome.lead_id,
                outcome.outcome,
                outcome.cause,
                outcome.buyer_id,
                outcome.decision_id,
                outcome.config_version,
            ),
        )


class Callers:
    """Callers of one router; each does now this, now that, until told to stop."""

    def __init__(self, router: Router, dsn: str, leads: list[UUID], seed: int, notes: Notes) -> None:
        self._router = router
        self._dsn = dsn
        self._leads = leads
        self._seed = seed
        self._notes = notes
        self._recent: list[UUID] = []
        self.stopped = asyncio.Event()
        self.slowest = 0.0

    async def call(self, number: int) -> None:
        """Be one caller."""
        rnd = random.Random(self._seed * 1000 + number)
        ways: list[tuple[Callable[[random.Random], Coroutine[Any, Any, None]], int]] = [
            (self._route, 60),
            (self._abandon, 8),
            (self._all_at_once, 6),
            (self._many, 8),
            (self._within, 12),
            (self._explain, 4),
        ]
        calls, weights = zip(*ways, strict=True)
        while not self.stopped.is_set():
            began = time.monotonic()
            way = rnd.choices(calls, weights)[0]
            try:
                await _awaited(way(rnd))
            except PointsmanError as error:
                self._notes.error(way.__name__, error)
                await asyncio.sleep(rnd.random() * 0.05)
            except TimeoutError:
                self._notes.write("hung", way=way.__name__)
            except Exception:  # noqa: BLE001 - whatever else comes out of a call is what a storm is for
                self._notes.write("broken", way=way.__name__, trace=traceback.format_exc()[-3000:])
            self.slowest = max(self.slowest, time.monotonic() - began)

    def _lead(self, rnd: random.Random) -> UUID:
        """Mostly a lead of which nobody has asked; sometimes one that somebody just asked for."""
        if self._recent and rnd.random() < 0.15:
            return rnd.choice(self._recent)
        lead = rnd.choice(self._leads)
        self._recent = [*self._recent[-20:], lead]
        return lead

    async def _route(self, rnd: random.Random) -> None:
        began = time.monotonic()
        self._notes.answer(began, await self._router.route(self._lead(rnd)))

    async def _abandon(self, rnd: random.Random) -> None:
        """Give up on a call, and mostly ask again, as a client with a short patience does."""
        lead = self._lead(rnd)
        call = asyncio.create_task(self._router.route(lead))
        await asyncio.sleep(rnd.random() * 0.01)
        call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()
        if rnd.random() < 0.7:
            began = time.monotonic()
            self._notes.answer(began, await self._router.route(lead))

    async def _all_at_once(self, rnd: random.Random) -> None:
        lead = self._lead(rnd)
        await self._collect([self._router.route(lead) for _ in range(rnd.randint(2, 6))])

    async def _collect(self, calls: list[Awaitable[Outcome]]) -> None:
        began = time.monotonic()
        for answer in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(answer, Outcome):
                self._notes.answer(began, answer)
            elif isinstance(answer, PointsmanError):
                self._notes.error("_all_at_once", answer)
            else:
                raise answer

    async def _many(self, rnd: random.Random) -> None:
        began = time.monotonic()
        for answer in await self._router.route_many([self._lead(rnd) for _ in range(rnd.randint(2, 40))]):
            if isinstance(answer, Outcome):
                self._notes.answer(began, answer)
            else:
                self._notes.error("_many", answer)

    async def _within(self, rnd: random.Random) -> None:
        """Route in a transaction of the caller's own, which commits, rolls back, or is left to die."""
        try:
            connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=10)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            await asyncio.sleep(0.1)
            return
        try:
            await self._in_transaction(connection, rnd)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            pass  # the caller's own statements are the caller's trouble
        finally:
            connection.terminate()

    async def _in_transaction(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        await connection.execute("begin")
        began = time.monotonic()
        outcome = await self._router.route(self._lead(rnd), connection=connection)
        await asyncio.sleep(rnd.random() * 0.02)
        end = rnd.random()
        if end < 0.6:
            await connection.execute("commit")
            self._notes.answer(began, outcome)
        elif end < 0.9:
            await connection.execute("rollback")

    async def _explain(self, rnd: random.Random) -> None:
        await self._router.explain(self._lead(rnd))


async def _awaited(way: Coroutine[Any, Any, None]) -> None:
    """Raises TimeoutError for what takes longer than anything may, a second at a time: one that is slept through."""
    call = asyncio.create_task(way)
    for _ in range(HUNG_SECONDS):
        await asyncio.wait([call], timeout=1)
        if call.done():
            return await call
    call.cancel()
    raise TimeoutError


async def main(dsn: str, listen_dsn: str, direct_dsn: str, path: str, seed: int, callers: int) -> None:
    """Open a router and call it until SIGTERM; in every second process two flushes go abreast from two leads on."""
    if seed % 2:
        batching.LEAST_ABREAST = 1
    notes = Notes(path)
    leads = [row[0] for row in await _fetched(direct_dsn, "select id from leads order by id")]
    router = await _opened(dsn, listen_dsn)
    notes.write("open")
    crowd = Callers(router, dsn, leads, seed, notes)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, crowd.stopped.set)
    await asyncio.gather(*(crowd.call(number) for number in range(callers)))
    fresh = await _fresh_again(router, direct_dsn)
    await router.close()
    await asyncio.sleep(0)
    left = [task.get_name() for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    notes.write("end", fresh=fresh, slowest=crowd.slowest, tasks_left=left)


async def _fetched(dsn: str, query: str) -> list[asyncpg.Record]:
    """The rows of a query, however often the server is restarted meanwhile."""
    while True:
        try:
            connection = await asyncpg.connect(dsn, timeout=10)
            try:
                return await connection.fetch(query)
            finally:
                connection.terminate()
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
            await asyncio.sleep(0.2)


async def _opened(dsn: str, listen_dsn: str) -> Router:
    while True:
        try:
            return await Router.open(dsn, listen_dsn=listen_dsn)
        except PointsmanError:
            await asyncio.sleep(0.3)


async def _fresh_again(router: Router, dsn: str) -> bool:
    """Whether the feed alone, with nobody calling, brings the router to the newest version."""
    newest = (await _fetched(dsn, "select max(version) from pointsman.config_commit"))[0][0]
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if router.cache.state == "fresh" and (router.cache.version or 0) >= newest:
            return True
        await asyncio.sleep(0.05)
    return False


if __name__ == "__main__":
    asyncio.run(main(**json.loads(sys.argv[1])))

"""The configuration, kept current: loaded once, then every committed version in the order of commits.

A notification is only the doorbell. The jittered poll is the guarantee, and a router that decides finds out from its
own first round trip that the cache is behind.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import sys
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing, suppress
from enum import StrEnum
from functools import partial
from operator import eq
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import structlog

from pointsman.cache import collector
from pointsman.cache.areas import Areas
from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.cache.loading import Loading
from pointsman.engine.configuration import Buyer, Enrollment, turn
from pointsman.errors import DatabaseUnfit, NotReady, PointsmanError
from pointsman.metrics import Metrics
from pointsman.store import Connection, RowImage, Store, Version, translated

log = structlog.get_logger()

POLL_SECONDS = (0.25, 1.0)
BACKOFF_SECONDS = (0.1, 5.0)
STALE_AFTER_SECONDS = 5.0
VERIFY_SECONDS = 60.0
"""The cache is compared with the tables when its connection comes back, but not more often than this."""
QUIET_SECONDS = 0.02
"""How long claims wait for a change that was notified of; mostly that is half a millisecond."""
COMPARED_ROWS = 100_000
"""Changes that may come while the tables are read for a comparison; with more it is left for another time."""
SLICE_ROWS = 1_000
"""Rows loaded or compared between two looks at other work: some milliseconds."""
LOGGED_ROWS = 250
"""Rows of the log read and applied at once, which take longer."""

Rows = TypeVar("Rows")

_NOBODY_ELSE = 2
"""References to what stands in a list alone: the list's, and that of the question itself."""


class FeedState(StrEnum):
    """How far the cache may be believed."""

    LOADING = "loading"
    FRESH = "fresh"
    STALE = "stale"
    DOWN = "down"


class Cache:
    """The indexes at the newest version that was applied whole, and the task that keeps them there.

    Changes are applied in place, whole versions at a time, with other work let in between slices; whoever wants to
    decide waits in `at_least` until no version is half applied. That costs nothing: a decision on an older version
    could not commit.
    """

    def __init__(
        self, store: Store, listen_dsn: str | None = None, timeout: float = 5.0, metrics: Metrics | None = None
    ) -> None:
        self._metrics = metrics or Metrics()
        self._newest = 0
        self._store = store
        self._listen_dsn = listen_dsn
        self._timeout = timeout
        self._indexes: Indexes | None = None
        self._replaced: list[Indexes] = []
        self._is_whole = False
        self._is_interrupted = False  # while a change was applied, of which nothing is wrong
        self._lock = asyncio.Lock()
        self._doorbell = asyncio.Event()
        self._rung_at = float("-inf")
        self._quiet = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._proven_at = float("-inf")
        self._is_connected = False
        self._verification: asyncio.Task[object] | None = None
        self._verified_at = time.monotonic()
        self.differences = 0
        """Rows that were not as in the tables, by every verification so far."""

    @property
    def state(self) -> FeedState:
        """`fresh` while the version was proven to be the newest within the last seconds."""
        if self._indexes is None:
            return FeedState.LOADING
        if time.monotonic() - self._proven_at <= STALE_AFTER_SECONDS:
            return FeedState.FRESH
        return FeedState.STALE if self._is_connected else FeedState.DOWN

    @property
    def version(self) -> int | None:
        """The version of the indexes, None before the first load."""
        return None if self._indexes is None else self._indexes.version

    def status(self) -> dict[str, Any]:
        """The version, seconds since it was proven the newest, the state, sizes, and policies that cannot be used."""
        indexes = self._indexes
        policies = [] if indexes is None else sorted(indexes.policies.values(), key=lambda policy: policy.id.int)
        return {
            "config_version": self.version,
            "lag": None if indexes is None else time.monotonic() - self._proven_at,
            "state": self.state,
            "sizes": {} if indexes is None else indexes.sizes(),
            "invalid_policies": [
                {"policy_id": policy.id, "problem": policy.problem} for policy in policies if policy.rules is None
            ],
        }

    def time_zones(self) -> dict[UUID, str]:
        """The names of the buyers' time zones, where they can be read: for telling people times."""
        buyers = {} if self._indexes is None else self._indexes.buyers
        return {buyer.id: buyer.zone.name for buyer in buyers.values() if buyer.zone is not None}

    def turn(self, buyer_id: UUID, offer_id: UUID) -> bytes:
        """What an enrollment is known by in the routing state: its own object, if it is here.

        A key that is the object which is looked for is found without a look at its bytes, in half of the time.
        """
        enrollment = None if self._indexes is None else self._indexes.enrolled(offer_id).get(buyer_id)
        return turn(buyer_id, offer_id) if enrollment is None else enrollment.turn

    def gauges(self) -> dict[str, Any]:
        """The same in numbers, with how many versions are known of and not applied."""
        status = self.status()
        version = self.version or 0
        return {
            "state": status["state"],
            "version": version,
            "behind": max(0, self._newest - version),
            "proof_age": status["lag"] or 0.0,
            "sizes": status["sizes"],
            "invalid_policies": len(status["invalid_policies"]),
        }

    async def start(self) -> None:
        """Listen and load; raises what stands in the way. From then on the feed supervises itself."""
        listener = await self._listen()
        try:
            await self.catch_up(listener)
            await self._warn_of_detached(listener)
        except BaseException:
            listener.terminate()
            raise
        self._task = asyncio.create_task(self._supervise(listener), name="pointsman-feed")

    async def stop(self) -> None:
        """End the feed's tasks and its connection."""
        tasks, self._task, self._verification = (self._task, self._verification), None, None
        for task in tasks:
            while task is not None and not task.done():
                task.cancel()  # again and again: a driver's wait can swallow a cancellation that comes with its answer
                await asyncio.wait([task], timeout=0.1)

    async def at_least(self, version: Version, connection: Connection) -> Indexes:
        """The indexes at `version` or a later one, whole. The caller must not await before it is done with them.

        What is missing is read on the caller's `connection`, or on one more where that is in a transaction of its own.
        """
        if not self._has(version):
            self._newest = max(self._newest, version.number)
            if connection.is_in_transaction():
                async with self._store.connection() as other:
                    await self.catch_up(other)
            else:
                await self.catch_up(connection)
        if self._indexes is None or not self._is_whole:
            raise NotReady("the router has not loaded its configuration yet")
        return self._indexes

    async def catch_up(self, connection: Connection) -> None:
        """Apply everything that was committed up to now; load anew where the feed does not reach.

        What is new is read before the lock is taken: a connection that has gone silent answers nothing until its
        deadline, and whoever routes waits for the lock, not for that.
        """
        while True:
            asked_at, since = time.monotonic(), self._at
            changes = None if since is None else await self._changes(connection, since, LOGGED_ROWS)
            async with self._lock:
                if self._at == since:
                    await self._take(connection, changes)
                elif not changes or len(changes) == LOGGED_ROWS or not self._has(changes[-1].version):
                    continue  # somebody else has moved on meanwhile, and perhaps not as far
            self._proven_at = max(self._proven_at, asked_at)
            if self._proven_at >= self._rung_at:
                self._quiet.set()
            await self._clear_away()
            return

    async def _changes(self, connection: Connection, since: Version, limit: int) -> list[RowImage] | None:
        with translated():
            changes = await self._store.changes(connection, since, limit)
        self._newest = changes[-1].version.number if changes else since.number
        return changes

    async def verify(self) -> dict[str, int]:
        """Compare every row with the tables, read anew beside, at one version; take those where any differs.

        Answers how many rows differ, by table. This is what finds a change that was never logged (a trigger that was
        off for a while) or was wrongly applied; the feed cannot.
        """
        self._verified_at = time.monotonic()
        async with self._store.reader() as connection:
            await self._warn_of_detached(connection)
            true = await self._read(connection)
            await self.catch_up(connection)
            async with self._lock:
                found = await self._compare(connection, true)
        if not found:
            await _free(true)
        await self._clear_away()
        return found

    async def _compare(self, connection: Connection, true: Indexes) -> dict[str, int]:
        """How many rows differ from those that were read beside, by table; if any does, take these."""
        indexes = self._indexes
        if indexes is None or not self._is_whole or not await self._moved_on(connection, true, indexes):
            return {}
        found = await _differences(indexes, true)
        if found:
            log.error("the cache was not as the tables are, and has been replaced", rows=found)
            self.differences += sum(found.values())
            self._replaced.append(indexes)
            self._indexes = true
        return found

    async def _moved_on(self, connection: Connection, behind: Indexes, until: Indexes) -> bool:
        """Bring indexes that were read beside to the version of those in use; false if the feed cannot."""
        changes = await self._changes(connection, Version(behind.version, behind.token), COMPARED_ROWS)
        if changes is None or len(changes) == COMPARED_ROWS:
            return False
        changes = [change for change in changes if change.version.number <= until.version]
        if not _says_all(changes):
            return False
        await _apply(behind, changes)
        return (behind.version, behind.token) == (until.version, until.token)

    async def _warn_of_detached(self, connection: Connection) -> None:
        with translated():
            detached = await self._store.detached(connection)
        if detached:
            log.error("changes of these tables are not logged; run `pointsman migrate`", tables=detached)

    @property
    def _at(self) -> Version | None:
        """The version that the indexes can be followed from, None where they have to be loaded."""
        indexes = self._indexes
        if indexes is None or not (self._is_whole or self._is_interrupted):
            return None
        return Version(indexes.version, indexes.token)

    def _has(self, version: Version) -> bool:
        indexes = self._indexes
        if indexes is None or not self._is_whole:
            return False
        return indexes.version > version.number or (indexes.version, indexes.token) == version

    # reading

    async def _load(self, connection: Connection) -> None:
        """Put indexes made of the tables in the place of the old ones."""
        old, self._indexes = self._indexes, await self._read(connection)
        if old is not None:
            self._replaced.append(old)
        self._is_whole = True
        self._metrics.loads.inc()

    async def _clear_away(self) -> None:
        """Free indexes that were replaced, in slices, unless somebody holds them, as a last resort that will decide."""
        while self._replaced:
            is_held = sys.getrefcount(self._replaced[-1]) > _NOBODY_ELSE
            old = self._replaced.pop()
            if not is_held:
                await _free(old)

    async def _read(self, connection: Connection) -> Indexes:
        """New indexes of the tables as of one moment."""
        with translated():
            async with connection.transaction(isolation="repeatable_read", readonly=True):
                loading = Loading(*await self._store.version(connection))
                with collector.paused():
                    for table in TABLES:
                        await self._read_table(connection, table, loading)
                    for _ in loading.file():
                        await asyncio.sleep(0)
        return loading.indexes

    async def _read_table(self, connection: Connection, table: str, loading: Loading) -> None:
        if table == "buyer_service_areas":
            await take_in(self._store.areas(connection, SLICE_ROWS), loading.put_areas)
        elif table == "buyer_offers":
            await take_in(self._store.enrollments(connection, SLICE_ROWS), loading.put_enrollments)
        else:
            await take_in(self._store.images(connection, table, SLICE_ROWS), partial(loading.put, table))

    async def _take(self, connection: Connection, changes: list[RowImage] | None) -> None:
        """Bring the indexes to the newest version by the changes that were read, or by loading them anew."""
        indexes = self._indexes
        if indexes is None or changes is None:
            if self._is_whole:
                log.warning("the cache's config version is not part of the history any more, loading anew")
            await self._load(connection)
        elif changes:
            with self._metrics.catching_up.time():
                await self._apply(connection, indexes, changes)

    async def _apply(self, connection: Connection, indexes: Indexes, changes: list[RowImage]) -> None:
        """Apply these, or all there is if that is more, in place.

        Where who reads them goes away (a caller, or its connection) the next begins once more: a row that is applied
        again is as it was. Whatever else breaks off loads anew.
        """
        since = Version(indexes.version, indexes.token)
        self._is_interrupted = False
        try:
            if len(changes) == LOGGED_ROWS:
                is_followed = await self._apply_many(connection, indexes, since)
            elif is_followed := _says_all(changes):
                self._is_whole = False
                await _apply(indexes, changes)
                self._metrics.changes.inc(len(changes))
            if not is_followed:
                await self._load(connection)
            self._is_whole = True
        except (asyncio.CancelledError, PointsmanError):
            indexes.version, indexes.token = since
            self._is_interrupted = not self._is_whole
            raise

    async def _apply_many(self, connection: Connection, indexes: Indexes, since: Version) -> bool:
        """Apply all that there is, slice by slice as it is read; false if the feed does not say what to apply."""
        self._is_whole = False
        with translated():
            async with (
                connection.transaction(),
                aclosing(self._store.all_changes(connection, since, LOGGED_ROWS)) as slices,
            ):
                async for changes in slices:
                    if changes is None or not _says_all(changes):
                        return False
                    await _apply(indexes, changes)
                    self._metrics.changes.inc(len(changes))
                    await asyncio.sleep(0)
        return True

    # following

    async def _listen(self) -> asyncpg.Connection:
        connection = await self._store.listener(self._listen_dsn, self._timeout)
        try:
            with translated():
                await connection.add_listener("pointsman", self._ring)
        except DatabaseUnfit:
            log.warning("the server takes no LISTEN here; configuration is followed by polling alone")
        except BaseException:
            connection.terminate()
            raise
        connection.add_termination_listener(self._wake)
        return connection

    def _ring(self, *_: object) -> None:
        self._rung_at = time.monotonic()
        self._quiet.clear()
        self._doorbell.set()

    def _wake(self, *_: object) -> None:
        self._doorbell.set()

    @property
    def is_quiet(self) -> bool:
        """Whether what was notified of is applied, or was so long ago that whoever asks for it may have gone silent."""
        return self._proven_at >= self._rung_at or time.monotonic() - self._rung_at > QUIET_SECONDS

    async def quiet(self) -> None:
        """Wait for that: before it no claim could hold."""
        if self.is_quiet:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS):
                await self._quiet.wait()

    async def _follow(self, listener: asyncpg.Connection) -> None:
        """Catch up at every ring and every poll, until something raises."""
        self._is_connected = True
        try:
            while True:
                self._doorbell.clear()
                await self.catch_up(listener)
                poll = random.uniform(*POLL_SECONDS)  # noqa: S311 - spreads routers out, guards nothing
                with suppress(TimeoutError):
                    async with asyncio.timeout(poll):  # not wait_for, which loses a cancellation in Python 3.11
                        await self._doorbell.wait()
        finally:
            self._is_connected = False
            listener.terminate()

    async def _supervise(self, listener: asyncpg.Connection) -> None:
        """Follow; when that breaks, connect again, for ever. A retry library's default would give up here."""
        pause = shortest = BACKOFF_SECONDS[0]
        while True:
            began = time.monotonic()
            try:
                await self._follow(listener)
            except Exception as error:  # noqa: BLE001 - whatever it was, an unsupervised feed would be worse
                self._metrics.feed_breaks.inc()
                log.warning("the configuration feed broke off, connecting again", error=str(error))
            if self._proven_at > began:  # it worked, so this is no part of an earlier trouble
                pause = shortest
            listener, pause = await self._reconnect(pause)
            self._verify_now_and_then()

    def _verify_now_and_then(self) -> None:
        """After a time without a connection, see whether anything was missed; as a task beside, since it takes long."""
        is_due = time.monotonic() - self._verified_at > VERIFY_SECONDS
        if is_due and (self._verification is None or self._verification.done()):
            self._verification = asyncio.create_task(self._verify_quietly(), name="pointsman-verify")

    async def _verify_quietly(self) -> None:
        try:
            await self.verify()
        except Exception as error:  # noqa: BLE001 - the next connection brings the next verification
            log.warning("the cache could not be compared with the tables", error=str(error))

    async def _reconnect(self, pause: float) -> tuple[asyncpg.Connection, float]:
        """A new listener, after at least `pause` seconds, and how long to wait at the next time."""
        while True:
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 - keeps routers from coming all at once
            pause = min(2 * pause, BACKOFF_SECONDS[1])
            try:
                return await self._listen(), pause
            except Exception as error:  # noqa: BLE001 - as above: nothing else would ever connect again
                log.warning("the database is away", error=str(error))


async def take_in(slices: AsyncGenerator[Rows, None], take: Callable[[Rows], None]) -> None:
    """Take every slice in, and let others work in between: there can be a million rows."""
    async with aclosing(slices):
        async for rows in slices:
            take(rows)
            await asyncio.sleep(0)


async def _free(indexes: Indexes) -> None:
    """Let go of indexes that nobody else uses, in slices: of a million rows it takes a tenth of a second."""
    for rows in indexes.parts():
        while rows:
            for _ in range(min(SLICE_ROWS, len(rows))):
                rows.popitem()
            await asyncio.sleep(0)


def _says_all(changes: Iterable[RowImage]) -> bool:
    """Whether these are all rows that changed: of a table that was emptied the log does not name them."""
    return all(change.op != "t" for change in changes)


async def _apply(indexes: Indexes, changes: Sequence[RowImage]) -> None:
    """Bring indexes to the version of the last of `changes`, in slices."""
    for count, change in enumerate(changes, start=1):
        if change.table is not None and change.key is not None:
            indexes.apply(Change(change.table, change.key, change.image), change.version.number)
        if count % SLICE_ROWS == 0:
            await asyncio.sleep(0)
    if changes:
        indexes.version, indexes.token = changes[-1].version


async def _differences(indexes: Indexes, true: Indexes) -> dict[str, int]:
    """How many rows of the one are not as in the other, by table, where any are; in slices."""
    tables: list[tuple[str, Mapping[Any, Any], Mapping[Any, Any], Callable[[Any, Any], bool]]] = [
        ("offers", indexes.offers, true.offers, eq),
        ("buyers", indexes.buyers, true.buyers, Buyer.is_as),
        ("offer_exclusivities", indexes.exclusivity_rows, true.exclusivity_rows, eq),
        ("routing_policies", indexes.policies, true.policies, eq),
    ]
    found = {table: await _different_rows(ours, theirs, is_same) for table, ours, theirs, is_same in tables}
    found["buyer_service_areas"] = await _different_areas(indexes.areas, true.areas)
    found["buyer_offers"] = 0
    for offer_id in indexes.enrollments.keys() | true.enrollments.keys():
        found["buyer_offers"] += await _different_rows(
            indexes.enrolled(offer_id), true.enrolled(offer_id), Enrollment.is_as
        )
    return {table: rows for table, rows in found.items() if rows}


async def _different_areas(ours: Areas, theirs: Areas) -> int:
    """The same of areas, side by side in their order: to look each of them up would take four times as long."""
    is_same = ours.comparison(theirs)
    one, other = ours.records(), theirs.records()
    mine, row = next(one, None), next(other, None)
    in_both = same = 0
    for count in itertools.count(1):
        if mine is None or row is None:
            break
        if mine[0] == row[0]:
            in_both += 1
            same += is_same(mine, row)
            mine, row = next(one, None), next(other, None)
        elif mine[0] < row[0]:
            mine = next(one, None)
        else:
            row = next(other, None)
        if count % SLICE_ROWS == 0:
            await asyncio.sleep(0)
    return len(ours) + len(theirs) - in_both - same


async def _different_rows(
    ours: Mapping[Any, Any], theirs: Mapping[Any, Any], is_same: Callable[[Any, Any], bool]
) -> int:
    different = len(ours.keys() - theirs.keys()) if len(ours) != len(theirs) else 0
    for count, (key, row) in enumerate(theirs.items(), start=1):
        mine = ours.get(key)
        if mine is None or not is_same(mine, row):
            different += 1
        if count % SLICE_ROWS == 0:
            await asyncio.sleep(0)
    return different

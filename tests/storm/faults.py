"""What production does to routers, done on purpose and at random."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Protocol

import asyncpg

from tests.storm.relay import Relay
from tests.storm.writers import AWAY


class Process(Protocol):
    """A router process, as faults see it."""

    def freeze(self) -> None: ...

    def wake(self) -> None: ...

    async def kill(self) -> None:
        """End it at once, and start another in its place."""


LISTENING = "query ilike 'listen%' or query like 'select version, token%' or query like '%as known%'"
"""What a session that follows the configuration said last."""

Restart = Callable[[str], Awaitable[None]]
_KILL = """
select count(pg_terminate_backend(pid)) from (
  select pid from pg_stat_activity where datname = current_database() and application_name = 'pointsman' and ({which})
  order by random() limit $1) victims
"""


class Faults:
    """Injects one fault after another, and counts them by kind."""

    def __init__(
        self,
        dsn: str,
        routing: Relay,
        listening: Relay,
        processes: list[Process],
        seed: int,
        *,
        restart: Restart | None,
        host_locks: bool,
        longest: float,
    ) -> None:
        self._dsn = dsn
        self._routing = routing
        self._listening = listening
        self._processes = processes
        self._rnd = random.Random(seed * 104729)
        self._restart = restart
        self._longest = longest
        self.done: Counter[str] = Counter()
        self._alone = asyncio.Lock()
        self.stopped = asyncio.Event()
        self._ways: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._kill_claims, 10),
            (self._kill_listeners, 8),
            (self._kill_pools, 4),
            (self._cancel_statements, 6),
            (self._cut, 5),
            (self._cut_listeners, 5),
            (self._delay, 4),
            (self._half_open, 3),
            (self._half_open_listeners, 4),
            (self._lose_notifications, 5),
            (self._refuse, 2),
            (self._freeze, 8),
            (self._kill_router, 4),
            (self._jump, 8),
        ]
        if host_locks:
            self._ways.append((self._lock_the_other_way, 10))
        if restart is not None:
            self._ways += [(self._restart_fast, 2), (self._restart_immediate, 2)]

    async def rage(self) -> None:
        """Do damage until told to stop, and leave nothing cut, frozen or delayed."""
        ways, weights = zip(*self._ways, strict=True)
        while not self.stopped.is_set():
            await self._pause(0.05, 0.6)
            way = self._rnd.choices(ways, weights)[0]
            try:
                await way()
            except AWAY:
                continue
            self.done[way.__name__.strip("_")] += 1

    async def freeze_for_minutes(self) -> None:
        """Beside the other damage, freeze one router after another for more than a minute, until told to stop."""
        while not self.stopped.is_set():
            await self._pause(2, 10)
            victim = self._rnd.choice(self._processes)
            victim.freeze()
            try:
                await self._pause(61, 90)
            finally:
                victim.wake()
            self.done["freeze for more than a minute"] += not self.stopped.is_set()

    async def _pause(self, shortest: float, longest: float) -> None:
        """Wait a while, or until the storm is over."""
        try:
            await asyncio.wait_for(self.stopped.wait(), self._rnd.uniform(shortest, longest))
        except TimeoutError:
            return

    async def _pause_long(self) -> None:
        """Mostly some tenths of a second, sometimes nearly as long as it may be."""
        longest = 0.3 + self._longest * self._rnd.random() ** 3
        await self._pause(longest / 2, longest)

    async def _execute(self, statement: str, *arguments: object) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=10)
        try:
            await connection.execute(statement, *arguments)
        finally:
            connection.terminate()

    # sessions

    async def _kill_claims(self) -> None:
        await self._execute(_KILL.format(which="state <> 'idle'"), self._rnd.randint(1, 2))

    async def _kill_listeners(self) -> None:
        await self._execute(_KILL.format(which=LISTENING), 2)

    async def _kill_pools(self) -> None:
        await self._execute(_KILL.format(which="true"), 50)

    async def _cancel_statements(self) -> None:
        await self._execute(
            "select pg_cancel_backend(pid) from pg_stat_activity where datname = current_database()"
            " and application_name = 'pointsman' and state = 'active' order by random() limit 2"
        )

    # the network

    async def _cut(self) -> None:
        self._routing.cut()

    async def _cut_listeners(self) -> None:
        self._listening.cut()

    async def _delay(self) -> None:
        self._routing.delay = self._rnd.uniform(0.005, 0.15)
        await self._pause(0.3, 2)
        self._routing.delay = 0.0

    async def _half_open(self) -> None:
        await self._fall_silent(self._routing)

    async def _half_open_listeners(self) -> None:
        await self._fall_silent(self._listening)

    async def _fall_silent(self, relay: Relay) -> None:
        relay.open.clear()
        try:
            await self._pause_long()
        finally:
            relay.open.set()
            if self._rnd.random() < 0.7:
                relay.cut()  # else what was held back arrives late

    async def _lose_notifications(self) -> None:
        self._listening.deaf = True
        try:
            await self._pause_long()
        finally:
            self._listening.deaf = False

    async def _refuse(self) -> None:
        relay = self._rnd.choice((self._routing, self._listening))
        relay.refuses = True
        relay.cut()
        try:
            await self._pause(0.3, 2)
        finally:
            relay.refuses = False

    # processes

    async def _freeze(self) -> None:
        victim = self._rnd.choice(self._processes)
        victim.freeze()
        try:
            await self._pause_long()
        finally:
            victim.wake()

    async def _kill_router(self) -> None:
        async with self._alone:
            await self._rnd.choice(self._processes).kill()

    # the server

    async def _restart_fast(self) -> None:
        assert self._restart is not None
        async with self._alone:
            await self._restart("fast")

    async def _restart_immediate(self) -> None:
        assert self._restart is not None
        async with self._alone:
            await self._restart("immediate")

    async def _jump(self) -> None:
        """Move the clock: mostly over an hour, sometimes a little, sometimes back."""
        minutes = self._rnd.choice((0.1, 20, 61, 61, 600, -30))
        await self._execute("update public.storm_clock set ahead = ahead + $1::float8 * interval '1 min'", minutes)

    # the host

    async def _lock_the_other_way(self) -> None:
        """A host's transaction that locks leads in the order that routers do not."""
        connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=10)
        try:
            async with connection.transaction():
                leads = await connection.fetch("select id from leads tablesample system (20) limit 40")
                for row in sorted(leads, reverse=True)[:20]:
                    await connection.execute("update leads set city = 'Chicago' where id = $1", row["id"])
                    await asyncio.sleep(0.005)
        finally:
            connection.terminate()

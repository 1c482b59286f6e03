"""The host at work during a storm: writers of configuration, billing, and whoever sets leads back."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from uuid import UUID, uuid4

import asyncpg

from tests.builders import MARKET, enroll, make_exclusivity
from tests.invariants import Committed
from tests.storm.world import OFFICE, POSTAL_CODES, STRATEGIES, ZONES, World, enrollment, policy_rules

AWAY = (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Writers:
    """Writers on direct connections. `commits` are those whose COMMIT returned; `done` counts what was done."""

    def __init__(self, dsn: str, world: World, seed: int, areas: int, pause: float) -> None:
        self._dsn = dsn
        self._world = world
        self._seed = seed
        self._areas = areas
        self._pause = pause
        self.commits: list[Committed] = []
        self.done: Counter[str] = Counter()
        self.faults: list[str] = []
        self.stopped = asyncio.Event()
        self._next_import = 0.0

    async def write(self, number: int) -> None:
        """Be one writer, and connect again whenever the connection is lost."""
        rnd = random.Random(self._seed * 7919 + number)
        while not self.stopped.is_set():
            try:
                connection = await asyncpg.connect(self._dsn, timeout=5, command_timeout=60)
            except AWAY:
                await asyncio.sleep(0.2)
                continue
            try:
                while not self.stopped.is_set() and not connection.is_closed():
                    await self._once(connection, rnd)
                    await asyncio.sleep(rnd.random() * self._pause)
            finally:
                connection.terminate()

    async def _once(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        ways: list[tuple[Callable[[asyncpg.Connection, random.Random], Awaitable[None]], int]] = [
            (self._pause_buyer, 20),
            (self._move_caps, 20),
            (self._move_buyer, 8),
            (self._enroll_again, 15),
            (self._swap_policy, 8),
            (self._exclusivities, 6),
            (self._import_areas, 4),
            (self._several, 8),
            (self._bill, 10),
            (self._cross_the_floor, 4),
            (self._set_back, 15),
            (self._empty, 1),
        ]
        calls, weights = zip(*ways, strict=True)
        way = rnd.choices(calls, weights)[0]
        try:
            transaction = connection.transaction()
            await transaction.start()
            await way(connection, rnd)
            if rnd.random() < 0.1:
                await transaction.rollback()
                self.done["rolled back"] += 1
                return
            change_set = await connection.fetchval(
                "select change_set from pointsman.config_commit where xid = pg_current_xact_id_if_assigned()"
            )
            await transaction.commit()
            returned = time.monotonic()
        except AWAY as error:
            self.done[f"failed: {type(error).__name__}"] += 1
            connection.terminate()
            return
        self.done[way.__name__.strip("_")] += 1
        if change_set is not None:
            self.commits.append(Committed(returned, change_set))

    async def _pause_buyer(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        await connection.execute(
            "update buyers set status = $2 where id = $1",
            rnd.choice(self._world.buyers),
            rnd.choice(("active", "active", "paused")),
        )

    async def _move_caps(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        if rnd.random() < 0.5:
            await connection.execute(
                "update buyer_offers set hourly_cap = $3, daily_cap = $4 where buyer_id = $1 and offer_id = $2",
                *(rnd.choice(self._world.buyers), rnd.choice(self._world.offers)),
                *(rnd.choice((None, 0, 10, 200)), rnd.choice((None, 50, 500))),
            )
        else:
            await connection.execute(
                "update buyers set hourly_cap = $2, daily_cap = $3 where id = $1",
                *(rnd.choice(self._world.buyers), rnd.choice((None, 40, 400)), rnd.choice((None, 300, 4000))),
            )

    async def _move_buyer(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        await connection.execute(
            "update buyers set timezone = $2, acceptance_hours = $3 where id = $1",
            *(rnd.choice(self._world.buyers), rnd.choice(ZONES), rnd.choice((None, None, json.dumps(OFFICE)))),
        )

    async def _enroll_again(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        buyer, offer = rnd.choice(self._world.buyers), rnd.choice(self._world.offers)
        await connection.execute("delete from buyer_offers where buyer_id = $1 and offer_id = $2", buyer, offer)
        if rnd.random() < 0.9:
            await enroll(connection, buyer, offer, **enrollment(rnd))

    async def _swap_policy(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        offer = rnd.choice(self._world.offers)
        await connection.execute("delete from routing_policies where offer_id = $1", offer)
        await connection.execute(
            "insert into routing_policies (offer_id, version, rules) values ($1, $2, $3)",
            *(offer, rnd.randint(1, 9), json.dumps(policy_rules(rnd, rnd.choice(STRATEGIES)))),
        )

    async def _exclusivities(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        offer = rnd.choice(self._world.offers)
        await connection.execute("delete from offer_exclusivities where offer_id = $1", offer)
        if rnd.random() < 0.7:
            scope = rnd.choice(("offer", "market", "postal_code"))
            await make_exclusivity(
                connection,
                offer,
                rnd.choice(self._world.buyers),
                scope=scope,
                market_id=None if scope == "offer" else MARKET,
                value=rnd.choice(POSTAL_CODES[:3]) if scope == "postal_code" else None,
            )

    async def _import_areas(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        """Replace all that an earlier import brought, in one transaction; now and then."""
        if time.monotonic() < self._next_import:
            return
        self._next_import = time.monotonic() + self._areas / 3_000
        buyer = rnd.choice(self._world.buyers)
        await connection.execute("delete from buyer_service_areas where scope = 'city'")
        await connection.copy_records_to_table(
            "buyer_service_areas",
            columns=("id", "buyer_id", "market_id", "scope", "value", "is_active"),
            records=[(uuid4(), buyer, MARKET, "city", f"Town {number}", True) for number in range(self._areas)],
        )
        self.done["rows imported"] += self._areas

    async def _several(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        """A long transaction over several tables, parts of it taken back."""
        for way in (self._move_caps, self._exclusivities, self._enroll_again):
            part = connection.transaction()
            await part.start()
            await way(connection, rnd)
            await (part.rollback() if rnd.random() < 0.4 else part.commit())
            await asyncio.sleep(rnd.random() * 0.02)

    async def _bill(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        """A bill that leaves the buyer above its floor is no change of configuration."""
        await connection.execute(
            "update buyers set balance = balance - 1 where id = $1 and balance > 1000", rnd.choice(self._world.buyers)
        )
        if await connection.fetchval(
            "select exists (select from pointsman.config_commit where xid = pg_current_xact_id_if_assigned())"
        ):
            self.faults.append("a bill that left its buyer above the floor was logged as a change of configuration")

    async def _cross_the_floor(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        await connection.execute(
            "update buyers set balance = $2 where id = $1",
            *(rnd.choice(self._world.buyers), rnd.choice((-1, 1_000_000, 1_000_000))),
        )

    async def _set_back(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        rows = await connection.fetch(
            "select id from leads where status = 'routed' and id > $1 order by id limit $2 for update skip locked",
            *(UUID(int=rnd.getrandbits(128)), rnd.randint(1, 60)),
        )
        leads = [row["id"] for row in rows]
        await connection.execute(
            "update leads set status = 'validated', buyer_id = null, routed_at = null where id = any($1)", leads
        )
        await connection.execute("insert into public.storm_resets select unnest($1::uuid[])", leads)

    async def _empty(self, connection: asyncpg.Connection, rnd: random.Random) -> None:
        await connection.execute("truncate offer_exclusivities")

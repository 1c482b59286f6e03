"""Floors: what any router must do at the least, with the buyer known beforehand."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from bench.peers import pool

READ = "select id, offer_id, vertical_id, market_id, postal_code, city, status, buyer_id from leads where id = $1"
WRITE = (
    "update leads set status = 'routed', buyer_id = $2, routed_at = now()"
    " where id = $1 and status = 'validated' and buyer_id is null"
)
CONNECTIONS = 20
"""Enough to keep both processors busy; all subjects together must fit in a server with its defaults."""


class BareTrips:
    """Two bare trips: read the lead by its key, then one guarded UPDATE. The floor of whoever decides outside SQL."""

    def __init__(self, connections: asyncpg.Pool, buyer_id: UUID) -> None:
        self._pool = connections
        self._buyer_id = buyer_id

    async def route(self, lead_id: UUID) -> object:
        """Give the lead to the one buyer that there is."""
        async with self._pool.acquire() as connection:
            await connection.fetchrow(READ, lead_id)
            return await connection.execute(WRITE, lead_id, self._buyer_id)


@asynccontextmanager
async def bare_trips(dsn: str) -> AsyncIterator[BareTrips]:
    """On connections that nothing is reset on, as the router's are."""
    async with pool(dsn, CONNECTIONS, resets=False) as connections:
        yield BareTrips(connections, await connections.fetchval("select id from buyers order by id limit 1"))

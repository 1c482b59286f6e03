"""The SQL-only router: one PL/pgSQL function that finds, orders, counts and assigns (`peers.sql`)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from bench.peers import CONNECTIONS, TRIES, pool


class SqlOnly:
    """One call of the function a lead."""

    def __init__(self, connections: asyncpg.Pool) -> None:
        self._pool = connections

    async def route(self, lead_id: UUID) -> object:
        """The buyer's id, None if nobody takes the lead."""
        for _ in range(TRIES - 1):
            try:
                return await self._pool.fetchval("select peers.route($1)", lead_id)
            except asyncpg.DeadlockDetectedError:
                continue
        return await self._pool.fetchval("select peers.route($1)", lead_id)


@asynccontextmanager
async def sql_only(dsn: str) -> AsyncIterator[SqlOnly]:
    """On a pool with its defaults."""
    async with pool(dsn, CONNECTIONS) as connections:
        yield SqlOnly(connections)

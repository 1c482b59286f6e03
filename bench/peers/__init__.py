"""What Pointsman is measured against: other ways to do the same job, each written as well as we could.

Each of them gives the same buyers on the bench's world (`checks.py`), and passes no cap, at any concurrency. They do
less than we do: they know nothing of exclusivities and response times, record no decisions, explain nothing, and read
the configuration anew for each lead.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.resources import files
from typing import Any, Protocol
from uuid import UUID

import asyncpg

CONNECTIONS = 12
"""For those that hold a connection for a whole decision; more of them only wait for the same processors."""
TRIES = 20
"""Of a decision that a deadlock, or a cap that filled meanwhile, threw back; many callers can want one buyer's last."""


class Peer(Protocol):
    """Whatever routes a lead."""

    async def route(self, lead_id: UUID) -> object:
        """Give the lead a buyer in the database, if anybody takes it."""


Opened = Callable[[str], AbstractAsyncContextManager[Peer]]
"""Opens a peer on the database at an address."""


async def install(dsn: str) -> None:
    """Make what the peers need in the database: a schema of their own, and an index that their joins want."""
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute((files("bench.peers") / "peers.sql").read_text("utf-8"))
        await connection.execute("analyze buyer_service_areas")
    finally:
        await connection.close()


@asynccontextmanager
async def pool(dsn: str, size: int, *, resets: bool = True, **options: Any) -> AsyncIterator[asyncpg.Pool]:
    """A pool with its defaults, or one that leaves its connections as they are at release and saves that trip."""
    if not resets:
        options["reset"] = _leave_as_is
    opened = await asyncpg.create_pool(dsn, min_size=size, max_size=size, **options)
    try:
        yield opened
    finally:
        opened.terminate()


async def _leave_as_is(connection: asyncpg.Connection) -> None:
    """Nothing is set on these connections, so there is nothing to reset."""

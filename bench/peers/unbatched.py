"""Our own router with batching off: each call reads, decides and claims its lead alone, on a connection of its own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from bench.peers.bare import CONNECTIONS
from pointsman.model import Outcome
from pointsman.router import Answer, Router


class Unbatched(Router):
    """A transaction a lead; what several callers want at once they wait for in the database."""

    async def route(self, lead_id: UUID | str, *, connection: Any = None) -> Outcome:
        """The lead's way without the queue before it."""
        assert isinstance(lead_id, UUID)
        answers: dict[UUID, Answer] = {}
        await self._settle([lead_id], answers)
        answer = answers[lead_id]
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def unbatched(dsn: str) -> AsyncIterator[Unbatched]:
    """With as many connections as the bare trips have."""
    async with Unbatched.open(dsn, connections=CONNECTIONS) as router:
        assert isinstance(router, Unbatched)
        yield router

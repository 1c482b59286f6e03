"""What is asked over HTTP: the service, and two bare endpoints. `python -m bench.server DSN` prints their ports."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Annotated
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel

from bench.loops import run
from bench.peers import pool
from bench.peers.bare import CONNECTIONS, WRITE
from pointsman import Router
from pointsman.api import create_app, server


class Assignment(BaseModel):
    """As much as an outcome says."""

    lead_id: UUID
    outcome: str
    buyer_id: UUID | None
    status: str


def _connections(request: Request) -> asyncpg.Pool:
    connections: asyncpg.Pool = request.app.state.connections
    return connections


def bare(connections: asyncpg.Pool, buyer_id: UUID) -> FastAPI:
    """The endpoints of the floor: one that returns a model, one that does a guarded UPDATE before."""
    app = FastAPI()
    app.state.connections = connections

    @app.post("/model/{lead_id}")
    async def model(lead_id: UUID) -> Assignment:
        return Assignment(lead_id=lead_id, outcome="routed", buyer_id=buyer_id, status="routed")

    @app.post("/update/{lead_id}")
    async def update(lead_id: UUID, waiting: Annotated[asyncpg.Pool, Depends(_connections)]) -> Assignment:
        async with waiting.acquire() as connection:
            await connection.execute(WRITE, lead_id, buyer_id)
        return Assignment(lead_id=lead_id, outcome="routed", buyer_id=buyer_id, status="routed")

    return app


async def main(dsn: str) -> None:
    """Serve until the process is ended: the bare endpoints as uvicorn does, the service as `pointsman serve` does."""
    sockets = [server.listen("127.0.0.1", 0, ()) for _ in range(2)]
    async with Router.open(dsn) as router, pool(dsn, CONNECTIONS, resets=False) as connections:
        buyer_id = await connections.fetchval("select id from buyers order by id limit 1")
        plain = uvicorn.Config(bare(connections, buyer_id), http="httptools", log_config=None, access_log=False)
        servers = [uvicorn.Server(plain), server._Server(server._config(create_app(router)))]
        for one in servers:
            one.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # two cannot both have them
        print(*(listening.getsockname()[1] for listening in sockets), flush=True)
        await asyncio.gather(*(one.serve([listening]) for one, listening in zip(servers, sockets, strict=True)))


if __name__ == "__main__":
    run(main(sys.argv[1]))

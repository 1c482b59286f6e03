"""What is asked over HTTP: the service, bare endpoints, the floor. `python -m bench.server DSN` prints their ports."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
from time import perf_counter, process_time_ns
from typing import Annotated, Any
from uuid import UUID

import asyncpg
import uvicorn
from fastapi import Depends, FastAPI, Request
from pydantic import BaseModel
from starlette.types import Receive, Scope, Send

from bench.loops import run
from bench.peers import pool
from bench.peers.bare import CONNECTIONS, WRITE
from pointsman import Router
from pointsman.api import create_app, server
from pointsman.cache import collector
from pointsman.wire import outcome_json


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


class Floor:
    """A bare ASGI application: `/<lead id>` is routed, without keys, ids of requests, problem details and the rest.

    `/processor` says how many nanoseconds of the processor this process has had, and `/many`, which takes a list of
    lead ids, how many milliseconds `route_many` needs for them.
    """

    def __init__(self, router: Router) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        body = json.dumps(await self._answer(scope["path"][1:], receive), separators=(",", ":")).encode()
        headers = [(b"content-length", b"%d" % len(body)), (b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, asked: str, receive: Receive) -> Any:
        if asked == "processor":
            return process_time_ns()
        if asked == "many":
            lead_ids = json.loads(await _body(receive))
            began = perf_counter()
            await self._router.route_many(lead_ids)
            return (perf_counter() - began) * 1_000
        return outcome_json(await self._router.route(asked))


async def _body(receive: Receive) -> bytes:
    body, message = b"", await receive()
    while message["more_body"]:
        body += message["body"]
        message = await receive()
    return body + bytes(message["body"])


async def main(dsn: str) -> None:
    """Serve until the process is ended: the service as `pointsman serve` does, all else as uvicorn does."""
    sockets = [server.listen("127.0.0.1", 0, ()) for _ in range(3)]
    async with Router.open(dsn) as router, pool(dsn, CONNECTIONS, resets=False) as connections:
        collector.settle()  # as the service does
        buyer_id = await connections.fetchval("select id from buyers order by id limit 1")
        configs = (
            uvicorn.Config(app, http="httptools", log_config=None, access_log=False, lifespan="off")
            for app in (bare(connections, buyer_id), Floor(router))
        )
        servers = [*map(uvicorn.Server, configs), server._Server(server._config(create_app(router)))]
        for one in servers:
            one.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]  # they cannot all have them
        print(*(listening.getsockname()[1] for listening in sockets), flush=True)
        await asyncio.gather(*(one.serve([listening]) for one, listening in zip(servers, sockets, strict=True)))


if __name__ == "__main__":
    run(main(sys.argv[1]))

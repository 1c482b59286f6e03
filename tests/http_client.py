"""The HTTP service for tests: in this process without a socket or on one, or as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpx
from fastapi import FastAPI

from pointsman.api import create_app, server
from tests.stage import until


@contextlib.asynccontextmanager
async def client_of(app: FastAPI, **options: Any) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service", **options) as client,
    ):
        yield client


@contextlib.asynccontextmanager
async def listening(router: Any, **options: Any) -> AsyncIterator[SimpleNamespace]:
    """The service on a socket of this process; `end` tells it to end, and waits."""
    socket = server.listen("127.0.0.1", 0, ())
    service = server._Server(server._config(create_app(router, **options)))
    service.capture_signals = contextlib.nullcontext  # type: ignore[method-assign]
    running = asyncio.create_task(service.serve([socket]))
    host, port = socket.getsockname()
    await until(has(lambda: service.started), "the start")
    try:
        yield SimpleNamespace(server=service, host=host, port=port, url=f"http://{host}:{port}", running=running)
    finally:
        service.should_exit = True
        await asyncio.wait_for(running, 10)


@contextlib.asynccontextmanager
async def serving(
    database: str, *arguments: str, **variables: str
) -> AsyncIterator[tuple[str, asyncio.subprocess.Process]]:
    """`pointsman serve` on a free port; its address is read from the line that it prints."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pointsman", "serve", "--port", "0", *arguments),
        env={**settings, "POINTSMAN_DATABASE_URL": database, **variables},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        line = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        match = re.search(r"http://\S+:\d+", line)
        assert match, line
        yield match[0], process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def assert_problem(answer: httpx.Response, status: int, slug: str) -> dict[str, Any]:
    found: dict[str, Any] = answer.json()
    assert (status, "application/problem+json") == (answer.status_code, answer.headers["content-type"])
    assert list(found)[:4] == ["type", "title", "status", "detail"]
    assert (f"urn:pointsman:problem:{slug}", status) == (found["type"], found["status"])
    assert found["title"]
    assert found["detail"]
    return found


def has(happened: Callable[[], object]) -> Callable[[], Awaitable[bool]]:
    async def asked() -> bool:
        return bool(happened())

    return asked

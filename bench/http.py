"""Over HTTP: one uvicorn worker in a process of its own, asked by so many connections, each with one call at a time.

The load generator (`load.py`) is a process too, of ready-made bytes and raw sockets, so that it takes little of the
processor that it shares; it sends each lead's id once. Since it does take some, the processor time that the server
has for a call stands beside the calls a second.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter
from uuid import UUID

from bench.figures import percentiles
from bench.workloads import OURS, Stage
from pointsman import Router

CONNECTIONS = (1, 10, 50)
HUNDRED = "100 leads in a call"
BATCH = 100
HOST = "127.0.0.1"
MODEL, UPDATE = "an endpoint that returns a model", "an endpoint with a guarded UPDATE"
FLOOR = "a bare ASGI application with `route()`"
PATHS = {MODEL: "/model/{}", UPDATE: "/update/{}", FLOOR: "/{}", OURS: "/v1/leads/{}/route"}
SPEED = {MODEL: 6_000, UPDATE: 3_500, FLOOR: 6_000, OURS: 6_000}
"""Roughly how many calls a second to have leads for; a run ends when they are used up."""


def connections_name(connections: int) -> str:
    return f"HTTP, {connections} connections"


async def measure_http(stage: Stage, seconds: float) -> None:
    """Calls a second, and the server's microseconds of one: endpoints without us, our floor, and ours."""
    async with _serving(stage.dsn) as (bare, floor, ours):
        ports = {MODEL: bare, UPDATE: bare, FLOOR: floor, OURS: ours}
        for number in range(stage.rounds):
            for connections in CONNECTIONS:
                for name in _turns(number, PATHS):
                    count = int(SPEED[name] * seconds / (6 if connections == 1 else 1))
                    ids = [UUID(int=place) for place in range(count)] if name == MODEL else await stage.steady(count)
                    calls = [_request(PATHS[name].format(lead_id)) for lead_id in ids]
                    before = await _processor(floor)
                    rate, times = await _load(ports[name], calls, connections)
                    processor = (await _processor(floor) - before) / len(times) / 1_000
                    figures = {"rate": rate, "processor": processor, **percentiles(times)}
                    stage.figures.note(connections_name(connections), name, **figures)
            await _measure_batches(stage, ours)


async def _measure_batches(stage: Stage, port: int) -> None:
    router = stage.subjects[OURS]
    assert isinstance(router, Router)
    ids = await stage.steady(20 * BATCH)
    parts = [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]
    calls = []
    for part in parts:
        body = json.dumps({"lead_ids": [str(lead_id) for lead_id in part]}).encode()
        calls.append(_request("/v1/leads/route", body))
    _, times = await _load(port, calls, 1)
    stage.figures.note(HUNDRED, "HTTP", **percentiles(times))
    ids = await stage.steady(20 * BATCH)
    spans = []
    for start in range(0, len(ids), BATCH):
        began = perf_counter()
        await router.route_many(ids[start : start + BATCH])
        spans.append((perf_counter() - began) * 1_000)
    stage.figures.note(HUNDRED, "route_many", **percentiles(spans))


def _turns(number: int, names: Iterable[str]) -> list[str]:
    listed = list(names)
    return listed[number % len(listed) :] + listed[: number % len(listed)]


def _request(path: str, body: bytes = b"") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _load(port: int, calls: Sequence[bytes], connections: int) -> tuple[float, list[float]]:
    """Calls a second and the milliseconds of each, from a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calls"
        path.write_bytes(b"".join(len(call).to_bytes(4, "big") + call for call in calls))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.load", HOST, str(port), str(connections), str(path)),
            stdout=asyncio.subprocess.PIPE,
        )
        answer, _ = await process.communicate()
    found = json.loads(answer)
    return found["rate"], found["times"]


async def _processor(port: int) -> int:
    """Nanoseconds of the processor that the server has had so far."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(f"GET /processor HTTP/1.1\r\nHost: {HOST}\r\nConnection: close\r\n\r\n".encode())
    _, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return int(body)


@asynccontextmanager
async def _serving(dsn: str) -> AsyncIterator[tuple[int, ...]]:
    """The bare endpoints, the floor and the service, in one process; their ports."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.server", dsn, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 120)
        yield tuple(map(int, line.split()))
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()

"""Over HTTP: one uvicorn worker in a process of its own, asked by so many connections, each with one call at a time.

The load generator (`load.py`) is a process too, of ready-made bytes and raw sockets, so that it takes little of the
processor that it shares; it sends each lead's id once. Since it does take some, the processor time that the server
has for a call stands beside the calls a second, and what all three processes have, PostgreSQL being the third.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import UUID

from bench.figures import percentiles
from bench.floors import IS_LINUX, servers_nanoseconds
from bench.workloads import OURS, Stage

CONNECTIONS = (1, 10, 50)
HUNDRED = "100 leads in a call"
BATCH, BATCHES = 100, 20
HOST = "127.0.0.1"
MODEL, UPDATE = "an endpoint that returns a model", "an endpoint with a guarded UPDATE"
BOUND = "unpaused"
"""Calls a second if all that they take of processors were spread over these evenly, and none ever waited."""
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
                    servers = await servers_nanoseconds(stage.connection) if IS_LINUX else 0
                    rate, times, generator = await _load(ports[name], calls, connections)
                    processor = (await _processor(floor) - before) / len(times) / 1_000
                    figures = {"rate": rate, "processor": processor, **percentiles(times)}
                    if IS_LINUX:
                        postgres = (await servers_nanoseconds(stage.connection) - servers) / len(times) / 1_000
                        figures["everything"] = everything = processor + postgres + generator
                        figures[BOUND] = (os.cpu_count() or 1) * 1e6 / everything
                    stage.figures.note(connections_name(connections), name, **figures)
            await _measure_batches(stage, ours, floor)


async def _measure_batches(stage: Stage, service: int, floor: int) -> None:
    """Milliseconds of 100 leads: of a call, and of `route_many` in the same process."""
    bodies = [json.dumps({"lead_ids": part}).encode() for part in await _parts(stage)]
    _, times, _ = await _load(service, [_request("/v1/leads/route", body) for body in bodies], 1)
    stage.figures.note(HUNDRED, "HTTP", **percentiles(times))
    spans = [float(await _ask(floor, "/many", json.dumps(part).encode())) for part in await _parts(stage)]
    stage.figures.note(HUNDRED, "route_many", **percentiles(spans))


async def _parts(stage: Stage) -> list[list[str]]:
    ids = [str(lead_id) for lead_id in await stage.steady(BATCHES * BATCH)]
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]


def _turns(number: int, names: Iterable[str]) -> list[str]:
    listed = list(names)
    return listed[number % len(listed) :] + listed[: number % len(listed)]


def _request(path: str, body: bytes = b"", connection: str = "keep-alive") -> bytes:
    head = {"Host": HOST, "Connection": connection, "Content-Type": "application/json", "Content-Length": len(body)}
    lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in head.items()), "", ""]
    return "\r\n".join(lines).encode() + body


async def _load(port: int, calls: Sequence[bytes], connections: int) -> tuple[float, list[float], float]:
    """Calls a second and the milliseconds of each, from a process of its own, and its microseconds of one."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "calls"
        path.write_bytes(b"".join(len(call).to_bytes(4, "big") + call for call in calls))
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bench.load", HOST, str(port), str(connections), str(path)),
            stdout=asyncio.subprocess.PIPE,
        )
        answer, _ = await process.communicate()
    found = json.loads(answer)
    return found["rate"], found["times"], found["processor"]


async def _processor(port: int) -> int:
    """Nanoseconds of the processor that the server has had so far."""
    return int(await _ask(port, "/processor"))


async def _ask(port: int, path: str, body: bytes = b"") -> bytes:
    """What a call on a connection of its own is answered."""
    reader, writer = await asyncio.open_connection(HOST, port)
    writer.write(_request(path, body, "close"))
    _, _, answer = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    return answer


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

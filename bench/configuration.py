"""While configuration changes: throughput and latency, and how soon a change is decided on; loading it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import asyncpg

from bench.figures import Figures, percentiles
from bench.loops import Stalls, run
from bench.workloads import OURS, Stage, at_once
from bench.worlds import ELSEWHERE
from pointsman import Router
from pointsman import world as demo

WORKLOAD, LOADING = "while configuration changes", "loading from PostgreSQL"
FIRST_DECISION = "COMMIT to the first decision on it"
CALLERS = 50
IMPORT_LEADS = 100_000
"""More than can be routed while an import runs."""
VERSION = "select max(version) from pointsman.config_commit"
CHANGE = "update buyers set sla_response_seconds = coalesce(sla_response_seconds, 0) + 1 where id = $1"
"""A change of one row, of a column that decisions on other policies read."""


def commits_name(rate: int) -> str:
    return f"{rate} commits a second"


def import_name(areas: int) -> str:
    return f"import of {areas:,} areas"


async def measure_commits(stage: Stage, rates: Sequence[int]) -> None:
    """With so many configuration commits a second, by another process."""
    route = stage.subjects[OURS].route
    for _ in range(stage.rounds):
        for rate in rates:
            ids = await stage.steady(8 * stage.count)
            async with _committing(stage.dsn, rate):
                reached, times = await at_once(route, ids, CALLERS)
            figures = {"rate": reached, **percentiles(times), "longest": max(times)}
            stage.figures.note(WORKLOAD, commits_name(rate), **figures)


async def measure_import(stage: Stage, areas: int) -> None:
    """While so many areas are imported and applied: every call is answered, and by when; the loop's longest stall."""
    rows = tuple(stage.world.more_areas(areas))
    ids = iter(await stage.steady(IMPORT_LEADS))
    router = stage.subjects[OURS]
    assert isinstance(router, Router)
    times: list[float] = []
    writer = await asyncpg.connect(stage.dsn)
    loading = asyncio.create_task(_import(writer, rows))

    async def caller() -> None:
        for lead_id in ids:
            since = time.perf_counter()
            await router.route(lead_id)
            times.append((time.perf_counter() - since) * 1_000)
            if loading.done() and (router.cache.version or 0) >= loading.result():
                return

    async with Stalls() as stalls:
        began = time.perf_counter()
        await asyncio.gather(*(caller() for _ in range(CALLERS)))
        seconds = time.perf_counter() - began
    await loading
    figures = {"rate": len(times) / seconds, **percentiles(times), "longest": max(times)}
    stage.figures.note(WORKLOAD, import_name(areas), **figures, stall=stalls.longest * 1_000)
    await writer.execute("delete from buyer_service_areas where market_id = $1", ELSEWHERE)
    await router.route_many(await stage.steady(1))  # the deletion is applied before anything else is measured
    await writer.close()


async def _import(writer: asyncpg.Connection, rows: tuple[demo.ServiceArea, ...]) -> int:
    """Copy areas in one transaction; the version that this makes."""
    async with writer.transaction():
        await demo.copy_rows(writer, "buyer_service_areas", rows)
    version: int = await writer.fetchval(VERSION)
    return version


async def measure_first_decision(stage: Stage, times: int) -> None:
    """From the answer to COMMIT to the answer of the first decision on it."""
    writer = await asyncpg.connect(stage.dsn)
    buyers = stage.world.buyer_ids
    router = stage.subjects[OURS]
    assert isinstance(router, Router)
    for _ in range(stage.rounds):
        ids, spans = await stage.steady(times), []
        for number, lead_id in enumerate(ids):
            await writer.execute(CHANGE, buyers[number % len(buyers)])
            began = time.perf_counter()
            outcome = await router.route(lead_id)
            spans.append((time.perf_counter() - began) * 1_000)
            assert outcome.config_version == await writer.fetchval(VERSION)
        stage.figures.note(FIRST_DECISION, OURS, **percentiles(spans))
    await writer.close()


async def measure_loading(figures: Figures, dsn: str, rounds: int) -> None:
    """Opening a router: seconds until it is ready, and the longest time that the loop kept others waiting."""
    for _ in range(rounds):
        async with Stalls() as stalls:
            began = time.perf_counter()
            async with Router.open(dsn) as router:
                seconds = time.perf_counter() - began
                rows = sum(router.status()["sizes"].values())
        figures.note(LOADING, f"{rows:,} rows", seconds=seconds, stall=stalls.longest * 1_000)


@asynccontextmanager
async def _committing(dsn: str, rate: int) -> AsyncIterator[None]:
    if not rate:
        yield
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.configuration", dsn, str(rate), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        await process.stdout.readline()
        yield
    finally:
        process.kill()
        await process.wait()


async def commit_for_ever(dsn: str, rate: int) -> None:
    """The other process: one change a commit, so many a second."""
    connection = await asyncpg.connect(dsn)
    buyers: list[UUID] = [row["id"] for row in await connection.fetch("select id from buyers limit 5000")]
    print("ready", flush=True)
    began = time.perf_counter()
    number = 0
    while True:
        await connection.execute(CHANGE, buyers[number % len(buyers)])
        number += 1
        await asyncio.sleep(began + number / rate - time.perf_counter())


if __name__ == "__main__":
    run(commit_for_ever(sys.argv[1], int(sys.argv[2])))

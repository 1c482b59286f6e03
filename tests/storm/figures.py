"""`python -m tests.storm.figures`: the times and sizes of docs/faults.md, measured on a server of their own."""

# ruff: noqa: ASYNC110, ASYNC240 - it measures, and waits for nothing else meanwhile

from __future__ import annotations

import asyncio
import os
import statistics
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import asyncpg

from pointsman import PointsmanError, Router
from pointsman.migrate import migrate
from tests.builders import MARKET as MARKET_ID
from tests.builders import VERTICAL, make_candidate, make_offer, make_policy
from tests.storm.__main__ import Server

CHANGES = 300
DECISIONS = 1_000_000
WEIGHED_EVERY = 100_000


async def main() -> None:
    with ExitStack() as stack:
        server = await asyncio.to_thread(Server, stack)
        dsn = await server.create("figures")
        await migrate(dsn, with_host_tables=True)
        connection = await asyncpg.connect(dsn)
        offer = await make_offer(connection)
        first = await make_candidate(connection, offer, enrollment={"priority_rank": 1, "daily_cap": 10_000_000})
        for _ in range(9):
            await make_candidate(connection, offer, enrollment={"priority_rank": 2, "daily_cap": 10_000_000})
        await make_policy(connection)
        await commit_to_decision(dsn, connection, offer, first, callers=0)
        await commit_to_decision(dsn, connection, offer, first, callers=16)
        await dead_listener(dsn, connection)
        await memory(dsn, connection, offer)
        for mode in ("fast", "immediate"):
            await restart(server, dsn, offer, mode)


async def leads_of(connection: asyncpg.Connection, offer: UUID, count: int) -> list[UUID]:
    rows = await connection.fetch(
        "insert into leads (offer_id, vertical_id, market_id, city, status)"
        " select $1, $2, $3, 'Chicago', 'validated' from generate_series(1, $4) returning id",
        *(offer, VERTICAL, MARKET_ID, count),
    )
    return [row["id"] for row in rows]


async def commit_to_decision(dsn: str, connection: asyncpg.Connection, offer: UUID, buyer: UUID, callers: int) -> None:
    """From the return of a COMMIT to the answer that obeys it, and to the cache that has followed unasked."""
    leads = iter(await leads_of(connection, offer, CHANGES + 200_000 * bool(callers)))
    decided, followed = [], []
    done = asyncio.Event()
    async with Router.open(dsn) as router:

        async def call() -> None:
            while not done.is_set():
                await router.route(next(leads))

        crowd = [asyncio.create_task(call()) for _ in range(callers)]
        for number in range(CHANGES):
            status = "paused" if number % 2 else "active"
            await connection.execute("update buyers set status = $2 where id = $1", buyer, status)
            began = time.perf_counter()
            if number % 3:
                outcome = await router.route(next(leads))
                decided.append(time.perf_counter() - began)
                assert (outcome.buyer_id == buyer) == (status == "active")
            else:
                newest = await connection.fetchval("select max(version) from pointsman.config_commit")
                while (router.cache.version or 0) < newest:
                    await asyncio.sleep(0)
                followed.append(time.perf_counter() - began)
            await asyncio.sleep(0.005)
        done.set()
        await asyncio.gather(*crowd)
    tell(f"COMMIT to the decision on it, {callers} callers beside", decided)
    tell(f"COMMIT to the cache that has followed, {callers} callers beside", followed)


async def dead_listener(dsn: str, connection: asyncpg.Connection) -> None:
    """From the end of the listener's session to the next one."""
    query = (
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'pointsman'"
        " and pid <> all($1::int[]) and backend_type = 'client backend' limit 1"
    )
    times = []
    async with Router.open(dsn) as router:
        await asyncio.sleep(0.5)
        for _ in range(12):
            known = [row["pid"] for row in await connection.fetch("select pid from pg_stat_activity")]
            pools = await connection.fetch(
                "select pid from pg_stat_activity where datname = current_database() and"
                " application_name = 'pointsman' and (query ilike '%as known%' or query ilike 'listen%')"
            )
            began = time.perf_counter()
            for row in pools:
                await connection.execute("select pg_terminate_backend($1)", row["pid"])
            while await connection.fetchval(query, known) is None:
                await asyncio.sleep(0.002)
            times.append(time.perf_counter() - began)
            await asyncio.sleep(0.3)
        assert router.cache.state == "fresh"
    tell("end of the listener's session to its successor", times)


async def memory(dsn: str, connection: asyncpg.Connection, offer: UUID) -> None:
    """The process's size while one router decides and decides."""
    page = os.sysconf("SC_PAGE_SIZE")
    done, sizes = 0, []
    async with Router.open(dsn) as router:
        while done < DECISIONS:
            leads = await leads_of(connection, offer, 5000)
            for start in range(0, len(leads), 250):
                await router.route_many(leads[start : start + 250])
            done += len(leads)
            if done % WEIGHED_EVERY == 0:
                sizes.append(f"{int(Path('/proc/self/statm').read_text().split()[1]) * page / 1e6:.0f} MB")
    sys.stdout.write(f"resident memory, every {WEIGHED_EVERY:,} decisions: {', '.join(sizes)}\n")


async def restart(server: Server, dsn: str, offer: UUID, mode: str) -> None:
    """From a server that takes connections again to the first decision."""
    times = []
    async with Router.open(dsn) as router:
        for _ in range(5):
            connection = await asyncpg.connect(dsn)
            leads = await leads_of(connection, offer, 2)
            connection.terminate()
            await router.route(leads[0])
            stopped = asyncio.create_task(server.restart(mode))
            first = asyncio.create_task(_decided(router, leads[1], stopped))
            await stopped
            began = time.perf_counter()
            times.append(max(0.0, await first - began))
            while router.cache.state != "fresh":
                await asyncio.sleep(0.01)
    tell(f"server back ({mode}) to the first decision, asked every 10 ms", times)


async def _decided(router: Router, lead: UUID, after: asyncio.Task[None]) -> float:
    await asyncio.sleep(0.05)
    while True:
        try:
            await router.route(lead)
        except PointsmanError:
            await asyncio.sleep(0.01)
            continue
        if after.done():
            return time.perf_counter()
        await asyncio.sleep(0.01)


def tell(what: str, times: list[float]) -> None:
    ordered = sorted(times)
    p99 = ordered[min(len(ordered) - 1, int(len(ordered) * 0.99))]
    sys.stdout.write(
        f"{what}: p50 {statistics.median(ordered) * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms, n {len(ordered)}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())

"""`python -m tests.storm.adoption --leads 2000000`: the router comes to a host's busy database, and goes again.

The host goes on in four sessions all the while. Told are the longest statement of each kind before, during and after;
the host's schema, as pg_dump writes it, must be afterwards what it was.
"""

from __future__ import annotations

import argparse
import asyncio
import subprocess
import sys
import time
from collections.abc import Awaitable
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from multiprocessing import get_context
from uuid import UUID

import asyncpg

from pointsman import Router
from pointsman.embedded import find_programs
from pointsman.migrate import migrate, remove
from tests.hosts import Traffic, fill, make_django, make_sqlalchemy
from tests.storm.__main__ import Server

HOSTS = {"django": make_django, "sqlalchemy": make_sqlalchemy}


async def main(host: str, leads: int, areas: int) -> bool:
    """Whether the host's schema is as it was."""
    with ExitStack() as stack:
        server = await asyncio.to_thread(Server, stack)
        dsn = await server.create("adopted")
        await HOSTS[host](dsn)
        await fill(dsn, leads=leads, areas=areas)
        before = await asyncio.to_thread(schema, dsn)
        tell(f"{host}: {leads:,} leads, {areas:,} areas, {len(before.splitlines())} lines of schema")
        async with Traffic(dsn, leads) as traffic:
            await asyncio.sleep(10)
            tell_of("before", traffic)
            await timed("migrate", migrate(dsn, report=tell), traffic)
            await timed("route 20,000 leads", asyncio.to_thread(route_apart, dsn, 20_000), traffic)
            await timed("migrate again", migrate(dsn, report=tell), traffic)
            await timed("remove", remove(dsn, report=tell), traffic)
            tell(f"statements: {dict(traffic.done)}")
        after = await asyncio.to_thread(schema, dsn)
        tell("the schema is as it was" if after == before else "THE SCHEMA IS ANOTHER ONE")
        return after == before


def schema(dsn: str) -> str:
    """The whole schema as pg_dump writes it."""
    command = [find_programs().command("pg_dump"), "--schema-only", dsn]
    dump = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return "\n".join(line for line in dump.splitlines() if not line.startswith("\\"))  # a random key in later versions


def route_apart(dsn: str, count: int) -> None:
    """Route in a process of its own, so that the host's times are the database's and not this loop's."""
    with ProcessPoolExecutor(1, get_context("spawn")) as processes:
        processes.submit(route_here, dsn, count).result()


def route_here(dsn: str, count: int) -> None:
    asyncio.run(route(dsn, count))


async def route(dsn: str, count: int) -> None:
    """Route leads in batches, and let nobody be left without an outcome."""
    connection = await asyncpg.connect(dsn)
    leads: list[UUID] = [row["id"] for row in await connection.fetch("select id from leads limit $1", count)]
    await connection.close(timeout=10)
    async with Router.open(dsn) as router:
        for first in range(0, count, 250):
            for answer in await router.route_many(leads[first : first + 250]):
                if isinstance(answer, Exception):
                    raise answer


async def timed(what: str, work: Awaitable[object], traffic: Traffic) -> None:
    began = time.perf_counter()
    await work
    tell_of(f"{what}, {time.perf_counter() - began:.1f} s", traffic)


def tell_of(what: str, traffic: Traffic) -> None:
    longest = ", ".join(f"{kind} {seconds * 1000:.0f} ms" for kind, seconds in sorted(traffic.told().items()))
    tell(f"{what}: longest {longest}")


def tell(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.storm.adoption", description=__doc__)
    parser.add_argument("--host", choices=sorted(HOSTS), default="django")
    parser.add_argument("--leads", type=int, default=2_000_000)
    parser.add_argument("--areas", type=int, default=200_000)
    asked = parser.parse_args()
    sys.exit(0 if asyncio.run(main(asked.host, asked.leads, asked.areas)) else 1)

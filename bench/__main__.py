"""The whole path on a real PostgreSQL with fsync and synchronous_commit on, as ratios side by side in one run.

    python -m bench [--dsn DSN] [--buyers N] [--leads N] [--rounds N] [--json]

Each round measures every subject once, in turn, so that a machine whose speed drifts slows all of them alike; the
table shows medians over the rounds and the spread of the ratios. Without `--dsn` it uses the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from uuid import UUID

import asyncpg

from pointsman import Router, world
from pointsman.embedded import EmbeddedPostgres
from pointsman.migrate import migrate

DATABASE = "pointsman_bench"

Call = Callable[[UUID], Awaitable[object]]


class Bare:
    """Two bare trips: read the lead by its key, then one guarded UPDATE. The floor of whoever decides outside SQL."""

    READ = "select id, offer_id, vertical_id, market_id, postal_code, city, status, buyer_id from leads where id = $1"
    WRITE = (
        "update leads set status = 'routed', buyer_id = $2, routed_at = now()"
        " where id = $1 and status = 'validated' and buyer_id is null"
    )

    def __init__(self, pool: asyncpg.Pool, buyer_id: UUID) -> None:
        self._pool = pool
        self._buyer_id = buyer_id

    async def route(self, lead_id: UUID) -> None:
        async with self._pool.acquire() as connection:
            await connection.fetchrow(self.READ, lead_id)
            await connection.execute(self.WRITE, lead_id, self._buyer_id)


async def one_after_another(call: Call, leads: Iterator[UUID], count: int) -> list[float]:
    """Milliseconds of each of `count` calls."""
    times = []
    for lead_id in (next(leads) for _ in range(count)):
        began = time.perf_counter()
        await call(lead_id)
        times.append((time.perf_counter() - began) * 1000)
    return times


async def at_once(call: Call, leads: Iterator[UUID], count: int, callers: int) -> float:
    """Calls a second with so many callers in a closed loop."""
    todo = iter([next(leads) for _ in range(count)])

    async def caller() -> None:
        for lead_id in todo:
            await call(lead_id)

    began = time.perf_counter()
    await asyncio.gather(*(caller() for _ in range(callers)))
    return count / (time.perf_counter() - began)


async def fresh_database(server: str, buyers: int, leads: int) -> tuple[str, list[UUID], UUID]:
    """A migrated database with a world and its leads; its address, the leads in random order, any buyer."""
    base, _, _ = server.rpartition("/")
    admin = await asyncpg.connect(server)
    await admin.execute(f"drop database if exists {DATABASE} with (force)")
    await admin.execute(f"create database {DATABASE}")
    await admin.close()
    dsn = f"{base}/{DATABASE}"
    await migrate(dsn, with_host_tables=True, report=lambda line: None)
    connection = await asyncpg.connect(dsn)
    made = world.build(1, buyers=buyers, areas=10 * buyers)
    await world.insert(connection, made)
    await world.insert_leads(connection, world.leads(made, leads, 2))
    await connection.execute("vacuum analyze")
    ids = [row["id"] for row in await connection.fetch("select id from leads order by md5(id::text)")]
    buyer_id = await connection.fetchval("select id from buyers order by id limit 1")
    await connection.close()
    return dsn, ids, buyer_id


async def measure(dsn: str, ids: list[UUID], buyer_id: UUID, rounds: int, count: int) -> dict[str, list[float]]:
    """Every figure of every round."""
    leads = iter(ids)
    figures: dict[str, list[float]] = {}

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    pool = await asyncpg.create_pool(dsn, min_size=50, max_size=50, reset=_nothing)
    async with Router.open(dsn) as router:
        subjects = {"bare": Bare(pool, buyer_id).route, "route": router.route}
        for call in subjects.values():
            await one_after_another(call, leads, 100)
        for _ in range(rounds):
            for name, call in subjects.items():
                times = sorted(await one_after_another(call, leads, count))
                note(f"{name} p50 ms", statistics.median(times))
                note(f"{name} p99 ms", times[int(0.99 * len(times))])
            for callers in (50, 200):
                for name, call in subjects.items():
                    note(f"{name} {callers} callers /s", await at_once(call, leads, 4 * count, callers))
    await pool.close()
    return figures


async def _nothing(connection: asyncpg.Connection) -> None:
    """What a pool does at release if it is told to leave connections as they are."""


def ratios(figures: dict[str, list[float]]) -> dict[str, list[float]]:
    """Ours against the two bare trips, round by round."""
    return {
        name.removeprefix("route "): [ours / bare for ours, bare in zip(values, figures[f"bare {rest}"], strict=True)]
        for name, values in figures.items()
        if name.startswith("route ") and (rest := name.removeprefix("route "))
    }


def show(figures: dict[str, list[float]]) -> None:
    """The table."""
    print(f"{'':24}{'bare':>12}{'route':>12}{'ratio':>10}   spread")
    for name, values in ratios(figures).items():
        bare, ours = (statistics.median(figures[f"{subject} {name}"]) for subject in ("bare", "route"))
        spread = f"{min(values):.2f} to {max(values):.2f}"
        print(f"{name:24}{bare:12.2f}{ours:12.2f}{statistics.median(values):10.2f}   {spread}")


async def main(arguments: argparse.Namespace, server: str) -> None:
    needed = 200 + arguments.rounds * 2 * (arguments.leads + 8 * arguments.leads)
    dsn, ids, buyer_id = await fresh_database(server, arguments.buyers, needed)
    figures = await measure(dsn, ids, buyer_id, arguments.rounds, arguments.leads)
    if arguments.json:
        print(json.dumps({"figures": figures, "ratios": ratios(figures)}, indent=2))
    else:
        show(figures)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dsn", help="a server to make the database on; default: the embedded PostgreSQL")
    parser.add_argument("--buyers", type=int, default=2_000)
    parser.add_argument("--leads", type=int, default=500, help="calls one after another, a round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.dsn is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-bench-")))
            folder.chmod(0o711)
            options.dsn = stack.enter_context(EmbeddedPostgres(folder / "server")).dsn
        loop: asyncio.AbstractEventLoop | None = None
        if sys.platform != "win32":
            import uvloop

            loop = uvloop.new_event_loop()
        with asyncio.Runner(loop_factory=None if loop is None else lambda: loop) as runner:
            runner.run(main(options, options.dsn))

"""Measure, print the goals beside what was measured, and write the report: `python -m bench --quick`, `--full`.

    python -m bench [--quick | --full] [--only NAME...] [--dsn DSN] [--json FILE] [--report FILE]

Without `--dsn` it uses the embedded PostgreSQL under `.pointsman/`. The worlds' databases, `pointsman_bench_*`, are
kept and used again.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import asyncpg
from rich.console import Console

from bench import configuration, engines, http, memory, report, workloads
from bench.checks import check
from bench.figures import Figures
from bench.loops import run
from bench.peers import install
from bench.workloads import FLOORS, PEERS, UNBATCHED, Stage
from bench.worlds import BenchWorld, Form, prepare
from pointsman.embedded import EmbeddedPostgres


@dataclass(frozen=True)
class Plan:
    """How much is measured. `leads`: calls one after another, a round; eight times as many at once."""

    buyers: int
    others: tuple[int, ...]
    rounds: int
    leads: int
    growth: tuple[int, ...]
    imported: int
    seconds: float
    """Of a measurement over HTTP."""


QUICK = Plan(10_000, (), 3, 200, (1_000, 10_000), 20_000, 0.5)
FULL = Plan(100_000, (1_000, 10_000), 5, 500, (10_000, 100_000, 1_000_000), 1_000_000, 2.0)


class Bench:
    """One run: a server, a plan, and what was measured so far."""

    def __init__(self, server: str, plan: Plan, console: Console) -> None:
        self.server = server
        self.plan = plan
        self.figures = Figures()
        self._console = console

    async def run(self, only: set[str]) -> None:
        """Do the parts of these names, all if there are none, each in the order below."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "engines": self._engines,
            "memory": self._memory,
            "growth": self._growth,
            "loading": self._loading,
            "path": self._path,
            "worlds": self._worlds,
            "cold": self._cold,
            "hot": self._hot,
            "processes": self._processes,
            "trips": self._trips,
            "brief": self._brief,
            "http": self._http,
            "configuration": self._configuration,
        }
        if unknown := only - parts.keys():
            raise SystemExit(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
        for name, part in parts.items():
            if only and name not in only:
                continue
            began = perf_counter()
            await part()
            gc.collect()
            self._console.print(f"{name}: {perf_counter() - began:.0f} s")

    async def _engines(self) -> None:
        engines.measure_rule_engines(self.figures, self.plan.rounds)
        engines.measure_sqlite(self.figures, self.plan.rounds, self.plan.buyers)

    async def _memory(self) -> None:
        memory.measure_decisions(self.figures, self.plan.rounds, self.plan.buyers)
        memory.measure_load(self.figures, self.plan.rounds, self.plan.buyers)
        memory.measure_changes(self.figures, self.plan.rounds)

    async def _growth(self) -> None:
        memory.measure_growth(self.figures, self.plan.rounds, self.plan.growth)

    async def _loading(self) -> None:
        dsn = await prepare(self.server, Form(self.plan.buyers))
        await configuration.measure_loading(self.figures, dsn, self.plan.rounds)

    async def _path(self) -> None:
        world, dsn = await self._world(self.plan.buyers)
        agreed = await check(dsn, world, {**PEERS, UNBATCHED: FLOORS[UNBATCHED]})
        self._console.print(f"all peers gave the same {agreed} leads to the same buyers")
        async with Stage(dsn, world, self.figures, self.plan.rounds, self.plan.leads) as stage:
            await stage.open({**FLOORS, **PEERS})
            await workloads.measure_steady(stage, workloads.LEVELS)

    async def _worlds(self) -> None:
        for buyers in self.plan.others:
            async with await self._stage(buyers) as stage:
                await workloads.measure_steady(stage, (50,), f"{buyers:,} buyers, ")

    async def _cold(self) -> None:
        async with await self._stage(self.plan.buyers) as stage:
            await workloads.measure_cold(stage)

    async def _hot(self) -> None:
        async with await self._stage(self.plan.buyers) as stage:
            await workloads.measure_hot(stage)

    async def _processes(self) -> None:
        async with await self._stage(self.plan.buyers) as stage:
            await workloads.measure_processes(stage)

    async def _trips(self) -> None:
        async with await self._stage(self.plan.buyers) as stage:
            await workloads.measure_trips(stage)

    async def _brief(self) -> None:
        await workloads.measure_brief(self.server, self.figures, self.plan.rounds)

    async def _http(self) -> None:
        async with await self._stage(self.plan.buyers) as stage:
            await http.measure_http(stage, self.plan.seconds)

    async def _configuration(self) -> None:
        async with await self._stage(self.plan.buyers) as stage:
            await configuration.measure_commits(stage)
            await configuration.measure_first_decision(stage)
            await configuration.measure_import(stage, self.plan.imported)

    async def _world(self, buyers: int) -> tuple[BenchWorld, str]:
        form = Form(buyers)
        dsn = await prepare(self.server, form)
        await install(dsn)
        return BenchWorld(form), dsn

    async def _stage(self, buyers: int) -> Stage:
        """A stage with the floors and our router, on a database where nothing was routed yet."""
        world, dsn = await self._world(buyers)
        await check(dsn, world, {})
        stage = Stage(dsn, world, self.figures, self.plan.rounds, self.plan.leads)
        await stage.open(FLOORS)
        return stage


async def main(options: argparse.Namespace, server: str, console: Console) -> None:
    bench = Bench(server, FULL if options.full else QUICK, console)
    await bench.run(set(options.only))
    connection = await asyncpg.connect(server)
    about = report.machine((await connection.fetchval("show server_version")).split()[0])
    await connection.close()
    report.show(bench.figures, console)
    if options.json:
        options.json.write_text(report.as_json(bench.figures, about), "utf-8")
    if options.report:
        report.write(bench.figures, about, options.report)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="10,000 buyers, under two minutes; the default")
    size.add_argument("--full", action="store_true", help="up to 1,000,000 buyers, under half an hour")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these parts alone")
    parser.add_argument("--dsn", help="any database of a server; default: the embedded PostgreSQL")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--report", type=Path, metavar="FILE", help="write a Markdown report there, its plots beside it"
    )
    given = parser.parse_args()
    if given.dsn:
        run(main(given, given.dsn, Console()))
    else:
        with EmbeddedPostgres() as embedded:
            run(main(given, embedded.dsn, Console()))

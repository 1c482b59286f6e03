"""Measure, print the goals beside what was measured, and write the report: `python -m bench --quick`, `--full`.

    python -m bench [--quick | --full] [--only NAME...] [--dsn DSN] [--onto FILE] [--json FILE] [--report FILE]

Without `--dsn` it uses the embedded PostgreSQL under `.pointsman/`. The worlds' databases, `pointsman_bench_*`, are
kept and used again.
"""

from __future__ import annotations

import argparse
import gc
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import asyncpg
from rich.console import Console

from bench import configuration, engines, floors, http, memory, report, workloads
from bench.checks import check
from bench.figures import Figures
from bench.loops import run
from bench.peers import Opened, install
from bench.workloads import FLOORS, LEVELS, OURS, PEERS, UNBATCHED, Stage
from bench.worlds import BenchWorld, Form, prepare
from pointsman.cache import collector
from pointsman.embedded import EmbeddedPostgres


@dataclass(frozen=True)
class Plan:
    """How much is measured. `leads`: calls one after another, a round; eight times as many at once.

    `others` are worlds beside the one of `buyers`; `seconds` is the length of a measurement over HTTP.
    """

    buyers: int
    others: tuple[int, ...]
    growth: tuple[int, ...]
    rounds: int
    leads: int
    streams: int
    levels: tuple[int, ...]
    commits: tuple[int, ...]
    imported: int
    seconds: float


QUICK = Plan(10_000, (), (1_000, 10_000), 3, 100, 300, (50, 200), (0, 100, 300), 10_000, 0.3)
FULL = Plan(
    100_000, (1_000, 10_000), (10_000, 100_000, 1_000_000), 3, 600, 1_000, LEVELS, (0, 10, 100, 300), 1_000_000, 1.5
)


class Bench:
    """One run: a server, a plan, what was measured so far, and what is done with it after each part."""

    def __init__(self, server: str, plan: Plan, console: Console, figures: Figures, done: Callable[[], None]) -> None:
        self.server = server
        self.plan = plan
        self.figures = figures
        self._console = console
        self._done = done
        self._stack = AsyncExitStack()
        self._opened: Stage | None = None
        self._checked: set[int] = set()

    async def __aenter__(self) -> Bench:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    async def run(self, only: set[str]) -> None:
        """Do the parts of these names, all if there are none, each in the order below."""
        parts: dict[str, Callable[[], Awaitable[None]]] = {
            "loading": self._loading,  # a process that loads has done nothing before
            "brief": self._brief,  # nor has the brief's service another world's indexes beside its own
            "path": self._path,
            "cold": self._cold,
            "hot": self._hot,
            "trips": self._trips,
            "floors": self._floors,
            "http": self._http,
            "configuration": self._configuration,
            "memory": self._memory,
            "engines": self._engines,
            "processes": self._processes,
            "worlds": self._worlds,
            "growth": self._growth,
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
            self._done()  # what a later part breaks is not lost

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
        stage = await self._stage()
        async with stage.having(PEERS):
            await workloads.measure_steady(stage, self.plan.levels)

    async def _worlds(self) -> None:
        for buyers in self.plan.others:
            async with AsyncExitStack() as stack:
                stage = await self._open(stack, buyers)
                await workloads.measure_steady(stage, (50,), f"{buyers:,} buyers, ")

    async def _cold(self) -> None:
        await workloads.measure_cold(await self._stage())

    async def _hot(self) -> None:
        await workloads.measure_hot(await self._stage())

    async def _processes(self) -> None:
        async with AsyncExitStack() as stack:
            await workloads.measure_processes(await self._open(stack, self.plan.buyers, {}))

    async def _trips(self) -> None:
        await workloads.measure_trips(await self._stage())

    async def _floors(self) -> None:
        await floors.measure_floors(await self._stage())

    async def _brief(self) -> None:
        await workloads.measure_brief(self.server, self.figures, self.plan.rounds)

    async def _http(self) -> None:
        await http.measure_http(await self._stage(), self.plan.seconds)

    async def _configuration(self) -> None:
        await self._stack.aclose()  # a router that is there to be compared with would follow every change too
        self._opened = None
        async with AsyncExitStack() as stack:
            stage = await self._open(stack, self.plan.buyers, {OURS: FLOORS[OURS]})
            await configuration.measure_commits(stage, self.plan.commits)
            await configuration.measure_first_decision(stage, self.plan.leads)
            await configuration.measure_import(stage, self.plan.imported)

    async def _stage(self) -> Stage:
        """The stage of the plan's world, opened when it is first asked for."""
        if self._opened is None:
            self._opened = await self._open(self._stack, self.plan.buyers)
        return self._opened

    async def _open(self, stack: AsyncExitStack, buyers: int, subjects: Mapping[str, Opened] = FLOORS) -> Stage:
        """A stage with some subjects on the database of a world, in which all peers gave the same answers first."""
        world, plan = BenchWorld(Form(buyers)), self.plan
        dsn = await prepare(self.server, world.form)
        if buyers not in self._checked:
            self._checked.add(buyers)
            await install(dsn)
            agreed = await check(dsn, world, {**PEERS, UNBATCHED: FLOORS[UNBATCHED]})
            self._console.print(f"{buyers:,} buyers: all peers gave the same {agreed} leads to the same buyers")
        stage = Stage(dsn, world, self.figures, rounds=plan.rounds, leads=plan.leads, streams=plan.streams)
        await stack.enter_async_context(stage)
        await stack.enter_async_context(stage.having(subjects))
        collector.settle()  # as the service does; the floors and the peers are spared the collector just as well
        stack.callback(gc.unfreeze)
        return stage


async def main(options: argparse.Namespace, server: str, console: Console) -> None:
    connection = await asyncpg.connect(server)
    version = (await connection.fetchval("show server_version")).split()[0]
    about = report.machine(version, "--full" if options.full else "--quick")
    await connection.close()
    figures = Figures(json.loads(options.onto.read_text("utf-8"))["figures"] if options.onto else None)

    def write() -> None:
        if options.json:
            options.json.write_text(report.as_json(figures, about), "utf-8")
        if options.report:
            report.write(figures, about, options.report)

    async with Bench(server, FULL if options.full else QUICK, console, figures, write) as bench:
        await bench.run(set(options.only))
    report.show(figures, console)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="10,000 buyers, under two minutes; the default")
    size.add_argument("--full", action="store_true", help="up to 1,000,000 buyers, under half an hour")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these parts alone")
    parser.add_argument("--dsn", help="any database of a server; default: the embedded PostgreSQL")
    parser.add_argument("--onto", type=Path, metavar="FILE", help="go on from an earlier run's JSON, with other parts")
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

"""One storm from its beginning to the verdict."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg

from tests.invariants import Answer, Witness, violations
from tests.stage import until
from tests.storm import world
from tests.storm.callers import HUNG_SECONDS
from tests.storm.faults import Faults, Restart
from tests.storm.relay import Relay
from tests.storm.writers import Writers

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Plan:
    """How hard it blows. `quick_deadlocks`: the server looks for deadlocks after 15 ms, and the host locks no leads."""

    seed: int
    seconds: float
    processes: int = 2
    callers: int = 8
    writers: int = 2
    leads: int = 20_000
    areas: int = 2_000
    pause: float = 0.1
    longest: float = 6.0
    quick_deadlocks: bool = False
    faults: bool = True


@dataclass
class Report:
    """What happened. `wrong` is empty if everything was right."""

    wrong: list[str] = field(default_factory=list)
    answers: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    writes: Counter[str] = field(default_factory=Counter)
    decisions: int = 0
    slowest: float = 0.0
    checked_in: float = 0.0

    def __str__(self) -> str:
        lines = [f"decisions: {self.decisions}, slowest call: {self.slowest:.1f} s, checked in {self.checked_in:.0f} s"]
        counts = ("answers", "errors", "faults", "writes")
        lines += [f"{name}: {dict(getattr(self, name).most_common())}" for name in counts]
        lines += self.wrong or ["nothing was wrong"]
        return "\n".join(lines)


class RouterProcess:
    """A router process of a storm; `notes` are the files of all that ran in its place."""

    def __init__(self, addresses: dict[str, str], folder: Path, seed: int, callers: int) -> None:
        self._addresses = addresses
        self._folder = folder
        self._seed = seed
        self._callers = callers
        self._process: asyncio.subprocess.Process | None = None
        self.notes: list[Path] = []

    async def start(self) -> None:
        """Start it, with a seed of its own."""
        path = self._folder / f"{self._seed}-{len(self.notes)}.notes"
        path.touch()
        self.notes.append(path)
        settings = {
            **self._addresses,
            "path": str(path),
            "seed": self._seed * 100 + len(self.notes),
            "callers": self._callers,
        }
        with path.with_suffix(".output").open("wb") as output:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.storm.callers", json.dumps(settings)),
                cwd=ROOT,
                stdout=output,
                stderr=output,
            )

    async def opened(self) -> None:
        """Wait until its router is open, or it has ended without."""

        async def is_open() -> bool:
            return self._process is None or self._process.returncode is not None or self.notes[-1].stat().st_size > 0

        await until(is_open, "the opening of a router")

    def freeze(self) -> None:
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        self._signal(signal.SIGCONT)

    async def kill(self) -> None:
        assert self._process is not None
        self._signal(signal.SIGKILL)
        await self._process.wait()
        await self.start()

    async def stop(self) -> str | None:
        """Let it come to its end; says what is wrong if it does not."""
        assert self._process is not None
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), HUNG_SECONDS + 40)
        except TimeoutError:
            self._signal(signal.SIGKILL)
            return f"router process {self._seed} did not end"
        if self._process.returncode == -signal.SIGTERM:
            return None  # it had not opened its router yet
        if self._process.returncode:
            output = self.notes[-1].with_suffix(".output").read_text("utf-8", "replace")
            return f"router process {self._seed} ended with {self._process.returncode}: {output[-2000:]}"
        return None

    def end(self) -> None:
        """Leave nothing running, whatever became of the storm."""
        if self._process is not None:
            self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        if self._process.returncode is None:
            os.kill(self._process.pid, number)


async def run(plan: Plan, dsn: str, restart: Restart | None = None) -> Report:
    """Raise a storm on the empty database at `dsn`, and judge what is left."""
    scene = await world.make(dsn, plan.seed, plan.leads)
    await _settings(dsn, plan)
    report = Report()
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-storm-"))
        async with Relay(dsn) as routing, Relay(dsn) as listening:
            addresses = {"dsn": routing.dsn, "listen_dsn": listening.dsn, "direct_dsn": dsn}
            processes = [
                RouterProcess(addresses, Path(folder), plan.seed * 10 + number, plan.callers)
                for number in range(plan.processes)
            ]
            stack.callback(lambda: [process.end() for process in processes])
            await asyncio.gather(*(process.start() for process in processes))
            await asyncio.gather(*(process.opened() for process in processes))  # who is killed opens in the storm
            writers = Writers(dsn, scene, plan.seed, plan.areas, plan.pause)
            faults = Faults(
                *(dsn, routing, listening, list(processes), plan.seed),
                restart=restart,
                host_locks=not plan.quick_deadlocks,
                longest=plan.longest,
            )
            await _blow(plan, writers, faults)
            report.wrong += filter(None, await asyncio.gather(*(process.stop() for process in processes)))
        report.faults, report.writes = faults.done, writers.done
        report.faults["notifications swallowed"] = listening.swallowed
        report.wrong += writers.faults
        witness = Witness(commits=writers.commits)
        for process in processes:
            _take_notes(process, report, witness)
    await _judge(dsn, report, witness, plan)
    return report


async def _settings(dsn: str, plan: Plan) -> None:
    if plan.quick_deadlocks:
        connection = await asyncpg.connect(dsn)
        name = await connection.fetchval("select quote_ident(current_database())")
        await connection.execute(f"alter database {name} set deadlock_timeout = '15ms'")
        await connection.close()


async def _blow(plan: Plan, writers: Writers, faults: Faults) -> None:
    works = [asyncio.create_task(writers.write(number)) for number in range(plan.writers)]
    if plan.faults:
        works += [asyncio.create_task(faults.rage()) for _ in range(2)]
        if plan.seconds > 100:
            works.append(asyncio.create_task(faults.freeze_for_minutes()))
    await asyncio.sleep(plan.seconds)
    faults.stopped.set()
    writers.stopped.set()
    await asyncio.gather(*works)


def _take_notes(process: RouterProcess, report: Report, witness: Witness) -> None:
    for place, path in enumerate(process.notes):
        for note in _notes(path):
            _take_note(note, report, witness)
        is_last = place == len(process.notes) - 1
        kinds = {note["kind"] for note in _notes(path)}
        if is_last and "open" in kinds and "end" not in kinds:
            report.wrong.append(f"{path.name}: the router did not come to its end")


def _take_note(note: dict[str, Any], report: Report, witness: Witness) -> None:
    match note["kind"]:
        case "answer":
            began, lead_id, outcome, cause, buyer_id, *rest = note["fact"]
            buyer = None if buyer_id is None else UUID(buyer_id)
            witness.answers.append(Answer(began, UUID(lead_id), outcome, cause, buyer, *rest))
            report.answers[outcome if cause is None else f"{outcome}: {cause}"] += 1
        case "error":
            report.errors[f"{note['way']}: {note['error']}: {note['message'][:90]}"] += 1
            if "deadlock" in note["message"]:
                report.errors["deadlocks"] += 1
        case "hung" | "broken":
            report.wrong.append(str(note))
        case "end":
            report.slowest = max(report.slowest, note["slowest"])
            if not note["fresh"] or note["tasks_left"]:
                report.wrong.append(f"a router's end: {note}")


def _notes(path: Path) -> Iterator[dict[str, Any]]:
    for line in path.read_bytes().splitlines():
        try:
            yield json.loads(line)
        except ValueError:
            return  # the process was killed while it wrote its last line


async def _judge(dsn: str, report: Report, witness: Witness, plan: Plan) -> None:
    connection = await asyncpg.connect(dsn, timeout=30)
    try:
        resets = await connection.fetch("select lead_id, count(*) from public.storm_resets group by 1")
        witness.resets = {row["lead_id"]: row["count"] for row in resets}
        report.decisions = await connection.fetchval("select count(*) from pointsman.decisions")
        began = time.monotonic()
        report.wrong += await violations(connection, witness)
        report.checked_in = time.monotonic() - began
    finally:
        await connection.close(timeout=10)
    if plan.quick_deadlocks and report.errors["deadlocks"]:
        report.wrong.append(f"routers came to wait for each other {report.errors['deadlocks']} times")
    if not report.answers["routed"]:
        report.wrong.append("no lead was routed")

"""`python -m tests.storm --minutes 10 --seed 7`: storms on a server of their own until the time is up."""

from __future__ import annotations

import argparse
import asyncio
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import asyncpg

from pointsman.embedded import EmbeddedPostgres, find_programs
from tests.storm.run import Plan, Report, run

SETTINGS = {
    "fsync": "off",  # processes crash here, machines do not
    "max_connections": "300",
    "log_lock_waits": "on",
}


class Server:
    """A server of the storm's own, which it may restart at its address."""

    def __init__(self, stack: ExitStack) -> None:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-storm-")))
        folder.chmod(0o711)
        self._server = stack.enter_context(EmbeddedPostgres(folder / "server", find_programs(), SETTINGS))

    async def create(self, name: str) -> str:
        """A new database's address."""
        connection = await asyncpg.connect(self._server.dsn)
        await connection.execute(f"create database {name}")
        await connection.close()
        return self._server.dsn_for(name)

    async def restart(self, mode: str) -> None:
        """Restart it: `fast` ends its sessions, `immediate` is a crash."""
        server = self._server
        log = server._place / "server.log"
        words = ("restart", "-m", mode, "-w", "-t", "60", "-l", str(log))
        if not await asyncio.to_thread(server._control, *words):
            await asyncio.to_thread(server._control, "start", "-w", "-l", str(log))

    def deadlocks(self) -> list[str]:
        """Deadlocks that the server saw among routers alone, as its log tells them."""
        log = (self._server._place / "server.log").read_text("utf-8", "replace")
        reports = log.split("ERROR:  deadlock detected")[1:]
        return [text for report in reports if _among_routers(text := report.partition("HINT:")[0])]


def _among_routers(report: str) -> bool:
    statements = [line for line in report.splitlines() if ": " in line and "Process" in line and "waits" not in line]
    return bool(statements) and all("pointsman." in line or "for no key update" in line for line in statements)


async def main(minutes: float, seed: int, plan: Plan) -> bool:
    """Storms of two minutes at most, each on a database of its own, every other one with quick deadlock detection."""
    right = True
    with ExitStack() as stack:
        server = await asyncio.to_thread(Server, stack)
        ends = time.monotonic() + minutes * 60
        number = 0
        while (left := ends - time.monotonic()) > 5 or not number:
            this = Plan(
                **{
                    **vars(plan),
                    "seed": seed + number,
                    "seconds": max(5.0, min(left, 120.0)),
                    "quick_deadlocks": number % 2 == 1,
                }
            )
            report = await run(this, await server.create(f"storm_{number}"), server.restart)
            if this.quick_deadlocks:
                report.wrong += server.deadlocks()
            right = _told(this, report) and right
            number += 1
    return right


def _told(plan: Plan, report: Report) -> bool:
    seed = f"seed {plan.seed}, {plan.seconds:.0f} s, quick deadlock detection: {plan.quick_deadlocks}"
    sys.stdout.write(f"{seed}\n{report}\n")
    sys.stdout.flush()
    return not report.wrong


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.storm", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10_000))
    parser.add_argument("--processes", type=int, default=4)
    parser.add_argument("--callers", type=int, default=12)
    parser.add_argument("--writers", type=int, default=3)
    parser.add_argument("--areas", type=int, default=100_000)
    asked = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that the server ends too
    shape = Plan(0, 0, asked.processes, asked.callers, asked.writers, leads=60_000, areas=asked.areas, longest=45.0)
    sys.exit(0 if asyncio.run(main(asked.minutes, asked.seed, shape)) else 1)

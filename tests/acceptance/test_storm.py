"""A short storm; `python -m tests.storm` raises long ones."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import ExitStack

import pytest

from tests.storm.__main__ import Server
from tests.storm.run import Plan, run

SEED = int(os.environ.get("POINTSMAN_STORM_SEED", "11"))


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be frozen there")


def plan(seed: int, *, quick_deadlocks: bool) -> Plan:
    return Plan(seed, seconds=10, areas=1000, leads=5000, longest=2.5, quick_deadlocks=quick_deadlocks)


async def test_nothing_is_wrong_after_a_storm_in_which_the_server_may_be_restarted() -> None:
    with ExitStack() as stack:
        server = await asyncio.to_thread(Server, stack)
        report = await run(plan(SEED, quick_deadlocks=False), await server.create("storm"), server.restart)
    assert not report.wrong, f"seed {SEED}\n{report}"


async def test_nothing_is_wrong_after_a_storm_in_which_routers_may_not_deadlock(empty_database: str) -> None:
    report = await run(plan(SEED + 1, quick_deadlocks=True), empty_database)
    assert not report.wrong, f"seed {SEED + 1}\n{report}"

"""A short storm; `python -m tests.storm` raises long ones."""

from __future__ import annotations

import os
import sys

import pytest

from tests.storm.run import Plan, run

SEED = int(os.environ.get("POINTSMAN_STORM_SEED", "11"))


@pytest.mark.skipif(sys.platform == "win32", reason="a process cannot be frozen there")
@pytest.mark.parametrize("quick_deadlocks", [False, True])
async def test_nothing_is_wrong_after_a_storm(empty_database: str, quick_deadlocks: bool) -> None:
    plan = Plan(
        SEED + quick_deadlocks, seconds=10, areas=1000, leads=5000, longest=2.5, quick_deadlocks=quick_deadlocks
    )
    report = await run(plan, empty_database)
    assert not report.wrong, f"seed {plan.seed}\n{report}"

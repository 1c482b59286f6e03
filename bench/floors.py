"""Floors that the router stands on itself: its statements alone, and what both sides' processors take for a lead."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg

from bench.figures import percentiles
from bench.records import ran_for
from bench.workloads import BARE, OURS, Stage, at_once, one_after_another
from pointsman import Router

ALONE = "floors, one after another"
TOGETHER = "floors, 50 callers"
STATEMENTS = "the router's two statements"
BOUND = "bound"
"""Leads a second if PostgreSQL worked on one batch after another without a pause, and Python took no time."""
IS_LINUX = sys.platform == "linux"


async def measure_floors(stage: Stage) -> None:
    """The router's time in its two statements, and processor time with 50 callers, beside two bare trips."""
    router = stage.subjects[OURS]
    assert isinstance(router, Router)
    for number in range(stage.rounds):
        for name in stage.turns(number, (BARE, OURS)):
            ids = await stage.steady(stage.count)
            if name == BARE:
                times = await one_after_another(stage.subjects[name].route, ids)
                stage.figures.note(ALONE, name, **percentiles(times))
                continue
            with _clocked(router) as spans:
                await one_after_another(router.route, ids)
            stage.figures.note(ALONE, STATEMENTS, **percentiles(spans))
        if IS_LINUX:
            for name in stage.turns(number, (BARE, OURS)):
                await _note_processors(stage, name)


@contextmanager
def _clocked(router: Router) -> Iterator[list[float]]:
    """Milliseconds of the reading and the claim of each lead that comes alone."""
    store, spans = router._store, []
    read, claim = store.read_leads, store.claim_one

    async def clocked_read(*arguments: Any) -> Any:
        began = time.perf_counter()
        reading = await read(*arguments)
        spans.append((time.perf_counter() - began) * 1_000)
        return reading

    async def clocked_claim(*arguments: Any) -> Any:
        began = time.perf_counter()
        claimed = await claim(*arguments)
        spans[-1] += (time.perf_counter() - began) * 1_000
        return claimed

    store.read_leads, store.claim_one = clocked_read, clocked_claim  # type: ignore[method-assign]
    try:
        yield spans
    finally:
        del store.read_leads, store.claim_one


async def _note_processors(stage: Stage, name: str) -> None:
    ids = await stage.steady(8 * stage.count)
    before, began = await servers_nanoseconds(stage.connection), time.process_time_ns()
    rate, _ = await at_once(stage.subjects[name].route, ids, 50)
    python = (time.process_time_ns() - began) / len(ids) / 1_000
    postgres = (await servers_nanoseconds(stage.connection) - before) / len(ids) / 1_000
    stage.figures.note(TOGETHER, name, rate=rate, python=python, postgres=postgres)
    if name == OURS:
        stage.figures.note(TOGETHER, name, **{BOUND: 1e6 / postgres})


async def servers_nanoseconds(connection: asyncpg.Connection) -> int:
    """For how long the database's sessions have run."""
    pids = await connection.fetch(
        "select pid from pg_stat_activity where datname = current_database() and backend_type = 'client backend'"
    )
    return sum(ran_for(row["pid"]) for row in pids)

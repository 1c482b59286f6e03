"""The brief's load profile on the demo's world. It reports its times; what it asserts are outcomes."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from datetime import UTC, datetime
from statistics import quantiles
from time import perf_counter
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from pointsman import Router, world
from pointsman.model import Outcome
from tests.invariants import violations
from tests.stage import kinds, records, set_clock

SEED = 20_260_304
NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)  # a Wednesday, so that outcomes are the same at every hour of day
OVER_A_CAP = """
select b.id from leads l join buyers b on b.id = l.buyer_id
group by b.id, date_trunc('day', l.routed_at at time zone b.timezone) having count(*) > min(b.daily_cap)
union all
select b.id from leads l join buyers b on b.id = l.buyer_id
group by b.id, date_trunc('hour', l.routed_at at time zone b.timezone) having count(*) > min(b.hourly_cap)
union all
select b.id from leads l join buyers b on b.id = l.buyer_id join buyer_offers o using (buyer_id, offer_id)
group by b.id, l.offer_id, date_trunc('day', l.routed_at at time zone b.timezone) having count(*) > min(o.daily_cap)
union all
select b.id from leads l join buyers b on b.id = l.buyer_id join buyer_offers o using (buyer_id, offer_id)
group by b.id, l.offer_id, date_trunc('hour', l.routed_at at time zone b.timezone) having count(*) > min(o.hourly_cap)
"""
"""Buyers that got more leads than they take, counted from the host's table."""


class Stopwatch:
    """Routes leads and keeps what each took, in milliseconds."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self.times: list[float] = []

    async def route(self, lead: UUID) -> Outcome:
        start = perf_counter()
        outcome = await self._router.route(lead)
        self.times.append((perf_counter() - start) * 1_000)
        return outcome

    def report(self) -> dict[str, float]:
        percentiles = quantiles(self.times, n=100, method="inclusive")
        self.times = []
        return {f"p{n}_ms": round(percentiles[n - 1], 2) for n in (50, 95, 99)}


async def test_load_profile_of_the_brief_routes_every_lead_once_and_passes_no_cap(
    database: str,
    connection: asyncpg.Connection,
    record_property: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    await set_clock(connection, NOON)
    here = world.build(SEED)
    await world.insert(connection, here)
    leads = world.leads(here, 1_060, SEED)
    await world.insert_leads(connection, leads)
    ids = [lead.id for lead in leads]
    async with Router.open(database) as router:
        stopwatch = Stopwatch(router)
        times = {}
        sequential = [await stopwatch.route(lead) for lead in ids[:1_000]]
        times["1,000 one after another"] = stopwatch.report()
        at_once = await asyncio.gather(*map(stopwatch.route, ids[1_000:1_050]))
        times["50 at once"] = stopwatch.report()
        would = [await router.explain(lead) for lead in ids[1_050:]]
        target = next(explanation.outcome.lead_id for explanation in would if explanation.eligible)
        same = await asyncio.gather(*(stopwatch.route(target) for _ in range(10)))
        times["10 on one lead"] = stopwatch.report()

    for name, percentiles in times.items():
        record_property(name, percentiles)
        with capsys.disabled():
            sys.stdout.write(f"\n{name}: {percentiles}")
    answers = [*sequential, *at_once]
    assert ids[:1_050] == [outcome.lead_id for outcome in answers]
    found = Counter(kinds(answers))
    assert {"routed", "no_route", "no_route_exclusive_fail_closed"} == set(found)
    assert found["routed"] > 600
    assert {"no_eligible_buyers", "offer_inactive", "offer_vertical_mismatch"} <= {o.cause for o in answers}
    assert {"routed": 1, "already_routed": 9} == Counter(kinds(same))
    assert 1 == len({(outcome.buyer_id, outcome.decision_id) for outcome in same})
    assert 1_051 == len(await records(connection))
    assert found["routed"] + 1 == await connection.fetchval("select count(*) from leads where status = 'routed'")
    assert [] == await connection.fetch(OVER_A_CAP)
    assert [] == await violations(connection)

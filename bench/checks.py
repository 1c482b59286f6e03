"""Whether the peers do the same job: the same leads on the same state must go to the same buyers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from bench.peers import Opened
from bench.worlds import BenchWorld
from pointsman import Router
from pointsman import world as demo
from pointsman.world import NewLead

STREAMS, TIMES = 40, 4
"""Each kind of lead comes so often that the small caps fill, and the next buyers have their turn."""

Winners = dict[UUID, UUID | None]


class Disagreement(Exception):
    """A peer gave a lead to another buyer; what it needs for that is not to be compared."""


async def check(dsn: str, world: BenchWorld, peers: Mapping[str, Opened]) -> int:
    """How many leads all agree on; raises `Disagreement`. The peers are installed; no lead is left in the database."""
    leads = [
        lead._replace(id=UUID(int=number * STREAMS + place + 1))
        for number in range(TIMES)
        for place, lead in enumerate(world.streams("check", STREAMS))
    ]
    for _ in range(2):
        began = _half_hour()
        winners = {name: await _winners(dsn, opened, leads) for name, opened in {"": Router.open, **peers}.items()}
        if began == _half_hour():  # or somebody opened or closed meanwhile, or a window began
            break
    ours = winners.pop("")
    for name, theirs in winners.items():
        differing = [lead_id for lead_id in ours if ours[lead_id] != theirs[lead_id]]
        if differing:
            raise Disagreement(f"{name}: {len(differing)} of {len(leads)} leads went to other buyers, {differing[:3]}")
    return len(leads)


async def start_anew(connection: asyncpg.Connection) -> None:
    """Take away all leads and all that was counted."""
    await connection.execute(
        "truncate leads, pointsman.decisions, pointsman.cap_usage, pointsman.rotation, peers.usage"
    )


async def _winners(dsn: str, opened: Opened, leads: Sequence[NewLead]) -> Winners:
    connection = await asyncpg.connect(dsn)
    try:
        await start_anew(connection)
        await demo.insert_leads(connection, leads)
        async with opened(dsn) as subject:
            for lead in leads:
                await subject.route(lead.id)
        found = {row["id"]: row["buyer_id"] for row in await connection.fetch("select id, buyer_id from leads")}
        await start_anew(connection)
    finally:
        await connection.close()
    return found


def _half_hour() -> tuple[datetime, bool]:
    now = datetime.now(UTC)
    return now.replace(minute=0, second=0, microsecond=0), now.minute >= 30

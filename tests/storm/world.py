"""The world that a storm rages in: a few offers, buyers that compete for them under tight caps, and many leads."""

from __future__ import annotations

import random
from dataclasses import dataclass
from uuid import UUID

import asyncpg

from pointsman.migrate import migrate
from tests.builders import (
    MARKET,
    VERTICAL,
    enroll,
    make_area,
    make_buyer,
    make_exclusivity,
    make_offer,
    make_policy,
    rules,
)

ZONES = ("America/Chicago", "Asia/Kathmandu", "UTC", "Australia/Lord_Howe")
POSTAL_CODES = ("60614", "60615", "60616", None)
STRATEGIES = ("priority", "rotation", "weighted", "rotation")
OFFICE = {"weekly": {day: [["06:00", "18:00"]] for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")}}

# The clock of this database can jump; what the host did that no table of its own shows is written down.
_EXTRAS = """
create table public.storm_clock (ahead interval not null);
insert into public.storm_clock values ('0');
create table public.storm_resets (lead_id uuid not null);
create or replace function pointsman.clock() returns timestamptz language sql volatile
  as $$ select pg_catalog.clock_timestamp() + (select ahead from public.storm_clock) $$
"""


@dataclass
class World:
    """The ids that writers need."""

    offers: list[UUID]
    buyers: list[UUID]


async def make(dsn: str, seed: int, leads: int) -> World:
    """Migrate an empty database and fill it."""
    await migrate(dsn, with_host_tables=True)
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(_EXTRAS)
        return await _fill(connection, random.Random(seed), leads)
    finally:
        await connection.close(timeout=10)


async def _fill(connection: asyncpg.Connection, rnd: random.Random, leads: int) -> World:
    offers = []
    for strategy in STRATEGIES:
        offer = await make_offer(connection)
        offers.append(offer)
        await make_policy(connection, rules=policy_rules(rnd, strategy), offer_id=offer)
    buyers = []
    for _ in range(10):
        buyer = await make_buyer(
            connection,
            hourly_cap=rnd.choice((None, 40, 400)),
            daily_cap=rnd.choice((None, 200, 4000)),
            timezone=rnd.choice(ZONES),
            hours=rnd.choice((None, None, OFFICE)),
            balance=1_000_000,
            min_balance=0,
        )
        buyers.append(buyer)
        await make_area(connection, buyer)
        for offer in offers:
            await enroll(connection, buyer, offer, **enrollment(rnd))
    await make_exclusivity(
        connection, offers[0], buyers[0], market_id=MARKET, scope="postal_code", value=POSTAL_CODES[0]
    )
    rows = [
        (UUID(int=rnd.getrandbits(128), version=4), rnd.choice(offers), VERTICAL, MARKET, rnd.choice(POSTAL_CODES))
        for _ in range(leads)
    ]
    await connection.executemany(
        "insert into leads (id, offer_id, vertical_id, market_id, postal_code, city, status)"
        " values ($1, $2, $3, $4, $5, 'Chicago', 'validated')",
        rows,
    )
    return World(offers, buyers)


def policy_rules(rnd: random.Random, strategy: str) -> dict[str, object]:
    """Rules of one strategy, the rest left to chance."""
    ties = ["buyer_id"] if strategy == "weighted" else ["least_recently_routed", "buyer_id"]
    return rules(
        strategy={"kind": strategy},
        tie_breakers=ties,
        exclusivity={"when_ineligible": rnd.choice(("fail_closed", "fallback_allowed"))},
    )


def enrollment(rnd: random.Random) -> dict[str, int | None]:
    """What an enrollment asks for, with caps that are often tight."""
    return {
        "priority_rank": rnd.randint(1, 2),
        "weight": rnd.randint(0, 4),
        "hourly_cap": rnd.choice((None, 5, 20, 200)),
        "daily_cap": rnd.choice((None, 50, 1000)),
    }

"""asyncpg by hand: a transaction a lead, six queries, and the rest in Python."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from uuid import UUID

import asyncpg

from bench.peers import CONNECTIONS, TRIES, pool
from bench.peers.rules import Limit, is_open, limits

LEAD = """
select offer_id, vertical_id, market_id, postal_code, city, status, buyer_id from leads where id = $1 for no key update
"""
POLICY = """
select p.rules #>> '{strategy,kind}' as strategy
from routing_policies p join offers o on o.id = $1 and o.is_active and o.vertical_id = $2
where p.is_active
  and coalesce(p.offer_id, $1) = $1 and coalesce(p.vertical_id, $2) = $2 and coalesce(p.market_id, $3) = $3
order by p.offer_id is null, p.vertical_id is null, p.market_id is null, p.version desc, p.id limit 1
"""
CANDIDATES = """
select b.id, b.timezone, b.acceptance_hours, b.hourly_cap, b.daily_cap,
       e.hourly_cap as own_hourly_cap, e.daily_cap as own_daily_cap
from buyer_offers e join buyers b on b.id = e.buyer_id
where e.offer_id = $1 and e.is_active and b.status = 'active' and (b.min_balance is null or b.balance >= b.min_balance)
  and e.buyer_id in (
    select buyer_id from buyer_service_areas where is_active and market_id = $2 and scope = 'postal_code' and value = $3
    union all
    select buyer_id from buyer_service_areas where is_active and market_id = $2 and scope = 'city' and value = $4
    union all
    select buyer_id from buyer_service_areas where is_active and market_id = $2 and scope = 'market')
order by e.priority_rank, e.weight desc, b.id
"""
USED = """
select u.buyer_id, u.offer_id, u.kind, u.window_start, u.used
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[]) k(buyer_id, offer_id, kind, window_start)
join peers.usage u using (buyer_id, offer_id, kind, window_start)
"""
COUNT = """
insert into peers.usage as u (buyer_id, offer_id, kind, window_start, used)
select k.b, k.o, k.k, k.s, 1
from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::int[]) with ordinality k(b, o, k, s, cap, i)
order by k.i
on conflict (buyer_id, offer_id, kind, window_start) do update set used = u.used + 1
returning u.used
"""
ASSIGN = "update leads set status = 'routed', buyer_id = $2, routed_at = $3 where id = $1"


class _Full(Exception):
    """A cap filled between the look at it and its lock."""


class ByHand:
    """What a programmer writes who knows the driver and the database well."""

    def __init__(self, connections: asyncpg.Pool) -> None:
        self._pool = connections

    async def route(self, lead_id: UUID) -> object:
        """The buyer's id, None if nobody takes the lead."""
        for _ in range(TRIES):
            try:
                async with self._pool.acquire() as connection, connection.transaction():
                    return await self._decide(connection, lead_id)
            except (_Full, asyncpg.DeadlockDetectedError):
                continue
        raise TimeoutError(f"the caps for lead {lead_id} did not hold still")

    async def _decide(self, connection: asyncpg.Connection, lead_id: UUID) -> UUID | None:
        lead = await connection.fetchrow(LEAD, lead_id)
        if lead is None or lead["status"] != "validated" or lead["buyer_id"] is not None:
            return lead and lead["buyer_id"]
        policy = await connection.fetchrow(POLICY, lead["offer_id"], lead["vertical_id"], lead["market_id"])
        if policy is None or policy["strategy"] != "priority":
            return None
        at = datetime.now(UTC)
        candidates = {
            row["id"]: _limits(row, lead["offer_id"], at)
            for row in await connection.fetch(
                CANDIDATES, lead["offer_id"], lead["market_id"], lead["postal_code"], lead["city"]
            )
            if is_open(row["acceptance_hours"], row["timezone"], at)
        }
        used = await self._used(connection, [limit for bound in candidates.values() for limit in bound])
        for buyer_id, bound in candidates.items():
            if any(used.get(limit.counter, 0) >= limit.cap for limit in bound):
                continue
            counted = await connection.fetch(COUNT, *_columns(bound)) if bound else []
            if any(row["used"] > limit.cap for row, limit in zip(counted, bound, strict=True)):
                raise _Full
            await connection.execute(ASSIGN, lead_id, buyer_id, at)
            return buyer_id
        return None

    @staticmethod
    async def _used(
        connection: asyncpg.Connection, bound: Sequence[Limit]
    ) -> dict[tuple[UUID, UUID, str, datetime], int]:
        if not bound:
            return {}
        rows = await connection.fetch(USED, *_columns(bound)[:4])
        return {tuple(row)[:4]: row["used"] for row in rows}


def _limits(row: asyncpg.Record, offer_id: UUID, at: datetime) -> list[Limit]:
    shared, own = (row["hourly_cap"], row["daily_cap"]), (row["own_hourly_cap"], row["own_daily_cap"])
    return list(limits(row["id"], offer_id, row["timezone"], at, shared=shared, own=own))


def _columns(bound: Sequence[Limit]) -> list[list[object]]:
    return [list(column) for column in zip(*bound, strict=True)]


async def _decode_json(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec("jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog")


@asynccontextmanager
async def by_hand(dsn: str) -> AsyncIterator[ByHand]:
    """On a pool with its defaults."""
    async with pool(dsn, CONNECTIONS, init=_decode_json) as connections:
        yield ByHand(connections)

"""Rows of the host's tables for tests: every default in one place, what a test is about given by name.

Each function inserts one row and returns its id.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID, uuid4

import asyncpg

VERTICAL = UUID("00000000-0000-4000-8000-00000000000a")
MARKET = UUID("00000000-0000-4000-8000-00000000000b")

RULES: dict[str, Any] = {
    "strategy": {"kind": "priority"},
    "tie_breakers": ["lead_hash", "buyer_id"],
    "constraints": ["buyer_active", "acceptance_hours"],
    "exclusivity": {"when_ineligible": "fail_closed"},
}


def rules(**over: Any) -> dict[str, Any]:
    """Valid policy rules with some keys put otherwise; a key given as None is left out."""
    return {key: value for key, value in {**RULES, **over}.items() if value is not None}


async def insert(connection: asyncpg.Connection, table: str, row: dict[str, Any]) -> None:
    """Insert one row, its values as they are (JSON as text)."""
    columns = ", ".join(f'"{column}"' for column in row)
    places = ", ".join(f"${index}" for index in range(1, len(row) + 1))
    await connection.execute(f'insert into "{table}" ({columns}) values ({places})', *row.values())


async def make_offer(connection: asyncpg.Connection, **over: Any) -> UUID:
    row = {"id": uuid4(), "name": "Roofing", "vertical_id": VERTICAL, "market_id": None, "is_active": True, **over}
    await insert(connection, "offers", row)
    return row["id"]


async def make_buyer(connection: asyncpg.Connection, *, hours: Any = None, **over: Any) -> UUID:
    row = {
        "id": uuid4(),
        "name": "Cedar Roofing",
        "status": "active",
        "timezone": "America/Chicago",
        "acceptance_hours": None if hours is None else json.dumps(hours),
        **over,
    }
    await insert(connection, "buyers", row)
    return row["id"]


async def enroll(connection: asyncpg.Connection, buyer_id: UUID, offer_id: UUID, **over: Any) -> None:
    await insert(connection, "buyer_offers", {"buyer_id": buyer_id, "offer_id": offer_id, **over})


async def make_area(connection: asyncpg.Connection, buyer_id: UUID, **over: Any) -> UUID:
    row = {
        "id": uuid4(),
        "buyer_id": buyer_id,
        "market_id": MARKET,
        "scope": "market",
        "value": None,
        "is_active": True,
    }
    row |= over
    await insert(connection, "buyer_service_areas", row)
    return row["id"]


async def make_exclusivity(connection: asyncpg.Connection, offer_id: UUID, buyer_id: UUID, **over: Any) -> UUID:
    row = {"id": uuid4(), "offer_id": offer_id, "buyer_id": buyer_id, "scope": "offer", "is_active": True, **over}
    await insert(connection, "offer_exclusivities", row)
    return row["id"]


async def make_policy(connection: asyncpg.Connection, *, rules: Any = RULES, **over: Any) -> UUID:
    row = {"id": uuid4(), "name": "house rules", "version": 1, "is_active": True, "rules": json.dumps(rules), **over}
    await insert(connection, "routing_policies", row)
    return row["id"]


async def make_lead(connection: asyncpg.Connection, offer_id: UUID | None, **over: Any) -> UUID:
    row = {
        "id": uuid4(),
        "offer_id": offer_id,
        "vertical_id": VERTICAL,
        "market_id": MARKET,
        "postal_code": "60614",
        "city": "Chicago",
        "status": "validated",
        **over,
    }
    await insert(connection, "leads", row)
    return row["id"]


async def make_leads(connection: asyncpg.Connection, offer_id: UUID, count: int, **over: Any) -> list[UUID]:
    """Validated leads that are all alike."""
    return [await make_lead(connection, offer_id, **over) for _ in range(count)]


async def make_candidate(
    connection: asyncpg.Connection, offer_id: UUID, *, enrollment: dict[str, Any] | None = None, **over: Any
) -> UUID:
    """A buyer that is enrolled in the offer and covers the whole market."""
    buyer_id = await make_buyer(connection, **over)
    await enroll(connection, buyer_id, offer_id, **(enrollment or {}))
    await make_area(connection, buyer_id)
    return buyer_id

"""Images, leads and snapshots for the engine's tests: every default in one place, what a test is about by name."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pointsman.cache.indexes import Change, Indexes
from pointsman.engine.capacity import Counter, State
from pointsman.engine.configuration import NOBODY, turn
from pointsman.engine.decide import Decision, decide
from pointsman.engine.explain import Standing, explain
from pointsman.engine.policy import Rules, read_rules
from pointsman.engine.zones import zone
from pointsman.model import Lead, micros

Image = dict[str, Any]

TOKEN = UUID("99999999-0000-4000-8000-000000000000")


def uid(kind: int, number: int) -> UUID:
    """An id that says what it is of; ids of one kind are ordered by number."""
    return UUID(int=(kind << 96) | number)


def buyer_id(number: int) -> UUID:
    return uid(0xB, number)


OFFER = uid(0xF, 1)
OTHER_OFFER = uid(0xF, 2)
VERTICAL = uid(0xE, 1)
OTHER_VERTICAL = uid(0xE, 2)
MARKET = uid(0xA, 1)
OTHER_MARKET = uid(0xA, 2)
LEAD = uid(0x1, 1)
POLICY = uid(0xC, 1)
ONE, TWO, THREE = buyer_id(1), buyer_id(2), buyer_id(3)

NOON = micros(datetime(2026, 6, 10, 12, 0, tzinfo=UTC))
"""A Wednesday."""
HOUR_START = NOON
DAY_START = micros(datetime(2026, 6, 10, tzinfo=UTC))

CLOSED = json.dumps({"weekly": {}})
UNREADABLE = json.dumps({"weekly": {"mon": [["9", "5"]]}})

RULES: dict[str, Any] = {
    "strategy": {"kind": "priority"},
    "tie_breakers": ["buyer_id"],
    "constraints": ["buyer_active", "acceptance_hours"],
    "exclusivity": {"when_ineligible": "fail_closed"},
}


def make_rules(**over: Any) -> dict[str, Any]:
    """Valid rules with some keys put otherwise."""
    return {**RULES, **over}


def read(**over: Any) -> Rules:
    return read_rules(make_rules(**over))


def at(text: str) -> int:
    return micros(datetime.fromisoformat(text).replace(tzinfo=UTC))


def make_lead(**over: Any) -> Lead:
    fields = {
        "id": LEAD,
        "offer_id": OFFER,
        "vertical_id": VERTICAL,
        "market_id": MARKET,
        "postal_code": "60601",
        "city": "Chicago",
    }
    return Lead(**{**fields, **over})


def make_offer(**over: Any) -> Image:
    return {"id": OFFER, "vertical_id": VERTICAL, "market_id": None, "is_active": True, **over}


def make_buyer(**over: Any) -> Image:
    return {
        "id": ONE,
        "status": "active",
        "timezone": "UTC",
        "acceptance_hours": None,
        "funded": True,
        "sla_response_seconds": None,
        "hourly_cap": None,
        "daily_cap": None,
        **over,
    }


def make_enrollment(**over: Any) -> Image:
    return {
        "buyer_id": ONE,
        "offer_id": OFFER,
        "is_active": True,
        "priority_rank": 100,
        "weight": 1,
        "hourly_cap": None,
        "daily_cap": None,
        "enrolled_at": 0,
        **over,
    }


def make_area(**over: Any) -> Image:
    return {
        "id": uid(0x5, 1),
        "buyer_id": ONE,
        "market_id": MARKET,
        "scope": "market",
        "value": None,
        "is_active": True,
        **over,
    }


def make_exclusivity(**over: Any) -> Image:
    return {
        "id": uid(0xD, 1),
        "offer_id": OFFER,
        "buyer_id": ONE,
        "market_id": None,
        "scope": "offer",
        "value": None,
        "valid_from": None,
        "valid_to": None,
        "is_active": True,
        **over,
    }


def make_policy(*, rules: Any = RULES, **over: Any) -> Image:
    return {
        "id": POLICY,
        "offer_id": None,
        "vertical_id": None,
        "market_id": None,
        "version": 1,
        "is_active": True,
        "rules": rules if rules is None or isinstance(rules, str) else json.dumps(rules),
        **over,
    }


ENROLLMENT_KEYS = frozenset(make_enrollment())
BUYER_KEYS = frozenset(make_buyer())


def key_of(table: str, image: Image) -> str:
    """The key under which the feed logs a row."""
    return f"{image['buyer_id']}:{image['offer_id']}" if table == "buyer_offers" else str(image["id"])


def put(table: str, image: Image) -> Change:
    return Change(table, key_of(table, image), image)


def gone(table: str, image: Image) -> Change:
    return Change(table, key_of(table, image), None)


def candidate(number: int, *, area: Image | None = None, **over: Any) -> list[tuple[str, Image]]:
    """A buyer that covers the default lead and can have it: the rows of buyer, enrollment and area.

    Columns of `over` go to the enrollment where it has them, caps prefixed with `buyer_` to the buyer.
    """
    one = buyer_id(number)
    of_buyer = {key.removeprefix("buyer_"): value for key, value in over.items() if key.startswith("buyer_")}
    of_buyer |= {key: value for key, value in over.items() if key in BUYER_KEYS - ENROLLMENT_KEYS}
    of_enrollment = {key: value for key, value in over.items() if key in ENROLLMENT_KEYS}
    assert len(of_buyer) + len(of_enrollment) == len(over)
    return [
        ("buyers", make_buyer(id=one, **of_buyer)),
        ("buyer_offers", make_enrollment(buyer_id=one, **of_enrollment)),
        ("buyer_service_areas", make_area(id=uid(0x5, number), buyer_id=one, **(area or {}))),
    ]


def make_world(*rows: Iterable[tuple[str, Image]], rules: Any = RULES) -> Indexes:
    """The default offer and a policy for everything, with `rows` besides."""
    return make_indexes(
        [
            ("offers", make_offer()),
            ("routing_policies", make_policy(rules=rules)),
            *(row for some in rows for row in some),
        ]
    )


def make_indexes(rows: Iterable[tuple[str, Image]], version: int = 1) -> Indexes:
    indexes = Indexes(version, TOKEN)
    for table, image in rows:
        indexes.apply(put(table, image), version)
    return indexes


def exclusivity(**over: Any) -> list[tuple[str, Image]]:
    return [("offer_exclusivities", make_exclusivity(**over))]


def make_state(
    used: dict[tuple[UUID, UUID | None, str], int] | None = None,
    positions: dict[UUID, int] | None = None,
    moment: int = NOON,
    zone_name: str = "UTC",
) -> State:
    """Usage by buyer, offer (None: the buyer's own counter) and kind in the windows of `moment`; positions by buyer."""
    state = State()
    found = zone(zone_name)
    assert found is not None
    for (buyer, offer, kind), count in (used or {}).items():
        start = (found.hour(moment) if kind == "hour" else found.day(moment)).start
        state.used[Counter.of(buyer, offer or NOBODY, kind, start)] = count
    for buyer, position in (positions or {}).items():
        state.positions[turn(buyer, OFFER)] = position
    return state


def decided(world: Indexes, state: State | None = None, lead: Lead | None = None, moment: int = NOON) -> Decision:
    return decide(lead or make_lead(), world, state or State(), moment)


def explained(world: Indexes, state: State | None = None, lead: Lead | None = None, moment: int = NOON) -> Standing:
    return explain(decided(world, state, lead, moment), world, state or State())


def winner(world: Indexes, state: State | None = None, lead: Lead | None = None, moment: int = NOON) -> UUID | None:
    enrollment = decided(world, state, lead, moment).winner
    return None if enrollment is None else enrollment.buyer_id


def ranks(world: Indexes, state: State | None = None, lead: Lead | None = None) -> list[UUID]:
    """The eligible buyers in rank order."""
    return [ranked.buyer_id for ranked in explained(world, state, lead).eligible]


def codes(standing: Standing, buyer: UUID = ONE) -> list[str]:
    """The codes of the reasons that exclude a buyer."""
    return [reason.code.value for reason in reasons_of(standing, buyer)]


def reasons_of(standing: Standing, buyer: UUID = ONE) -> list[Any]:
    return [reason for excluded in standing.excluded if excluded.buyer_id == buyer for reason in excluded.reasons]


def facts(standing: Standing, buyer: UUID = ONE) -> list[dict[str, Any]]:
    return [reason.facts for reason in reasons_of(standing, buyer)]

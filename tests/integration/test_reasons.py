"""Every code of exclusion with its facts, as the contract's 4.1 and 5 have them: the JSON of each, to the letter.

Each is asked three ways that must agree: what would happen now, what would happen to the lead at that instant, and what
happened, worked out again from the record.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.model import Explanation
from pointsman.wire import explanation_json
from tests.builders import (
    MARKET,
    enroll,
    make_area,
    make_buyer,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)
from tests.integration.test_bad_rows import LOOSE
from tests.stage import set_clock

NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)  # a Wednesday in Chicago, where it is 12:00
BUYER, HOLDER, EXCLUSIVITY = (UUID(int=number) for number in (0xB, 0xC, 0xE))
Json = dict[str, Any]

HOUR = {"window_start": "2026-03-04T18:00:00Z", "window_end": "2026-03-04T19:00:00Z"}
DAY = {"window_start": "2026-03-04T06:00:00Z", "window_end": "2026-03-05T06:00:00Z"}
CLOCK = {"timezone": "America/Chicago", "local_time": "2026-03-04T12:00:00"}
TOMORROW = {"weekly": {"thu": [["08:00", "12:00"]]}}
WEIGHTED = {"strategy": {"kind": "weighted"}}
REQUIRED = {"sla": {"mode": "require", "max_response_seconds": 60}}
NEEDS_ALL = {**WEIGHTED, "tie_breakers": ["priority_rank", "sla_response_seconds", "buyer_id"]}
PEORIA = {"scope": "city", "value": "Peoria"}
PLACE = {"market_id": str(MARKET), "postal_code": "60614", "city": "chicago"}


def invalid(*fields: str) -> list[Json]:
    return [{"code": "invalid_configuration", "field": name} for name in fields]


def full(kind: str, level: str, used: int = 0, cap: int = 0) -> Json:
    code, window = ("hourly_cap_reached", HOUR) if kind == "hour" else ("daily_cap_reached", DAY)
    return {"code": code, "level": level, "used": used, "cap": cap, **window}


def slots(kind: str, level: str, number: int = 1) -> Json:
    return {"change": "raise_cap", "level": level, "window": kind, "slots": number}


@dataclass(frozen=True)
class Case:
    """One buyer that differs from an eligible one, and what is said of it; `before`: leads that it gets first.

    `buyer` None: its row is gone. `capped`: what is set on the enrollment once it has them. `nearest_then`: what an
    explanation of the past says where that differs from one of now.
    """

    reasons: list[Json]
    nearest: Json | None
    buyer: Json | None = field(default_factory=dict)
    enrollment: Json = field(default_factory=dict)
    area: Json = field(default_factory=dict)
    lead: Json = field(default_factory=dict)
    rules: Json = field(default_factory=dict)
    before: int = 0
    capped: str = ""
    nearest_then: Json | None = None


CASES = {
    "an enrollment that is not active": Case(
        [{"code": "enrollment_inactive"}], {"change": "activate_enrollment"}, enrollment={"is_active": False}
    ),
    "an enrollment that is not active is not examined further": Case(
        [{"code": "enrollment_inactive"}], None, {"status": "paused"}, {"is_active": False, "daily_cap": 0}, PEORIA
    ),
    "an enrollment that is not known to be active": Case(
        [{"code": "enrollment_inactive"}], {"change": "activate_enrollment"}, enrollment={"is_active": None}
    ),
    "areas that need a postal code": Case(
        [{"code": "geo_missing", "missing": ["postal_code"]}],
        {"change": "complete_lead", "missing": ["postal_code"]},
        area={"scope": "postal_code", "value": "60614"},
        lead={"postal_code": " "},
    ),
    "areas that need a city": Case(
        [{"code": "geo_missing", "missing": ["city"]}],
        {"change": "complete_lead", "missing": ["city"]},
        area=PEORIA,
        lead={"city": None},
    ),
    "a buyer elsewhere": Case([{"code": "not_in_service_area"}], {"change": "add_service_area", **PLACE}, area=PEORIA),
    "a buyer elsewhere is not examined further": Case(
        [{"code": "not_in_service_area"}], None, {"status": "paused", "daily_cap": 0}, area=PEORIA
    ),
    "a buyer in another market": Case(
        [{"code": "not_in_service_area"}], {"change": "add_service_area", **PLACE}, area={"market_id": uuid4()}
    ),
    "a lead of no market": Case([{"code": "not_in_service_area"}], None, lead={"market_id": None}),
    "hours that cannot be read": Case(
        invalid("acceptance_hours"), {"change": "repair", "field": "acceptance_hours"}, {"hours": {"weekly": 1}}
    ),
    "a zone inside the hours that cannot be read": Case(
        invalid("acceptance_hours"),
        {"change": "repair", "field": "acceptance_hours"},
        {"hours": {"timezone": "Mars/Olympus", "weekly": {}}},
    ),
    "a zone that hours need": Case(
        invalid("timezone"), {"change": "repair", "field": "timezone"}, {"hours": TOMORROW, "timezone": None}
    ),
    "a zone that caps need, alone": Case(
        invalid("timezone"), {"change": "repair", "field": "timezone"}, {"timezone": "CST6", "daily_cap": 0}
    ),
    "a missing buyer has no other reason": Case(invalid("buyer"), None, None, {"is_active": False}, PEORIA),
    "a negative hourly cap": Case(
        invalid("hourly_cap"), {"change": "repair", "field": "hourly_cap"}, enrollment={"hourly_cap": -1}
    ),
    "a negative daily cap": Case(invalid("daily_cap"), {"change": "repair", "field": "daily_cap"}, {"daily_cap": -1}),
    "a negative rank": Case(
        invalid("priority_rank"), {"change": "repair", "field": "priority_rank"}, enrollment={"priority_rank": -1}
    ),
    "no weight": Case(
        invalid("weight"), {"change": "repair", "field": "weight"}, enrollment={"weight": None}, rules=WEIGHTED
    ),
    "a negative response time": Case(
        invalid("sla_response_seconds"),
        {"change": "repair", "field": "sla_response_seconds"},
        {"sla_response_seconds": -1},
        rules=REQUIRED,
    ),
    "all fields, in their order": Case(
        invalid(
            "acceptance_hours",
            "timezone",
            "hourly_cap",
            "daily_cap",
            "priority_rank",
            "weight",
            "sla_response_seconds",
        ),
        None,
        {"hours": [], "timezone": "", "hourly_cap": -1, "daily_cap": 5, "sla_response_seconds": -1},
        {"daily_cap": -1, "priority_rank": None, "weight": -1},
        rules=NEEDS_ALL,
    ),
    "a paused buyer": Case([{"code": "buyer_paused"}], {"change": "resume_buyer"}, {"status": "paused"}),
    "a buyer of an unknown status": Case([{"code": "buyer_paused"}], {"change": "resume_buyer"}, {"status": "trial"}),
    "outside acceptance hours": Case(
        [{"code": "outside_acceptance_hours", **CLOCK, "next_opening": "2026-03-05T14:00:00Z"}],
        {"change": "later", "seconds": 20 * 3600, "at": "2026-03-05T14:00:00Z"},
        {"hours": TOMORROW},
    ),
    "never open": Case(
        [{"code": "outside_acceptance_hours", **CLOCK, "next_opening": None}], None, {"hours": {"weekly": {}}}
    ),
    "hours on a clock of their own": Case(
        [
            {
                "code": "outside_acceptance_hours",
                "timezone": "Asia/Kathmandu",
                "local_time": "2026-03-04T23:45:00",
                "next_opening": "2026-03-05T02:15:00Z",
            }
        ],
        {"change": "later", "seconds": 8 * 3600 + 900, "at": "2026-03-05T02:15:00Z"},
        {"hours": {"timezone": "Asia/Kathmandu", **TOMORROW}},
    ),
    "the enrollment's hourly cap": Case(
        [full("hour", "enrollment")], slots("hour", "enrollment"), enrollment={"hourly_cap": 0}
    ),
    "the buyer's hourly cap": Case([full("hour", "buyer")], slots("hour", "buyer"), {"hourly_cap": 0}),
    "the enrollment's daily cap": Case(
        [full("day", "enrollment", 2, 2)], slots("day", "enrollment"), enrollment={"daily_cap": 2}, before=2
    ),
    "the buyer's daily cap": Case([full("day", "buyer", 1, 1)], slots("day", "buyer"), {"daily_cap": 1}, before=1),
    "a cap that was passed before it was set": Case(
        [full("day", "enrollment", 3, 1)], slots("day", "enrollment", 3), before=3, capped="daily_cap = 1"
    ),
    "caps on both levels, hours before days": Case(
        [full("hour", "enrollment"), full("hour", "buyer"), full("day", "enrollment"), full("day", "buyer")],
        None,
        {"hourly_cap": 0, "daily_cap": 0},
        {"hourly_cap": 0, "daily_cap": 0},
    ),
    "below the minimum balance": Case(
        [{"code": "below_min_balance"}],
        {"change": "add_balance", "amount": "2.75"},
        {"balance": Decimal("7.25"), "min_balance": Decimal("10.00")},
        nearest_then={"change": "add_balance", "amount": None},
    ),
    "an unknown balance": Case(
        [{"code": "below_min_balance"}],
        {"change": "add_balance", "amount": None},
        {"balance": Decimal("NaN"), "min_balance": Decimal(0)},
    ),
    "too slow": Case(
        [{"code": "sla_too_slow", "sla_response_seconds": 61, "max_response_seconds": 60}],
        {"change": "respond_within", "seconds": 60},
        {"sla_response_seconds": 61},
        rules=REQUIRED,
    ),
    "a response time that nobody knows": Case(
        [{"code": "sla_too_slow", "sla_response_seconds": None, "max_response_seconds": 60}],
        {"change": "respond_within", "seconds": 60},
        rules=REQUIRED,
    ),
    "a weight of zero": Case(
        [{"code": "zero_weight"}], {"change": "raise_weight", "weight": 1}, enrollment={"weight": 0}, rules=WEIGHTED
    ),
    "everything at once, in its order": Case(
        [
            *invalid("daily_cap"),
            {"code": "buyer_paused"},
            {"code": "outside_acceptance_hours", **CLOCK, "next_opening": "2026-03-05T14:00:00Z"},
            full("hour", "enrollment"),
            full("day", "buyer"),
            {"code": "below_min_balance"},
            {"code": "sla_too_slow", "sla_response_seconds": None, "max_response_seconds": 60},
            {"code": "zero_weight"},
        ],
        None,
        {"status": "paused", "hours": TOMORROW, "daily_cap": 0, "balance": 1, "min_balance": 2},
        {"hourly_cap": 0, "daily_cap": -1, "weight": 0},
        rules={**WEIGHTED, **REQUIRED},
    ),
}


def excluded(explanation: Explanation) -> dict[str, Json]:
    """The excluded by buyer, as the API sends them."""
    sent = json.loads(json.dumps(explanation_json(explanation)))
    assert all(["buyer_id", "reasons", "nearest_miss"] == list(entry) for entry in sent["excluded"])
    return {entry["buyer_id"]: entry for entry in sent["excluded"]}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
async def test_each_code_has_its_facts_now_then_and_in_a_question(
    database: str, connection: asyncpg.Connection, case: Case
) -> None:
    await set_clock(connection, NOON)
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    await make_policy(connection, rules=rules(**case.rules))
    if case.buyer is not None:
        await make_buyer(connection, id=BUYER, **case.buyer)
    await enroll(connection, BUYER, offer, **case.enrollment)
    await make_area(connection, BUYER, **case.area)
    expected = {"buyer_id": str(BUYER), "reasons": case.reasons, "nearest_miss": case.nearest}
    async with Router.open(database) as router:
        for _ in range(case.before):
            assert BUYER == (await router.route(await make_lead(connection, offer))).buyer_id
        if case.capped:
            await connection.execute(f"update buyer_offers set {case.capped}")
        lead = await make_lead(connection, offer, **case.lead)
        assert {str(BUYER): expected} == excluded(await router.explain(lead))
        assert {str(BUYER): expected} == excluded(await router.explain_hypothetical(lead, at=NOON))
        recorded = (await router.route(lead)).decision_id
        assert recorded is not None
        expected["nearest_miss"] = case.nearest_then or case.nearest
        assert {str(BUYER): expected} == excluded(await router.explain_decision(recorded))


@pytest.mark.parametrize("holder", ["eligible", "not enrolled"])
async def test_codes_of_an_exclusivity_have_their_facts_now_then_and_in_a_question(
    database: str, connection: asyncpg.Connection, holder: str
) -> None:
    """A holder that is not enrolled is listed; whoever it keeps out names it and the exclusivity."""
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await make_policy(connection)
    for buyer in (BUYER, HOLDER):
        await make_buyer(connection, id=buyer)
        await make_area(connection, buyer)
    await enroll(connection, BUYER, offer)
    if holder == "eligible":
        await enroll(connection, HOLDER, offer)
    await make_exclusivity(connection, offer, HOLDER, id=EXCLUSIVITY, scope="market", market_id=MARKET)
    held = {"code": "held_by_exclusive_buyer", "buyer_id": str(HOLDER), "exclusivity_id": str(EXCLUSIVITY)}
    end = {"change": "end_exclusivity", "exclusivity_id": str(EXCLUSIVITY)}
    expected = {str(BUYER): {"buyer_id": str(BUYER), "reasons": [held], "nearest_miss": end}}
    if holder == "not enrolled":
        expected[str(HOLDER)] = {
            "buyer_id": str(HOLDER),
            "reasons": [{"code": "not_enrolled"}],
            "nearest_miss": None,
        }
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        assert expected == excluded(await router.explain(lead))
        assert expected == excluded(await router.explain_hypothetical(lead, at=NOON))
        recorded = (await router.route(lead)).decision_id
        assert recorded is not None
        assert expected == excluded(await router.explain_decision(recorded))

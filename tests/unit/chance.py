"""Random worlds, small enough that everything meets everything; `rng` is hypothesis's or a plain seeded one."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

from pointsman.engine.capacity import Counter, State
from pointsman.engine.configuration import NOBODY, turn
from pointsman.model import Lead, micros

from . import oracle
from .worlds import (
    MARKET,
    OFFER,
    OTHER_MARKET,
    OTHER_OFFER,
    OTHER_VERTICAL,
    VERTICAL,
    Image,
    buyer_id,
    make_area,
    make_buyer,
    make_enrollment,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    uid,
)

# far from every change of the clock in ZONES
MOMENTS = [
    datetime(2026, 6, 10, 12, tzinfo=UTC),
    datetime(2026, 6, 12, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2026, 1, 14, 5, 30, 0, 1, tzinfo=UTC),
    datetime(2026, 6, 14, 18, 14, 59, tzinfo=UTC),
    datetime(1969, 7, 16, 13, 32, tzinfo=UTC),
]
ZONES = ["UTC", "America/Chicago", "Asia/Kathmandu", "Australia/Lord_Howe"]
BAD_ZONES = [None, "", "Mars/Olympus", "america/chicago"]
BUYERS = [buyer_id(number) for number in range(1, 7)]


def every_day(*intervals: list[str]) -> dict[str, list[list[str]]]:
    return {day: [*intervals] for day in oracle.DAYS}


HOURS = [
    None,
    "null",
    *(
        json.dumps(document)
        for document in (
            {"weekly": every_day(["00:00", "24:00"])},
            {"weekly": every_day(["09:00", "17:00"])},
            {"weekly": every_day(["20:00", "07:15"], ["06:00", "08:00"])},
            {"weekly": {"mon": [["12:30", "13:00"]]}, "timezone": "Asia/Kathmandu"},
            {"weekly": {}, "dates": {"2026-06-10": [["10:00", "24:00"]], "2026-06-13": [["23:45", "03:00"]]}},
            {"weekly": every_day(["00:00", "24:00"]), "dates": {"2026-06-10": [], "2026-01-14": []}},
            {"weekly": {}},
        )
    ),
]
BAD_HOURS = [
    "",
    "[]",
    "{}",
    '{"weekly": {"mon": [["09:00", "09:00"]]}}',
    '{"weekly": {}, "timezone": "Mars/Olympus"}',
    '{"weekly": {}, "open": []}',
]
HOURS_OR_BAD = [HOURS, BAD_HOURS]

POSTAL_CODES = ["60601", " 606 01 ", "0601", "sw1a 1aa", "SW1A1AA"]
CITIES = ["Chicago", "  CHICAGO ", "Ｃｈｉｃａｇｏ", "New\t York", "new york", "Straße", "STRASSE"]
BLANKS = [None, "", " ", "\u3000"]


def mostly(rng: Random, share: float, usual: Any, other: Any) -> Any:
    return rng.choice(usual if rng.random() < share else other)


def a_cap(rng: Random) -> int | None:
    return mostly(rng, 0.75, [None], [0, 1, 2, 2, 3, 3, 3, 4, 4, -1])


def a_buyer(rng: Random, **over: Any) -> Image:
    return make_buyer(
        id=rng.choice(BUYERS),
        status=mostly(rng, 0.9, ["active"], ["paused", "Active", "", None]),
        timezone=mostly(rng, 0.93, ZONES, BAD_ZONES),
        acceptance_hours=mostly(rng, 0.7, [None], mostly(rng, 0.9, HOURS_OR_BAD[:1], HOURS_OR_BAD[1:])),
        funded=rng.random() < 0.92,
        sla_response_seconds=mostly(rng, 0.93, [None, 0, 60, 299, 300, 301, 900], [-1]),
        hourly_cap=a_cap(rng),
        daily_cap=a_cap(rng),
    ) | over  # fmt: skip


def an_enrollment(rng: Random, **over: Any) -> Image:
    return make_enrollment(
        buyer_id=rng.choice(BUYERS),
        offer_id=rng.choice([OFFER, OFFER, OFFER, OTHER_OFFER]),
        is_active=rng.random() < 0.92,
        priority_rank=mostly(rng, 0.93, [0, 1, 1, 2, 100], [None, -1]),
        weight=mostly(rng, 0.9, [1, 1, 2, 5, 1000], [0, None, -1]),
        hourly_cap=a_cap(rng),
        daily_cap=a_cap(rng),
        enrolled_at=rng.choice([0, 0, 1, -5, 10**15]),
    ) | over  # fmt: skip


def an_area(rng: Random, **over: Any) -> Image:
    scope = mostly(rng, 0.96, ["market", "city", "postal_code", "city", "postal_code"], ["county", None, "Market"])
    values = {"city": CITIES, "postal_code": POSTAL_CODES}.get(scope, BLANKS)
    return make_area(
        id=uid(0x5, rng.randrange(30)),
        buyer_id=rng.choice(BUYERS),
        market_id=mostly(rng, 0.8, [MARKET], [OTHER_MARKET, None]),
        scope=scope,
        value=mostly(rng, 0.95, values, BLANKS),
        is_active=rng.random() < 0.93,
    ) | over  # fmt: skip


def an_exclusivity(rng: Random, **over: Any) -> Image:
    scope = mostly(rng, 0.96, ["market", "city", "postal_code", "offer"], ["county", None])
    values = {"city": CITIES, "postal_code": POSTAL_CODES}.get(scope, BLANKS)
    moments = [micros(moment) + step for moment in MOMENTS for step in (-1, 0, 1)]
    return make_exclusivity(
        id=uid(0xD, rng.randrange(12)),
        offer_id=mostly(rng, 0.85, [OFFER], [OTHER_OFFER]),
        buyer_id=rng.choice(BUYERS),
        market_id=mostly(rng, 0.95, [None if scope == "offer" else MARKET], [None, MARKET, OTHER_MARKET]),
        scope=scope,
        value=mostly(rng, 0.95, values, [None, " ", "Chicago"]),
        valid_from=mostly(rng, 0.5, [None], moments),
        valid_to=mostly(rng, 0.5, [None], moments),
        is_active=rng.random() < 0.9,
    ) | over  # fmt: skip


TIE_BREAKERS = sorted(oracle.TIES - {"buyer_id"})
BROKEN = [
    {"schema": 2},
    {"schema": 1.0},
    {"schema": True},
    {"sla": {"mode": "off", "max_response_seconds": -1}},
    {"sla": {"mode": "prefer"}},
    {"constraints": ["hourly_cap"]},
    {"tie_breakers": ["lead_hash"]},
    {"tie_breakers": ["weight", "weight", "buyer_id"]},
    {"strategy": {"kind": "random"}},
    {"colour": "red"},
]


def some_rules(rng: Random) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "strategy": {"kind": rng.choice(["priority", "rotation", "weighted"])},
        "tie_breakers": [*rng.sample(TIE_BREAKERS, rng.randrange(4)), "buyer_id"],
        "constraints": rng.choice([["buyer_active", "acceptance_hours"], ["acceptance_hours"], ["buyer_active"], []]),
        "exclusivity": {"when_ineligible": rng.choice(["fail_closed", "fallback_allowed"])},
    }
    if rng.random() < 0.3:
        rules["strategy"]["salt"] = rng.choice(["", "salt", "süß"])
    if rng.random() < 0.6:
        rules["sla"] = {"mode": rng.choice(["off", "prefer", "require"]), "max_response_seconds": rng.choice([0, 300])}
    if rng.random() < 0.02:
        rules |= rng.choice(BROKEN)
    return rules


def a_policy(rng: Random, **over: Any) -> Image:
    return make_policy(
        id=uid(0xC, rng.randrange(8)),
        offer_id=mostly(rng, 0.5, [None], [OFFER, OFFER, OTHER_OFFER]),
        vertical_id=mostly(rng, 0.6, [None], [VERTICAL, VERTICAL, OTHER_VERTICAL]),
        market_id=mostly(rng, 0.6, [None], [MARKET, MARKET, OTHER_MARKET]),
        version=mostly(rng, 0.98, [1, 1, 2, 3], [None, 0, -1]),
        is_active=rng.random() < 0.9,
        rules=mostly(rng, 0.99, [some_rules(rng)], [None, "{", "null", []]),
    ) | over  # fmt: skip


def an_offer(rng: Random, **over: Any) -> Image:
    return make_offer(
        id=rng.choice([OFFER, OTHER_OFFER]),
        vertical_id=mostly(rng, 0.98, [VERTICAL], [OTHER_VERTICAL, None]),
        market_id=mostly(rng, 0.7, [None], [MARKET] * 6 + [OTHER_MARKET]),
        is_active=rng.random() < 0.96,
    ) | over  # fmt: skip


def a_lead(rng: Random) -> Lead:
    return make_lead(
        id=uid(0x1, rng.randrange(1000)),
        offer_id=mostly(rng, 0.98, [OFFER], [OTHER_OFFER, None, uid(0xF, 9)]),
        vertical_id=mostly(rng, 0.98, [VERTICAL], [OTHER_VERTICAL, None]),
        market_id=mostly(rng, 0.95, [MARKET], [OTHER_MARKET, None, uid(0xA, 9)]),
        postal_code=mostly(rng, 0.8, POSTAL_CODES, [*BLANKS, "99999"]),
        city=mostly(rng, 0.8, CITIES, [*BLANKS, "Elsewhere"]),
    )


MAKERS = {
    "offers": an_offer,
    "buyers": a_buyer,
    "buyer_offers": an_enrollment,
    "buyer_service_areas": an_area,
    "offer_exclusivities": an_exclusivity,
    "routing_policies": a_policy,
}


def a_case(rng: Random) -> oracle.Case:
    """A world whose rows have distinct keys, with a lead, a state and an instant."""
    rows: dict[tuple[str, Any], Image] = {}

    def add(table: str, image: Image) -> None:
        key = (image["buyer_id"], image["offer_id"]) if table == "buyer_offers" else image["id"]
        rows[table, key] = image

    for offer in (OFFER, OTHER_OFFER):
        add("offers", an_offer(rng, id=offer))
    buyers = BUYERS[: rng.randrange(2, 6)]
    for number, buyer in enumerate(buyers):
        if rng.random() < 0.97:
            add("buyers", a_buyer(rng, id=buyer))
        add("buyer_offers", an_enrollment(rng, buyer_id=buyer, offer_id=mostly(rng, 0.95, [OFFER], [OTHER_OFFER])))
        add("buyer_service_areas", an_area(rng, id=uid(0x5, 100 + number), buyer_id=buyer))
        if rng.random() < 0.8:
            add("buyer_service_areas", make_area(id=uid(0x5, 200 + number), buyer_id=buyer))
    for maker, most in ((an_area, 4), (an_enrollment, 2), (an_exclusivity, 2), (a_policy, 3)):
        table = next(table for table, its_maker in MAKERS.items() if its_maker is maker)
        for _ in range(rng.randrange(most + 1)):
            add(table, maker(rng))
    if rng.random() < 0.95:
        add("routing_policies", a_policy(rng, id=uid(0xC, 99), offer_id=None, vertical_id=None, market_id=None))
    moment = rng.choice(MOMENTS)
    placed = [(table, image) for (table, _), image in rows.items()]
    return oracle.Case(placed, a_lead(rng), some_usage(rng, placed, moment), some_positions(rng), moment)


def some_usage(rng: Random, rows: list[tuple[str, Image]], moment: datetime) -> dict[Any, int]:
    usage: dict[Any, int] = {}
    for table, image in rows:
        its_zone = oracle.zone(image["timezone"]) if table == "buyers" else None
        if its_zone is None or rng.random() < 0.4:
            continue
        for kind in ("hour", "day"):
            start, _ = oracle.window(kind, its_zone, moment)
            if rng.random() < 0.1:
                start -= timedelta(hours=1)
            for offer in (OFFER, OTHER_OFFER, None):
                usage[image["id"], offer, kind, start] = rng.randrange(4)
    return usage


def some_positions(rng: Random) -> dict[Any, int]:
    numbers = rng.sample(range(1, 1000), len(BUYERS))
    return {
        (buyer, offer): number
        for buyer, number in zip(BUYERS, numbers, strict=True)
        for offer in (OFFER, OTHER_OFFER)
        if rng.random() < 0.6
    }


def state_of(case: oracle.Case) -> State:
    """The state that a case is decided on."""
    state = State()
    for (buyer, offer, kind, start), used in case.usage.items():
        state.used[Counter.of(buyer, offer or NOBODY, kind, micros(start))] = used
    state.positions = {turn(*key): position for key, position in case.positions.items()}
    return state

"""The contract once more, the slow and obvious way, from its text alone: what `decide` and `explain` must say.

Nothing of the engine is used here. Rows are plain dicts, windows come from `zoneinfo` (so instants must keep away from
changes of the clock, which the tests of the zones look at), scores are decimals.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from functools import cache
from hashlib import blake2b
from importlib.resources import files
from io import BytesIO
from typing import Any, NamedTuple
from uuid import UUID
from zoneinfo import ZoneInfo

from pointsman.model import Lead

Row = Mapping[str, Any]
Reasons = list[tuple[str, dict[str, Any]]]

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
TIES = {
    "priority_rank",
    "weight",
    "sla_response_seconds",
    "least_recently_routed",
    "enrolled_at",
    "lead_hash",
    "buyer_id",
}
PRECISE = Context(prec=60)


class Case(NamedTuple):
    """All that a decision is made from.

    `usage` by buyer, offer (None: over all its offers), kind and start of the window; `positions` by buyer and offer.
    """

    rows: Sequence[tuple[str, Row]]
    lead: Lead
    usage: Mapping[tuple[UUID, UUID | None, str, datetime], int]
    positions: Mapping[tuple[UUID, UUID], int]
    at: datetime


class Answer(NamedTuple):
    outcome: str
    cause: str | None
    flags: list[str]
    policy_id: UUID | None
    winner: UUID | None
    ranked: list[dict[str, Any]]
    excluded: list[tuple[UUID, Reasons]]


def answer(case: Case) -> Answer:
    tables: dict[str, list[Row]] = {}
    for table, row in case.rows:
        tables.setdefault(table, []).append(row)
    return World(tables, case).answer()


class World:
    def __init__(self, tables: Mapping[str, list[Row]], case: Case) -> None:
        self.tables = tables
        self.case = case
        self.lead = case.lead
        self.buyers = {row["id"]: row for row in tables.get("buyers", [])}
        self.enrolled = [row for row in tables.get("buyer_offers", []) if row["offer_id"] == self.lead.offer_id]
        self.postal_code = postal_code(self.lead.postal_code)
        self.city = city(self.lead.city)
        self.rules: Any = None

    def answer(self) -> Answer:
        policy = self.policy()
        if policy is None:
            return Answer("no_route", "no_policy", [], None, None, [], [])
        self.rules = rules(policy)
        cause = "policy_invalid" if self.rules is None else self.misfit()
        if cause:
            return Answer("no_route", cause, [], policy["id"], None, [], [])

        excluded = {row["buyer_id"]: self.reasons(row) for row in self.enrolled}
        eligible = [row for row in self.enrolled if not excluded[row["buyer_id"]]]
        flags: list[str] = []
        held = self.exclusivities()
        if held:
            first = min(held, key=lambda row: (row["valid_from"] is not None, row["valid_from"] or 0, row["id"].bytes))
            holder = first["buyer_id"]
            excluded.setdefault(holder, [("not_enrolled", {})])
            is_eligible = not excluded[holder]
            if is_eligible or self.rules["exclusivity"]["when_ineligible"] == "fail_closed":
                flags.append("exclusive")
                for row in eligible:
                    if row["buyer_id"] != holder:
                        facts = {"buyer_id": holder, "exclusivity_id": first["id"]}
                        excluded[row["buyer_id"]] = [("held_by_exclusive_buyer", facts)]
                eligible = [row for row in eligible if row["buyer_id"] == holder]
            else:
                flags.append("exclusive_fallback")
            if len(held) > 1:
                flags.append("exclusivity_conflict")

        ranked = self.ranked(eligible)
        if ranked:
            outcome, cause = "routed", None
        elif "exclusive" in flags:
            outcome, cause = "no_route_exclusive_fail_closed", None
        else:
            outcome, cause = "no_route", "no_eligible_buyers"
        return Answer(
            outcome,
            cause,
            flags,
            policy["id"],
            ranked[0]["buyer_id"] if ranked else None,
            ranked,
            sorted(((buyer, why) for buyer, why in excluded.items() if why), key=lambda pair: pair[0].bytes),
        )

    # 3

    def policy(self) -> Row | None:
        best = None
        for row in self.tables.get("routing_policies", []):
            if not row["is_active"]:
                continue
            if any(
                row[name] not in (None, getattr(self.lead, name)) for name in ("offer_id", "vertical_id", "market_id")
            ):
                continue
            if best is None or self.beats(row, best):
                best = row
        return best

    @staticmethod
    def beats(row: Row, other: Row) -> bool:
        for name in ("offer_id", "vertical_id", "market_id"):
            if (row[name] is None) != (other[name] is None):
                return other[name] is None
        if (row["version"] or 0) != (other["version"] or 0):
            return (row["version"] or 0) > (other["version"] or 0)
        return row["id"].bytes < other["id"].bytes

    def misfit(self) -> str | None:
        offer = next((row for row in self.tables.get("offers", []) if row["id"] == self.lead.offer_id), None)
        if offer is None or not offer["is_active"]:
            return "offer_inactive"
        if offer["vertical_id"] != self.lead.vertical_id:
            return "offer_vertical_mismatch"
        if offer["market_id"] is not None and offer["market_id"] != self.lead.market_id:
            return "offer_market_mismatch"
        return None

    def ranked(self, eligible: list[Row]) -> list[dict[str, Any]]:
        return [
            {
                "buyer_id": row["buyer_id"],
                "rank": rank,
                "priority_rank": row["priority_rank"],
                "weight": row["weight"],
                "sla_response_seconds": self.response_time(row),
                "position": self.position(row) or None,
                "lead_hash": f"{self.hashed(row):016x}",
            }
            for rank, row in enumerate(sorted(eligible, key=self.sort_key), start=1)
        ]

    def sort_key(self, row: Row) -> list[Any]:
        parts = [self.part(name, row) for name in self.rules["tie_breakers"]]
        kind = self.rules["strategy"]["kind"]
        if kind == "priority":
            parts.insert(0, row["priority_rank"])
        elif kind == "rotation":
            parts.insert(0, self.position(row))
        else:
            u = PRECISE.divide(Decimal(self.hashed(row)) + Decimal("0.5"), Decimal(2**64))
            parts.insert(0, PRECISE.divide(-PRECISE.ln(u), Decimal(row["weight"])))
        if self.sla["mode"] == "prefer":
            parts.insert(0, 0 if self.is_prompt(row) else 1)
        return parts

    def part(self, name: str, row: Row) -> Any:
        seconds = self.response_time(row)
        return {
            "priority_rank": lambda: row["priority_rank"],
            "weight": lambda: -row["weight"],
            "sla_response_seconds": lambda: float("inf") if seconds is None else seconds,
            "least_recently_routed": lambda: self.position(row),
            "enrolled_at": lambda: float("inf") if row["enrolled_at"] is None else row["enrolled_at"],
            "lead_hash": lambda: self.hashed(row),
            "buyer_id": lambda: str(row["buyer_id"]),
        }[name]()

    def position(self, row: Row) -> int:
        return self.case.positions.get((row["buyer_id"], row["offer_id"]), 0)

    def hashed(self, row: Row) -> int:
        salt = self.rules["strategy"].get("salt", "").encode("utf-8")
        hashed = blake2b(self.lead.id.bytes + row["buyer_id"].bytes + salt, digest_size=8)
        return int(hashed.hexdigest(), 16)

    @property
    def sla(self) -> Any:
        return self.rules.get("sla", {"mode": "off"})

    def response_time(self, row: Row) -> int | None:
        return self.buyers[row["buyer_id"]]["sla_response_seconds"]

    def is_prompt(self, row: Row) -> bool:
        seconds = self.response_time(row)
        return seconds is not None and seconds <= self.sla["max_response_seconds"]

    # 4.1

    def reasons(self, row: Row) -> Reasons:
        buyer = self.buyers.get(row["buyer_id"])
        if buyer is None:
            return [("invalid_configuration", {"field": "buyer"})]
        if not row["is_active"]:
            return [("enrollment_inactive", {})]
        elsewhere = self.elsewhere(buyer)
        if elsewhere:
            return elsewhere
        found: Reasons = [("invalid_configuration", {"field": field}) for field in self.bad_fields(row, buyer)]
        constraints = self.rules["constraints"]
        if "buyer_active" in constraints and buyer["status"] != "active":
            found.append(("buyer_paused", {}))
        if "acceptance_hours" in constraints:
            found += self.closed(buyer)
        found += self.full(row, buyer)
        if not buyer["funded"]:
            found.append(("below_min_balance", {}))
        seconds = buyer["sla_response_seconds"]
        if self.sla["mode"] == "require" and not (seconds is not None and seconds < 0) and not self.is_prompt(row):
            facts = {"sla_response_seconds": seconds, "max_response_seconds": self.sla["max_response_seconds"]}
            found.append(("sla_too_slow", facts))
        if self.rules["strategy"]["kind"] == "weighted" and row["weight"] == 0:
            found.append(("zero_weight", {}))
        return found

    def elsewhere(self, buyer: Row) -> Reasons:
        needed = set()
        for area in self.tables.get("buyer_service_areas", []):
            here = area["market_id"] is not None and area["market_id"] == self.lead.market_id
            if not here or area["buyer_id"] != buyer["id"] or not area["is_active"]:
                continue
            if area["scope"] == "market":
                return []
            if area["scope"] == "city" and city(area["value"]) is not None:
                if city(area["value"]) == self.city:
                    return []
                needed.add("city")
            if area["scope"] == "postal_code" and postal_code(area["value"]) is not None:
                if postal_code(area["value"]) == self.postal_code:
                    return []
                needed.add("postal_code")
        lacks = {name for name in ("postal_code", "city") if getattr(self, name) is None}
        if needed and needed <= lacks:
            return [("geo_missing", {"missing": [name for name in ("postal_code", "city") if name in needed]})]
        return [("not_in_service_area", {})]

    def bad_fields(self, row: Row, buyer: Row) -> list[str]:
        bad = []
        tie_breakers, kind = self.rules["tie_breakers"], self.rules["strategy"]["kind"]
        all_caps = [holder[cap] for holder in (row, buyer) for cap in ("hourly_cap", "daily_cap")]
        zone_is_needed = any(cap is not None and cap >= 0 for cap in all_caps)
        if "acceptance_hours" in self.rules["constraints"]:
            hours = read_hours(buyer["acceptance_hours"])
            if hours == "unreadable":
                bad.append("acceptance_hours")
            elif hours is not None and "timezone" not in hours:
                zone_is_needed = True
        if zone_is_needed and zone(buyer["timezone"]) is None:
            bad.append("timezone")
        bad += [
            cap
            for cap in ("hourly_cap", "daily_cap")
            if any(holder[cap] is not None and holder[cap] < 0 for holder in (row, buyer))
        ]
        if (kind == "priority" or "priority_rank" in tie_breakers) and is_bad(row["priority_rank"]):
            bad.append("priority_rank")
        if (kind == "weighted" or "weight" in tie_breakers) and is_bad(row["weight"]):
            bad.append("weight")
        seconds = buyer["sla_response_seconds"]
        if (
            (self.sla["mode"] != "off" or "sla_response_seconds" in tie_breakers)
            and seconds is not None
            and seconds < 0
        ):
            bad.append("sla_response_seconds")
        return bad

    def closed(self, buyer: Row) -> Reasons:
        hours = read_hours(buyer["acceptance_hours"])
        if hours is None or hours == "unreadable":
            return []
        name = hours.get("timezone", buyer["timezone"])
        if zone(name) is None:
            return []
        closed, local, opening = looked_up(buyer["acceptance_hours"], name, self.case.at)
        if not closed:
            return []
        return [("outside_acceptance_hours", {"timezone": name, "local_time": local, "next_opening": opening})]

    def full(self, row: Row, buyer: Row) -> Reasons:
        its_zone = zone(buyer["timezone"])
        if its_zone is None:
            return []
        found: Reasons = []
        for kind, cap, code in (
            ("hour", "hourly_cap", "hourly_cap_reached"),
            ("day", "daily_cap", "daily_cap_reached"),
        ):
            start, end = window(kind, its_zone, self.case.at)
            for level, holder, offer in (("enrollment", row, row["offer_id"]), ("buyer", buyer, None)):
                limit = holder[cap]
                used = self.case.usage.get((buyer["id"], offer, kind, start), 0)
                if limit is not None and limit >= 0 and used >= limit:
                    facts = {"level": level, "used": used, "cap": limit, "window_start": start, "window_end": end}
                    found.append((code, facts))
        return found

    # 4.3

    def exclusivities(self) -> list[Row]:
        """The rows of the most specific scope that has any."""
        now = (self.case.at - EPOCH) // timedelta(microseconds=1)
        matching: dict[str, list[Row]] = {"postal_code": [], "city": [], "market": [], "offer": []}
        for row in self.tables.get("offer_exclusivities", []):
            if not row["is_active"] or row["offer_id"] is None or row["offer_id"] != self.lead.offer_id:
                continue
            if row["buyer_id"] is None or not self.speaks_for_the_lead(row):
                continue
            if row["valid_from"] is not None and now < row["valid_from"]:
                continue
            if row["valid_to"] is not None and now >= row["valid_to"]:
                continue
            matching[row["scope"]].append(row)
        return next((rows for rows in matching.values() if rows), [])

    def speaks_for_the_lead(self, row: Row) -> bool:
        market, value = row["market_id"], row["value"]
        in_market = market is not None and market == self.lead.market_id
        if row["scope"] == "offer":
            return market is None and postal_code(value) is None
        if row["scope"] == "market":
            return in_market and postal_code(value) is None
        if row["scope"] == "city":
            return in_market and city(value) is not None and city(value) == self.city
        if row["scope"] == "postal_code":
            return in_market and postal_code(value) is not None and postal_code(value) == self.postal_code
        return False


def is_bad(number: int | None) -> bool:
    return number is None or number < 0


def postal_code(text: str | None) -> str | None:
    kept = "".join(letter for letter in text or "" if not letter.isspace()).upper()
    return kept or None


def city(text: str | None) -> str | None:
    words, word = [], ""
    for letter in unicodedata.normalize("NFKC", text or "").casefold() + " ":
        if not letter.isspace():
            word += letter
        elif word:
            words.append(word)
            word = ""
    return " ".join(words) or None


def rules(policy: Row) -> Any:
    """The rules of a policy, None if they are invalid."""
    try:
        found = json.loads(policy["rules"] or "null")
    except ValueError:
        return None
    return found if policy["version"] is not None and is_valid(found) else None


def is_valid(found: Any) -> bool:
    def has_keys(value: Any, required: set[str], optional: set[str]) -> bool:
        return type(value) is dict and required <= set(value) <= required | optional

    def is_list_of(value: Any, words: set[str]) -> bool:
        if type(value) is not list or not all(type(item) is str and item in words for item in value):
            return False
        return len(value) == len(set(value))

    if not has_keys(found, {"strategy", "tie_breakers", "constraints", "exclusivity"}, {"schema", "sla"}):
        return False
    schema, sla = found.get("schema", 1), found.get("sla", {"mode": "off"})
    if type(schema) is not int or schema != 1:
        return False
    if not has_keys(found["strategy"], {"kind"}, {"salt"}) or type(found["strategy"].get("salt", "")) is not str:
        return False
    if found["strategy"]["kind"] not in ("priority", "rotation", "weighted"):
        return False
    if not is_list_of(found["tie_breakers"], TIES) or found["tie_breakers"][-1:] != ["buyer_id"]:
        return False
    if not is_list_of(found["constraints"], {"buyer_active", "acceptance_hours"}):
        return False
    if not has_keys(found["exclusivity"], {"when_ineligible"}, set()):
        return False
    if found["exclusivity"]["when_ineligible"] not in ("fail_closed", "fallback_allowed"):
        return False
    if not has_keys(sla, {"mode"}, {"max_response_seconds"}) or sla["mode"] not in ("off", "prefer", "require"):
        return False
    if sla["mode"] != "off" and "max_response_seconds" not in sla:
        return False
    limit = sla.get("max_response_seconds", 0)
    return type(limit) is int and limit >= 0


# time


@cache
def zone(name: str | None) -> ZoneInfo | None:
    """The zone out of the tzdata package; the names that are asked for here are safe as parts of a path."""
    if not name or name not in files("tzdata").joinpath("zones").read_text().split("\n"):
        return None
    return ZoneInfo.from_file(BytesIO(files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes()), key=name)


def window(kind: str, its_zone: ZoneInfo, at: datetime) -> tuple[datetime, datetime]:
    """The hour or the day of a clock that does not change anywhere near."""
    start = at.astimezone(its_zone).replace(minute=0, second=0, microsecond=0)
    if kind == "day":
        start = start.replace(hour=0)
    start = start.astimezone(UTC)
    return start, start + (timedelta(hours=1) if kind == "hour" else timedelta(days=1))


@cache
def read_hours(text: str | None) -> Any:
    """The document, None for always open, "unreadable" for what is in no good form."""
    if text is None:
        return None
    try:
        document = json.loads(text)
    except ValueError:
        return "unreadable"
    if document is None:
        return None
    try:
        assert set(document) <= {"timezone", "weekly", "dates"}
        assert set(document["weekly"]) <= set(DAYS)
        assert "timezone" not in document or zone(document["timezone"])
        for rows in (*document["weekly"].values(), *document.get("dates", {}).values()):
            for start, end in rows:
                assert minutes(start) < 24 * 60
                assert minutes(start) != minutes(end)
    except (AssertionError, KeyError, TypeError, ValueError, AttributeError):
        return "unreadable"
    return document


def minutes(text: str) -> int:
    assert len(text) == 5
    assert text[2] == ":"
    found = int(text[:2]) * 60 + int(text[3:])
    assert found <= 24 * 60
    return found


@cache
def looked_up(text: str, name: str, at: datetime) -> tuple[bool, str, datetime | None]:
    """Whether it is closed, what the clock shows, when it opens: hours here start and end at quarters of an hour."""
    hours, its_zone = read_hours(text), zone(name)
    assert its_zone is not None
    local = at.astimezone(its_zone)
    if is_open(hours, local):
        return False, "", None
    opening = next((moment for moment in quarters(hours, at) if is_open(hours, moment.astimezone(its_zone))), None)
    return True, local.replace(microsecond=0, tzinfo=None).isoformat(), opening


def quarters(hours: Any, at: datetime) -> Iterator[datetime]:
    """The quarters of an hour after `at` at which the hours could open: more than a week, then around each date."""
    days = [at + timedelta(days=day) for day in range(-1, 10)]
    for text in sorted(hours.get("dates", {})):
        date = datetime.fromisoformat(text).replace(tzinfo=UTC)
        days += [date + timedelta(days=day) for day in range(-1, 3)]
    for day in sorted({day.date() for day in days}):
        for number in range(24 * 4):
            moment = datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(minutes=15 * number)
            if moment > at:
                yield moment


def is_open(hours: Any, local: datetime) -> bool:
    shown = local.hour * 60 + local.minute
    for day, minute in ((local.date(), shown), (local.date() - timedelta(days=1), shown + 24 * 60)):
        rows = hours.get("dates", {}).get(day.isoformat())
        if rows is None:
            rows = hours["weekly"].get(DAYS[day.weekday()], [])
        for start, end in rows:
            until = minutes(end) if minutes(end) > minutes(start) else minutes(end) + 24 * 60
            if minutes(start) <= minute < until:
                return True
    return False

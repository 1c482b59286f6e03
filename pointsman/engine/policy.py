"""Policy rules: read once, strictly, into what `decide` asks of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NoReturn
from uuid import UUID

from pointsman.engine.faults import Fault

SCHEMA_VERSION = 1
STRATEGIES = ("priority", "rotation", "weighted")
TIE_BREAKERS = (
    "priority_rank",
    "weight",
    "sla_response_seconds",
    "least_recently_routed",
    "enrolled_at",
    "lead_hash",
    "buyer_id",
)
CONSTRAINTS = ("buyer_active", "acceptance_hours")
WHEN_INELIGIBLE = ("fail_closed", "fallback_allowed")
SLA_MODES = ("off", "prefer", "require")
LARGEST_INTEGER = 2**63 - 1
_SHOWN = 100

_ALWAYS_ENFORCED = (
    Fault.BUYER_MISSING
    | Fault.INACTIVE
    | Fault.BAD_ZONE_OF_CAPS
    | Fault.BAD_HOURLY_CAP
    | Fault.BAD_DAILY_CAP
    | Fault.BELOW_MIN_BALANCE
    | Fault.ZERO_CAP
)
_NEEDS_RESPONSE_TIME = frozenset({"sla_prefer", "sla_require", "sla_response_seconds"})
_STRATEGY_ORDERS_BY = {"priority": "priority_rank", "rotation": "least_recently_routed", "weighted": "score"}


class InvalidPolicy(ValueError):
    """The rules cannot be used; the message names the place and what stands there."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a valid policy asks for.

    `order` names what ranks buyers, first to last, SLA preference included; `enforced` has the bits of the faults of a
    row that matter.
    """

    strategy: str
    salt: bytes
    order: tuple[str, ...]
    buyer_active: bool
    acceptance_hours: bool
    fail_closed: bool
    sla_required: bool
    sla_preferred: bool
    max_response_seconds: int
    enforced: int


@dataclass(frozen=True, slots=True)
class Policy:
    """A row of `routing_policies`; `rules` is None, and `problem` says why, where they are invalid."""

    id: UUID
    offer_id: UUID | None
    vertical_id: UUID | None
    market_id: UUID | None
    version: int
    rules: Rules | None
    problem: str | None = None


def read_rules(document: object) -> Rules:
    """The rules in a decoded JSON document; raises `InvalidPolicy`."""
    rules = _object(
        "rules",
        document,
        required=("strategy", "tie_breakers", "constraints", "exclusivity"),
        optional=("schema", "sla"),
    )
    if _integer("schema", rules.get("schema", SCHEMA_VERSION)) != SCHEMA_VERSION:
        _refuse("schema", rules["schema"], f"the version {SCHEMA_VERSION}")
    strategy = _object("strategy", rules["strategy"], required=("kind",), optional=("salt",))
    kind = _one_of("strategy.kind", strategy["kind"], STRATEGIES)
    salt = strategy.get("salt", "")
    if not isinstance(salt, str):
        _refuse("strategy.salt", salt, "text")
    tie_breakers = _list_of("tie_breakers", rules["tie_breakers"], TIE_BREAKERS)
    if not tie_breakers or tie_breakers[-1] != "buyer_id":
        _refuse("tie_breakers", rules["tie_breakers"], "a list that ends with `buyer_id`")
    constraints = _list_of("constraints", rules["constraints"], CONSTRAINTS)
    exclusivity = _object("exclusivity", rules["exclusivity"], required=("when_ineligible",))
    when_ineligible = _one_of("exclusivity.when_ineligible", exclusivity["when_ineligible"], WHEN_INELIGIBLE)
    sla_mode, max_response_seconds = _sla(rules.get("sla", {"mode": "off"}))
    order = (*(("sla",) if sla_mode == "prefer" else ()), _STRATEGY_ORDERS_BY[kind], *tie_breakers)
    return Rules(
        strategy=kind,
        salt=_utf8("strategy.salt", salt),
        order=order,
        buyer_active="buyer_active" in constraints,
        acceptance_hours="acceptance_hours" in constraints,
        fail_closed=when_ineligible == "fail_closed",
        sla_required=sla_mode == "require",
        sla_preferred=sla_mode == "prefer",
        max_response_seconds=max_response_seconds,
        enforced=int(_enforced({*constraints, *order, f"sla_{sla_mode}"})),
    )


def specificity(policy: Policy) -> tuple[bool, bool, bool, int, int]:
    """The order in which matching policies win, smallest first: offer, vertical, market; version; id."""
    return (
        policy.offer_id is None,
        policy.vertical_id is None,
        policy.market_id is None,
        -policy.version,
        policy.id.int,
    )


def _enforced(uses: Collection[str]) -> Fault:
    """The faults of a row that matter to a policy that uses such constraints, orders and SLA mode."""
    faults = _ALWAYS_ENFORCED
    if "buyer_active" in uses:
        faults |= Fault.PAUSED
    if "acceptance_hours" in uses:
        faults |= Fault.BAD_HOURS | Fault.BAD_ZONE_OF_HOURS
    if "score" in uses:
        faults |= Fault.BAD_WEIGHT | Fault.ZERO_WEIGHT
    if "weight" in uses:
        faults |= Fault.BAD_WEIGHT
    if "priority_rank" in uses:
        faults |= Fault.BAD_PRIORITY_RANK
    if not _NEEDS_RESPONSE_TIME.isdisjoint(uses):
        faults |= Fault.BAD_SLA
    return faults


def _sla(document: object) -> tuple[str, int]:
    sla = _object("sla", document, required=("mode",), optional=("max_response_seconds",))
    mode = _one_of("sla.mode", sla["mode"], SLA_MODES)
    if "max_response_seconds" not in sla:
        if mode != "off":
            raise InvalidPolicy(f"`sla.max_response_seconds` is missing; the mode `{mode}` needs it")
        return mode, 0
    limit = _integer("sla.max_response_seconds", sla["max_response_seconds"])
    if limit < 0:
        _refuse("sla.max_response_seconds", limit, "zero or more")
    return mode, limit


def _object(place: str, value: object, required: Collection[str], optional: Collection[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        _refuse(place, value, "an object")
    inside = "" if place == "rules" else f"{place}."
    for key in required:
        if key not in value:
            raise InvalidPolicy(f"`{inside}{key}` is missing")
    for key in value:
        if key not in required and key not in optional:
            raise InvalidPolicy(f"`{inside}{_shown(key)[1:-1]}` is not a key that policies have")
    return value


def _list_of(place: str, value: object, allowed: Collection[str]) -> list[str]:
    if not isinstance(value, list):
        _refuse(place, value, "a list")
    for index, item in enumerate(value):
        _one_of(f"{place}[{index}]", item, allowed)
        if item in value[:index]:
            raise InvalidPolicy(f"`{place}` says `{item}` twice")
    return value


def _one_of(place: str, value: object, allowed: Collection[str]) -> str:
    if not isinstance(value, str) or value not in allowed:
        _refuse(place, value, "one of " + ", ".join(f"`{word}`" for word in allowed))
    return value


def _integer(place: str, value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        _refuse(place, value, "an integer")
    if abs(value) > LARGEST_INTEGER:
        _refuse(place, value, "a smaller number")
    return value


def _utf8(place: str, text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise InvalidPolicy(f"`{place}` is not text that can be written as UTF-8") from None


def _refuse(place: str, value: object, wanted: str) -> NoReturn:
    raise InvalidPolicy(f"`{place}` is `{_shown(value)}`; it must be {wanted}")


def _shown(value: object) -> str:
    """What stands there, on one line that can be written anywhere, however long and odd it is."""
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 4]}...{text[-1]}"

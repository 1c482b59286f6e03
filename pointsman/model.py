"""The nouns: frozen values that the store makes, the engine reads and the API shows.

Instants inside the router are whole microseconds since the Unix epoch, UTC, as PostgreSQL counts them; they become
`datetime` where a person or a program outside reads them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)
EARLIEST, LATEST = datetime(1969, 12, 31, tzinfo=UTC), datetime(9000, 1, 2, tzinfo=UTC)
"""What can be asked about: the years 1970 to 8999 on any clock, with room for windows and openings on both sides."""


def micros(instant: datetime) -> int:
    """Microseconds since the Unix epoch of an aware `instant`, exactly."""
    return (instant - EPOCH) // MICROSECOND


def instant(at: int) -> datetime:
    """The aware UTC datetime of `at` microseconds since the Unix epoch, within the range of `datetime`."""
    try:
        return EPOCH + timedelta(microseconds=at)
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC) if at > 0 else datetime.min.replace(tzinfo=UTC)


class OutcomeKind(StrEnum):
    """The answers to `route(lead_id)`."""

    ROUTED = "routed"
    ALREADY_ROUTED = "already_routed"
    NOT_VALIDATED = "not_validated"
    NO_ROUTE = "no_route"
    NO_ROUTE_EXCLUSIVE_FAIL_CLOSED = "no_route_exclusive_fail_closed"


class Cause(StrEnum):
    """Why nobody took a lead, in the order in which causes are looked for."""

    NO_POLICY = "no_policy"
    POLICY_INVALID = "policy_invalid"
    OFFER_INACTIVE = "offer_inactive"
    OFFER_VERTICAL_MISMATCH = "offer_vertical_mismatch"
    OFFER_MARKET_MISMATCH = "offer_market_mismatch"
    NO_ELIGIBLE_BUYERS = "no_eligible_buyers"


class Flag(StrEnum):
    """What exclusivity did to a decision, in the order in which it is told."""

    EXCLUSIVE = "exclusive"
    EXCLUSIVE_FALLBACK = "exclusive_fallback"
    EXCLUSIVITY_CONFLICT = "exclusivity_conflict"


class ReasonCode(StrEnum):
    """Why a buyer was not chosen, in the order in which reasons are listed."""

    ENROLLMENT_INACTIVE = "enrollment_inactive"
    GEO_MISSING = "geo_missing"
    NOT_IN_SERVICE_AREA = "not_in_service_area"
    INVALID_CONFIGURATION = "invalid_configuration"
    BUYER_PAUSED = "buyer_paused"
    OUTSIDE_ACCEPTANCE_HOURS = "outside_acceptance_hours"
    HOURLY_CAP_REACHED = "hourly_cap_reached"
    DAILY_CAP_REACHED = "daily_cap_reached"
    BELOW_MIN_BALANCE = "below_min_balance"
    SLA_TOO_SLOW = "sla_too_slow"
    ZERO_WEIGHT = "zero_weight"
    NOT_ENROLLED = "not_enrolled"
    HELD_BY_EXCLUSIVE_BUYER = "held_by_exclusive_buyer"


class Lead(NamedTuple):
    """A lead as it was read: the fields that a decision uses, and its state."""

    id: UUID
    offer_id: UUID | None
    vertical_id: UUID | None
    market_id: UUID | None
    postal_code: str | None
    city: str | None
    status: str = "validated"
    buyer_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """Why a buyer was not chosen: a code and its facts, ready for JSON save for instants and ids."""

    code: ReasonCode
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Outcome:
    """The answer to `route(lead_id)`, with the keys of the contract; instants are aware, in UTC."""

    lead_id: UUID
    outcome: OutcomeKind
    cause: Cause | None
    buyer_id: UUID | None
    status: str
    decision_id: int | None = None
    policy_id: UUID | None = None
    policy_version: int | None = None
    config_version: int | None = None
    decided_at: datetime | None = None
    flags: tuple[Flag, ...] = ()


@dataclass(frozen=True, slots=True)
class NearestMiss:
    """The smallest single change that would have made a buyer eligible: a word for it, and its facts."""

    change: str
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LostBy:
    """What put the winner before an eligible buyer: the step (`sla`, `strategy`, `tie_breaker`), by which value."""

    step: str
    by: str
    winner: Any
    own: Any


@dataclass(frozen=True, slots=True)
class Ranked:
    """An eligible buyer at its place; `position` is the decision that last served it, None before its first turn.

    `lost_by` is None for the first, and where nobody asked for it.
    """

    buyer_id: UUID
    rank: int
    priority_rank: int | None
    weight: int | None
    sla_response_seconds: int | None
    position: int | None
    lead_hash: str
    lost_by: LostBy | None = None


@dataclass(frozen=True, slots=True)
class Exclusion:
    """A buyer that is enrolled in the offer (or holds it) and was not eligible, with every reason.

    `nearest_miss` is None where no single change would have done, and where nobody asked for it.
    """

    buyer_id: UUID
    reasons: tuple[Reason, ...]
    nearest_miss: NearestMiss | None = None


@dataclass(frozen=True, slots=True)
class Explanation:
    """An outcome with everyone who could have had the lead: `eligible` in rank order, `excluded` by buyer."""

    outcome: Outcome
    eligible: tuple[Ranked, ...] = ()
    excluded: tuple[Exclusion, ...] = ()


@dataclass(frozen=True, slots=True)
class Record:
    """A row of `pointsman.decisions`: what was decided for a lead, and all that it was decided from."""

    decision_id: int
    lead: Lead
    attempt: int
    outcome: OutcomeKind
    cause: Cause | None
    flags: tuple[Flag, ...]
    buyer_id: UUID | None
    policy_id: UUID | None
    policy_version: int | None
    config_version: int
    decided_at: datetime
    state: bytes
    engine_version: str
    tzdata_version: str
    unicode_version: str
    digest: bytes

"""Who owns a place for an offer at an instant, and why: the exclusivities that match it, and everybody's standing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from uuid import UUID

from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import State
from pointsman.engine.configuration import Exclusivity
from pointsman.engine.decide import decide
from pointsman.engine.exclusivity import Holding, holding
from pointsman.engine.explain import explain
from pointsman.model import Cause, Exclusion, Flag, Lead, OutcomeKind, Ranked, Reason, instant

_DEPENDS_ON_LEAD = ("score", "lead_hash")


class Role(StrEnum):
    """What becomes of an exclusivity that matches a place."""

    COUNTS = "counts"
    SET_ASIDE = "set_aside"
    """Another of the same scope counts: it is valid since longer, or its id is smaller."""
    SHADOWED = "shadowed"
    """A more specific one counts."""
    NOT_YET = "not_yet"
    EXPIRED = "expired"


@dataclass(frozen=True, slots=True)
class Link:
    """One exclusivity that matches the place, most specific first."""

    role: Role
    exclusivity_id: UUID
    buyer_id: UUID
    scope: str
    value: str | None
    valid_from: datetime | None
    valid_to: datetime | None


@dataclass(frozen=True, slots=True)
class Ownership:
    """What would become of a lead from a place, and why.

    `holder` is the buyer of the exclusivity that counts, `holder_reasons` all that keeps it from the lead. `eligible`
    is in rank order; where `order_depends_on_lead` each lead has its own order, and this is one of them.
    """

    offer_id: UUID
    market_id: UUID | None
    postal_code: str | None
    city: str | None
    at: datetime
    config_version: int
    outcome: OutcomeKind
    cause: Cause | None
    flags: tuple[Flag, ...]
    policy_id: UUID | None
    when_ineligible: str | None
    chain: tuple[Link, ...]
    holder: UUID | None
    holder_reasons: tuple[Reason, ...]
    eligible: tuple[Ranked, ...]
    excluded: tuple[Exclusion, ...]
    order_depends_on_lead: bool


def ownership(indexes: Indexes, state: State, lead: Lead, at: int) -> Ownership:
    """Who gets `lead`, which stands for all of its place, at the instant `at` (microseconds)."""
    assert lead.offer_id is not None
    decision = decide(lead, indexes, state, at)
    standing = explain(decision, indexes, state)
    held = holding(indexes.exclusivities(lead), at)
    holder = None if held is None else held.exclusivity.buyer_id
    rules = None if decision.policy is None else decision.policy.rules
    why_not = [reason for excluded in standing.excluded if excluded.buyer_id == holder for reason in excluded.reasons]
    return Ownership(
        lead.offer_id,
        lead.market_id,
        lead.postal_code,
        lead.city,
        instant(at),
        indexes.version,
        decision.outcome,
        decision.cause,
        decision.flags,
        None if decision.policy is None else decision.policy.id,
        None if rules is None else "fail_closed" if rules.fail_closed else "fallback_allowed",
        tuple(_chain(indexes, lead, held, at)),
        holder,
        tuple(why_not),
        standing.eligible,
        standing.excluded,
        rules is not None and any(part in rules.order for part in _DEPENDS_ON_LEAD) and len(standing.eligible) > 1,
    )


def _chain(indexes: Indexes, lead: Lead, held: Holding | None, at: int) -> Iterator[Link]:
    for rows in indexes.exclusivities(lead):
        for row in rows:
            yield Link(
                _role(row, held, at),
                row.id,
                row.buyer_id,
                row.scope,
                row.value,
                None if row.valid_from is None else instant(row.valid_from),
                None if row.valid_to is None else instant(row.valid_to),
            )


def _role(row: Exclusivity, held: Holding | None, at: int) -> Role:
    if row.valid_from is not None and at < row.valid_from:
        return Role.NOT_YET
    if row.valid_to is not None and row.valid_to <= at:
        return Role.EXPIRED
    assert held is not None  # a valid row that matches is held by somebody
    if row.id == held.exclusivity.id:
        return Role.COUNTS
    return Role.SET_ASIDE if row.scope == held.exclusivity.scope else Role.SHADOWED

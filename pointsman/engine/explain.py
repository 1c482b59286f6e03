"""Everyone who could have had a lead: the eligible in rank order, the others with every reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision, Snapshot
from pointsman.engine.eligibility import reasons
from pointsman.engine.exclusivity import Holding, holding
from pointsman.engine.geo import city, postal_code
from pointsman.engine.policy import Rules
from pointsman.engine.strategy import Ranking, lead_hash
from pointsman.model import Exclusion, Flag, Lead, Ranked, Reason, ReasonCode


class WideSnapshot(Snapshot, Protocol):
    """A snapshot that can also be asked about those who do not cover the lead."""

    def enrolled(self, offer_id: UUID | None) -> Mapping[UUID, Enrollment]:
        """Every enrollment in the offer, by buyer."""

    def scopes(self, buyer_id: UUID, market_id: UUID | None) -> frozenset[str]:
        """The scopes of the buyer's active areas in the market."""


class Standing(NamedTuple):
    """Who could have had the lead, in rank order, and who not, in order of buyers."""

    eligible: tuple[Ranked, ...] = ()
    excluded: tuple[Exclusion, ...] = ()


def explain(decision: Decision, snapshot: WideSnapshot, state: State) -> Standing:
    """Everyone enrolled in the offer of a decision that was made on `snapshot` and `state`."""
    lead, policy = decision.lead, decision.policy
    # causes before the search for buyers leave nobody eligible and nobody excluded
    if policy is None or policy.rules is None or not _looked_at_buyers(decision):
        return Standing()
    held = holding(snapshot.exclusivities(lead), decision.at)
    covering = {enrollment.buyer_id: enrollment for enrollment in snapshot.covering(lead)}
    excluded = {
        enrollment.buyer_id: _why_not(enrollment, covering, snapshot, policy.rules, state, decision)
        for enrollment in snapshot.enrolled(lead.offer_id).values()
    }
    eligible = [enrollment for buyer_id, enrollment in covering.items() if not excluded[buyer_id]]
    if held is not None:
        holder = held.exclusivity.buyer_id
        if holder not in excluded:
            excluded[holder] = (Reason(ReasonCode.NOT_ENROLLED),)
        if Flag.EXCLUSIVE in decision.flags:
            for other in eligible:
                if other.buyer_id != holder:
                    excluded[other.buyer_id] = (_held(held),)
            eligible = [enrollment for enrollment in eligible if enrollment.buyer_id == holder]
    return Standing(
        _ranked(eligible, policy.rules, lead, state),
        tuple(
            Exclusion(buyer_id, why)
            for buyer_id, why in sorted(excluded.items(), key=lambda item: item[0].bytes)
            if why
        ),
    )


def _looked_at_buyers(decision: Decision) -> bool:
    return decision.cause is None or decision.cause == "no_eligible_buyers"


def _ranked(eligible: Sequence[Enrollment], rules: Rules, lead: Lead, state: State) -> tuple[Ranked, ...]:
    ranking = Ranking(rules, lead.id, state)
    return tuple(
        Ranked(
            enrollment.buyer_id,
            rank,
            enrollment.priority_rank,
            enrollment.weight,
            enrollment.sla_response_seconds,
            state.position(enrollment) or None,
            f"{lead_hash(lead.id, enrollment.buyer_id, rules.salt):016x}",
        )
        for rank, enrollment in enumerate(sorted(eligible, key=ranking.key), start=1)
    )


def _why_not(
    enrollment: Enrollment,
    covering: Mapping[UUID, Enrollment],
    snapshot: WideSnapshot,
    rules: Rules,
    state: State,
    decision: Decision,
) -> tuple[Reason, ...]:
    if enrollment.buyer is None or not enrollment.is_active or enrollment.buyer_id in covering:
        return reasons(enrollment, rules, state, decision.at)
    return (_not_covering(snapshot.scopes(enrollment.buyer_id, decision.lead.market_id), decision.lead),)


def _not_covering(scopes: frozenset[str], lead: Lead) -> Reason:
    """`geo_missing` where all of the buyer's areas in the market ask for what the lead lacks."""
    lacks = {
        scope
        for scope, value in (("postal_code", postal_code(lead.postal_code)), ("city", city(lead.city)))
        if value is None
    }
    if scopes and scopes <= lacks:
        return Reason(
            ReasonCode.GEO_MISSING, {"missing": [scope for scope in ("postal_code", "city") if scope in scopes]}
        )
    return Reason(ReasonCode.NOT_IN_SERVICE_AREA)


def _held(held: Holding) -> Reason:
    row = held.exclusivity
    return Reason(ReasonCode.HELD_BY_EXCLUSIVE_BUYER, {"buyer_id": row.buyer_id, "exclusivity_id": row.id})

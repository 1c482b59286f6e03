"""What was missing: the smallest single change that would have made a buyer eligible, and what an eligible one lost by.

Worked out only for who asks, from an explanation; a decision never looks at it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision
from pointsman.engine.eligibility import is_prompt, reasons
from pointsman.engine.exclusivity import holding
from pointsman.engine.explain import Standing, WideSnapshot
from pointsman.engine.faults import Fault
from pointsman.engine.geo import city, postal_code
from pointsman.engine.policy import Rules
from pointsman.engine.strategy import Ranking, lead_hash
from pointsman.model import Exclusion, Flag, Lead, LostBy, NearestMiss, Ranked, Reason, ReasonCode, instant, micros


def with_nearest(standing: Standing, decision: Decision, snapshot: WideSnapshot, state: State) -> Standing:
    """The same standing, with what each buyer in it would have needed."""
    policy = decision.policy
    if policy is None or policy.rules is None:
        return standing
    enrolled = snapshot.enrolled(decision.lead.offer_id)
    near = _Near(standing, decision, snapshot, state, policy.rules)
    ranking = Ranking(policy.rules, decision.lead.id, state)
    return Standing(
        tuple(
            replace(
                ranked, lost_by=_lost_by(ranked, standing.eligible[0], enrolled, policy.rules, ranking, decision.lead)
            )
            for ranked in standing.eligible
        ),
        tuple(replace(excluded, nearest_miss=near.of(excluded, enrolled)) for excluded in standing.excluded),
    )


def short_of_balance(standing: Standing) -> list[UUID]:
    """The buyers that lack nothing but balance."""
    return [
        excluded.buyer_id
        for excluded in standing.excluded
        if excluded.nearest_miss is not None and excluded.nearest_miss.change == "add_balance"
    ]


def with_balance(standing: Standing, missing: Mapping[UUID, Decimal | None]) -> Standing:
    """The same standing, with how much balance those lack that lack nothing else, as far as that is known."""
    told = {
        buyer_id: NearestMiss("add_balance", {"amount": str(amount)})
        for buyer_id, amount in missing.items()
        if amount is not None
    }
    return standing._replace(
        excluded=tuple(
            replace(excluded, nearest_miss=told.get(excluded.buyer_id, excluded.nearest_miss))
            for excluded in standing.excluded
        )
    )


class _Near:
    """Looks for the one change that would have made a buyer eligible."""

    def __init__(
        self, standing: Standing, decision: Decision, snapshot: WideSnapshot, state: State, rules: Rules
    ) -> None:
        self._decision = decision
        self._state = state
        self._rules = rules
        self._exclusivities = [list(rows) for rows in snapshot.exclusivities(decision.lead)]
        self._holder = self._holder_without(None) if Flag.EXCLUSIVE in decision.flags else None
        self._eligible_but_for_exclusivity = {ranked.buyer_id for ranked in standing.eligible} | {
            excluded.buyer_id for excluded in standing.excluded if _is_held(excluded)
        }
        self._covering = {enrollment.buyer_id for enrollment in snapshot.covering(decision.lead)}

    def of(self, excluded: Exclusion, enrolled: Mapping[UUID, Enrollment]) -> NearestMiss | None:
        enrollment = enrolled.get(excluded.buyer_id)
        if len(excluded.reasons) > 1 or enrollment is None or enrollment.buyer is None:
            return None
        reason = excluded.reasons[0]
        if _is_held(excluded):
            return self._ended(reason.facts["exclusivity_id"], excluded.buyer_id)
        if self._holder is not None and excluded.buyer_id != self._holder:
            return None  # the lead would still be another's
        if self._fails_besides(enrollment, reason.code):
            return None
        return self._change(reason)

    def _ended(self, exclusivity_id: UUID, buyer_id: UUID) -> NearestMiss | None:
        """The end of an exclusivity, unless it only kept another one from being the lead's."""
        next_holder = self._holder_without(exclusivity_id)
        if next_holder not in (None, buyer_id) and (
            self._rules.fail_closed or next_holder in self._eligible_but_for_exclusivity
        ):
            return None
        return NearestMiss("end_exclusivity", {"exclusivity_id": exclusivity_id})

    def _holder_without(self, exclusivity_id: UUID | None) -> UUID | None:
        """Who would hold the lead if there were no such exclusivity."""
        rest = ([row for row in rows if row.id != exclusivity_id] for rows in self._exclusivities)
        held = holding(rest, self._decision.at)
        return None if held is None else held.exclusivity.buyer_id

    def _fails_besides(self, enrollment: Enrollment, code: ReasonCode) -> bool:
        """Whether a buyer that was not examined for where it stands fails other checks too."""
        if code is ReasonCode.ENROLLMENT_INACTIVE:
            return enrollment.buyer_id not in self._covering or bool(
                reasons(_activated(enrollment), self._rules, self._state, self._decision.at)
            )
        if code in (ReasonCode.NOT_IN_SERVICE_AREA, ReasonCode.GEO_MISSING):
            return bool(reasons(enrollment, self._rules, self._state, self._decision.at))
        return False

    def _change(self, reason: Reason) -> NearestMiss | None:
        facts = reason.facts
        match reason.code:
            case ReasonCode.ENROLLMENT_INACTIVE:
                return NearestMiss("activate_enrollment")
            case ReasonCode.GEO_MISSING:
                return NearestMiss("complete_lead", {"missing": facts["missing"]})
            case ReasonCode.NOT_IN_SERVICE_AREA if self._decision.lead.market_id is not None:
                return NearestMiss("add_service_area", _area(self._decision.lead))
            case ReasonCode.INVALID_CONFIGURATION:
                return NearestMiss("repair", {"field": facts["field"]})
            case ReasonCode.BUYER_PAUSED:
                return NearestMiss("resume_buyer")
            case ReasonCode.OUTSIDE_ACCEPTANCE_HOURS:
                return self._later(facts["next_opening"])
            case ReasonCode.HOURLY_CAP_REACHED | ReasonCode.DAILY_CAP_REACHED:
                kind = "hour" if reason.code is ReasonCode.HOURLY_CAP_REACHED else "day"
                slots = facts["used"] - facts["cap"] + 1
                return NearestMiss("raise_cap", {"level": facts["level"], "window": kind, "slots": slots})
            case ReasonCode.BELOW_MIN_BALANCE:
                return NearestMiss("add_balance", {"amount": None})
            case ReasonCode.SLA_TOO_SLOW:
                return NearestMiss("respond_within", {"seconds": facts["max_response_seconds"]})
            case ReasonCode.ZERO_WEIGHT:
                return NearestMiss("raise_weight", {"weight": 1})
            case _:
                return None

    def _later(self, opening: Any) -> NearestMiss | None:
        if opening is None:
            return None
        return NearestMiss("later", {"seconds": -((self._decision.at - micros(opening)) // 1_000_000), "at": opening})


def _is_held(excluded: Exclusion) -> bool:
    return excluded.reasons[0].code is ReasonCode.HELD_BY_EXCLUSIVE_BUYER


def _activated(enrollment: Enrollment) -> Enrollment:
    """The enrollment as it would be if it were active."""
    image = {
        "buyer_id": enrollment.buyer_id,
        "offer_id": enrollment.offer_id,
        "priority_rank": enrollment.priority_rank,
        "weight": enrollment.weight,
        "enrolled_at": enrollment.enrolled_at,
        "hourly_cap": enrollment.caps.hourly,
        "daily_cap": enrollment.caps.daily,
        "is_active": True,
    }
    made = Enrollment(image, None, enrollment.changed)
    made.own = enrollment.own._replace(faults=enrollment.own.faults & ~Fault.INACTIVE)
    made.belong_to(enrollment.buyer)
    return made


def _area(lead: Lead) -> dict[str, Any]:
    """The narrowest areas that would hold the lead, either of which would do; the market where it has no more."""
    places = {"postal_code": postal_code(lead.postal_code), "city": city(lead.city)}
    return {"market_id": lead.market_id, **{scope: value for scope, value in places.items() if value is not None}}


def _lost_by(
    ranked: Ranked,
    first: Ranked,
    enrolled: Mapping[UUID, Enrollment],
    rules: Rules,
    ranking: Ranking,
    lead: Lead,
) -> LostBy | None:
    """The first part of the order in which the winner stands before this one; None for the winner."""
    if ranked is first:
        return None
    winner, loser = enrolled[first.buyer_id], enrolled[ranked.buyer_id]
    for place, (name, one, other) in enumerate(zip(rules.order, ranking.key(winner), ranking.key(loser), strict=True)):
        if one != other:
            step = "sla" if name == "sla" else "strategy" if place == rules.sla_preferred else "tie_breaker"
            return LostBy(
                step, name, _value(name, winner, first, rules, lead), _value(name, loser, ranked, rules, lead)
            )
    return None


def _value(name: str, enrollment: Enrollment, ranked: Ranked, rules: Rules, lead: Lead) -> Any:
    """What the buyer has in a part of the order, for people."""
    match name:
        case "sla":
            return is_prompt(enrollment, rules)
        case "least_recently_routed":
            return ranked.position
        case "enrolled_at":
            return None if enrollment.enrolled_at is None else instant(enrollment.enrolled_at)
        case "score":
            return {"weight": enrollment.weight, "lead_hash": ranked.lead_hash}
        case "lead_hash":
            return f"{lead_hash(lead.id, enrollment.buyer_id, rules.salt):016x}"
        case "buyer_id":
            return enrollment.buyer_id
        case _:
            return getattr(ranked, name)

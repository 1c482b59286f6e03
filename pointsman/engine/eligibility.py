"""Why a buyer may not have a lead: every check that fails, worked out only when somebody asks."""

from __future__ import annotations

from pointsman.engine.capacity import State, caps
from pointsman.engine.configuration import Enrollment
from pointsman.engine.faults import Fault
from pointsman.engine.policy import Rules
from pointsman.model import Reason, ReasonCode, instant

_FIELDS = (
    ("acceptance_hours", Fault.BAD_HOURS),
    ("timezone", Fault.BAD_ZONE_OF_HOURS | Fault.BAD_ZONE_OF_CAPS),
    ("hourly_cap", Fault.BAD_HOURLY_CAP),
    ("daily_cap", Fault.BAD_DAILY_CAP),
    ("priority_rank", Fault.BAD_PRIORITY_RANK),
    ("weight", Fault.BAD_WEIGHT),
    ("sla_response_seconds", Fault.BAD_SLA),
)


def reasons(enrollment: Enrollment, rules: Rules, state: State, at: int) -> tuple[Reason, ...]:
    """All that keeps a covering enrollment from the lead, in the contract's order; empty for an eligible one."""
    standing = Fault(enrollment.faults & rules.enforced)
    if Fault.BUYER_MISSING in standing:
        return (_invalid("buyer"),)
    if Fault.INACTIVE in standing:
        return (Reason(ReasonCode.ENROLLMENT_INACTIVE),)
    buyer = enrollment.buyer
    assert buyer is not None
    found = [_invalid(field) for field, faults in _FIELDS if standing & faults]
    if standing & Fault.PAUSED:
        found.append(Reason(ReasonCode.BUYER_PAUSED))
    if rules.acceptance_hours and buyer.hours is not None and not buyer.hours.is_open(at):
        found.append(_outside_hours(enrollment, at))
    found += _full_caps(enrollment, state, at)
    if standing & Fault.BELOW_MIN_BALANCE:
        found.append(Reason(ReasonCode.BELOW_MIN_BALANCE))
    if rules.sla_required and not is_prompt(enrollment, rules):
        found.append(_too_slow(enrollment, rules))
    if standing & Fault.ZERO_WEIGHT:
        found.append(Reason(ReasonCode.ZERO_WEIGHT))
    return tuple(found)


def is_prompt(enrollment: Enrollment, rules: Rules) -> bool:
    """Whether the buyer's response time is known and within the policy's limit."""
    buyer = enrollment.buyer
    seconds = None if buyer is None else buyer.sla_response_seconds
    return seconds is not None and seconds <= rules.max_response_seconds


def _full_caps(enrollment: Enrollment, state: State, at: int) -> list[Reason]:
    return [
        Reason(
            ReasonCode.HOURLY_CAP_REACHED if cap.window.kind == "hour" else ReasonCode.DAILY_CAP_REACHED,
            {
                "level": cap.level,
                "used": state.usage(cap.counter),
                "cap": cap.limit,
                "window_start": cap.window.opens,
                "window_end": cap.window.closes,
            },
        )
        for cap in caps(enrollment, at)
        if state.usage(cap.counter) >= cap.limit
    ]


def _outside_hours(enrollment: Enrollment, at: int) -> Reason:
    assert enrollment.buyer is not None
    assert enrollment.buyer.hours is not None
    hours = enrollment.buyer.hours
    opening = hours.next_opening(at)
    return Reason(
        ReasonCode.OUTSIDE_ACCEPTANCE_HOURS,
        {
            "timezone": hours.zone.name,
            "local_time": hours.zone.local(at),
            "next_opening": None if opening is None else instant(opening),
        },
    )


def _too_slow(enrollment: Enrollment, rules: Rules) -> Reason:
    return Reason(
        ReasonCode.SLA_TOO_SLOW,
        {
            "sla_response_seconds": enrollment.sla_response_seconds,
            "max_response_seconds": rules.max_response_seconds,
        },
    )


def _invalid(field: str) -> Reason:
    return Reason(ReasonCode.INVALID_CONFIGURATION, {"field": field})

"""Who may have a lead: every check of CONTRACT 4.1, as bits first, as reasons only when somebody asks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from pointsman.engine.capacity import State, caps
from pointsman.engine.configuration import Enrollment, Fault
from pointsman.engine.policy import Rules
from pointsman.model import Reason, ReasonCode, instant

CAPS = (
    Fault.HOURLY_CAP_OF_ENROLLMENT
    | Fault.HOURLY_CAP_OF_BUYER
    | Fault.DAILY_CAP_OF_ENROLLMENT
    | Fault.DAILY_CAP_OF_BUYER
)

_ALWAYS = (
    Fault.BUYER_MISSING
    | Fault.INACTIVE
    | Fault.BAD_ZONE_OF_CAPS
    | Fault.BAD_HOURLY_CAP
    | Fault.BAD_DAILY_CAP
    | Fault.BELOW_MIN_BALANCE
)

_FIELDS = (
    ("acceptance_hours", Fault.BAD_HOURS),
    ("timezone", Fault.BAD_ZONE_OF_HOURS | Fault.BAD_ZONE_OF_CAPS),
    ("hourly_cap", Fault.BAD_HOURLY_CAP),
    ("daily_cap", Fault.BAD_DAILY_CAP),
    ("priority_rank", Fault.BAD_PRIORITY_RANK),
    ("weight", Fault.BAD_WEIGHT),
    ("sla_response_seconds", Fault.BAD_SLA),
)


class Screened(NamedTuple):
    """Covering enrollments by how they stand: `full` are those that nothing but a cap keeps from the lead."""

    eligible: list[Enrollment]
    full: list[Enrollment]


def enforced(rules: Rules) -> int:
    """The faults of a row that matter under `rules`, as bits."""
    faults = _ALWAYS
    if rules.buyer_active:
        faults |= Fault.PAUSED
    if rules.acceptance_hours:
        faults |= Fault.BAD_HOURS | Fault.BAD_ZONE_OF_HOURS
    if rules.strategy == "weighted":
        faults |= Fault.BAD_WEIGHT | Fault.ZERO_WEIGHT
    if "weight" in rules.order:
        faults |= Fault.BAD_WEIGHT
    if "priority_rank" in rules.order:
        faults |= Fault.BAD_PRIORITY_RANK
    if rules.sla_required or rules.sla_preferred or "sla_response_seconds" in rules.order:
        faults |= Fault.BAD_SLA
    return int(faults)


def screen(covering: Iterable[Enrollment], rules: Rules, state: State, at: int) -> Screened:
    """Sort covering enrollments into those that can have the lead at `at`, and those whose caps alone forbid it."""
    matters = enforced(rules)
    screened = Screened([], [])
    for enrollment in covering:
        found = enrollment.faults & matters or _faults_now(enrollment, rules, at)
        if found:
            continue
        if is_full(enrollment, state, at):
            screened.full.append(enrollment)
        else:
            screened.eligible.append(enrollment)
    return screened


def is_full(enrollment: Enrollment, state: State, at: int) -> bool:
    """Whether any cap that binds `enrollment` has no room as far as `state` knows."""
    return any(state.usage(cap) >= cap.limit for cap in caps(enrollment, at))


def reasons(enrollment: Enrollment, rules: Rules, state: State, at: int) -> tuple[Reason, ...]:
    """All that keeps a covering enrollment from the lead, in the contract's order; empty for an eligible one."""
    standing = Fault(enrollment.faults & enforced(rules))
    if Fault.BUYER_MISSING in standing:
        return (_invalid("buyer"),)
    if Fault.INACTIVE in standing:
        return (Reason(ReasonCode.ENROLLMENT_INACTIVE),)
    now = _faults_now(enrollment, rules, at)
    found = [_invalid(field) for field, faults in _FIELDS if standing & faults]
    if standing & Fault.PAUSED:
        found.append(Reason(ReasonCode.BUYER_PAUSED))
    if now & Fault.CLOSED:
        found.append(_outside_hours(enrollment, at))
    found += _full_caps(enrollment, state, at)
    if standing & Fault.BELOW_MIN_BALANCE:
        found.append(Reason(ReasonCode.BELOW_MIN_BALANCE))
    if now & Fault.SLA_TOO_SLOW:
        found.append(_too_slow(enrollment, rules))
    if standing & Fault.ZERO_WEIGHT:
        found.append(Reason(ReasonCode.ZERO_WEIGHT))
    return tuple(found)


def _faults_now(enrollment: Enrollment, rules: Rules, at: int) -> int:
    """The checks that the instant or the policy's own limit decides, of an enrollment with a buyer."""
    buyer = enrollment.buyer
    assert buyer is not None
    found = 0
    if rules.acceptance_hours and buyer.hours is not None and not buyer.hours.is_open(at):
        found = int(Fault.CLOSED)
    if rules.sla_required and not is_prompt(enrollment, rules):
        found |= Fault.SLA_TOO_SLOW
    return found


def is_prompt(enrollment: Enrollment, rules: Rules) -> bool:
    """Whether the buyer's response time is known and within the policy's limit."""
    seconds = enrollment.buyer.sla_response_seconds if enrollment.buyer else None
    return seconds is not None and seconds <= rules.max_response_seconds


def _full_caps(enrollment: Enrollment, state: State, at: int) -> list[Reason]:
    return [
        Reason(
            ReasonCode.HOURLY_CAP_REACHED if cap.window.kind == "hour" else ReasonCode.DAILY_CAP_REACHED,
            {
                "level": cap.level,
                "used": state.usage(cap),
                "cap": cap.limit,
                "window_start": cap.window.opens,
                "window_end": cap.window.closes,
            },
        )
        for cap in caps(enrollment, at)
        if state.usage(cap) >= cap.limit
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
    assert enrollment.buyer is not None
    return Reason(
        ReasonCode.SLA_TOO_SLOW,
        {
            "sla_response_seconds": enrollment.buyer.sla_response_seconds,
            "max_response_seconds": rules.max_response_seconds,
        },
    )


def _invalid(field: str) -> Reason:
    return Reason(ReasonCode.INVALID_CONFIGURATION, {"field": field})

"""Reasons and outcomes in plain sentences, for people: the demo and the command line say them in these words."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from math import ceil
from typing import Any, Final, NamedTuple

from pointsman.engine.zones import zone as known_zone
from pointsman.model import Cause, Flag, NearestMiss, Outcome, OutcomeKind, Reason, ReasonCode, micros

Facts = Mapping[str, Any]


def sentence(
    reason: Reason, name: Callable[[object], str] = str, now: datetime | None = None, zone: str | None = None
) -> str:
    """Why a buyer was not chosen; `name` turns another buyer's id into what people call it.

    With `now`, the instant that was decided on, it also says how long there is to wait. `zone` is the buyer's, an IANA
    name; times are told on its clock, and in UTC where it is None or unknown.
    """
    say = _REASONS[reason.code]
    return say if isinstance(say, str) else say({**reason.facts, "clock": _Clock(zone, now)}, name)


def needed(miss: NearestMiss) -> str:
    """The one change that would have made a buyer eligible."""
    say = _CHANGES[miss.change]
    return say if isinstance(say, str) else say(miss.facts)


def headline(outcome: Outcome, name: Callable[[object], str] = str) -> str:
    """What became of a lead."""
    flags = "".join(f" {_FLAGS[flag]}" for flag in outcome.flags)
    if outcome.outcome is OutcomeKind.NO_ROUTE and outcome.cause is not None:
        return f"Nobody takes this lead: {_CAUSES[outcome.cause]}.{flags}"
    return _OUTCOMES[outcome.outcome].format(buyer=name(outcome.buyer_id), status=outcome.status) + flags


class _Clock(NamedTuple):
    """How instants are told: on the clock of `zone`, and by how far they are from `now` where that is known."""

    zone: str | None
    now: datetime | None

    @property
    def place(self) -> str:
        """The zone whose clock it is."""
        return "UTC" if self.zone is None or known_zone(self.zone) is None else self.zone

    def time(self, at: datetime | str) -> str:
        """An instant to the minute, without its date within a day of `now`."""
        local = known_zone(self.place)
        assert local is not None
        date, _, time = local.local(micros(_instant(at))).partition("T")
        is_near = self.now is not None and abs(_instant(at) - self.now) < timedelta(days=1)
        return time[:5] if is_near else f"{date} {time[:5]}"

    def until(self, at: datetime | str) -> str:
        """An instant to come, and how long there is to wait for it."""
        return self.time(at) + ("" if self.now is None else f", in {_span((_instant(at) - self.now).total_seconds())}")


def _instant(at: datetime | str) -> datetime:
    """Explanations that came over HTTP have their instants as text."""
    return datetime.fromisoformat(at) if isinstance(at, str) else at


def _cap(facts: Facts, kind: str) -> str:
    whose = "own" if facts["level"] == "buyer" else "enrollment's"
    if facts["cap"] == 0:
        return f"gets nothing, since its {whose} {kind} cap is 0"
    clock: _Clock = facts["clock"]
    full = f"{facts['used']} of {facts['cap']} since {clock.time(facts['window_start'])} {clock.place}"
    return f"has reached its {whose} {kind} cap ({full}; room again at {clock.until(facts['window_end'])})"


def _hourly(facts: Facts, _: Callable[[object], str]) -> str:
    return _cap(facts, "hourly")


def _daily(facts: Facts, _: Callable[[object], str]) -> str:
    return _cap(facts, "daily")


def _closed(facts: Facts, _: Callable[[object], str]) -> str:
    opening, clock = facts["next_opening"], _Clock(facts["timezone"], facts["clock"].now)
    when = "never opens" if opening is None else f"opens at {clock.until(opening)}"
    local = str(facts["local_time"])[11:16]
    return f"is outside its acceptance hours (it is {local} in {facts['timezone']}; {when})"


def _slow(facts: Facts, _: Callable[[object], str]) -> str:
    seconds, limit = facts["sla_response_seconds"], facts["max_response_seconds"]
    answers = "promises no response time" if seconds is None else f"responds within {seconds} s"
    return f"{answers}; the policy requires {limit} s or less"


def _missing(facts: Facts, _: Callable[[object], str]) -> str:
    lacking = " or ".join(_FIELDS.get(field, field) for field in facts["missing"])
    return f"serves only areas by {lacking} there, which the lead lacks"


def _unreadable(facts: Facts, _: Callable[[object], str]) -> str:
    field = facts["field"]
    return "is enrolled but does not exist" if field == "buyer" else f"has a `{field}` that cannot be used"


def _held(facts: Facts, name: Callable[[object], str]) -> str:
    return f"could take it, but {name(facts['buyer_id'])} holds the offer exclusively there"


def _span(seconds: float) -> str:
    """A span of time in whole minutes, rounded up."""
    hours, minutes = divmod(ceil(seconds / 60), 60)
    parts = (f"{hours:,} h" if hours else "", f"{minutes} min" if minutes or not hours else "")
    return " ".join(filter(None, parts))


def _area(facts: Facts) -> str:
    places = [str(facts[key]) for key in ("postal_code", "city") if key in facts]
    return "a service area for " + (" or ".join(places) or "the lead's market")


def _wait(facts: Facts) -> str:
    return f"{_span(facts['seconds'])} later"


def _slots(facts: Facts) -> str:
    per = {"hour": "hourly", "day": "daily"}[facts["window"]]
    return f"{facts['slots']} more {per} slot{'' if facts['slots'] == 1 else 's'}"


def _money(facts: Facts) -> str:
    return "more balance" if facts["amount"] is None else f"{facts['amount']} more balance"


_FIELDS: Final = {"postal_code": "postal code", "city": "city"}

_REASONS: Final[dict[ReasonCode, str | Callable[[Facts, Callable[[object], str]], str]]] = {
    ReasonCode.ENROLLMENT_INACTIVE: "is enrolled in the offer, but not active there",
    ReasonCode.GEO_MISSING: _missing,
    ReasonCode.NOT_IN_SERVICE_AREA: "does not serve the lead's area",
    ReasonCode.INVALID_CONFIGURATION: _unreadable,
    ReasonCode.BUYER_PAUSED: "is paused",
    ReasonCode.OUTSIDE_ACCEPTANCE_HOURS: _closed,
    ReasonCode.HOURLY_CAP_REACHED: _hourly,
    ReasonCode.DAILY_CAP_REACHED: _daily,
    ReasonCode.BELOW_MIN_BALANCE: "has a balance below its minimum",
    ReasonCode.SLA_TOO_SLOW: _slow,
    ReasonCode.ZERO_WEIGHT: "has weight 0 and is never chosen by weight",
    ReasonCode.NOT_ENROLLED: "holds the offer exclusively there, but is not enrolled in it",
    ReasonCode.HELD_BY_EXCLUSIVE_BUYER: _held,
}

_CHANGES: Final[dict[str, str | Callable[[Facts], str]]] = {
    "activate_enrollment": "an active enrollment",
    "complete_lead": lambda facts: "a lead with a " + " or ".join(_FIELDS[field] for field in facts["missing"]),
    "add_service_area": _area,
    "repair": lambda facts: f"a `{facts['field']}` that can be used",
    "resume_buyer": "to be resumed",
    "later": _wait,
    "raise_cap": _slots,
    "add_balance": _money,
    "respond_within": lambda facts: f"a response within {facts['seconds']} s",
    "raise_weight": "a weight of 1",
    "end_exclusivity": "the exclusivity to end",
}

_CAUSES: Final = {
    Cause.NO_POLICY: "no policy is meant for it",
    Cause.POLICY_INVALID: "the rules of its policy are invalid",
    Cause.OFFER_INACTIVE: "its offer is not active",
    Cause.OFFER_VERTICAL_MISMATCH: "its offer belongs to another vertical",
    Cause.OFFER_MARKET_MISMATCH: "its offer is for another market",
    Cause.NO_ELIGIBLE_BUYERS: "no buyer is eligible",
}

_OUTCOMES: Final = {
    OutcomeKind.ROUTED: "This lead goes to {buyer}.",
    OutcomeKind.ALREADY_ROUTED: "This lead went to {buyer} before.",
    OutcomeKind.NOT_VALIDATED: "This lead has the status `{status}`; only a validated one can be routed.",
    OutcomeKind.NO_ROUTE: "Nobody takes this lead.",
    OutcomeKind.NO_ROUTE_EXCLUSIVE_FAIL_CLOSED: (
        "Nobody takes this lead: the buyer that holds the offer exclusively there is not eligible."
    ),
}

_FLAGS: Final = {
    Flag.EXCLUSIVE: "An exclusivity decided.",
    Flag.EXCLUSIVE_FALLBACK: "An exclusive buyer was not eligible and was passed over.",
    Flag.EXCLUSIVITY_CONFLICT: "Two exclusivities claim the same; the earlier counts.",
}

"""The JSON of outcomes, explanations, records and errors, keys and order as the contract has them.

Instants become RFC 3339 text in UTC with `Z`, ids of rows text, decision ids stay integers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from pointsman.errors import (
    Busy,
    DatabaseUnfit,
    DecisionDiffers,
    DecisionNotFound,
    HistoryHole,
    HistoryPruned,
    InvalidHypothesis,
    LeadNotFound,
    NotReady,
    PointsmanError,
    Refused,
    StoreUnavailable,
)
from pointsman.model import Exclusion, Explanation, LostBy, Outcome, Ranked, Reason, Record

Json = dict[str, Any]

PROBLEM_TYPE = "urn:pointsman:problem:"


class Kind(NamedTuple):
    """A kind of problem: the end of its `type` URI, its HTTP status, and after how many seconds to try again."""

    slug: str
    status: int
    retry_after: int | None = None


KINDS: dict[type[PointsmanError], Kind] = {
    LeadNotFound: Kind("lead-not-found", 404),
    DecisionNotFound: Kind("decision-not-found", 404),
    Refused: Kind("refused", 409),
    HistoryPruned: Kind("history-pruned", 410),
    HistoryHole: Kind("history-hole", 410),
    DecisionDiffers: Kind("decision-differs", 410),
    InvalidHypothesis: Kind("invalid-hypothesis", 422),
    Busy: Kind("busy", 503, 1),
    NotReady: Kind("not-ready", 503, 1),
    StoreUnavailable: Kind("store-unavailable", 503, 2),
    DatabaseUnfit: Kind("database-unfit", 503, 30),
}
"""What an error is to a caller; a subclass counts as the nearest of its bases here."""

INTERNAL = Kind("internal-error", 500)


def kind_of(error: PointsmanError) -> Kind:
    """The kind of problem that `error` is."""
    return next((KINDS[base] for base in type(error).__mro__ if base in KINDS), INTERNAL)


def outcome_json(outcome: Outcome) -> Json:
    """The answer to `route`."""
    return {
        "lead_id": str(outcome.lead_id),
        "outcome": outcome.outcome,
        "cause": outcome.cause,
        "buyer_id": _id(outcome.buyer_id),
        "status": outcome.status,
        "decision_id": outcome.decision_id,
        "policy_id": _id(outcome.policy_id),
        "policy_version": outcome.policy_version,
        "config_version": outcome.config_version,
        "decided_at": _instant(outcome.decided_at),
        "flags": list(outcome.flags),
    }


def answer_json(lead_id: UUID, answer: Outcome | PointsmanError) -> Json:
    """The entry of one lead in a batch."""
    if isinstance(answer, PointsmanError):
        return {"lead_id": str(lead_id), "error": problem(answer)}
    return outcome_json(answer)


def explanation_json(explanation: Explanation) -> Json:
    """An outcome with everyone who could have had the lead."""
    return {
        "outcome": outcome_json(explanation.outcome),
        "eligible": [_ranked(ranked) for ranked in explanation.eligible],
        "excluded": [_excluded(exclusion) for exclusion in explanation.excluded],
    }


def reason_json(reason: Reason) -> Json:
    """A reason's code with its facts flat beside it."""
    return {"code": reason.code, **{name: plain(fact) for name, fact in reason.facts.items()}}


def record_json(record: Record) -> Json:
    """A recorded decision: the outcome's keys without `status`, then what it was decided from."""
    lead = record.lead
    return {
        "lead_id": str(lead.id),
        "outcome": record.outcome,
        "cause": record.cause,
        "buyer_id": _id(record.buyer_id),
        "decision_id": record.decision_id,
        "policy_id": _id(record.policy_id),
        "policy_version": record.policy_version,
        "config_version": record.config_version,
        "decided_at": _instant(record.decided_at),
        "flags": list(record.flags),
        "attempt": record.attempt,
        "offer_id": _id(lead.offer_id),
        "vertical_id": _id(lead.vertical_id),
        "market_id": _id(lead.market_id),
        "postal_code": lead.postal_code,
        "city": lead.city,
        "engine_version": record.engine_version,
        "tzdata_version": record.tzdata_version,
        "unicode_version": record.unicode_version,
        "digest": record.digest.hex(),
    }


def problem(error: PointsmanError) -> Json:
    """The error as an RFC 9457 problem detail."""
    kind = kind_of(error)
    title = _title(error)
    return problem_detail(kind, title, str(error) or title)


def problem_detail(kind: Kind, title: str, detail: str, **extensions: Any) -> Json:
    """An RFC 9457 problem detail; `title` stays the same for every problem of the kind."""
    return {"type": PROBLEM_TYPE + kind.slug, "title": title, "status": kind.status, "detail": detail, **extensions}


def plain(value: object) -> Any:
    """`value` in what JSON has, whatever its depth."""
    if isinstance(value, datetime):
        return _instant(value)
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Iterable) and not isinstance(value, str):
        return [plain(item) for item in value]
    return value


def _ranked(ranked: Ranked) -> Json:
    return {
        "buyer_id": str(ranked.buyer_id),
        "rank": ranked.rank,
        "priority_rank": ranked.priority_rank,
        "weight": ranked.weight,
        "sla_response_seconds": ranked.sla_response_seconds,
        "position": ranked.position,
        "lead_hash": ranked.lead_hash,
        "lost_by": _lost_by(ranked.lost_by),
    }


def _excluded(exclusion: Exclusion) -> Json:
    miss = exclusion.nearest_miss
    return {
        "buyer_id": str(exclusion.buyer_id),
        "reasons": [reason_json(reason) for reason in exclusion.reasons],
        "nearest_miss": None if miss is None else {"change": miss.change, **plain(miss.facts)},
    }


def _lost_by(lost: LostBy | None) -> Json | None:
    if lost is None:
        return None
    return {"step": lost.step, "by": lost.by, "winner": plain(lost.winner), "own": plain(lost.own)}


def _title(error: PointsmanError) -> str:
    listed = next((base for base in type(error).__mro__ if base in KINDS), PointsmanError)
    return (listed.__doc__ or "").rstrip(".")


def _id(value: UUID | None) -> str | None:
    return None if value is None else str(value)


def _instant(value: datetime | None) -> str | None:
    return None if value is None else value.astimezone(UTC).replace(tzinfo=None).isoformat() + "Z"

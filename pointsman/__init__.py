"""Pointsman routes validated leads: each goes to exactly one buyer, by rules that live in the database, or the answer
is an explicit "nobody, and here is why". Decisions are made in memory, proved and written in one claim, deterministic,
explained and replayable; caps are exact, and no decision ever commits on stale configuration.
"""

from pointsman.errors import (
    Busy,
    DatabaseUnfit,
    DecisionNotFound,
    HistoryPruned,
    InvalidHypothesis,
    LeadNotFound,
    NotReady,
    PointsmanError,
    Refused,
    StoreUnavailable,
    UnsuitableTransaction,
)
from pointsman.model import (
    Cause,
    Exclusion,
    Explanation,
    Flag,
    Lead,
    LostBy,
    NearestMiss,
    Outcome,
    OutcomeKind,
    Ranked,
    Reason,
    ReasonCode,
    Record,
)
from pointsman.router import Router

__all__ = [
    "Busy",
    "Cause",
    "DatabaseUnfit",
    "DecisionNotFound",
    "Exclusion",
    "Explanation",
    "Flag",
    "HistoryPruned",
    "InvalidHypothesis",
    "Lead",
    "LeadNotFound",
    "LostBy",
    "NearestMiss",
    "NotReady",
    "Outcome",
    "OutcomeKind",
    "PointsmanError",
    "Ranked",
    "Reason",
    "ReasonCode",
    "Record",
    "Refused",
    "Router",
    "StoreUnavailable",
    "UnsuitableTransaction",
]

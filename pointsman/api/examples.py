"""An example of every outcome and of every error, written as the service writes them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from pointsman import errors
from pointsman.api import problems
from pointsman.api.problems import problem_of
from pointsman.errors import PointsmanError
from pointsman.model import (
    Cause,
    Exclusion,
    Explanation,
    Flag,
    Lead,
    Outcome,
    OutcomeKind,
    Ranked,
    Reason,
    ReasonCode,
    Record,
)
from pointsman.wire import INTERNAL, answer_json, explanation_json, outcome_json, plain, problem, record_json

Examples = dict[str, Any]

LEAD = UUID("6f1e0c9e-3c2f-4a55-9d6f-1b1f6f0e2a10")
BUYER, OTHER, THIRD = (UUID(f"{start}-7a83-4e0b-8d3f-2f5b7b1f9c11") for start in ("0d0c8f5e", "51c2d0aa", "9e8d7c6b"))
POLICY = UUID("b7a3c1de-95b0-4a6e-8a52-0c1de2f3a412")
OFFER = UUID("c0ffee00-2b1a-4d3c-8e5f-6a7b8c9d0e17")
PLACE = (UUID("00000000-0000-4000-8000-00000000000a"), UUID("00000000-0000-4000-8000-00000000000b"), "60614", "Chicago")
AT = datetime(2026, 3, 2, 15, 4, 5, 678901, UTC)

_DECISION = (4711, POLICY, 3, 1289, AT)
_ROUTED = Outcome(LEAD, OutcomeKind.ROUTED, None, BUYER, "routed", *_DECISION)

OUTCOMES: dict[str, Outcome] = {
    "routed": _ROUTED,
    "already_routed": Outcome(LEAD, OutcomeKind.ALREADY_ROUTED, None, BUYER, "routed", *_DECISION, (Flag.EXCLUSIVE,)),
    "already_routed_by_another": Outcome(LEAD, OutcomeKind.ALREADY_ROUTED, None, BUYER, "delivered"),
    "not_validated": Outcome(LEAD, OutcomeKind.NOT_VALIDATED, None, None, "rejected"),
    **{
        cause: Outcome(
            LEAD,
            OutcomeKind.NO_ROUTE,
            cause,
            None,
            "validated",
            *(_DECISION if cause is not Cause.NO_POLICY else (4711, None, None, 1289, AT)),
        )
        for cause in Cause
    },
    "no_route_exclusive_fail_closed": Outcome(
        LEAD,
        OutcomeKind.NO_ROUTE_EXCLUSIVE_FAIL_CLOSED,
        None,
        None,
        "validated",
        *_DECISION,
        (Flag.EXCLUSIVE,),
    ),
}
"""By name; the causes of `no_route` stand for themselves."""

_NOW = Explanation(
    Outcome(LEAD, OutcomeKind.ROUTED, None, BUYER, "validated", None, POLICY, 3, 1289, AT),
    (Ranked(BUYER, 1, 10, 1, 120, 4630, "3f9a0c5512e4b7d8"),),
    (
        Exclusion(
            OTHER,
            (
                Reason(
                    ReasonCode.HOURLY_CAP_REACHED,
                    {
                        "level": "enrollment",
                        "used": 5,
                        "cap": 5,
                        "window_start": AT.replace(minute=0, second=0, microsecond=0),
                        "window_end": AT.replace(hour=16, minute=0, second=0, microsecond=0),
                    },
                ),
            ),
        ),
        Exclusion(THIRD, (Reason(ReasonCode.NOT_IN_SERVICE_AREA),)),
    ),
)
_RECORD = Record(
    *(4711, Lead(LEAD, OFFER, *PLACE), 1, OutcomeKind.ROUTED, None, (), BUYER, POLICY, 3, 1289, AT, b""),
    *("0.1.0", "2026f", "14.0.0", bytes.fromhex("5d41402abc4b2a76b9719d911017c592")),
)

ANSWERS: dict[str, Examples] = {
    "Outcome": {name: outcome_json(outcome) for name, outcome in OUTCOMES.items()},
    "Batch": {"answers": [outcome_json(_ROUTED), answer_json(OTHER, errors.LeadNotFound(f"no such lead: `{OTHER}`"))]},
    "Explanation": {
        "now": explanation_json(_NOW),
        "nobody": explanation_json(Explanation(OUTCOMES["not_validated"])),
    },
    "Record": {"routed": record_json(_RECORD)},
    "Records": {"newest first": [record_json(_RECORD)]},
    "Cache": {
        "fresh": plain(
            {
                "config_version": 1289,
                "lag": 0.31,
                "state": "fresh",
                "sizes": {"offers": 12, "buyers": 2000, "enrollments": 6000},
                "invalid_policies": [{"policy_id": POLICY, "problem": "`sla.mode` is missing"}],
            }
        )
    },
    "Metrics": {"a gauge": 'pointsman_feed_state{state="fresh"} 1.0\n'},
    "Alive": {"alive": {"status": "alive"}},
    "Ready": {"ready": {"status": "ready", "state": "fresh", "config_version": 1289}},
}
"""For each form of answer, examples by name."""

_RAISED: tuple[PointsmanError, ...] = (
    errors.LeadNotFound(f"no such lead: `{LEAD}`"),
    errors.DecisionNotFound("no such decision: `4711`"),
    errors.Refused("the database refuses this: leads are frozen"),
    errors.HistoryPruned("the configuration at version 12 is no longer kept"),
    errors.HistoryHole("the history of the configuration has a hole: what version 12 changed is missing"),
    errors.DecisionDiffers(
        "decision 4711 does not come out again as it is recorded; `pointsman replay --decision 4711` says what differs"
    ),
    errors.InvalidHypothesis("the draft policy cannot be used: `strategy.kind` is missing"),
    errors.Busy("others hold what this needs for too long: canceling statement due to lock timeout"),
    errors.NotReady("the router has not loaded its configuration yet"),
    errors.StoreUnavailable("the database did not answer in time"),
    errors.DatabaseUnfit("the router's tables are older than this release; run `pointsman migrate`"),
)
_TOLD = {
    problems.UNAUTHORIZED: "send `Authorization: Bearer <key>`",
    problems.FORBIDDEN: "the key `reports` is for `read`; this needs `route`",
    problems.BODY_TOO_LARGE: f"a body may have {problems.LARGEST_BODY} bytes at most",
    problems.TOO_SLOW: f"the body did not come within {problems.BODY_SECONDS} seconds",
    problems.SHUTTING_DOWN: "the service is ending; ask another, or again",
    INTERNAL: "something failed inside the service; its log says what",
}
_UNREADABLE = problem_of(
    problems.INVALID_REQUEST,
    "path.lead_id: Input should be a valid UUID",
    errors=[{"at": "path.lead_id", "message": "Input should be a valid UUID"}],
)

PROBLEMS: dict[int, Examples] = {}
"""For each status, examples by the end of their `type`."""
for _problem in (*map(problem, _RAISED), *(problem_of(kind, text) for kind, text in _TOLD.items()), _UNREADABLE):
    PROBLEMS.setdefault(_problem["status"], {})[_problem["type"].rpartition(":")[2]] = _problem

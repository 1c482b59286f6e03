"""The JSON of the contract, key by key."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest

from pointsman import errors, wire
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

LEAD, BUYER, POLICY, OFFER, VERTICAL, MARKET = (UUID(int=number) for number in range(1, 7))
AT = datetime(2026, 10, 1, 12, 30, 5, 120, tzinfo=UTC)


def make_outcome(**over: object) -> Outcome:
    fields = {
        "lead_id": LEAD,
        "outcome": OutcomeKind.ROUTED,
        "cause": None,
        "buyer_id": BUYER,
        "status": "routed",
        "decision_id": 7,
        "policy_id": POLICY,
        "policy_version": 3,
        "config_version": 12,
        "decided_at": AT,
        "flags": (Flag.EXCLUSIVE,),
    }
    return Outcome(**{**fields, **over})  # type: ignore[arg-type]


def test_an_outcome_has_the_contract_s_keys_in_its_order() -> None:
    expected = {
        "lead_id": "00000000-0000-0000-0000-000000000001",
        "outcome": "routed",
        "cause": None,
        "buyer_id": "00000000-0000-0000-0000-000000000002",
        "status": "routed",
        "decision_id": 7,
        "policy_id": "00000000-0000-0000-0000-000000000003",
        "policy_version": 3,
        "config_version": 12,
        "decided_at": "2026-10-01T12:30:05.000120Z",
        "flags": ["exclusive"],
    }
    found = json.loads(json.dumps(wire.outcome_json(make_outcome())))
    assert expected == found
    assert list(expected) == list(found)


def test_an_outcome_without_a_decision_has_nulls_and_no_flags() -> None:
    outcome = Outcome(LEAD, OutcomeKind.NOT_VALIDATED, None, None, "new")
    found = wire.outcome_json(outcome)
    assert [found[key] for key in list(found) if key.endswith(("_id", "_version", "_at"))][1:] == [None] * 6
    assert found["flags"] == []


def test_a_no_route_names_its_cause() -> None:
    outcome = make_outcome(outcome=OutcomeKind.NO_ROUTE, cause=Cause.NO_ELIGIBLE_BUYERS, buyer_id=None)
    found = json.loads(json.dumps(wire.outcome_json(outcome)))
    assert (found["outcome"], found["cause"], found["buyer_id"]) == ("no_route", "no_eligible_buyers", None)


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 10, 1, 12, 0, tzinfo=UTC), "2026-10-01T12:00:00Z"),
        (datetime(2026, 10, 1, 12, 0, 0, 5, tzinfo=UTC), "2026-10-01T12:00:00.000005Z"),
        (datetime(2026, 10, 1, 12, 0, tzinfo=timezone(timedelta(hours=-5))), "2026-10-01T17:00:00Z"),
    ],
)
def test_instants_are_utc_with_z_and_keep_microseconds(instant: datetime, text: str) -> None:
    assert text == wire.outcome_json(make_outcome(decided_at=instant))["decided_at"]


def test_facts_stand_flat_beside_the_code() -> None:
    reason = Reason(
        ReasonCode.DAILY_CAP_REACHED,
        {"level": "buyer", "used": 5, "cap": 5, "window_start": AT, "window_end": AT + timedelta(days=1)},
    )
    expected = {
        "code": "daily_cap_reached",
        "level": "buyer",
        "used": 5,
        "cap": 5,
        "window_start": "2026-10-01T12:30:05.000120Z",
        "window_end": "2026-10-02T12:30:05.000120Z",
    }
    assert expected == wire.reason_json(reason)


def test_facts_that_are_lists_ids_or_nothing_are_written_as_such() -> None:
    missing = wire.reason_json(Reason(ReasonCode.GEO_MISSING, {"missing": ("postal_code", "city")}))
    held = wire.reason_json(Reason(ReasonCode.HELD_BY_EXCLUSIVE_BUYER, {"buyer_id": BUYER, "exclusivity_id": POLICY}))
    closed = wire.reason_json(Reason(ReasonCode.OUTSIDE_ACCEPTANCE_HOURS, {"timezone": "UTC", "next_opening": None}))
    assert missing == {"code": "geo_missing", "missing": ["postal_code", "city"]}
    assert {"code": "held_by_exclusive_buyer", "buyer_id": str(BUYER), "exclusivity_id": str(POLICY)} == held
    assert closed == {"code": "outside_acceptance_hours", "timezone": "UTC", "next_opening": None}


def test_an_explanation_lists_the_eligible_and_the_excluded() -> None:
    explanation = Explanation(
        make_outcome(decision_id=None),
        (Ranked(BUYER, 1, 10, 1, None, None, "00ff00ff00ff00ff"),),
        (Exclusion(OFFER, (Reason(ReasonCode.BUYER_PAUSED), Reason(ReasonCode.ZERO_WEIGHT))),),
    )
    found = json.loads(json.dumps(wire.explanation_json(explanation)))
    assert list(found) == ["outcome", "eligible", "excluded"]
    assert [
        {
            "buyer_id": str(BUYER),
            "rank": 1,
            "priority_rank": 10,
            "weight": 1,
            "sla_response_seconds": None,
            "position": None,
            "lead_hash": "00ff00ff00ff00ff",
            "lost_by": None,
        }
    ] == found["eligible"]
    reasons = [{"code": "buyer_paused"}, {"code": "zero_weight"}]
    assert [{"buyer_id": str(OFFER), "reasons": reasons, "nearest_miss": None}] == found["excluded"]


def test_what_was_missing_stands_beside_the_reasons() -> None:
    miss = NearestMiss("later", {"seconds": 60, "at": datetime(2026, 3, 4, 18, tzinfo=UTC)})
    explanation = Explanation(
        make_outcome(decision_id=None),
        (Ranked(BUYER, 2, 10, 1, None, None, "00ff00ff00ff00ff", LostBy("tie_breaker", "buyer_id", OFFER, BUYER)),),
        (Exclusion(OFFER, (Reason(ReasonCode.BUYER_PAUSED),), miss),),
    )
    found = json.loads(json.dumps(wire.explanation_json(explanation)))
    lost_by = {"step": "tie_breaker", "by": "buyer_id", "winner": str(OFFER), "own": str(BUYER)}
    assert lost_by == found["eligible"][0]["lost_by"]
    assert {"change": "later", "seconds": 60, "at": "2026-03-04T18:00:00Z"} == found["excluded"][0]["nearest_miss"]


def test_a_record_has_the_outcome_s_keys_without_status_and_what_it_was_decided_from() -> None:
    record = Record(
        decision_id=7,
        lead=Lead(LEAD, OFFER, VERTICAL, MARKET, "60614", "Chicago"),
        attempt=1,
        outcome=OutcomeKind.ROUTED,
        cause=None,
        flags=(),
        buyer_id=BUYER,
        policy_id=POLICY,
        policy_version=3,
        config_version=12,
        decided_at=AT,
        state=b"{}",
        engine_version="1",
        tzdata_version="2026a",
        unicode_version="15.0.0",
        digest=b"\x00\xff",
    )
    found = json.loads(json.dumps(wire.record_json(record)))
    outcome_keys = [key for key in wire.outcome_json(make_outcome()) if key != "status"]
    more = ["attempt", "offer_id", "vertical_id", "market_id", "postal_code", "city"]
    assert [*outcome_keys, *more, "engine_version", "tzdata_version", "unicode_version", "digest"] == list(found)
    assert ("00ff", str(OFFER), "60614") == (found["digest"], found["offer_id"], found["postal_code"])


@pytest.mark.parametrize(
    ("error", "slug", "status"),
    [
        (errors.LeadNotFound("no such lead: `x`"), "lead-not-found", 404),
        (errors.DecisionNotFound(), "decision-not-found", 404),
        (errors.Refused("no"), "refused", 409),
        (errors.HistoryPruned("gone"), "history-pruned", 410),
        (errors.HistoryHole("lost"), "history-hole", 410),
        (errors.DecisionDiffers("otherwise"), "decision-differs", 410),
        (errors.Busy("later"), "busy", 503),
        (errors.NotReady("later"), "not-ready", 503),
        (errors.StoreUnavailable("away"), "store-unavailable", 503),
        (errors.DatabaseUnfit("old"), "database-unfit", 503),
        (errors.UnsuitableTransaction("no"), "internal-error", 500),
    ],
)
def test_every_error_is_a_problem_detail(error: errors.PointsmanError, slug: str, status: int) -> None:
    found = wire.problem(error)
    assert list(found) == ["type", "title", "status", "detail"]
    assert (f"urn:pointsman:problem:{slug}", status) == (found["type"], found["status"])
    assert found["title"]
    assert found["detail"]


def test_a_kind_of_refusal_is_a_refusal() -> None:
    class Special(errors.Refused):
        """Something narrower."""

    assert wire.problem(errors.Refused("x")) == wire.problem(Special("x"))


def test_an_error_in_a_batch_stands_beside_its_lead() -> None:
    found = wire.answer_json(LEAD, errors.LeadNotFound("no such lead"))
    assert list(found) == ["lead_id", "error"]
    assert (str(LEAD), 404) == (found["lead_id"], found["error"]["status"])

"""Every reason and every outcome can be said in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from pointsman.model import Cause, Flag, NearestMiss, Outcome, OutcomeKind, Reason, ReasonCode
from pointsman.sentences import headline, needed, sentence

AT = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
CAP = {"level": "enrollment", "used": 2, "cap": 2, "window_start": AT, "window_end": AT}
FACTS: dict[ReasonCode, dict[str, object]] = {
    ReasonCode.GEO_MISSING: {"missing": ["postal_code", "city"]},
    ReasonCode.INVALID_CONFIGURATION: {"field": "timezone"},
    ReasonCode.OUTSIDE_ACCEPTANCE_HOURS: {
        "timezone": "America/Denver",
        "local_time": "2026-03-04T08:30:00",
        "next_opening": "2026-03-04T16:00:00Z",
    },
    ReasonCode.HOURLY_CAP_REACHED: CAP,
    ReasonCode.DAILY_CAP_REACHED: CAP | {"level": "buyer"},
    ReasonCode.SLA_TOO_SLOW: {"sla_response_seconds": None, "max_response_seconds": 300},
    ReasonCode.HELD_BY_EXCLUSIVE_BUYER: {"buyer_id": UUID(int=1), "exclusivity_id": UUID(int=2)},
}


@pytest.mark.parametrize("code", ReasonCode)
def test_every_reason_has_a_sentence_without_code_in_it(code: ReasonCode) -> None:
    said = sentence(Reason(code, FACTS.get(code, {})))
    assert len(said) > 8
    assert "_" not in said
    assert "{" not in said


def test_a_reached_cap_says_whose_how_much_and_until_when() -> None:
    said = sentence(Reason(ReasonCode.HOURLY_CAP_REACHED, CAP))
    assert said == "has reached its enrollment's cap of 2 leads an hour (2 taken, room again at 2026-03-04 15:30 UTC)"


@pytest.mark.parametrize(
    ("minutes", "told"), [(0.5, "1 min"), (59, "59 min"), (60, "1 h"), (192, "3 h 12 min"), (6000, "100 h")]
)
def test_a_sentence_that_knows_the_instant_says_how_long_there_is_to_wait(minutes: float, told: str) -> None:
    said = sentence(Reason(ReasonCode.DAILY_CAP_REACHED, CAP), now=AT - timedelta(minutes=minutes))
    assert said.endswith(f"room again at 2026-03-04 15:30 UTC, in {told})")


def test_closed_hours_say_the_local_time_and_the_next_opening() -> None:
    said = sentence(Reason(ReasonCode.OUTSIDE_ACCEPTANCE_HOURS, FACTS[ReasonCode.OUTSIDE_ACCEPTANCE_HOURS]))
    assert "it is 08:30 in America/Denver; opens 2026-03-04 16:00 UTC" in said


def test_another_buyer_is_called_by_its_name() -> None:
    held = Reason(ReasonCode.HELD_BY_EXCLUSIVE_BUYER, FACTS[ReasonCode.HELD_BY_EXCLUSIVE_BUYER])
    assert "Cedar Roofing" in sentence(held, lambda _: "Cedar Roofing")


@pytest.mark.parametrize("kind", OutcomeKind)
def test_every_outcome_has_a_headline(kind: OutcomeKind) -> None:
    outcome = Outcome(UUID(int=1), kind, None, UUID(int=2), "new", flags=tuple(Flag))
    assert headline(outcome, lambda _: "Cedar").endswith("the earlier counts.")


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_headline(cause: Cause) -> None:
    outcome = Outcome(UUID(int=1), OutcomeKind.NO_ROUTE, cause, None, "validated")
    assert headline(outcome).startswith("Nobody takes this lead: ")


@pytest.mark.parametrize(
    ("miss", "said"),
    [
        (NearestMiss("raise_cap", {"level": "enrollment", "window": "day", "slots": 1}), "1 more daily slot"),
        (NearestMiss("later", {"seconds": 2_491, "at": AT}), "42 min later"),
        (NearestMiss("add_service_area", {"postal_code": "60614", "city": "chicago"}), "60614 or chicago"),
        (NearestMiss("add_service_area", {"market_id": UUID(int=1)}), "the lead's market"),
        (NearestMiss("add_balance", {"amount": "2.75"}), "2.75 more balance"),
        (NearestMiss("add_balance", {"amount": None}), "more balance"),
        (NearestMiss("complete_lead", {"missing": ["postal_code"]}), "a postal code"),
        (NearestMiss("repair", {"field": "timezone"}), "`timezone`"),
        (NearestMiss("respond_within", {"seconds": 60}), "within 60 s"),
        (NearestMiss("resume_buyer"), "to be resumed"),
    ],
)
def test_what_was_needed_is_said(miss: NearestMiss, said: str) -> None:
    assert said in needed(miss)

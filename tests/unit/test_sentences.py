"""Every reason and every outcome can be said in a sentence."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from pointsman.model import Cause, Flag, NearestMiss, Outcome, OutcomeKind, Reason, ReasonCode
from pointsman.sentences import headline, needed, sentence

AT = datetime(2026, 3, 4, 15, 30, tzinfo=UTC)
OPENS, CLOSES = AT - timedelta(minutes=30), AT + timedelta(minutes=30)
CAP = {"level": "enrollment", "used": 2, "cap": 2, "window_start": OPENS, "window_end": CLOSES}
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


def test_a_reached_cap_says_whose_how_much_since_when_and_until_when() -> None:
    said = sentence(Reason(ReasonCode.HOURLY_CAP_REACHED, CAP))
    assert (
        "has reached its enrollment's hourly cap (2 of 2 since 2026-03-04 15:00 UTC; room again at 2026-03-04 16:00)"
        == said
    )


def test_a_full_day_is_told_on_the_buyers_own_clock() -> None:
    midnight = datetime(2026, 7, 2, 5, tzinfo=UTC)
    day = {"level": "buyer", "used": 50, "cap": 50, "window_start": midnight - timedelta(days=1)}
    full = Reason(ReasonCode.DAILY_CAP_REACHED, day | {"window_end": midnight})
    said = sentence(full, now=midnight - timedelta(hours=3, minutes=12), zone="America/Chicago")
    assert (
        "has reached its own daily cap (50 of 50 since 00:00 America/Chicago; room again at 00:00, in 3 h 12 min)"
        == said
    )


def test_a_zone_that_cannot_be_read_leaves_times_in_utc() -> None:
    said = sentence(Reason(ReasonCode.HOURLY_CAP_REACHED, CAP), now=AT, zone="Mars/Olympus")
    assert said.endswith("2 of 2 since 15:00 UTC; room again at 16:00, in 30 min)")


def test_a_cap_of_zero_has_no_room_to_wait_for() -> None:
    said = sentence(Reason(ReasonCode.DAILY_CAP_REACHED, CAP | {"used": 0, "cap": 0}), now=AT)
    assert "gets nothing, since its enrollment's daily cap is 0" == said


@pytest.mark.parametrize(
    ("minutes", "told"),
    [
        (0.5, "16:00, in 1 min"),
        (59, "16:00, in 59 min"),
        (60, "16:00, in 1 h"),
        (192, "16:00, in 3 h 12 min"),
        (6000, "2026-03-04 16:00, in 100 h"),
    ],
)
def test_a_sentence_that_knows_the_instant_says_how_long_there_is_to_wait(minutes: float, told: str) -> None:
    said = sentence(Reason(ReasonCode.DAILY_CAP_REACHED, CAP), now=CLOSES - timedelta(minutes=minutes))
    assert said.endswith(f"room again at {told})")


def test_closed_hours_say_the_local_time_and_the_next_opening_on_the_same_clock() -> None:
    closed = Reason(ReasonCode.OUTSIDE_ACCEPTANCE_HOURS, FACTS[ReasonCode.OUTSIDE_ACCEPTANCE_HOURS])
    assert sentence(closed).endswith("it is 08:30 in America/Denver; opens at 2026-03-04 09:00)")
    assert sentence(closed, now=AT, zone="Asia/Tokyo").endswith("America/Denver; opens at 09:00, in 30 min)")


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

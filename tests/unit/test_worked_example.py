"""`docs/example.md` is what the engine decides, and what its words take for granted is so."""

from __future__ import annotations

import pytest

from tests import worked_example
from tests.worked_example import Example


@pytest.fixture(scope="module")
def example() -> Example:
    return worked_example.make_example()


def test_the_worked_example_is_what_the_engine_decides(example: Example) -> None:
    """Otherwise `python -m tests.worked_example` writes it anew."""
    assert worked_example.page(example) == worked_example.FILE.read_text("utf-8")


def test_its_policy_is_the_more_specific_of_two(example: Example) -> None:
    (other,) = (row for row in example.policies() if row is not example.policy)
    assert (None, None, None) == (other.offer_id, other.vertical_id, other.market_id)
    assert example.lead.vertical_id == example.policy.vertical_id


def test_its_offer_is_active_and_for_every_market(example: Example) -> None:
    offer = example.snapshot.offer(example.lead.offer_id)
    assert offer is not None
    assert (True, None) == (offer.is_active, offer.market_id)


def test_its_excluded_are_told_of_as_they_are(example: Example) -> None:
    """Everyone is counted once: switched off, elsewhere, or in the table of those who cover the lead."""
    codes = [excluded.reasons[0].code for excluded in example.standing.excluded]
    elsewhere = sum(codes.count(code) for code in worked_example.NOT_THERE)
    enrolled = len(example.snapshot.enrolled(example.lead.offer_id))
    assert "geo_missing" not in codes
    assert enrolled == elsewhere + len(example.close()) + len(example.standing.eligible)


def test_nobody_holds_its_place(example: Example) -> None:
    assert [] == list(example.snapshot.exclusivities(example.lead))
    assert () == example.decision.flags


def test_its_ranks_differ_but_for_the_last_two_which_response_times_tell_apart(example: Example) -> None:
    *others, last, very_last = example.order(example.rules(sla={"mode": "off"}))
    ranks = [enrollment.priority_rank for enrollment in (*others, last)]
    assert sorted(set(ranks)) == ranks
    assert last.priority_rank == very_last.priority_rank
    assert example.is_prompt(last)
    assert not example.is_prompt(very_last)


def test_its_second_by_rank_goes_behind_for_it_answers_late(example: Example) -> None:
    first, second, *_ = example.order(example.rules(sla={"mode": "off"}))
    assert example.is_prompt(first)
    assert not example.is_prompt(second)


def test_its_winner_has_a_cap_with_room(example: Example) -> None:
    (cap,) = example.decision.takes
    assert 0 < example.state.usage(cap.counter) < cap.limit


def test_several_of_its_buyers_that_answer_in_time_had_no_turn(example: Example) -> None:
    fresh = [one for one in example.eligible() if example.is_prompt(one) and not example.state.position(one)]
    assert len(fresh) > 1

"""What the decisions before any decision left, as replay knows it."""

from __future__ import annotations

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.configuration import Enrollment, turn
from pointsman.engine.zones import HOUR, Window
from pointsman.model import EPOCH, instant
from pointsman.proof import Served

from .worlds import OFFER, ONE, TWO, make_enrollment

SECOND = 1_000_000
HOLDER = turn(ONE, OFFER)


@given(
    steps=st.lists(st.integers(0, 100), max_size=60),
    behind=st.lists(st.integers(0, 60), min_size=60, max_size=60),
    start=st.integers(0, 3_000),
    length=st.integers(1, 2_000),
    before=st.integers(0, 200),
)
def test_instants_that_stand_behind_others_are_counted_in_their_window(
    steps: list[int], behind: list[int], start: int, length: int, before: int
) -> None:
    served, latest, decisions = Served(), 0, []
    for number, (step, back) in enumerate(zip(steps, behind, strict=False)):
        latest += step
        decisions.append((3 * number + 1, (latest - back) * SECOND))
        served.add(*decisions[-1], HOLDER)
        served.add(3 * number + 2, latest * SECOND, turn(TWO, OFFER))
    opens, closes = start * SECOND, (start + length) * SECOND
    window = Window("hour", opens, closes, instant(opens), instant(closes))
    counted = [at for decision_id, at in decisions if decision_id < before and window.start <= at < window.end]
    assert len(counted) == served.counted(HOLDER, window, before)


@given(
    steps=st.lists(st.integers(0, 100), min_size=1, max_size=40),
    asked=st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, 9]), st.integers(0, 2)), min_size=40, max_size=40),
)
def test_an_answer_does_not_depend_on_what_was_asked_before(steps: list[int], asked: list[tuple[int, int]]) -> None:
    """Windows in turn, mostly of the newest decision, now and then of one long before it, while decisions come in."""
    served, latest, decisions = Served(), 0, []
    windows = [Window("hour", 0, 300, EPOCH, EPOCH), Window("hour", 300, 900, EPOCH, EPOCH)]
    windows.append(Window("day", 0, 900, EPOCH, EPOCH))
    for number, (step, (back, place)) in enumerate(zip(steps, asked, strict=False), start=1):
        latest += step
        decisions.append((number, latest))
        served.add(number, latest, HOLDER)
        before, window = number + 1 - back, windows[place]
        earlier = [(decision_id, at) for decision_id, at in decisions if decision_id < before]
        assert sum(window.start <= at < window.end for _, at in earlier) == served.counted(HOLDER, window, before)
        assert [earlier[-1][0] if earlier else 0, 0] == served.positions([enrolled(ONE), enrolled(TWO)], before)


def test_what_no_window_counts_any_more_is_forgotten_and_turns_are_not() -> None:
    served = Served()
    for number in range(1, 5_001):
        served.add(number, number * HOUR, HOLDER)
    assert len(served._holders[HOLDER]._ids) < 500
    window = Window("day", 4_980 * HOUR, 5_004 * HOUR, EPOCH, EPOCH)
    assert (20, 10) == (served.counted(HOLDER, window, 5_000), served.counted(HOLDER, window, 4_990))
    served.add(5_001, 5_001 * HOUR, turn(TWO, OFFER))
    assert [5_000, 5_001] == served.positions([enrolled(ONE), enrolled(TWO)], 5_002)
    assert [4_990, 0] == served.positions([enrolled(ONE), enrolled(TWO)], 4_991)


def enrolled(buyer: UUID) -> Enrollment:
    return Enrollment(make_enrollment(buyer_id=buyer), None, 1)

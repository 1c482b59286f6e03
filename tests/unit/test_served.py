"""What the decisions before any decision left, as replay knows it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.zones import Window
from pointsman.model import instant
from pointsman.proof import Served

from .worlds import OFFER, ONE, TWO

SECOND = 1_000_000
HOLDER = (ONE, OFFER)


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
        served.add(*decisions[-1], *HOLDER)
        served.add(3 * number + 2, latest * SECOND, TWO, OFFER)
    opens, closes = start * SECOND, (start + length) * SECOND
    window = Window("hour", opens, closes, instant(opens), instant(closes))
    counted = [at for decision_id, at in decisions if decision_id < before and window.start <= at < window.end]
    assert len(counted) == served.counted(HOLDER, window, before)

"""The packed mapping against a plain one: whatever is put in and taken out, both hold the same."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.cache import packed
from pointsman.cache.packed import PackedMap

KEYS = st.one_of(
    st.integers(0, 40).map(lambda number: number.to_bytes(16, "big")),  # they meet again
    st.integers(0, 40).map(lambda number: number.to_bytes(16, "little")),
    st.binary(min_size=16, max_size=16),
)
NUMBERS = st.integers(0, 2**32 - 1)
PUT = st.tuples(KEYS, st.tuples(NUMBERS, NUMBERS))
DROP = st.tuples(KEYS, st.none())


def same(expected: dict[bytes, tuple[int, int]], found: PackedMap) -> bool:
    return len(expected) == len(found) and [(key, *expected[key]) for key in sorted(expected)] == list(found)


@pytest.fixture(autouse=True, params=[1, 2, 5, 256], ids="{} records a chunk".format)
def chunks_are_small(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """So few records fill a chunk that chunks come and go."""
    monkeypatch.setattr(packed, "_FULL", request.param * packed._SIZE)


@settings(deadline=None, max_examples=60)
@given(st.lists(PUT | PUT | DROP, max_size=120))
def test_any_changes_leave_what_they_leave_in_a_plain_mapping(changes):
    expected: dict[bytes, tuple[int, int]] = {}
    found = PackedMap()
    for key, pair in changes:
        assert expected.get(key) == found.get(key)
        if pair is None:
            assert expected.pop(key, None) == found.pop(key)
        else:
            assert expected.get(key) == found.put(key, *pair)
            expected[key] = pair
        assert expected.get(key) == found.get(key)
    assert same(expected, found)


@settings(deadline=None, max_examples=30)
@given(st.sets(KEYS, min_size=1, max_size=60), st.randoms(use_true_random=False))
def test_all_that_goes_leaves_room_for_all_to_come_again(keys, rng):
    expected = {key: (place, place + 1) for place, key in enumerate(keys)}
    found = PackedMap()
    for _ in range(2):
        for key in rng.sample(sorted(keys), len(keys)):
            found.put(key, *expected[key])
        assert same(expected, found)
        for key in rng.sample(sorted(keys), len(keys)):
            assert expected[key] == found.pop(key)
        assert same({}, found)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.lists(KEYS, max_size=20, unique=True), st.booleans()), max_size=5))
def test_many_at_once_are_as_if_one_by_one(parts):
    expected: dict[bytes, tuple[int, int]] = {}
    found = PackedMap()
    for number, (keys, in_order) in enumerate(parts):
        records = [(key, number, place) for place, key in enumerate(sorted(keys) if in_order else keys)]
        found.extend(sorted(keys) if in_order else keys, [number] * len(keys), range(len(keys)))
        expected |= {key: (first, second) for key, first, second in records}
        assert same(expected, found)
    for key, pair in expected.items():
        assert pair == found.put(key, 7, 7)


def test_what_changes_while_it_is_looked_through_is_not_refused():
    found = PackedMap()
    for number in range(10):
        found.put(number.to_bytes(16, "big"), number, 0)
    seen = []
    for key, first, _ in found:
        seen.append(first)
        found.put(key, first, 1)
    assert list(range(10)) == seen

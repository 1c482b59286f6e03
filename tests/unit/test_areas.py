"""Areas in their packed form against plain ones: the same by id, place by place, and in a comparison of two caches."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.cache import feed, packed
from pointsman.cache.indexes import Change, Indexes
from pointsman.engine.configuration import Area, read_area

from .worlds import MARKET, ONE, OTHER_MARKET, TOKEN, TWO, Image, make_area, uid

AREA_IDS = [uid(0x5, number) for number in range(12)]
IMAGES = st.builds(
    lambda area_id, buyer, market, at, active: make_area(
        id=area_id, buyer_id=buyer, market_id=market, scope=at[0], value=at[1], is_active=active
    ),
    st.sampled_from(AREA_IDS),
    st.sampled_from((ONE, TWO)),
    st.sampled_from((MARKET, OTHER_MARKET)),
    st.sampled_from(
        [("market", None), ("city", "Elgin"), ("city", " ELGIN"), ("postal_code", "606 14"), ("postal_code", "60614")]
    ),
    st.sampled_from((True, True, True, False)),
)
CHANGES = st.lists(st.tuples(st.sampled_from(AREA_IDS), st.none()) | IMAGES.map(lambda i: (i["id"], i)), max_size=40)


@pytest.fixture(autouse=True)
def chunks_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed, "_FULL", 3 * packed._SIZE)
    monkeypatch.setattr(feed, "SLICE_ROWS", 2)


def after(changes: list[tuple[object, Image | None]]) -> tuple[Indexes, dict[object, Area]]:
    """Indexes, and plain areas by id, after these changes."""
    indexes, plain = Indexes(1, TOKEN), dict[object, Area]()
    for area_id, image in changes:
        indexes.apply(Change("buyer_service_areas", str(area_id), image), 1)
        area = None if image is None else read_area(image)
        if area is None:
            plain.pop(area_id, None)
        else:
            plain[area_id] = area
    return indexes, plain


@settings(deadline=None)
@given(CHANGES)
def test_areas_are_those_of_a_plain_mapping_and_count_where_they_say(changes):
    indexes, plain = after(changes)
    assert plain == indexes.areas
    assert [plain.get(area_id) for area_id in AREA_IDS] == [indexes.areas.get(area_id) for area_id in AREA_IDS]
    ids = indexes.areas.buyers.ids
    held = {
        (UUID(bytes=ids[buyer]), market.id, scope, value)
        for market in indexes.markets.values()
        for scope, places in market.places.items()
        for value, place in places.items()
        for buyer, number in market.numbers.items()
        if number in place.holders
    }
    assert set(plain.values()) == held


@settings(deadline=None)
@given(CHANGES, CHANGES)
async def test_as_many_areas_are_found_to_differ_as_do(changes, others):
    (ours, mine), (theirs, true) = after(changes), after(others)
    different = sum(mine.get(area_id) != true.get(area_id) for area_id in AREA_IDS)
    assert different == await feed._different_areas(ours.areas, theirs.areas)


def test_ordinals_and_numbers_that_are_free_are_taken_again():
    indexes, _ = after([])
    for number in range(100):
        image = make_area(buyer_id=uid(0xB, number), scope="city", value=f"Town {number}")
        indexes.apply(Change("buyer_service_areas", "", image), 1)
    areas, market = indexes.areas, indexes.markets[MARKET]
    assert (1, 2) == (len(areas), len(areas._places))
    assert (2, 1) == (len(areas.buyers.ids), len(areas.buyers.ordinals))
    assert (2, 1) == (len(market.counts["city"]), len(market.numbers))

"""The configuration at one version: whatever happened, it is as if built from the rows that stand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Mapping
from itertools import product
from operator import itemgetter
from random import Random
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.cache import collector
from pointsman.cache import indexes as indexes_module
from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.cache.loading import Loading
from pointsman.engine.configuration import Buyer, Enrollment

from .chance import BUYERS, CITIES, MAKERS, POSTAL_CODES
from .worlds import (
    MARKET,
    OFFER,
    ONE,
    OTHER_MARKET,
    OTHER_OFFER,
    OTHER_VERTICAL,
    TOKEN,
    TWO,
    VERTICAL,
    Image,
    buyer_id,
    candidate,
    exclusivity,
    gone,
    key_of,
    make_area,
    make_buyer,
    make_enrollment,
    make_exclusivity,
    make_indexes,
    make_lead,
    make_offer,
    make_policy,
    make_world,
    put,
    uid,
    winner,
)

LEADS = [
    make_lead(offer_id=offer, vertical_id=vertical, market_id=market, postal_code=postal_code, city=city)
    for offer, vertical, market, (postal_code, city) in product(
        (OFFER, OTHER_OFFER, None, uid(0xF, 9)),
        (VERTICAL, OTHER_VERTICAL),
        (MARKET, OTHER_MARKET, None),
        [*zip(POSTAL_CODES, CITIES, strict=False), (None, None), ("nowhere", "nowhere")],
    )
]


def shown(enrollment: Enrollment) -> Any:
    """All that a decision reads of an enrollment."""
    buyer = enrollment.buyer
    return (
        enrollment.buyer_id,
        enrollment.offer_id,
        enrollment.is_active,
        enrollment.caps,
        enrollment.faults,
        enrollment.priority_rank,
        enrollment.weight,
        enrollment.enrolled_at,
        buyer and (buyer.id, buyer.caps, buyer.zone, buyer.hours, buyer.faults, buyer.sla_response_seconds),
    )


def by_buyer(enrollments: Any) -> list[Any]:
    return sorted(map(shown, enrollments), key=lambda parts: parts[0])


def answers(indexes: Indexes, lead: Any) -> Any:
    """All that can be asked about a lead."""
    return (
        indexes.policy(lead),
        indexes.offer(lead.offer_id),
        by_buyer(indexes.covering(lead)),
        [list(rows) for rows in indexes.exclusivities(lead)],
        by_buyer(indexes.enrolled(lead.offer_id).values()),
        {buyer: indexes.scopes(buyer, lead.market_id) for buyer in BUYERS},
    )


def rebuilt(rows: Mapping[tuple[str, str], Image]) -> Indexes:
    return make_indexes((table, image) for (table, _), image in rows.items())


def loaded(rows: Mapping[tuple[str, str], Image]) -> Indexes:
    """Indexes as the feed makes them: table after table, some rows at a time, as their statements give them."""
    loading = Loading(1, TOKEN)
    buyers = sorted(UUID(key).bytes for table, key in rows if table == "buyers")
    for table in TABLES:
        images = [image for (of_table, _), image in rows.items() if of_table == table]
        if table == "buyers":
            images.sort(key=itemgetter("id"))
        for start in range(0, len(images), 3):
            some = images[start : start + 3]
            if table == "buyer_service_areas":
                loading.put_areas([as_loaded(image, buyers) for image in some if can_count(image)])
            elif table == "buyer_offers":
                loading.put_enrollments([enrollment_as_loaded(image) for image in some])
            else:
                loading.put(table, some)
    for _ in loading.file():
        pass
    return loading.indexes


def can_count(area: Image) -> bool:
    """Whether the statement that loads areas gives this one."""
    return area["is_active"] and area["buyer_id"] is not None and area["market_id"] is not None


def as_loaded(area: Image, buyers: list[bytes]) -> Any:
    area_id, buyer_id, market_id = (area[column].bytes for column in ("id", "buyer_id", "market_id"))
    buyer = (buyers.index(buyer_id), None) if buyer_id in buyers else (None, buyer_id)
    return (area_id, *buyer, market_id, area["scope"], area["value"])


def enrollment_as_loaded(enrollment: Image) -> Any:
    buyer, offer, *columns = (enrollment[column] for column in make_enrollment())  # which has them in their order
    return (buyer.bytes, offer.bytes, *columns)


def a_change(rng: Random, rows: dict[tuple[str, str], Image]) -> Change:
    """A row that comes, changes, or goes, mostly one that stands; `rows` is kept in step."""
    table = rng.choice((*TABLES, "buyer_service_areas", "buyer_offers", "buyers"))
    standing = [key for in_table, key in rows if in_table == table]
    if standing and rng.random() < 0.4:
        key = rng.choice(standing)
        del rows[table, key]
        return Change(table, key, None)
    image = MAKERS[table](rng)
    if rng.random() < 0.05:
        return Change(table, key_of(table, image), rows.get((table, key_of(table, image))))
    if standing and rng.random() < 0.4:  # an old row with something new
        old = rows[table, rng.choice(standing)]
        keys = {"buyer_id", "offer_id"} if table == "buyer_offers" else {"id"}
        column = rng.choice(sorted(set(image) - keys))
        image = old | {column: image[column]}
    rows[table, key_of(table, image)] = image
    return put(table, image)


def run(rng: Random, changes: int) -> None:
    rows: dict[tuple[str, str], Image] = {}
    indexes = Indexes(0, TOKEN)
    for version in range(1, changes + 1):
        indexes.apply(a_change(rng, rows), version)
        if rng.random() < 0.5:  # cells are built by the first lead and kept from then on
            lead = rng.choice(LEADS)
            assert answers(indexes, lead) == answers(rebuilt(rows), lead)
    for fresh in (rebuilt(rows), loaded(rows)):
        assert fresh.sizes() == indexes.sizes()
        assert fresh.areas == indexes.areas
        for lead in LEADS:
            assert answers(fresh, lead) == answers(indexes, lead)


@pytest.mark.parametrize("seed", range(15))
def test_changed_indexes_equal_rebuilt_ones(seed):
    run(Random(seed), 120)


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 20))
def test_changed_indexes_equal_rebuilt_ones_however_it_went(rng, changes):
    run(rng, changes)


def left(indexes: Indexes) -> list[str]:
    """The mappings that are not empty."""
    kept = {**vars(indexes), "ordinals": indexes.areas.buyers.ordinals}
    return [name for name, value in kept.items() if isinstance(value, Mapping) and value]


@settings(max_examples=30, deadline=None)
@given(st.randoms(use_true_random=False), st.integers(1, 300))
def test_all_that_goes_leaves_nothing(rng, changes):
    rows: dict[tuple[str, str], Image] = {}
    indexes = Indexes(0, TOKEN)
    for version in range(changes):
        indexes.apply(a_change(rng, rows), version)
        indexes.covering(rng.choice(LEADS))
    for table, key in rng.sample(list(rows), len(rows)):
        indexes.apply(Change(table, key, None), changes)
        indexes.covering(rng.choice(LEADS))
    assert [] == left(indexes)
    for lead in LEADS:
        assert answers(Indexes(0, TOKEN), lead) == answers(indexes, lead)


def test_all_that_was_loaded_can_go():
    rng, rows = Random(1), {}
    for table in TABLES * 50:
        image = MAKERS[table](rng)
        rows[table, key_of(table, image)] = image
    indexes = loaded(rows)
    assert 0 not in indexes.sizes().values()
    for table, key in rows:
        indexes.apply(Change(table, key, None), 2)
        indexes.covering(rng.choice(LEADS))
    assert [] == left(indexes)
    for lead in LEADS:
        assert answers(Indexes(0, TOKEN), lead) == answers(indexes, lead)


@pytest.mark.parametrize("table", TABLES)
def test_a_row_that_never_was_can_go(table):
    key = f"{ONE}:{OFFER}" if table == "buyer_offers" else str(ONE)
    indexes = make_world()
    indexes.apply(Change(table, key, None), 2)
    assert indexes.sizes() == {**make_world().sizes(), **({"offers": 1} if table == "offers" else {})}


def test_sizes_count_the_rows_in_force():
    inactive = [
        ("buyer_service_areas", make_area(id=uid(0x5, 9), is_active=False)),
        ("offer_exclusivities", make_exclusivity(id=uid(0xD, 9), is_active=False)),
        ("routing_policies", make_policy(id=uid(0xC, 9), is_active=False)),
    ]
    assert make_world(candidate(1), candidate(2), exclusivity(), inactive).sizes() == {
        "offers": 1,
        "buyers": 2,
        "enrollments": 2,
        "service_areas": 2,
        "exclusivities": 1,
        "policies": 1,
    }


@pytest.mark.parametrize("scope", ["market", "city", "postal_code"])
def test_a_row_without_the_market_that_it_needs_is_not_in_force(scope):
    over = {"market_id": None, "scope": scope, "value": None if scope == "market" else "60601"}
    rows = [("buyer_service_areas", make_area(**over)), ("offer_exclusivities", make_exclusivity(**over))]
    assert {0} == {make_indexes(rows).sizes()[kind] for kind in ("service_areas", "exclusivities")}


# what changes is seen, a cell built or not


@pytest.mark.parametrize("asked_before", [True, False])
class TestChanges:
    def world(self, asked_before, *rows):
        world = make_world(*rows)
        if asked_before:
            world.covering(make_lead())
        return world

    def test_a_new_enrollment_is_seen(self, asked_before):
        buyer, enrollment, area = candidate(1)
        world = self.world(asked_before, [buyer, area])
        world.apply(put(*enrollment), 2)
        assert winner(world) == ONE

    def test_a_new_area_is_seen(self, asked_before):
        buyer, enrollment, area = candidate(1)
        world = self.world(asked_before, [buyer, enrollment])
        world.apply(put(*area), 2)
        assert winner(world) == ONE

    def test_a_new_buyer_is_seen(self, asked_before):
        buyer, enrollment, area = candidate(1)
        world = self.world(asked_before, [enrollment, area])
        world.apply(put(*buyer), 2)
        assert winner(world) == ONE

    @pytest.mark.parametrize("place", [0, 1, 2])
    def test_a_row_that_goes_takes_the_buyer_away(self, asked_before, place):
        rows = candidate(1)
        world = self.world(asked_before, rows)
        world.apply(gone(*rows[place]), 2)
        assert winner(world) is None

    def test_an_area_moves_to_another_buyer(self, asked_before):
        world = self.world(asked_before, candidate(1), candidate(2)[:2])
        world.apply(put("buyer_service_areas", make_area(id=uid(0x5, 1), buyer_id=TWO)), 2)
        assert winner(world) == TWO

    def test_an_area_moves_to_another_market_and_back(self, asked_before):
        world = self.world(asked_before, candidate(1))
        world.apply(put("buyer_service_areas", make_area(market_id=OTHER_MARKET)), 2)
        assert winner(world) is None
        world.apply(put("buyer_service_areas", make_area()), 3)
        assert winner(world) == ONE

    def test_of_two_areas_that_are_equal_once_normalised_one_can_go(self, asked_before):
        buyer, enrollment, _ = candidate(1)
        areas = [
            ("buyer_service_areas", make_area(id=uid(0x5, number), scope="city", value=value))
            for number, value in enumerate(["Chicago", " CHICAGO", "chicago "])
        ]
        world = self.world(asked_before, [buyer, enrollment, *areas])
        found = []
        for area in areas:
            found.append(winner(world))
            world.apply(gone(*area), 2)
        assert [*found, winner(world)] == [ONE, ONE, ONE, None]

    def test_a_number_that_is_free_again_is_not_taken_for_its_old_buyer(self, asked_before):
        world = self.world(asked_before, candidate(1), candidate(2)[:2])
        world.apply(gone(*candidate(1)[2]), 2)
        world.apply(put(*candidate(2)[2]), 3)
        assert winner(world) == TWO

    def test_an_enrollment_moves_to_another_offer(self, asked_before):
        world = self.world(asked_before, candidate(1))
        world.apply(gone(*candidate(1)[1]), 2)
        world.apply(put("buyer_offers", make_enrollment(offer_id=OTHER_OFFER)), 2)
        assert winner(world) is None

    def test_a_policy_that_goes_is_not_remembered(self, asked_before):
        world = self.world(asked_before, candidate(1))
        if asked_before:
            world.policy(make_lead())
        world.apply(gone("routing_policies", make_policy()), 2)
        assert world.policy(make_lead()) is None

    def test_a_policy_that_is_switched_off_is_not_remembered(self, asked_before):
        world = self.world(asked_before, candidate(1))
        if asked_before:
            world.policy(make_lead())
        world.apply(put("routing_policies", make_policy(is_active=False)), 2)
        assert world.policy(make_lead()) is None

    def test_an_offer_that_goes_is_gone(self, asked_before):
        world = self.world(asked_before, candidate(1))
        world.apply(gone("offers", make_offer()), 2)
        assert world.offer(OFFER) is None


@pytest.mark.parametrize("kind", [1, 2], ids=["the offer's last enrollment", "the market's last area"])
def test_what_went_and_was_asked_for_meanwhile_is_seen_when_it_comes_again(kind):
    rows = candidate(1)
    elsewhere = ("buyer_service_areas", make_area(id=uid(0x5, 2), buyer_id=TWO, market_id=OTHER_MARKET))
    world = make_world(rows, [elsewhere])
    leads = [make_lead(), make_lead(market_id=OTHER_MARKET)]
    found = []
    for change in (gone(*rows[kind]), put(*rows[kind]), put("buyer_offers", make_enrollment(buyer_id=TWO))):
        found.append([winner(world, lead=lead) for lead in leads])
        world.apply(change, 2)
    assert [[ONE, None], [None, None], [ONE, None]] == found
    assert winner(world, lead=leads[1]) is None  # of a buyer that is not there
    world.apply(put("buyers", make_buyer(id=TWO)), 3)
    assert [ONE, TWO] == [winner(world, lead=lead) for lead in leads]


def test_a_buyer_that_changes_changes_in_every_offer():
    world = make_world(candidate(1), [("buyer_offers", make_enrollment(offer_id=OTHER_OFFER))])
    world.apply(put("buyers", make_buyer(sla_response_seconds=5)), 2)
    assert {5} == {world.enrolled(offer)[ONE].buyer.sla_response_seconds for offer in (OFFER, OTHER_OFFER)}


def test_a_scope_is_told_as_long_as_an_area_has_it():
    world = make_indexes(
        ("buyer_service_areas", make_area(id=uid(0x5, number), scope="city", value=value))
        for number, value in enumerate(["Chicago", "Elgin"])
    )
    found = [world.scopes(ONE, MARKET)]
    for number in range(2):
        world.apply(Change("buyer_service_areas", str(uid(0x5, number)), None), 2)
        found.append(world.scopes(ONE, MARKET))
    assert found == [{"city"}, {"city"}, frozenset()]


@pytest.mark.parametrize("market", [None, OTHER_MARKET])
def test_in_another_market_a_buyer_has_no_scopes(market):
    assert make_world(candidate(1)).scopes(ONE, market) == frozenset()


def test_exclusivities_come_most_specific_first():
    rows = [
        exclusivity(id=uid(0xD, number), scope=scope, value=value, market_id=market)
        for number, (scope, value, market) in enumerate(
            [
                ("market", None, MARKET),
                ("offer", None, None),
                ("postal_code", "60601", MARKET),
                ("city", "Chicago", MARKET),
            ]
        )
    ]
    found = make_world(*rows).exclusivities(make_lead())
    assert [[row.scope for row in rows] for rows in found] == [["postal_code"], ["city"], ["market"], ["offer"]]


def test_remembered_policies_are_bounded(monkeypatch):
    monkeypatch.setattr(indexes_module, "_REMEMBERED_POLICIES", 3)
    world = make_world()
    policies = {world.policy(make_lead(vertical_id=uid(0xE, number))) for number in range(10)}
    assert (1, True) == (len(policies), len(world._winning_policy) <= 3)


def test_a_lead_that_names_unknown_ids_leaves_nothing_behind():
    world = make_world(candidate(1))
    for number in range(10, 20):
        world.covering(make_lead(offer_id=uid(0xF, number), market_id=uid(0xA, number)))
        world.covering(make_lead(offer_id=uid(0xF, number)))
    assert (list(world.markets), list(world.markets[MARKET].cells)) == ([MARKET], [])


def test_every_covering_buyer_is_found_once():
    areas = [
        ("buyer_service_areas", make_area(id=uid(0x5, 50 + number), scope=scope, value=value))
        for number, (scope, value) in enumerate([("city", "chicago"), ("postal_code", "60601")])
    ]
    assert [ONE] == [found.buyer_id for found in make_world(candidate(1), areas).covering(make_lead())]


def test_many_buyers_are_told_apart():
    world = make_world(
        *(candidate(number, area={"scope": "postal_code", "value": str(number)}) for number in range(300))
    )
    for number in (0, 1, 7, 255, 256, 299):
        assert winner(world, lead=make_lead(postal_code=str(number))) == buyer_id(number)


def rows_of(buyers: list[UUID], *, missing: bool = True) -> dict[tuple[str, str], Image]:
    """A buyer, its enrollment and an area for each, in this order; of some, if they are `missing`, the area alone."""
    rows = {}
    for number, buyer in enumerate(buyers):
        made = [("buyers", make_buyer(id=buyer)), ("buyer_offers", make_enrollment(buyer_id=buyer))]
        if missing and number % 7 == 1:
            made.clear()
        for table, image in (*made, ("buyer_service_areas", make_area(id=buyer, buyer_id=buyer))):
            rows[table, key_of(table, image)] = image
    return rows


@pytest.mark.parametrize("order", ["nothing is loaded", "loaded in order", "loaded in another order"])
def test_who_covers_a_lead_comes_in_order_of_buyers_whatever_came_when(order):
    rng = Random(1)
    buyers = [UUID(int=rng.getrandbits(128)) for _ in range(40)]
    first = [] if order == "nothing is loaded" else rng.sample(buyers, 20)
    world = loaded(rows_of(sorted(first) if order == "loaded in order" else first))
    assert len(first) == len(world.areas.buyers.ids)
    world.apply(put("offers", make_offer()), 1)
    there, enrolled = set(first), {enrollment.buyer_id for enrollment in world.enrolled(OFFER).values()}
    for _ in range(400):
        buyer = rng.choice(buyers)
        area = ("buyer_service_areas", make_area(id=buyer, buyer_id=buyer))
        world.apply(put("buyer_offers", make_enrollment(buyer_id=buyer)), 1)
        world.apply((gone if buyer in there else put)(*area), 1)
        there ^= {buyer}
        enrolled.add(buyer)
        assert sorted(there & enrolled) == [found.buyer_id for found in world.covering(make_lead())]


def test_load_in_the_order_of_ids_leaves_nothing_to_sort():
    buyers = [buyer_id(number) for number in range(30)]
    market = loaded(rows_of(buyers, missing=False)).markets[MARKET]
    assert (30, list(range(30))) == (market.ordered, list(market.numbers.values()))
    assert 25 == loaded(rows_of(buyers)).markets[MARKET].ordered  # those who are missing come behind


def test_buyers_that_come_in_another_order_are_refused_since_areas_name_their_places():
    loading = Loading(1, TOKEN)
    with pytest.raises(ValueError, match="in the order of their ids"):
        loading.put("buyers", [make_buyer(id=TWO), make_buyer(id=ONE)])


def test_buyers_with_the_same_hours_share_them():
    hours = '{"weekly": {"mon": [["09:00", "17:00"]]}}'
    one, two = (Buyer(make_buyer(id=buyer, acceptance_hours=hours), 1) for buyer in (ONE, TWO))
    assert one.hours is two.hours


def test_indexes_that_are_replaced_go_without_the_collector() -> None:
    indexes = make_world(candidate(1), candidate(2))
    replaced = weakref.ref(indexes)
    with collector.paused():
        del indexes
        assert replaced() is None


def test_the_collector_is_as_it_was_after_a_pause() -> None:
    with collector.paused():
        with collector.paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_what_was_built_in_a_pause_is_not_walked_by_the_next_small_collection() -> None:
    gc.unfreeze()  # an earlier test may have been a service
    with collector.paused():
        built = [[number] for number in range(20_000)]
    young = set(map(id, gc.get_objects(generation=0)))
    assert not young.intersection(map(id, built))
    assert 0 == gc.get_freeze_count()


def test_what_a_service_keeps_out_of_the_collectors_way_stays_there_when_it_loads_again() -> None:
    gc.freeze()
    before = gc.get_freeze_count()
    with collector.paused():
        built = [[number] for number in range(20_000)]
    assert gc.get_freeze_count() >= before + len(built)
    gc.unfreeze()

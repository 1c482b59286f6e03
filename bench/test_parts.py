"""What the parts in memory cost in worlds of all sizes: `python -m pytest bench --no-cov`. No time is asserted."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from itertools import cycle
from typing import Any
from uuid import UUID

import pytest

from bench.memory import (
    NOW,
    STRATEGIES,
    VERSION,
    decider,
    file,
    forget_places,
    freeze,
    image,
    leads_with,
    load,
    put,
    set_strategy,
    slices,
    tables,
)
from bench.worlds import FEWEST_OFFERS, BenchWorld, Form
from pointsman.cache.indexes import Change, Indexes
from pointsman.cache.loading import Loading
from pointsman.claim import Batch, Beliefs
from pointsman.engine.decide import decide
from pointsman.engine.zones import DAY
from pointsman.model import Lead, micros
from pointsman.store import Version

CROWD = 10_000
FORMS = {1: Form(10_000), 16: Form(10_000), 128: Form(100_000, offers=FEWEST_OFFERS)}
"""Worlds that have leads with so many candidates."""


@cache
def loaded(form: Form) -> Indexes:
    indexes = load(BenchWorld(form))
    freeze()
    return indexes


@cache
def leads(candidates: int) -> list[Lead]:
    form = FORMS[candidates]
    return leads_with(loaded(form), BenchWorld(form), candidates)


@cache
def elsewhere() -> dict[str, Any]:
    """The image of an area in a market without leads."""
    return image(next(BenchWorld(FORMS[16]).more_areas(1)))


def area(number: int, **over: Any) -> dict[str, Any]:
    """The image of another such area."""
    return elsewhere() | {"id": UUID(int=number), "value": f"E{number}"} | over


def first_of_their_places(indexes: Indexes, found: list[Lead]) -> Iterator[Lead]:
    while True:
        forget_places(indexes)
        yield from found


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("candidates", FORMS)
@pytest.mark.parametrize("keys", ["cold", "hot"])
@pytest.mark.benchmark(group="decide")
def test_decide(benchmark: Any, keys: str, candidates: int, strategy: str) -> None:
    form, found = FORMS[candidates], leads(candidates)
    indexes = loaded(form)
    set_strategy(indexes, BenchWorld(form), strategy)
    decided = decider(indexes)
    asked = cycle(found[:1]) if keys == "hot" else first_of_their_places(indexes, found)
    for lead in found:  # cells are built at the first look
        decided(lead)
    assert benchmark(lambda: decided(next(asked))).covering


@pytest.mark.benchmark(group="look-ups")
def test_find_16_candidates(benchmark: Any) -> None:
    asked = cycle(leads(16))
    assert len(benchmark(lambda: loaded(FORMS[16]).covering(next(asked)))) == 16


@pytest.mark.benchmark(group="apply")
def test_apply_an_area(benchmark: Any) -> None:
    indexes = loaded(FORMS[16])
    images = cycle([area(number) for number in range(1, 1_000)])
    benchmark(lambda: indexes.apply(Change("buyer_service_areas", "", next(images)), VERSION.number))
    assert UUID(int=1) in indexes.areas


@pytest.mark.benchmark(group="apply")
def test_apply_an_area_under_a_key_with_10_000_buyers(benchmark: Any) -> None:
    world, indexes = BenchWorld(FORMS[16]), loaded(FORMS[16])
    crowd = [
        area(1_000 + number, value="CROWD", buyer_id=buyer_id)
        for number, buyer_id in enumerate(world.buyer_ids[:CROWD])
    ]
    for one in crowd:
        indexes.apply(Change("buyer_service_areas", "", one), VERSION.number)
    images = cycle(crowd[: CROWD // 10])
    benchmark(lambda: indexes.apply(Change("buyer_service_areas", "", next(images)), VERSION.number))
    assert UUID(int=1_000) in indexes.areas


@pytest.mark.benchmark(group="load")
def test_load_10_000_buyers_with_100_000_areas(benchmark: Any) -> None:
    given = [(table, list(rows)) for table, rows in tables(BenchWorld(Form(10_000)))]

    def handed_over() -> tuple[Any, ...]:  # each time anew, as by the driver
        return ([(table, part) for table, rows in given for part in slices(table, rows)],), {}

    def loaded(parts: list[tuple[str, Any]]) -> Indexes:
        loading = Loading(*VERSION)
        for table, part in parts:
            put(loading, table, part)
        file(loading)
        return loading.indexes

    assert len(benchmark.pedantic(loaded, setup=handed_over, rounds=3).buyers) == 10_001


@pytest.mark.benchmark(group="hours")
def test_ask_acceptance_hours(benchmark: Any) -> None:
    every = [buyer.hours for buyer in loaded(FORMS[16]).buyers.values() if buyer.hours is not None]
    instants = cycle(range(micros(NOW), micros(NOW) + 7 * DAY, DAY // 96))
    asked = cycle(every)
    assert benchmark(lambda: next(asked).is_open(next(instants))) in (True, False)


@pytest.mark.benchmark(group="batches")
def test_batches_of_50_up_to_the_claim(benchmark: Any) -> None:
    indexes, found, at = loaded(FORMS[16]), leads(16), micros(NOW)

    def batches() -> int:
        known, sent = Beliefs(), 0
        for start in range(0, len(found), 50):
            batch = Batch(Version(*VERSION), NOW, 0, known, known)
            for lead in found[start : start + 50]:
                batch.add(decide(lead, indexes, batch, at))
            batch.arguments()
            sent += len(batch.decisions)
        return sent

    assert benchmark(batches) == len(found)

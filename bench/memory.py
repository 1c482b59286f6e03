"""The parts in memory: decisions by strategy and number of candidates, growth with the tables, changes of one row."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import chain, islice, product
from operator import attrgetter
from pathlib import Path
from statistics import median
from sys import getsizeof
from time import perf_counter, perf_counter_ns
from typing import Any
from uuid import UUID

from asyncpg.pgproto import pgproto

from bench.figures import Figures
from bench.worlds import ENROLLMENTS, FEWEST_OFFERS, BenchWorld, Form
from pointsman.cache.collector import paused
from pointsman.cache.feed import SLICE_ROWS
from pointsman.cache.indexes import Change, Indexes
from pointsman.cache.loading import Loading
from pointsman.claim import Batch, Beliefs
from pointsman.engine import record
from pointsman.engine.capacity import caps
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision, decide
from pointsman.model import Lead, micros
from pointsman.store import Version
from pointsman.world import Buyer, BuyerOffer, ServiceArea

VERSION = Version(1, pgproto.UUID(UUID(int=1).bytes))  # as rows have it
NOW = datetime(2026, 6, 10, 17, 0, tzinfo=UTC)
STRATEGIES = ("priority", "rotation", "weighted")
KEYS, FEWEST_KEYS = 1_000, 50
"""Leads of different offers and places that cold decisions are made on, one after another."""
DECISIONS = 4_000
HOT_KEYS = 20
"""Leads that hot decisions are made on, each of them again and again."""
DRAWS = 40
"""How often 5,000 leads are looked at to find those."""
AREA_BYTES = 16 + 4 + 4
"""An id, and the ordinals of a place and a buyer."""
FROM_MEMORY, ONE_AREA = "loading from memory", "one area changed"

Table = tuple[str, Iterable[Any]]
"""A name and the rows of a world."""

_INSTANTS = (("enrolled_at", "created_at"), ("valid_from", "valid_from"), ("valid_to", "valid_to"))


def as_given(value: Any) -> Any:
    """A column's value as the driver gives it, which has ids of its own kind."""
    return pgproto.UUID(value.bytes) if isinstance(value, UUID) else value


def image(row: Any) -> dict[str, Any]:
    """The image of a row of a world as the database gives it: ids are the driver's, another object each time."""
    columns = {column: as_given(value) for column, value in row._asdict().items()}
    if "balance" in columns:
        floor = columns["min_balance"]
        columns["funded"] = floor is None or columns["balance"] >= floor
    for column, source in _INSTANTS:
        if source in columns:
            columns[column] = None if columns[source] is None else micros(columns[source])
    return columns


class AreasOfBuyers:
    """Areas, each with the place of its buyer among all; they last as long as this, whoever walks through them."""

    def __init__(self, areas: Sequence[ServiceArea], buyers: Iterable[Buyer]) -> None:
        self._areas = areas
        self._places = {buyer.id: place for place, buyer in enumerate(buyers)}

    def __iter__(self) -> Iterator[tuple[ServiceArea, int]]:
        return ((area, self._places[area.buyer_id]) for area in self._areas)


def tables(world: BenchWorld) -> list[Table]:
    """The tables of a world in the order of loading, buyers and areas by their ids."""
    buyers = sorted(world.buyers(), key=attrgetter("id.int"))
    return [
        ("offers", (*world.offers, world.hot_offer)),
        ("buyers", buyers),
        ("buyer_offers", world.enrollments()),
        ("buyer_service_areas", AreasOfBuyers(sorted(world.areas(), key=attrgetter("id.int")), buyers)),
        ("routing_policies", world.policies),
    ]


def slices(name: str, rows: Iterable[Any]) -> Iterator[list[Any]]:
    """A table's rows as its statement gives them, some at a time, made just before."""
    rows = iter(rows)
    made = _AS_LOADED.get(name, image)
    while part := [made(row) for row in islice(rows, SLICE_ROWS)]:
        yield part


def area_as_loaded(given: tuple[ServiceArea, int]) -> tuple[Any, ...]:
    """An area as it is loaded; all of a world's are active, and of buyers that are there."""
    row, buyer = given
    return row.id.bytes, buyer, None, row.market_id.bytes, row.scope, row.value


def enrollment_as_loaded(row: BuyerOffer) -> tuple[Any, ...]:
    """An enrollment as it is loaded."""
    numbers = row.is_active, row.priority_rank, row.weight, row.hourly_cap, row.daily_cap
    return row.buyer_id.bytes, row.offer_id.bytes, *numbers, micros(row.created_at)


_AS_LOADED: dict[str, Callable[[Any], Any]] = {
    "buyer_offers": enrollment_as_loaded,
    "buyer_service_areas": area_as_loaded,
}


def load(world: BenchWorld) -> Indexes:
    """The indexes of a world."""
    loading = Loading(*VERSION)
    for name, rows in tables(world):
        for part in slices(name, rows):
            put(loading, name, part)
    file(loading)
    return loading.indexes


def file(loading: Loading) -> None:
    """Bring a load to its end."""
    for _ in loading.file():
        pass


def put(loading: Loading, name: str, part: list[Any]) -> None:
    """Take a slice of a table in."""
    if name == "buyer_service_areas":
        loading.put_areas(part)
    elif name == "buyer_offers":
        loading.put_enrollments(part)
    else:
        loading.put(name, part)


def set_strategy(indexes: Indexes, world: BenchWorld, strategy: str) -> None:
    """Put the world's policies under another strategy."""
    for policy in BenchWorld(Form(world.form.buyers, world.form.seed, strategy, world.form.offers)).policies:
        indexes.apply(Change("routing_policies", "", image(policy)), VERSION.number)


def leads_with(indexes: Indexes, world: BenchWorld, candidates: int, count: int = KEYS) -> list[Lead]:
    """Leads of different offers and places that so many buyers could have."""
    found: list[Lead] = []
    near = candidates // 16  # 128 give or take 8
    for number in range(DRAWS):
        streams = world.streams(f"decide/{number}", 5_000)
        leads = (Lead(*map(as_given, row[:6])) for row in streams)
        found += [lead for lead in leads if abs(len(indexes.covering(lead)) - candidates) <= near * (candidates > 16)]
        if len(found) >= count or not found:
            break
    return found[:count]


def decider(indexes: Indexes, leads: Iterable[Lead] = ()) -> Callable[[Lead], Decision]:
    """Decides a lead, with its look-ups and the head of its record, as the router does that has routed such leads."""
    at, known = micros(NOW), beliefs(indexes, leads)
    state = Batch(VERSION, NOW, 0, known, known)

    def decided(lead: Lead) -> Decision:
        decision = decide(lead, indexes, state, at)
        record.head(decision, *VERSION)
        return decision

    return decided


def beliefs(indexes: Indexes, leads: Iterable[Lead]) -> Beliefs:
    """Everyone who could have one of the leads was served before, and has counted up to three leads under each cap."""
    known = Beliefs()
    for number, enrollment in enumerate(chain.from_iterable(map(indexes.covering, leads)), start=1):
        known.positions[enrollment.turn] = number
        for cap in caps(enrollment, micros(NOW)):
            known.note(cap, number % 4)
    return known


def spans(call: Callable[[Lead], object], leads: Sequence[Lead]) -> list[int]:
    """Nanoseconds of single calls, one for each lead."""
    clock, found = perf_counter_ns, []
    for lead in leads:
        began = clock()
        call(lead)
        found.append(clock() - began)
    return found


def cold_microseconds(indexes: Indexes, decided: Callable[[Lead], object], leads: Sequence[Lead]) -> float:
    """The median of single decisions, each lead the first of its place."""
    found = []
    for _ in range(max(1, DECISIONS // len(leads))):
        forget_places(indexes)
        found += spans(decided, leads)
    return median(found) / 1_000


def hot_microseconds(decided: Callable[[Lead], object], leads: Sequence[Lead]) -> float:
    """The median of leads, each decided again and again."""
    times = DECISIONS // HOT_KEYS
    return median(median(spans(decided, [lead] * times)) for lead in leads[:HOT_KEYS]) / 1_000


def forget_places(indexes: Indexes) -> None:
    """Forget who was found to cover the places of leads."""
    for market in indexes.markets.values():
        market.found.clear()


def measure_decisions(figures: Figures, rounds: int, buyers: int) -> None:
    """Decisions by strategy and number of candidates: cold, each lead another offer and place; hot, leads again."""
    for offers, *numbers in ((0, 1, 16), (FEWEST_OFFERS, 128)):
        _apart(figures, measure_candidates, rounds, buyers, offers, *numbers)


def measure_candidates(figures: Figures, rounds: int, buyers: int, offers: int, *numbers: int) -> None:
    """The same in a world with so many offers, in this process."""
    world = BenchWorld(Form(buyers, offers=offers))
    indexes = load(world)
    samples = {number: leads_with(indexes, world, number) for number in numbers}
    freeze()
    for strategy, (number, leads) in product(STRATEGIES, samples.items()):
        if len(leads) < FEWEST_KEYS:
            continue  # a small world has no places with so many
        set_strategy(indexes, world, strategy)
        _note_decisions(figures, rounds, f"decision, {number} candidates", strategy, indexes, leads)


def _apart(figures: Figures, measure: Callable[..., None], *arguments: int) -> None:
    """Measure in a process of its own, as a service is one.

    In a used one, memory that was freed is filled first, and the collector walks the rest.
    """
    command = (sys.executable, "-m", "bench.memory", measure.__name__, *map(str, arguments))
    figures.add(json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout))


def _note_decisions(
    figures: Figures, rounds: int, workload: str, subject: str, indexes: Indexes, leads: Sequence[Lead]
) -> None:
    decided = decider(indexes, leads)
    for lead in leads:  # cells are built at the first look
        decided(lead)
    for _ in range(rounds):
        cold, finding = (cold_microseconds(indexes, call, leads) for call in (decided, indexes.covering))
        figures.note(workload, subject, cold=cold, finding=finding, hot=hot_microseconds(decided, leads))


def measure_growth(figures: Figures, rounds: int, sizes: Sequence[int]) -> None:
    """Decisions with 16 candidates in tables of all sizes, and what the indexes weigh."""
    for buyers in sizes:
        _apart(figures, measure_size, rounds, buyers)


def measure_size(figures: Figures, rounds: int, buyers: int) -> None:
    """One size, in this process."""
    world, name = BenchWorld(Form(buyers)), f"{buyers:,} buyers"
    given = tables(world)  # what the world is made from, and its areas in their order, are no part of the indexes
    gc.collect()
    gc.disable()
    loading = Loading(*VERSION)
    weights = {table: _weight(loading, table, rows) for table, rows in given}
    loaded = _resident()
    file(loading)
    weights["buyer_service_areas"] += _resident() - loaded
    gc.enable()
    indexes = loading.indexes
    areas, enrollments = len(indexes.areas), ENROLLMENTS * buyers
    figures.note(
        "size",
        name,
        bytes_a_row=sum(weights.values()) / (areas + enrollments + buyers),
        bytes_objects=_least_weight(indexes) / (areas + enrollments + buyers),
        bytes_an_area=weights["buyer_service_areas"] / areas,
        bytes_an_enrollment=weights["buyer_offers"] / enrollments,
        bytes_a_buyer=weights["buyers"] / buyers,
    )
    del given, loading
    figures.note("full collection", name, as_is=_collection())
    freeze()
    figures.note("full collection", name, frozen=_collection())
    leads = leads_with(indexes, world, 16)
    for strategy in STRATEGIES:
        set_strategy(indexes, world, strategy)
        _note_decisions(figures, rounds, f"growth, {strategy}", name, indexes, leads)


def _least_weight(indexes: Indexes) -> int:
    """Bytes of what decisions read as objects, and of areas' ids and ordinals: with nothing that finds any of it."""
    enrollments = chain.from_iterable(of_offer.values() for of_offer in indexes.enrollments.values())
    objects = sum(getsizeof(enrollment) + getsizeof(enrollment.turn) for enrollment in enrollments)
    objects += sum(
        getsizeof(buyer) + getsizeof(buyer.id) + getsizeof(buyer.holder) for buyer in indexes.buyers.values()
    )
    return objects + AREA_BYTES * len(indexes.areas)


def _weight(loading: Loading, table: str, rows: Iterable[Any]) -> int:
    """Bytes that a table takes once it is loaded."""
    before = _resident()
    for part in slices(table, rows):
        put(loading, table, part)
    taken = _resident() - before
    if taken < 0:
        raise AssertionError(f"something else was freed while {table} were loaded, so it is not known what they weigh")
    return taken


def measure_load(figures: Figures, rounds: int, buyers: int) -> None:
    """Indexes of rows as the driver hands them over, which is not counted in."""
    given = [(table, list(rows)) for table, rows in tables(BenchWorld(Form(buyers)))]
    freeze()
    for _ in range(rounds):
        seconds, loading = 0.0, Loading(*VERSION)
        with paused():
            for table, rows in given:
                for part in slices(table, rows):
                    began = perf_counter()
                    put(loading, table, part)
                    seconds += perf_counter() - began
            began = perf_counter()
            file(loading)
            seconds += perf_counter() - began
        figures.note(FROM_MEMORY, f"{buyers:,} buyers", seconds=seconds, least=_least_of_a_load(given))
    gc.unfreeze()


def _least_of_a_load(given: Iterable[Table]) -> float:
    """Seconds of what no load can do without: finding each area's place, an object for each enrollment.

    Places are there already, nothing is noted, and the objects are empty.
    """
    named = dict(given)
    places = {row[3:]: row for part in slices("buyer_service_areas", named["buyer_service_areas"]) for row in part}
    offers: dict[bytes, dict[bytes, Enrollment]] = {row.id.bytes: {} for row in named["offers"]}
    seconds = 0.0
    with paused():
        for part in slices("buyer_service_areas", named["buyer_service_areas"]):
            began = perf_counter()
            _, _, _, *keys = zip(*part, strict=True)
            list(map(places.__getitem__, zip(*keys, strict=True)))
            seconds += perf_counter() - began
        for part in slices("buyer_offers", named["buyer_offers"]):
            began = perf_counter()
            for row in part:
                offers[row[1]][row[0]] = Enrollment.__new__(Enrollment)
            seconds += perf_counter() - began
    return seconds


def measure_changes(figures: Figures, rounds: int) -> None:
    """One row taken out and put in: any area, and one under a key with 10,000 buyers."""
    world = BenchWorld(Form(10_000))
    indexes = load(world)
    freeze()
    areas = [image(row) for row in world.more_areas(20_000)]
    crowded = [area | {"market_id": areas[0]["market_id"], "value": "CROWD"} for area in areas[:10_000]]
    for area in crowded:
        indexes.apply(Change("buyer_service_areas", "", area), 1)
    for _ in range(rounds):
        for name, images in (("any key", areas[10_000:12_000]), ("a key with 10,000 buyers", crowded[:2_000])):
            spans = [_out_and_in(indexes, area) for area in images]
            figures.note(ONE_AREA, name, microseconds=median(spans) / 1_000)
    gc.unfreeze()


def _out_and_in(indexes: Indexes, area: dict[str, Any]) -> int:
    began = perf_counter_ns()
    indexes.apply(Change("buyer_service_areas", str(area["id"]), None), 1)
    indexes.apply(Change("buyer_service_areas", "", area), 1)
    return (perf_counter_ns() - began) // 2


def freeze() -> None:
    """Collect once and keep what is there out of the collector's way, as the service does after its load."""
    gc.collect()
    gc.freeze()


def _collection() -> float:
    """Milliseconds of a full collection."""
    began = perf_counter()
    gc.collect()
    return (perf_counter() - began) * 1_000


def _resident() -> int:
    """Bytes of memory that this process holds; 0 where the system does not say."""
    status = Path("/proc/self/statm")
    return int(status.read_text("ascii").split()[1]) * 4096 if status.exists() else 0


if __name__ == "__main__":
    found = Figures()
    measures = {measure.__name__: measure for measure in (measure_candidates, measure_size)}
    measures[sys.argv[1]](found, *map(int, sys.argv[2:]))
    print(json.dumps(found.values))

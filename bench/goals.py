"""What the figures should be: ratios side by side in one run wherever there is something to compare with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from bench import configuration, floors, http
from bench.engines import GIVEN, PLAIN, SQLITE, WHOLE
from bench.figures import Figures, Spread
from bench.memory import FROM_MEMORY, ONE_AREA, STRATEGIES
from bench.workloads import (
    BARE,
    BRIEF,
    HAND,
    HOT_PROCESSES,
    ON_DISK,
    ORM,
    OURS,
    SEQUENTIAL,
    SQL,
    TRIPS,
    UNBATCHED,
    callers_name,
)

Key = tuple[str, str, str]
"""Workload, subject, metric."""


class Goal(NamedTuple):
    """A value, or a ratio of two, that should be at most or at least so much; without either nothing is asked of it."""

    what: str
    ours: Key
    other: Key | None = None
    at_most: float | None = None
    at_least: float | None = None
    unit: str = "x"

    @property
    def bound(self) -> str:
        """The goal in words."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g} {self.unit}"
        return "—" if self.at_least is None else f"≥ {self.at_least:g} {self.unit}"


class Verdict(NamedTuple):
    """What was measured for a goal; `met` is None where nothing is asked."""

    goal: Goal
    value: Spread
    met: bool | None


def judge(figures: Figures) -> Iterator[Verdict]:
    """A verdict on each goal whose figures are there."""
    for goal in goals(figures):
        if not figures.has(*goal.ours) or (goal.other is not None and not figures.has(*goal.other)):
            continue
        value = figures.spread(*goal.ours) if goal.other is None else figures.ratio(goal.ours, goal.other)
        yield Verdict(goal, value, _met(goal, value.median))


def _met(goal: Goal, value: float) -> bool | None:
    if goal.at_most is not None:
        return value <= goal.at_most
    return None if goal.at_least is None else value >= goal.at_least


def goals(figures: Figures) -> Iterator[Goal]:
    """All of them, in the order of the report."""
    yield from _path()
    yield from _peers()
    yield from _memory()
    yield from _engines(figures)
    yield from _growth()
    yield from _http()
    yield from _configuration()
    yield from _loading(figures)


def _path() -> Iterator[Goal]:
    for metric, most in (("p50", 1.45), ("p99", 2.0)):
        ours, bare = ((SEQUENTIAL, name, metric) for name in (OURS, BARE))
        yield Goal(f"one after another, {metric}, to two bare trips", ours, bare, at_most=most)
    keys = ((floors.ALONE, name, "p50") for name in (floors.STATEMENTS, BARE))
    yield Goal("the router's two statements alone, p50, to two bare trips", *keys)
    for callers, other, least in ((50, BARE, 2.0), (50, UNBATCHED, 3.0), (200, UNBATCHED, 4.0)):
        steady = callers_name("steady", callers)
        what = f"{callers} callers, a second, to {other}"
        yield Goal(what, (steady, OURS, "rate"), (steady, other, "rate"), at_least=least)
    keys = ((floors.TOGETHER, OURS, floors.BOUND), (floors.TOGETHER, BARE, "rate"))
    yield Goal("50 callers, if Python took no time and PostgreSQL never paused, to two bare trips", *keys)
    hot, cold = callers_name("one hot buyer", 50), callers_name("cold", 50)
    yield Goal("one hot buyer, to unbatched", (hot, OURS, "rate"), (hot, UNBATCHED, "rate"), at_least=7)
    yield Goal("one hot buyer, to the cold case", (hot, OURS, "rate"), (cold, OURS, "rate"), at_least=1)
    several, one = ((HOT_PROCESSES, f"{number} process{'es' * (number > 1)}", "rate") for number in (4, 1))
    yield Goal("one hot buyer, 4 processes to 1", several, one, at_least=1)
    yield Goal("round trips a lead, one after another", (TRIPS, SEQUENTIAL, "trips"), at_most=2, unit="trips")
    yield Goal("round trips a lead, 50 callers", (TRIPS, "50 callers", "trips"), at_most=0.1, unit="trips")
    for metric, most in (("p50", 1), ("p95", 2), ("p99", 10)):
        key = (BRIEF, "1,000 one after another", metric)
        yield Goal(f"the brief's load, one after another, {metric}", key, at_most=most, unit="ms")
    yield Goal("a record on disk, indexes included", ON_DISK, at_most=400, unit="bytes")


def _peers() -> Iterator[Goal]:
    at_once = callers_name("steady", 50)
    for name, alone, together in ((SQL, 3.0, 20.0), (HAND, None, None), (ORM, 13.0, 80.0)):
        slower, ours = ((SEQUENTIAL, subject, "p50") for subject in (name, OURS))
        yield Goal(f"faster than {name}, one after another, p50", slower, ours, at_least=alone)
        more, less = ((at_once, subject, "rate") for subject in (OURS, name))
        yield Goal(f"more than {name}, 50 callers", more, less, at_least=together)


def _memory() -> Iterator[Goal]:
    for kind, bounds in (("cold", (12, 16, 22)), ("hot", (5, 8, 11))):
        for strategy, most in zip(STRATEGIES, bounds, strict=True):
            what = f"decision on 16 candidates, {strategy}, {kind} keys"
            yield Goal(what, ("decision, 16 candidates", strategy, kind), at_most=most, unit="µs")
    finding = ("decision, 16 candidates", STRATEGIES[0], "finding")
    yield Goal("of each cold one, finding the 16 candidates", finding, unit="µs")
    for name, most in (("any key", 50), ("a key with 10,000 buyers", 1_000)):
        yield Goal(f"one area changed under {name}", (ONE_AREA, name, "microseconds"), at_most=most, unit="µs")


def _engines(figures: Figures) -> Iterator[Goal]:
    engines = [name for name in figures.values.get(GIVEN, {}) if name not in (OURS, PLAIN)]
    if engines:
        best = min(engines, key=lambda name: figures.spread(GIVEN, name, "microseconds").median)
        keys = ((GIVEN, name, "microseconds") for name in (best, OURS))
        yield Goal(f"faster than the best rule engine ({best}) on its question", *keys, at_least=15)
        keys = ((GIVEN, name, "microseconds") for name in (PLAIN, OURS))
        yield Goal("faster than plain Python on the same question", *keys)
    keys = ((WHOLE, name, "cold") for name in (SQLITE, OURS))
    yield Goal("faster than SQLite in memory on the whole question", *keys, at_least=25)


def _growth() -> Iterator[Goal]:
    for fewer, most in (("100,000", 1.35), ("10,000", 1.8)):
        for strategy in STRATEGIES:
            keys = ((f"growth, {strategy}", f"{buyers} buyers", "cold") for buyers in ("1,000,000", fewer))
            yield Goal(f"decision, {strategy}, from {fewer} to 1,000,000 buyers", *keys, at_most=most)


def _http() -> Iterator[Goal]:
    workload = http.connections_name(50)
    for other, least in ((http.MODEL, 0.8), (http.UPDATE, 1.6)):
        keys = ((workload, name, "rate") for name in (OURS, other))
        yield Goal(f"HTTP, 50 connections, to {other}", *keys, at_least=least)
    keys = ((workload, OURS, http.BOUND), (workload, http.MODEL, "rate"))
    yield Goal(f"HTTP, 50 connections, if no processor ever paused, to {http.MODEL}", *keys)
    keys = ((http.HUNDRED, name, "p50") for name in ("HTTP", "route_many"))
    yield Goal("HTTP, 100 leads in a call, to `route_many`", *keys, at_most=2)


def _configuration() -> Iterator[Goal]:
    quiet, busy, hectic = (configuration.commits_name(rate) for rate in (0, 100, 300))
    workload = configuration.WORKLOAD
    yield Goal("100 commits a second, throughput", (workload, busy, "rate"), (workload, quiet, "rate"), at_least=0.7)
    yield Goal("100 commits a second, p99", (workload, busy, "p99"), (workload, quiet, "p99"), at_most=3)
    yield Goal("300 commits a second, p99", (workload, hectic, "p99"), at_most=250, unit="ms")
    yield Goal(
        "import of 1,000,000 areas, p99",
        (workload, configuration.import_name(1_000_000), "p99"),
        at_most=250,
        unit="ms",
    )
    for metric, most in (("p50", 1), ("p99", 5)):
        key = (configuration.FIRST_DECISION, OURS, metric)
        yield Goal(f"COMMIT to the first decision on it, {metric}", key, at_most=most, unit="ms")


def _loading(figures: Figures) -> Iterator[Goal]:
    for rows in figures.values.get(configuration.LOADING, {}):
        yield Goal(f"loading {rows}", (configuration.LOADING, rows, "seconds"), at_most=5, unit="s")
        yield Goal(f"loading {rows}, longest stall", (configuration.LOADING, rows, "stall"), at_most=20, unit="ms")
    size = "100,000 buyers"
    yield Goal(f"loading {size} without the database", (FROM_MEMORY, size, "seconds"), at_most=1.5, unit="s")
    least = (FROM_MEMORY, size, "least")
    yield Goal(f"loading {size}: looking up areas' places and making enrollments alone", least, unit="s")
    yield Goal(f"indexes of {size}", ("size", size, "bytes_a_row"), at_most=60, unit="bytes a row")
    objects = ("size", size, "bytes_objects")
    yield Goal(f"indexes of {size}: the objects that decisions read and areas' ids alone", objects, unit="bytes a row")
    yield Goal(f"indexes of {size}, an area", ("size", size, "bytes_an_area"), at_most=60, unit="bytes")
    yield Goal(f"indexes of {size}, an enrollment", ("size", size, "bytes_an_enrollment"), unit="bytes")

"""What a draft policy would have done with the leads that came: gains and losses, before anything is changed.

Recorded leads are decided again in the order of claims, on the configuration of their time and at their instant. Caps
and turns move forward from the draft's own choices. On the policy that was in force it gives what is recorded.
"""

from __future__ import annotations

import time
from collections import Counter as Tally
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import Counter, State
from pointsman.engine.configuration import Enrollment, metered, turn
from pointsman.engine.decide import decide
from pointsman.engine.draft import Drafted, read_draft
from pointsman.engine.policy import Rules
from pointsman.engine.zones import HOUR
from pointsman.history import SLICE, History, missing_version
from pointsman.model import instant
from pointsman.proof import Served, instant_of, lead_of, require_named
from pointsman.replay import Connection, Progress, Replaying, Selection, queries, reading, served_before
from pointsman.store import translated

NOBODY_ELIGIBLE = ("no_eligible_buyers", "no_route_exclusive_fail_closed")


class Result(NamedTuple):
    """What became of a lead: the outcome, or the cause of a no-route, and who got it."""

    what: str
    buyer_id: UUID | None


@dataclass(slots=True)
class Arrival:
    """A lead that was to be routed once; decided several times where it found nobody at first."""

    at: int
    recorded: Result
    drafted: Result


@dataclass(frozen=True, slots=True)
class BuyerChange:
    """How many leads a buyer got, and how many it would have got; `gained` and `lost` are leads, not a difference."""

    buyer_id: UUID
    recorded: int
    drafted: int
    gained: int
    lost: int


@dataclass(frozen=True, slots=True)
class Hour:
    """An hour of UTC in which leads found nobody eligible: how many in the records, how many under the draft."""

    start: datetime
    recorded: int
    drafted: int


@dataclass(slots=True)
class Comparison:
    """What is recorded, and what the draft would have done. `pruned`: decisions whose configuration is not kept."""

    leads: int = 0
    changed: int = 0
    pruned: int = 0
    seconds: float = 0.0
    recorded: dict[str, int] = field(default_factory=dict)
    drafted: dict[str, int] = field(default_factory=dict)
    new_routes: int = 0
    new_no_routes: dict[str, int] = field(default_factory=dict)
    buyers: list[BuyerChange] = field(default_factory=list)
    hours: list[Hour] = field(default_factory=list)

    def as_json(self) -> dict[str, Any]:
        """For a program to read; ids and instants are still Python's."""
        return {
            "leads": self.leads,
            "changed": self.changed,
            "recorded": self.recorded,
            "drafted": self.drafted,
            "new_routes": self.new_routes,
            "new_no_routes": self.new_no_routes,
            "buyers": [
                {
                    "buyer_id": buyer.buyer_id,
                    "recorded": buyer.recorded,
                    "drafted": buyer.drafted,
                    "gained": buyer.gained,
                    "lost": buyer.lost,
                }
                for buyer in self.buyers
            ],
            "hours_with_nobody_eligible": [
                {"hour": hour.start, "recorded": hour.recorded, "drafted": hour.drafted} for hour in self.hours
            ],
            "pruned": self.pruned,
            "seconds": round(self.seconds, 3),
        }


async def backtest(
    dsn: str,
    policy: object,
    *,
    since: datetime | None = None,
    replaces: UUID | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Decide the recorded leads again under the rules in the decoded JSON document `policy`; writes nothing.

    The draft stands in for the policy `replaces`, or for every one. Raises `InvalidHypothesis` for rules that cannot
    be used, `HistoryHole`, and what stands in the way of reading the database.
    """
    rules = read_draft(policy)
    async with reading(dsn) as connection:
        with translated():
            return await backtest_on(connection, rules, since, replaces, progress or (lambda done, total: None))


async def backtest_on(
    connection: Connection, rules: Rules, since: datetime | None, replaces: UUID | None, progress: Progress
) -> Comparison:
    """The same on an open connection in a transaction that sees one moment."""
    began = time.monotonic()
    replaying = await Replaying.begin(connection, Selection(since))
    report = await replaying.preliminary()
    strangers = report.same_version.differences
    if strangers:  # decisions of versions that are not there: replay tells them, here is nothing to decide them on
        raise missing_version(strangers[0].facts[0].recorded, strangers[0].decision_id)
    total = await replaying.count()
    arrivals = await _arrivals(connection, since, rules, replaces, lambda done: progress(done, total))
    comparison = _compared(arrivals)
    comparison.pruned = report.pruned
    comparison.seconds = time.monotonic() - began
    return comparison


class _Counts(dict[bytes, int]):
    """What a state has counted, worked out when it is asked for."""

    def __init__(self, count: Callable[[bytes], int]) -> None:
        super().__init__()
        self._count = count

    def get(self, counter: bytes, default: object = None) -> int:
        return self._count(counter)


class Forward(State):
    """The state that the draft's own choices leave, on top of what was there before the first of its leads."""

    __slots__ = ("_before", "_indexes", "_served", "at")

    def __init__(self, served: Served, indexes: Indexes) -> None:
        super().__init__()
        self.used = _Counts(self.counted)
        self._served = served
        self._indexes = indexes
        self._before = self.at = 0

    def stand_at(self, decision_id: int, at: int, indexes: Indexes) -> None:
        """Be what the decisions with smaller ids left."""
        self._before, self.at, self._indexes = decision_id, at, indexes

    def counted(self, counter: bytes) -> int:
        """How many leads there are in the window of now."""
        buyer_id, offer_id, kind = metered(Counter(counter).meter)
        zone = self._indexes.buyers[buyer_id].zone
        assert zone is not None  # or no window could be asked about
        window = zone.hour(self.at) if kind == "hour" else zone.day(self.at)
        return self._served.counted(turn(buyer_id, offer_id), window, self._before)

    def positions_of(self, compared: Sequence[Enrollment]) -> list[int]:
        return self._served.positions(compared, self._before)

    def serve(self, enrollment: Enrollment) -> None:
        """Count the lead that this state was asked about."""
        self._served.add(self._before, self.at, enrollment.turn)


class _Configuration:
    """The configuration at the version of each decision in the order of ids, which is nearly that of versions."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._history: History | None = None

    async def at(self, version: int) -> Indexes:
        """As it was at `version`; a decision that was overtaken by a newer version gets a walk of its own."""
        if self._history is None:
            self._history = History(self._connection, version)
        if version >= self._history.indexes.version:
            return await self._history.advance(version)
        return await History(self._connection, version).advance(version)


async def _arrivals(
    connection: Connection,
    since: datetime | None,
    rules: Rules,
    replaces: UUID | None,
    progress: Callable[[int], None],
) -> list[Arrival]:
    """Every lead with what became of it and what would have."""
    arrivals: dict[tuple[UUID, int], Arrival] = {}
    configuration, state = _Configuration(connection), None
    cursor = await connection.cursor(queries()["arrivals"], since)
    done = 0
    while rows := await cursor.fetch(SLICE):
        if state is None:
            served = await served_before(connection, rows[0]["id"])
            state = Forward(served, await configuration.at(rows[0]["config_version"]))
        for row in rows:
            indexes = await configuration.at(row["config_version"])
            if indexes.version == row["config_version"]:
                require_named(row, indexes)
                state.stand_at(row["id"], instant_of(row), indexes)
                _arrive(row, Drafted(indexes, rules, replaces), state, arrivals)
        done += len(rows)
        progress(done)
    return list(arrivals.values())


def _arrive(row: asyncpg.Record, snapshot: Drafted, state: Forward, arrivals: dict[tuple[UUID, int], Arrival]) -> None:
    """Decide a recorded decision's lead again, unless the draft has routed it already."""
    recorded = Result(row["cause"] or row["outcome"], row["buyer_id"])
    arrival = arrivals.get((row["lead_id"], row["attempt"]))
    if arrival is not None:
        arrival.recorded = recorded
        if arrival.drafted.buyer_id is not None:
            return
    decision = decide(lead_of(row), snapshot, state, state.at)
    winner = decision.winner
    if winner is not None:
        state.serve(winner)
    drafted = Result(decision.cause or decision.outcome, None if winner is None else winner.buyer_id)
    if arrival is None:
        arrivals[row["lead_id"], row["attempt"]] = Arrival(state.at, recorded, drafted)
    else:
        arrival.drafted = drafted


def _compared(arrivals: list[Arrival]) -> Comparison:
    recorded, drafted, gained, lost = Tally[UUID](), Tally[UUID](), Tally[UUID](), Tally[UUID]()
    no_routes: Tally[str] = Tally()
    hours: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    comparison = Comparison(leads=len(arrivals))
    for arrival in arrivals:
        was, would = arrival.recorded, arrival.drafted
        for result, buyers, changes, other in ((was, recorded, lost, would), (would, drafted, gained, was)):
            if result.buyer_id is not None:
                buyers[result.buyer_id] += 1
                changes[result.buyer_id] += result.buyer_id != other.buyer_id
        for place, result in enumerate((was, would)):
            if result.what in NOBODY_ELIGIBLE:
                hours[arrival.at // HOUR * HOUR][place] += 1
        comparison.changed += was != would
        comparison.new_routes += was.buyer_id is None and would.buyer_id is not None
        if was.buyer_id is not None and would.buyer_id is None:
            no_routes[would.what] += 1
    comparison.recorded = dict(sorted(Tally(arrival.recorded.what for arrival in arrivals).items()))
    comparison.drafted = dict(sorted(Tally(arrival.drafted.what for arrival in arrivals).items()))
    comparison.new_no_routes = dict(sorted(no_routes.items()))
    comparison.buyers = [
        BuyerChange(buyer_id, recorded[buyer_id], drafted[buyer_id], gained[buyer_id], lost[buyer_id])
        for buyer_id in sorted(recorded.keys() | drafted.keys(), key=lambda found: found.bytes)
    ]
    comparison.hours = [Hour(instant(start), *counts) for start, counts in sorted(hours.items())]
    return comparison

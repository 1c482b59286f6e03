"""One recorded decision, decided again: whether it is the same, and whether it rests on what was before it.

Replay asks this of many decisions, an explanation of the past of the one that it is about to explain.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import itemgetter
from typing import Any, NamedTuple, Protocol
from uuid import UUID

import asyncpg

from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import Cap, State
from pointsman.engine.configuration import NOBODY, Enrollment
from pointsman.engine.decide import Decision
from pointsman.engine.policy import Policy
from pointsman.engine.record import StoredState, digest, head, named, read_state, redecide
from pointsman.engine.zones import DAY, Window
from pointsman.history import hole
from pointsman.model import Lead, micros

_BACK_SECONDS = 60 * 1_000_000
"""How far the instants of decisions may stand behind the order of their ids."""
_WINDOWS_LAST = 3 * DAY
"""What is older than this counts in no window that may be open: a local day can last more than a day, zones are a day
apart."""
_RESULTS = ("outcome", "cause", "buyer_id", "policy_id", "policy_version")
_results_of = itemgetter(*_RESULTS)
_lead_of = itemgetter("lead_id", "offer_id", "vertical_id", "market_id", "postal_code", "city")


class Fact(NamedTuple):
    """One thing that is not the same again."""

    field: str
    recorded: Any
    replayed: Any


@dataclass(frozen=True, slots=True)
class Difference:
    """A decision that is not the same again. `is_intact`: the row is as it was written, by its own digest."""

    decision_id: int
    lead_id: UUID
    engine_version: str
    is_intact: bool
    facts: tuple[Fact, ...]

    @property
    def is_unsupported(self) -> bool:
        """Whether only the state that it rests on is not what the decisions before it left."""
        return all(fact.field.startswith(("used:", "position:")) for fact in self.facts)


# the routing state


class Before(Protocol):
    """What the decisions with ids smaller than one left."""

    def used(self, cap: Cap, before: int) -> int | None:
        """Leads that count under `cap`, None where some of their decisions were pruned."""

    def positions(self, compared: Sequence[Enrollment], before: int) -> list[int]:
        """The last decision that served each of `compared`, 0 where none did."""


class Served:
    """Who was served when: what the decisions before any decision left.

    Decisions are taken in in the order of ids, and asked about in nearly the same one: then the answer is at hand. Of
    decisions before the instant `known_from`, which may have been pruned, only the last turns are known. Holders, whose
    caps leads count under, go by the first 32 bytes of a meter, which are an enrollment's `turn`.
    """

    def __init__(self, known_from: int | None = None) -> None:
        self._known_from = known_from
        self._holders: dict[bytes, _Turns] = defaultdict(_Turns)
        self._last: dict[bytes, int] = {}
        self._latest_id = 0

    def add(self, decision_id: int, at: int, enrollment: bytes) -> None:
        """Take in a decision that served an enrollment, given by its `turn`."""
        self._last[enrollment] = self._latest_id = decision_id
        self._holders[enrollment].add(decision_id, at)
        self._holders[enrollment[:16] + NOBODY.bytes].add(decision_id, at)

    def used(self, cap: Cap, before: int) -> int | None:
        window = cap.window
        if self._known_from is not None and window.start < self._known_from:
            return None
        return self._holders[cap.counter[:32]].count(window, before)

    def counted(self, holder: bytes, window: Window, before: int) -> int:
        """The holder's leads in a window by decisions with smaller ids, as far as they are kept."""
        return self._holders[holder].count(window, before)

    def positions(self, compared: Sequence[Enrollment], before: int) -> list[int]:
        if before > self._latest_id:
            last = self._last.get
            return [last(enrollment.turn, 0) for enrollment in compared]
        return [self._holders[enrollment.turn].last(before) for enrollment in compared]


class _Turns:
    """The decisions that served one holder, in the order of ids, which is nearly that of their instants.

    No instant stands more than `_BACK_SECONDS` behind the latest one before it, which is kept beside it: it only grows,
    so a window's decisions are found by bisection, and only those near its edges are looked at one by one. The windows
    that were asked about last, one of each kind, are counted on. What no window counts any more is forgotten.
    """

    __slots__ = ("_counted", "_forgotten", "_ids", "_instants", "_latest")

    def __init__(self) -> None:
        self._forgotten = 0  # the last id of what is
        self._ids = array("q")
        self._instants = array("q")
        self._latest = array("q")
        self._counted: dict[str, _Counted] = {}

    def add(self, decision_id: int, at: int) -> None:
        latest = self._latest
        self._ids.append(decision_id)
        self._instants.append(at)
        latest.append(max(at, latest[-1]) if latest else at)
        for counted in self._counted.values():
            if counted.start <= at < counted.end:
                counted.count += 1
        if not len(latest) & 0xFF:
            self._forget(bisect_left(latest, latest[-1] - _WINDOWS_LAST))

    def _forget(self, count: int) -> None:
        """Drop the first `count` decisions, once they are most of all: what stays is moved."""
        if 2 * count > len(self._ids):
            self._forgotten = self._ids[count - 1]
            for values in (self._ids, self._instants, self._latest):
                del values[:count]

    def last(self, before: int) -> int:
        """The last id smaller than `before`, 0 if there is none."""
        place = bisect_left(self._ids, before)
        return self._ids[place - 1] if place else self._forgotten

    def count(self, window: Window, before: int) -> int:
        """How many decisions with smaller ids have their instants in `window`."""
        ids = self._ids
        if ids and ids[-1] >= before:
            return self._count_first(bisect_left(ids, before), window)
        counted = self._counted.get(window.kind)
        if counted is None or counted.start != window.start or counted.end != window.end:
            counted = self._counted[window.kind] = _Counted(window, self._count_first(len(ids), window))
        return counted.count

    def _count_first(self, end: int, window: Window) -> int:
        """How many of the first `end` decisions have their instants in `window`."""
        latest = self._latest
        first = bisect_left(latest, window.start, 0, end)
        surely_in = bisect_left(latest, window.start + _BACK_SECONDS, first, end)
        surely_to = bisect_left(latest, window.end, surely_in, end)
        last = bisect_left(latest, window.end + _BACK_SECONDS, surely_to, end)
        edges = (*self._instants[first:surely_in], *self._instants[surely_to:last])
        return surely_to - surely_in + sum(window.start <= at < window.end for at in edges)


class _Counted:
    """How many of a holder's decisions there are so far in a window."""

    __slots__ = ("count", "end", "start")

    def __init__(self, window: Window, count: int) -> None:
        self.start = window.start
        self.end = window.end
        self.count = count


class Answers:
    """The same for one decision, as the database answered it."""

    def __init__(self, state: State) -> None:
        self._state = state

    def used(self, cap: Cap, before: int) -> int | None:
        return self._state.used.get(cap.counter)

    def positions(self, compared: Sequence[Enrollment], before: int) -> list[int]:
        return self._state.positions_of(compared)


# one decision


class Again(NamedTuple):
    """A record and what its decision is when it is made again; `decision` is None where that cannot be done."""

    row: asyncpg.Record
    indexes: Indexes
    stored: StoredState
    decision: Decision | None
    problem: str = ""


def instant_of(row: asyncpg.Record) -> int:
    """The instant of a record; infinities, which only a row that was tampered with has, come without UTC."""
    decided_at: datetime = row["decided_at"]
    return micros(decided_at if decided_at.tzinfo else decided_at.replace(tzinfo=UTC))


def lead_of(row: asyncpg.Record) -> Lead:
    """The lead of a record, as it was read."""
    return Lead(*_lead_of(row))


def again(row: asyncpg.Record, indexes: Indexes) -> Again:
    """Decide a record again; a row that was tampered with may not even allow that."""
    stored = StoredState({}, ())
    try:
        stored = read_state(row["state"])
        decision = redecide(lead_of(row), indexes, stored, instant_of(row))
    except (ValueError, ArithmeticError) as error:
        return Again(row, indexes, stored, None, str(error))
    return Again(row, indexes, stored, decision)


def compare(made: Again, served: Before) -> Difference | None:
    """What is not the same again, None if all is."""
    row, decision = made.row, made.decision
    if decision is None:
        return _difference(row, is_intact(row, made.indexes), [Fact("state", row["state"].hex(), made.problem)])
    facts = _results(row, decision)
    # where the result is the same, both have the same head
    intact = _digest_of(made) == row["digest"] if not facts else is_intact(row, made.indexes)
    if not intact:
        facts.append(Fact("digest", row["digest"].hex(), _digest_of_row(row, made.indexes).hex()))
    elif not facts:
        facts += _premises(made, decision, served)
    return _difference(row, intact, facts) if facts else None


def _difference(row: asyncpg.Record, is_intact: bool, facts: Iterable[Fact]) -> Difference:
    return Difference(row["id"], row["lead_id"], row["engine_version"], is_intact, tuple(facts))


def _results(row: asyncpg.Record, decision: Decision) -> list[Fact]:
    policy, winner = decision.policy, decision.winner
    recorded = (*_results_of(row), row["flags"] or None)
    replayed = (
        decision.outcome,
        decision.cause,
        None if winner is None else winner.buyer_id,
        None if policy is None else policy.id,
        None if policy is None else policy.version,
        list(decision.flags) or None,
    )
    if recorded == replayed:
        return []
    facts = map(Fact, (*_RESULTS, "flags"), recorded, replayed)
    return [fact for fact in facts if fact.recorded != fact.replayed]


def _digest_of(made: Again) -> bytes:
    assert made.decision is not None
    return digest(head(made.decision, made.indexes.version, made.indexes.token), made.row["state"])


def _digest_of_row(row: asyncpg.Record, indexes: Indexes) -> bytes:
    """The digest that a row with these fields would have been given."""
    policy_id, buyer_id = row["policy_id"], row["buyer_id"]
    decision = Decision(
        lead_of(row),
        instant_of(row),
        row["outcome"],
        row["cause"],
        None if policy_id is None else Policy(policy_id, None, None, None, row["policy_version"] or 0, None),
        None if buyer_id is None else _named(buyer_id),
        tuple(row["flags"] or ()),
    )
    return digest(head(decision, row["config_version"], indexes.token), row["state"])


def is_intact(row: asyncpg.Record, indexes: Indexes) -> bool:
    """Whether a row is as it was written, by its own digest."""
    recorded: bytes = row["digest"]
    return _digest_of_row(row, indexes) == recorded


def require_named(row: asyncpg.Record, indexes: Indexes) -> None:
    """Raise `HistoryHole` where an intact row names a policy or a buyer that its version does not have.

    Whatever was changed in the history since, what a decision was made with was in it.
    """
    policy_id, buyer_id = row["policy_id"], row["buyer_id"]
    for what, named_id, is_there in (
        ("policy", policy_id, policy_id in indexes.policies),
        ("buyer", buyer_id, buyer_id in indexes.buyers and buyer_id in indexes.enrolled(row["offer_id"])),
    ):
        if named_id is not None and not is_there and is_intact(row, indexes):
            raise hole(
                f"the {what} `{named_id}`, which decision {row['id']} was made with, is missing at version "
                f"{indexes.version}; restore `pointsman.config_log`"
            )


def _named(buyer_id: UUID) -> Enrollment:
    """An enrollment of which nothing but the buyer is known."""
    blank = dict.fromkeys(("priority_rank", "weight", "enrolled_at", "hourly_cap", "daily_cap"))
    return Enrollment({**blank, "buyer_id": buyer_id, "offer_id": NOBODY, "is_active": False}, None, 0)


def _premises(made: Again, decision: Decision, served: Before) -> Iterator[Fact]:
    """Where the recorded state is not what the decisions before it left.

    What the winner took was locked, so its numbers are exact. Who was passed over was read without a lock: whoever was
    full then is full, and whoever stood behind stands there or further back.
    """
    stored, before = made.stored, made.row["id"]
    if not decision.takes and not decision.full and not decision.compared:
        if stored.used or stored.positions:
            yield Fact("state", made.row["state"].hex(), "nothing to be recorded")
        return
    names = [number for _, number in named(decision)]
    if names != list(stored.used) or len(stored.positions) != len(decision.compared):
        yield Fact("state", made.row["state"].hex(), "other counters and turns")
        return
    numbers = list(stored.used.values())
    for cap, number in zip(decision.takes, numbers, strict=False):
        if served.used(cap, before) not in (number, None):
            yield Fact(f"used:{cap.buyer_id}:{cap.level}:{cap.window.kind}", number, served.used(cap, before))
    for cap, number in zip(decision.full, numbers[len(decision.takes) :], strict=True):
        true = served.used(cap, before)
        if true is not None and true < cap.limit:
            yield Fact(f"used:{cap.buyer_id}:{cap.level}:{cap.window.kind}", number, true)
    lasts = served.positions(decision.compared, before)
    if lasts == stored.positions:
        return
    for enrollment, position, last in zip(decision.compared, stored.positions, lasts, strict=True):
        if last < position or (enrollment is decision.winner and last != position):
            yield Fact(f"position:{enrollment.buyer_id}", position, last)

"""A batch of decisions on its way into the database: what it believes, takes and asks the claim to prove."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import accumulate, islice
from operator import itemgetter
from typing import Any

from pointsman import engine
from pointsman.engine import geo, record, zones
from pointsman.engine.capacity import Cap, Counter, State, caps
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision
from pointsman.store import Claimed, Version

VERSIONS = (engine.__version__, zones.TZDATA_VERSION, geo.UNICODE_VERSION)
"""What a decision was made by: releases of the engine, of the time zone data, of the Unicode data."""

_SERVED_IN_BATCH = 1 << 62
"""Positions that this batch and the one before it give out stand behind every position that is written already."""
_REMEMBERED_COUNTERS = 1_000_000
_DOUBTED_AT_ONCE = 5_000
"""Counters: some two milliseconds."""
_HOLDERS = itemgetter(slice(32)), itemgetter(slice(16))
"""What a counter's holder is if that is an enrollment, and if it is a buyer."""


class Beliefs(State):
    """Usage and positions as the router last saw them, of rows that exist. Wrong ones cost a try, never a lead.

    `since` is the config version from which on a counter surely counted every lead.
    """

    __slots__ = ("_crowded", "_doubted", "_recounted", "since")

    def __init__(self) -> None:
        super().__init__()
        self.since: dict[bytes, int] = {}
        self.crowded = self._crowded = set[bytes]()
        self._doubted: Iterator[bytes] = iter(())
        self._recounted: set[bytes] | None = None

    def remember(self, counter: Counter, used: int, since: int) -> None:
        """Take over a row of usage, whatever the cap is that it counts under."""
        self.used[counter] = used
        self.since[counter] = since
        self._crowded.add(counter.holder)

    def note(self, cap: Cap, used: int) -> None:
        """Take over how many leads count under a cap."""
        self.used[cap.counter] = used
        if used >= cap.limit:
            self._crowded.add(cap.counter.holder)

    def learn(self, batch: Batch, claimed: Claimed) -> None:
        """Take over what the claim saw and what it added."""
        for index, (cap, used) in enumerate(zip(batch.caps, claimed.used, strict=False)):
            if index < batch.taken or cap.counter in self.used:
                self.note(cap, used)
        for index, (turn, position) in enumerate(zip(batch.turns, claimed.positions, strict=False)):
            if index < batch.won or turn in self.positions:
                self.positions[turn] = position
        for decision, decision_id in zip(batch.decisions, claimed.done, strict=True):
            if decision_id and decision.winner is not None:
                for cap in decision.takes:
                    self.note(cap, self.used.get(cap.counter, 0) + 1)
                    self.since[cap.counter] = cap.changed
                self.positions[decision.winner.turn] = batch.served[decision.winner.turn] = decision_id
        if len(self.used) > _REMEMBERED_COUNTERS:
            self.used.clear()  # those in use come back with their next claim
            self.since.clear()
            self._crowded.clear()

    def forget(self, batch: Batch) -> None:
        """Believe none of the batch's rows to exist: one of them does not."""
        for cap in batch.caps:
            self.used.pop(cap.counter, None)
        for turn in batch.turns:
            self.positions.pop(turn, None)

    def take_up(self, recounted: set[bytes]) -> None:
        """Look anew at enrollments whose leads are counted otherwise than before, and empty the indexes' set of these.

        The set of other indexes than before stands for a configuration of which nothing is known yet: everyone may be
        full until all who have counted are noted, which takes some calls, since they may be a million.
        """
        if self._recounted is not recounted:
            if self._recounted is not None:
                self.crowded, self._doubted = None, iter(list(self.used))
            self._recounted = recounted
        if self.crowded is None:
            self._doubt()
        if recounted:
            self._crowded |= recounted
            recounted.clear()

    def _doubt(self) -> None:
        """Note some more of those who have counted as possibly full."""
        some = list(islice(self._doubted, _DOUBTED_AT_ONCE))
        for holder in _HOLDERS:
            self._crowded.update(map(holder, some))
        if len(some) < _DOUBTED_AT_ONCE:
            self.crowded = self._crowded


class Batch(State):
    """Decisions in queue order, and the state that the next one is made on: each counts what those before it take.

    `seen` is what is believed of usage and positions; `known` holds the rows that surely exist. `fence`: a transaction
    id such that whatever claimed on an older config version than `version` has a smaller one. `before`: a batch whose
    claim is still under way, and is taken to hold. `served`: each winner's last decision, once they are claimed.
    """

    __slots__ = (
        "_compares",
        "_counters",
        "_earlier",
        "_fence",
        "_heads",
        "_is_complete",
        "_known",
        "_last_win",
        "_now",
        "_ranks",
        "_seen",
        "_served_before",
        "_stood",
        "_takes",
        "_turns",
        "_uses",
        "decisions",
        "served",
        "taken",
        "version",
        "won",
    )

    def __init__(
        self, version: Version, now: datetime, fence: int, seen: State, known: Beliefs, before: Batch | None = None
    ) -> None:
        super().__init__()
        self.decisions: list[Decision] = []
        self.taken = 0
        self.won = 0
        self.version = version
        self._now = now
        self._fence = fence
        self._seen = seen
        self._known = known
        self.used, self.positions, self.crowded = seen.used, seen.positions, seen.crowded
        self._is_complete = True
        self._last_win: dict[bytes, int] = {}
        self.served: dict[bytes, int] = {}
        self._served_before: dict[bytes, int] = {}
        self._stood: dict[bytes, int] = {}
        self._ranks: dict[bytes, int] = {}
        self._takes = self.ahead
        self._earlier = 0
        if before is not None:
            before.complete()
            self.ahead = dict(before._takes)
            self._ranks = {turn: _SERVED_IN_BATCH + lead for turn, lead in before._last_win.items()}
            self._earlier = len(before.decisions)
            self._served_before = before.served
            self._crowd(cap for counter, cap in before._counters.items() if counter in before._takes)
        self._counters: dict[Counter, Cap] = {}
        self._turns: dict[bytes, Enrollment] = {}
        self._uses: list[tuple[Counter, bool, int, int]] = []
        self._compares: list[tuple[bytes, bool, int]] = []
        self._heads: list[bytes] = []

    def positions_of(self, compared: Sequence[Enrollment]) -> list[int]:
        positions, ranks = super().positions_of(compared), self._ranks
        if ranks:
            for place, enrollment in enumerate(compared):
                if (last := ranks.get(enrollment.turn)) is not None:
                    positions[place] = last
        return positions

    @property
    def caps(self) -> Iterable[Cap]:
        """The caps in the order in which the claim was sent their counters."""
        return self._counters.values()

    @property
    def turns(self) -> Sequence[bytes]:
        """The enrollments in the order in which the claim was sent them."""
        return list(self._turns)

    def end(self, decision: Decision) -> None:
        """Put the last one at the end of the queue: what it takes concerns nobody yet, mostly never if it is alone."""
        self.decisions.append(decision)
        self._is_complete = False

    def complete(self) -> None:
        """Have the last decision in the books too: somebody is decided on them, or turns may move on meanwhile."""
        if not self._is_complete:
            self._is_complete = True
            self.add(self.decisions.pop())

    def add(self, decision: Decision) -> None:
        """Put a decision, made on this state, at the end of the queue, and what it takes in the books."""
        self.decisions.append(decision)
        lead = len(self.decisions)
        taken = len(decision.takes)
        for index, (cap, name) in enumerate(record.named(decision)):
            counter, takes = cap.counter, index < taken
            ahead = self._takes.get(counter, 0)
            self._counters.setdefault(counter, cap)
            self._uses.append((counter, takes, ahead, name))
            if takes:
                self._take(cap, ahead + 1)
        for enrollment in decision.compared:
            self._turns.setdefault(enrollment.turn, enrollment)
            self._stood.setdefault(enrollment.turn, self.positions.get(enrollment.turn, 0))
            wins = enrollment is decision.winner
            self._compares.append((enrollment.turn, wins, self._last_win.get(enrollment.turn, 0)))
        self._heads.append(record.head(decision, *self.version))
        if decision.winner is not None:
            self._turns.setdefault(decision.winner.turn, decision.winner)
            self._last_win[decision.winner.turn] = lead
            self._ranks[decision.winner.turn] = _SERVED_IN_BATCH + self._earlier + lead

    def _take(self, cap: Cap, how_many: int) -> None:
        """Note how many leads of the batch so far count under a cap."""
        counter = cap.counter
        self._takes[counter] = how_many
        if self.ahead is not self._takes:
            self.ahead[counter] = self.ahead.get(counter, 0) + 1
        self._crowd((cap,))

    def _crowd(self, taken: Iterable[Cap]) -> None:
        """Note whose caps are reached by what was taken; who looked without that may have found room there."""
        if self.crowded is not None:
            self.crowded.update([cap.counter.holder for cap in taken if self.usage(cap.counter) >= cap.limit])

    def arguments(self) -> list[Any]:
        """The arguments of `claim_1`."""
        self.complete()
        self._put_taken_first()
        counter_index = {counter: index for index, counter in enumerate(self._counters, start=1)}
        turn_index = {turn: index for index, turn in enumerate(self._turns, start=1)}
        known_turns = self._known.positions
        return [
            *self._basis(),
            *self._lead_arrays(turn_index),
            self.taken,
            *counter_arrays(self._counters.values()),
            [counter not in self._known.used for counter in self._counters],
            [self._takes.get(counter, 0) for counter in self._counters],
            [counter_index[counter] * (1 if takes else -1) for counter, takes, _, _ in self._uses],
            [ahead for _, _, ahead, _ in self._uses],
            [name for *_, name in self._uses],
            self.won,
            [enrollment.buyer_id for enrollment in self._turns.values()],
            [enrollment.offer_id for enrollment in self._turns.values()],
            [self._expected(turn) for turn in self._turns],
            [turn not in known_turns for turn in self._turns],
            [turn_index[turn] * (-1 if wins else 1) for turn, wins, _ in self._compares],
            [after for _, _, after in self._compares],
        ]

    def alone(self, undecided: int | None) -> list[Any] | None:
        """The arguments of `claim_one_1`; None where the batch is not one lead that this can claim.

        It has a winner, or no earlier decision that it may repeat: `undecided` is the `xmin` of its row if it had none.
        """
        if len(self.decisions) != 1:
            return None
        (decision,) = self.decisions
        winner, policy, lead = decision.winner, decision.policy, decision.lead
        if winner is None and undecided is None:
            return None
        takes, full, compared = decision.takes, decision.full, decision.compared
        named = record.named(decision)
        names = [name for _, name in named]
        usage = [self._seen.usage(cap.counter) for cap, _ in named]
        head = self._heads[0] if self._heads else record.head(decision, *self.version)
        positions = [self._expected(enrollment.turn) for enrollment in compared]
        state = record.packed_state(list(zip(names, usage, strict=True)), positions)
        since = self._known.since
        is_new = any(since.get(cap.counter, -1) < cap.changed for cap in takes)
        # by slot, whose last bit tells days from hours, and whose first the buyer's from the enrollment's
        limits: list[int | None] = [None] * 4
        used: list[int | None] = [None] * 4
        opens: list[datetime | None] = [None] * 2
        closes: list[datetime | None] = [None] * 2
        changed: list[int | None] = [None] * 2
        for cap, count in zip(takes, usage, strict=False):
            slot, window = cap.slot, cap.window
            limits[slot], used[slot] = cap.limit, count
            opens[slot & 1], closes[slot & 1] = window.opens, window.closes if is_new else None
            changed[slot >> 1] = cap.changed
        return [
            *self._basis(),
            undecided,
            *lead[:6],
            decision.outcome,
            decision.cause,
            ",".join(decision.flags),
            None if winner is None else winner.buyer_id,
            None if policy is None else policy.id,
            None if policy is None else policy.version,
            head,
            state,
            record.digest(head, state),
            *opens,
            *closes,
            *changed,
            names[0] - takes[0].slot if takes else None,
            *limits,
            *used,
            is_new,
            winner is not None and winner.turn not in self._known.positions,
            [cap.buyer_id for cap in full] or None,
            [cap.window.opens for cap in full] or None,
            names[len(takes) :] or None,
            [cap.limit for cap in full] or None,
            [cap.changed for cap in full] or None,
            usage[len(takes) :] or None,
            self._expected(winner.turn) if winner is not None and compared else None,
            [enrollment.buyer_id for enrollment in compared] or None,
            positions or None,
        ]

    def answered_alone(self, answer: list[int] | None) -> Claimed:
        """What `claim_one_1` answered, in the form of the batch's answer; nothing is seen where all was as believed."""
        if answer is None:
            return Claimed([0], [None], [], [], {"alone": True})
        done, *true = answer
        if not true:
            return Claimed([done], [None], [], [], None)
        self.complete()
        (decision,) = self.decisions
        takes = sorted(decision.takes, key=_order_of_locks)
        counters = [cap.counter for cap in (*takes, *decision.full)]
        used = dict(zip(counters, true, strict=False))
        positions = {turn: self._seen.positions.get(turn, 0) for turn in self._turns}
        turns = [enrollment.turn for enrollment in decision.compared]
        positions |= zip(turns, true[len(counters) :], strict=True)
        self._put_taken_first()
        return Claimed(
            [done],
            [None],
            [used[counter] for counter in self._counters],
            [positions[turn] for turn in self._turns],
            None,
        )

    def _basis(self) -> list[Any]:
        """What both claims are told first: config version, instant, and by what the decisions were made."""
        return [self.version.number, self.version.token, self._fence, self._now, *VERSIONS]

    def _expected(self, turn: bytes) -> int:
        """Where an enrollment stands if what was decided on is true: not what is believed meanwhile.

        What was learned since the decision may have another one go first, and the claim has to find that out.
        """
        served = self._served_before.get(turn)
        if served is None:
            served = self._stood.get(turn)
        return self._seen.positions.get(turn, 0) if served is None else served  # where nobody compared it, any will do

    def _put_taken_first(self) -> None:
        """Counters that leads count under, and enrollments that win, come before those that are only looked at.

        Both in the order of their keys in the database, in which the claim locks them.
        """
        taken = sorted(counter for counter in self._counters if counter in self._takes)
        won = sorted(self._last_win)
        self.taken, self.won = len(taken), len(won)
        self._counters = {counter: self._counters[counter] for counter in taken} | self._counters
        self._turns = {turn: self._turns[turn] for turn in won} | self._turns

    def _lead_arrays(self, turn_index: dict[bytes, int]) -> list[list[Any]]:
        leads = [decision.lead for decision in self.decisions]
        winners = [decision.winner for decision in self.decisions]
        policies = [decision.policy for decision in self.decisions]
        return [
            [lead.id for lead in leads],
            [lead.offer_id for lead in leads],
            [lead.vertical_id for lead in leads],
            [lead.market_id for lead in leads],
            [lead.postal_code for lead in leads],
            [lead.city for lead in leads],
            [decision.outcome for decision in self.decisions],
            [decision.cause for decision in self.decisions],
            [",".join(decision.flags) for decision in self.decisions],
            [None if winner is None else winner.buyer_id for winner in winners],
            [None if policy is None else policy.id for policy in policies],
            [None if policy is None else policy.version for policy in policies],
            [0 if winner is None else turn_index[winner.turn] for winner in winners],
            self._heads,
            list(accumulate(len(decision.takes) + len(decision.full) for decision in self.decisions)),
            list(accumulate(len(decision.compared) for decision in self.decisions)),
        ]


def _order_of_locks(cap: Cap) -> int:
    """By the keys of `cap_usage`: the buyer's own before its enrollment's, days before hours."""
    return -cap.slot


def counter_arrays(asked: Iterable[Cap]) -> list[list[Any]]:
    """The `k_` arrays of holders, kinds, windows, limits and last changes."""
    asked = list(asked)
    return [
        [cap.buyer_id for cap in asked],
        [cap.offer_id for cap in asked],
        [cap.window.kind for cap in asked],
        [cap.window.opens for cap in asked],
        [cap.window.closes for cap in asked],
        [cap.limit for cap in asked],
        [cap.changed for cap in asked],
    ]


class Question:
    """Usage to be read of what caps count, and positions of enrollments."""

    def __init__(self, turns: Iterable[Enrollment], asked: Iterable[Cap]) -> None:
        self._turns = {enrollment.turn: enrollment for enrollment in turns}
        self._caps = {cap.counter: cap for cap in asked}

    @classmethod
    def of(cls, candidates: Iterable[Enrollment], at: int) -> Question:
        """All that is to be known of those to whom leads could be given at an instant."""
        candidates = list(candidates)
        return cls(candidates, (cap for enrollment in candidates for cap in caps(enrollment, at)))

    def arguments(self) -> list[list[Any]]:
        """Counters (holders, kinds, windows, last changes), then enrollments, as the statements take them."""
        buyers, offers, kinds, starts, ends, _, changed = counter_arrays(self._caps.values())
        return [
            buyers,
            offers,
            kinds,
            starts,
            ends,
            changed,
            [enrollment.buyer_id for enrollment in self._turns.values()],
            [enrollment.offer_id for enrollment in self._turns.values()],
        ]

    def answered(self, used: Sequence[int | None], positions: Sequence[int]) -> State:
        """The state that the answers make, without the usage that nobody knows."""
        state = State()
        state.used = {counter: count for counter, count in zip(self._caps, used, strict=True) if count is not None}
        state.positions = dict(zip(self._turns, positions, strict=True))
        return state

    def is_answered_by(self, state: State) -> bool:
        """Whether `state` knows the usage of everything that was asked about."""
        return self._caps.keys() <= state.used.keys()

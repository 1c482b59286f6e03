"""A batch of decisions on its way into the database: what it believes, takes and asks the claim to prove."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import accumulate
from typing import Any

from pointsman import engine
from pointsman.engine import geo, record, zones
from pointsman.engine.capacity import Cap, Counter, State, caps
from pointsman.engine.configuration import NOBODY, Enrollment, Slot
from pointsman.engine.decide import Decision
from pointsman.store import Claimed, Version

VERSIONS = (engine.__version__, zones.TZDATA_VERSION, geo.UNICODE_VERSION)
"""What a decision was made by: releases of the engine, of the time zone data, of the Unicode data."""

_SERVED_IN_BATCH = 1 << 62
"""Positions that this batch gives out stand behind every position that is written already."""
_REMEMBERED_COUNTERS = 1_000_000

_SLOTS = (
    Slot.DAILY_OF_BUYER,
    Slot.HOURLY_OF_BUYER,
    Slot.DAILY_OF_ENROLLMENT,
    Slot.HOURLY_OF_ENROLLMENT,
)
"""The caps of a winner in the order in which `claim_one_1` locks their counters."""


class Beliefs(State):
    """Usage and positions as the router last saw them, of rows that exist. Wrong ones cost a try, never a lead.

    `since` is the config version from which on a counter surely counted every lead.
    """

    __slots__ = ("since",)

    def __init__(self) -> None:
        super().__init__()
        self.since: dict[tuple[bytes, int], int] = {}

    def learn(self, batch: Batch, claimed: Claimed) -> None:
        """Take over what the claim saw and what it added."""
        for index, (counter, used) in enumerate(zip(batch.counters, claimed.used, strict=False)):
            if index < batch.taken or counter in self.used:
                self.used[counter] = used
        for index, (turn, position) in enumerate(zip(batch.turns, claimed.positions, strict=False)):
            if index < batch.won or turn in self.positions:
                self.positions[turn] = position
        for decision, decision_id in zip(batch.decisions, claimed.done, strict=True):
            if decision_id and decision.winner is not None:
                for cap in decision.takes:
                    self.used[cap.counter] += 1
                    self.since[cap.counter] = cap.changed
                self.positions[decision.winner.turn] = decision_id
        if len(self.used) > _REMEMBERED_COUNTERS:
            self.used.clear()  # those in use come back with their next claim
            self.since.clear()

    def forget(self, batch: Batch) -> None:
        """Believe none of the batch's rows to exist: one of them does not."""
        for counter in batch.counters:
            self.used.pop(counter, None)
        for turn in batch.turns:
            self.positions.pop(turn, None)


class Batch(State):
    """Decisions in queue order, and the state that the next one is made on: each counts what those before it take.

    `seen` is what is believed of usage and positions; `known` holds the rows that surely exist.
    """

    __slots__ = (
        "_ahead",
        "_compares",
        "_counters",
        "_known",
        "_last_win",
        "_now",
        "_seen",
        "_turns",
        "_uses",
        "decisions",
        "taken",
        "version",
        "won",
    )

    def __init__(self, version: Version, now: datetime, seen: State, known: Beliefs) -> None:
        super().__init__()
        self.decisions: list[Decision] = []
        self.taken = 0
        self.won = 0
        self.version = version
        self._now = now
        self._seen = seen
        self._known = known
        self._ahead: dict[tuple[bytes, int], int] = {}
        self._last_win: dict[bytes, int] = {}
        self._counters: dict[Counter, Cap] = {}
        self._turns: dict[bytes, Enrollment] = {}
        self._uses: list[tuple[int, Counter, bool, int, int]] = []
        self._compares: list[tuple[int, bytes, int]] = []

    def usage(self, counter: tuple[bytes, int]) -> int:
        return self._seen.used.get(counter, 0) + self._ahead.get(counter, 0)

    def position(self, enrollment: Enrollment) -> int:
        turn = enrollment.turn
        if turn in self._last_win:
            return _SERVED_IN_BATCH + self._last_win[turn]
        return self._seen.positions.get(turn, 0)

    @property
    def counters(self) -> Sequence[Counter]:
        """The counters in the order in which the claim was sent them."""
        return list(self._counters)

    @property
    def turns(self) -> Sequence[bytes]:
        """The enrollments in the order in which the claim was sent them."""
        return list(self._turns)

    def add(self, decision: Decision) -> None:
        """Put a decision, made on this state, at the end of the queue."""
        self.decisions.append(decision)
        lead = len(self.decisions)
        taken = len(decision.takes)
        for index, (cap, name) in enumerate(record.named(decision)):
            counter, takes = cap.counter, index < taken
            ahead = self._ahead.get(counter, 0)
            self._counters.setdefault(counter, cap)
            self._uses.append((lead, counter, takes, ahead, name))
            if takes:
                self._ahead[counter] = ahead + 1
        for enrollment in decision.compared:
            self._turns.setdefault(enrollment.turn, enrollment)
            self._compares.append((lead, enrollment.turn, self._last_win.get(enrollment.turn, 0)))
        if decision.winner is not None:
            self._turns.setdefault(decision.winner.turn, decision.winner)
            self._last_win[decision.winner.turn] = lead

    def arguments(self) -> list[Any]:
        """The arguments of `claim_1`."""
        self._put_taken_first()
        counter_index = {counter: index for index, counter in enumerate(self._counters, start=1)}
        turn_index = {turn: index for index, turn in enumerate(self._turns, start=1)}
        known_turns = self._known.positions
        return [
            self.version.number,
            self.version.token,
            self._now,
            *VERSIONS,
            *self._lead_arrays(turn_index),
            self.taken,
            *counter_arrays(self._counters.values()),
            [counter not in self._known.used for counter in self._counters],
            [self._ahead.get(counter, 0) for counter in self._counters],
            [use[0] for use in self._uses],
            [counter_index[use[1]] for use in self._uses],
            [use[2] for use in self._uses],
            [use[3] for use in self._uses],
            [use[4] for use in self._uses],
            self.won,
            [enrollment.buyer_id for enrollment in self._turns.values()],
            [enrollment.offer_id for enrollment in self._turns.values()],
            [self._seen.positions.get(turn, 0) for turn in self._turns],
            [turn not in known_turns for turn in self._turns],
            [compared[0] for compared in self._compares],
            [turn_index[compared[1]] for compared in self._compares],
            [compared[2] for compared in self._compares],
        ]

    def alone(self) -> list[Any] | None:
        """The arguments of `claim_one_1`; None where the batch is not one routed lead with rows that are all known."""
        if len(self.decisions) != 1:
            return None
        (decision,) = self.decisions
        winner, policy, known = decision.winner, decision.policy, self._known
        if winner is None or policy is None or winner.turn not in known.positions:
            return None
        if any(known.since.get(cap.counter, -1) < cap.changed for cap in decision.takes):
            return None
        self._put_taken_first()
        lead = decision.lead
        names = [use[4] for use in self._uses]
        own: dict[int, tuple[datetime | None, int | None, int]] = dict.fromkeys(_SLOTS, (None, None, 0))
        changed = dict.fromkeys((True, False), 0)
        for cap, name in zip(decision.takes, names, strict=False):
            own[cap.slot] = (cap.window.opens, cap.limit, name)
            changed[cap.offer_id == NOBODY] = cap.changed
        buyers, offers, kinds, starts, _, limits, _ = counter_arrays(decision.full)
        return [
            self.version.number,
            self.version.token,
            self._now,
            *VERSIONS,
            lead.id,
            lead.offer_id,
            lead.vertical_id,
            lead.market_id,
            lead.postal_code,
            lead.city,
            ",".join(decision.flags),
            winner.buyer_id,
            policy.id,
            policy.version,
            record.head(decision, *self.version),
            changed[False],
            changed[True],
            *(part for slot in _SLOTS for part in own[slot]),
            self._seen.position(winner) if decision.compared else None,
            buyers,
            offers,
            kinds,
            starts,
            limits,
            names[len(decision.takes) :],
            [enrollment.buyer_id for enrollment in decision.compared],
            [self._seen.position(enrollment) for enrollment in decision.compared],
        ]

    def answered_alone(self, done: int | None, used: list[int] | None, positions: list[int] | None) -> Claimed:
        """What `claim_one_1` answered, in the form of the batch's answer."""
        if done is None:
            return Claimed([0], [None], [], [], {"alone": True})
        (decision,) = self.decisions
        stands = dict(zip((enrollment.turn for enrollment in decision.compared), positions or (), strict=True))
        return Claimed([done], [None], used or [], [stands.get(turn, 0) for turn in self._turns], None)

    def _put_taken_first(self) -> None:
        """Counters that leads count under, and enrollments that win, come before those that are only looked at."""
        taken = [counter for counter in self._counters if counter in self._ahead]
        won = list(self._last_win)
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
            [record.head(decision, *self.version) for decision in self.decisions],
            list(accumulate(len(decision.takes) + len(decision.full) for decision in self.decisions)),
            list(accumulate(len(decision.compared) for decision in self.decisions)),
        ]


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
    """Usage and positions to be read of all that leads could be given to."""

    def __init__(self, candidates: Iterable[Enrollment], at: int) -> None:
        self._turns: dict[bytes, Enrollment] = {}
        self._caps: dict[Counter, Cap] = {}
        for enrollment in candidates:
            self._turns[enrollment.turn] = enrollment
            for cap in caps(enrollment, at):
                self._caps[cap.counter] = cap

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

    def answered(self, used: Sequence[int], positions: Sequence[int]) -> State:
        """The state that the answers make."""
        state = State()
        state.used = dict(zip(self._caps, used, strict=True))
        state.positions = dict(zip(self._turns, positions, strict=True))
        return state

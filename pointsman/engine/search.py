"""Who gets a lead: buyers are looked at in the order of the policy, no further than the first who can have it."""

from __future__ import annotations

from collections.abc import Sequence

from pointsman.engine.capacity import Full, State, caps
from pointsman.engine.configuration import Enrollment
from pointsman.engine.eligibility import is_prompt
from pointsman.engine.policy import Rules
from pointsman.engine.strategy import COSTLY, TURN, Ranking
from pointsman.model import Lead


class Search:
    """One lead's search, and what its result rests on.

    `full`: whom nothing but their caps kept from going before the winner, or, where a turn decided, from being compared
    with it. `compared`: whose turns were compared, in the order in which they were given; empty where none was.
    """

    __slots__ = ("_at", "_ranking", "_rules", "_state", "compared", "full")

    def __init__(self, rules: Rules, lead: Lead, state: State, at: int) -> None:
        self.full: list[Full] = []
        self.compared: Sequence[Enrollment] = ()
        self._rules = rules
        self._ranking = Ranking(rules, lead.id, state)
        self._state = state
        self._at = at

    def first(self, those: Sequence[Enrollment]) -> Enrollment | None:
        """Who of `those` goes first among the ones that can have the lead."""
        rules = self._rules
        enforced = rules.enforced
        sound = [enrollment for enrollment in those if not enrollment.faults & enforced]
        if rules.sla_required:
            sound = [enrollment for enrollment in sound if is_prompt(enrollment, rules)]
        return self._first(sound, 0)

    def _first(self, level: Sequence[Enrollment], part: int) -> Enrollment | None:
        """The same of sound ones whom the parts of the order before `part` leave level."""
        if len(level) > 1:
            name = self._rules.order[part]
            if name == TURN:
                level = self._able(level)
                if len(level) > 1 and not self.compared:
                    self.compared = level
            elif name in COSTLY:
                level = self._open(level)
        if len(level) > 1:
            for those in self._ranking.levels(name, level):
                winner = self._first(those, part + 1)
                if winner is not None:
                    return winner
            return None
        return level[0] if level and (self.compared or self._is_able(level[0])) else None  # who is compared is able

    def _able(self, those: Sequence[Enrollment]) -> Sequence[Enrollment]:
        """Those who take leads at this hour and have room under every cap, as far as is known; notes who is full."""
        those, crowded = self._open(those), self._state.crowded
        if crowded is None:
            return [enrollment for enrollment in those if self._has_room(enrollment)]
        if not crowded or (
            crowded.isdisjoint([one.turn for one in those]) and crowded.isdisjoint([one.holder for one in those])
        ):
            return those
        doubtful = [one for one in those if one.turn in crowded or one.holder in crowded]
        full = [enrollment for enrollment in doubtful if not self._has_room(enrollment)]
        return [enrollment for enrollment in those if enrollment not in full] if full else those

    def _open(self, those: Sequence[Enrollment]) -> Sequence[Enrollment]:
        """Those who take leads at this hour."""
        if not self._rules.acceptance_hours:
            return those
        at = self._at
        return [
            enrollment
            for enrollment in those
            if (hours := enrollment.hours) is None
            or hours.opened <= at < hours.closes
            or (not hours.closed <= at < hours.opens and hours.is_open(at))
        ]

    def _is_able(self, enrollment: Enrollment) -> bool:
        """The same of one."""
        if self._rules.acceptance_hours and (hours := enrollment.hours) is not None and not hours.is_open(self._at):
            return False
        crowded = self._state.crowded
        if crowded is None or enrollment.turn in crowded or enrollment.holder in crowded:
            return self._has_room(enrollment)
        return True

    def _has_room(self, enrollment: Enrollment) -> bool:
        """Whether none of its caps is reached, as far as is known; notes the first that is."""
        state = self._state
        used, ahead = state.used.get, state.ahead
        for cap in caps(enrollment, self._at):
            count = used(cap.counter, 0)
            if ahead:
                count += ahead.get(cap.counter, 0)
            if count >= cap.limit:
                self.full.append(Full(enrollment, cap))
                return False
        if state.crowded:
            state.crowded.discard(enrollment.turn)
            state.crowded.discard(enrollment.holder)
        return True

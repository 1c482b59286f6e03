"""In which order eligible buyers come: strategy, SLA preference and tie-breakers as one key."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from decimal import Context, Decimal
from functools import total_ordering
from hashlib import blake2b
from itertools import takewhile
from typing import Any
from uuid import UUID

from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.eligibility import is_prompt
from pointsman.engine.policy import Rules

TURN = "least_recently_routed"

_LAST = (1, 0)
_TOO_CLOSE = 1e-12
"""Relative distance under which two scores in floating point (good to some 1e-15) do not prove their order."""
_EXACT = Context(prec=60)


def lead_hash(lead_id: UUID, buyer_id: UUID, salt: bytes) -> int:
    """The 64-bit n of rendezvous hashing (Thaler and Ravishankar 1998), equal on every platform."""
    return int.from_bytes(blake2b(lead_id.bytes + buyer_id.bytes + salt, digest_size=8).digest(), "big")


@total_ordering
class Score:
    """-ln(u) / weight with u = (n + 0.5) / 2^64, compared in floats where that is safe and in decimals where not.

    Weighted rendezvous hashing (Schindelhauer and Schomaker 2005): smallest first, shares follow the weights.
    """

    __slots__ = ("n", "value", "weight")

    def __init__(self, n: int, weight: int) -> None:
        self.n = n
        self.weight = weight
        # whichever of u and 1 - u is small is exact in integers and keeps its digits as a float
        below, above = 2 * n + 1, (1 << 65) - 2 * n - 1
        ln = math.log(below / (1 << 65)) if below < above else math.log1p(-above / (1 << 65))
        self.value = -ln / weight

    def exact(self) -> Decimal:
        """The score with 60 digits."""
        u = _EXACT.divide(Decimal(2 * self.n + 1), Decimal(1 << 65))
        return _EXACT.divide(-_EXACT.ln(u), Decimal(self.weight))

    def _is_far_from(self, other: Score) -> bool:
        return abs(self.value - other.value) > _TOO_CLOSE * max(self.value, other.value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Score):
            return NotImplemented
        if (self.n, self.weight) == (other.n, other.weight):
            return True
        return not self._is_far_from(other) and self.exact() == other.exact()

    def __lt__(self, other: Score) -> bool:
        return self.value < other.value if self._is_far_from(other) else self.exact() < other.exact()

    def __hash__(self) -> int:
        return hash((self.n, self.weight))


class Ranking:
    """The order of buyers for one lead, by the parts that its policy names, first to last.

    Unusable values (None, a weight of 0 under `weighted`) never get here: they are faults.
    """

    __slots__ = ("_hasher", "lead_id", "rules", "state")

    def __init__(self, rules: Rules, lead_id: UUID, state: State) -> None:
        self.rules = rules
        self.lead_id = lead_id
        self.state = state
        self._hasher: blake2b | None = None

    def first(self, eligible: Sequence[Enrollment]) -> tuple[Enrollment, Sequence[Enrollment]]:
        """Who goes first, and all whom only their turns told from that one (that one included; nobody if alone).

        Part by part, only for those whom the parts before left equal.
        """
        left: Sequence[Enrollment] = eligible
        compared: Sequence[Enrollment] = ()
        for name in self.rules.order:
            if len(left) == 1:
                break
            if name == TURN and not compared:
                compared = left
            values = self._values(name, left)
            best = _least(values) if name == "score" else min(values)
            left = [enrollment for enrollment, value in zip(left, values, strict=True) if value == best]
        return left[0], compared

    def _values(self, name: str, left: Sequence[Enrollment]) -> Sequence[Any]:
        if name == TURN:
            return self.state.positions_of(left)
        if name == "priority_rank":
            return [enrollment.priority_rank for enrollment in left]
        part = _PARTS[name]
        return [part(self, enrollment) for enrollment in left]

    def not_behind(self, winner: Enrollment, others: Sequence[Enrollment]) -> list[bool]:
        """Of each of `others`, whether nothing that stands still while configuration does puts it behind `winner`.

        A turn does not stand still, nor does what only counts after it.
        """
        stands: list[bool | None] = [None] * len(others)
        for name in takewhile(lambda name: name != TURN, self.rules.order):
            part = _PARTS[name]
            winners = part(self, winner)
            for index, other in enumerate(others):
                if stands[index] is None and (value := part(self, other)) != winners:
                    stands[index] = value < winners
            if None not in stands:
                break
        return [stand is not False for stand in stands]

    def key(self, enrollment: Enrollment) -> tuple[Any, ...]:
        """What `enrollment` is ordered by, smallest first; no two buyers have the same."""
        return tuple(_PARTS[name](self, enrollment) for name in self.rules.order)

    def hash(self, enrollment: Enrollment) -> int:
        """The `lead_hash` of the lead and the enrollment's buyer."""
        hasher = self._hasher
        if hasher is None:
            hasher = self._hasher = blake2b(self.lead_id.bytes, digest_size=8)
        hasher = hasher.copy()
        hasher.update(enrollment.turn[:16] + self.rules.salt)
        return int.from_bytes(hasher.digest(), "big")


def _least(scores: Sequence[Score]) -> Score:
    """The smallest, found in floats where these are safe."""
    value = min(score.value for score in scores)
    near = [score for score in scores if score.value <= value * (1 + 2 * _TOO_CLOSE)]
    return min(near)


def _score(ranking: Ranking, enrollment: Enrollment) -> Score:
    return Score(ranking.hash(enrollment), enrollment.weight or 1)


def _response_time(ranking: Ranking, enrollment: Enrollment) -> tuple[int, int]:
    seconds = enrollment.buyer.sla_response_seconds if enrollment.buyer else None
    return _LAST if seconds is None else (0, seconds)


_Part = Callable[[Ranking, Enrollment], Any]
_PARTS: dict[str, _Part] = {
    "sla": lambda ranking, enrollment: not is_prompt(enrollment, ranking.rules),
    "score": _score,
    "priority_rank": lambda ranking, enrollment: enrollment.priority_rank,
    "weight": lambda ranking, enrollment: -(enrollment.weight or 0),
    "sla_response_seconds": _response_time,
    TURN: lambda ranking, enrollment: ranking.state.position(enrollment),
    "enrolled_at": lambda ranking, enrollment: _LAST if enrollment.enrolled_at is None else (0, enrollment.enrolled_at),
    "lead_hash": Ranking.hash,
    "buyer_id": lambda ranking, enrollment: enrollment.turn,
}

"""In which order eligible buyers come: strategy, SLA preference and tie-breakers as one key."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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
_HALF, _WHOLE = 1 << 64, 1 << 65
"""Of u = (2 n + 1) / 2^65."""


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
        self.value = _value(n, weight)

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

    __slots__ = ("_of_lead", "lead_id", "rules", "state")

    def __init__(self, rules: Rules, lead_id: UUID, state: State) -> None:
        self.rules = rules
        self.lead_id = lead_id
        self.state = state
        self._of_lead: blake2b | None = None

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
            if name == "score":
                left = self._with_least_score(left)
                continue
            values = _PARTS[name](self, left)
            best = min(values)
            left = [enrollment for enrollment, value in zip(left, values, strict=True) if value == best]
        return left[0], compared

    def _with_least_score(self, left: Sequence[Enrollment]) -> Sequence[Enrollment]:
        """Those with the smallest score; scores that floats tell apart are never made."""
        hashes = self.hashes(left)
        values = [_value(n, enrollment.weight or 1) for n, enrollment in zip(hashes, left, strict=True)]
        near = min(values) * (1 + 2 * _TOO_CLOSE)
        close = [
            (Score(n, enrollment.weight or 1), enrollment)
            for n, enrollment, value in zip(hashes, left, values, strict=True)
            if value <= near
        ]
        least = min(score for score, _ in close)
        return [enrollment for score, enrollment in close if score == least]

    def not_behind(self, winner: Enrollment, others: Sequence[Enrollment]) -> list[bool]:
        """Of each of `others`, whether nothing that stands still while configuration does puts it behind `winner`.

        A turn does not stand still, nor does what only counts after it.
        """
        stands: list[bool | None] = [None] * len(others)
        for name in takewhile(lambda name: name != TURN, self.rules.order):
            level = [index for index, stand in enumerate(stands) if stand is None]
            if not level:
                break
            winners, *values = _PARTS[name](self, [winner, *(others[index] for index in level)])
            for index, value in zip(level, values, strict=True):
                if value != winners:
                    stands[index] = value < winners
        return [stand is not False for stand in stands]

    def key(self, enrollment: Enrollment) -> tuple[Any, ...]:
        """What `enrollment` is ordered by, smallest first; no two buyers have the same."""
        return tuple(_PARTS[name](self, (enrollment,))[0] for name in self.rules.order)

    def hashes(self, enrollments: Iterable[Enrollment]) -> list[int]:
        """The `lead_hash` of the lead and each enrollment's buyer."""
        of_lead, salt = self._of_lead, self.rules.salt
        if of_lead is None:
            of_lead = self._of_lead = blake2b(self.lead_id.bytes, digest_size=8)
        hashes = []
        for enrollment in enrollments:
            hasher = of_lead.copy()
            hasher.update(enrollment.turn[:16] + salt)
            hashes.append(int.from_bytes(hasher.digest()))
        return hashes


def _value(n: int, weight: int) -> float:
    """-ln(u) / weight; whichever of u and 1 - u is small is exact in integers and keeps its digits as a float."""
    below = 2 * n + 1
    if below < _HALF:
        return -math.log(below / _WHOLE) / weight
    return -math.log1p((below - _WHOLE) / _WHOLE) / weight


def _scores(ranking: Ranking, those: Sequence[Enrollment]) -> list[Score]:
    hashes = ranking.hashes(those)
    return [Score(n, enrollment.weight or 1) for n, enrollment in zip(hashes, those, strict=True)]


def _response_times(_: Ranking, those: Sequence[Enrollment]) -> list[tuple[int, int]]:
    found = (enrollment.buyer.sla_response_seconds if enrollment.buyer else None for enrollment in those)
    return [_LAST if seconds is None else (0, seconds) for seconds in found]


_PARTS: dict[str, Callable[[Ranking, Sequence[Enrollment]], Sequence[Any]]] = {
    "sla": lambda ranking, those: [not is_prompt(enrollment, ranking.rules) for enrollment in those],
    "score": _scores,
    "priority_rank": lambda _, those: [enrollment.priority_rank for enrollment in those],
    "weight": lambda _, those: [-(enrollment.weight or 0) for enrollment in those],
    "sla_response_seconds": _response_times,
    TURN: lambda ranking, those: ranking.state.positions_of(those),
    "enrolled_at": lambda _, those: [_LAST if (at := each.enrolled_at) is None else (0, at) for each in those],
    "lead_hash": Ranking.hashes,
    "buyer_id": lambda _, those: [enrollment.turn for enrollment in those],
}
"""What buyers are ordered by, for each of them."""

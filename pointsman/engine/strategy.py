"""In which order eligible buyers come: strategy, SLA preference and tie-breakers as one key."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from decimal import Context, Decimal
from functools import total_ordering
from hashlib import blake2b
from itertools import groupby, pairwise
from operator import itemgetter
from struct import unpack
from typing import Any
from uuid import UUID

from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.eligibility import is_prompt
from pointsman.engine.policy import Rules

SCORE, TURN = "score", "least_recently_routed"
COSTLY = frozenset({SCORE, TURN, "lead_hash"})
"""Parts that are worked out for a lead, where the others are read off."""

_LAST = (1, 0)
_TOO_CLOSE = 1e-12
"""Relative distance under which two scores in floating point (good to some 1e-15) do not prove their order."""
_EXACT = Context(prec=60)
_HALF, _WHOLE = 1 << 64, 1 << 65
"""Of u = (2 n + 1) / 2^65."""
_SCALE = 2.0**-65
"""Exact, so that what is scaled by it is rounded as a quotient is."""


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

    def levels(self, part: str, those: Sequence[Enrollment]) -> Iterator[Sequence[Enrollment]]:
        """`those` (not empty) in the order of one part: all who stand level at once, first to last."""
        return self._by_score(those) if part == SCORE else _levels(those, _PARTS[part](self, those))

    def _by_score(self, those: Sequence[Enrollment]) -> Iterator[Sequence[Enrollment]]:
        """Who goes first, which mostly is all that is asked for, then the others.

        Scores that floats tell apart are never compared as exact numbers.
        """
        hashes = self.hashes(those)
        place = _foremost(hashes, those)
        if place is not None:
            yield those[place : place + 1]
            those, hashes = [*those[:place], *those[place + 1 :]], [*hashes[:place], *hashes[place + 1 :]]
        scores = [_value(n, enrollment.weight or 1) for n, enrollment in zip(hashes, those, strict=True)]
        if any(after - before <= _TOO_CLOSE * after for before, after in pairwise(sorted(scores))):
            yield from _levels(those, _scores(self, those))
        elif those:
            yield from _levels(those, scores)

    def key(self, enrollment: Enrollment) -> tuple[Any, ...]:
        """What `enrollment` is ordered by, smallest first; no two buyers have the same."""
        return tuple(_PARTS[name](self, (enrollment,))[0] for name in self.rules.order)

    def hashes(self, enrollments: Iterable[Enrollment]) -> Sequence[int]:
        """The `lead_hash` of the lead and each enrollment's buyer."""
        of_lead, salt = self._of_lead, self.rules.salt
        if of_lead is None:
            of_lead = self._of_lead = blake2b(self.lead_id.bytes, digest_size=8)
        digests = []
        for enrollment in enrollments:
            hasher = of_lead.copy()
            hasher.update(enrollment.holder)
            if salt:
                hasher.update(salt)
            digests.append(hasher.digest())
        return unpack(f">{len(digests)}Q", b"".join(digests))


def _foremost(hashes: Sequence[int], those: Sequence[Enrollment]) -> int | None:
    """The place of the least score, None where floats do not tell it from the others.

    Among equal weights it belongs to the greatest hash, so that it is worked out once a weight.
    """
    greatest: dict[int, int] = {}
    for n, enrollment in zip(hashes, those, strict=True):
        weight = enrollment.weight or 1
        if n > greatest.get(weight, -1):
            greatest[weight] = n
    (least, first), *others = sorted([(_value(n, weight), n) for weight, n in greatest.items()])
    if hashes.count(first) > 1 or (others and others[0][0] <= least * (1 + 2 * _TOO_CLOSE)):
        return None
    return hashes.index(first)


def _value(n: int, weight: int) -> float:
    """-ln(u) / weight; whichever of u and 1 - u is small is exact in integers and keeps its digits as a float."""
    below = 2 * n + 1
    if below < _HALF:
        return -math.log(below * _SCALE) / weight
    return -math.log1p((below - _WHOLE) * _SCALE) / weight


def _levels(those: Sequence[Enrollment], values: Sequence[Any]) -> Iterator[Sequence[Enrollment]]:
    """Those with the least value, which mostly is all that is asked for, then the others."""
    least = min(values)
    how_many = values.count(least)
    if how_many == len(values):
        yield those
        return
    if how_many == 1:
        first = values.index(least)
        yield those[first : first + 1]
    else:
        yield [enrollment for enrollment, value in zip(those, values, strict=True) if value == least]
    others = sorted((value, index) for index, value in enumerate(values) if value != least)
    for _, level in groupby(others, key=itemgetter(0)):
        yield [those[index] for _, index in level]


def _scores(ranking: Ranking, those: Sequence[Enrollment]) -> list[Score]:
    hashes = ranking.hashes(those)
    return [Score(n, enrollment.weight or 1) for n, enrollment in zip(hashes, those, strict=True)]


def _prompt_first(ranking: Ranking, those: Sequence[Enrollment]) -> list[bool]:
    rules = ranking.rules
    return [not is_prompt(enrollment, rules) for enrollment in those]


def _response_times(_: Ranking, those: Sequence[Enrollment]) -> list[tuple[int, int]]:
    found = [enrollment.sla_response_seconds for enrollment in those]
    return [_LAST if seconds is None else (0, seconds) for seconds in found]


_PARTS: dict[str, Callable[[Ranking, Sequence[Enrollment]], Sequence[Any]]] = {
    "sla": _prompt_first,
    SCORE: _scores,
    "priority_rank": lambda _, those: [enrollment.priority_rank for enrollment in those],
    "weight": lambda _, those: [-(enrollment.weight or 0) for enrollment in those],
    "sla_response_seconds": _response_times,
    TURN: lambda ranking, those: ranking.state.positions_of(those),
    "enrolled_at": lambda _, those: [_LAST if (at := each.enrolled_at) is None else (0, at) for each in those],
    "lead_hash": Ranking.hashes,
    "buyer_id": lambda _, those: [enrollment.turn for enrollment in those],
}
"""What buyers are ordered by, for each of them."""

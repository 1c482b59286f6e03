"""In which order eligible buyers come: strategy, SLA preference and tie-breakers as one key (CONTRACT 3 and 4.4)."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Context, Decimal
from functools import total_ordering
from hashlib import blake2b
from typing import Any
from uuid import UUID

from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.eligibility import is_prompt
from pointsman.engine.policy import Rules

Part = Callable[[Enrollment], Any]

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
        return not self._is_far_from(other) and self.exact() == other.exact()

    def __lt__(self, other: Score) -> bool:
        return self.value < other.value if self._is_far_from(other) else self.exact() < other.exact()

    def __hash__(self) -> int:
        return hash((self.n, self.weight))


class Ranking:
    """The order of buyers for one lead. `prefix` is how many parts of a key stand before the rotation position."""

    __slots__ = ("_parts", "compares_positions", "prefix")

    def __init__(self, rules: Rules, lead_id: UUID, state: State) -> None:
        self._parts = [_part(name, rules, lead_id, state) for name in rules.order]
        self.compares_positions = "least_recently_routed" in rules.order
        self.prefix = rules.order.index("least_recently_routed") if self.compares_positions else len(rules.order)

    def key(self, enrollment: Enrollment) -> tuple[Any, ...]:
        """What `enrollment` is ordered by, smallest first; no two buyers have the same."""
        return tuple(part(enrollment) for part in self._parts)

    def static_key(self, enrollment: Enrollment) -> tuple[Any, ...]:
        """The parts of the key that stand before the position, which alone moves while configuration stands still."""
        return tuple(part(enrollment) for part in self._parts[: self.prefix])


def _part(name: str, rules: Rules, lead_id: UUID, state: State) -> Part:
    """One part of the key; unusable values (None, a weight of 0 under `weighted`) never get here: they are faults."""

    def hashed(enrollment: Enrollment) -> int:
        return lead_hash(lead_id, enrollment.buyer_id, rules.salt)

    def score(enrollment: Enrollment) -> Score:
        return Score(hashed(enrollment), enrollment.weight or 1)

    parts: dict[str, Part] = {
        "sla": lambda enrollment: not is_prompt(enrollment, rules),
        "score": score,
        "priority_rank": lambda enrollment: enrollment.priority_rank,
        "weight": lambda enrollment: -(enrollment.weight or 0),
        "sla_response_seconds": _response_time,
        "least_recently_routed": state.position,
        "enrolled_at": lambda enrollment: _LAST if enrollment.enrolled_at is None else (0, enrollment.enrolled_at),
        "lead_hash": hashed,
        "buyer_id": lambda enrollment: enrollment.buyer_id.bytes,
    }
    return parts[name]


def _response_time(enrollment: Enrollment) -> tuple[int, int]:
    seconds = enrollment.buyer.sla_response_seconds if enrollment.buyer else None
    return _LAST if seconds is None else (0, seconds)

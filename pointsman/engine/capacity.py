"""Caps, what they count, and the routing state that a decision is made on."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import NamedTuple
from uuid import UUID

from pointsman.engine.configuration import NOBODY, Enrollment, Limit, Slot, meter
from pointsman.engine.zones import Window


class Counter(bytes):
    """One count of the routing state, a row of `cap_usage`: whose leads of which kind of window, and which window.

    A meter, then the window's start. Bytes keep their hash, where a tuple's is worked out at each look-up.
    """

    __slots__ = ()

    @classmethod
    def at(cls, meter: bytes, start: int) -> Counter:
        """What a meter shows in the window that begins at `start` (microseconds)."""
        return cls(meter + start.to_bytes(8, "big", signed=True))

    @classmethod
    def of(cls, buyer_id: UUID, offer_id: UUID, kind: str, start: int) -> Counter:
        """The counter of a row of `cap_usage`."""
        return cls.at(meter(buyer_id, offer_id, kind), start)

    @property
    def meter(self) -> bytes:
        return self[:-8]

    @property
    def holder(self) -> bytes:
        """Whose leads: an enrollment's `turn`, or the `holder` of a buyer, whose counters name nobody's offer."""
        return self[:16] if self[16:32] == NOBODY.bytes else self[:32]


class Cap(NamedTuple):
    """One limit that binds an enrollment's leads at an instant. `changed`: since when its holder counts like this."""

    slot: Slot
    buyer_id: UUID
    offer_id: UUID
    limit: int
    window: Window
    changed: int
    counter: Counter

    @property
    def level(self) -> str:
        return "buyer" if self.slot >= Slot.HOURLY_OF_BUYER else "enrollment"


class Full(NamedTuple):
    """A buyer that nothing but its caps keeps from a lead, and the first of them that is reached."""

    enrollment: Enrollment
    cap: Cap


class State:
    """Usage and positions as far as they are known; what is not known is 0: never used, never served.

    Counts go by `Counter`: `used`, and on top of it `ahead`, what earlier leads of the same batch take. Positions go by
    `Enrollment.turn`.

    `crowded`: holders of caps (an enrollment by its `turn`, a buyer by its `holder`) who may be full. Whoever is not in
    it has room under all that is counted here, so that nobody looks at its limits; one that turns out to have room is
    taken out. None where that is not kept: then everyone may be full.
    """

    __slots__ = ("ahead", "crowded", "positions", "used")

    def __init__(self) -> None:
        self.crowded: set[bytes] | None = None
        self.used: dict[bytes, int] = {}
        self.ahead: dict[bytes, int] = {}
        self.positions: dict[bytes, int] = {}

    def usage(self, counter: bytes) -> int:
        """Leads already counted there."""
        return self.used.get(counter, 0) + self.ahead.get(counter, 0)

    def position(self, enrollment: Enrollment) -> int:
        """The id of the decision that last served `enrollment`, 0 before its first turn."""
        return self.positions_of((enrollment,))[0]

    def positions_of(self, compared: Sequence[Enrollment]) -> list[int]:
        """The positions of all whose turns are compared, asked for at once.

        In one loop in C, as long as all have been served: then what it waits for in memory comes side by side.
        """
        turns, positions = [enrollment.turn for enrollment in compared], self.positions
        if len(turns) > 1:
            try:
                return list(itemgetter(*turns)(positions))
            except KeyError:
                pass
        return [positions.get(turn, 0) for turn in turns]


def caps(enrollment: Enrollment, at: int) -> tuple[Cap, ...]:
    """Every cap that is set on `enrollment` and on its buyer, with the window that holds `at`; hours before days."""
    limits = enrollment.limits
    if not limits.start <= at < limits.end:
        limits.caps = bound = tuple([_bind(enrollment, limit, at) for limit in limits.each])
        limits.start, limits.end = max(cap.window.start for cap in bound), min(cap.window.end for cap in bound)
    return limits.caps


def _bind(enrollment: Enrollment, limit: Limit, at: int) -> Cap:
    """One of the enrollment's limits as it binds at an instant."""
    cap = limit.cap
    if cap is not None and cap.window.start <= at < cap.window.end:
        return cap
    buyer = enrollment.buyer
    assert buyer is not None  # or there would be no limits
    assert buyer.zone is not None
    window = buyer.zone.hour(at) if limit.kind == "hour" else buyer.zone.day(at)
    changed = buyer.changed
    if limit.offer_id is not NOBODY:
        changed = max(changed, enrollment.changed)  # the windows of both are the buyer's
    counter = Counter.at(limit.meter, window.start)
    limit.cap = cap = Cap(limit.slot, buyer.id, limit.offer_id, limit.limit, window, changed, counter)
    return cap

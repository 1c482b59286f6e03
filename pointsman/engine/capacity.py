"""Caps, what they count, and the routing state that a decision is made on (CONTRACT 4.2)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from pointsman.engine.configuration import Enrollment, Fault
from pointsman.engine.zones import Window

NOBODY = UUID(int=0)
"""Stands for the offer where a counter is the buyer's own, over all its offers."""


class Counter(NamedTuple):
    """What `cap_usage` is keyed by; `start` is the window's, in microseconds."""

    buyer_id: UUID
    offer_id: UUID
    kind: str
    start: int


class Cap(NamedTuple):
    """One limit that binds an enrollment's leads at an instant. `changed`: since when its holder counts like this."""

    fault: Fault
    buyer_id: UUID
    offer_id: UUID
    limit: int
    window: Window
    changed: int

    @property
    def counter(self) -> Counter:
        return Counter(self.buyer_id, self.offer_id, self.window.kind, self.window.start)

    @property
    def level(self) -> str:
        return "buyer" if self.offer_id == NOBODY else "enrollment"


class State:
    """Usage and positions as far as they are known; what is not known is 0: never used, never served."""

    __slots__ = ("positions", "used")

    def __init__(self) -> None:
        self.used: dict[Counter, int] = {}
        self.positions: dict[tuple[UUID, UUID], int] = {}

    def usage(self, cap: Cap) -> int:
        """Leads already counted in the window of `cap`."""
        return self.used.get(cap.counter, 0)

    def position(self, enrollment: Enrollment) -> int:
        """The id of the decision that last served `enrollment`, 0 before its first turn."""
        return self.positions.get((enrollment.buyer_id, enrollment.offer_id), 0)


def caps(enrollment: Enrollment, at: int) -> Iterator[Cap]:
    """Every cap that is set on `enrollment` and on its buyer, with the window that holds `at`; hours before days."""
    buyer = enrollment.buyer
    if buyer is None or buyer.zone is None:
        return
    own, shared = enrollment.caps, buyer.caps
    changed = max(enrollment.changed, buyer.changed)  # the windows of both are the buyer's
    if own.hourly is not None or shared.hourly is not None:
        hour = buyer.zone.hour(at)
        if own.hourly is not None:
            yield Cap(Fault.HOURLY_CAP_OF_ENROLLMENT, buyer.id, enrollment.offer_id, own.hourly, hour, changed)
        if shared.hourly is not None:
            yield Cap(Fault.HOURLY_CAP_OF_BUYER, buyer.id, NOBODY, shared.hourly, hour, buyer.changed)
    if own.daily is not None or shared.daily is not None:
        day = buyer.zone.day(at)
        if own.daily is not None:
            yield Cap(Fault.DAILY_CAP_OF_ENROLLMENT, buyer.id, enrollment.offer_id, own.daily, day, changed)
        if shared.daily is not None:
            yield Cap(Fault.DAILY_CAP_OF_BUYER, buyer.id, NOBODY, shared.daily, day, buyer.changed)

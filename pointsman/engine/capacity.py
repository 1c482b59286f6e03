"""Caps, what they count, and the routing state that a decision is made on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple
from uuid import UUID

from pointsman.engine.configuration import NOBODY, Enrollment
from pointsman.engine.faults import Fault
from pointsman.engine.zones import Window

CounterKey = tuple[UUID, UUID, str, int]
"""A `Counter`, or a plain tuple that equals one: buyer, offer, kind, start."""


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
        self.used: dict[CounterKey, int] = {}
        self.positions: dict[tuple[UUID, UUID], int] = {}

    def usage(self, counter: CounterKey) -> int:
        """Leads already counted there."""
        return self.used.get(counter, 0)

    def position(self, enrollment: Enrollment) -> int:
        """The id of the decision that last served `enrollment`, 0 before its first turn."""
        return self.positions.get((enrollment.buyer_id, enrollment.offer_id), 0)


def caps(enrollment: Enrollment, at: int) -> Iterator[Cap]:
    """Every cap that is set on `enrollment` and on its buyer, with the window that holds `at`; hours before days."""
    buyer = enrollment.buyer
    if buyer is None or buyer.zone is None:
        return
    changed = max(enrollment.changed, buyer.changed)  # the windows of both are the buyer's
    for fault, kind, offer_id, limit in enrollment.limits:
        window = buyer.zone.hour(at) if kind == "hour" else buyer.zone.day(at)
        since = buyer.changed if offer_id == NOBODY else changed
        yield Cap(fault, buyer.id, offer_id, limit, window, since)


def is_full(enrollment: Enrollment, state: State, at: int) -> bool:
    """Whether any cap that binds `enrollment` has no room as far as `state` knows."""
    buyer = enrollment.buyer
    if buyer is None or buyer.zone is None:
        return False
    for _, kind, offer_id, limit in enrollment.limits:
        window = buyer.zone.hour(at) if kind == "hour" else buyer.zone.day(at)
        if state.usage((buyer.id, offer_id, kind, window.start)) >= limit:
            return True
    return False

"""Markets: who takes leads where in each, and what each offer has there."""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from operator import attrgetter, itemgetter
from typing import Any
from uuid import UUID

from pyroaring import BitMap

from pointsman.cache.areas import Place
from pointsman.engine import geo
from pointsman.engine.configuration import Enrollment
from pointsman.model import Lead

_SCOPES = ("postal_code", "city", "market")

_BY_BUYER = attrgetter("turn")  # within an offer
_REMEMBERED_PLACES = 1_000
"""Of leads, a market: few enough to be forgotten in microseconds when the market changes."""


class Cell:
    """What an offer has in a market: its enrollments in the order of the market's numbers, and the set of these."""

    __slots__ = ("_rows", "enrolled")

    def __init__(self, rows: Mapping[int, Enrollment]) -> None:
        self.enrolled = BitMap(rows)
        self._rows: list[Any] = [None, *(rows[number] for number in self.enrolled)]  # by rank, which counts from 1

    def put(self, number: int, enrollment: Enrollment) -> None:
        rank = self.enrolled.rank(number)
        if number in self.enrolled:
            self._rows[rank] = enrollment
        else:
            self.enrolled.add(number)
            self._rows.insert(rank + 1, enrollment)

    def drop(self, number: int) -> None:
        if number in self.enrolled:
            del self._rows[self.enrolled.rank(number)]
            self.enrolled.remove(number)

    def those(self, numbers: BitMap) -> tuple[Enrollment, ...]:
        """The enrollments with these numbers, which are here, in their order.

        In one loop in C: then what it waits for in memory comes side by side.
        """
        ranks = [*map(self.enrolled.rank, numbers)]
        rows = self._rows
        return itemgetter(*ranks)(rows) if len(ranks) > 1 else tuple([rows[rank] for rank in ranks])


class Market:
    """Who takes leads where in one market.

    Buyers have numbers of the market's own, dense and therefore near to each other in bitmaps. Those below `ordered`
    are in the order of the buyers' ids, as a load gives them; who comes later gets one that is free, or the next.
    """

    __slots__ = ("_free", "cells", "counts", "found", "id", "numbers", "ordered", "places")

    def __init__(self, market_id: UUID) -> None:
        self.id = market_id
        self.numbers: dict[int, int] = {}
        """By the buyer's ordinal."""
        self.ordered = 0
        self.places: dict[str, dict[str | None, Place]] = {scope: {} for scope in _SCOPES}
        self.cells: dict[UUID, Cell] = {}
        """By offer."""
        self.counts = {scope: array("I") for scope in _SCOPES}
        """How many areas of a scope, by number."""
        self._free: list[int] = []  # none of these is below `ordered`
        # (offer, postal code, city) of leads -> who covers them, until anything changes here
        self.found: dict[tuple[UUID | None, str | None, str | None], tuple[Enrollment, ...]] = {}

    def enter(self, buyer: int) -> int:
        """A number for a buyer that has none."""
        if self._free:
            number = self._free.pop()
        else:
            number = len(self.counts["market"])
            for counts in self.counts.values():
                counts.append(0)
        self.numbers[buyer] = number
        return number

    def enter_all(self, buyers: Iterable[int], in_order: int) -> None:
        """Numbers for all buyers of a market that had none; ordinals below `in_order` are in the order of ids."""
        ordinals = sorted(buyers)
        self.numbers = {ordinal: number for number, ordinal in enumerate(ordinals)}
        self.ordered = bisect_left(ordinals, in_order)
        self.counts = {scope: array("I", bytes(4 * len(ordinals))) for scope in _SCOPES}

    def add(self, place: Place, number: int) -> None:
        """Count an area in."""
        self.found.clear()
        place.add(number)
        self.counts[place.scope][number] += 1

    def fill(self, place: Place, buyers: Iterable[int]) -> None:
        """Count an area of each of these buyers in, in a place that none counted in before."""
        numbers = array("I", map(self.numbers.__getitem__, buyers))
        place.fill(numbers)
        counts = self.counts[place.scope]
        for number in numbers:
            counts[number] += 1

    def remove(self, place: Place, buyer: int) -> bool:
        """Take back what `add` counted in; true if it was the buyer's last here, who then has no number any more."""
        self.found.clear()
        number = self.numbers[buyer]
        place.remove(number)
        self.counts[place.scope][number] -= 1
        if any(counts[number] for counts in self.counts.values()):
            return False
        for cell in self.cells.values():
            cell.drop(number)
        del self.numbers[buyer]
        if number >= self.ordered:
            self._free.append(number)
        return True

    def put(self, number: int, enrollment: Enrollment) -> None:
        """Take an enrollment of the buyer with this number as it is now, if anybody has looked for the offer's here."""
        cell = self.cells.get(enrollment.offer_id)
        if cell is not None:
            self.found.clear()
            cell.put(number, enrollment)

    def drop(self, number: int, offer_id: UUID) -> None:
        """Take out the enrollment in an offer of the buyer with this number."""
        cell = self.cells.get(offer_id)
        if cell is not None:
            self.found.clear()
            cell.drop(number)

    def forget(self, offer_id: UUID) -> None:
        """Take out what an offer has here that has no enrollments any more."""
        self.found.clear()
        del self.cells[offer_id]

    def covering(self, lead: Lead, cell: Cell) -> tuple[Enrollment, ...]:
        """The enrollments in a cell of buyers with an area that holds the lead, in order of buyers."""
        numbers = self._holding(geo.postal_code(lead.postal_code), geo.city(lead.city), cell.enrolled)
        found = cell.those(numbers)
        if self.ordered < len(self.counts["market"]) and numbers and numbers.max() >= self.ordered:
            found = tuple(sorted(found, key=_BY_BUYER))
        return found

    def remember(self, lead: Lead, found: tuple[Enrollment, ...]) -> None:
        """Answer with these whenever a lead comes from the same place, until something changes here."""
        if len(self.found) == _REMEMBERED_PLACES:  # leads can name any
            self.found.clear()
        self.found[lead.offer_id, lead.postal_code, lead.city] = found

    def scopes(self, buyer: int) -> frozenset[str]:
        """The scopes in which the buyer has areas here."""
        number = self.numbers.get(buyer)
        return frozenset() if number is None else frozenset(s for s, counts in self.counts.items() if counts[number])

    def _holding(self, postal_code: str | None, city: str | None, of: BitMap) -> BitMap:
        """The numbers of those buyers out of `of` with an area that holds a lead."""
        places = self.places
        everywhere = places["market"].get(None)
        found = BitMap() if everywhere is None else everywhere.holders & of
        if city is not None and (place := places["city"].get(city)):
            found |= place.holders & of
        if postal_code is not None and (place := places["postal_code"].get(postal_code)):
            found |= place.holders & of
        return found

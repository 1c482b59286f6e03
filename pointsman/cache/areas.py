"""Every service area in force, known by its id: where it counts. In a large configuration most rows are these."""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from pyroaring import BitMap

from pointsman.cache.packed import PackedMap, Record
from pointsman.engine.configuration import Area


class Roster:
    """The buyers that have areas, by ordinal: a small number that areas and markets know a buyer by.

    Ids are bytes here, which are hashed in a tenth of the time. Markets say who enters and leaves them; whoever has
    left all of them has no ordinal any more. A load gives one to every buyer.
    """

    __slots__ = ("_free", "_markets", "ids", "ordinals")

    def __init__(self) -> None:
        self.ordinals: dict[bytes, int] = {}
        self.ids: list[bytes] = []
        """By ordinal; whoever had one that is free still stands there."""
        self._markets = array("I")  # by ordinal, how many the buyer is in
        self._free: list[int] = []

    def admit(self, buyer_id: bytes) -> int:
        """An ordinal for a buyer that has none."""
        if self._free:
            ordinal = self._free.pop()
            self.ids[ordinal] = buyer_id
        else:
            ordinal = len(self.ids)
            self.ids.append(buyer_id)
            self._markets.append(0)
        self.ordinals[buyer_id] = ordinal
        return ordinal

    def enter(self, ordinal: int) -> None:
        """The buyer is in one market more."""
        self._markets[ordinal] += 1

    def leave(self, ordinal: int) -> None:
        """The buyer is in one market less."""
        self._markets[ordinal] -= 1
        if not self._markets[ordinal]:
            del self.ordinals[self.ids[ordinal]]
            self._free.append(ordinal)


class Place:
    """A postal code, a city or the whole of a market: `holders` are the numbers of the buyers with areas there.

    `ordinal` is what areas know it by.
    """

    __slots__ = ("_repeated", "holders", "market_id", "ordinal", "scope", "value")

    def __init__(self, ordinal: int, market_id: UUID, scope: str, value: str | None) -> None:
        self.ordinal = ordinal
        self.market_id = market_id
        self.scope = scope
        self.value = value
        self.holders = BitMap()
        # number -> how many more rows say the same: rows whose values are equal once normalised
        self._repeated: dict[int, int] | None = None

    def add(self, number: int) -> None:
        """Count an area of the buyer with this number in."""
        if number not in self.holders:
            self.holders.add(number)
            return
        if self._repeated is None:
            self._repeated = {}
        self._repeated[number] = self._repeated.get(number, 0) + 1

    def fill(self, numbers: array[int]) -> None:
        """The same for an area of each of these, in a place that no area counts in yet."""
        self.holders = BitMap(numbers)
        if len(self.holders) < len(numbers):
            self._repeated = {number: more - 1 for number, more in Counter(numbers).items() if more > 1}

    def remove(self, number: int) -> None:
        """Take back what `add` counted in."""
        if self._repeated is None or not (more := self._repeated.pop(number, 0)):
            self.holders.discard(number)
        elif more > 1:
            self._repeated[number] = more - 1
        elif not self._repeated:
            self._repeated = None


class Spot(NamedTuple):
    """Where an area counts: in a place, for the buyer with this ordinal."""

    place: Place
    buyer: int


class Areas(Mapping[UUID, Area]):
    """The areas by id, in the order of ids: some 25 bytes each. They are made when they are looked at."""

    __slots__ = ("_free", "_places", "_spots", "buyers")

    def __init__(self) -> None:
        self.buyers = Roster()
        self._spots = PackedMap()  # id -> ordinals of place and buyer
        self._places: list[Place | None] = []
        self._free: list[int] = []

    def __len__(self) -> int:
        return len(self._spots)

    def __iter__(self) -> Iterator[UUID]:
        return (UUID(bytes=key) for key, _, _ in self._spots)

    def __getitem__(self, area_id: UUID) -> Area:
        pair = self._spots.get(area_id.bytes)
        if pair is None:
            raise KeyError(area_id)
        return self._area(*pair)

    def records(self) -> Iterator[Record]:
        """The areas in the order of ids, as they are kept here: id, ordinals of place and buyer."""
        return iter(self._spots)

    def comparison(self, other: Areas) -> Callable[[Record, Record], bool]:
        """Whether a record from here and one from `other` say the same of where an area counts."""
        ids, others_ids = self.buyers.ids, other.buyers.ids
        twins: dict[tuple[UUID, str, str | None], int] = {
            (place.market_id, place.scope, place.value): place.ordinal for place in other._places if place is not None
        }
        twin = [-1 if p is None else twins.get((p.market_id, p.scope, p.value), -1) for p in self._places]

        def is_same(mine: Record, others: Record) -> bool:
            (_, place, buyer), (_, other_place, other_buyer) = mine, others
            return twin[place] == other_place and ids[buyer] == others_ids[other_buyer]

        return is_same

    def put(self, area_id: UUID, place: Place, buyer: int) -> Spot | None:
        """Note where an area counts; where it did so far, None if it is new."""
        pair = self._spots.put(area_id.bytes, place.ordinal, buyer)
        return None if pair is None else Spot(self._place(pair[0]), pair[1])

    def extend(self, ids: Sequence[bytes], places: Sequence[int], buyers: Sequence[int]) -> None:
        """Note where many areas count that are new, by ordinals of places and buyers."""
        self._spots.extend(ids, places, buyers)

    def pop(self, area_id: UUID) -> Spot | None:
        """Forget an area; where it counted, None if there is none."""
        pair = self._spots.pop(area_id.bytes)
        return None if pair is None else Spot(self._place(pair[0]), pair[1])

    def new_place(self, market_id: UUID, scope: str, value: str | None) -> Place:
        """A place that no area counts in yet."""
        ordinal = self._free.pop() if self._free else len(self._places)
        place = Place(ordinal, market_id, scope, value)
        self._places[ordinal : ordinal + 1] = [place]
        return place

    def abandon(self, place: Place) -> None:
        """Forget a place that no area counts in any more."""
        self._places[place.ordinal] = None
        self._free.append(place.ordinal)

    def _area(self, ordinal: int, buyer: int) -> Area:
        place = self._place(ordinal)
        return Area(UUID(bytes=self.buyers.ids[buyer]), place.market_id, place.scope, place.value)

    def _place(self, ordinal: int) -> Place:
        place = self._places[ordinal]
        assert place is not None  # a place is abandoned after its last area
        return place

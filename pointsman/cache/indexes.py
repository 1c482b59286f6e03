"""The configuration at one version, laid out so that a lead finds its candidates without walking a table.

Buyers have dense numbers local to each market they take leads in. A postal code, a city or a whole market is a bitmap
of these numbers, and so are an offer's enrollments within the market (a cell): who can have a lead is one
intersection (`markets`). Nothing here does I/O, and no answer depends on the order in which rows came.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from pointsman.cache.areas import Areas, Place, Spot
from pointsman.cache.markets import Cell, Market
from pointsman.engine import geo
from pointsman.engine.configuration import (
    Area,
    Buyer,
    Enrollment,
    Exclusivity,
    Image,
    Offer,
    read_area,
    read_exclusivity,
    read_offer,
    read_policy,
)
from pointsman.engine.policy import Policy, specificity
from pointsman.model import Lead

TABLES = (
    "offers",
    "buyers",
    "buyer_offers",
    "buyer_service_areas",
    "offer_exclusivities",
    "routing_policies",
)
"""The configuration tables, each before those whose rows name its own."""

_REMEMBERED_POLICIES = 100_000

_Place = tuple[UUID | None, str, str | None]  # market, scope, value


class Change(NamedTuple):
    """One row of the log: `image` is the row as it is now, None where it is gone."""

    table: str
    key: str
    image: Image | None


class Indexes:
    """The configuration at `version`; `token` tells it from the same version of another history."""

    def __init__(self, version: int, token: UUID) -> None:
        self.version = version
        self.token = token
        self.offers: dict[UUID, Offer] = {}
        self.buyers: dict[UUID, Buyer] = {}
        self.enrollments: dict[UUID, dict[UUID, Enrollment]] = {}
        self.areas = Areas()
        self.markets: dict[UUID, Market] = {}
        self.policies: dict[UUID, Policy] = {}
        self.exclusivity_rows: dict[UUID, Exclusivity] = {}
        self._enrollments_of: dict[UUID, list[Enrollment]] = {}  # by buyer: mostly a few
        # enrollments whose leads are counted otherwise than when whoever counts last took them up, by `turn`
        self.recounted: set[bytes] = set()
        self._held: dict[UUID, dict[_Place, list[Exclusivity]]] = {}  # by offer
        self._markets_with_cells: dict[UUID, list[Market]] = {}
        self._winning_policy: dict[tuple[UUID | None, UUID | None, UUID | None], Policy | None] = {}

    # what a decision asks

    def policy(self, lead: Lead) -> Policy | None:
        """The most specific active policy that matches; remembered until a policy changes."""
        key = (lead.offer_id, lead.vertical_id, lead.market_id)
        try:
            return self._winning_policy[key]
        except KeyError:
            matching = (policy for policy in self.policies.values() if _matches(policy, lead))
            if len(self._winning_policy) == _REMEMBERED_POLICIES:  # leads can name any ids
                self._winning_policy.clear()
            self._winning_policy[key] = winner = min(matching, key=specificity, default=None)
            return winner

    def offer(self, offer_id: UUID | None) -> Offer | None:
        """The offer, if it exists."""
        return None if offer_id is None else self.offers.get(offer_id)

    def covering(self, lead: Lead) -> Sequence[Enrollment]:
        """The enrollments in the lead's offer of buyers with a service area that holds the lead, in order of buyers."""
        market_id, offer_id = lead.market_id, lead.offer_id
        if market_id is None or offer_id is None:
            return ()
        market = self.markets.get(market_id)
        if market is None:
            return ()
        found = market.found.get((offer_id, lead.postal_code, lead.city))
        if found is None:
            cell = market.cells.get(offer_id)
            if cell is None:
                cell = self._cell(market, offer_id)
            found = market.covering(lead, cell)
            if offer_id in market.cells:  # or nobody would tell the market of the offer's first enrollment
                market.remember(lead, found)
        return found

    def exclusivities(self, lead: Lead) -> Sequence[Sequence[Exclusivity]]:
        """The exclusivities that match the lead, a list a scope, most specific first."""
        held = None if lead.offer_id is None else self._held.get(lead.offer_id)
        if held is None:
            return ()
        market_id = lead.market_id
        places: list[_Place] = [(None, "offer", None)]
        if market_id is not None:
            postal_code, city = geo.postal_code(lead.postal_code), geo.city(lead.city)
            places = [
                (market_id, "postal_code", postal_code),
                (market_id, "city", city),
                (market_id, "market", None),
                *places,
            ]
        return [rows for place in places if (rows := held.get(place))]

    # what an explanation asks besides

    def enrolled(self, offer_id: UUID | None) -> Mapping[UUID, Enrollment]:
        """Every enrollment in the offer, by buyer."""
        return {} if offer_id is None else self.enrollments.get(offer_id, {})

    def scopes(self, buyer_id: UUID, market_id: UUID | None) -> frozenset[str]:
        """The scopes of the buyer's active areas in the market."""
        market = None if market_id is None else self.markets.get(market_id)
        buyer = self.areas.buyers.ordinals.get(buyer_id.bytes)
        return frozenset() if market is None or buyer is None else market.scopes(buyer)

    def sizes(self) -> dict[str, int]:
        """How many rows of each kind are in force."""
        return {
            "offers": len(self.offers),
            "buyers": len(self.buyers),
            "enrollments": sum(map(len, self.enrollments.values())),
            "service_areas": len(self.areas),
            "exclusivities": len(self.exclusivity_rows),
            "policies": len(self.policies),
        }

    def parts(self) -> Iterator[dict[Any, Any]]:
        """The mappings that hold most of what is here; whoever empties them has done with the indexes."""
        yield self._enrollments_of
        yield from self.enrollments.values()
        yield from (market.numbers for market in self.markets.values())
        yield self.buyers

    # how it changes

    def apply(self, change: Change, version: int) -> None:
        """Put one row in its new place; until `version` is set to match, the whole stands between two versions."""
        if change.image is None:
            _DROP[change.table](self, change.key)
        else:
            _PUT[change.table](self, change.image, version)

    def enroll(self, enrollments: Iterable[Enrollment]) -> None:
        """Put many in that are new, where each offer has a place for its own and nobody has asked for any."""
        by_offer, by_buyer = self.enrollments, self._enrollments_of
        for enrollment in enrollments:
            buyer = enrollment.buyer
            buyer_id = enrollment.buyer_id if buyer is None else buyer.id
            by_offer[enrollment.offer_id][buyer_id] = enrollment
            of_buyer = by_buyer.get(buyer_id)
            if of_buyer is None:
                of_buyer = by_buyer[buyer_id] = []
            of_buyer.append(enrollment)

    def put_all(self, table: str, images: Iterable[Image]) -> None:
        """Put rows in their new places that are as of this version."""
        put, version = _PUT[table], self.version
        for image in images:
            put(self, image, version)
        self.recounted.clear()  # nobody has counted anything on these yet

    def _put_offer(self, image: Image, version: int) -> None:
        self.offers[image["id"]] = read_offer(image)

    def _put_buyer(self, image: Image, version: int) -> None:
        buyer = Buyer(image, version)
        before = self.buyers.get(buyer.id)
        if before is not None and buyer.counts_like(before):
            buyer.changed = before.changed
        else:
            self.recounted.update([enrollment.turn for enrollment in self._enrollments_of.get(buyer.id, ())])
        self.buyers[buyer.id] = buyer
        self._belong(buyer.id, buyer)

    def _drop_offer(self, key: str) -> None:
        self.offers.pop(UUID(key), None)

    def _drop_buyer(self, key: str) -> None:
        buyer_id = UUID(key)
        self.buyers.pop(buyer_id, None)
        self._belong(buyer_id, None)

    def _belong(self, buyer_id: UUID, buyer: Buyer | None) -> None:
        for enrollment in self._enrollments_of.get(buyer_id, ()):
            enrollment.belong_to(buyer)

    def _put_enrollment(self, image: Image, version: int) -> None:
        enrollment = Enrollment(image, self.buyers.get(image["buyer_id"]), version)
        buyer_id, offer = enrollment.buyer_id, self.offers.get(enrollment.offer_id)
        if offer is not None:
            enrollment.offer_id = offer.id  # one object for each offer, not for each row
        offer_id = enrollment.offer_id
        of_offer = self.enrollments.get(offer_id)
        if of_offer is None:
            of_offer = self.enrollments[offer_id] = {}
        before = of_offer.get(buyer_id)
        of_offer[buyer_id] = enrollment
        of_buyer = self._enrollments_of.get(buyer_id)
        if of_buyer is None:
            of_buyer = self._enrollments_of[buyer_id] = []
        if before is None:
            of_buyer.append(enrollment)
        else:
            of_buyer[of_buyer.index(before)] = enrollment
        if before is not None and enrollment.counts_like(before):
            enrollment.changed = before.changed
        else:
            self.recounted.add(enrollment.turn)
        if offer_id in self._markets_with_cells:
            for market, number in self._in_cells(enrollment):
                market.put(number, enrollment)

    def _drop_enrollment(self, key: str) -> None:
        buyer_id, offer_id = map(UUID, key.split(":"))
        of_offer = self.enrollments.get(offer_id, {})
        gone = of_offer.pop(buyer_id, None)
        if gone is None:
            return
        of_buyer = self._enrollments_of[buyer_id]
        of_buyer.remove(gone)
        if not of_buyer:
            del self._enrollments_of[buyer_id]
        if of_offer:
            for market, number in self._in_cells(gone):
                market.drop(number, offer_id)
        else:
            del self.enrollments[offer_id]
            for market in self._markets_with_cells.pop(offer_id, ()):
                market.forget(offer_id)

    def _in_cells(self, enrollment: Enrollment) -> Iterator[tuple[Market, int]]:
        """The markets with a cell of the offer that the buyer is in, and its number in each."""
        markets = self._markets_with_cells.get(enrollment.offer_id, ())
        buyer = self.areas.buyers.ordinals.get(enrollment.holder)
        if buyer is not None:
            for market in markets:
                if (number := market.numbers.get(buyer)) is not None:
                    yield market, number

    def _put_area(self, image: Image, version: int) -> None:
        area = read_area(image)
        if area is None:
            self._drop_area(image["id"])
            return
        market, place = self.place(area)
        roster, buyer_id = self.areas.buyers, area.buyer_id.bytes
        buyer = roster.ordinals.get(buyer_id)
        if buyer is None:
            buyer = roster.admit(buyer_id)
        number = market.numbers.get(buyer)
        if number is None:
            number = self._enter(market, area.buyer_id, buyer)
        former = self.areas.put(image["id"], place, buyer)
        if former != (place, buyer):
            market.add(place, number)
            if former is not None:
                self._leave(former)

    def place(self, area: Area) -> tuple[Market, Place]:
        """Where an area counts; made, if nothing counts there yet."""
        market = self.markets.get(area.market_id)
        if market is None:
            market = self.markets[area.market_id] = Market(area.market_id)
        place = market.places[area.scope].get(area.value)
        if place is None:
            place = self.areas.new_place(market.id, area.scope, area.value)
            market.places[area.scope][area.value] = place
        return market, place

    def _enter(self, market: Market, buyer_id: UUID, buyer: int) -> int:
        """Give a buyer that is new in a market its number there."""
        self.areas.buyers.enter(buyer)
        number = market.enter(buyer)
        if market.cells:
            for enrollment in self._enrollments_of.get(buyer_id, ()):
                market.put(number, enrollment)
        return number

    def _drop_area(self, area_id: UUID) -> None:
        former = self.areas.pop(area_id)
        if former is not None:
            self._leave(former)

    def _leave(self, spot: Spot) -> None:
        """Count out an area that was at a spot."""
        place, buyer = spot
        market = self.markets[place.market_id]
        if market.remove(place, buyer):
            self.areas.buyers.leave(buyer)
        if not place.holders:
            del market.places[place.scope][place.value]
            self.areas.abandon(place)
        if not market.numbers:
            self._close(market)

    def _close(self, market: Market) -> None:
        """Forget a market that nobody takes leads in any more."""
        del self.markets[market.id]
        for offer_id in market.cells:
            markets = self._markets_with_cells[offer_id]
            markets.remove(market)
            if not markets:
                del self._markets_with_cells[offer_id]

    def _put_exclusivity(self, image: Image, version: int) -> None:
        self._drop_exclusivity(image["id"])
        row = read_exclusivity(image)
        if row is not None:
            self.exclusivity_rows[row.id] = row
            held = self._held.setdefault(row.offer_id, {})
            insort(held.setdefault(_place(row), []), row, key=lambda other: other.id.int)

    def _drop_exclusivity(self, exclusivity_id: UUID) -> None:
        row = self.exclusivity_rows.pop(exclusivity_id, None)
        if row is None:
            return
        held = self._held[row.offer_id]
        rows = held[_place(row)]
        rows.remove(row)
        if not rows:
            del held[_place(row)]
        if not held:
            del self._held[row.offer_id]

    def _put_policy(self, image: Image, version: int) -> None:
        self._drop_policy(image["id"])
        policy = read_policy(image)
        if policy is not None:
            self.policies[policy.id] = policy

    def _drop_policy(self, policy_id: UUID) -> None:
        self.policies.pop(policy_id, None)
        self._winning_policy.clear()

    def _cell(self, market: Market, offer_id: UUID) -> Cell:
        """Build the cell of an offer that this market has seen no lead of; changes keep it from then on."""
        enrolled, numbers, roster = self.enrolled(offer_id), market.numbers, self.areas.buyers
        if len(enrolled) < len(numbers):
            ordinals = ((roster.ordinals.get(enrollment.holder), enrollment) for enrollment in enrolled.values())
            cell = Cell({numbers[buyer]: enrollment for buyer, enrollment in ordinals if buyer in numbers})
        else:
            ids = ((number, UUID(bytes=roster.ids[buyer])) for buyer, number in numbers.items())
            cell = Cell({number: enrolled[buyer_id] for number, buyer_id in ids if buyer_id in enrolled})
        if offer_id in self.enrollments:
            market.cells[offer_id] = cell
            self._markets_with_cells.setdefault(offer_id, []).append(market)
        return cell


# Beside the class: bound methods in the indexes themselves would be a cycle, and the replaced wait for the collector.
_PUT: dict[str, Callable[[Indexes, Image, int], None]] = {
    "offers": Indexes._put_offer,
    "buyers": Indexes._put_buyer,
    "buyer_offers": Indexes._put_enrollment,
    "buyer_service_areas": Indexes._put_area,
    "offer_exclusivities": Indexes._put_exclusivity,
    "routing_policies": Indexes._put_policy,
}
_DROP: dict[str, Callable[[Indexes, str], None]] = {
    "offers": Indexes._drop_offer,
    "buyers": Indexes._drop_buyer,
    "buyer_offers": Indexes._drop_enrollment,
    "buyer_service_areas": lambda indexes, key: indexes._drop_area(UUID(key)),
    "offer_exclusivities": lambda indexes, key: indexes._drop_exclusivity(UUID(key)),
    "routing_policies": lambda indexes, key: indexes._drop_policy(UUID(key)),
}


def _matches(policy: Policy, lead: Lead) -> bool:
    return (
        (policy.offer_id is None or policy.offer_id == lead.offer_id)
        and (policy.vertical_id is None or policy.vertical_id == lead.vertical_id)
        and (policy.market_id is None or policy.market_id == lead.market_id)
    )


def _place(row: Exclusivity) -> _Place:
    return row.market_id, row.scope, row.value

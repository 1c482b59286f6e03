"""A seeded world of offers, buyers, areas, exclusivities, policies and leads on the real map of the United States.

The demo, the tests and the benchmarks share it. `build` and `leads` are pure: the same seed gives the same rows, as
long as the release of the `zipcodes` package, which has the map, is the same.
"""

from __future__ import annotations

import json
from bisect import bisect
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache
from itertools import accumulate, cycle, islice, product
from math import hypot
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias
from uuid import UUID, uuid5

from pointsman.cache.indexes import TABLES
from pointsman.engine.zones import zone
from pointsman.errors import PointsmanError

if TYPE_CHECKING:
    import asyncpg

Week: TypeAlias = dict[str, list[list[str]]]


class NoMap(PointsmanError):
    """The demo's map of postal codes is not installed; `pip install "pointsman[demo]"` brings it."""


class Place(NamedTuple):
    """A city with its postal codes; `weight` stands in for how many people live there."""

    state: str
    city: str
    postal_codes: tuple[str, ...]
    timezone: str
    east: float
    north: float
    weight: float


class Offer(NamedTuple):
    """A row of `offers`."""

    id: UUID
    name: str
    vertical_id: UUID
    market_id: UUID | None
    is_active: bool


class Buyer(NamedTuple):
    """A row of `buyers`; `acceptance_hours` is JSON text."""

    id: UUID
    name: str
    status: str
    timezone: str
    acceptance_hours: str | None
    balance: Decimal
    min_balance: Decimal | None
    sla_response_seconds: int | None
    hourly_cap: int | None
    daily_cap: int | None


class BuyerOffer(NamedTuple):
    """A row of `buyer_offers`."""

    buyer_id: UUID
    offer_id: UUID
    is_active: bool
    priority_rank: int
    weight: int
    hourly_cap: int | None
    daily_cap: int | None
    created_at: datetime


class ServiceArea(NamedTuple):
    """A row of `buyer_service_areas`."""

    id: UUID
    buyer_id: UUID
    market_id: UUID
    scope: str
    value: str | None
    is_active: bool


class Exclusivity(NamedTuple):
    """A row of `offer_exclusivities`."""

    id: UUID
    offer_id: UUID
    buyer_id: UUID
    market_id: UUID | None
    scope: str
    value: str | None
    valid_from: datetime | None
    valid_to: datetime | None
    is_active: bool


class Policy(NamedTuple):
    """A row of `routing_policies`; `rules` is JSON text."""

    id: UUID
    name: str
    offer_id: UUID | None
    vertical_id: UUID | None
    market_id: UUID | None
    version: int
    is_active: bool
    rules: str


class NewLead(NamedTuple):
    """A row of `leads` as validation leaves it."""

    id: UUID
    offer_id: UUID
    vertical_id: UUID
    market_id: UUID
    postal_code: str | None
    city: str | None
    status: str = "validated"


@dataclass(frozen=True)
class World:
    """The rows of the six configuration tables, each field named as its table."""

    seed: int
    offers: tuple[Offer, ...]
    buyers: tuple[Buyer, ...]
    buyer_offers: tuple[BuyerOffer, ...]
    buyer_service_areas: tuple[ServiceArea, ...]
    offer_exclusivities: tuple[Exclusivity, ...]
    routing_policies: tuple[Policy, ...]


NAMESPACE = UUID("6f1d3f0e-54f2-5c4b-9a52-3c1f6f0f8a11")
NOBODY_THERE = ("GU", "PR", "VI")
"""Markets with leads and without buyers."""

TRADES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "Roofing": (
        ("Roof replacement", "Roof repair", "Storm damage inspection", "Gutters"),
        ("Roofing", "Roof & Gutter", "Exteriors"),
    ),
    "Solar": (
        ("Solar panels", "California solar panels", "Home battery"),
        ("Solar", "Sun & Power", "Renewables"),
    ),
    "Heating and cooling": (
        ("Furnace replacement", "Air conditioning", "Heat pump", "Duct cleaning"),
        ("Heating & Air", "Climate", "Mechanical"),
    ),
    "Auto insurance": (
        ("Auto insurance", "High-risk auto insurance", "Motorcycle insurance"),
        ("Insurance", "Insurance Agency", "Mutual"),
    ),
    "Home loans": (
        ("Mortgage refinance", "Home equity line", "Texas home loan"),
        ("Lending", "Mortgage", "Home Loans"),
    ),
    "Injury law": (
        ("Car accident", "Workplace injury", "Slip and fall"),
        ("Law", "Injury Law", "Legal"),
    ),
}
"""Each vertical's offers, and what its buyers call themselves."""

ONLY_IN = {"California solar panels": "CA", "Texas home loan": "TX"}
WITHDRAWN = "Duct cleaning"
FIRST_NAMES = """
Alder, Anchor, Aspen, Beacon, Birch, Blue Ridge, Bright, Canyon, Cardinal, Cedar, Copper, Crescent, Crown,
Eagle, Evergreen, Falcon, Foothill, Frontier, Golden, Granite, Harbor, Heritage, Highland, Iron, Juniper,
Keystone, Lakeside, Liberty, Lone Star, Maple, Meridian, North Star, Oak, Pacific, Patriot, Pinnacle,
Pioneer, Prairie, Red Rock, Redwood, River, Sequoia, Sierra, Silver, Stone, Summit, Timber, Trinity, Union,
Valley, Walnut, Willow
"""
RESPONSE_SECONDS = (30, 60, 120, 300, 600, 900, 1_800, None)
YEARS = range(2025, 2036)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
OPENING = datetime(2025, 1, 1, tzinfo=UTC)
"""No enrollment is older."""


def build(seed: int, buyers: int = 2_000, areas: int = 20_000, exclusivities: int = 60) -> World:
    """The world of `seed`, with so many buyers, about so many service areas and so many exclusivities."""
    random = Random(seed)  # noqa: S311  (a world to be made again, nothing to be kept secret)
    offers = tuple(_offers())
    homes = [choose(random, _cities()) for _ in range(buyers)]
    firms = tuple(_buyers(random, homes))
    enrollments = tuple(_enrollments(random, firms, offers))
    regions = [_region(random, home) for home in homes]
    covers = tuple(_areas(random, firms, homes, regions, areas))
    held = tuple(_exclusivities(random, enrollments, covers, homes[:1], exclusivities))
    return World(seed, offers, firms, enrollments, covers, held, tuple(_policies(random)))


def leads(world: World, count: int, seed: int) -> tuple[NewLead, ...]:
    """So many validated leads: most in cities with buyers, the others with what real leads lack or get wrong."""
    random = Random(f"{world.seed}/{seed}")  # noqa: S311
    return tuple(_lead(random, world) for _ in range(count))


def like(lead: NewLead, count: int, seed: int) -> tuple[NewLead, ...]:
    """So many new leads that differ from `lead` in nothing but their ids."""
    random = Random(f"{lead.id}/{seed}")  # noqa: S311
    return tuple(lead._replace(id=_uuid(random)) for _ in range(count))


async def insert(connection: asyncpg.Connection[Any], world: World, schema: str = "public") -> None:
    """Copy the world into empty host tables, in one transaction and so as one config version."""
    async with connection.transaction():
        for table in TABLES:
            await copy_rows(connection, table, getattr(world, table), schema)


async def insert_leads(connection: asyncpg.Connection[Any], rows: Iterable[NewLead], schema: str = "public") -> None:
    """Copy leads into the host's table."""
    await copy_rows(connection, "leads", tuple(rows), schema)


def market_id(state: str) -> UUID:
    """The market of a state, by its two letters."""
    return uuid5(NAMESPACE, f"market/{state}")


def vertical_id(name: str) -> UUID:
    """The vertical of this name, one of `TRADES`."""
    return uuid5(NAMESPACE, f"vertical/{name}")


def offer_id(name: str) -> UUID:
    """The offer of this name."""
    return uuid5(NAMESPACE, f"offer/{name}")


@cache
def markets() -> dict[UUID, str]:
    """The two letters of each market's state."""
    return {market_id(state): state for state in sorted({place.state for place in places()})}


async def copy_rows(
    connection: asyncpg.Connection[Any], table: str, rows: Sequence[Any], schema: str = "public"
) -> None:
    """Copy rows, named tuples of the table's columns, into a table."""
    if rows:
        await connection.copy_records_to_table(table, schema_name=schema, columns=rows[0]._fields, records=rows)


# The map


@cache
def places() -> tuple[Place, ...]:
    """Every city that has a postal code of its own and a time zone that exists."""
    cities: defaultdict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in _rows():
        # The data has rows without a zone, and one with a village in its place.
        if row["active"] and row["zip_code_type"] == "STANDARD" and zone(row["timezone"]) is not None:
            cities[row["state"], row["city"]].append(row)
    return tuple(_place(state, city, cities[state, city]) for state, city in sorted(cities))


def _rows() -> list[dict[str, Any]]:
    try:
        import zipcodes
    except ImportError as error:
        raise NoMap(NoMap.__doc__) from error
    rows: list[dict[str, Any]] = zipcodes.list_all()  # type: ignore[no-untyped-call]  # it says that it has types
    return rows


def _place(state: str, city: str, rows: list[dict[str, Any]]) -> Place:
    first = min(rows, key=lambda row: row["zip_code"])
    codes = tuple(sorted(row["zip_code"] for row in rows))
    # A big city has more people to a postal code than a village has.
    weight = len(codes) ** 1.7
    return Place(state, city, codes, first["timezone"], float(first["long"]), float(first["lat"]), weight)


class Lottery:
    """Places to be drawn by weight."""

    def __init__(self, places: Iterable[Place]) -> None:
        self.places = tuple(places)
        self.sums = tuple(accumulate(place.weight for place in self.places))


def choose(random: Random, lottery: Lottery) -> Place:
    """Draw a place."""
    return lottery.places[min(bisect(lottery.sums, random.random() * lottery.sums[-1]), len(lottery.places) - 1)]


@cache
def _cities() -> Lottery:
    return Lottery(place for place in places() if place.state not in NOBODY_THERE and len(place.postal_codes) > 1)


@cache
def _nowhere() -> Lottery:
    return Lottery(place for place in places() if place.state in NOBODY_THERE)


@cache
def _in_state(state: str) -> Lottery:
    return Lottery(place for place in places() if place.state == state)


@cache
def _by_market() -> dict[tuple[UUID, str], Place]:
    return {(market_id(place.state), name): place for place in places() for name in (place.city, *place.postal_codes)}


@cache
def _around(state: str) -> tuple[str, ...]:
    """The other states, nearest first, by their biggest cities."""
    centers = {
        name: max(_in_state(name).places, key=lambda place: place.weight)
        for name in sorted({place.state for place in _cities().places})
    }
    here = centers[state]
    others = sorted(centers, key=lambda name: hypot(centers[name].east - here.east, centers[name].north - here.north))
    return tuple(name for name in others if name != state)


# Offers and policies


def _offers() -> Iterator[Offer]:
    for vertical, (names, _) in TRADES.items():
        for name in names:
            only = market_id(ONLY_IN[name]) if name in ONLY_IN else None
            yield Offer(offer_id(name), name, vertical_id(vertical), only, name != WITHDRAWN)


class _Draft(NamedTuple):
    """What tells a policy from the others."""

    name: str
    strategy: str
    when_ineligible: str
    tie_breakers: tuple[str, ...]
    offer: str | None = None
    vertical: str | None = None
    market: str | None = None
    prefer: int | None = None
    require: int | None = None
    salt: str | None = None
    constraints: tuple[str, ...] = ("buyer_active", "acceptance_hours")
    version: int = 1
    is_active: bool = True


_BY_RANK = ("sla_response_seconds", "lead_hash", "buyer_id")
_BY_TURN = ("least_recently_routed", "lead_hash", "buyer_id")
_BY_AGE = ("enrolled_at", "buyer_id")
_DRAFTS = (
    _Draft("Everything else", "priority", "fallback_allowed", _BY_AGE, prefer=600),
    _Draft("Roofing", "priority", "fail_closed", _BY_AGE, vertical="Roofing"),
    _Draft("Roofing", "priority", "fail_closed", _BY_RANK, vertical="Roofing", prefer=900, version=2),
    _Draft("Roofing, draft", "rotation", "fail_closed", _BY_TURN, vertical="Roofing", version=3, is_active=False),
    _Draft("Solar, in turn", "rotation", "fail_closed", _BY_TURN, vertical="Solar"),
    _Draft(
        "Auto insurance, by weight",
        "weighted",
        "fallback_allowed",
        ("priority_rank", "buyer_id"),
        vertical="Auto insurance",
        prefer=300,
        salt="auto",
    ),
    _Draft("Home loans, by rank", "priority", "fail_closed", _BY_RANK, vertical="Home loans", prefer=300),
    _Draft(
        "Storms cannot wait", "priority", "fallback_allowed", _BY_RANK, offer="Storm damage inspection", require=900
    ),
    _Draft(
        "High risk, in turn", "rotation", "fallback_allowed", _BY_TURN, offer="High-risk auto insurance", require=600
    ),
    _Draft("Refinance, by weight", "weighted", "fail_closed", ("weight", "buyer_id"), offer="Mortgage refinance"),
    _Draft(
        "Accidents, day and night",
        "weighted",
        "fail_closed",
        _BY_RANK,
        offer="Car accident",
        constraints=("buyer_active",),
    ),
    _Draft("Roofs in Texas", "priority", "fail_closed", _BY_RANK, offer="Roof replacement", market="TX", require=1_800),
    _Draft(
        "Injury law in Florida", "weighted", "fail_closed", _BY_RANK, vertical="Injury law", market="FL", prefer=120
    ),
    _Draft("California", "weighted", "fallback_allowed", _BY_RANK, market="CA", prefer=300, salt="ca"),
    _Draft("New York, in turn", "rotation", "fail_closed", _BY_TURN, market="NY"),
)


def _policies(random: Random) -> Iterator[Policy]:
    for draft in _DRAFTS:
        yield Policy(
            _uuid(random),
            draft.name,
            offer_id(draft.offer) if draft.offer else None,
            vertical_id(draft.vertical) if draft.vertical else None,
            market_id(draft.market) if draft.market else None,
            draft.version,
            draft.is_active,
            json.dumps(_rules(draft)),
        )


def _rules(draft: _Draft) -> dict[str, Any]:
    rules: dict[str, Any] = {
        "strategy": {"kind": draft.strategy} | ({"salt": draft.salt} if draft.salt else {}),
        "tie_breakers": list(draft.tie_breakers),
        "constraints": list(draft.constraints),
        "exclusivity": {"when_ineligible": draft.when_ineligible},
    }
    for mode, seconds in (("prefer", draft.prefer), ("require", draft.require)):
        if seconds is not None:
            rules["sla"] = {"mode": mode, "max_response_seconds": seconds}
    return rules


# Buyers


def _buyers(random: Random, homes: Sequence[Place]) -> Iterator[Buyer]:
    trades = tuple(TRADES)
    taken: Counter[str] = Counter()
    for number, home in enumerate(homes):
        name = _name(random, TRADES[trades[number % len(trades)]][1], home, taken)
        # The first is paused in every world: it holds the exclusivities that nobody may use.
        status = "paused" if number == 0 or random.random() < 0.05 else "active"
        hours, money, response = _hours(random, home.timezone), _money(random), random.choice(RESPONSE_SECONDS)
        caps = _cap(random, 0.3, 2, 8), _cap(random, 0.4, 4, 30)
        yield Buyer(_uuid(random), name, status, home.timezone, hours, *money, response, *caps)


def _name(random: Random, kinds: Sequence[str], home: Place, taken: Counter[str]) -> str:
    name = f"{random.choice(_first_names())} {random.choice(kinds)} of {home.city}"
    taken[name] += 1
    return name if taken[name] == 1 else f"{name} No. {taken[name]}"


@cache
def _first_names() -> tuple[str, ...]:
    return tuple(name.strip() for name in FIRST_NAMES.split(","))


def _money(random: Random) -> tuple[Decimal, Decimal | None]:
    """A balance and its floor, one in twelve below it, some just on it."""
    if random.random() < 0.2:
        return Decimal(random.randint(-20_000, 500_000)) / 100, None
    floor = Decimal(random.choice((0, 50, 100, 250)))
    chance = random.random()
    if chance < 0.08:
        return floor - Decimal(random.randint(1, 10_000)) / 100, floor
    return floor + (Decimal(random.randint(0, 400_000)) / 100 if chance < 0.97 else 0), floor


def _cap(random: Random, share: float, least: int, most: int) -> int | None:
    return random.randint(least, most) if random.random() < share else None


def _hours(random: Random, timezone: str) -> str | None:
    """Acceptance hours as JSON; a third of the buyers are always open, so that the demo works at night too."""
    kinds = (None, _around_the_clock, _office, _long_days, _overnight)
    kind = random.choices(kinds, (35, 15, 25, 15, 10))[0]
    if kind is None:
        return None
    hours: dict[str, Any] = {"weekly": kind(random), "dates": _holidays()}
    if random.random() < 0.15:  # its telephones are answered elsewhere
        hours["timezone"] = random.choice(("America/New_York", "America/Phoenix", "Pacific/Honolulu", timezone))
    return json.dumps(hours)


def _around_the_clock(_: Random) -> Week:
    return _daily(["00:00", "24:00"])


def _office(random: Random) -> Week:
    start, end = random.choice(("07:00", "08:00", "08:30", "09:00")), random.choice(("17:00", "18:00", "20:00"))
    saturday: Week = {"sat": [["09:00", "13:00"]]} if random.random() < 0.5 else {}
    return {day: [[start, end]] for day in DAYS[:5]} | saturday


def _long_days(random: Random) -> Week:
    return _daily(["06:00", "12:00"], ["12:30", random.choice(("21:00", "23:00"))])


def _overnight(random: Random) -> Week:
    return _daily([random.choice(("17:00", "20:00", "21:30")), random.choice(("02:00", "08:00"))])


def _daily(*intervals: list[str]) -> Week:
    return {day: list(intervals) for day in DAYS}


@cache
def _holidays() -> Week:
    """Closed on Thanksgiving and Christmas, half a day before the latter."""
    dates: Week = {}
    for year in YEARS:
        first = date(year, 11, 1)
        thanksgiving = first + timedelta(days=(3 - first.weekday()) % 7 + 21)
        dates |= {thanksgiving.isoformat(): [], f"{year}-12-24": [["09:00", "12:00"]], f"{year}-12-25": []}
    return dates


def _enrollments(random: Random, firms: Sequence[Buyer], offers: Sequence[Offer]) -> Iterator[BuyerOffer]:
    verticals = [vertical_id(name) for name in TRADES]
    for number, firm in enumerate(firms):
        own = [offer for offer in offers if offer.vertical_id == verticals[number % len(verticals)]]
        other = [offer for offer in offers if offer not in own]
        chosen = random.sample(own, k=min(len(own), random.choice((2, 3, 3, 4))))
        chosen += random.sample(other, k=random.choice((0, 0, 0, 1)))
        for offer in chosen:
            yield _enrollment(random, firm, offer)


def _enrollment(random: Random, firm: Buyer, offer: Offer) -> BuyerOffer:
    return BuyerOffer(
        firm.id,
        offer.id,
        is_active=random.random() < 0.96,
        priority_rank=random.randint(1, 60),
        weight=random.choices((0, 1, 2, 3, 5, 8), (4, 30, 30, 20, 10, 6))[0],
        hourly_cap=_cap(random, 0.4, 1, 4),
        daily_cap=_cap(random, 0.4, 2, 12),
        created_at=OPENING + timedelta(minutes=random.randint(0, 600_000)),
    )


# Where they take leads


def _region(random: Random, home: Place) -> tuple[str, ...]:
    """One to three states, the home's first."""
    return home.state, *random.sample(_around(home.state)[:4], k=random.choice((0, 0, 0, 1, 1, 2)))


def _areas(
    random: Random, firms: Sequence[Buyer], homes: Sequence[Place], regions: Sequence[tuple[str, ...]], count: int
) -> Iterator[ServiceArea]:
    """Whole states for some, lists of cities or of postal codes for the others, which share what `count` leaves."""
    scopes = [random.choices(("market", "city", "postal_code"), (40, 25, 35))[0] for _ in firms]
    lists = sum(scope != "market" for scope in scopes)
    left = count - sum(len(region) for scope, region in zip(scopes, regions, strict=True) if scope == "market")
    for firm, home, region, scope in zip(firms, homes, regions, scopes, strict=True):
        values: Iterable[tuple[str, str | None]]
        if scope == "market":
            values = [(state, None) for state in region]
        else:
            size = round(left / lists * (random.uniform(0.6, 1.4) if lists > 1 else 1))
            values = _listed(random, scope, home, region, max(size, 1))
            left, lists = left - len(values), lists - 1
        for state, value in values:
            yield ServiceArea(_uuid(random), firm.id, market_id(state), scope, value, random.random() < 0.97)


def _listed(
    random: Random, scope: str, home: Place, region: tuple[str, ...], size: int
) -> dict[tuple[str, str | None], None]:
    """So many cities or postal codes, in order: at home, then around, then whatever is left."""
    found: dict[tuple[str, str | None], None] = {}
    at_home = _names(home, scope)
    found.update(dict.fromkeys((home.state, name) for name in random.sample(at_home, min(len(at_home), size // 2 + 1))))
    for _ in range(size * 2):
        if len(found) >= size:
            return found
        place = choose(random, _in_state(random.choice((home.state, *region))))
        found[place.state, random.choice(_names(place, scope))] = None
    everywhere = (place for state in region for place in _in_state(state).places)
    for place in everywhere:
        found.update(dict.fromkeys((place.state, name) for name in _names(place, scope)[: size - len(found)]))
    return found


def _names(place: Place, scope: str) -> tuple[str, ...]:
    return (place.city,) if scope == "city" else place.postal_codes


# Exclusivities

SCOPES = ("postal_code", "city", "postal_code", "market", "city", "postal_code")
CLOSED = ("Gutters", "Storm damage inspection")
"""Offers that a paused buyer holds in one city: the policy of the first fails closed, that of the second falls back."""


def _exclusivities(
    random: Random, enrollments: Sequence[BuyerOffer], covers: Sequence[ServiceArea], homes: Sequence[Place], count: int
) -> Iterator[Exclusivity]:
    for home, name in product(homes, CLOSED):
        paused = enrollments[0].buyer_id
        city = ("city", market_id(home.state), home.city)
        yield _exclusivity(random, offer_id(name), paused, *city, (None, None))
    motorcycles = [row for row in enrollments if row.offer_id == offer_id("Motorcycle insurance")]
    if motorcycles:
        holder = random.choice(motorcycles).buyer_id
        yield _exclusivity(random, offer_id("Motorcycle insurance"), holder, "offer", None, None, (None, None))
    yield from _scattered(random, enrollments, covers, count - 3)


def _scattered(
    random: Random, enrollments: Sequence[BuyerOffer], covers: Sequence[ServiceArea], count: int
) -> Iterator[Exclusivity]:
    """Exclusivities where their holders take leads, some of them over already and some yet to come."""
    offers = defaultdict(list)
    for row in enrollments:
        offers[row.buyer_id].append(row.offer_id)
    taken = set()
    for scope, area in zip(islice(cycle(SCOPES), max(count, 0)), _drawn(random, covers), strict=False):
        offer, value = random.choice(offers[area.buyer_id]), _value_in(random, area, scope)
        if (offer, area.market_id, scope, value) in taken or offer in map(offer_id, CLOSED):
            continue
        taken.add((offer, area.market_id, scope, value))
        yield _exclusivity(random, offer, area.buyer_id, scope, area.market_id, value, _validity(random))


def _drawn(random: Random, covers: Sequence[ServiceArea]) -> Iterator[ServiceArea]:
    while covers:
        yield random.choice(covers)


def _value_in(random: Random, area: ServiceArea, scope: str) -> str | None:
    if scope == "market" or scope == area.scope:
        return area.value if scope == area.scope else None
    place = _somewhere_in(random, area.market_id, area.value)
    return place.city if scope == "city" else random.choice(place.postal_codes)


def _somewhere_in(random: Random, market: UUID, value: str | None) -> Place:
    if value is None:
        return choose(random, _in_state(markets()[market]))
    return _by_market()[market, value]


def _validity(random: Random) -> tuple[datetime | None, datetime | None]:
    return random.choices(
        (
            (None, None),
            (OPENING, OPENING.replace(year=2045)),
            (OPENING, OPENING.replace(month=6)),
            (OPENING.replace(year=2044), None),
        ),
        (70, 15, 10, 5),
    )[0]


def _exclusivity(
    random: Random,
    offer: UUID,
    holder: UUID,
    scope: str,
    market: UUID | None,
    value: str | None,
    valid: tuple[datetime | None, datetime | None],
) -> Exclusivity:
    return Exclusivity(_uuid(random), offer, holder, market, scope, value, *valid, is_active=True)


# Leads


def _lead(random: Random, world: World) -> NewLead:
    chance = random.random()
    if chance < 0.05:
        return _lead_at(random, random.choice(world.offers), choose(random, _nowhere()))
    if chance < 0.11 and world.offer_exclusivities:
        return _exclusive_lead(random, world)
    if chance < 0.125:
        withdrawn = [offer for offer in world.offers if not offer.is_active]
        return _lead_at(random, random.choice(withdrawn), choose(random, _cities()))
    offer = random.choice([offer for offer in world.offers if offer.is_active])
    place = choose(random, _cities())
    if offer.market_id and chance > 0.2:
        place = choose(random, _in_state(markets()[offer.market_id]))
    lead = _lead_at(random, offer, place)
    if chance < 0.14:
        return lead._replace(vertical_id=random.choice([vertical_id(name) for name in TRADES]))
    return _imperfect(random, lead)


def _lead_at(random: Random, offer: Offer, place: Place) -> NewLead:
    code = random.choice(place.postal_codes)
    return NewLead(_uuid(random), offer.id, offer.vertical_id, market_id(place.state), code, place.city)


def _exclusive_lead(random: Random, world: World) -> NewLead:
    """A lead that an exclusivity is about."""
    held = random.choice(world.offer_exclusivities)
    offer = next(offer for offer in world.offers if offer.id == held.offer_id)
    if held.market_id is None:
        return _lead_at(random, offer, choose(random, _cities()))
    lead = _lead_at(random, offer, _somewhere_in(random, held.market_id, held.value))
    return lead._replace(postal_code=held.value) if held.scope == "postal_code" else lead


def _imperfect(random: Random, lead: NewLead) -> NewLead:
    """The lead as people type it: now and then without a postal code or a city, or not as a postman writes them."""
    chance = random.random()
    if chance < 0.04:
        return lead._replace(postal_code=None)
    if chance < 0.07:
        return lead._replace(city=None)
    if chance < 0.08:
        return lead._replace(postal_code=None, city=" ")
    if chance < 0.13 and lead.city:
        return lead._replace(city=f" {lead.city.lower()} ")
    return lead


def _uuid(random: Random) -> UUID:
    return UUID(int=random.getrandbits(128), version=4)

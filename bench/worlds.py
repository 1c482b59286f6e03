"""Worlds to measure on: seeded, on the real map, and so shaped that a lead has about as many candidates in each size.

A world is a function of its form. Buyers are drawn to cities as people are; each has three enrollments and ten service
areas. Offers grow with the buyers, so that a lead finds some 14 buyers who are enrolled and cover it, of some 500 who
cover it at 100,000 buyers. Worlds of fewer than 10,000 buyers have a smaller map for the same reason.

The rules are ones that a router of another make can keep too (priority, caps, hours, areas, balance); exclusivities
and response times are left to the demo's world.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import timedelta
from decimal import Decimal
from functools import cache, cached_property
from hashlib import sha256
from importlib.resources import files
from itertools import islice
from random import Random
from urllib.parse import urlsplit
from uuid import UUID, uuid5

import asyncpg

from pointsman import world as demo
from pointsman.migrate import migrate
from pointsman.world import Buyer, BuyerOffer, Lottery, NewLead, Offer, Place, Policy, ServiceArea, market_id

FORMAT = 3
"""Counted up whenever the rows of a form change, so that databases of before are made anew."""
NAMESPACE = UUID("0a4f6a52-9d0c-5b7e-8f3e-5d7b1c2e9a44")
ENROLLMENTS = 3
AREAS = 10
CITY_SHARE = 0.22
FEWEST_OFFERS = 12
COPIED_ROWS = 50_000
ELSEWHERE = uuid5(NAMESPACE, "market/elsewhere")
"""A market without leads, for areas that are imported while leads are routed."""

RULES = {
    "tie_breakers": ["weight", "buyer_id"],
    "constraints": ["buyer_active", "acceptance_hours"],
    "exclusivity": {"when_ineligible": "fail_closed"},
}


@dataclass(frozen=True)
class Form:
    """What a world is made from."""

    buyers: int
    seed: int = 1
    strategy: str = "priority"
    offers: int = 0
    """How many offers; 0: as many as give a lead some 14 candidates."""

    @property
    def database(self) -> str:
        return f"pointsman_bench_{self.buyers}"

    @property
    def signature(self) -> str:
        """What a database of this form says of itself."""
        made_of = asdict(self) | {"format": FORMAT, "schema": _schema()}
        return f"Made by `python -m bench`: {json.dumps(made_of)}"


@dataclass(frozen=True)
class BenchWorld:
    """The rows of a form. Those that are many are made as they are asked for, each time the same."""

    form: Form

    @cached_property
    def cities(self) -> Lottery:
        """Where buyers and leads are: every city with several postal codes, or a part of them."""
        cities = [
            place for place in demo.places() if place.state not in demo.NOBODY_THERE and len(place.postal_codes) > 1
        ]
        share = min(1.0, self.form.buyers / 10_000)
        return Lottery(self._dice("map").sample(cities, max(10, round(share * len(cities)))))

    @cached_property
    def _by_state(self) -> dict[str, Lottery]:
        states: dict[str, list[Place]] = {}
        for place in self.cities.places:
            states.setdefault(place.state, []).append(place)
        return {state: Lottery(places) for state, places in states.items()}

    @cached_property
    def offers(self) -> tuple[Offer, ...]:
        """The offers, four to a vertical."""
        count = self.form.offers or max(FEWEST_OFFERS, self.form.buyers * 107 // 100_000)
        return tuple(
            Offer(uuid5(NAMESPACE, f"offer/{number}"), f"Offer {number}", self._vertical(number), None, True)
            for number in range(count)
        )

    @cached_property
    def hot_offer(self) -> Offer:
        """An offer that one buyer alone takes, with a cap that never fills."""
        return Offer(uuid5(NAMESPACE, "offer/hot"), "Everybody's", self._vertical(0), None, True)

    @cached_property
    def policies(self) -> tuple[Policy, ...]:
        """One policy for everything and one for each of some verticals, all with the same rules."""
        verticals = [None, *dict.fromkeys(offer.vertical_id for offer in self.offers)][:9]
        rules = json.dumps({"strategy": {"kind": self.form.strategy}, **RULES})
        return tuple(
            Policy(uuid5(NAMESPACE, f"policy/{number}"), f"Policy {number}", None, vertical, None, 1, True, rules)
            for number, vertical in enumerate(verticals)
        )

    @cached_property
    def homes(self) -> list[Place]:
        """Where each buyer is."""
        dice = self._dice("homes")
        return [demo.choose(dice, self.cities) for _ in range(self.form.buyers)]

    @cached_property
    def buyer_ids(self) -> list[UUID]:
        dice = self._dice("buyers")
        return [_uuid(dice) for _ in range(self.form.buyers)]

    def buyers(self) -> Iterator[Buyer]:
        """The buyers, the hot one last."""
        dice = self._dice("firms")
        weeks = [*(None,) * 12, *(_week(dice) for _ in range(24))]
        for number, (buyer_id, home) in enumerate(zip(self.buyer_ids, self.homes, strict=True)):
            caps = _cap(dice, 0.4, 5_000), _cap(dice, 0.5, 20_000)
            floor = dice.choice((None, Decimal(50), Decimal(250)))
            balance = Decimal(dice.randint(0, 500_000)) / 100
            status = "active" if dice.random() < 0.95 else "paused"
            hours = dice.choice(weeks)
            yield Buyer(buyer_id, f"Buyer {number}", status, home.timezone, hours, balance, floor, None, *caps)
        yield Buyer(self._hot_buyer, "Everybody's", "active", "UTC", None, Decimal(0), None, None, None, 10**8)

    def enrollments(self) -> Iterator[BuyerOffer]:
        """Three a buyer; one cap in twenty is so small that it is soon full."""
        dice = self._dice("enrollments")
        for buyer_id in self.buyer_ids:
            for offer in dice.sample(self.offers, ENROLLMENTS):
                caps = _cap(dice, 0.5, 5_000), _cap(dice, 0.5, 20_000)
                rank, weight = dice.randint(1, 60), dice.choice((1, 1, 1, 2, 3, 5))
                since = demo.OPENING + timedelta(minutes=dice.randint(0, 600_000))
                yield BuyerOffer(buyer_id, offer.id, dice.random() < 0.96, rank, weight, *caps, since)
        yield BuyerOffer(self._hot_buyer, self.hot_offer.id, True, 1, 1, 10**8, None, demo.OPENING)

    def areas(self) -> Iterator[ServiceArea]:
        """Ten a buyer: postal codes for most, cities for the others, and a whole state for one in two hundred."""
        dice = self._dice("areas")
        for buyer_id, home in zip(self.buyer_ids, self.homes, strict=True):
            for scope, state, value in self._places(dice, home):
                yield ServiceArea(_uuid(dice), buyer_id, market_id(state), scope, value, True)
        yield ServiceArea(_uuid(dice), self._hot_buyer, market_id(self.cities.places[0].state), "market", None, True)

    def more_areas(self, count: int) -> Iterator[ServiceArea]:
        """So many areas elsewhere, to be imported."""
        dice = self._dice("more areas")
        for number in range(count):
            buyer_id = self.buyer_ids[number % len(self.buyer_ids)]
            yield ServiceArea(_uuid(dice), buyer_id, ELSEWHERE, "postal_code", f"E{number // 25:06}", True)

    def streams(self, name: str, count: int) -> list[NewLead]:
        """So many kinds of leads, no two of one offer and postal code: what leads are drawn from."""
        dice = self._dice(f"streams/{name}")
        found: dict[tuple[UUID, str], NewLead] = {}
        while len(found) < count:
            offer, place = dice.choice(self.offers), demo.choose(dice, self.cities)
            code = dice.choice(place.postal_codes)
            lead = NewLead(_uuid(dice), offer.id, offer.vertical_id, market_id(place.state), code, place.city)
            found.setdefault((offer.id, code), lead)
        return list(found.values())

    def hot_stream(self) -> NewLead:
        """The kind of lead that the hot buyer alone can have."""
        offer, place = self.hot_offer, self.cities.places[0]
        lead_id = uuid5(NAMESPACE, "lead/hot")
        return NewLead(lead_id, offer.id, offer.vertical_id, market_id(place.state), place.postal_codes[0], place.city)

    def _places(self, dice: Random, home: Place) -> Iterator[tuple[str, str, str | None]]:
        kind = dice.random()
        state, around = home.state, self._by_state[home.state]
        names: dict[tuple[str, str | None], None] = {}
        if kind < 0.005:
            names["market", None] = None
        elif kind < CITY_SHARE:
            names["city", home.city] = None
        for _ in range(100):
            place = home if kind >= CITY_SHARE and len(names) < 3 else dice.choice(around.places)
            scoped = ("city", place.city) if kind < CITY_SHARE else ("postal_code", dice.choice(place.postal_codes))
            names[scoped] = None
            if len(names) == AREAS:
                break
        for scope, value in names:
            yield scope, state, value

    @property
    def _hot_buyer(self) -> UUID:
        return uuid5(NAMESPACE, "buyer/hot")

    @staticmethod
    def _vertical(number: int) -> UUID:
        return uuid5(NAMESPACE, f"vertical/{number // 4}")

    def _dice(self, name: str) -> Random:
        return Random(f"{self.form.seed}/{self.form.buyers}/{name}")


def fresh(streams: list[NewLead], count: int, dice: Random) -> list[NewLead]:
    """So many new leads, drawn from the streams."""
    return [stream._replace(id=_uuid(dice)) for stream in dice.choices(streams, k=count)]


async def prepare(server: str, form: Form) -> str:
    """The address of a database with the form's world on the server; made, unless it is there already."""
    dsn = urlsplit(server)._replace(path=f"/{form.database}").geturl()
    admin = await asyncpg.connect(server)
    try:
        said = await admin.fetchval(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = $1", form.database
        )
        if said == form.signature:
            return dsn
        await admin.execute(f"drop database if exists {form.database} with (force)")
        await admin.execute(f"create database {form.database}")
        await migrate(dsn, with_host_tables=True)
        await fill(dsn, BenchWorld(form))
        await admin.execute(f"comment on database {form.database} is '{form.signature}'")
    finally:
        await admin.close()
    return dsn


async def fill(dsn: str, world: BenchWorld) -> None:
    """Copy the world into the empty host tables of a migrated database, as one config version."""
    connection = await asyncpg.connect(dsn)
    try:
        async with connection.transaction():
            await demo.copy_rows(connection, "offers", [*world.offers, world.hot_offer])
            await _copy(connection, "buyers", world.buyers())
            await _copy(connection, "buyer_offers", world.enrollments())
            await _copy(connection, "buyer_service_areas", world.areas())
            await demo.copy_rows(connection, "routing_policies", world.policies)
        await connection.execute("vacuum analyze")
    finally:
        await connection.close()


async def _copy(connection: asyncpg.Connection, table: str, rows: Iterable[object]) -> None:
    rows = iter(rows)
    while part := tuple(islice(rows, COPIED_ROWS)):
        await demo.copy_rows(connection, table, part)


@cache
def _schema() -> str:
    """A digest of the tables and functions that `migrate` makes, which change between releases."""
    digest = sha256()
    folder = files("pointsman.sql")
    for part in (folder, folder / "migrations"):
        for file in sorted(part.iterdir(), key=lambda file: file.name):
            if file.name.endswith(".sql"):
                digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _week(dice: Random) -> str:
    """Acceptance hours as JSON: by day, long, or over night, closed on Christmas."""
    opens, closes = dice.choice((("07:00", "18:00"), ("00:00", "24:00"), ("06:00", "23:00"), ("17:00", "08:00")))
    if (opens, closes) == ("07:00", "18:00"):
        opens = dice.choice(("07:00", "08:00", "09:00"))
    days = demo.DAYS if closes != "18:00" else demo.DAYS[: dice.choice((5, 6))]
    weekly = {day: [[opens, closes]] for day in days}
    return json.dumps({"weekly": weekly, "dates": {f"{year}-12-25": [] for year in demo.YEARS}})


def _cap(dice: Random, share: float, most: int) -> int | None:
    """A cap for a part of the holders: now and then a small one, else one with room for a whole run."""
    if dice.random() >= share:
        return None
    return dice.randint(1, 3) if dice.random() < 0.05 else dice.randint(most // 2, most)


def _uuid(dice: Random) -> UUID:
    return UUID(int=dice.getrandbits(128), version=4)

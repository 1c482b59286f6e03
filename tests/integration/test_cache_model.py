"""The cache against a model: whatever transactions do to the configuration, the feed makes of the indexes what a plain
look at the tables makes of empty ones.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import AsyncIterator, Callable
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pointsman.cache.feed import Cache
from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.engine.configuration import Buyer, Enrollment
from pointsman.model import Lead
from pointsman.store import Store
from tests.builders import rules

EXAMPLES = int(os.environ.get("POINTSMAN_MODEL_EXAMPLES", "60"))


def ids(kind: int, count: int) -> list[UUID]:
    return [UUID(int=kind << 64 | number) for number in range(1, count + 1)]


OFFERS, BUYERS, MARKETS, VERTICALS = ids(1, 3), ids(2, 4), ids(3, 2), ids(4, 2)
AREAS, EXCLUSIVITIES, POLICIES = ids(5, 6), ids(6, 4), ids(7, 4)
POSTAL_CODES = ("606 14", "60614", "a1b", "A1 B")
CITIES = ("Chicago", " chicago", "São Paulo", "SÃO  PAULO")
HOURS = (None, "null", '{"weekly": {"mon": [["09:00", "17:00"]]}}', '{"weekly": 7}')
RULES = (json.dumps(rules()), json.dumps(rules(strategy={"kind": "rotation"})), "{}", "[]")

Operation = tuple[str, tuple[Any, ...]]
"""A statement and its arguments; `copy` is a COPY of areas."""


def one(statement: str, *arguments: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    return st.tuples(st.just(statement), st.tuples(*arguments))


def upsert(table: str, key: str, **columns: st.SearchStrategy[Any]) -> st.SearchStrategy[Operation]:
    names = list(columns)
    places = ", ".join(f"${index}" for index in range(1, len(names) + 1))
    sets = ", ".join(f"{name} = excluded.{name}" for name in names)
    statement = f"insert into {table} ({', '.join(names)}) values ({places}) on conflict ({key}) do update set {sets}"
    return one(statement, *columns.values())


offer, buyer, market, vertical = map(st.sampled_from, (OFFERS, BUYERS, MARKETS, VERTICALS))
area, exclusivity, policy = map(st.sampled_from, (AREAS, EXCLUSIVITIES, POLICIES))
cap = st.sampled_from((None, 0, 1, 7))
flag = st.sampled_from((True, True, False))
place = st.one_of(
    st.tuples(market, st.just("market"), st.none()),
    st.tuples(market, st.just("city"), st.sampled_from((*CITIES, " "))),
    st.tuples(market, st.just("postal_code"), st.sampled_from((*POSTAL_CODES, ""))),
)
areas = st.lists(
    st.builds(lambda key, buyer, at, active: (key, buyer, *at, active), area, buyer, place, flag),
    min_size=1,
    max_size=4,
    unique_by=lambda row: row[0],
)

operation = st.one_of(
    upsert("offers", "id", id=offer, vertical_id=vertical, market_id=st.none() | market, is_active=flag),
    upsert(
        "buyers",
        "id",
        id=buyer,
        status=st.sampled_from(("active", "paused")),
        timezone=st.sampled_from(("UTC", "America/Chicago", "Mars/Olympus")),
        acceptance_hours=st.sampled_from(HOURS),
        balance=st.sampled_from((0, 5)),
        min_balance=st.sampled_from((None, 3)),
        sla_response_seconds=st.sampled_from((None, 60)),
        hourly_cap=cap,
        daily_cap=cap,
    ),
    upsert(
        "buyer_offers",
        "buyer_id, offer_id",
        buyer_id=buyer,
        offer_id=offer,
        is_active=flag,
        priority_rank=st.integers(0, 2),
        weight=st.integers(0, 2),
        hourly_cap=cap,
        daily_cap=cap,
    ),
    upsert(
        "routing_policies",
        "id",
        id=policy,
        offer_id=st.none() | offer,
        vertical_id=st.none() | vertical,
        market_id=st.none() | market,
        version=st.integers(1, 2),
        is_active=flag,
        rules=st.sampled_from(RULES),
    ),
    areas.map(lambda rows: ("copy", tuple(rows))),
    one(
        "insert into offer_exclusivities (id, offer_id, buyer_id, scope, is_active) values ($1, $2, $3, 'offer', $4)"
        " on conflict (id) do update set buyer_id = excluded.buyer_id, is_active = excluded.is_active",
        *(exclusivity, offer, buyer, flag),
    ),
    st.builds(
        lambda key, offer, buyer, at, active: (
            "insert into offer_exclusivities (id, offer_id, buyer_id, market_id, scope, value, is_active)"
            " values ($1, $2, $3, $4, $5, $6, $7)",
            (key, offer, buyer, *at, active),
        ),
        *(exclusivity, offer, buyer, place, flag),
    ),
    # several rows at once
    one("update buyers set hourly_cap = $1", cap),
    one("update buyer_offers set is_active = not is_active where offer_id = $1", offer),
    one("update buyer_service_areas set is_active = not is_active where market_id = $1", market),
    one("update offer_exclusivities set valid_to = now() where offer_id = $1", offer),
    # other keys
    one("update buyer_service_areas set id = $2 where id = $1", area, area),
    one("update buyer_service_areas set buyer_id = $2 where buyer_id = $1", buyer, buyer),
    one("update buyer_service_areas set market_id = $2 where market_id = $1", market, market),
    one("update buyer_offers set buyer_id = $2 where buyer_id = $1", buyer, buyer),
    one("update buyer_offers set offer_id = $2 where offer_id = $1", offer, offer),
    one("update buyers set id = $2 where id = $1", buyer, buyer),
    one("update routing_policies set id = $2, offer_id = $3 where id = $1", policy, policy, st.none() | offer),
    # rows that go, and what goes with them
    one("delete from offers where id = $1", offer),
    one("delete from buyers where id = $1", buyer),
    one("delete from buyer_offers where buyer_id = $1", buyer),
    one("delete from buyer_service_areas where id = $1", area),
    one("delete from offer_exclusivities where id = $1", exclusivity),
    one("delete from routing_policies where id = $1", policy),
    st.sampled_from(TABLES).map(lambda table: (f"truncate {table} cascade", ())),
)
transaction = st.tuples(
    st.lists(operation, min_size=1, max_size=6),
    st.sampled_from(("commit", "commit", "commit", "rollback")),
    st.sampled_from(("origin", "origin", "origin", "replica")),
)


@pytest.fixture
async def store(database: str) -> AsyncIterator[Store]:
    store = await Store.open(database, size=2, timeout=10)
    yield store
    await store.close()


@settings(
    max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True
)
@given(st.lists(transaction, min_size=1, max_size=5))
async def test_feed_makes_of_the_indexes_what_the_tables_say(
    connection: asyncpg.Connection, store: Store, transactions: list[tuple[list[Operation], str, str]]
) -> None:
    await connection.execute(f"truncate {', '.join(TABLES)} cascade")
    await _fill(connection)
    cache = Cache(store)
    async with store.connection() as reader:
        for operations, end, role in [([], "commit", "origin"), *transactions]:  # first as it was loaded
            await _perform(connection, operations, end, role)
            await cache.catch_up(reader)
            followed = await cache.at_least(await store.version(reader), reader)  # type: ignore[arg-type]
            assert _seen(await _rebuilt(connection)) == _seen(followed)


async def _fill(connection: asyncpg.Connection) -> None:
    """Something to begin with, so that changes mostly find what they change."""
    await connection.executemany(
        "insert into offers (id, vertical_id) values ($1, $2)", [(i, VERTICALS[0]) for i in OFFERS]
    )
    await connection.executemany("insert into buyers (id) values ($1)", [(i,) for i in BUYERS[:3]])
    await connection.executemany(
        "insert into buyer_offers (buyer_id, offer_id) values ($1, $2)", list(itertools.product(BUYERS[:3], OFFERS[:2]))
    )
    await connection.executemany(
        "insert into buyer_service_areas (id, buyer_id, market_id, scope, value) values ($1, $2, $3, 'city', $4)",
        [(AREAS[n], BUYERS[n % 3], MARKETS[n % 2], CITIES[n % 4]) for n in range(5)],
    )
    await connection.execute("insert into routing_policies (id, rules) values ($1, $2)", POLICIES[0], RULES[0])


async def _perform(connection: asyncpg.Connection, operations: list[Operation], end: str, role: str) -> None:
    """One transaction; an operation that the tables refuse is undone, and the others go on."""
    await connection.execute(f"begin; set local session_replication_role = {role}")
    for statement, arguments in operations:
        await connection.execute("savepoint operation")
        try:
            if statement == "copy":
                await connection.copy_records_to_table(
                    "buyer_service_areas",
                    columns=("id", "buyer_id", "market_id", "scope", "value", "is_active"),
                    records=arguments,
                )
            else:
                await connection.execute(statement, *arguments)
        except asyncpg.IntegrityConstraintViolationError:
            await connection.execute("rollback to savepoint operation")
    try:
        await connection.execute(end)
    except asyncpg.IntegrityConstraintViolationError:
        await connection.execute("rollback")


async def _rebuilt(connection: asyncpg.Connection) -> Indexes:
    """The model: indexes made anew of the tables as they are."""
    row = await connection.fetchrow("select version, token from pointsman.config_commit order by version desc limit 1")
    indexes = Indexes(row["version"], row["token"])
    for table in TABLES:
        for image in await connection.fetch(f"select * from pointsman.image_{table}"):
            indexes.apply(Change(table, "", image), row["version"])
    return indexes


def _seen(indexes: Indexes) -> dict[str, Any]:
    """All that can be asked of indexes, with what makes no difference to anybody left out."""
    leads = [
        Lead(UUID(int=1), *of)
        for of in itertools.product(
            (None, *OFFERS), VERTICALS, (None, *MARKETS), (None, "60614", "A1B"), (None, "chicago", "são paulo")
        )
    ]
    by_lead: dict[str, Callable[[Lead], Any]] = {
        "policy": indexes.policy,
        "covering": lambda lead: sorted(map(_enrollment, indexes.covering(lead))),
        "exclusivities": lambda lead: [list(rows) for rows in indexes.exclusivities(lead)],
    }
    return {
        "version": (indexes.version, indexes.token),
        "offers": indexes.offers,
        "buyers": {key: _buyer(buyer) for key, buyer in indexes.buyers.items()},
        "enrollments": sorted(
            _enrollment(enrollment) for rows in indexes.enrollments.values() for enrollment in rows.values()
        ),
        "areas": indexes.areas,
        "policies": indexes.policies,
        "held": indexes.exclusivity_rows,
        "sizes": indexes.sizes(),
        "scopes": [indexes.scopes(*pair) for pair in itertools.product(BUYERS, (None, *MARKETS))],
        **{name: [ask(lead) for lead in leads] for name, ask in by_lead.items()},
    }


def _buyer(buyer: Buyer | None) -> str:
    """Everything of a buyer but since when it counts as it does, which a load cannot know; its limits are in `caps`."""
    return "" if buyer is None else _fields(buyer, leave_out={"changed", "_limits"})


def _enrollment(enrollment: Enrollment) -> str:
    limits = [_fields(limit, leave_out={"cap"}) for limit in enrollment.limits.each]  # how it bound last is a memo
    return _fields(enrollment, leave_out={"changed", "buyer", "_limits"}) + repr(limits) + _buyer(enrollment.buyer)


def _fields(thing: Any, leave_out: set[str]) -> str:
    names = {name for made in type(thing).__mro__ for name in getattr(made, "__slots__", ())}
    return repr([(name, getattr(thing, name)) for name in sorted(names - leave_out)])

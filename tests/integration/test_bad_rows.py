"""Bad rows make themselves ineffective, with a reason, and stop neither load, feed nor router."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.errors import DatabaseUnfit, PointsmanError, StoreUnavailable
from pointsman.migrate import migrate
from tests.builders import (
    MARKET,
    enroll,
    insert,
    make_area,
    make_buyer,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)
from tests.invariants import violations
from tests.stage import another, codes, follows, kinds, why_not

LOOSE = """
alter table buyers drop constraint buyers_status_known, drop constraint buyers_sla_response_seconds_not_negative,
  drop constraint buyers_hourly_cap_not_negative, drop constraint buyers_daily_cap_not_negative,
  alter timezone drop not null, alter status drop not null, alter balance drop not null;
alter table buyer_offers drop constraint buyer_offers_buyer, drop constraint buyer_offers_offer,
  drop constraint buyer_offers_priority_rank_not_negative, drop constraint buyer_offers_weight_not_negative,
  drop constraint buyer_offers_hourly_cap_not_negative, drop constraint buyer_offers_daily_cap_not_negative,
  alter priority_rank drop not null, alter weight drop not null, alter created_at drop not null,
  alter is_active drop not null;
alter table buyer_service_areas drop constraint buyer_service_areas_scope_known,
  drop constraint buyer_service_areas_value_unless_market, drop constraint buyer_service_areas_once,
  drop constraint buyer_service_areas_buyer, alter buyer_id drop not null, alter market_id drop not null,
  alter scope drop not null, alter is_active drop not null;
alter table offer_exclusivities drop constraint offer_exclusivities_scope_known,
  drop constraint offer_exclusivities_market_unless_offer, drop constraint offer_exclusivities_one_holder,
  drop constraint offer_exclusivities_value_for_city_or_postal_code,
  drop constraint offer_exclusivities_valid_from_before_valid_to, drop constraint offer_exclusivities_buyer,
  alter offer_id drop not null, alter buyer_id drop not null, alter scope drop not null;
alter table routing_policies alter version drop not null, alter rules drop not null, alter is_active drop not null;
alter table offers alter vertical_id drop not null, alter is_active drop not null;
"""
"""What an adopted table may lack: none of our constraints is there to keep a bad row out."""

ADOPTED = """
create table offers (id uuid primary key, name varchar(90), vertical_id uuid, is_active bool, budget money);
create table buyers (id uuid primary key, name text, status text, timezone text, acceptance_hours json,
  balance numeric, min_balance numeric, sla_response_seconds bigint, hourly_cap bigint, daily_cap bigint);
create table buyer_offers (buyer_id uuid, offer_id uuid, is_active bool, priority_rank bigint, weight bigint,
  hourly_cap bigint, daily_cap bigint, created_at timestamptz, unique (buyer_id, offer_id));
create table buyer_service_areas (id uuid primary key, buyer_id uuid, market_id uuid, scope text, value text,
  is_active bool);
create table offer_exclusivities (id uuid primary key, offer_id uuid, buyer_id uuid, market_id uuid, scope text,
  value text, valid_from timestamptz, valid_to timestamptz, is_active bool);
create table routing_policies (id uuid primary key, name text, offer_id uuid, vertical_id uuid, market_id uuid,
  version bigint, is_active bool, rules json);
create type lead_status as enum ('new', 'validated', 'routed', 'sold');
create table leads (id uuid primary key, offer_id uuid, vertical_id uuid, market_id uuid, postal_code varchar(12),
  city text, status lead_status, buyer_id uuid, routed_at timestamptz,
  created_at timestamptz default now(), phone text);
"""

EVERYTHING = rules(
    strategy={"kind": "weighted"},
    tie_breakers=["priority_rank", "weight", "sla_response_seconds", "enrolled_at", "buyer_id"],
    sla={"mode": "prefer", "max_response_seconds": 60},
)
"""Rules that need every field of a buyer and its enrollment."""

BUYERS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "hours that are no object": ({"hours": [1, 2]}, ["acceptance_hours"]),
    "hours without weekly": ({"hours": {"dates": {}}}, ["acceptance_hours"]),
    "hours with an unknown key": ({"hours": {"weekly": {}, "note": "x"}}, ["acceptance_hours"]),
    "hours with an unknown day": ({"hours": {"weekly": {"monday": []}}}, ["acceptance_hours"]),
    "hours that start where they end": ({"hours": {"weekly": {"mon": [["09:00", "09:00"]]}}}, ["acceptance_hours"]),
    "hours that are no times": ({"hours": {"weekly": {"mon": [["9", "25:00"]]}}}, ["acceptance_hours"]),
    "hours with a bad date": ({"hours": {"weekly": {}, "dates": {"2026-02-30": []}}}, ["acceptance_hours"]),
    "hours in an unknown zone": ({"hours": {"timezone": "Mars/Olympus", "weekly": {}}}, ["acceptance_hours"]),
    "hours nested without end": ({"acceptance_hours": "[" * 5_000 + "]" * 5_000}, ["acceptance_hours"]),
    "hours and no zone to read them in": ({"hours": {"weekly": {}}, "timezone": None}, ["timezone"]),
    "unknown zone and a cap": ({"timezone": "america/chicago", "daily_cap": 5}, ["timezone"]),
    "zone that is a path": ({"timezone": "../../etc/passwd", "hourly_cap": 5}, ["timezone"]),
    "zone with a cap of zero": ({"timezone": "", "daily_cap": 0}, ["timezone"]),
    "negative hourly cap": ({"hourly_cap": -1}, ["hourly_cap"]),
    "negative daily cap": ({"daily_cap": -1}, ["daily_cap"]),
    "negative response time": ({"sla_response_seconds": -1}, ["sla_response_seconds"]),
    "all of them": (
        {
            "hours": {},
            "timezone": "Nowhere",
            "hourly_cap": -1,
            "daily_cap": -2,
            "sla_response_seconds": -3,
        },
        ["acceptance_hours", "hourly_cap", "daily_cap", "sla_response_seconds"],
    ),
}

ENROLLMENTS: dict[str, tuple[dict[str, Any], list[str]]] = {
    "negative hourly cap": ({"hourly_cap": -1}, ["hourly_cap"]),
    "negative daily cap": ({"daily_cap": -1}, ["daily_cap"]),
    "negative rank": ({"priority_rank": -1}, ["priority_rank"]),
    "no rank": ({"priority_rank": None}, ["priority_rank"]),
    "negative weight": ({"weight": -1}, ["weight"]),
    "no weight": ({"weight": None}, ["weight"]),
    "all of them": (
        {"weight": None, "priority_rank": -9, "daily_cap": -1, "hourly_cap": -1},
        ["hourly_cap", "daily_cap", "priority_rank", "weight"],
    ),
}

AREAS: dict[str, dict[str, Any]] = {
    "unknown scope": {"scope": "county", "value": "Cook"},
    "scope in capitals": {"scope": "MARKET"},
    "no scope": {"scope": None},
    "no market": {"market_id": None},
    "no buyer": {"buyer_id": None},
    "city without a value": {"scope": "city"},
    "blank postal code": {"scope": "postal_code", "value": " \t"},
    "not known to be active": {"is_active": None},
}

EXCLUSIVITIES: dict[str, dict[str, Any]] = {
    "unknown scope": {"scope": "planet"},
    "no scope": {"scope": None},
    "offer with a market": {"market_id": MARKET},
    "offer with a value": {"value": "x"},
    "market without one": {"scope": "market"},
    "city without a market": {"scope": "city", "value": "Chicago"},
    "city without a value": {"scope": "city", "market_id": MARKET},
    "blank postal code": {"scope": "postal_code", "market_id": MARKET, "value": " "},
    "no buyer": {"buyer_id": None},
    "no offer": {"offer_id": None},
}

POLICIES: dict[str, Any] = {
    "null": None,
    "a list": [],
    "text": "priority",
    "a number": 1.5,
    "empty": {},
    "unknown strategy": rules(strategy={"kind": "auction"}),
    "unknown key": rules(price=1),
    "no last tie-breaker": rules(tie_breakers=["lead_hash"]),
    "a float": rules(schema=1.0),
    "a later schema": rules(schema=2),
    "a negative limit": rules(sla={"mode": "off", "max_response_seconds": -1}),
    "salt that is no text": rules(strategy={"kind": "priority", "salt": 5}),
}


async def test_bad_buyer_is_ineligible_with_its_fields_and_the_next_gets_the_lead(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    good = await make_candidate(connection, offer)
    await make_policy(connection, rules=EVERYTHING)

    async def add(over: dict[str, Any]) -> UUID:
        return await make_candidate(connection, offer, **over)

    at_load = {name: await add(over) for name, (over, _) in BUYERS.items()}
    async with Router.open(database) as router:
        by_feed = {name: await add(over) for name, (over, _) in BUYERS.items()}
        explanation = await router.explain(await make_lead(connection, offer))
        assert good == (await router.route(await make_lead(connection, offer))).buyer_id
    for bad in (at_load, by_feed):
        expected = {
            name: [{"code": "invalid_configuration", "field": field} for field in fields]
            for name, (_, fields) in BUYERS.items()
        }
        assert expected == {name: why_not(explanation, buyer) for name, buyer in bad.items()}
    assert [good] == [ranked.buyer_id for ranked in explanation.eligible]
    assert [] == await violations(connection)


async def test_bad_enrollment_is_ineligible_with_its_fields_and_the_next_gets_the_lead(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    good = await make_candidate(connection, offer)
    await make_policy(connection, rules=EVERYTHING)
    at_load = {name: await make_candidate(connection, offer, enrollment=row) for name, (row, _) in ENROLLMENTS.items()}
    orphan = uuid4()
    await enroll(connection, orphan, offer, weight=-5)
    async with Router.open(database) as router:
        by_feed = {
            name: await make_candidate(connection, offer, enrollment=row) for name, (row, _) in ENROLLMENTS.items()
        }
        lead = await make_lead(connection, offer)
        explanation = await router.explain(lead)
        assert good == (await router.route(lead)).buyer_id
        for name, (_, fields) in ENROLLMENTS.items():
            expected = [{"code": "invalid_configuration", "field": field} for field in fields]
            assert expected == why_not(explanation, at_load[name])
            assert expected == why_not(explanation, by_feed[name])
        await make_area(connection, orphan)
        last = await router.explain(await make_lead(connection, offer))
        assert [{"code": "invalid_configuration", "field": "buyer"}] == why_not(last, orphan)


async def test_bad_field_that_the_policy_does_not_need_harms_nobody(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    bad = {"timezone": "Nowhere", "sla_response_seconds": -1, "hours": "?"}
    buyer = await make_candidate(connection, offer, **bad, enrollment={"weight": None, "created_at": None})
    await make_policy(connection, rules=rules(constraints=[], tie_breakers=["enrolled_at", "buyer_id"]))
    async with Router.open(database) as router:
        assert (await router.route(await make_lead(connection, offer))).buyer_id == buyer


async def test_unknown_status_is_paused_and_an_unknown_balance_is_below_every_floor(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    await make_policy(connection)
    paused = [await make_candidate(connection, offer, status=status) for status in (None, "Active", "on hold", "")]
    poor = [await make_candidate(connection, offer, balance=value, min_balance=0) for value in (None, "NaN", -1)]
    inactive = await make_candidate(connection, offer, enrollment={"is_active": None})
    good = await make_candidate(connection, offer, balance=None)
    async with Router.open(database) as router:
        explanation = await router.explain(await make_lead(connection, offer))
    assert [["buyer_paused"]] * 4 == [codes(explanation, buyer) for buyer in paused]
    assert [["below_min_balance"]] * 3 == [codes(explanation, buyer) for buyer in poor]
    assert ["enrollment_inactive"] == codes(explanation, inactive)
    assert [good] == [ranked.buyer_id for ranked in explanation.eligible]


async def test_bad_area_covers_nothing(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    good = await make_candidate(connection, offer)
    await make_policy(connection)

    async def add(over: dict[str, Any]) -> UUID:
        buyer = await make_buyer(connection)
        await enroll(connection, buyer, offer)
        row = {"id": uuid4(), "buyer_id": buyer, "market_id": MARKET, "scope": "market", "is_active": True, **over}
        await insert(connection, "buyer_service_areas", row)
        return buyer

    bad = [await add(over) for over in AREAS.values()]
    async with Router.open(database) as router:
        bad += [await add(over) for over in AREAS.values()]
        explanation = await router.explain(await make_lead(connection, offer))
        assert [good] == [ranked.buyer_id for ranked in explanation.eligible]
        assert {"not_in_service_area"} == {code for buyer in bad for code in codes(explanation, buyer)}
        await connection.execute("update buyer_service_areas set scope = 'market', value = null, is_active = true")
        await connection.execute("update buyer_service_areas set market_id = $1 where buyer_id is not null", MARKET)
        mended = await router.explain(await make_lead(connection, offer))
        assert len(bad) - 2 + 1 == len(mended.eligible)  # all but the two rows without a buyer, and the good one


async def test_area_that_is_a_whole_market_covers_it_whatever_value_stands_beside(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    buyer = await make_buyer(connection)
    await enroll(connection, buyer, offer)
    await make_area(connection, buyer, value="x")
    await make_policy(connection)
    async with Router.open(database) as router:
        assert (await router.route(await make_lead(connection, offer))).buyer_id == buyer


async def test_area_twice_is_an_area_once_until_both_are_gone(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    buyer = await make_buyer(connection)
    await enroll(connection, buyer, offer)
    await make_policy(connection)
    areas = [
        await make_area(connection, buyer, scope="city", value=value) for value in ("Chicago", " chicago ", "CHICAGO")
    ]
    async with Router.open(database) as router:
        found = []
        for area in areas:
            found.append((await router.route(await make_lead(connection, offer))).outcome)
            await connection.execute("delete from buyer_service_areas where id = $1", area)
        found.append((await router.route(await make_lead(connection, offer))).outcome)
    assert ["routed"] * 3 + ["no_route"] == found


async def test_area_that_was_there_before_its_buyer_counts_when_the_buyer_comes(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    others = [await make_candidate(connection, offer, enrollment={"priority_rank": 2}) for _ in range(3)]
    await make_policy(connection)
    late = uuid4()
    await make_area(connection, late)
    async with Router.open(database) as router:
        assert (await router.route(await make_lead(connection, offer))).buyer_id in others
        await make_buyer(connection, id=late)
        await enroll(connection, late, offer, priority_rank=1)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == late
        assert {} == await router.cache.verify()


async def test_bad_exclusivity_holds_nothing(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    better = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    other = await make_candidate(connection, offer)
    await make_policy(connection)
    for row in EXCLUSIVITIES.values():
        await make_exclusivity(connection, **{"offer_id": offer, "buyer_id": other, **row})
    async with Router.open(database) as router:
        for row in EXCLUSIVITIES.values():
            await make_exclusivity(connection, **{"offer_id": offer, "buyer_id": other, **row})
        outcome = await router.route(await make_lead(connection, offer))
        assert (better, ()) == (outcome.buyer_id, outcome.flags)
        await make_exclusivity(connection, offer, other, valid_from=None, valid_to=None)
        outcome = await router.route(await make_lead(connection, offer))
        assert (other, ("exclusive",)) == (outcome.buyer_id, outcome.flags)


@pytest.mark.parametrize(
    ("start", "end", "holds"),
    [
        (None, None, True),
        ("-infinity", "infinity", True),
        ("-infinity", None, True),
        (None, "-infinity", False),
        ("infinity", None, False),
        ("4000-01-01 BC", "200000-01-01", True),
        ("200000-01-01", None, False),
        ("3000-01-01", "2000-01-01", False),
    ],
)
async def test_exclusivity_of_an_odd_time_holds_when_it_says(
    database: str, connection: asyncpg.Connection, start: str | None, end: str | None, holds: bool
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    better = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    holder = await make_candidate(connection, offer)
    await make_policy(connection)
    add = (
        "insert into offer_exclusivities (offer_id, buyer_id, scope, valid_from, valid_to) "
        "values ($1, $2, 'offer', $3::text::timestamptz, $4::text::timestamptz)"
    )
    expected = holder if holds else better
    await connection.execute(add, offer, holder, start, end)
    async with Router.open(database) as loaded:
        assert (await loaded.route(await make_lead(connection, offer))).buyer_id == expected
        await connection.execute("delete from offer_exclusivities")
        assert (await loaded.route(await make_lead(connection, offer))).buyer_id == better
        await connection.execute(add, offer, holder, start, end)
        assert (await loaded.route(await make_lead(connection, offer))).buyer_id == expected


@pytest.mark.parametrize("name", POLICIES)
async def test_bad_policy_is_invalid_and_no_other_is_taken_in_its_stead(
    database: str, connection: asyncpg.Connection, name: str
) -> None:
    await connection.execute(LOOSE)
    offer, other = await make_offer(connection), await make_offer(connection)
    await make_candidate(connection, offer)
    good = await make_candidate(connection, other)
    await make_policy(connection)
    bad = await make_policy(connection, rules=POLICIES[name], offer_id=offer)
    async with Router.open(database) as router:
        outcome = await router.route(await make_lead(connection, offer))
        assert ("policy_invalid", bad) == (outcome.cause, outcome.policy_id)
        assert (await router.route(await make_lead(connection, other))).buyer_id == good
        (invalid,) = router.status()["invalid_policies"]
        assert bad == invalid["policy_id"]
        assert invalid["problem"]
        await connection.execute("update routing_policies set rules = $1 where id = $2", json.dumps(rules()), bad)
        assert (await router.route(await make_lead(connection, offer))).outcome == "routed"


async def test_policy_of_sql_null_or_without_a_version_is_invalid(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(LOOSE)
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    policy = await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        for change in ("rules = null", "rules = (select rules from good), version = null"):
            await connection.execute("create table if not exists good as select rules from routing_policies")
            await connection.execute(f"update routing_policies set {change}")
            outcome = await router.route(lead)
            assert ("policy_invalid", policy) == (outcome.cause, outcome.policy_id)


async def test_adopted_tables_with_what_json_and_wide_columns_admit_stop_nobody(empty_database: str) -> None:
    async with another(empty_database) as connection:
        await connection.execute(ADOPTED)
        await migrate(empty_database)
        offer = uuid4()
        vertical = uuid4()
        await insert(connection, "offers", {"id": offer, "vertical_id": vertical, "is_active": True})
        huge = 2**63 - 1

        async def add(**over: Any) -> UUID:
            enrollment = over.pop("enrollment", {})
            buyer = {"id": uuid4(), "status": "active", "timezone": "UTC", **over}
            await insert(connection, "buyers", buyer)
            row = {"is_active": True, "priority_rank": 1, "weight": 1, **enrollment}
            await insert(connection, "buyer_offers", {"buyer_id": buyer["id"], "offer_id": offer, **row})
            await make_area(connection, buyer["id"])
            return buyer["id"]

        documents = [
            r'{"weekly": {}, "\u0000": 1}',
            r'"\ud800"',
            "1e999999",
            "{}",
            '{"weekly": {}, "weekly": 5}',
            "9" * 5_000,
        ]

        async def add_all() -> list[UUID]:
            bad = [await add(acceptance_hours=text) for text in documents]
            return [*bad, await add(timezone="Mars/Olympus", daily_cap=huge), await add(hourly_cap=-huge)]

        at_load = await add_all()
        wide = await add(
            daily_cap=huge,
            hourly_cap=huge,
            sla_response_seconds=huge,
            enrollment={"weight": huge, "daily_cap": huge, "priority_rank": 0},
        )
        last = await add(enrollment={"priority_rank": huge, "weight": 2**62})
        for version, document in ((1, rules(strategy={"kind": "weighted"})), (huge, rules())):
            row = {"id": uuid4(), "version": version, "is_active": True, "rules": json.dumps(document)}
            await insert(connection, "routing_policies", row)
        broken = {"id": uuid4(), "version": -huge, "is_active": True, "rules": r'{"strategy": "\ud800\u0000"}'}
        await insert(connection, "routing_policies", {**broken, "market_id": uuid4()})
        leads = [await make_lead(connection, offer, vertical_id=vertical) for _ in range(3)]
        async with Router.open(empty_database) as router:
            outcome = await router.route(leads[0])
            assert (wide, huge) == (outcome.buyer_id, outcome.policy_version)
            by_feed = await add_all()
            await connection.execute("update buyers set status = 'paused' where id = $1", wide)
            explanation = await router.explain(leads[1])
            assert [last] == [ranked.buyer_id for ranked in explanation.eligible]
            assert {"invalid_configuration"} == {
                code for buyer in (*at_load, *by_feed) for code in codes(explanation, buyer)
            }
            assert (await router.route(leads[1])).buyer_id == last
            await connection.execute("delete from routing_policies where version = $1", huge)
            assert (await router.route(leads[2])).buyer_id == last
            assert ["already_routed"] * 3 == kinds(await router.route_many(leads))
            await follows(router, connection)
        assert [] == await violations(connection)


async def test_lead_with_odd_text_is_routed_and_recorded_as_it_is(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_buyer(connection)
    await enroll(connection, buyer, offer)
    await make_area(connection, buyer, scope="city", value="Straße ﬁn")
    await make_policy(connection)
    texts = ["STRASSE FIN", " strasse \u2003 fin\n", "Straße ﬁn"]
    leads = [await make_lead(connection, offer, city=city, postal_code="'; drop table leads; --") for city in texts]
    blank = await make_lead(connection, offer, city="\u00a0", postal_code="🏠" * 300)
    async with Router.open(database) as router:
        assert ["routed"] * 3 + ["no_route"] == kinds(await router.route_many([*leads, blank]))
    assert [] == await violations(connection)


# databases that the router cannot work with: one line that says what to do


async def says(dsn: str, error: type[PointsmanError]) -> str:
    """The one line with which opening a router on `dsn` fails."""
    with pytest.raises(error) as caught:
        async with Router.open(dsn, timeout=5):
            pass
    text = str(caught.value)
    assert text
    assert "\n" not in text
    return text


async def test_address_that_nobody_answers_is_the_databases_absence(database: str, unused_tcp_port: int) -> None:
    port = unused_tcp_port
    assert "cannot be reached" in await says(f"postgresql://postgres@127.0.0.1:{port}/x", StoreUnavailable)
    await says("postgresql://postgres@no-such-host.invalid/x", StoreUnavailable)


@pytest.mark.parametrize(
    "address",
    [
        "nonsense",
        "http://127.0.0.1/x",
        "postgresql://h:port/x",
        "postgresql://h:99999999/x",
        "postgresql:///x?sslmode=never",
    ],
)
async def test_address_that_cannot_be_read_is_unfit_in_one_line(address: str) -> None:
    await says(address, PointsmanError)


async def test_wrong_database_user_or_password_is_unfit_in_one_line(database: str) -> None:
    parts = urlsplit(database)
    assert "nowhere" in await says(parts._replace(path="/nowhere").geturl(), DatabaseUnfit)
    netloc = f"stranger:secret@{parts.hostname}:{parts.port}"
    assert "secret" not in await says(parts._replace(netloc=netloc).geturl(), DatabaseUnfit)


async def test_database_without_our_tables_says_to_migrate(empty_database: str) -> None:
    assert "pointsman migrate" in await says(empty_database, DatabaseUnfit)
    async with another(empty_database) as connection:
        await connection.execute(ADOPTED)
        assert "pointsman migrate" in await says(empty_database, DatabaseUnfit)
        await connection.execute("create schema pointsman")
        assert "pointsman migrate" in await says(empty_database, DatabaseUnfit)


async def test_older_schema_says_to_migrate(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute("delete from pointsman.migration where version > 1")
    assert "pointsman migrate" in await says(database, DatabaseUnfit)
    await connection.execute("delete from pointsman.migration")
    assert "pointsman migrate" in await says(database, DatabaseUnfit)


@pytest.mark.parametrize("lacks", ["select on leads", "execute on all functions", "usage on schema pointsman"])
async def test_missing_privilege_is_named_in_one_line(
    database: str, connection: asyncpg.Connection, lacks: str
) -> None:
    role = f"pointsman_test_{uuid4().hex[:12]}"
    what = f"{lacks} in schema pointsman" if "functions" in lacks else lacks
    parts = urlsplit(database)
    await connection.execute(f"create role {role} login password 'x'")
    try:
        await connection.execute(
            f"grant usage on schema pointsman to {role}; grant all on all tables in schema public, pointsman to {role};"
            f"grant usage on all sequences in schema pointsman to {role};"
            f"grant execute on all functions in schema pointsman to {role}"
        )
        dsn = parts._replace(netloc=f"{role}:x@{parts.hostname}:{parts.port}").geturl()
        async with Router.open(dsn):
            pass
        await connection.execute(f"revoke {what} from {role}")
        assert "permission denied" in await says(dsn, DatabaseUnfit)
    finally:
        await connection.execute(f"drop owned by {role}; drop role {role}")

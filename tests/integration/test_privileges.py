"""The least-privilege role: the service runs whole with the grants that `migrate` prints, and misses each of them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import PointsmanError, Router
from pointsman import router as router_module
from pointsman.errors import DatabaseUnfit
from pointsman.migrate import grants, migrate, remove
from tests.builders import (
    enroll,
    make_area,
    make_buyer,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)
from tests.catalog import catalog
from tests.invariants import violations
from tests.stage import another

READ_BY_TOOLS = {
    f"select on {table}"
    for table in (
        '"public".offers',
        '"public".buyer_offers',
        '"public".buyer_service_areas',
        '"public".offer_exclusivities',
        '"public".routing_policies',
        "pointsman.attachment",
    )
}
"""What the contract lets the role read, and only the command line does: the router has the views of these tables."""


class Grant(NamedTuple):
    """One privilege on one object, as the words between `grant` and `to`."""

    privilege: str
    kind: str
    thing: str

    @property
    def words(self) -> str:
        return f"{self.privilege} on {self.kind} {self.thing}".replace("  ", " ")


def single_grants(statements: str) -> list[Grant]:
    """Each privilege of `grants` by itself."""
    found = []
    for line in statements.splitlines():
        match = re.fullmatch(r"grant (.+) on (?:(schema|sequence|function) )?(.+) to .+;", line)
        assert match is not None, line
        for privilege in re.split(r", (?![^(]*\))", match[1]):
            found += [Grant(privilege, match[2] or "", thing) for thing in match[3].split(", ")]
    return found


@pytest.fixture
async def service(database: str, connection: asyncpg.Connection) -> AsyncIterator[tuple[str, str]]:
    """A role with the grants, and the database's address for it."""
    role = f"service_{uuid4().hex[:8]}"
    await connection.execute(f"create role {role} login password 'secret'")
    try:
        await connection.execute(grants(role))
        parts = urlsplit(database)
        yield role, parts._replace(netloc=f"{role}:secret@{parts.hostname}:{parts.port}").geturl()
    finally:
        await connection.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where usename = '{role}'")
        await connection.execute(f"drop owned by {role}; drop role {role}")


async def make_scene(connection: asyncpg.Connection) -> list[UUID]:
    """Offers of every strategy, caps of every kind, an exclusivity; returns the offers."""
    offers = []
    buyers = [await make_buyer(connection, hourly_cap=900, daily_cap=900, min_balance=0) for _ in range(3)]
    broke = await make_buyer(connection, balance=-3, min_balance=5)
    for buyer in (*buyers, broke):
        await make_area(connection, buyer)
    for strategy in ("priority", "rotation", "weighted"):
        offer = await make_offer(connection)
        await make_policy(connection, offer_id=offer, rules=rules(strategy={"kind": strategy}))
        for buyer in (*buyers, broke):
            await enroll(connection, buyer, offer, hourly_cap=900, daily_cap=900)
        offers.append(offer)
    await make_exclusivity(connection, offers[0], buyers[0])
    return offers


async def everything(dsn: str, connection: asyncpg.Connection, offers: list[UUID]) -> None:
    """All that the service does with a database; raises what stands in the way."""
    first = await make_lead(connection, offers[1])
    async with Router.open(dsn) as router:
        for offer in offers:
            answers = await router.route_many([await make_lead(connection, offer) for _ in range(2)])
            for answer in answers:
                if isinstance(answer, PointsmanError):
                    raise answer
        await router.explain(first)
        assigned = await router.route(first)
        assert assigned.decision_id is not None
        await router.explain(first)
        await router.explain_decision(assigned.decision_id)
        await router.decisions(first)
        await router.decision(assigned.decision_id)
        async with Router.open(dsn) as rival:
            await rival.route(await make_lead(connection, offers[0]))
        await router.route(await make_lead(connection, offers[0]))  # on usage that is not what it is believed to be
        await router.route(await make_lead(connection, None))
        await router.cache.verify()
        router_module.PLAIN_TRIES, before = 0, router_module.PLAIN_TRIES
        try:
            await router.route(await make_lead(connection, offers[1]))
        finally:
            router_module.PLAIN_TRIES = before
        await make_buyer(connection)
        lead = await make_lead(connection, offers[1])
        caller = await asyncpg.connect(dsn)
        try:
            async with caller.transaction():
                await router.route(lead, connection=caller)
        finally:
            await caller.close()


async def fault(dsn: str, connection: asyncpg.Connection, offers: list[UUID]) -> str | None:
    """What keeps the service from doing everything, None if nothing does."""
    try:
        await everything(dsn, connection, offers)
    except DatabaseUnfit as error:
        return str(error)
    return None


async def test_service_runs_whole_with_the_grants_that_migrate_prints(
    connection: asyncpg.Connection, service: tuple[str, str]
) -> None:
    await everything(service[1], connection, await make_scene(connection))
    assert [] == await violations(connection)


async def test_each_grant_that_is_missing_is_one_clear_error(
    connection: asyncpg.Connection, service: tuple[str, str]
) -> None:
    role, dsn = service
    offers = await make_scene(connection)
    not_missed = []
    for grant in single_grants(grants(role)):
        if grant.thing == '"public"':
            continue  # everybody has it
        await connection.execute(f"revoke {grant.words} from {role}")
        error = await fault(dsn, connection, offers)
        if error is None:
            not_missed.append(grant.words)
        else:
            assert re.fullmatch(r"permission denied for .*; check the database's address and privileges, .*", error)
        await connection.execute(f"grant {grant.words} to {role}")
    assert READ_BY_TOOLS == set(not_missed)


@pytest.mark.parametrize(
    "schema", ['"; drop table buyers; --', "$$; select 1/0; $$ 'x' \\0024 \"", "%s {} $1 @host@ 🐍"]
)
async def test_hostile_name_of_the_hosts_schema_is_a_name_and_nothing_else(empty_database: str, schema: str) -> None:
    async with another(empty_database) as connection:
        place, name = await connection.fetchrow("select quote_ident($1), quote_ident(current_database())", schema)
        await connection.execute(f"create schema {place}; set search_path = {place}")
        await connection.execute(f"alter database {name} set search_path = {place}")
        before = await catalog(empty_database)
        done = await migrate(empty_database, with_host_tables=True)
        assert schema == done.host_schema
        await connection.execute("begin; " + done.grants.replace('"pointsman"', "public") + " rollback")
        offers = await make_scene(connection)
        await everything(empty_database, connection, offers)
        assert [] == await violations(connection)
        await connection.execute(
            "drop table leads, routing_policies, offer_exclusivities, buyer_service_areas,"
            " buyer_offers, buyers, offers cascade; drop extension btree_gist"
        )
    await remove(empty_database)
    assert before == await catalog(empty_database)


async def test_hostile_names_and_values_are_values_and_nothing_else(
    database: str, connection: asyncpg.Connection
) -> None:
    nasty = "'; drop table leads; -- \" $1 \\ %s {} 🐍"
    offer = await make_offer(connection, name=nasty)
    buyer = await make_buyer(connection, name=nasty)
    await make_area(connection, buyer, scope="city", value=nasty)
    await enroll(connection, buyer, offer)
    await make_policy(connection, name=nasty, rules=rules(strategy={"kind": "weighted", "salt": nasty}))
    lead = await make_lead(connection, offer, city=nasty, postal_code=nasty)
    assert grants(nasty).count('"\'; drop table leads; -- "" ') == len(grants("x").splitlines())
    async with Router.open(database) as router:
        assert buyer == (await router.route(lead)).buyer_id
        assert nasty == (await router.decisions(lead))[0].lead.city
    assert [] == await violations(connection)

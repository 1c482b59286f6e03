"""The demo: what it claims is so, and it touches nothing that it did not make."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
from rich.console import Console

from pointsman import demo, world
from pointsman.demo import MayNotCreate, NotTheDemos, address
from pointsman.errors import Busy


def console() -> Console:
    return Console(file=io.StringIO(), width=120)


@pytest.fixture
async def name(monkeypatch: pytest.MonkeyPatch, empty_database: str) -> AsyncIterator[str]:
    """A database name of the test's own, so that no demo of whoever runs the suite is in the way."""
    own = f"pointsman_demo_{uuid4().hex[:12]}"
    monkeypatch.setattr(demo, "DATABASE", own)
    yield own
    await execute(empty_database, f"drop database if exists {own} with (force)")


async def execute(dsn: str, sql: str) -> Any:
    connection = await asyncpg.connect(dsn)
    try:
        return await (connection.fetch(sql) if sql.startswith("select") else connection.execute(sql))
    finally:
        await connection.close(timeout=5)


async def test_the_demo_shows_what_it_claims_and_can_run_again(empty_database: str, name: str) -> None:
    result = await demo.run(empty_database, 80, 3, console())
    json.dumps(result)
    assert result["leads"] == 80
    assert sum(result["outcomes"].values()) == 80 + 50
    assert result["outcomes"]["routed"] > 60
    assert sum(result["causes"].values()) == result["outcomes"].get("no_route", 0)
    assert 0 < result["p50_ms"] <= result["p95_ms"] <= result["p99_ms"]
    assert 1 < result["statements_per_decision"] < 3
    assert result["at_once"]["statements_per_decision"] < 1
    assert result["same_lead"] == {"already_routed": 9, "routed": 1}
    assert result["same_lead_assignments"] == len(result["same_lead_buyers"]) == 1
    assert result["caps_exceeded"] == 0
    assert result["caps_checked"] > 0
    _explains(result["explanation"])
    _pauses(result)
    routed = await execute(address(empty_database, name), "select from leads where buyer_id is not null")
    assert len(routed) >= result["outcomes"]["routed"] + 3
    _prints(result)

    again = await demo.run(address(empty_database, name), 1, 3, console())
    assert again["explanation"]["lead"]


def _explains(told: Any) -> None:
    assert told["outcome"]["outcome"] == "routed"
    assert told["eligible"][0]["buyer_id"] == told["outcome"]["buyer_id"]
    assert len(told["eligible"]) > 2
    kinds = {reason["code"] for buyer in told["excluded"] for reason in buyer["reasons"]}
    assert len(kinds) > 2
    assert all(entry["sentences"] and entry["name"] for entry in told["excluded"])


def _pauses(result: Any) -> None:
    pause = result["pause"]
    assert pause["buyer_id"] == result["explanation"]["outcome"]["buyer_id"]
    assert pause["took_effect"]
    assert pause["went_to"] not in ("nobody", pause["buyer"])
    assert pause["would_have_gone_to"] == pause["buyer"]
    assert "is paused" in pause["why"]
    assert 0 < pause["commit_to_decision_ms"] < 10_000


def _prints(result: Any) -> None:
    printed = console()
    demo.show(printed, result)
    text = printed.file.getvalue()  # type: ignore[attr-defined]
    for words in ("p95", "120", "9 already_routed", "0 exceeded", result["pause"]["went_to"], "runners-up"):
        assert words in text


async def test_a_database_of_that_name_that_the_demo_did_not_make_is_not_touched(
    empty_database: str, name: str
) -> None:
    await execute(empty_database, f"create database {name}")
    await execute(address(empty_database, name), "create table precious ()")
    with pytest.raises(NotTheDemos, match=name):
        await demo.run(empty_database, 1, 1, console())
    await execute(address(empty_database, name), "select from precious")


async def test_a_role_that_may_not_create_databases_is_told_so(empty_database: str, name: str) -> None:
    role = f"role_{uuid4().hex[:12]}"
    await execute(empty_database, f"create role {role} login password 'poor'")
    try:
        host = urlsplit(empty_database).netloc.rpartition("@")[2]
        with pytest.raises(MayNotCreate, match="permission denied to create database"):
            await demo.run(f"postgresql://{role}:poor@{host}{urlsplit(empty_database).path}", 1, 1, console())
    finally:
        await execute(empty_database, f"drop role {role}")


async def test_two_demos_at_once_do_not_pull_the_rug_from_under_each_other(empty_database: str, name: str) -> None:
    connection = await asyncpg.connect(empty_database)
    try:
        await connection.execute(f"select pg_advisory_lock({demo.DEMO_LOCK})")
        with pytest.raises(Busy, match="another demo"):
            await demo.run(empty_database, 1, 1, console())
    finally:
        await connection.close(timeout=5)


def test_a_cap_that_is_exceeded_would_be_seen() -> None:
    small = world.build(seed=1, buyers=30, areas=60)
    row = next(row for row in small.buyer_offers if row.hourly_cap)
    assert row.hourly_cap
    at = datetime(2026, 3, 4, 12, 30, tzinfo=UTC)
    leads: Any = [(row.buyer_id, row.offer_id, at)] * (row.hourly_cap + 1)
    counted = demo._caps(small, leads)
    assert (row.hourly_cap + 1, row.hourly_cap) in counted.values()
    later: Any = [(row.buyer_id, row.offer_id, at + timedelta(hours=hour)) for hour in range(2)]
    assert (2, row.hourly_cap) not in demo._caps(small, later).values()


def test_the_address_of_another_database_keeps_everything_else() -> None:
    assert address("postgresql://me:it@host:1/old?ssl=on", "new") == "postgresql://me:it@host:1/new?ssl=on"
    assert address("postgresql:///old?host=/run", "new") == "postgresql:///new?host=/run"


async def test_a_running_demo_keeps_no_configuration_of_the_server_s_own_database_from_committing(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute(f"select pg_advisory_lock({demo.DEMO_LOCK})")
    await execute(database, "set lock_timeout = '1s'; insert into offers (vertical_id) values (gen_random_uuid())")
    assert 1 == await connection.fetchval("select count(*) from offers")

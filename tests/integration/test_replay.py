"""Replay: what is untouched is proved, what was tampered with is found, what cannot be judged is said."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router, replay
from pointsman.cache.indexes import TABLES
from pointsman.errors import DecisionNotFound, HistoryHole, LeadNotFound
from pointsman.migrate import migrate, remove
from pointsman.replay import Report
from tests.builders import (
    make_area,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)

CAPPED = {"daily_cap": 2}


@pytest.fixture
async def routed(database: str, connection: asyncpg.Connection) -> AsyncIterator[list[UUID]]:
    """Leads that were routed while the configuration changed: by rotation, under caps, under an exclusivity."""
    offer, held = await make_offer(connection), await make_offer(connection)
    buyers = [await make_candidate(connection, offer, enrollment=CAPPED) for _ in range(3)]
    await make_policy(connection, rules=rules(strategy={"kind": "rotation"}))
    holder = await make_candidate(connection, held, hourly_cap=1)
    await make_exclusivity(connection, held, holder)
    leads = []
    async with Router.open(database) as router:
        for step in range(8):
            leads.append(await make_lead(connection, offer))
            leads.append(await make_lead(connection, held))
            await router.route_many(leads[-2:])
            if step == 2:
                await connection.execute("update buyers set status = 'paused' where id = $1", buyers[0])
            if step == 4:
                await connection.execute("delete from buyer_offers where buyer_id = $1", buyers[1])
    return leads


async def tamper(connection: asyncpg.Connection, statement: str, *arguments: Any) -> None:
    assert await connection.execute(statement, *arguments) not in ("UPDATE 0", "DELETE 0")


def found(report: Report) -> list[tuple[int, bool, set[str]]]:
    """Decision, whether its row is intact, and the fields that differ."""
    return [
        (difference.decision_id, difference.is_intact, {fact.field.split(":")[0] for fact in difference.facts})
        for difference in report.same_version.differences
    ]


async def test_untouched_history_is_all_equal(database: str, routed: list[UUID]) -> None:
    report = await replay.replay(database)
    assert (len(routed), 0, 0) == (report.same_version.equal, report.same_version.different, report.pruned)
    assert 0 == report.other_version.equal


async def test_two_processes_find_what_one_finds(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await tamper(connection, "update pointsman.decisions set city = 'Peoria' where id = 3")
    seen: list[tuple[int, int]] = []
    report = await replay.replay(database, jobs=2, progress=lambda done, total: seen.append((done, total)))
    assert [(3, False, {"digest"})] == found(report)
    assert (len(routed), len(routed)) == seen[-1]
    assert len(routed) == report.decisions


@pytest.mark.parametrize(
    "change",
    [
        "state = state || '\\x000000000001'",
        "state = set_byte(state, length(state) - 1, 255)",
        "state = '\\x00'",
        "postal_code = '60615'",
        "city = null",
        "market_id = gen_random_uuid()",
        "decided_at = decided_at + interval '1 microsecond'",
        "decided_at = 'infinity'",
        "decided_at = '-infinity'",
        "digest = substring(sha256(digest) for 16)",
        "policy_version = 9",
        "flags = '{exclusive}'",
        "lead_id = gen_random_uuid()",
    ],
)
async def test_corrupted_row_is_found(
    database: str, connection: asyncpg.Connection, routed: list[UUID], change: str
) -> None:
    await tamper(connection, f"update pointsman.decisions set {change} where id = 1")
    (difference,) = (await replay.replay(database)).same_version.differences
    assert (1, False) == (difference.decision_id, difference.is_intact)


async def test_changed_outcome_is_found(database: str, connection: asyncpg.Connection, routed: list[UUID]) -> None:
    await tamper(
        connection,
        "update pointsman.decisions set outcome = 'no_route', cause = 'no_policy', buyer_id = null where id = 1",
    )
    (difference,) = (await replay.replay(database)).same_version.differences
    assert {"outcome", "cause", "buyer_id", "digest"} == {fact.field for fact in difference.facts}


async def test_swapped_buyers_are_found(database: str, connection: asyncpg.Connection, routed: list[UUID]) -> None:
    one, two = await connection.fetch(
        "select id, buyer_id from pointsman.decisions where lead_id = any($1::uuid[]) order by id",
        [routed[0], routed[2]],
    )
    assert one["buyer_id"] != two["buyer_id"]
    await tamper(connection, "update pointsman.decisions set buyer_id = $2 where id = $1", one["id"], two["buyer_id"])
    await tamper(connection, "update pointsman.decisions set buyer_id = $2 where id = $1", two["id"], one["buyer_id"])
    report = found(await replay.replay(database))
    assert {one["id"], two["id"]} == {number for number, _, fields in report if "buyer_id" in fields}


async def test_forged_row_with_a_digest_that_fits_is_found_by_what_came_before(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, enrollment=CAPPED)
    await make_policy(connection)
    async with Router.open(database) as router:
        for _ in range(3):
            await router.route(await make_lead(connection, offer))
    # as if the last lead's decision was to be explained by one more lead than there was
    await tamper(connection, "delete from pointsman.decisions where id = 1")
    report = await replay.replay(database)
    assert [(2, True, {"used"}), (3, True, {"used"})] == found(report)
    fact = report.same_version.differences[0].facts[0]
    assert (f"used:{buyer}:enrollment:day", 1, 0) == fact
    assert [(2, True, {"used"})] == found(await replay.replay(database, decision_id=2))


@pytest.mark.parametrize(
    "change",
    [
        "update pointsman.config_log set row = row || '{\"status\": \"paused\"}' where rel = 'buyers' and op = 'i'",
        "update pointsman.config_log set row = row || '{\"is_active\": false}' where rel = 'offers' and op = 'i'",
        "update pointsman.config_log set row = row || '{\"daily_cap\": 0}' where rel = 'buyer_offers' and op = 'i'",
        "update pointsman.config_log set row = row || '{\"rules\": \"{}\"}' where rel = 'routing_policies'",
    ],
)
async def test_changed_configuration_that_alters_decisions_is_found(
    database: str, connection: asyncpg.Connection, routed: list[UUID], change: str
) -> None:
    await tamper(connection, change)
    report = await replay.replay(database)
    assert report.same_version.different > 0
    assert all(difference.is_intact for difference in report.same_version.differences)


async def test_decision_of_another_engine_is_reported_apart(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await tamper(connection, "update pointsman.decisions set engine_version = '0.0.7' where id = 2")
    await tamper(connection, "update pointsman.decisions set tzdata_version = '1999a' where id = 4")
    report = await replay.replay(database)
    assert (2, 0) == (report.other_version.equal, report.other_version.different)
    assert (len(routed) - 2, 0) == (report.same_version.equal, report.same_version.different)


async def test_tampered_row_does_not_hide_behind_another_version(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await tamper(connection, "update pointsman.decisions set engine_version = '0.0.7', city = 'Peoria' where id = 2")
    assert [(2, False, {"digest"})] == found(await replay.replay(database))


async def test_record_of_a_newer_release_in_a_form_of_its_own_is_named(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    form = "engine_version = '99.0.0', state = '\\xff', digest = substring(sha256(digest) for 16)"
    await tamper(connection, f"update pointsman.decisions set {form} where id = 2")
    report = await replay.replay(database)
    newer = replay.newer(report) or pytest.fail("not named")
    assert ("99.0.0", 2) == (newer.engine_version, newer.decision_id)
    assert 0 == report.same_version.different


async def test_newer_release_that_decides_otherwise_is_named(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await tamper(connection, "update pointsman.decisions set engine_version = '99.0.0'")
    assert replay.newer(await replay.replay(database)) is None
    await tamper(
        connection, "update pointsman.config_log set row = row || '{\"status\": \"paused\"}' where rel = 'buyers'"
    )
    report = await replay.replay(database)
    assert "99.0.0" == (replay.newer(report) or pytest.fail("not named")).engine_version
    assert 0 == report.same_version.different


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("delete from pointsman.config_commit where version = {version}", "have lost their commit"),
        (
            "with c as (delete from pointsman.config_commit where version = {version} returning change_set)"
            " delete from pointsman.config_log l using c where l.change_set = c.change_set",
            "version {version}, which decision",
        ),
        (
            "delete from pointsman.config_log where change_set ="
            " (select change_set from pointsman.config_commit where version = {version})",
            "what version {version} changed is missing",
        ),
        ("update pointsman.config_commit set baseline = false", "has no baseline"),
    ],
)
async def test_history_with_a_hole_is_one_clear_sentence(
    database: str, connection: asyncpg.Connection, routed: list[UUID], damage: str, said: str
) -> None:
    version = await connection.fetchval("select config_version from pointsman.decisions order by id limit 1")
    await tamper(connection, damage.format(version=version))
    with pytest.raises(HistoryHole, match=said.format(version=version)) as caught:
        await replay.replay(database)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(
    ("tables", "said"),
    [(TABLES, "the policy `{policy}`"), (["buyers"], "the buyer `{buyer}`"), (["buyer_offers"], "the buyer `{buyer}`")],
    ids=["all", "buyers", "buyer_offers"],
)
async def test_baseline_that_lost_what_a_decision_names_is_a_hole(
    database: str, connection: asyncpg.Connection, tables: Sequence[str], said: str, jobs: int
) -> None:
    offer = await make_offer(connection)
    named = {"buyer": await make_candidate(connection, offer), "policy": await make_policy(connection)}
    await remove(database)
    await migrate(database)
    async with Router.open(database) as router:
        await router.route(await make_lead(connection, offer))
    await tamper(connection, "delete from pointsman.config_log where op = 'b' and rel = any($1)", tables)
    with pytest.raises(HistoryHole, match=f"{said.format(**named)}, which decision 1 was made with, is missing"):
        await replay.replay(database, jobs=jobs)


async def test_config_version_that_never_was_is_a_difference(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await tamper(connection, "update pointsman.decisions set config_version = 1000 where id = 5")
    await tamper(connection, "update pointsman.decisions set config_version = -1 where id = 6")
    assert [(5, False, {"config_version"}), (6, False, {"config_version"})] == found(await replay.replay(database))


async def test_decision_that_does_not_exist_is_not_found(database: str, routed: list[UUID]) -> None:
    with pytest.raises(DecisionNotFound, match="`4711`"):
        await replay.replay(database, decision_id=4711)
    with pytest.raises(LeadNotFound):
        await replay.replay(database, lead_id=uuid4())


async def test_replay_of_a_part(database: str, connection: asyncpg.Connection, routed: list[UUID]) -> None:
    middle = await connection.fetchval("select decided_at from pointsman.decisions where id = 9")
    assert 1 == (await replay.replay(database, decision_id=3)).same_version.equal
    assert 1 == (await replay.replay(database, lead_id=routed[4])).same_version.equal
    assert 5 == (await replay.replay(database, sample=5)).same_version.equal
    younger = await connection.fetchval("select count(*) from pointsman.decisions where decided_at >= $1", middle)
    assert younger == (await replay.replay(database, since=middle)).same_version.equal
    assert 0 == (await replay.replay(database, since=middle + timedelta(days=1))).decisions


async def test_emptied_table_is_followed(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    async with Router.open(database) as router:
        await router.route(await make_lead(connection, offer))
        await connection.execute("truncate buyer_service_areas")
        nobody = await router.route(await make_lead(connection, offer))
        await make_area(connection, buyer)
        await router.route(await make_lead(connection, offer))
    assert "no_route" == nobody.outcome
    assert (3, 0) == ((await replay.replay(database)).same_version.equal, 0)


async def test_nothing_decided_yet_is_nothing_to_prove(database: str) -> None:
    assert 0 == (await replay.replay(database)).decisions
    assert 0 == (await replay.replay(database, jobs=2)).decisions


async def test_history_goes_on_over_a_later_baseline(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    first, second = [await make_candidate(connection, offer, enrollment={"priority_rank": rank}) for rank in (1, 2)]
    await make_policy(connection)
    async with Router.open(database) as router:
        assert first == (await router.route(await make_lead(connection, offer))).buyer_id
    # what happens while a table is not attached is in no log, only in the baseline that attaches it again
    await connection.execute("drop trigger pointsman_update on buyers")
    await connection.execute("update buyers set status = 'paused' where id = $1", first)
    await connection.execute("update buyers set hourly_cap = 1 where id = $1", second)
    assert (await migrate(database)).baseline is not None
    async with Router.open(database) as router:
        for _ in range(2):
            await router.route(await make_lead(connection, offer))
    outcomes = await connection.fetch("select outcome, buyer_id from pointsman.decisions where id > 1 order by id")
    assert [("routed", second), ("no_route", None)] == [tuple(row) for row in outcomes]
    for jobs in (1, 2):
        report = await replay.replay(database, jobs=jobs)
        assert (3, 0) == (report.same_version.equal, report.same_version.different)

"""The commands that prove and try out: what they print, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from tests.acceptance.test_cli import assert_cannot_run, run
from tests.builders import make_candidate, make_lead, make_offer, make_policy, rules


@pytest.fixture
async def routed(database: str, connection: asyncpg.Connection) -> list[UUID]:
    """Three leads that one buyer has got."""
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(3)]
    async with Router.open(database) as router:
        await router.route_many(leads)
    return leads


async def test_replay_of_an_untouched_history_ends_with_0(database: str, routed: list[UUID]) -> None:
    ran = await run("replay", database=database)
    assert (0, "") == (ran.code, ran.err)
    assert "3 decisions decided again" in ran.out
    assert "3 equal, 0 different" in ran.out


async def test_replay_that_differs_ends_with_1(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await connection.execute("update pointsman.decisions set city = 'Peoria' where id = 2")
    ran = await run("replay", "--json", database=database)
    assert 1 == ran.code
    assert (3, 2, 1, 0) == tuple(ran.json[key] for key in ("decisions", "equal", "different", "pruned"))
    (difference,) = ran.json["differences"]
    assert (2, str(routed[1]), False) == tuple(difference[key] for key in ("decision_id", "lead_id", "is_intact"))
    assert ["digest"] == [fact["field"] for fact in difference["facts"]]
    assert 1 == (await run("replay", "--lead", routed[1], database=database)).code
    assert 0 == (await run("replay", "--lead", routed[0], database=database)).code
    shown = await run("replay", "--since", "1h", database=database)
    assert f"decision 2, lead {routed[1]}; the row was changed after it was written" in shown.out


async def test_replay_that_cannot_run_ends_with_2(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    assert_cannot_run(await run("replay", "--decision", 99, database=database), "no such decision", "99")
    assert_cannot_run(await run("replay", "--lead", uuid4(), database=database), "no decision of the lead")
    assert_cannot_run(await run("replay", "--since", "yesterday", database=database), "no instant", "yesterday")
    await connection.execute("update pointsman.config_commit set baseline = false")
    assert_cannot_run(await run("replay", database=database), "no baseline")


async def test_replay_of_a_newer_release_that_decides_otherwise_ends_with_2(
    database: str, connection: asyncpg.Connection, routed: list[UUID]
) -> None:
    await connection.execute("update pointsman.decisions set engine_version = '99.1'")
    assert 0 == (await run("replay", database=database)).code
    await connection.execute(
        "update pointsman.config_log set row = row || '{\"status\": \"paused\"}' where rel = 'buyers'"
    )
    ran = await run("replay", database=database)
    assert (2, 1) == (ran.code, ran.err.count("\n"))
    assert "newer release 99.1" in ran.err


async def test_prune_says_what_went(database: str, connection: asyncpg.Connection, routed: list[UUID]) -> None:
    assert_cannot_run(await run("prune", "--days", 2, database=database), "last 3 days are never removed")
    await connection.execute("update pointsman.decisions set decided_at = decided_at - interval '8 days' where id < 3")
    ran = await run("prune", "--days", 7, "--json", database=database)
    assert (0, 2, None) == (ran.code, ran.json["decisions"], ran.json["horizon"])
    assert 1 == await connection.fetchval("select count(*) from pointsman.decisions")
    await connection.execute("update pointsman.config_commit set committed_at = committed_at - interval '8 days'")
    shown = await run("prune", "--days", 7, database=database)
    assert "0 decisions removed" in shown.out
    version = await connection.fetchval("select config_version from pointsman.decisions")
    assert f"history begins with config version {version}" in shown.out
    assert 0 == (await run("replay", database=database)).code


async def test_explain_says_what_would_be(
    database: str, connection: asyncpg.Connection, routed: list[UUID], tmp_path: Path
) -> None:
    draft = tmp_path / "rules.json"
    draft.write_text(json.dumps(rules(strategy={"kind": "rotation"})))
    ran = await run("explain", routed[0], "--policy", draft, "--json", database=database)
    assert (0, "routed", None) == (ran.code, ran.json["outcome"]["outcome"], ran.json["outcome"]["policy_id"])
    await connection.execute("update buyers set status = 'paused'")
    shown = await run("explain", routed[0], "--at", "2026-07-01T09:00Z", database=database)
    assert "needed: to be resumed" in shown.out


async def test_explain_refuses_what_is_no_policy(database: str, routed: list[UUID], tmp_path: Path) -> None:
    draft = tmp_path / "rules.json"
    absent = await run("explain", routed[0], "--policy", draft, database=database)
    assert_cannot_run(absent, "cannot be read", "rules.json")
    for text, said in (
        ("{", "no JSON"),
        ("[]", "no JSON object"),
        ('{"sla": {"mode": "off", "mode": "off"}}', "`mode` stands twice"),
        ("{}", "`strategy` is missing"),
    ):
        draft.write_text(text)
        assert_cannot_run(await run("explain", routed[0], "--policy", draft, database=database), said)
    assert_cannot_run(await run("explain", 1, "--policy", draft, database=database), "ask about a lead")


async def test_past_that_cannot_be_explained_is_one_sentence_and_ends_with_2(
    database: str, connection: asyncpg.Connection, routed: list[UUID], tmp_path: Path
) -> None:
    await connection.execute("update pointsman.decisions set city = 'Peoria' where id = 2")
    assert_cannot_run(await run("explain", 2, database=database), "decision 2 does not come out again")
    assert 0 == (await run("explain", 1, database=database)).code
    await connection.execute(
        "delete from pointsman.config_log where change_set ="
        " (select change_set from pointsman.config_commit order by version desc limit 1)"
    )
    draft = tmp_path / "rules.json"
    draft.write_text(json.dumps(rules()))
    for words in (["explain", routed[0]], ["explain", 1], ["replay"], ["backtest", "--policy", draft]):
        assert_cannot_run(await run(*words, database=database), "the history of the configuration has a hole")
    told = await run("explain", 1, "--json", database=database)
    assert (2, "urn:pointsman:problem:history-hole") == (told.code, told.json["error"]["type"])


async def test_backtest_says_who_gains_and_loses(database: str, routed: list[UUID], tmp_path: Path) -> None:
    draft = tmp_path / "rules.json"
    draft.write_text(json.dumps(rules()))
    same = await run("backtest", "--policy", draft, "--json", database=database)
    assert (0, 3, 0) == (same.code, same.json["leads"], same.json["changed"])
    assert [(3, 3, 0, 0)] == [
        tuple(buyer[key] for key in ("recorded", "drafted", "gained", "lost")) for buyer in same.json["buyers"]
    ]
    draft.write_text(json.dumps(rules(sla={"mode": "require", "max_response_seconds": 9})))
    shown = await run("backtest", "--policy", draft, "--since", "1d", database=database)
    assert "3 leads that somebody got would have gone to nobody: no_eligible_buyers" in shown.out
    draft.write_text("{}")
    assert_cannot_run(await run("backtest", "--policy", draft, database=database), "`strategy` is missing")
    draft.write_text("{")
    assert_cannot_run(await run("backtest", "--policy", draft, database=database), "no JSON")

"""The command line as a process: what it prints, its exit codes, and one line on stderr where it cannot run."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from tests.builders import MARKET, make_candidate, make_lead, make_offer, make_policy
from tests.stage import set_clock


class Ran(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


async def run(*arguments: object, database: str = "postgresql://nobody@127.0.0.1:1/none", **variables: str) -> Ran:
    """`pointsman ARGUMENTS` with settings of its own."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "pointsman", *map(str, arguments)),
        env={**settings, "POINTSMAN_DATABASE_URL": database, "COLUMNS": "140", **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Ran(process.returncode, out.decode(), err.decode())


def assert_cannot_run(ran: Ran, *words: str) -> None:
    assert (ran.code, ran.out, ran.err.count("\n")) == (2, "", 1), ran
    assert ran.err.startswith("pointsman: ")
    for word in words:
        assert word in ran.err


class Scene(NamedTuple):
    """An offer with a policy and one buyer, one paused buyer, and two leads."""

    buyer: UUID
    paused: UUID
    leads: tuple[UUID, UUID]


@pytest.fixture
async def scene(database: str) -> Scene:
    connection = await asyncpg.connect(database)
    try:
        offer = await make_offer(connection)
        await make_policy(connection, offer_id=offer)
        buyer = await make_candidate(connection, offer)
        paused = await make_candidate(connection, offer, status="paused")
        return Scene(buyer, paused, (await make_lead(connection, offer), await make_lead(connection, offer)))
    finally:
        await connection.close()


async def test_route_assigns_and_says_so_for_people_and_programs(database: str, scene: Scene) -> None:
    one, two = scene.leads
    for_people = await run("route", one, database=database)
    for_programs = await run("route", two, "--json", database=database)
    several = await run("route", one, two, "--json", database=database)
    assert (for_people.code, for_programs.code, several.code) == (0, 0, 0)
    assert f"{one}  This lead goes to {scene.buyer}." in for_people.out
    assert (for_programs.json["outcome"], for_programs.json["buyer_id"]) == ("routed", str(scene.buyer))
    assert [entry["outcome"] for entry in several.json] == ["already_routed", "already_routed"]


async def test_an_unknown_lead_is_found_out_and_the_others_are_routed(database: str, scene: Scene) -> None:
    unknown = uuid4()
    ran = await run("route", unknown, scene.leads[0], "--json", database=database)
    assert (ran.code, ran.err.count("\n")) == (1, 1)
    assert str(unknown) in ran.err
    assert [entry.get("outcome") for entry in ran.json] == [None, "routed"]
    assert ran.json[0]["error"]["type"] == "urn:pointsman:problem:lead-not-found"
    explained = await run("explain", unknown, database=database)
    assert_cannot_run(explained, "no such lead")


async def test_explain_draws_the_ranks_and_a_sentence_for_each_other_buyer(database: str, scene: Scene) -> None:
    drawn = await run("explain", scene.leads[0], database=database)
    data = await run("explain", scene.leads[0], "--json", database=database)
    assert (drawn.code, data.code) == (0, 0)
    for text in (str(scene.leads[0]), str(scene.buyer), str(scene.paused), "is paused", "rank"):
        assert text in drawn.out
    assert [entry["buyer_id"] for entry in data.json["eligible"]] == [str(scene.buyer)]
    (excluded,) = data.json["excluded"]
    assert (excluded["buyer_id"], excluded["reasons"]) == (str(scene.paused), [{"code": "buyer_paused"}])
    assert data.json["outcome"]["status"] == "validated"


async def test_explain_tells_a_full_day_on_the_buyers_own_clock(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_policy(connection, offer_id=offer)
    await make_candidate(connection, offer, timezone="America/Chicago", enrollment={"daily_cap": 1})
    first, second = [await make_lead(connection, offer) for _ in range(2)]
    await set_clock(connection, datetime(2026, 7, 2, 1, 47, tzinfo=UTC))
    await run("route", first, database=database)
    await set_clock(connection, datetime(2026, 7, 2, 1, 48, tzinfo=UTC))
    drawn = await run("explain", second, database=database, COLUMNS="200")
    assert "daily cap (1 of 1 since 00:00 America/Chicago; room again at 00:00, in 3 h 12 min)" in drawn.out
    owner = ("check", "--who-owns", "60614", "--offer", offer, "--market", MARKET)
    asked = await run(*owner, database=database, COLUMNS="200")
    assert "daily cap (1 of 1 since 00:00 America/Chicago; room again at 00:00, in 3 h 12 min)" in asked.out


async def test_explain_takes_the_number_of_a_decision(database: str, scene: Scene) -> None:
    outcome = (await run("route", scene.leads[0], "--json", database=database)).json
    explained = await run("explain", outcome["decision_id"], "--json", database=database)
    assert explained.json["outcome"] == outcome
    assert_cannot_run(await run("explain", 999_999, database=database), "no such decision", "999999")


async def test_migrate_can_run_twice_and_prints_the_grants(database: str) -> None:
    again = await run("migrate", database=database)
    data = await run("migrate", "--with-host-tables", "--json", database=database)
    assert (again.code, data.code) == (0, 0)
    assert "grant select" in again.out
    assert (data.json["changed"], data.json["host_schema"], data.json["applied"]) == (False, "public", [])


async def test_migrate_removes_what_is_ours_and_makes_it_again(database: str) -> None:
    assert (await run("migrate", "--remove", "--json", database=database)).json == {"removed": True}
    assert_cannot_run(await run("route", uuid4(), database=database), "pointsman migrate")
    assert (await run("migrate", "--json", database=database)).json["changed"]
    assert_cannot_run(await run("migrate", "--remove", "--with-host-tables", database=database), "exclude each other")


async def test_a_new_key_is_shown_once_and_its_line_holds_only_the_digest() -> None:
    ran = await run("key", "new", "intake", "--scope", "route")
    secret, line = ran.out.splitlines()
    assert ran.code == 0
    assert line == f"POINTSMAN_API_KEYS=intake:route:{hashlib.sha256(secret.encode()).hexdigest()}"
    data = (await run("key", "new", "intake", "--scope", "read", "--json")).json
    assert data["setting"] == f"intake:read:{hashlib.sha256(data['key'].encode()).hexdigest()}"
    assert_cannot_run(await run("key", "new", "in:take", "--scope", "read"), "in:take")


@pytest.mark.parametrize(
    ("database", "word"),
    [
        ("postgresql://nobody@127.0.0.1:1/none", "cannot be reached"),
        ("postgresql://nobody@no-such-host.invalid/none", "cannot be reached"),
        ("mysql://nobody@127.0.0.1/none", "address"),
        ("no address at all", "address"),
    ],
)
@pytest.mark.parametrize(
    "command",
    [("route", UUID(int=1)), ("explain", UUID(int=1)), ("migrate",), ("serve",), ("prune",), ("replay",)],
)
async def test_a_wrong_address_of_the_database_is_one_line(database: str, word: str, command: tuple[Any, ...]) -> None:
    arguments = (*command, "--port", "0") if command == ("serve",) else command
    assert_cannot_run(await run(*arguments, database=database), word)


async def test_a_database_without_the_router_says_what_to_run(database: str) -> None:
    connection = await asyncpg.connect(database)
    await connection.execute("drop schema pointsman cascade; drop table leads")
    await connection.close()
    assert_cannot_run(await run("serve", "--port", "0", database=database), "pointsman migrate")
    assert_cannot_run(await run("migrate", database=database), "table leads is missing")


async def test_a_port_in_use_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_cannot_run(await run("serve", "--port", port), f"127.0.0.1:{port}", "--port")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", ""])
async def test_without_keys_the_service_listens_on_loopback_only(host: str) -> None:
    assert_cannot_run(await run("serve", "--port", "0", "--host", host), "without keys", "pointsman key new")


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "a" * 64])
async def test_a_host_that_is_no_address_is_one_line(host: str) -> None:
    assert_cannot_run(await run("serve", "--port", "0", "--host", host), f"`{host}` is no address")


async def test_a_misspelt_setting_is_named_with_the_nearest_right_one() -> None:
    ran = await run("serve", POINTSMAN_API_KEY="x")
    assert_cannot_run(ran, "`POINTSMAN_API_KEY` is no setting", "`POINTSMAN_API_KEYS`")


async def test_what_is_no_id_is_refused() -> None:
    assert_cannot_run(await run("explain", "lead-7"), "lead-7", "UUID")
    assert_cannot_run(await run("route", UUID(int=1), "lead-7"), "lead-7", "UUID")


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", UUID(int=1), "--at", "999999d"),
        ("replay", "--since", "999999d"),
        ("check", "--who-owns", "60614", "--offer", UUID(int=1), "--at", "999999d"),
    ],
    ids=str,
)
async def test_an_age_before_the_year_1_is_one_line(arguments: tuple[object, ...]) -> None:
    assert_cannot_run(await run(*arguments), "`999999d` is longer ago than the year 1")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("replay", "--decision", "x"), "'--decision'"),
        (("replay", "--jobs", 0), "'--jobs'"),
        (("demo", "--leads"), "'--leads' requires an argument"),
        (("serve", "--port", 65536), "'--port'"),
        (("check", "--level", "loud"), "'loud' is not one of"),
        (("prune", "--weeks", 1), "--weeks"),
        (("backtest",), "'--policy'"),
        (("route",), "'ID...'"),
        (("migrate", "now"), "(now)"),
        (("key", "new", "intake", "--scope", "all"), "'all' is not one of"),
        (("key",), "missing command"),
        (("repla",), "'repla'"),
        (("--jobs", 2), "--jobs"),
    ],
    ids=str,
)
async def test_wrong_words_are_one_line_that_says_where_to_read(arguments: tuple[object, ...], said: str) -> None:
    ran = await run(*arguments)
    assert_cannot_run(ran, said)
    assert re.search(r"; see `pointsman( [a-z]+)* --help`\n$", ran.err)


async def test_no_words_at_all_are_answered_with_the_commands() -> None:
    ran = await run()
    assert (ran.code, ran.err) == (2, "")
    assert "replay" in ran.out


async def test_help_and_version_need_no_database() -> None:
    for arguments in (("--help",), ("--version",), ("demo", "--help"), ("serve", "--help"), ("key", "--help")):
        assert (await run(*arguments)).code == 0


COMPLETION = {
    "bash": ({"COMP_WORDS": "pointsman key n", "COMP_CWORD": "2"}, "complete -o default -F _pointsman_completion"),
    "powershell": (
        {"_TYPER_COMPLETE_ARGS": "pointsman key n", "_TYPER_COMPLETE_WORD_TO_COMPLETE": "n"},
        "Register-ArgumentCompleter -Native -CommandName pointsman",
    ),
}
"""What a shell tells the command when somebody presses Tab, and a part of what teaches it to."""


@pytest.mark.parametrize("shell", COMPLETION)
def test_words_are_completed(shell: str) -> None:
    asked, registration = COMPLETION[shell]
    assert registration in completed(_POINTSMAN_COMPLETE=f"source_{shell}")
    assert completed(_POINTSMAN_COMPLETE=f"complete_{shell}", **asked).startswith("new")


def completed(**variables: str) -> str:
    command = shutil.which("pointsman", path=Path(sys.executable).parent)
    assert command is not None
    ran = subprocess.run([command], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    return ran.stdout

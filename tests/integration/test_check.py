"""`pointsman check` on a real database: what only the database shows, who owns a place, and the exit codes."""

from __future__ import annotations

import json
import os
import sys
from asyncio.subprocess import PIPE, create_subprocess_exec
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.check import Checked, Place, UnknownMarket, UnknownOffer, check, who_owns
from pointsman.errors import HistoryHole, HistoryPruned
from pointsman.findings import Code, Finding, Level
from pointsman.ownership import Ownership, Role
from tests.builders import (
    MARKET,
    enroll,
    make_area,
    make_buyer,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)
from tests.stage import set_clock

NOON = datetime(2026, 6, 10, 12, 0, tzinfo=UTC)
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


class Scene(NamedTuple):
    """A clean world: an offer, a policy, and two buyers that cover the market."""

    offer: UUID
    one: UUID
    two: UUID


@pytest.fixture
async def scene(connection: asyncpg.Connection) -> Scene:
    offer = await make_offer(connection)
    await make_policy(connection)
    one = await make_candidate(connection, offer, name="Cedar", enrollment={"daily_cap": 5, "hourly_cap": 4})
    return Scene(offer, one, await make_candidate(connection, offer, name="Birch", daily_cap=50))


def of(checked: Checked, code: Code) -> list[Finding]:
    return [finding for finding in checked.findings if finding.code is code]


async def answer(database: str, place: Place, at: datetime | None = None) -> Ownership:
    (found,) = (await who_owns(database, place, at)).answers
    return found


# the lint


async def test_a_clean_world_has_no_findings_also_once_it_was_used(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    async with Router.open(database) as router:
        await router.route_many([await make_lead(connection, scene.offer) for _ in range(6)])
    checked = await check(database)
    assert ((), False) == (checked.findings, checked.fails(strict=True))


async def test_a_database_without_configuration_is_clean(database: str) -> None:
    assert (await check(database)).findings == ()


async def test_a_counter_that_is_not_what_the_decisions_say(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    async with Router.open(database) as router:
        await router.route_many([await make_lead(connection, scene.offer) for _ in range(8)])
    await connection.execute(
        "update pointsman.cap_usage set used = used - 1 where buyer_id = $1 and kind = 'day' and used > 0", scene.one
    )
    (finding,) = (await check(database)).findings
    assert (Code.COUNTER_DISAGREES, Level.ERROR, 1) == (
        finding.code,
        finding.level,
        finding.facts["counted"] - finding.facts["used"],
    )
    assert (scene.one, "day") == (finding.rows[0].ids["buyer_id"], finding.rows[0].ids["kind"])


async def test_a_counter_whose_holder_changed_is_counted_anew_and_no_finding(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    async with Router.open(database) as router:
        await router.route(await make_lead(connection, scene.offer))
    await connection.execute("update pointsman.cap_usage set used = used + 3")
    assert of(await check(database), Code.COUNTER_DISAGREES)
    await connection.execute("update buyers set daily_cap = 60, timezone = 'America/New_York'")
    assert not of(await check(database), Code.COUNTER_DISAGREES)


@pytest.mark.parametrize(
    ("sabotage", "table"),
    [
        ("alter table buyers disable trigger pointsman_update", "buyers"),
        ("drop trigger pointsman_row on offers", "offers"),
        ("alter table pointsman.config_commit disable trigger seal", "pointsman.config_commit"),
    ],
)
async def test_triggers_that_are_missing_or_off_are_an_error(
    database: str, connection: asyncpg.Connection, sabotage: str, table: str
) -> None:
    await connection.execute(sabotage)
    (finding,) = (await check(database)).findings
    assert (Code.TRIGGERS_DETACHED, Level.ERROR, table) == (finding.code, finding.level, finding.rows[0].table)


async def test_rows_that_the_indexes_drop_on_adopted_tables(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    await connection.execute(
        "alter table buyer_service_areas drop constraint buyer_service_areas_scope_known,"
        " drop constraint buyer_service_areas_value_unless_market;"
        "alter table buyer_offers drop constraint buyer_offers_weight_not_negative"
    )
    area = await make_area(connection, scene.one, scope="county", value="Cook")
    await connection.execute("update buyer_offers set weight = -1 where buyer_id = $1", scene.two)
    checked = await check(database)
    assert [area] == [finding.rows[0].ids["id"] for finding in of(checked, Code.ROW_MALFORMED)]
    assert ["weight"] == [finding.facts["field"] for finding in of(checked, Code.VALUE_UNUSABLE)]


async def test_an_overlap_that_the_constraint_cannot_see(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    for buyer, city in ((scene.one, "Ｃｈｉｃａｇｏ"), (scene.two, "Chicago")):
        await make_exclusivity(connection, scene.offer, buyer, scope="city", market_id=MARKET, value=city)
    checked = await check(database)
    (finding,) = of(checked, Code.EXCLUSIVITY_OVERLAPS)
    assert {"Cedar", "Birch"} == {checked.names[holder] for holder in finding.facts["holders"]}


async def test_what_is_judged_by_the_clock_goes_by_the_databases(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    await make_exclusivity(connection, scene.offer, scene.one, valid_to=NOON + timedelta(days=2))
    await set_clock(connection, NOON)
    checked = await check(database)
    assert ([Code.EXCLUSIVITY_EXPIRES], NOON) == ([finding.code for finding in checked.findings], checked.checked_at)
    await set_clock(connection, NOON + timedelta(days=2))
    assert (await check(database)).findings == ()


async def test_every_stage_tells_how_far_it_is(database: str, scene: Scene) -> None:
    heard: list[tuple[str, int, int]] = []
    await check(database, lambda *stage: heard.append(stage))
    assert {"reading", "checking", "counting"} == {what for what, _, _ in heard}
    last = {what: (done, total) for what, done, total in heard}
    assert all(done == total for done, total in last.values())
    assert (8, 8) == last["reading"]


# who owns


async def test_who_owns_a_postal_code_now_and_who_did_and_will(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    before = await connection.fetchval("select clock_timestamp()")
    now = await answer(database, Place(scene.offer, "60614", MARKET))
    assert (None, 2, "routed") == (now.holder, len(now.eligible), now.outcome)
    until = before + timedelta(days=30)
    held = await make_exclusivity(
        connection, scene.offer, scene.two, scope="postal_code", market_id=MARKET, value="606 14", valid_to=until
    )
    now = await answer(database, Place(scene.offer, "60614"))  # the exclusivity says in which market
    assert (scene.two, MARKET, [(Role.COUNTS, held)]) == (
        now.holder,
        now.market_id,
        [(link.role, link.exclusivity_id) for link in now.chain],
    )
    then = await answer(database, Place(scene.offer, "60614"), before)
    assert (None, (), 2) == (then.holder, then.chain, len(then.eligible))
    later = await answer(database, Place(scene.offer, "60614"), until)
    assert (None, [Role.EXPIRED]) == (later.holder, [link.role for link in later.chain])


async def test_who_owns_counts_what_was_routed_before_the_instant(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    await connection.execute("update buyer_offers set daily_cap = 1, hourly_cap = null where buyer_id = $1", scene.one)
    await make_exclusivity(connection, scene.offer, scene.one)
    before = await connection.fetchval("select clock_timestamp()")
    async with Router.open(database) as router:
        assert (await router.route(await make_lead(connection, scene.offer))).buyer_id == scene.one
    full = await answer(database, Place(scene.offer, "60614", MARKET))
    assert ("no_route_exclusive_fail_closed", ["daily_cap_reached"]) == (
        full.outcome,
        [reason.code for reason in full.holder_reasons],
    )
    assert (await answer(database, Place(scene.offer, "60614", MARKET), before)).outcome == "routed"


async def test_who_owns_asks_for_what_it_cannot_know(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    with pytest.raises(UnknownMarket, match="--market"):
        await who_owns(database, Place(scene.offer, "60614"))
    with pytest.raises(UnknownOffer, match="no such offer"):
        await who_owns(database, Place(uuid4(), "60614"))
    with pytest.raises(HistoryPruned):
        await who_owns(database, Place(scene.offer, "60614", MARKET), LONG_AGO)
    only_here = await make_offer(connection, market_id=MARKET)
    assert (await answer(database, Place(only_here, "60614"))).cause == "no_eligible_buyers"


async def test_who_owned_is_not_told_from_a_history_with_a_hole(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    await connection.execute("update buyers set status = 'paused'")
    before = await connection.fetchval("select clock_timestamp()")
    await connection.execute("update buyers set status = 'active'")
    assert (await answer(database, Place(scene.offer, "60614", MARKET), before)).cause == "no_eligible_buyers"
    await connection.execute(
        "delete from pointsman.config_log where change_set = (select change_set from pointsman.config_commit"
        " where committed_at < $1 order by version desc limit 1)",
        before,
    )
    with pytest.raises(HistoryHole, match="changed is missing"):
        await who_owns(database, Place(scene.offer, "60614", MARKET), before)


async def test_a_postal_code_in_two_markets_has_an_answer_for_each(
    database: str, connection: asyncpg.Connection, scene: Scene
) -> None:
    buyer, markets = await make_buyer(connection), sorted((uuid4(), uuid4()))
    await enroll(connection, buyer, scene.offer)
    for market in markets:
        await make_area(connection, buyer, market_id=market, scope="postal_code", value="60614")
    owned = await who_owns(database, Place(scene.offer, "60614"))
    assert markets == [found.market_id for found in owned.answers]
    assert "Cedar Roofing" == owned.names[buyer]


# the command line


async def pointsman(database: str, *arguments: object) -> tuple[int, str, str]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    process = await create_subprocess_exec(
        *(sys.executable, "-m", "pointsman", "check", *map(str, arguments)),
        env={**settings, "POINTSMAN_DATABASE_URL": database, "COLUMNS": "140"},
        stdout=PIPE,
        stderr=PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_exit_codes_of_a_check(database: str, connection: asyncpg.Connection, scene: Scene) -> None:
    assert (0, "") == (await pointsman(database))[::2]
    await connection.execute("alter table buyers drop constraint buyers_status_known")
    await connection.execute("update buyers set status = 'Active' where id = $1", scene.two)
    assert (await pointsman(database))[0] == 0
    code, out, _ = await pointsman(database, "--strict", "--json")
    data: dict[str, Any] = json.loads(out)
    assert (1, {"error": 0, "warning": 1, "notice": 0}) == (code, data["counts"])
    assert [("status_unknown", "warning", [{"table": "buyers", "id": str(scene.two)}], {"status": "Active"})] == [
        (finding["code"], finding["level"], finding["rows"], finding["facts"]) for finding in data["findings"]
    ]
    await connection.execute("update buyers set status = 'paused'")
    code, out, err = await pointsman(database, "--level", "error")
    assert (1, "") == (code, err)
    assert "nobody_ever" in out
    assert "buyer_paused" in out


async def test_the_week_of_an_offer_is_drawn(database: str, connection: asyncpg.Connection, scene: Scene) -> None:
    week = json.dumps({"weekly": {"mon": [["09:00", "17:00"]]}})
    await connection.execute("update buyers set acceptance_hours = $1", week)
    code, out, _ = await pointsman(database)
    assert code == 0
    assert "Buyers open, by hour in America/Chicago" in out
    assert [0] * 9 + [2] * 8 + [0] * 7 == [int(count) for count in out.split("\nmon ")[1].split("\n")[0].split()]


async def test_who_owns_on_the_command_line(database: str, connection: asyncpg.Connection, scene: Scene) -> None:
    await make_policy(connection, offer_id=scene.offer, rules=rules(strategy={"kind": "weighted"}))
    ask = ("--who-owns", "60614", "--offer", scene.offer, "--market", MARKET)
    code, out, err = await pointsman(database, *ask)
    assert (0, "") == (code, err)
    assert "Nobody holds it exclusively; 2 can have its leads" in out
    await make_exclusivity(connection, scene.offer, scene.two, scope="market", market_id=MARKET)
    code, out, _ = await pointsman(database, *ask, "--city", "Chicago")
    assert code == 0
    assert f"Birch ({scene.two}) holds it exclusively (scope market) and gets its leads." in out
    code, out, _ = await pointsman(database, *ask, "--json")
    (found,) = json.loads(out)["answers"]
    assert (str(scene.two), "counts", "routed") == (found["holder"], found["chain"][0]["role"], found["outcome"])


async def test_the_last_evening_that_can_be_asked_about_is_answered(database: str, scene: Scene) -> None:
    ask = ("--who-owns", "60614", "--offer", scene.offer, "--market", MARKET)
    code, out, err = await pointsman(database, *ask, "--at", "8999-12-31T23:59:59-10:00")
    assert (0, "") == (code, err)
    assert "Nobody holds it exclusively" in out


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("--who-owns", "60614"), "--offer"),
        (("--city", "Chicago"), "--who-owns"),
        (("--who-owns", "60614", "--offer", "roofing"), "roofing"),
        (("--who-owns", "60614", "--offer", str(MARKET)), "no such offer"),
        (("--who-owns", "60614", "--offer", str(MARKET), "--at", "noon"), "noon"),
        (("--who-owns", "60614", "--offer", str(MARKET), "--at", "9999-12-31T23:59:59-10:00"), "8999"),
    ],
)
async def test_what_cannot_be_asked_is_one_line(database: str, arguments: tuple[str, ...], word: str) -> None:
    code, out, err = await pointsman(database, *arguments)
    assert (2, "", 1) == (code, out, err.count("\n"))
    assert word in err

"""Prune: what goes, what stays, that what stays is proved, and that it may break off anywhere."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from pointsman import Router
from pointsman.check import Place, who_owns
from pointsman.errors import Busy, HistoryPruned
from pointsman.history import History
from pointsman.prune import LOCK, Pruned, TooYoung, prune
from pointsman.replay import replay
from pointsman.store import connect
from tests.builders import (
    MARKET,
    enroll,
    make_area,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
    rules,
)
from tests.invariants import violations
from tests.stage import another, codes, kinds, set_clock, version

LONG_AGO = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)
NOW = LONG_AGO + timedelta(days=10)
DAYS = 5
ROOT = Path(__file__).parents[2]


async def live(database: str, connection: asyncpg.Connection) -> list[UUID]:
    """Two periods of routing, ten days apart, with changes of configuration before, within and between them."""
    offer = await make_offer(connection)
    buyers = [await make_candidate(connection, offer, enrollment={"daily_cap": 3}) for _ in range(3)]
    await make_policy(connection, rules=rules(strategy={"kind": "rotation"}))
    await make_exclusivity(connection, await make_offer(connection), buyers[0])
    leads = []
    async with Router.open(database) as router:
        for start in (LONG_AGO, NOW):
            await set_clock(connection, start)
            for step in range(5):
                lead = await make_lead(connection, offer)
                leads.append(lead)
                await router.route(lead)
                await connection.execute("update buyers set hourly_cap = $2 where id = $1", buyers[step % 3], 9 + step)
            await connection.execute("update buyers set status = 'paused' where id = $1", buyers[2])
            await connection.execute(
                "update pointsman.config_commit set committed_at = $1 where committed_at > $1", start
            )
            await make_area(connection, buyers[1], scope="city", value=str(start))
    await connection.execute(
        "update pointsman.config_commit set committed_at = $1 where version <= 1 + (select max(config_version)"
        " from pointsman.decisions where decided_at = $1)",
        LONG_AGO,
    )
    return leads


async def numbers(connection: asyncpg.Connection) -> tuple[int, int, int]:
    """Decisions, commits and baselines that there are."""
    return tuple(
        await connection.fetchrow(
            "select (select count(*) from pointsman.decisions), (select count(*) from pointsman.config_commit),"
            " (select count(*) from pointsman.config_commit where baseline)"
        )
    )


async def history_at(connection: asyncpg.Connection, at: int) -> dict[str, Any]:
    """The configuration at a version, by the log, as far as it shows."""

    async with connection.transaction():
        indexes = await History(connection, at).advance(at)
    return {
        "areas": set(indexes.areas.values()),
        "buyers": {(buyer.id, buyer.caps, buyer.faults) for buyer in indexes.buyers.values()},
        "enrollments": {
            (row.buyer_id, row.offer_id, row.caps) for rows in indexes.enrollments.values() for row in rows.values()
        },
        "exclusivities": set(indexes.exclusivity_rows.values()),
        "offers": set(indexes.offers.values()),
        "policies": set(indexes.policies.values()),
        "version": (indexes.version, indexes.token),
    }


async def test_what_is_kept_is_younger_and_can_be_replayed(database: str, connection: asyncpg.Connection) -> None:
    await live(database, connection)
    before = await numbers(connection)
    pruned = await prune(database, days=DAYS)
    after = await numbers(connection)
    assert (5, 5) == (pruned.decisions, after[0])
    assert pruned.commits == before[1] - after[1] > 5
    assert 1 == after[2]
    assert 0 == await connection.fetchval("select count(*) from pointsman.decisions where decided_at < $1", NOW)
    report = await replay(database)
    assert (5, 0, 0) == (report.same_version.equal, report.same_version.different, report.pruned)
    assert [] == await violations(connection)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("update pointsman.pruned_turn set position = 6 - position", "on what came before it"),
        ("update pointsman.rotation set position = 1 where position > 5", "does not stand where it was served last"),
        ("delete from pointsman.decisions where id = (select max(id) from pointsman.decisions)", "has a buyer that"),
    ],
)
async def test_what_is_wrong_after_a_prune_is_found(
    database: str, connection: asyncpg.Connection, damage: str, said: str
) -> None:
    await live(database, connection)
    await prune(database, days=DAYS)
    assert (await connection.execute(damage)).split()[1] != "0"
    assert said in "\n".join(await violations(connection))


async def test_invariants_judge_a_database_by_its_address(database: str, connection: asyncpg.Connection) -> None:
    async def judged() -> tuple[int | None, bytes]:
        command = (sys.executable, "-m", "tests.invariants", database)
        process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=asyncio.subprocess.PIPE)
        told, _ = await process.communicate()
        return process.returncode, told

    leads = await live(database, connection)
    offer = await connection.fetchval("select offer_id from leads where id = $1", leads[0])
    async with Router.open(database) as router:  # counters older than their caps are not judged: one that is not
        await router.route(await make_lead(connection, offer))
    assert (0, b"nothing is wrong\n") == await judged()
    await connection.execute("update pointsman.cap_usage set used = used + 1")
    code, told = await judged()
    assert 1 == code
    assert b"should say" in told


async def test_history_at_and_after_the_horizon_is_the_same_as_before(
    database: str, connection: asyncpg.Connection
) -> None:
    await live(database, connection)
    # a table that was emptied, a row that is gone and one that came back, below the horizon
    last = await version(connection)
    expected = {at: await history_at(connection, at) for at in range(last - 6, last + 1)}
    pruned = await prune(database, days=DAYS)
    assert pruned.horizon is not None
    assert pruned.horizon in expected
    for at in range(pruned.horizon, last + 1):
        assert expected[at] == await history_at(connection, at), at


async def test_emptied_tables_and_rows_that_are_gone_are_not_in_the_image(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer, gone = await make_candidate(connection, offer), await make_candidate(connection, offer)
    await make_policy(connection)
    await connection.execute("truncate buyer_service_areas")
    area = await make_area(connection, buyer)
    await connection.execute("delete from buyer_offers where buyer_id = $1", gone)
    other = await make_offer(connection)
    await enroll(connection, gone, other)
    at = await version(connection)
    expected = await history_at(connection, at)
    await connection.execute("update pointsman.config_commit set committed_at = now() - interval '9 days'")
    await make_offer(connection)
    pruned = await prune(database, days=DAYS)
    assert at == pruned.horizon
    assert expected == await history_at(connection, at)
    assert {area} == {row["id"] for row in await _image_rows(connection, "buyer_service_areas")}


async def _image_rows(connection: asyncpg.Connection, table: str) -> list[dict[str, Any]]:
    rows = await connection.fetch("select row::text from pointsman.config_log where op = 'b' and rel = $1", table)
    return [{**json.loads(row["row"]), "id": UUID(json.loads(row["row"])["id"])} for row in rows]


async def test_explanation_of_a_kept_decision_is_the_same(database: str, connection: asyncpg.Connection) -> None:
    leads = await live(database, connection)
    async with Router.open(database) as router:
        before = [await router.explain(lead) for lead in leads[-3:]]
        await prune(database, days=DAYS)
        assert before == [await router.explain(lead) for lead in leads[-3:]]


@pytest.mark.parametrize("is_named", [True, False])
async def test_usage_that_prune_made_unknown_is_never_told(
    database: str, connection: asyncpg.Connection, is_named: bool
) -> None:
    """Of a day that the cutoff divides, how full a buyer was is known where the record had to name it."""
    offer = await make_offer(connection)
    full = await make_candidate(connection, offer, enrollment={"priority_rank": 1 if is_named else 3, "daily_cap": 1})
    idle = await make_candidate(connection, offer, enrollment={"priority_rank": 4, "daily_cap": 1})
    other = await make_candidate(connection, offer, status="paused", enrollment={"priority_rank": 2})
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(2)]
    async with Router.open(database) as router:
        await set_clock(connection, LONG_AGO)
        assert full == (await router.route(leads[0])).buyer_id
        await connection.execute("update buyers set status = 'active' where id = $1", other)
        await set_clock(connection, LONG_AGO + timedelta(hours=2))
        assert other == (await router.route(leads[1])).buyer_id
        before = await router.explain(leads[1])
        assert (["daily_cap_reached"], []) == (codes(before, full), codes(before, idle))
        await set_clock(connection, LONG_AGO + timedelta(days=DAYS, hours=1))
        assert 1 == (await prune(database, days=DAYS)).decisions
        if is_named:
            assert before == await router.explain(leads[1])
        else:
            with pytest.raises(HistoryPruned, match="how full each buyer was is no longer known"):
                await router.explain(leads[1])
    proved = (await replay(database)).same_version
    assert (1, 0) == (proved.equal, proved.different)


async def test_who_owns_is_the_same_or_not_told(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    for _ in range(2):
        await make_candidate(connection, offer, enrollment={"daily_cap": 2})
    await make_policy(connection, rules=rules(strategy={"kind": "rotation"}))
    await connection.execute("update pointsman.config_commit set committed_at = $1", LONG_AGO - timedelta(days=1))
    await set_clock(connection, LONG_AGO)
    async with Router.open(database) as router:
        served = (await router.route(await make_lead(connection, offer))).buyer_id

    async def next_at(at: datetime) -> UUID:
        (owned,) = (await who_owns(database, Place(offer, "60614", MARKET), at)).answers
        return owned.eligible[0].buyer_id

    instants = [LONG_AGO + timedelta(days=days) for days in (6, 10)]
    await set_clock(connection, NOW)
    before = [await next_at(at) for at in instants]
    assert served not in before
    assert 1 == (await prune(database, days=DAYS)).decisions
    assert before == [await next_at(at) for at in instants]
    for hours in (-1, 3):  # older than what is kept, and in a day of which some is not
        await connection.execute("update pointsman.pruned set before = $1", LONG_AGO + timedelta(hours=1))
        with pytest.raises(HistoryPruned, match="who was full or next"):
            await next_at(LONG_AGO + timedelta(hours=hours))


async def test_open_router_does_not_notice(database: str, connection: asyncpg.Connection) -> None:
    leads = await live(database, connection)
    offer = await connection.fetchval("select offer_id from leads where id = $1", leads[0])
    async with Router.open(database) as router:
        at = router.cache.version
        await prune(database, days=DAYS)
        outcome = await router.route(await make_lead(connection, offer))
        assert (at, "routed") == (outcome.config_version, outcome.outcome)
        assert "already_routed" == (await router.route(leads[0])).outcome


async def test_router_far_behind_loads_anew(database: str, connection: asyncpg.Connection) -> None:
    await live(database, connection)
    async with Router.open(database) as router:
        await router.cache.stop()
        indexes = router.cache._indexes
        assert indexes is not None
        indexes.version, indexes.token = await connection.fetchrow(
            "select version, token from pointsman.config_commit order by version limit 1"
        )
        await prune(database, days=DAYS)
        async with another(database) as other:
            await router.cache.catch_up(other)
        assert await version(connection) == router.cache.version
        assert router.cache._indexes is not indexes


class Stopped(Exception):
    """Where a test breaks a run off."""


Statement = Coroutine[Any, Any, Any]


class Watched:
    """A connection on which something happens around each statement of a prune."""

    def __init__(self, connection: asyncpg.Connection, around: Callable[[Statement], Statement]) -> None:
        self._connection = connection
        self._around = around

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)
        if name not in ("execute", "fetch", "fetchrow", "fetchval"):
            return method
        return lambda *arguments: self._around(method(*arguments))


def watch(monkeypatch: pytest.MonkeyPatch, around: Callable[[asyncpg.Connection, Statement], Any]) -> None:
    """Let `around` run every statement of the prunes to come, each two rows at a time."""

    async def watched(*where: Any) -> Any:
        connection = await connect(*where)
        return Watched(connection, partial(around, connection))

    monkeypatch.setattr("pointsman.prune.SLICE", 2)
    monkeypatch.setattr("pointsman.prune.connect", watched)


async def test_may_break_off_anywhere_and_be_run_again(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await live(database, connection)
    left = 0

    async def run(_: asyncpg.Connection, statement: Statement) -> Any:
        nonlocal left
        left -= 1
        if left < 0:
            statement.close()
            raise Stopped
        return await statement

    watch(monkeypatch, run)
    finished: Pruned | None = None
    for stop in count(1):  # with ever longer runs, since what an image has must be written anew each time
        left = stop
        with suppress(Stopped):
            finished = await prune(database, days=DAYS)
        report = await replay(database)
        assert (0, 0) == (report.same_version.different, report.pruned)
        assert [] == await violations(connection)
        if finished is not None:
            break
    assert stop > 10
    assert 5 == report.same_version.equal
    assert 1 == (await numbers(connection))[2]
    duplicates = "select rel, key from pointsman.config_log where op = 'b' group by 1, 2 having count(*) > 1"
    assert [] == await connection.fetch(duplicates)


async def test_leads_are_routed_while_any_statement_holds_its_locks(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    leads = await live(database, connection)
    offer = await connection.fetchval("select offer_id from leads where id = $1", leads[0])
    await connection.execute("update buyer_offers set daily_cap = 1000")
    await connection.execute("update buyers set hourly_cap = 1000")
    routed = 0
    async with Router.open(database) as router:

        async def run(pruning: asyncpg.Connection, statement: Statement) -> Any:
            nonlocal routed
            async with pruning.transaction():
                answer = await statement
                alone = await router.route(await make_lead(connection, offer))
                batch = await router.route_many([await make_lead(connection, offer) for _ in range(2)])
                assert ["routed"] * 3 == kinds([alone, *batch])
                routed += 3
            return answer

        watch(monkeypatch, run)
        pruned = await prune(database, days=DAYS)
    assert pruned.decisions > 2
    assert pruned.commits > 2
    assert routed > 30


async def test_nothing_old_is_nothing_to_do(database: str, connection: asyncpg.Connection) -> None:
    await live(database, connection)
    await connection.execute("delete from pointsman.cap_usage where window_start < $1", NOW - timedelta(days=2))
    before = await numbers(connection)
    pruned = await prune(database, days=30)
    assert (0, 0, None, 0) == (pruned.decisions, pruned.counters, pruned.horizon, pruned.commits)
    assert before == await numbers(connection)
    await prune(database, days=DAYS)
    again = await prune(database, days=DAYS)
    assert (0, 0) == (again.decisions, again.commits)


async def test_counters_in_which_nothing_counts_any_more_go_though_their_decisions_stay(
    database: str, connection: asyncpg.Connection
) -> None:
    leads = await live(database, connection)
    began = "select array_agg(distinct window_start < $1) from pointsman.cap_usage"
    assert [False, True] == sorted(await connection.fetchval(began, NOW - timedelta(days=3)))
    async with Router.open(database) as router:
        before = [await router.explain(lead) for lead in leads]
        pruned = await prune(database, days=30)
        assert (0, True) == (pruned.decisions, pruned.counters > 0)
        assert [False] == await connection.fetchval(began, NOW - timedelta(days=3))
        assert before == [await router.explain(lead) for lead in leads]
    assert [] == await violations(connection)


async def test_the_last_three_days_are_never_removed(database: str) -> None:
    with pytest.raises(TooYoung):
        await prune(database, days=2)


async def test_two_at_once_are_one_and_a_refusal(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute(f"select pg_advisory_lock({LOCK})")
    with pytest.raises(Busy, match="another prune"):
        await prune(database, days=DAYS)

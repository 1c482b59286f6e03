"""The router on a real database: outcomes, records, errors, callers' transactions, round trips."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.pool import NullPool

from pointsman import Router
from pointsman.engine import __version__ as engine_version
from pointsman.engine import geo, zones
from pointsman.engine.record import digest, read_state
from pointsman.errors import (
    Busy,
    LeadNotFound,
    NotReady,
    Refused,
    StoreUnavailable,
    UnsuitableTransaction,
)
from pointsman.model import Outcome
from pointsman.store import Store
from tests.builders import (
    MARKET,
    VERTICAL,
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
from tests.invariants import violations
from tests.stage import (
    Wire,
    analyse_for_good,
    another,
    end_sessions,
    ended,
    follows,
    kinds,
    lead_row,
    let_clock_jump,
    records,
    rows_read,
    set_clock,
    version,
    waiting_for_a_lock,
    written,
)

NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)  # a Wednesday in Chicago
ELSEWHERE = uuid4()
FALLBACK = rules(exclusivity={"when_ineligible": "fallback_allowed"})
ROTATION = rules(strategy={"kind": "rotation"})


# outcomes


async def test_routed_names_buyer_policy_version_and_instant(database: str, connection: asyncpg.Connection) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    policy = await make_policy(connection, version=7)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        outcome = await router.route(lead)
    (record,) = await records(connection)
    expected = Outcome(
        lead, "routed", None, buyer, "routed", record["id"], policy, 7, await version(connection), NOON, ()
    )
    assert expected == outcome
    assert ("routed", buyer, NOON) == await lead_row(connection, lead)


async def test_routed_lead_is_answered_with_the_decision_that_assigned_it(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        first = await router.route(lead)
        before = await written(connection)
        second = await router.route(lead)
    async with Router.open(database) as router:
        third = await router.route(lead)
    assert ("already_routed", first.buyer_id, "routed", None) == (
        second.outcome,
        second.buyer_id,
        second.status,
        second.cause,
    )
    assert (first.decision_id, first.policy_id, first.policy_version) == (
        second.decision_id,
        second.policy_id,
        second.policy_version,
    )
    assert (first.config_version, first.decided_at, first.flags) == (
        second.config_version,
        second.decided_at,
        second.flags,
    )
    assert second == third
    assert before == await written(connection)


async def test_lead_with_a_buyer_is_a_no_op_whatever_became_of_its_status(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        first = await router.route(lead)
        for status in ("sold", "validated", "rejected"):
            await connection.execute("update leads set status = $1", status)
            again = await router.route(lead)
            assert ("already_routed", buyer, status) == (again.outcome, again.buyer_id, again.status)
            assert first.decision_id == again.decision_id
    assert len(await records(connection)) == 1


async def test_lead_that_the_host_assigned_is_already_routed_without_a_decision(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer, status="routed", buyer_id=buyer)
    async with Router.open(database) as router:
        assert Outcome(lead, "already_routed", None, buyer, "routed") == await router.route(lead)
    assert [] == await records(connection)


async def test_lead_that_the_host_gave_to_another_buyer_since_is_answered_without_the_decision(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    other = await make_buyer(connection)
    async with Router.open(database) as router:
        await router.route(lead)
        await connection.execute("update leads set buyer_id = $1", other)
        assert Outcome(lead, "already_routed", None, other, "routed") == await router.route(lead)


@pytest.mark.parametrize("status", ["new", "rejected", "routed", "VALIDATED", ""])
async def test_lead_that_is_not_validated_is_left_alone_and_not_recorded(
    database: str, connection: asyncpg.Connection, status: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer, status=status)
    async with Router.open(database) as router:
        assert Outcome(lead, "not_validated", None, None, status) == await router.route(lead)
    assert [] == await records(connection)
    assert (status, None, None) == await lead_row(connection, lead)


BROKEN = {
    "no_policy": "delete from routing_policies",
    "policy_invalid": "update routing_policies set rules = '[]'",
    "offer_inactive": "update offers set is_active = false",
    "offer_vertical_mismatch": "update offers set vertical_id = gen_random_uuid()",
    "offer_market_mismatch": "update offers set market_id = gen_random_uuid()",
    "no_eligible_buyers": "update buyers set status = 'paused'",
}


@pytest.mark.parametrize("cause", BROKEN)
async def test_no_route_has_its_cause_and_is_recorded_and_leaves_the_lead_as_it_was(
    database: str, connection: asyncpg.Connection, cause: str
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    policy = await make_policy(connection, version=3)
    lead = await make_lead(connection, offer)
    await connection.execute(BROKEN[cause])
    async with Router.open(database) as router:
        outcome = await router.route(lead)
    (record,) = await records(connection)
    found = (None, None) if cause == "no_policy" else (policy, 3)
    expected = Outcome(
        lead, "no_route", cause, None, "validated", record["id"], *found, await version(connection), NOON, ()
    )
    assert expected == outcome
    assert ("no_route", cause, None) == (record["outcome"], record["cause"], record["buyer_id"])
    assert found == (record["policy_id"], record["policy_version"])
    assert ("validated", None, None) == await lead_row(connection, lead)


async def test_causes_are_looked_for_in_the_order_of_the_contract(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    policy = await make_policy(connection)
    lead = await make_lead(connection, offer)
    for statement in list(BROKEN.values())[1:]:
        await connection.execute(statement)
    await connection.execute("update routing_policies set is_active = false")
    mend = {
        "no_policy": "update routing_policies set is_active = true",
        "policy_invalid": "update routing_policies set rules = (select rules from good)",
        "offer_inactive": "update offers set is_active = true",
        "offer_vertical_mismatch": f"update offers set vertical_id = '{VERTICAL}'",
        "offer_market_mismatch": "update offers set market_id = null",
        "no_eligible_buyers": "update buyers set status = 'active'",
    }
    await make_policy(connection, is_active=False)
    await connection.execute("create table good as select rules from routing_policies where rules <> '[]'")
    async with Router.open(database) as router:
        for cause, statement in mend.items():
            outcome = await router.route(lead)
            assert cause == outcome.cause
            assert (cause == "no_policy") == (outcome.policy_id is None)
            await connection.execute(f"{statement} " + (f"where id = '{policy}'" if "policies" in statement else ""))
        assert (await router.route(lead)).outcome == "routed"
    assert list(mend) == [record["cause"] for record in await records(connection)][:-1]


async def test_missing_offer_is_an_inactive_one(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute("alter table leads drop constraint leads_offer")
    await make_policy(connection)
    lead = await make_lead(connection, uuid4())
    async with Router.open(database) as router:
        assert (await router.route(lead)).cause == "offer_inactive"


async def test_lead_without_an_offer_is_a_no_route(database: str, connection: asyncpg.Connection) -> None:
    lead = await make_lead(connection, None)
    async with Router.open(database) as router:
        first = await router.route(lead)
        policy = await make_policy(connection, vertical_id=VERTICAL)
        second = await router.route(lead)
    assert [("no_policy", None), ("offer_inactive", policy)] == [(o.cause, o.policy_id) for o in (first, second)]
    assert len(await records(connection, lead)) == 2


async def test_lead_of_nothing_but_nulls_is_a_no_route(database: str, connection: asyncpg.Connection) -> None:
    lead = await make_lead(connection, None, vertical_id=None, market_id=None, postal_code=None, city=None)
    async with Router.open(database) as router:
        assert (await router.route(lead)).cause == "no_policy"
        assert kinds(await router.route_many([lead, lead])) == ["no_route", "no_route"]
    assert len(await records(connection)) == 1


async def test_lead_in_a_market_without_an_id_has_no_eligible_buyers(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer, market_id=None)
    async with Router.open(database) as router:
        assert (await router.route(lead)).cause == "no_eligible_buyers"


async def test_repeated_no_route_writes_nothing_and_answers_with_the_row_there_is(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        first = await router.route(lead)
        before = await written(connection)
        await set_clock(connection, NOON + timedelta(hours=2))
        again = [await router.route(lead), *await router.route_many([lead, lead])]
    assert [first] * 3 == again
    assert first.decided_at == NOON
    assert before == await written(connection)


@pytest.mark.parametrize(
    ("difference", "statement"),
    [
        ("cause", "update offers set is_active = false"),
        ("config version", "update buyers set status = 'paused'"),
        ("postal code", "update leads set postal_code = '60615'"),
        ("postal code as it is written", "update leads set postal_code = ' 60614'"),
        ("city", "update leads set city = null"),
        ("market", "update leads set market_id = gen_random_uuid()"),
        ("vertical", "update leads set vertical_id = gen_random_uuid()"),
    ],
)
async def test_no_route_that_differs_from_the_last_is_a_new_row(
    database: str, connection: asyncpg.Connection, difference: str, statement: str
) -> None:
    offer = await make_offer(connection)
    await make_buyer(connection)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        first = await router.route(lead)
        await connection.execute(statement)
        second = await router.route(lead)
        assert second == await router.route(lead)
    assert [first.decision_id, second.decision_id] == [record["id"] for record in await records(connection)]


async def test_no_route_is_new_when_it_differs_from_the_last_row_though_an_earlier_one_says_the_same(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        for city in ("Chicago", "Evanston", "Chicago"):
            await connection.execute("update leads set city = $1", city)
            await router.route(lead)
    assert ["Chicago", "Evanston", "Chicago"] == [record["city"] for record in await records(connection)]


async def test_lead_set_back_to_validated_is_a_new_attempt_and_usage_is_not_refunded(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, daily_cap=1, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, daily_cap=1, enrollment={"priority_rank": 2})
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        for expected in (first, second):
            assert (await router.route(lead)).buyer_id == expected
            await connection.execute("update leads set status = 'validated', buyer_id = null, routed_at = null")
        assert (await router.route(lead)).cause == "no_eligible_buyers"
    rows = [(row["attempt"], row["outcome"], row["buyer_id"]) for row in await records(connection)]
    assert [(1, "routed", first), (2, "routed", second), (3, "no_route", None)] == rows
    assert [] == await violations(connection)


async def test_attempts_that_came_between_reading_and_claim_are_counted(
    database: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    claim_one = Store.claim_one
    async with Router.open(database) as router, Router.open(database) as rival:

        async def after_a_rival(self: Store, *arguments: Any) -> Any:
            monkeypatch.undo()
            await rival.route(lead)
            await connection.execute("update leads set status = 'validated', buyer_id = null")
            return await claim_one(self, *arguments)

        monkeypatch.setattr(Store, "claim_one", after_a_rival)
        assert (await router.route(lead)).outcome == "routed"
    assert [1, 2] == [record["attempt"] for record in await records(connection, lead)]


async def test_record_holds_all_that_was_decided_from_and_its_digest(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    caps = {"hourly_cap": 5, "daily_cap": 6}
    buyer = await make_candidate(connection, offer, **caps, enrollment={"hourly_cap": 3, "daily_cap": 4})
    policy = await make_policy(connection, version=2, rules=ROTATION)
    leads = [await make_lead(connection, offer, postal_code=" 606 14", city="Chicago ") for _ in range(2)]
    async with Router.open(database) as router:
        outcomes = [await router.route(lead) for lead in leads]
    record = dict((await records(connection))[1])
    state, found = record.pop("state"), record.pop("digest")
    assert {
        "id": outcomes[1].decision_id,
        "decided_at": NOON,
        "config_version": await version(connection),
        "lead_id": leads[1],
        "offer_id": offer,
        "vertical_id": VERTICAL,
        "market_id": MARKET,
        "buyer_id": buyer,
        "policy_id": policy,
        "policy_version": 2,
        "attempt": 1,
        "outcome": "routed",
        "cause": None,
        "flags": None,
        "postal_code": " 606 14",
        "city": "Chicago ",
        "engine_version": engine_version,
        "tzdata_version": zones.TZDATA_VERSION,
        "unicode_version": geo.UNICODE_VERSION,
    } == record
    assert dict.fromkeys(range(4), 1) == dict(read_state(state).used)  # one lead before this under all four caps
    assert digest(b"", state) != found
    assert [] == await violations(connection)  # which decides again and computes the digest


async def test_every_other_status_of_a_batch_stands_in_its_place(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    good, unknown = [await make_lead(connection, offer) for _ in range(3)], uuid4()
    new = await make_lead(connection, offer, status="new")
    taken = await make_lead(connection, offer, status="routed", buyer_id=buyer)
    nowhere = await make_lead(connection, offer, market_id=ELSEWHERE)
    asked = [unknown, good[0], new, good[1], taken, good[0], nowhere, good[2], unknown]
    async with Router.open(database) as router:
        answers = await router.route_many(asked)
        assert [] == await router.route_many([])
    assert [
        "LeadNotFound",
        "routed",
        "not_validated",
        "routed",
        "already_routed",
        "already_routed",
        "no_route",
        "routed",
        "LeadNotFound",
    ] == kinds(answers)
    assert [lead for lead in asked if lead != unknown] == [a.lead_id for a in answers if isinstance(a, Outcome)]


async def test_lead_that_comes_many_times_in_one_batch_is_routed_once(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        first, *others = await router.route_many([lead] * 10)
    assert ["routed"] + ["already_routed"] * 9 == kinds([first, *others])
    assert {(first.buyer_id, first.decision_id, "routed")} == {(o.buyer_id, o.decision_id, o.status) for o in others}
    assert len(await records(connection)) == 1


async def test_batch_larger_than_one_flush_is_answered_in_order(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, enrollment={"daily_cap": 700})
    await make_policy(connection)
    leads = [uuid4() for _ in range(1_200)]
    await connection.copy_records_to_table(
        "leads",
        columns=("id", "offer_id", "vertical_id", "market_id", "status"),
        records=[(lead, offer, VERTICAL, MARKET, "validated") for lead in leads],
    )
    async with Router.open(database) as router:
        answers = await router.route_many(leads)
    assert ["routed"] * 700 + ["no_route"] * 500 == kinds(answers)
    assert leads == [answer.lead_id for answer in answers]


# exclusivity


@pytest.mark.parametrize(
    ("scope", "value"),
    [("postal_code", " 606 14 "), ("city", "chiCAGO"), ("market", None), ("offer", None)],
)
async def test_holder_is_the_only_candidate_in_the_scope_that_it_holds(
    database: str, connection: asyncpg.Connection, scope: str, value: str | None
) -> None:
    offer = await make_offer(connection)
    better = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    holder = await make_candidate(connection, offer, enrollment={"priority_rank": 50})
    await make_area(connection, better, market_id=ELSEWHERE)
    await make_policy(connection)
    market = None if scope == "offer" else MARKET
    await make_exclusivity(connection, offer, holder, scope=scope, value=value, market_id=market)
    inside = await make_lead(connection, offer)
    outside = {
        "postal_code": await make_lead(connection, offer, postal_code="60615"),
        "city": await make_lead(connection, offer, city="Evanston"),
        "market": await make_lead(connection, offer, market_id=ELSEWHERE),
    }
    async with Router.open(database) as router:
        held = await router.route(inside)
        assert ("routed", holder, ("exclusive",)) == (held.outcome, held.buyer_id, held.flags)
        if scope in outside:
            free = await router.route(outside[scope])
            assert ("routed", better, ()) == (free.outcome, free.buyer_id, free.flags)
    assert ["exclusive"] == (await records(connection))[0]["flags"]


@pytest.mark.parametrize("holder_is", ["paused", "not enrolled", "elsewhere", "full"])
async def test_exclusivity_whose_holder_cannot_take_it_fails_closed_or_falls_back_as_the_policy_says(
    database: str, connection: asyncpg.Connection, holder_is: str
) -> None:
    offer = await make_offer(connection)
    holder = await make_buyer(connection, status="paused" if holder_is == "paused" else "active")
    if holder_is != "not enrolled":
        await enroll(connection, holder, offer, daily_cap=0 if holder_is == "full" else None)
    await make_area(connection, holder, market_id=ELSEWHERE if holder_is == "elsewhere" else MARKET)
    other = await make_candidate(connection, offer)
    await make_exclusivity(connection, offer, holder)
    policy = await make_policy(connection)
    first, second = await make_lead(connection, offer), await make_lead(connection, offer)
    async with Router.open(database) as router:
        closed = await router.route(first)
        assert ("no_route_exclusive_fail_closed", None, None, "validated", ("exclusive",), policy) == (
            closed.outcome,
            closed.cause,
            closed.buyer_id,
            closed.status,
            closed.flags,
            closed.policy_id,
        )
        assert ("validated", None, None) == await lead_row(connection, first)
        await connection.execute("delete from routing_policies")
        await make_policy(connection, rules=FALLBACK)
        fallen = await router.route(second)
        assert ("routed", other, ("exclusive_fallback",)) == (fallen.outcome, fallen.buyer_id, fallen.flags)
        await connection.execute("update buyers set status = 'paused'")
        nobody = await router.route(first)
        assert ("no_route", "no_eligible_buyers", ("exclusive_fallback",)) == (
            nobody.outcome,
            nobody.cause,
            nobody.flags,
        )
    assert [] == await violations(connection)


async def test_more_specific_exclusivity_shadows_the_wider_even_when_its_holder_is_ineligible(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    wide = await make_candidate(connection, offer)
    narrow = await make_candidate(connection, offer, status="paused")
    await make_exclusivity(connection, offer, wide)
    await make_exclusivity(connection, offer, narrow, scope="city", value="Chicago", market_id=MARKET)
    await make_policy(connection)
    inside, outside = await make_lead(connection, offer), await make_lead(connection, offer, city="Evanston")
    async with Router.open(database) as router:
        assert ["no_route_exclusive_fail_closed", "routed"] == kinds(await router.route_many([inside, outside]))


async def test_exclusivity_holds_from_its_first_instant_until_before_its_last(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    better = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    holder = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    await make_exclusivity(connection, offer, holder, valid_from=NOON, valid_to=NOON + timedelta(hours=1))
    microsecond = timedelta(microseconds=1)
    ends = (NOON - microsecond, NOON, NOON + timedelta(hours=1) - microsecond, NOON + timedelta(hours=1))
    found = []
    async with Router.open(database) as router:
        for instant in ends:
            await set_clock(connection, instant)
            found.append((await router.route(await make_lead(connection, offer))).buyer_id)
    assert [better, holder, holder, better] == found


async def test_two_exclusivities_of_one_scope_go_to_the_senior_and_the_decision_says_so(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("alter table offer_exclusivities drop constraint offer_exclusivities_one_holder")
    offer = await make_offer(connection)
    junior = await make_candidate(connection, offer)
    senior = await make_candidate(connection, offer)
    await make_policy(connection)
    await make_exclusivity(connection, offer, junior, valid_from=NOON)
    await make_exclusivity(connection, offer, senior, valid_from=NOON - timedelta(days=1))
    async with Router.open(database) as router:
        outcome = await router.route(await make_lead(connection, offer))
        assert (senior, ("exclusive", "exclusivity_conflict")) == (outcome.buyer_id, outcome.flags)
        await connection.execute("update offer_exclusivities set valid_from = null where buyer_id = $1", junior)
        assert (await router.route(await make_lead(connection, offer))).buyer_id == junior


@pytest.mark.parametrize("when_ineligible", ["fail_closed", "fallback_allowed"])
async def test_race_that_fills_the_holders_cap_applies_the_exclusivity_again(
    database: str, connection: asyncpg.Connection, when_ineligible: str
) -> None:
    offer = await make_offer(connection)
    holder = await make_candidate(connection, offer, enrollment={"daily_cap": 1})
    other = await make_candidate(connection, offer)
    await make_exclusivity(connection, offer, holder)
    await make_policy(connection, rules=rules(exclusivity={"when_ineligible": when_ineligible}))
    first, second = await make_lead(connection, offer), await make_lead(connection, offer)
    async with Router.open(database) as winner, Router.open(database) as loser:  # which believes that there is room
        assert (await winner.route(first)).buyer_id == holder
        outcome = await loser.route(second)
    if when_ineligible == "fail_closed":
        assert ("no_route_exclusive_fail_closed", ("exclusive",)) == (outcome.outcome, outcome.flags)
    else:
        assert ("routed", other, ("exclusive_fallback",)) == (outcome.outcome, outcome.buyer_id, outcome.flags)
    assert [] == await violations(connection)


# errors


async def test_unknown_lead_is_an_error_and_nothing_is_recorded(database: str, connection: asyncpg.Connection) -> None:
    unknown = uuid4()
    async with Router.open(database) as router:
        with pytest.raises(LeadNotFound, match=str(unknown)):
            await router.route(unknown)
    assert [] == await records(connection)


async def test_database_without_a_baseline_is_not_ready(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute("truncate pointsman.config_commit, pointsman.config_log")
    with pytest.raises(NotReady, match="pointsman migrate"):
        async with Router.open(database):
            pass


async def test_router_whose_database_loses_its_versions_is_not_ready_and_recovers(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        await connection.execute("truncate pointsman.config_commit, pointsman.config_log")
        with pytest.raises(NotReady):
            await router.route(lead)
        assert ("validated", None, None) == await lead_row(connection, lead)
        await connection.execute("update offers set name = 'x', is_active = false")
        await connection.execute("update offers set is_active = true")
        assert (await router.route(lead)).buyer_id == buyer


async def test_closed_router_is_not_ready(database: str, connection: asyncpg.Connection) -> None:
    lead = await make_lead(connection, None)
    router = await Router.open(database)
    await router.close()
    with pytest.raises(NotReady):
        await router.route(lead)
    assert ["NotReady"] == kinds(await router.route_many([lead]))


async def test_calls_that_are_queued_when_the_router_closes_are_answered(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(20)]
    router = await Router.open(database)
    calls = [asyncio.ensure_future(router.route_many([lead])) for lead in leads]
    await asyncio.sleep(0)
    await router.close()
    answers = [answer for (answer,) in await asyncio.gather(*calls)]
    assert set(kinds(answers)) <= {"routed", "NotReady"}
    assert len(await records(connection)) == kinds(answers).count("routed")


async def test_database_that_is_away_is_an_error_and_the_router_goes_on_when_it_is_back(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Wire(database) as wire, Router.open(wire.dsn) as router:
        await wire.cut()
        with pytest.raises(StoreUnavailable):
            await router.route(lead)
        assert ["StoreUnavailable"] * 3 == kinds(await router.route_many([lead, uuid4(), lead]))
        with pytest.raises(StoreUnavailable):
            await router.explain(lead)
        assert ("validated", None, None) == await lead_row(connection, lead)
        await wire.mend()
        assert (await router.route(lead)).buyer_id == buyer


async def test_idle_sessions_that_the_server_ended_cost_nobody_a_lead(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    async with Router.open(database) as router:
        for _ in range(3):
            assert await end_sessions(connection) >= 1
            lead = await make_lead(connection, offer)
            for _ in range(5):  # each of its sessions can be a dead one
                (answer,) = await router.route_many([lead])
                if isinstance(answer, Outcome):
                    break
                assert isinstance(answer, StoreUnavailable)
                assert ("validated", None, None) == await lead_row(connection, lead)
            assert ["routed"] == kinds([answer])


async def test_answer_that_was_lost_is_given_again(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, enrollment={"daily_cap": 1})
    await make_policy(connection)
    lead, next_lead = await make_lead(connection, offer), await make_lead(connection, offer)
    async with Wire(database) as wire, Router.open(wire.dsn, listen_dsn=database) as router:
        wire.swallow_answer(2)  # the claim's, which has committed
        with pytest.raises(StoreUnavailable):
            await router.route(lead)
        again = await router.route(lead)
        assert ("already_routed", buyer) == (again.outcome, again.buyer_id)
        assert again.decision_id == (await records(connection))[0]["id"]
        assert (await router.route(next_lead)).cause == "no_eligible_buyers"  # it counted, though nobody was told


async def test_session_ended_while_its_claim_waits_is_an_error_and_the_lead_is_as_it_was(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("select from leads where id = $1 for update", lead)
        call = asyncio.ensure_future(router.route_many([lead]))
        await connection.execute("select pg_terminate_backend($1)", await waiting_for_a_lock(connection))
        (answer,) = await call
        assert isinstance(answer, StoreUnavailable | Busy)
        assert ("validated", None, None) == await lead_row(connection, lead)
        await transaction.rollback()
        assert (await router.route(lead)).buyer_id == buyer
    assert len(await records(connection)) == 1


async def test_lead_whose_row_somebody_holds_is_busy_and_alone_so_in_its_batch(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(8)]
    async with another(database) as host, Router.open(database) as router:
        async with host.transaction():
            await host.execute("select from leads where id = $1 for update", leads[5])
            answers = await router.route_many(leads)
            assert ["routed"] * 5 + ["Busy"] + ["routed"] * 2 == kinds(answers)
            assert ("validated", None, None) == await lead_row(connection, leads[5])
        assert (await router.route(leads[5])).outcome == "routed"
    assert [] == await violations(connection)


REFUSALS = {
    "raise exception": "raise exception 'not on our watch'",
    "a state of its own": "raise exception 'not on our watch' using errcode = 'LD001'",
    "an error in it": "perform 1 / (new.status <> 'routed')::int",
    "insufficient privilege": "raise insufficient_privilege using message = 'not on our watch'",
    "a table that is gone": "execute 'select from nowhere'",
    "a column that is gone": "perform new.nothing",
    "a function that is gone": "perform nothing()",
    "no data": "raise no_data_found using message = 'not on our watch'",
    "an assertion": "assert false, 'not on our watch'",
    **{
        f"the server's own {code}": f"raise exception 'not on our watch' using errcode = '{code}'"
        for code in ("08000", "25006", "26000", "40001", "40P01", "53400", "55P03", "57014", "57P01")
    },
}


@pytest.mark.parametrize("how", REFUSALS)
async def test_lead_that_a_trigger_of_the_host_refuses_is_refused_alone(
    database: str, connection: asyncpg.Connection, how: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, enrollment={"daily_cap": 8})
    await make_policy(connection)
    leads = [await make_lead(connection, offer, city=city) for city in ("A", "B", "bad", "C", "bad", "D")]
    await connection.execute(
        "create function refuse() returns trigger language plpgsql as $$ begin "
        f"if new.status = 'routed' and new.city = 'bad' then {REFUSALS[how]}; end if; return new; end $$"
    )
    await connection.execute("create trigger refuse before update on leads for each row execute function refuse()")
    async with Router.open(database) as router:
        answers = await router.route_many(leads)
        assert ["routed", "routed", "Refused", "routed", "Refused", "routed"] == kinds(answers)
        with pytest.raises(Refused, match=r"\A[^\n]+\Z"):
            await router.route(leads[2])
        assert ("validated", None, None) == await lead_row(connection, leads[2])
        async with connection.transaction():
            with pytest.raises(Refused):
                await router.route(leads[2], connection=connection)
            assert await connection.fetchval("select 1") == 1
        await connection.execute("drop trigger refuse on leads")
        assert ["routed"] * 2 == kinds(await router.route_many([leads[2], leads[4]]))
    assert await connection.fetchval("select max(used) from pointsman.cap_usage") == 6
    assert [] == await violations(connection)


async def test_lead_that_a_constraint_of_the_host_refuses_is_refused_with_the_servers_message(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead, good = await make_lead(connection, offer, city="bad"), await make_lead(connection, offer)
    await connection.execute("alter table leads add constraint house_rule check (city <> 'bad' or buyer_id is null)")
    async with Router.open(database) as router:
        with pytest.raises(Refused, match="house_rule"):
            await router.route(lead)
        assert ["Refused", "routed"] == kinds(await router.route_many([lead, good]))
    assert [buyer] == [record["buyer_id"] for record in await records(connection)]


async def test_trigger_of_the_host_that_swallows_the_write_does_not_pass_for_an_assignment(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    await connection.execute(
        "create function swallow() returns trigger language plpgsql as $$ begin return null; end $$"
    )
    await connection.execute("create trigger swallow before update on leads for each row execute function swallow()")
    async with Router.open(database) as router:
        (answer,) = await router.route_many([lead])
    assert ["Refused"] == kinds([answer])
    assert [] == await records(connection)


async def test_deleted_buyer_is_a_conflict_and_the_lead_goes_to_the_next(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("delete from buyers where id = $1", first)
        call = asyncio.ensure_future(router.route(lead))
        await waiting_for_a_lock(connection)  # for the row that the lead's foreign key points to
        await transaction.commit()
        assert (await call).buyer_id == second


async def test_instant_older_than_five_seconds_is_refused_by_the_claim(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        await let_clock_jump(connection, NOON, 6)
        (answer,) = await router.route_many([lead])
        assert isinstance(answer, Busy)
        assert [] == await records(connection)
        await set_clock(connection, NOON)
        assert (await router.route(lead)).outcome == "routed"


async def test_caller_that_gives_up_leaves_the_others_their_answers(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(6)]
    async with Router.open(database) as router:
        calls = [asyncio.ensure_future(router.route(lead)) for lead in (*leads, *leads)]
        await asyncio.sleep(0)
        for call in calls[:3]:
            call.cancel()
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[:3])
        assert all(isinstance(answer, Outcome) and answer.buyer_id for answer in answers[3:])


# inside a caller's transaction


async def test_decision_in_a_callers_transaction_commits_with_it(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, enrollment={"daily_cap": 1})
    await make_policy(connection)
    async with another(database) as host, Router.open(database) as router:
        async with host.transaction():
            lead = await make_lead(host, offer)  # nobody else sees it yet
            outcome = await router.route(lead, connection=host)
            assert ("routed", buyer, "routed") == (outcome.outcome, outcome.buyer_id, outcome.status)
            assert ("routed", buyer, outcome.decided_at) == await lead_row(host, lead)
            assert [] == await records(connection)
            again = await router.route(lead, connection=host)
            assert ("already_routed", outcome.decision_id) == (again.outcome, again.decision_id)
        assert [outcome.decision_id] == [record["id"] for record in await records(connection)]
        assert (await router.route(await make_lead(connection, offer))).cause == "no_eligible_buyers"
    assert [] == await violations(connection)


@pytest.mark.parametrize("strategy", ["priority", "rotation", "weighted"])
async def test_decision_in_a_callers_transaction_rolls_back_with_it_and_leaks_nothing(
    database: str, connection: asyncpg.Connection, strategy: str
) -> None:
    offer = await make_offer(connection)
    for rank in (1, 2):
        await make_candidate(connection, offer, daily_cap=1, enrollment={"priority_rank": rank, "hourly_cap": 1})
    await make_policy(connection, rules=rules(strategy={"kind": strategy}))
    lead, other = await make_lead(connection, offer), await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        before = await written(connection)
        transaction = host.transaction()
        await transaction.start()
        taken = await router.route(lead, connection=host)
        assert taken.outcome == "routed"
        await transaction.rollback()
        assert before == await written(connection)
        again = await router.route(lead)
        assert ("routed", taken.buyer_id) == (again.outcome, again.buyer_id)
        second = await router.route(other)
        assert second.outcome == "routed"
        assert {again.buyer_id, second.buyer_id} == set(await connection.fetchval("select array_agg(id) from buyers"))
    assert [] == await violations(connection)


async def test_nothing_of_a_callers_rolled_back_transaction_is_believed_afterwards(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyers = [await make_candidate(connection, offer, enrollment={"daily_cap": 2}) for _ in range(3)]
    await make_policy(connection, rules=ROTATION)
    expected = []
    async with another(database) as host, Router.open(database) as router, Router.open(database) as fresh:
        for turn in range(6):
            transaction = host.transaction()
            await transaction.start()
            rolled_back = await router.route(await make_lead(connection, offer), connection=host)
            assert rolled_back.outcome == "routed"
            await transaction.rollback()
            lead = await make_lead(connection, offer)
            would = await fresh.explain(lead)
            outcome = await router.route(lead)
            assert would.outcome.buyer_id == outcome.buyer_id
            expected.append(outcome.buyer_id)
            assert len(set(expected[-3:])) == min(turn + 1, 3)
        assert sorted(buyers * 2) == sorted(expected)
    assert [] == await violations(connection)


async def test_caller_that_waits_makes_a_rival_busy_and_not_wrong(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, enrollment={"daily_cap": 1})
    await make_policy(connection)
    lead, rival = await make_lead(connection, offer), await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        async with host.transaction():
            await router.route(lead, connection=host)
            assert ["Busy"] == kinds(await router.route_many([rival]))
        assert ["no_route"] == kinds(await router.route_many([rival]))
    assert [] == await violations(connection)


async def test_conflict_in_a_callers_transaction_is_decided_again_and_keeps_its_work(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    for _ in range(2):
        await make_candidate(connection, offer, enrollment={"daily_cap": 1})
    await make_policy(connection)
    async with another(database) as host, Router.open(database) as one, Router.open(database) as two:
        taken = await one.route(await make_lead(connection, offer))
        async with host.transaction():
            lead = await make_lead(host, offer, city="kept")
            outcome = await two.route(lead, connection=host)  # which believes that both have room
            assert outcome.outcome == "routed"
            assert outcome.buyer_id != taken.buyer_id
            third = await make_lead(host, offer)
            assert (await two.route(third, connection=host)).outcome == "no_route"
        assert await connection.fetchval("select city from leads where id = $1", lead) == "kept"
    assert [] == await violations(connection)


async def test_busy_or_refused_call_leaves_the_callers_transaction_usable_and_its_locks_free(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, enrollment={"daily_cap": 9})
    await make_policy(connection)
    lead, held = await make_lead(connection, offer), await make_lead(connection, offer)
    async with another(database) as host, another(database) as rival, Router.open(database) as router:
        async with rival.transaction():
            await rival.execute("select from leads where id = $1 for update", held)
            async with host.transaction():
                kept = await make_lead(host, offer, city="kept")
                with pytest.raises(Busy):
                    await router.route(held, connection=host)
                assert (await router.route(lead)).outcome == "routed"  # nothing of what it tried is still locked
                with pytest.raises(LeadNotFound):
                    await router.route(uuid4(), connection=host)
                assert await host.fetchval("select city from leads where id = $1", kept) == "kept"
        assert await connection.fetchval("select city from leads where id = $1", kept) == "kept"
    assert [] == await violations(connection)


async def test_buyer_deleted_under_a_callers_claim_is_a_conflict(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, another(database) as caller, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("delete from buyers where id = $1", first)
        async with caller.transaction():
            await caller.execute("set local application_name = 'pointsman'")  # for the wait to be seen
            call = asyncio.ensure_future(router.route(lead, connection=caller))
            await waiting_for_a_lock(connection)
            await transaction.commit()
            assert (await call).buyer_id == second


async def test_no_route_in_a_callers_transaction_is_recorded_if_that_commits(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        assert (await router.route(lead, connection=host)).cause == "no_eligible_buyers"
        await transaction.rollback()
        assert [] == await records(connection)
        async with host.transaction():
            outcome = await router.route(lead, connection=host)
        assert outcome == await router.route(lead)


@pytest.mark.parametrize(
    ("begin", "why"),
    [
        ("begin isolation level repeatable read", "repeatable read"),
        ("begin isolation level serializable", "serializable"),
        ("begin read only", "read-only"),
        ("begin; update buyers set status = 'paused'", "configuration"),
        ("begin; savepoint a; delete from buyers; release a", "configuration"),
    ],
)
async def test_transaction_that_cannot_carry_a_decision_is_refused_with_the_reason(
    database: str, connection: asyncpg.Connection, begin: str, why: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        await host.execute(begin)
        with pytest.raises(UnsuitableTransaction, match=why):
            await router.route(lead, connection=host)
        assert await host.fetchval("select 1") == 1
        await host.execute("rollback")
    assert ("validated", None, None) == await lead_row(connection, lead)


async def test_configuration_change_that_was_rolled_back_to_a_savepoint_is_none(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        await host.execute("begin; savepoint a; update buyers set status = 'paused'; rollback to a")
        assert (await router.route(lead, connection=host)).buyer_id == buyer
        await host.execute("commit")


async def test_callers_session_whose_plans_are_older_than_the_log_does_not_read_all_of_it(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(40)]
    tables = ["pointsman.config_commit", "pointsman.config_log"]
    await analyse_for_good(connection, tables)
    async with Router.open(database) as router, another(database) as caller:
        await caller.execute("set application_name = 'pointsman'")  # whose end is waited for
        for number, lead in enumerate(leads):
            async with caller.transaction():
                assert (await router.route(lead, connection=caller)).outcome == "routed"
            if number < 8:
                for seconds in range(40):
                    await connection.execute("update buyers set sla_response_seconds = $1", seconds)
                await follows(router, connection)
    await ended(connection)
    assert await rows_read(connection, tables) < 320 * 10 + 40 * 10


@pytest.mark.parametrize("sealed", ["set constraints all immediate", "savepoint s; set constraints all immediate"])
async def test_configuration_change_that_was_sealed_before_its_commit_is_never_decided_on(
    sealed: str, database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        await host.execute(f"begin; update buyers set status = 'paused'; {sealed}")
        with pytest.raises(UnsuitableTransaction):
            await router.route(lead, connection=host)
        await host.execute("rollback")
        assert (await router.route(lead)).outcome == "routed"
    assert [] == await violations(connection)


async def test_connection_without_a_transaction_or_with_a_broken_one_is_refused(
    database: str, connection: asyncpg.Connection
) -> None:
    lead = await make_lead(connection, None)
    async with another(database) as host, Router.open(database) as router:
        with pytest.raises(UnsuitableTransaction, match="no open transaction"):
            await router.route(lead, connection=host)
        with pytest.raises(UnsuitableTransaction):
            await router.route(lead, connection=object())
        await host.execute("begin")
        with pytest.raises(asyncpg.PostgresError):
            await host.execute("select 1 / 0")
        with pytest.raises(UnsuitableTransaction):
            await router.route(lead, connection=host)
        await host.execute("rollback")
    assert [] == await records(connection)


async def test_callers_connection_that_is_gone_is_the_databases_absence(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        await host.execute("begin")
        await connection.execute("select pg_terminate_backend($1)", host.get_server_pid())
        with pytest.raises(StoreUnavailable):
            await router.route(lead, connection=host)
        assert (await router.route(lead)).outcome == "routed"


async def test_pool_connection_of_the_caller_is_as_good_as_a_plain_one(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with (
        asyncpg.create_pool(database, min_size=1, max_size=1) as pool,
        Router.open(database) as router,
        pool.acquire() as host,
        host.transaction(),
    ):
        assert (await router.route(lead, connection=host)).buyer_id == buyer


async def test_sqlalchemy_connection_and_session_carry_a_decision_with_their_work(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(4)]
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    mark = text("update leads set city = 'marked' where id = :id")
    async with Router.open(database) as router:
        async with engine.begin() as host:
            await host.execute(mark, {"id": leads[0]})
            assert (await router.route(leads[0], connection=host)).buyer_id == buyer
        async with AsyncSession(engine) as session, session.begin():
            assert (await router.route(leads[1], connection=session)).buyer_id == buyer
            await session.execute(mark, {"id": leads[1]})
        async with engine.connect() as host:
            transaction = await host.begin()
            await host.execute(mark, {"id": leads[2]})
            assert (await router.route(leads[2], connection=host)).outcome == "routed"
            await transaction.rollback()
        async with AsyncSession(engine) as session:
            await session.execute(mark, {"id": leads[3]})
            assert (await router.route(leads[3], connection=session)).outcome == "routed"
            await session.rollback()
        rows = await connection.fetch("select city, buyer_id from leads order by array_position($1, id)", leads)
        assert [("marked", buyer)] * 2 + [("Chicago", None)] * 2 == [tuple(row) for row in rows]
        async with engine.connect() as host, AsyncSession(engine) as session:
            with pytest.raises(UnsuitableTransaction):
                await router.route(leads[2], connection=host)
            with pytest.raises(UnsuitableTransaction):
                await router.route(leads[2], connection=session)
        async with engine.connect() as host:
            await host.execution_options(isolation_level="REPEATABLE READ")
            async with host.begin():
                with pytest.raises(UnsuitableTransaction, match="repeatable read"):
                    await router.route(leads[2], connection=host)
        async with engine.connect() as host:
            await host.execution_options(isolation_level="AUTOCOMMIT")
            async with host.begin():
                with pytest.raises(UnsuitableTransaction):
                    await router.route(leads[2], connection=host)
    await engine.dispose()
    assert len(await records(connection)) == 2
    assert [] == await violations(connection)


# round trips


async def test_decision_without_a_conflict_takes_two_round_trips_and_fewer_in_a_batch(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    caps = {"hourly_cap": 500, "daily_cap": 600}
    for _ in range(3):
        await make_candidate(connection, offer, **caps, enrollment=caps)
    await make_policy(connection, rules=ROTATION)
    nowhere = await make_lead(connection, offer, market_id=ELSEWHERE)
    leads = [await make_lead(connection, offer) for _ in range(60)]
    async with Wire(database) as wire, Router.open(wire.dsn, listen_dsn=database) as router:

        async def trips(*asked: UUID) -> int:
            before = wire.trips
            await router.route_many(asked)
            return wire.trips - before

        assert await trips(leads[0]) == 2  # every counter and turn seen for the first time
        assert [2] * 5 == [await trips(lead) for lead in leads[1:6]]
        assert await trips(leads[0]) == 1  # already routed
        assert await trips(uuid4()) == 1
        assert await trips(nowhere) == 2
        assert await trips(nowhere) == 2  # a repeated no-route rests on premises too
        assert await trips(*leads[6:36]) == 2
        assert await trips(*leads[36:56]) == 2
        await set_clock(connection, datetime.now(UTC) + timedelta(days=2))
        assert await trips(leads[56]) == 2  # new windows
        await connection.execute("update buyers set sla_response_seconds = 5")
        await follows(router, connection)
        assert await trips(leads[57]) == 2  # a change that the feed has brought
    assert len(await records(connection)) == 59


async def test_decision_on_wrong_beliefs_takes_a_bounded_number_of_round_trips(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    for _ in range(5):
        await make_candidate(connection, offer, enrollment={"daily_cap": 3})
    await make_policy(connection, rules=ROTATION)
    async with (
        Wire(database) as wire,
        Router.open(wire.dsn, listen_dsn=database) as router,
        Router.open(database) as rival,
    ):
        for _ in range(7):
            await rival.route(await make_lead(connection, offer))
            lead = await make_lead(connection, offer)
            before = wire.trips
            assert (await router.route(lead)).outcome == "routed"
            assert wire.trips - before <= 10
    assert [] == await violations(connection)


async def test_routing_leads_notifies_nobody(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, enrollment={"daily_cap": 8})
    await make_policy(connection, rules=ROTATION)
    leads = [await make_lead(connection, offer) for _ in range(10)]
    heard: asyncio.Queue[str] = asyncio.Queue()
    async with Router.open(database) as router, another(database) as listener:
        await listener.add_listener("pointsman", lambda *message: heard.put_nowait(message[-1]))
        await router.route_many(leads[:8])
        assert "no_route" == (await router.route(leads[8])).outcome
        async with connection.transaction():
            await router.route(leads[9], connection=connection)
        await connection.execute("notify pointsman, 'the first that was said'")  # messages come in order of commits
        assert "the first that was said" == await asyncio.wait_for(heard.get(), 5)

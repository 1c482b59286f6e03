"""Explanations on a real database: of now, of what the router decided, and that they write nothing."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.engine.strategy import lead_hash
from pointsman.errors import (
    DecisionDiffers,
    DecisionNotFound,
    HistoryHole,
    HistoryPruned,
    LeadNotFound,
    PointsmanError,
    StoreUnavailable,
)
from pointsman.model import Explanation, NearestMiss, Outcome, OutcomeKind
from pointsman.replay import replay
from pointsman.store import READERS
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
from tests.stage import another, codes, records, set_clock, version, waiting_for_a_lock, why_not, written

NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)  # a Wednesday in Chicago, where it is 12:00
HOUR = {"window_start": NOON, "window_end": NOON + timedelta(hours=1)}
DAY = {"window_start": NOON.replace(hour=6), "window_end": NOON.replace(day=5, hour=6)}
ROTATION = rules(strategy={"kind": "rotation"}, tie_breakers=["buyer_id"])
MORNINGS = {"weekly": {"wed": [["08:00", "12:00"]], "thu": [["08:00", "12:00"]]}}


def ranks(explanation: Explanation) -> list[UUID]:
    """The eligible buyers in their order."""
    assert list(range(1, len(explanation.eligible) + 1)) == [ranked.rank for ranked in explanation.eligible]
    return [ranked.buyer_id for ranked in explanation.eligible]


# of now


async def test_explanation_of_now_is_what_route_does_next_and_writes_nothing(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    for rank in range(4):
        await make_candidate(
            connection, offer, daily_cap=3, enrollment={"priority_rank": rank % 2, "hourly_cap": rank, "weight": rank}
        )
    await make_policy(connection, rules=rules(tie_breakers=["least_recently_routed", "buyer_id"]))
    async with Router.open(database) as router:
        for _ in range(8):
            lead = await make_lead(connection, offer)
            before = await written(connection)
            would = await router.explain(lead)
            assert before == await written(connection)
            assert (None, "validated") == (would.outcome.decision_id, would.outcome.status)
            outcome = await router.route(lead)
            assert (would.outcome.outcome, would.outcome.cause, would.outcome.buyer_id) == (
                outcome.outcome,
                outcome.cause,
                outcome.buyer_id,
            )
            assert [outcome.buyer_id] == (ranks(would)[:1] or [None])


async def test_explanations_that_wait_keep_no_lead_waiting(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    async with Router.open(database, connections=2) as router, another(database) as host:
        first = await router.route(await make_lead(connection, offer))
        assert first.decision_id is not None
        leads = [await make_lead(connection, offer) for _ in range(20)]
        async with host.transaction():
            await host.execute("lock table pointsman.pruned in access exclusive mode")
            explaining = [asyncio.create_task(router.explain_decision(first.decision_id)) for _ in range(6)]
            await waiting_for_a_lock(connection)
            answers = await router.route_many(leads)
            assert not any(task.done() for task in explaining)
        assert [OutcomeKind.ROUTED] * 20 == [getattr(answer, "outcome", answer) for answer in answers]
        for explanation in await asyncio.gather(*explaining):
            assert explanation.outcome.buyer_id == first.buyer_id


async def test_explanation_that_no_connection_comes_free_for_says_so(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    async with Router.open(database, timeout=0.5) as router:
        decision_id = (await router.route(await make_lead(connection, offer))).decision_id
        assert decision_id is not None
        async with AsyncExitStack() as stack:
            for _ in range(READERS):
                await stack.enter_async_context(router._store.reader())
            with pytest.raises(StoreUnavailable, match=r"^each of the 2 connections was in use for 0\.5 s$"):
                await router.explain_decision(decision_id)
        assert (await router.explain_decision(decision_id)).outcome.decision_id == decision_id


async def test_eligible_are_listed_in_rank_order_with_what_ranked_them(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 20, "weight": 3})
    first = await make_candidate(connection, offer, sla_response_seconds=60, enrollment={"priority_rank": 10})
    policy = await make_policy(connection, version=4)
    lead, earlier = await make_lead(connection, offer), await make_lead(connection, offer)
    async with Router.open(database) as router:
        position = (await router.route(earlier)).decision_id
        explanation = await router.explain(lead)
    expected = Outcome(lead, "routed", None, first, "routed", None, policy, 4, await version(connection), NOON, ())
    # the lead is not routed yet, and its status is the one it has
    assert Outcome(**{**_fields(expected), "status": "validated"}) == explanation.outcome
    assert [
        (first, 1, 10, 1, 60, position, f"{lead_hash(lead, first, b''):016x}"),
        (second, 2, 20, 3, None, None, f"{lead_hash(lead, second, b''):016x}"),
    ] == [
        (
            ranked.buyer_id,
            ranked.rank,
            ranked.priority_rank,
            ranked.weight,
            ranked.sla_response_seconds,
            ranked.position,
            ranked.lead_hash,
        )
        for ranked in explanation.eligible
    ]
    assert () == explanation.excluded


async def test_missing_balance_is_looked_up_for_an_explanation_of_now(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, balance=Decimal("7.25"), min_balance=Decimal("10.00"))
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        (excluded,) = (await router.explain(lead)).excluded
        assert (buyer, NearestMiss("add_balance", {"amount": "2.75"})) == (excluded.buyer_id, excluded.nearest_miss)
        past = await router.explain_decision((await router.route(lead)).decision_id or 0)
    assert NearestMiss("add_balance", {"amount": None}) == past.excluded[0].nearest_miss


def _fields(outcome: Outcome) -> dict[str, object]:
    return {name: getattr(outcome, name) for name in Outcome.__slots__}


async def test_everyone_enrolled_is_excluded_with_every_reason_in_order_of_buyers(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer, other = await make_offer(connection), await make_offer(connection)
    await make_policy(connection, rules=rules(sla={"mode": "require", "max_response_seconds": 60}))
    winner = await make_candidate(connection, offer, sla_response_seconds=60)
    inactive = await make_candidate(connection, offer, status="paused", enrollment={"is_active": False})
    elsewhere = await make_buyer(connection, status="paused")
    await enroll(connection, elsewhere, offer)
    await make_area(connection, elsewhere, market_id=uuid4())
    everything = await make_candidate(
        connection,
        offer,
        status="paused",
        hours=MORNINGS,
        balance=1,
        min_balance=2,
        sla_response_seconds=61,
        hourly_cap=0,
        daily_cap=0,
        enrollment={"hourly_cap": 0, "daily_cap": 0},
    )
    unknown = await make_candidate(connection, offer)
    await make_candidate(connection, other)  # is no business of this offer
    async with Router.open(database) as router:
        explanation = await router.explain(await make_lead(connection, offer))
    assert [winner] == ranks(explanation)
    assert sorted([inactive, elsewhere, everything, unknown]) == [out.buyer_id for out in explanation.excluded]
    assert [{"code": "enrollment_inactive"}] == why_not(explanation, inactive)
    assert [{"code": "not_in_service_area"}] == why_not(explanation, elsewhere)
    assert [
        {"code": "buyer_paused"},
        {
            "code": "outside_acceptance_hours",
            "timezone": "America/Chicago",
            "local_time": "2026-03-04T12:00:00",
            "next_opening": datetime(2026, 3, 5, 14, 0, tzinfo=UTC),
        },
        {"code": "hourly_cap_reached", "level": "enrollment", "used": 0, "cap": 0, **HOUR},
        {"code": "hourly_cap_reached", "level": "buyer", "used": 0, "cap": 0, **HOUR},
        {"code": "daily_cap_reached", "level": "enrollment", "used": 0, "cap": 0, **DAY},
        {"code": "daily_cap_reached", "level": "buyer", "used": 0, "cap": 0, **DAY},
        {"code": "below_min_balance"},
        {"code": "sla_too_slow", "sla_response_seconds": 61, "max_response_seconds": 60},
    ] == why_not(explanation, everything)
    assert [{"code": "sla_too_slow", "sla_response_seconds": None, "max_response_seconds": 60}] == why_not(
        explanation, unknown
    )


@pytest.mark.parametrize(
    ("scopes", "lead", "reason"),
    [
        (["postal_code"], {"postal_code": None}, {"code": "geo_missing", "missing": ["postal_code"]}),
        (["city"], {"city": " "}, {"code": "geo_missing", "missing": ["city"]}),
        (
            ["city", "postal_code"],
            {"city": None, "postal_code": "\t"},
            {"code": "geo_missing", "missing": ["postal_code", "city"]},
        ),
        (["city", "postal_code"], {"postal_code": None, "city": "Evanston"}, {"code": "not_in_service_area"}),
        (["postal_code"], {"postal_code": "60615"}, {"code": "not_in_service_area"}),
        ([], {"postal_code": None, "city": None}, {"code": "not_in_service_area"}),
    ],
)
async def test_reason_tells_what_the_lead_lacks_from_where_the_buyer_is_not(
    database: str, connection: asyncpg.Connection, scopes: list[str], lead: dict[str, str], reason: dict[str, object]
) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    buyer = await make_buyer(connection)
    await enroll(connection, buyer, offer)
    await make_area(connection, buyer, market_id=uuid4())
    for scope in scopes:
        await make_area(connection, buyer, scope=scope, value="60614" if scope == "postal_code" else "Chicago")
    async with Router.open(database) as router:
        explanation = await router.explain(await make_lead(connection, offer, **lead))
    assert [reason] == why_not(explanation, buyer)


async def test_used_of_a_full_cap_is_the_truth_and_not_this_routers_belief(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, daily_cap=3)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as one, Router.open(database) as two:
        for _ in range(3):
            await one.route(await make_lead(connection, offer))
        full = {"code": "daily_cap_reached", "level": "buyer", "used": 3, "cap": 3, **DAY}
        assert [full] == why_not(await two.explain(lead), buyer)
        await connection.execute("update buyer_offers set hourly_cap = 2")  # nobody has counted under this one yet
        assert [
            {"code": "hourly_cap_reached", "level": "enrollment", "used": 3, "cap": 2, **HOUR},
            full,
        ] == why_not(await two.explain(lead), buyer)


async def test_explanation_knows_every_change_that_was_committed_before_it(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        for status, expected in (("paused", ["buyer_paused"]), ("active", [])) * 4:
            await connection.execute("update buyers set status = $1", status)
            explanation = await router.explain(lead)
            assert expected == codes(explanation, buyer)
            assert await version(connection) == explanation.outcome.config_version


@pytest.mark.parametrize(
    ("cause", "statement"),
    [
        ("no_policy", "delete from routing_policies"),
        ("policy_invalid", "update routing_policies set rules = '{}'"),
        ("offer_inactive", "update offers set is_active = false"),
    ],
)
async def test_cause_before_the_search_for_buyers_leaves_both_lists_empty(
    database: str, connection: asyncpg.Connection, cause: str, statement: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    await connection.execute(statement)
    async with Router.open(database) as router:
        explanation = await router.explain(lead)
        assert (cause, (), ()) == (explanation.outcome.cause, explanation.eligible, explanation.excluded)
        recorded = await router.explain_decision((await router.route(lead)).decision_id or 0)
        assert (cause, (), ()) == (recorded.outcome.cause, recorded.eligible, recorded.excluded)
    assert [cause] == [record["cause"] for record in await records(connection)]


@pytest.mark.parametrize("status", ["new", "rejected", "routed"])
async def test_lead_that_cannot_be_routed_is_explained_by_its_outcome_alone(
    database: str, connection: asyncpg.Connection, status: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer, status=status)
    async with Router.open(database) as router:
        assert Explanation(Outcome(lead, "not_validated", None, None, status)) == await router.explain(lead)


async def test_lead_that_the_host_assigned_is_explained_by_its_outcome_alone(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    lead = await make_lead(connection, offer, status="sold", buyer_id=buyer)
    async with Router.open(database) as router:
        assert Explanation(Outcome(lead, "already_routed", None, buyer, "sold")) == await router.explain(lead)


async def test_unknown_lead_and_unknown_decision_are_errors(database: str) -> None:
    async with Router.open(database) as router:
        with pytest.raises(LeadNotFound):
            await router.explain(uuid4())
        with pytest.raises(DecisionNotFound):
            await router.explain_decision(1)


@pytest.mark.parametrize("when_ineligible", ["fail_closed", "fallback_allowed"])
async def test_exclusivity_is_the_reason_of_those_that_it_keeps_out(
    database: str, connection: asyncpg.Connection, when_ineligible: str
) -> None:
    offer = await make_offer(connection)
    holder = await make_candidate(connection, offer, enrollment={"priority_rank": 9})
    others = sorted([await make_candidate(connection, offer) for _ in range(2)])
    paused = await make_candidate(connection, offer, status="paused")
    await make_policy(connection, rules=rules(exclusivity={"when_ineligible": when_ineligible}))
    exclusivity = await make_exclusivity(connection, offer, holder, scope="market", market_id=MARKET)
    held = [{"code": "held_by_exclusive_buyer", "buyer_id": holder, "exclusivity_id": exclusivity}]
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        open_to_holder = await router.explain(lead)
        assert [holder] == ranks(open_to_holder)
        assert [held, held] == [why_not(open_to_holder, other) for other in others]
        assert ["buyer_paused"] == codes(open_to_holder, paused)
        await connection.execute("update buyers set status = 'paused' where id = $1", holder)
        closed = await router.explain(lead)
        assert ["buyer_paused"] == codes(closed, holder)
        if when_ineligible == "fail_closed":
            assert ("no_route_exclusive_fail_closed", []) == (closed.outcome.outcome, ranks(closed))
            assert [held, held] == [why_not(closed, other) for other in others]
        else:
            assert (("exclusive_fallback",), set(others)) == (closed.outcome.flags, set(ranks(closed)))
        await connection.execute("delete from buyer_offers where buyer_id = $1", holder)
        assert [{"code": "not_enrolled"}] == why_not(await router.explain(lead), holder)


# of the past


async def test_routed_lead_is_explained_by_what_happened_though_everything_changed_since(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    full = await make_candidate(connection, offer, enrollment={"priority_rank": 1, "daily_cap": 2})
    winner = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    paused = await make_candidate(connection, offer, status="paused")
    policy = await make_policy(connection, version=2)
    leads = [await make_lead(connection, offer) for _ in range(4)]
    async with Router.open(database) as router:
        for lead in leads[:2]:
            await router.route(lead)
        would = await router.explain(leads[2])
        outcome = await router.route(leads[2])
        await router.route(leads[3])
        await connection.execute("update buyers set status = case status when 'paused' then 'active' else 'paused' end")
        await connection.execute("update buyer_offers set daily_cap = 100, priority_rank = 50")
        await connection.execute("update leads set status = 'sold' where id = $1", leads[2])
        await connection.execute("delete from routing_policies")
        await set_clock(connection, NOON + timedelta(days=40))
        before = await written(connection)
        explanation = await router.explain(leads[2])
        assert before == await written(connection)
    assert Outcome(**{**_fields(outcome), "status": "sold"}) == explanation.outcome
    assert ("routed", winner, policy) == (
        explanation.outcome.outcome,
        explanation.outcome.buyer_id,
        explanation.outcome.policy_id,
    )
    assert (would.eligible, would.excluded) == (explanation.eligible, explanation.excluded)
    assert [winner] == ranks(explanation)
    assert [{"code": "daily_cap_reached", "level": "enrollment", "used": 2, "cap": 2, **DAY}] == why_not(
        explanation, full
    )
    assert ["buyer_paused"] == codes(explanation, paused)


async def test_past_positions_are_those_before_the_decision(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyers = sorted([await make_candidate(connection, offer) for _ in range(3)])
    await make_policy(connection, rules=ROTATION)
    leads = [await make_lead(connection, offer) for _ in range(7)]
    async with Router.open(database) as router:
        would, ids = [], []
        for lead in leads:
            would.append(await router.explain(lead))
            ids.append((await router.route(lead)).decision_id)
        did = [await router.explain(lead) for lead in leads]
    assert [explanation.eligible for explanation in would] == [explanation.eligible for explanation in did]
    assert [None, None, None] == [ranked.position for ranked in did[0].eligible]
    assert [*buyers[1:], buyers[0]] == ranks(did[4])
    assert ids[1:4] == [ranked.position for ranked in did[4].eligible]


async def test_past_no_route_is_explained_by_its_decision(database: str, connection: asyncpg.Connection) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, daily_cap=1)
    await make_policy(connection)
    first, lead = await make_lead(connection, offer), await make_lead(connection, offer)
    async with Router.open(database) as router:
        await router.route(first)
        outcome = await router.route(lead)
        await connection.execute("update buyers set daily_cap = 5")
        routed = await router.route(lead)
        past = await router.explain_decision(outcome.decision_id or 0)
        assert Outcome(**{**_fields(outcome), "status": "routed"}) == past.outcome
        assert [{"code": "daily_cap_reached", "level": "buyer", "used": 1, "cap": 1, **DAY}] == why_not(past, buyer)
        assert routed.decision_id == (await router.explain(lead)).outcome.decision_id


async def test_decision_in_a_batch_is_explained_by_what_those_before_it_left(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyers = [await make_candidate(connection, offer, enrollment={"daily_cap": 2}) for _ in range(2)]
    await make_policy(connection, rules=ROTATION)
    leads = [await make_lead(connection, offer) for _ in range(5)]
    async with Router.open(database) as router:
        outcomes = [answer for answer in await router.route_many(leads) if isinstance(answer, Outcome)]
        last = await router.explain_decision(outcomes[3].decision_id or 0)
        nobody = await router.explain_decision(outcomes[4].decision_id or 0)
    assert [outcomes[3].buyer_id] == ranks(last)
    assert outcomes[1].decision_id == last.eligible[0].position
    assert [2, 2] == [why_not(nobody, buyer)[0]["used"] for buyer in buyers]


async def test_configuration_of_a_deleted_and_emptied_past_is_still_known(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    other = await make_candidate(connection, offer, status="paused")
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        await router.route(lead)
        await connection.execute("truncate buyer_service_areas, offer_exclusivities")
        await connection.execute("delete from buyer_offers")
        await connection.execute("delete from buyers where id = $1", other)
        explanation = await router.explain(lead)
    assert [buyer] == ranks(explanation)
    assert ["buyer_paused"] == codes(explanation, other)


# of a past that cannot be told


@pytest.fixture
async def past(database: str, connection: asyncpg.Connection) -> list[UUID]:
    """Leads of decisions 1 to 4 by rotation under caps, the configuration changing after each."""
    offer = await make_offer(connection)
    for _ in range(3):
        await make_candidate(connection, offer, enrollment={"daily_cap": 5})
    async with connection.transaction():  # so that what they lose does not leave an empty commit
        await make_policy(connection, rules=ROTATION)
        await make_offer(connection)
    leads = [await make_lead(connection, offer) for _ in range(4)]
    async with Router.open(database) as router:
        for seconds, lead in enumerate(leads):
            await router.route(lead)
            await connection.execute("update buyers set sla_response_seconds = $1", seconds)
    return leads


ENTRIES_OF = (
    "delete from pointsman.config_log where change_set = (select c.change_set from pointsman.config_commit c"
    " join pointsman.decisions d on d.config_version = c.version where d.id = {})"
)
COMMIT_OF = (
    "delete from pointsman.config_commit where version = (select config_version from pointsman.decisions where id = {})"
)
BUYERS_PAUSED = "update pointsman.config_log set row = row || '{\"status\": \"paused\"}' where rel = 'buyers'"
ANOTHER_BUYER = (
    "update pointsman.decisions d set buyer_id = o.buyer_id from pointsman.decisions o where d.id = 3 and o.id = 2"
)


@pytest.mark.parametrize(
    ("damage", "error", "said"),
    [
        ([COMMIT_OF.format(2)], HistoryHole, "have lost their commit"),
        ([ENTRIES_OF.format(2)], HistoryHole, "changed is missing"),
        ([ENTRIES_OF.format(3), COMMIT_OF.format(3)], HistoryHole, "which decision 3 was made on, is missing"),
        (["update pointsman.config_commit set baseline = false"], HistoryHole, "has no baseline"),
        (["delete from pointsman.config_log where rel = 'routing_policies'"], HistoryHole, "the policy `"),
        ([BUYERS_PAUSED], DecisionDiffers, "--decision 3"),
        (["update pointsman.decisions set city = 'Peoria' where id = 3"], DecisionDiffers, "--decision 3"),
        (["update pointsman.decisions set state = '\\xff' where id = 3"], DecisionDiffers, "--decision 3"),
        (["update pointsman.decisions set decided_at = 'infinity' where id = 3"], DecisionDiffers, "--decision 3"),
        ([ANOTHER_BUYER], DecisionDiffers, "--decision 3"),
    ],
    ids=["commit", "entries", "version", "baseline", "policy", "configuration", "lead", "state", "instant", "buyer"],
)
async def test_damaged_past_is_told_as_such_and_never_explained_wrongly(
    database: str,
    connection: asyncpg.Connection,
    past: list[UUID],
    damage: list[str],
    error: type[PointsmanError],
    said: str,
) -> None:
    for statement in damage:
        assert await connection.execute(statement) not in ("UPDATE 0", "DELETE 0")
    async with Router.open(database) as router:
        with pytest.raises(error, match=said) as caught:
            await router.explain_decision(3)
        assert "\n" not in str(caught.value)
    assert await replay_differs(database)


async def replay_differs(database: str) -> bool:
    """Whether replay finds a difference or a hole."""
    try:
        return bool((await replay(database)).same_version.different)
    except HistoryHole:
        return True


async def test_decisions_that_went_from_before_one_leave_it_unexplained(
    database: str, connection: asyncpg.Connection, past: list[UUID]
) -> None:
    """The fourth decision gave the first one's buyer its second turn, and counted one lead before it."""
    await connection.execute("delete from pointsman.decisions where id = 1")
    async with Router.open(database) as router:
        with pytest.raises(DecisionDiffers):
            await router.explain(past[3])


async def test_record_of_a_newer_release_that_decides_otherwise_is_said_to_be_one(
    database: str, connection: asyncpg.Connection, past: list[UUID]
) -> None:
    await connection.execute("update pointsman.decisions set engine_version = '99.0.0'")
    async with Router.open(database) as router:
        assert 3 == (await router.explain(past[2])).outcome.decision_id  # it comes out the same
        await connection.execute(BUYERS_PAUSED)
        with pytest.raises(DecisionDiffers, match=r"decision 3, which release 99\.0\.0 made,"):
            await router.explain(past[2])


@pytest.mark.parametrize(
    "damage",
    [
        ENTRIES_OF.format(4),
        "update pointsman.decisions set city = 'Peoria' where id = 2",
        "delete from pointsman.decisions where id = 4",
    ],
    ids=["later version", "another row", "later row"],
)
async def test_damage_that_is_no_business_of_a_decision_leaves_its_explanation_alone(
    database: str, connection: asyncpg.Connection, past: list[UUID], damage: str
) -> None:
    async with Router.open(database) as router:
        before = await router.explain_decision(3)
        assert await connection.execute(damage) not in ("UPDATE 0", "DELETE 0")
        assert before == await router.explain_decision(3)
        assert before == await router.explain(past[2])


async def test_decision_older_than_the_kept_history_says_so(
    database: str, connection: asyncpg.Connection, past: list[UUID]
) -> None:
    """As a decision would be that a prune of another release had left behind."""
    await connection.execute("insert into pointsman.pruned (before) values (pointsman.clock())")
    await connection.execute("update pointsman.config_commit set baseline = (version = $1)", await version(connection))
    async with Router.open(database) as router:
        with pytest.raises(HistoryPruned):
            await router.explain(past[0])


async def test_records_of_a_lead_come_newest_first(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        assert [] == await router.decisions(lead)
        first = await router.route(lead)
        await make_candidate(connection, offer)
        second = await router.route(lead)
        found = await router.decisions(lead)
        assert [second.decision_id, first.decision_id] == [record.decision_id for record in found]
        assert ["routed", "no_route"] == [record.outcome for record in found]
        assert found[1] == await router.decision(first.decision_id or 0)
        assert (VERTICAL, MARKET, "60614", "Chicago") == found[0].lead[2:6]
        with pytest.raises(LeadNotFound):
            await router.decisions(uuid4())
        with pytest.raises(DecisionNotFound):
            await router.decision((second.decision_id or 0) + 1)

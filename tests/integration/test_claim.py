"""The claim on a real database: caps and their windows, turns, and what several routers do to each other."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import cycle
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.errors import PointsmanError
from pointsman.model import Outcome
from tests.builders import (
    enroll,
    make_area,
    make_buyer,
    make_candidate,
    make_lead,
    make_leads,
    make_offer,
    make_policy,
    rules,
)
from tests.invariants import violations
from tests.stage import (
    NOBODY,
    analyse_for_good,
    another,
    ended,
    follows,
    kinds,
    records,
    rows_read,
    served,
    set_clock,
    waiting_for_a_lock,
    why_not,
    written,
)

NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)  # a Wednesday in Chicago
ROTATION = rules(strategy={"kind": "rotation"}, tie_breakers=["buyer_id"])
CAPS = [("enrollment", "hourly_cap"), ("enrollment", "daily_cap"), ("buyer", "hourly_cap"), ("buyer", "daily_cap")]
every_cap = pytest.mark.parametrize(("level", "cap"), CAPS)


async def capped(connection: asyncpg.Connection, offer: UUID, level: str, **limits: int | None) -> UUID:
    """A candidate with these caps on its enrollment or on the buyer itself."""
    if level == "buyer":
        return await make_candidate(connection, offer, **limits)
    return await make_candidate(connection, offer, enrollment=dict(limits))


async def set_cap(connection: asyncpg.Connection, level: str, cap: str, limit: int | None) -> None:
    await connection.execute(f"update {'buyers' if level == 'buyer' else 'buyer_offers'} set {cap} = $1", limit)


async def usage(connection: asyncpg.Connection, buyer: UUID, offer: UUID, kind: str) -> list[int]:
    """What the counters of one holder say, in the order of their windows."""
    rows = await connection.fetch(
        "select used from pointsman.cap_usage where buyer_id = $1 and offer_id = $2 and kind = $3"
        " order by window_start",
        buyer,
        offer,
        kind,
    )
    return [row["used"] for row in rows]


@asynccontextmanager
async def routers(database: str, count: int) -> AsyncIterator[list[Router]]:
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(Router.open(database)) for _ in range(count)]


async def all_at_once(of: Sequence[Router], leads: Sequence[UUID]) -> list[Outcome | PointsmanError]:
    """Every lead in a call of its own, dealt out to the routers."""
    calls = [router.route_many([lead]) for router, lead in zip(cycle(of), leads, strict=False)]
    return [answer for (answer,) in await asyncio.gather(*calls)]


# caps


@every_cap
async def test_cap_lets_as_many_leads_through_as_it_says(
    database: str, connection: asyncpg.Connection, level: str, cap: str
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    buyer = await capped(connection, offer, level, **{cap: 3})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 5)
    async with Router.open(database) as router:
        found = [await router.route(lead) for lead in leads]
    assert ["routed"] * 3 + ["no_route"] * 2 == kinds(found)
    holder, kind = NOBODY if level == "buyer" else offer, {"hourly_cap": "hour", "daily_cap": "day"}[cap]
    assert [3] == await usage(connection, buyer, holder, kind)
    assert [] == await violations(connection)


@every_cap
@pytest.mark.parametrize("count", [1, 3])
async def test_cap_reached_by_fifty_concurrent_calls_is_exact(
    database: str, connection: asyncpg.Connection, level: str, cap: str, count: int
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await capped(connection, offer, level, **{cap: 17})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 50)
    async with routers(database, count) as several:
        answers = await all_at_once(several, leads)
    assert {"routed": 17, "no_route": 33} == Counter(kinds(answers))
    assert await connection.fetchval("select count(*) from leads where status = 'routed'") == 17
    assert [] == await violations(connection)


async def test_caps_of_both_levels_and_kinds_bind_together_under_concurrent_calls(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    first, second = await make_offer(connection), await make_offer(connection)
    buyer = await make_candidate(connection, first, hourly_cap=9, daily_cap=30, enrollment={"hourly_cap": 5})
    await enroll(connection, buyer, second, daily_cap=6)
    await make_policy(connection)
    leads = [lead for offer in (first, second) for lead in await make_leads(connection, offer, 15)]
    async with routers(database, 3) as several:
        await all_at_once(several, leads)
    by_offer = Counter(row["offer_id"] for row in await records(connection) if row["buyer_id"])
    assert sum(by_offer.values()) == 9
    assert by_offer[first] <= 5
    assert by_offer[second] <= 6
    assert [9] == await usage(connection, buyer, NOBODY, "hour") == await usage(connection, buyer, NOBODY, "day")
    assert [by_offer[first]] == await usage(connection, buyer, first, "hour")
    assert [by_offer[second]] == await usage(connection, buyer, second, "day")
    assert [] == await violations(connection)


async def test_lead_reserves_all_of_its_caps_or_none(database: str, connection: asyncpg.Connection) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, hourly_cap=2, daily_cap=9, enrollment={"hourly_cap": 8})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 6)
    async with routers(database, 3) as several:  # each believes that there is room
        await all_at_once(several, leads)
        await all_at_once(several, leads)
    for holder, kind in ((NOBODY, "hour"), (NOBODY, "day"), (offer, "hour")):
        assert [2] == await usage(connection, buyer, holder, kind)


async def test_cap_of_zero_is_never(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    for level, cap in CAPS:
        await capped(connection, offer, level, **{cap: 0})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 3)
    async with Router.open(database) as router:
        assert ["no_route"] * 3 == kinds(await router.route_many(leads))
        assert "no_eligible_buyers" == (await router.route(leads[0])).cause


async def test_full_buyer_is_passed_over_for_the_next_within_one_batch(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    expected = []
    for rank in range(3):
        buyer = await make_candidate(connection, offer, enrollment={"priority_rank": rank, "daily_cap": 2})
        expected += [buyer] * 2
    await make_policy(connection)
    leads = await make_leads(connection, offer, 7)
    async with Router.open(database) as router:
        answers = await router.route_many(leads)
    assert [*expected, None] == [answer.buyer_id for answer in answers if isinstance(answer, Outcome)]
    assert [] == await violations(connection)


@every_cap
async def test_cap_added_in_mid_day_counts_the_morning(
    database: str, connection: asyncpg.Connection, level: str, cap: str
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 8)
    async with routers(database, 2) as (one, two):
        assert ["routed"] * 3 == kinds(await one.route_many(leads[:3]))
        await set_cap(connection, level, cap, 5)
        found = [await router.route(lead) for router, lead in zip(cycle((two, one)), leads[3:], strict=False)]
    assert ["routed"] * 2 + ["no_route"] * 3 == kinds(found)
    assert [] == await violations(connection)


@every_cap
async def test_cap_taken_away_and_set_again_counts_what_came_in_between(
    database: str, connection: asyncpg.Connection, level: str, cap: str
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await capped(connection, offer, level, **{cap: 2})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 9)
    async with routers(database, 2) as (one, two):
        assert (await one.route(leads[0])).outcome == "routed"
        await set_cap(connection, level, cap, None)
        assert ["routed"] * 4 == kinds(await two.route_many(leads[1:5]))
        await set_cap(connection, level, cap, 6)
        found = [await router.route(lead) for router, lead in zip(cycle((one, two)), leads[5:], strict=False)]
        assert ["routed"] + ["no_route"] * 3 == kinds(found)
        async with Router.open(database) as fresh:  # opened between two windows' counts
            await set_cap(connection, level, cap, 7)
            assert ["routed", "no_route"] == kinds(await fresh.route_many(leads[6:8]))
    assert [] == await violations(connection)


@every_cap
async def test_cap_set_again_at_what_came_in_between_is_full_also_for_who_counted_before(
    database: str, connection: asyncpg.Connection, level: str, cap: str
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    await capped(connection, offer, level, **{cap: 9})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 6)
    async with routers(database, 2) as (one, two):
        for lead in leads[:2]:  # the second on a counter that this router knows
            assert (await one.route(lead)).outcome == "routed"
        await set_cap(connection, level, cap, None)
        for lead in leads[2:5]:
            assert (await two.route(lead)).outcome == "routed"
        await set_cap(connection, level, cap, 5)
        assert (await one.route(leads[5])).cause == "no_eligible_buyers"
    assert [] == await violations(connection)


async def test_cap_lowered_below_what_was_used_is_full(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await capped(connection, offer, "buyer", daily_cap=5)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 5)
    async with Router.open(database) as router:
        await router.route_many(leads[:3])
        await set_cap(connection, "buyer", "daily_cap", 2)
        assert (await router.route(leads[3])).cause == "no_eligible_buyers"
        await set_cap(connection, "buyer", "daily_cap", 4)
        assert ["routed", "no_route"] == kinds(await router.route_many(leads[3:]))


async def test_enrollment_deleted_and_made_again_keeps_its_count_and_its_turn(
    database: str, connection: asyncpg.Connection
) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"daily_cap": 2})
    second = await make_candidate(connection, offer)
    await make_policy(connection, rules=ROTATION)
    leads = await make_leads(connection, offer, 7)
    async with routers(database, 2) as (one, two):
        start = [(await one.route(lead)).buyer_id for lead in leads[:2]]
        assert {first, second} == set(start)
        await connection.execute("delete from buyer_offers where buyer_id = $1", first)
        assert (await two.route(leads[2])).buyer_id == second
        await enroll(connection, first, offer, daily_cap=2)
        rest = [(await router.route(lead)).buyer_id for router, lead in zip(cycle((one, two)), leads[3:], strict=False)]
    assert [first, second, second, second] == rest  # its turn had come long ago; one more lead and it is full
    assert [] == await violations(connection)


async def test_buyer_deleted_and_made_again_under_its_id_keeps_its_count(
    database: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("alter table leads drop constraint leads_buyer")
    offer = await make_offer(connection)
    buyer = await capped(connection, offer, "buyer", daily_cap=2)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 3)
    async with Router.open(database) as router:
        assert (await router.route(leads[0])).buyer_id == buyer
        await connection.execute("delete from buyers")
        assert (await router.route(leads[1])).outcome == "no_route"
        await make_buyer(connection, id=buyer, daily_cap=2)
        await enroll(connection, buyer, offer)
        await make_area(connection, buyer)
        assert ["routed", "no_route"] == kinds(await router.route_many(leads[1:]))


# windows


@pytest.mark.parametrize(
    ("zone", "cap", "last", "first"),
    [
        ("America/Chicago", "hourly_cap", "2026-03-04T17:59:59.999999+00:00", "2026-03-04T18:00:00+00:00"),
        ("Asia/Kolkata", "hourly_cap", "2026-03-04T17:29:59.999999+00:00", "2026-03-04T17:30:00+00:00"),
        ("America/Chicago", "daily_cap", "2026-03-05T05:59:59.999999+00:00", "2026-03-05T06:00:00+00:00"),
        ("America/Chicago", "daily_cap", "2026-03-09T04:59:59.999999+00:00", "2026-03-09T05:00:00+00:00"),  # 23 hours
        ("America/Chicago", "daily_cap", "2026-11-02T05:59:59.999999+00:00", "2026-11-02T06:00:00+00:00"),  # 25 hours
        ("Pacific/Kiritimati", "daily_cap", "2026-03-04T09:59:59.999999+00:00", "2026-03-04T10:00:00+00:00"),
    ],
)
@pytest.mark.parametrize("level", ["enrollment", "buyer"])
async def test_window_is_over_with_its_last_microsecond(
    database: str, connection: asyncpg.Connection, level: str, zone: str, cap: str, last: str, first: str
) -> None:
    offer = await make_offer(connection)
    await capped(connection, offer, level, **{cap: 2})
    await connection.execute("update buyers set timezone = $1", zone)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 6)
    async with Router.open(database) as router:
        await set_clock(connection, datetime.fromisoformat(last))
        assert ["routed", "routed", "no_route"] == kinds(await router.route_many(leads[:3]))
        await set_clock(connection, datetime.fromisoformat(first))
        assert ["routed", "routed", "no_route"] == kinds(await router.route_many(leads[2:5]))
    assert [] == await violations(connection)


async def test_hour_that_the_clock_shows_twice_is_two_windows(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await capped(connection, offer, "buyer", hourly_cap=1)
    await make_policy(connection)
    found = []
    async with Router.open(database) as router:
        for hour in (6, 7):  # 01:30 in Chicago, before and after the clocks go back
            await set_clock(connection, datetime(2026, 11, 1, hour, 30, tzinfo=UTC))
            found += kinds(await router.route_many(await make_leads(connection, offer, 2)))
    assert ["routed", "no_route"] * 2 == found


async def test_changed_time_zone_counts_the_leads_of_the_new_day(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await capped(connection, offer, "buyer", daily_cap=3)
    await make_policy(connection)
    leads = await make_leads(connection, offer, 7)
    async with routers(database, 2) as (one, two):
        await set_clock(connection, datetime(2026, 3, 4, 14, 59, tzinfo=UTC))  # in Tokyo it is still the 4th
        assert (await one.route(leads[0])).outcome == "routed"
        await set_clock(connection, NOON)
        assert (await one.route(leads[1])).outcome == "routed"
        await connection.execute("update buyers set timezone = 'Asia/Tokyo'")
        assert ["routed", "routed", "no_route"] == kinds(await two.route_many(leads[2:5]))  # on the 5th: 1, 2, 3
        await connection.execute("update buyers set timezone = 'America/Chicago'")
        assert (await one.route(leads[5])).outcome == "no_route"  # on the 4th: 4
    assert [] == await violations(connection)


# counting anew, against claims that are still on their way


@pytest.mark.parametrize("level", ["enrollment", "buyer"])
@pytest.mark.parametrize("ends", ["commit", "rollback"])
@pytest.mark.parametrize("served_before", [True, False])
async def test_cap_added_while_a_claim_is_on_its_way_counts_it_if_it_commits(
    database: str, connection: asyncpg.Connection, level: str, ends: str, served_before: bool
) -> None:
    """The claim that counts anew has to wait for it, though nothing but a turn in the rotation stands between them."""
    offer, other = await make_offer(connection), await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    await enroll(connection, buyer, other)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    rival = await make_lead(connection, other if level == "buyer" else offer)
    early = [await make_lead(connection, known) for known in (offer, other) if served_before]
    async with another(database) as host, routers(database, 2) as (one, two):
        for router, known in zip((one, two), early, strict=False):
            assert (await router.route(known)).outcome == "routed"
        transaction = host.transaction()
        await transaction.start()
        assert (await one.route(lead, connection=host)).outcome == "routed"  # on a configuration without caps
        await set_cap(connection, level, "daily_cap", 1 + len(early) // (1 if level == "buyer" else 2))
        call = asyncio.ensure_future(two.route_many([rival]))
        await waiting_for_a_lock(connection)
        await (transaction.commit() if ends == "commit" else transaction.rollback())
        assert ["no_route" if ends == "commit" else "routed"] == kinds(await call)
    assert [] == await violations(connection)


async def test_claim_that_waited_behind_a_change_of_configuration_is_decided_again(
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
        await host.execute("select from leads where id = $1 for update", lead)
        call = asyncio.ensure_future(router.route(lead))
        await waiting_for_a_lock(connection)  # it has decided on the first buyer
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        await transaction.rollback()
        assert (await call).buyer_id == second


async def test_claim_that_waited_while_history_forked_is_decided_again(
    database: str, connection: asyncpg.Connection
) -> None:
    """After a fail-over the same version can stand for another configuration; the token tells."""
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 3)
    async with another(database) as host, Router.open(database) as router:
        assert (await router.route(leads[0])).buyer_id == first
        for asked, paused, expected in ((leads[1:2], first, second), (leads[2:], second, first)):
            transaction = host.transaction()
            await transaction.start()
            await host.execute("select from leads where id = $1 for update", asked[0])
            call = asyncio.ensure_future(router.route_many(asked))
            await waiting_for_a_lock(connection)
            async with connection.transaction():
                await connection.execute("alter table buyers disable trigger pointsman_update")
                await connection.execute(
                    "update buyers set status = case id when $1 then 'paused' else 'active' end", paused
                )
                await connection.execute("alter table buyers enable trigger pointsman_update")
                await connection.execute(
                    "update pointsman.config_commit set token = gen_random_uuid() where version is not null"
                )
            await transaction.rollback()
            (answer,) = await call
            assert isinstance(answer, Outcome)
            assert answer.buyer_id == expected


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("status = 'rejected'", "not_validated"),
        ("status = 'routed', buyer_id = (select min(id::text)::uuid from buyers)", "already_routed"),
        ("market_id = gen_random_uuid()", "no_route"),
        ("city = 'Evanston'", "routed"),
    ],
)
async def test_lead_that_changed_while_its_claim_waited_is_decided_as_it_is_then(
    database: str, connection: asyncpg.Connection, change: str, expected: str
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute(f"update leads set {change}")
        call = asyncio.ensure_future(router.route_many([lead]))
        await waiting_for_a_lock(connection)
        await transaction.commit()
        assert [expected] == kinds(await call)
    if expected == "routed":
        assert ["Evanston"] == [record["city"] for record in await records(connection)]
    assert (expected in ("routed", "no_route")) == (len(await records(connection)) == 1)


async def test_lead_deleted_while_its_claim_waited_is_not_found(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)
    lead, good = await make_leads(connection, offer, 2)
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("delete from leads where id = $1", lead)
        call = asyncio.ensure_future(router.route_many([lead, good]))
        await waiting_for_a_lock(connection)
        await transaction.commit()
        assert ["LeadNotFound", "routed"] == kinds(await call)
    assert [good] == [record["lead_id"] for record in await records(connection)]


async def test_lead_that_fails_in_a_batch_takes_nothing_and_the_others_are_exact(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyers = [await make_candidate(connection, offer, enrollment={"daily_cap": 3}) for _ in range(2)]
    await make_policy(connection, rules=ROTATION)
    leads = await make_leads(connection, offer, 6)
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("update leads set status = 'rejected' where id = any($1)", [leads[0], leads[3]])
        call = asyncio.ensure_future(router.route_many(leads))
        await waiting_for_a_lock(connection)
        await transaction.commit()
        answers = await call
    assert ["not_validated", "routed", "routed", "not_validated", "routed", "routed"] == kinds(answers)
    assert sorted(buyers * 2) == sorted(await served(connection))
    assert [2, 2] == [(await usage(connection, buyer, offer, "day"))[0] for buyer in buyers]
    assert [] == await violations(connection)


@pytest.mark.parametrize("has_next", [True, False])
async def test_lead_that_stood_back_for_an_earlier_one_of_its_batch_gets_the_room_that_this_did_not_take(
    database: str, connection: asyncpg.Connection, has_next: bool
) -> None:
    offers = [await make_offer(connection) for _ in range(2)]
    buyer = await make_candidate(connection, offers[0], daily_cap=1, enrollment={"priority_rank": 1})
    await enroll(connection, buyer, offers[1], priority_rank=1)
    if has_next:
        await make_candidate(connection, offers[1], enrollment={"priority_rank": 2})
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for offer in offers]
    async with another(database) as host, Router.open(database) as router:
        transaction = host.transaction()
        await transaction.start()
        await host.execute("update leads set status = 'rejected' where id = $1", leads[0])
        call = asyncio.ensure_future(router.route_many(leads))
        await waiting_for_a_lock(connection)
        await transaction.commit()
        first, second = await call
    assert ["not_validated", "routed"] == kinds([first, second])
    assert [buyer] == await served(connection)
    assert [] == await violations(connection)


async def test_caps_that_others_filled_are_found_by_the_claim_and_not_passed(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyers = [
        await make_candidate(connection, offer, enrollment={"priority_rank": rank, "daily_cap": 4}) for rank in range(3)
    ]
    await make_policy(connection)
    leads = await make_leads(connection, offer, 13)
    async with routers(database, 3) as several:
        found = [(await router.route(lead)).buyer_id for router, lead in zip(cycle(several), leads, strict=False)]
    assert [*(buyer for buyer in buyers for _ in range(4)), None] == found
    assert [] == await violations(connection)


# turns


@pytest.mark.parametrize("count", [1, 3])
async def test_rotation_serves_in_strict_turn_over_several_routers(
    database: str, connection: asyncpg.Connection, count: int
) -> None:
    offer = await make_offer(connection)
    buyers = sorted([await make_candidate(connection, offer) for _ in range(5)])
    await make_policy(connection, rules=ROTATION)
    leads = await make_leads(connection, offer, 60)
    async with routers(database, count) as several:
        answers = await all_at_once(several, leads)
    assert {"routed": 60} == Counter(kinds(answers))
    assert buyers * 12 == await served(connection)
    assert [] == await violations(connection)


async def test_least_recently_routed_breaks_ties_in_strict_turn_over_several_routers(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    last = await make_candidate(connection, offer, enrollment={"priority_rank": 9})
    equal = sorted([await make_candidate(connection, offer, enrollment={"daily_cap": 6}) for _ in range(4)])
    await connection.execute("update buyer_offers set priority_rank = 1 where buyer_id <> $1", last)
    await make_policy(connection, rules=rules(tie_breakers=["least_recently_routed", "buyer_id"]))
    leads = await make_leads(connection, offer, 26)
    async with routers(database, 3) as several:
        await all_at_once(several, leads)
    assert equal * 6 + [last] * 2 == await served(connection)
    assert [] == await violations(connection)


async def test_turns_count_whatever_the_strategy_was(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyers = sorted([await make_candidate(connection, offer) for _ in range(3)])
    for rank, buyer in enumerate(reversed(buyers)):
        await connection.execute("update buyer_offers set priority_rank = $1 where buyer_id = $2", rank, buyer)
    policy = await make_policy(connection)
    leads = await make_leads(connection, offer, 6)
    async with routers(database, 2) as (one, two):
        assert (await one.route(leads[0])).buyer_id == buyers[2]
        await connection.execute("update routing_policies set is_active = false where id = $1", policy)
        await make_policy(connection, rules=ROTATION)
        found = [
            (await router.route(lead)).buyer_id for router, lead in zip(cycle((two, one)), leads[1:], strict=False)
        ]
    assert [buyers[0], buyers[1], buyers[2], buyers[0], buyers[1]] == found


async def test_newcomer_is_served_before_all_and_then_in_its_turn(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    old = sorted([await make_candidate(connection, offer) for _ in range(2)])
    await make_policy(connection, rules=ROTATION)
    async with Router.open(database) as router:
        for lead in await make_leads(connection, offer, 3):
            await router.route(lead)
        new = await make_candidate(connection, offer)
        for lead in await make_leads(connection, offer, 4):
            await router.route(lead)
    assert [*old, old[0], new, old[1], old[0], new] == await served(connection)


async def test_buyer_that_was_out_of_play_comes_first_when_it_is_back(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyers = sorted([await make_candidate(connection, offer) for _ in range(3)])
    await make_policy(connection, rules=ROTATION)
    async with routers(database, 2) as (one, two):
        await one.route_many(await make_leads(connection, offer, 3))
        await connection.execute("update buyers set status = 'paused' where id = $1", buyers[0])
        await two.route_many(await make_leads(connection, offer, 4))
        await connection.execute("update buyers set status = 'active'")
        assert (await one.route(await make_lead(connection, offer))).buyer_id == buyers[0]
    assert [] == await violations(connection)


async def test_weighted_lead_gets_the_same_buyer_at_every_attempt_and_from_every_router(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    for weight in (1, 2, 3, 0):
        await make_candidate(connection, offer, enrollment={"weight": weight})
    await make_policy(connection, rules=rules(strategy={"kind": "weighted", "salt": "s"}))
    leads = await make_leads(connection, offer, 200)
    found = []
    for _ in range(2):
        async with Router.open(database) as router:
            answers = await router.route_many(leads)
        found.append([answer.buyer_id for answer in answers if isinstance(answer, Outcome)])
        await connection.execute("update leads set status = 'validated', buyer_id = null")
    assert found[0] == found[1]
    assert len(set(found[0])) == 3
    assert [] == await violations(connection)


# many at once


async def test_several_routers_on_one_lead_have_one_winner(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    for _ in range(3):
        await make_candidate(connection, offer, enrollment={"daily_cap": 1})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 3)
    async with routers(database, 4) as several:
        for lead in leads:
            answers = await all_at_once(several, [lead] * 12)
            assert {"routed": 1, "already_routed": 11} == Counter(kinds(answers))
            assert (
                len({(answer.buyer_id, answer.decision_id) for answer in answers if isinstance(answer, Outcome)}) == 1
            )
    assert len(await records(connection)) == 3
    assert [] == await violations(connection)


async def test_batches_of_several_routers_that_overlap_have_one_winner_a_lead(
    database: str, connection: asyncpg.Connection
) -> None:
    offers = [await make_offer(connection) for _ in range(3)]
    for offer in offers:
        for _ in range(3):
            await make_candidate(connection, offer, daily_cap=8, enrollment={"hourly_cap": 7})
    await make_policy(connection, rules=ROTATION)
    leads = [lead for offer in offers for lead in await make_leads(connection, offer, 30)]
    async with routers(database, 3) as several:
        batches = [leads, leads[::-1], leads[45:] + leads[:45]]
        answers = await asyncio.gather(*(r.route_many(batch) for r, batch in zip(several, batches, strict=True)))
    by_kind = Counter(kind for batch in answers for kind in kinds(batch))
    assert by_kind["routed"] == 3 * 3 * 7 == len(await served(connection))
    assert set(by_kind) == {"routed", "already_routed", "no_route"}
    assert [] == await violations(connection)


async def test_no_route_of_several_routers_at_once_is_one_row(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with routers(database, 4) as several:
        answers = await all_at_once(several, [lead] * 16)
    assert {"no_route": 16} == Counter(kinds(answers))
    assert len({answer.decision_id for answer in answers if isinstance(answer, Outcome)}) == 1
    assert len(await records(connection)) == 1


async def test_claims_that_rest_on_full_buyers_hold_while_others_fill_them(
    database: str, connection: asyncpg.Connection
) -> None:
    """A no-route rests on every candidate's full cap; a cap raised in between is a change of configuration."""
    offer = await make_offer(connection)
    await make_candidate(connection, offer, daily_cap=1, enrollment={"hourly_cap": 1})
    await make_policy(connection)
    leads = await make_leads(connection, offer, 3)
    async with routers(database, 2) as (one, two):
        await one.route(leads[0])
        assert (await two.route(leads[1])).cause == "no_eligible_buyers"
        await connection.execute("update buyers set daily_cap = 2")
        assert (await two.route(leads[1])).cause == "no_eligible_buyers"
        await connection.execute("update buyer_offers set hourly_cap = 2")
        assert ["routed", "no_route"] == kinds(await two.route_many(leads[1:]))
    assert [] == await violations(connection)


async def test_configuration_that_never_stands_still_makes_nobody_busy(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    for _ in range(3):
        await make_candidate(connection, offer, enrollment={"daily_cap": 15})
    await make_policy(connection, rules=ROTATION)
    leads = await make_leads(connection, offer, 40)
    done = asyncio.Event()

    async def change() -> int:
        commits = 0
        async with another(database) as host:
            while not done.is_set():
                await host.execute("update buyers set sla_response_seconds = $1", commits % 1_000)
                commits += 1
        return commits

    async with routers(database, 2) as several:
        writers = [asyncio.ensure_future(change()) for _ in range(2)]
        answers = [answer for lead in leads for answer in await all_at_once(several, [lead, lead])]
        done.set()
        assert sum(await asyncio.gather(*writers)) > 50
        await follows(several[0], connection)
    assert {"routed": 40, "already_routed": 40} == Counter(kinds(answers))
    assert [] == await violations(connection)


async def test_router_that_is_told_of_nothing_writes_nothing(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, daily_cap=3)
    await make_policy(connection)
    before = await written(connection)
    async with Router.open(database) as router:
        assert [] == await router.route_many([])
        assert ["LeadNotFound"] == kinds(await router.route_many([uuid4()]))
    assert before == await written(connection)


# where rows are looked for


async def test_plans_that_were_made_on_empty_tables_look_up_by_key_when_these_have_grown(
    database: str, connection: asyncpg.Connection
) -> None:
    """Nobody analyses the tables here; a plan that goes through one would read thousands of rows for each lead."""
    offer = await make_offer(connection)
    caps = {"hourly_cap": 1_000, "daily_cap": 1_000}
    for _ in range(10):
        await make_candidate(connection, offer, **caps, enrollment=caps)
    await make_policy(connection, rules=ROTATION)
    tables = ["leads", "pointsman.decisions", "pointsman.cap_usage", "pointsman.rotation"]
    await analyse_for_good(connection, tables)
    async with Router.open(database) as router:
        leads = await make_leads(connection, offer, 900)
        elsewhere = await make_leads(connection, offer, 100, market_id=uuid4())
        for lead in leads[:20]:
            await router.route(lead)
        for start in range(20, 800, 20):
            await router.route_many(leads[start : start + 20])
        await router.route_many(elsewhere[:50])
        for lead in (*leads[800:], *elsewhere):
            await router.route(lead)
        await set_clock(connection, datetime.now(UTC) + timedelta(days=2))  # all windows are new
        await connection.execute("update leads set status = 'validated', buyer_id = null")
        await router.route_many(leads[:50])
        for lead in leads[50:100]:
            await router.route(lead)
    await ended(connection)
    updated = len(leads) + len(elsewhere)  # by the test itself, which goes through all of them
    assert 1_000 < await rows_read(connection, tables) - updated < 10 * 1_150


async def test_leads_in_partitions_are_routed_like_others(database: str, connection: asyncpg.Connection) -> None:
    await connection.execute(
        "alter table leads rename to plain; create table leads (like plain including all) partition by hash (id);"
        "create table leads_0 partition of leads for values with (modulus 3, remainder 0);"
        "create table leads_1 partition of leads for values with (modulus 3, remainder 1);"
        "create table leads_2 partition of leads for values with (modulus 3, remainder 2)"
    )
    offer = await make_offer(connection)
    for _ in range(3):
        await make_candidate(connection, offer, daily_cap=10)
    await make_policy(connection, rules=ROTATION)
    leads = await make_leads(connection, offer, 40)
    async with Router.open(database) as router:
        assert ["routed"] * 25 == kinds(await router.route_many(leads[:25]))
        assert ["routed"] * 5 + ["no_route"] * 10 == [(await router.route(lead)).outcome for lead in leads[25:]]
    assert [] == await violations(connection)


@pytest.mark.parametrize("leads", [1, 3])
async def test_record_names_the_true_usage_of_a_full_cap_that_was_lifted_for_a_while(
    leads: int, database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer, enrollment={"daily_cap": 3})
    await make_policy(connection)
    async with Router.open(database) as router:
        await router.route_many(await make_leads(connection, offer, 3))
        await connection.execute("update buyer_offers set daily_cap = null")
        await router.route_many(await make_leads(connection, offer, 5))
        await connection.execute("update buyer_offers set daily_cap = 3")
        for _ in range(2):
            last = (await router.route_many(await make_leads(connection, offer, leads)))[-1]
            (reason,) = why_not(await router.explain_decision(last.decision_id), buyer)
            assert (8, 3) == (reason["used"], reason["cap"])
    assert 8 == await connection.fetchval("select used from pointsman.cap_usage")
    assert [] == await violations(connection)


async def test_each_lead_of_a_batch_is_assigned_the_buyer_of_its_own_decision(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    places = ["60614", "60615"]
    for place in places:
        await enroll(connection, buyer := await make_buyer(connection), offer)
        await make_area(connection, buyer, scope="postal_code", value=place)
    await make_policy(connection)
    leads = [await make_lead(connection, offer, id=uuid4(), postal_code=places[n % 2]) for n in range(12)]
    async with Router.open(database) as router:
        answers = await router.route_many(sorted(leads, reverse=True))
    rows = await connection.fetch("select id, buyer_id from leads")
    assert {row["id"]: row["buyer_id"] for row in rows} == {answer.lead_id: answer.buyer_id for answer in answers}
    assert [] == await violations(connection)

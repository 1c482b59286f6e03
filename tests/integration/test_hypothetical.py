"""What would be: another instant, draft rules, a lead that nobody has; and nothing is written."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest

from pointsman import Router
from pointsman.errors import InvalidHypothesis, LeadNotFound
from pointsman.model import Lead
from tests.builders import MARKET, VERTICAL, make_candidate, make_lead, make_offer, make_policy, rules
from tests.stage import codes, set_clock, written

NOON = datetime(2026, 3, 4, 18, 0, tzinfo=UTC)  # a Wednesday in Chicago
OFFICE = {"weekly": {"wed": [["09:00", "17:00"]]}}


async def test_draft_rules_take_the_place_of_the_policy(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        await router.route(lead)
        before = await written(connection)
        rotating = await router.explain_hypothetical(lead, policy=rules(strategy={"kind": "rotation"}))
        assert before == await written(connection)
    assert [second, first] == [ranked.buyer_id for ranked in rotating.eligible]
    outcome = rotating.outcome
    assert ("routed", second, None, None) == (outcome.outcome, outcome.buyer_id, outcome.policy_id, outcome.decision_id)
    assert outcome.status == "routed"


async def test_another_instant_has_other_hours_and_other_windows(database: str, connection: asyncpg.Connection) -> None:
    await set_clock(connection, NOON)
    offer = await make_offer(connection)
    closing = await make_candidate(connection, offer, hours=OFFICE)
    full = await make_candidate(connection, offer, hourly_cap=1, enrollment={"priority_rank": 1})
    await make_policy(connection)
    lead = await make_lead(connection, offer)
    async with Router.open(database) as router:
        await router.route(await make_lead(connection, offer))
        now = await router.explain_hypothetical(lead)
        assert (["hourly_cap_reached"], []) == (codes(now, full), codes(now, closing))
        assert now == await router.explain(lead)
        later = await router.explain_hypothetical(lead, at=NOON + timedelta(hours=8))
    assert ([], ["outside_acceptance_hours"]) == (codes(later, full), codes(later, closing))
    assert NOON + timedelta(hours=8) == later.outcome.decided_at


async def test_lead_that_nobody_has_can_be_asked_about(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    buyer = await make_candidate(connection, offer)
    policy = await make_policy(connection)
    lead = Lead(uuid4(), offer, VERTICAL, MARKET, None, None)
    async with Router.open(database) as router:
        explanation = await router.explain_hypothetical(lead)
        nowhere = await router.explain_hypothetical(lead._replace(market_id=uuid4()))
    assert (buyer, policy) == (explanation.outcome.buyer_id, explanation.outcome.policy_id)
    assert ["not_in_service_area"] == codes(nowhere, buyer)


@pytest.mark.parametrize(
    ("asked", "place"),
    [
        ({"policy": {}}, "`strategy` is missing"),
        ({"policy": rules(strategy={"kind": "auction"})}, "`strategy.kind` is `'auction'`"),
        ({"policy": {**rules(), "price": 1}}, "`price`"),
        ({"policy": [1]}, "must be an object"),
        ({"at": datetime(2026, 3, 4)}, "`at`"),  # noqa: DTZ001 - that it has no offset is the point
        ({"at": datetime(9999, 3, 4, tzinfo=UTC)}, "`at`"),
    ],
)
async def test_what_cannot_be_is_refused_with_its_place(database: str, asked: dict[str, object], place: str) -> None:
    async with Router.open(database) as router:
        with pytest.raises(InvalidHypothesis, match=place):
            await router.explain_hypothetical(Lead(UUID(int=1), None, None, None, None, None), **asked)


async def test_unknown_lead_is_not_found(database: str) -> None:
    async with Router.open(database) as router:
        with pytest.raises(LeadNotFound):
            await router.explain_hypothetical(uuid4())

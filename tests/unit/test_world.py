"""The seeded world: the same again for the same seed, and with everything in it that routing has rules for."""

from __future__ import annotations

import builtins
import json
from collections import Counter
from datetime import date
from typing import Any

import pytest

from pointsman import world
from pointsman.engine.geo import city, postal_code
from pointsman.engine.hours import read_hours
from pointsman.engine.policy import read_rules
from pointsman.engine.zones import zone
from pointsman.world import World


@pytest.fixture(scope="module")
def full() -> World:
    return world.build(seed=1)


def test_the_same_seed_gives_the_same_world_and_the_same_leads(full: World) -> None:
    assert full == world.build(seed=1)
    assert world.leads(full, 50, seed=2) == world.leads(full, 50, seed=2)


def test_another_seed_gives_another_world_and_other_leads(full: World) -> None:
    assert full.buyers != world.build(seed=2).buyers
    assert world.leads(full, 50, seed=2) != world.leads(full, 50, seed=3)


def test_the_world_has_the_size_that_was_asked_for(full: World) -> None:
    assert (len(full.buyers), len(full.offers)) == (2_000, 20)
    assert abs(len(full.buyer_service_areas) - 20_000) < 200


def test_a_small_world_is_whole_too() -> None:
    small = world.build(seed=1, buyers=10, areas=40)
    assert len(small.buyers) == 10
    assert len({row.buyer_id for row in small.buyer_service_areas}) == 10
    assert len(world.leads(small, 5, seed=1)) == 5


def test_every_zone_is_one_that_exists(full: World) -> None:
    named = {json.loads(buyer.acceptance_hours or "{}").get("timezone", "UTC") for buyer in full.buyers}
    zones = {buyer.timezone for buyer in full.buyers} | named
    assert len(zones) > 5
    assert all(zone(name) is not None for name in zones)


def test_all_acceptance_hours_and_all_rules_can_be_read(full: World) -> None:
    for buyer in full.buyers:
        if buyer.acceptance_hours:
            read_hours(json.loads(buyer.acceptance_hours))
    for policy in full.routing_policies:
        read_rules(json.loads(policy.rules))


def test_buyers_close_on_thanksgiving(full: World) -> None:
    dates = next(json.loads(buyer.acceptance_hours)["dates"] for buyer in full.buyers if buyer.acceptance_hours)
    assert dates["2026-11-26"] == []
    assert all(date.fromisoformat(day).month in (11, 12) for day in dates)


def test_some_buyers_are_paused_some_below_their_floor_and_some_have_weight_zero(full: World) -> None:
    paused = sum(buyer.status == "paused" for buyer in full.buyers)
    below = sum(buyer.min_balance is not None and buyer.balance < buyer.min_balance for buyer in full.buyers)
    assert 60 < paused < 140
    assert below > 50
    assert any(row.weight == 0 for row in full.buyer_offers)


def test_caps_stand_at_both_levels(full: World) -> None:
    for rows in (full.buyers, full.buyer_offers):
        assert any(row.hourly_cap for row in rows)
        assert any(row.daily_cap for row in rows)
        assert any(row.hourly_cap is None and row.daily_cap is None for row in rows)


def test_every_scope_strategy_fallback_sla_mode_and_specificity_is_there(full: World) -> None:
    rules = [json.loads(policy.rules) for policy in full.routing_policies]
    keys = {
        (policy.offer_id is not None, policy.vertical_id is not None, policy.market_id is not None)
        for policy in full.routing_policies
    }
    assert {"market", "city", "postal_code"} == {area.scope for area in full.buyer_service_areas}
    assert {"offer", "market", "city", "postal_code"} == {row.scope for row in full.offer_exclusivities}
    assert {"priority", "rotation", "weighted"} == {rule["strategy"]["kind"] for rule in rules}
    assert {"fail_closed", "fallback_allowed"} == {rule["exclusivity"]["when_ineligible"] for rule in rules}
    assert {"prefer", "require"} == {rule["sla"]["mode"] for rule in rules if "sla" in rule}
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0, 0, 0), (1, 0, 1), (0, 1, 1)} == keys


def test_a_paused_buyer_holds_an_offer_under_either_fallback(full: World) -> None:
    paused = {buyer.id for buyer in full.buyers if buyer.status == "paused"}
    held = {row.offer_id for row in full.offer_exclusivities if row.buyer_id in paused}
    assert {world.offer_id("Gutters"), world.offer_id("Storm damage inspection")} <= held


def test_keys_are_unique_where_the_host_tables_ask_for_it(full: World) -> None:
    areas = Counter((row.buyer_id, row.market_id, row.scope, row.value) for row in full.buyer_service_areas)
    held = Counter((row.offer_id, row.market_id, row.scope, city(row.value)) for row in full.offer_exclusivities)
    assert 1 == max(areas.values()) == max(held.values())


def test_buyers_are_local_to_one_to_three_states(full: World) -> None:
    markets: dict[Any, set[Any]] = {}
    for row in full.buyer_service_areas:
        markets.setdefault(row.buyer_id, set()).add(row.market_id)
    assert len(markets) == 2_000
    assert {1, 2, 3} == {len(states) for states in markets.values()}


def test_a_typical_lead_has_ten_to_twenty_covering_candidates(full: World) -> None:
    covered, enrolled = _indexes(full)
    counts = sorted(
        len(
            enrolled[lead.offer_id]
            & (
                covered.get((lead.market_id, None), set())
                | covered.get((lead.market_id, city(lead.city)), set())
                | covered.get((lead.market_id, postal_code(lead.postal_code)), set())
            )
        )
        for lead in world.leads(full, 1_000, seed=1)
    )
    assert counts[0] == 0
    assert 7 <= counts[500] <= 20
    assert counts[900] >= 15


def _indexes(full: World) -> tuple[dict[Any, set[Any]], dict[Any, set[Any]]]:
    covered: dict[Any, set[Any]] = {}
    enrolled: dict[Any, set[Any]] = {}
    for area in full.buyer_service_areas:
        covered.setdefault((area.market_id, city(area.value)), set()).add(area.buyer_id)
    for row in full.buyer_offers:
        enrolled.setdefault(row.offer_id, set()).add(row.buyer_id)
    return covered, enrolled


def test_leads_lack_and_get_wrong_what_real_ones_do(full: World) -> None:
    offers = {offer.id: offer for offer in full.offers}
    leads = world.leads(full, 2_000, seed=1)
    assert any(lead.postal_code is None for lead in leads)
    assert any(lead.city is None for lead in leads)
    assert any(not offers[lead.offer_id].is_active for lead in leads)
    assert any(offers[lead.offer_id].vertical_id != lead.vertical_id for lead in leads)
    assert any(offers[lead.offer_id].market_id not in (None, lead.market_id) for lead in leads)
    assert any(world.markets()[lead.market_id] in world.NOBODY_THERE for lead in leads)
    assert len({lead.id for lead in leads}) == 2_000


def test_leads_like_one_differ_in_their_ids_alone(full: World) -> None:
    lead = world.leads(full, 1, seed=1)[0]
    twins = world.like(lead, 3, seed=1)
    assert len({lead.id, *(twin.id for twin in twins)}) == 4
    assert all(lead == twin._replace(id=lead.id) for twin in twins)


def test_without_the_map_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_zipcodes(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "zipcodes":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_zipcodes)
    with pytest.raises(world.NoMap, match=r'pip install "pointsman\[demo\]"'):
        world._rows()

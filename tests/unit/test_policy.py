"""Policy rules: what is valid, what is not and where, and which policy wins."""

from __future__ import annotations

import json
from itertools import permutations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.configuration import read_policy
from pointsman.engine.policy import CONSTRAINTS, TIE_BREAKERS, InvalidPolicy, Policy, read_rules, specificity
from pointsman.model import Cause

from .worlds import (
    MARKET,
    OFFER,
    OTHER_MARKET,
    OTHER_OFFER,
    OTHER_VERTICAL,
    RULES,
    VERTICAL,
    decided,
    make_indexes,
    make_lead,
    make_offer,
    make_policy,
    make_rules,
    read,
    uid,
)


def problem(rules: object) -> str:
    with pytest.raises(InvalidPolicy) as caught:
        read_rules(rules)
    return str(caught.value)


def problem_of_text(text: str | None) -> str | None:
    policy = read_policy(make_policy(rules=text))
    assert policy is not None
    assert (policy.rules is None) == (policy.problem is not None)
    return policy.problem


def without(key: str) -> dict[str, object]:
    return {name: value for name, value in RULES.items() if name != key}


# what is valid


@pytest.mark.parametrize(
    ("kind", "order"),
    [
        ("priority", ("priority_rank", "buyer_id")),
        ("rotation", ("least_recently_routed", "buyer_id")),
        ("weighted", ("score", "buyer_id")),
    ],
)
def test_the_strategy_orders_before_the_tie_breakers(kind, order):
    assert order == read(strategy={"kind": kind}).order


def test_the_sla_preference_orders_before_the_strategy():
    assert read(sla={"mode": "prefer", "max_response_seconds": 5}).order == ("sla", "priority_rank", "buyer_id")


@pytest.mark.parametrize("sla", [{"mode": "off"}, {"mode": "require", "max_response_seconds": 5}])
def test_other_sla_modes_do_not_order(sla):
    assert read(sla=sla).order == ("priority_rank", "buyer_id")


def test_all_tie_breakers_keep_their_order():
    names = [*reversed(TIE_BREAKERS[:-1]), "buyer_id"]
    assert read(tie_breakers=names).order == ("priority_rank", *names)


def test_seven_tie_breakers_are_known():
    assert TIE_BREAKERS == (
        "priority_rank",
        "weight",
        "sla_response_seconds",
        "least_recently_routed",
        "enrolled_at",
        "lead_hash",
        "buyer_id",
    )


@pytest.mark.parametrize("names", [[], ["buyer_active"], ["acceptance_hours"], ["acceptance_hours", "buyer_active"]])
def test_a_constraint_is_enforced_exactly_when_it_is_listed(names):
    rules = read(constraints=names)
    assert [name in names for name in CONSTRAINTS] == [rules.buyer_active, rules.acceptance_hours]


@pytest.mark.parametrize(("word", "fail_closed"), [("fail_closed", True), ("fallback_allowed", False)])
def test_when_ineligible_is_read(word, fail_closed):
    assert fail_closed is read(exclusivity={"when_ineligible": word}).fail_closed


def test_the_salt_is_empty_by_default():
    assert read().salt == b""


def test_the_salt_is_utf_8():
    assert read(strategy={"kind": "weighted", "salt": "é€"}).salt == b"\xc3\xa9\xe2\x82\xac"


@pytest.mark.parametrize("limit", [0, 300, 2**63 - 1])
@pytest.mark.parametrize("mode", ["off", "prefer", "require"])
def test_any_limit_from_zero_is_valid(mode, limit):
    rules = read(sla={"mode": mode, "max_response_seconds": limit})
    assert (mode == "prefer", mode == "require", limit) == (
        rules.sla_preferred,
        rules.sla_required,
        rules.max_response_seconds,
    )


def test_no_sla_is_the_mode_off():
    assert read() == read(sla={"mode": "off"})


def test_schema_1_is_the_default():
    assert read() == read(schema=1)


# what is not, and where


@pytest.mark.parametrize("document", [None, [], "rules", 1, True, 1.5])
def test_rules_that_are_no_object_are_invalid(document):
    assert problem(document).startswith("`rules` is `")


@pytest.mark.parametrize("key", ["strategy", "tie_breakers", "constraints", "exclusivity"])
def test_a_missing_key_is_invalid(key):
    assert f"`{key}` is missing" == problem(without(key))


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ({"strategy": {}}, "strategy.kind"),
        ({"exclusivity": {}}, "exclusivity.when_ineligible"),
        ({"sla": {}}, "sla.mode"),
        ({"sla": {"max_response_seconds": 3}}, "sla.mode"),
        ({"sla": {"mode": "prefer"}}, "sla.max_response_seconds"),
        ({"sla": {"mode": "require"}}, "sla.max_response_seconds"),
    ],
)
def test_a_missing_key_inside_is_invalid(rules, place):
    assert problem(make_rules(**rules)).startswith(f"`{place}` is missing")


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        ({"colour": 1}, "colour"),
        ({"Strategy": {"kind": "priority"}}, "Strategy"),
        ({"": 1}, ""),
        ({"strategy": {"kind": "priority", "seed": 1}}, "strategy.seed"),
        ({"exclusivity": {"when_ineligible": "fail_closed", "scope": "offer"}}, "exclusivity.scope"),
        ({"sla": {"mode": "off", "min": 1}}, "sla.min"),
    ],
)
def test_an_unknown_key_is_invalid(rules, place):
    assert f"`{place}` is not a key that policies have" == problem(make_rules(**rules))


@pytest.mark.parametrize(
    ("rules", "place"),
    [
        *(({"schema": value}, "schema") for value in (0, 2, -1, 1.0, True, "1", None, 10**30, [1])),
        *(({"strategy": value}, "strategy") for value in (None, "priority", ["priority"], 1)),
        *(
            ({"strategy": {"kind": value}}, "strategy.kind")
            for value in (None, "random", "Priority", 1, ["priority"], {})
        ),
        *(({"strategy": {"kind": "weighted", "salt": value}}, "strategy.salt") for value in (None, 1, True, [], {})),
        *(({"tie_breakers": value}, "tie_breakers") for value in (None, "buyer_id", {"buyer_id": 1}, 7, [])),
        ({"tie_breakers": ["buyer_id", "lead_hash"]}, "tie_breakers"),
        ({"tie_breakers": ["lead_hash"]}, "tie_breakers"),
        ({"tie_breakers": ["name", "buyer_id"]}, "tie_breakers[0]"),
        ({"tie_breakers": ["lead_hash", 1, "buyer_id"]}, "tie_breakers[1]"),
        ({"tie_breakers": ["lead_hash", ["weight"], "buyer_id"]}, "tie_breakers[1]"),
        ({"tie_breakers": ["lead_hash", None, "buyer_id"]}, "tie_breakers[1]"),
        ({"tie_breakers": ["score", "buyer_id"]}, "tie_breakers[0]"),
        ({"tie_breakers": ["sla", "buyer_id"]}, "tie_breakers[0]"),
        *(({"constraints": value}, "constraints") for value in (None, "buyer_active", {"buyer_active": True}, True)),
        ({"constraints": ["hourly_cap"]}, "constraints[0]"),
        ({"constraints": ["buyer_active", {}]}, "constraints[1]"),
        *(({"exclusivity": value}, "exclusivity") for value in (None, "fail_closed", [], False)),
        *(
            ({"exclusivity": {"when_ineligible": value}}, "exclusivity.when_ineligible")
            for value in (None, "closed", True, ["fail_closed"])
        ),
        *(({"sla": value}, "sla") for value in (None, "off", [], 300)),
        *(({"sla": {"mode": value}}, "sla.mode") for value in (None, "on", False, "", ["off"])),
        *(
            ({"sla": {"mode": mode, "max_response_seconds": value}}, "sla.max_response_seconds")
            for mode in ("off", "prefer", "require")
            for value in (1.0, 1.5, True, False, -1, "300", None, [300], 2**63, -(2**70), 10**400, float("inf"))
        ),
    ],
)
def test_a_wrong_value_is_invalid_and_its_place_is_named(rules, place):
    assert problem(make_rules(**rules)).startswith(f"`{place}` is `")


@pytest.mark.parametrize(
    ("rules", "place", "word"),
    [
        ({"tie_breakers": ["weight", "weight", "buyer_id"]}, "tie_breakers", "weight"),
        ({"tie_breakers": ["buyer_id", "weight", "buyer_id"]}, "tie_breakers", "buyer_id"),
        ({"tie_breakers": ["buyer_id", "buyer_id"]}, "tie_breakers", "buyer_id"),
        ({"constraints": ["buyer_active", "acceptance_hours", "buyer_active"]}, "constraints", "buyer_active"),
    ],
)
def test_a_repeated_item_is_invalid(rules, place, word):
    assert f"`{place}` says `{word}` twice" == problem(make_rules(**rules))


def test_a_salt_that_is_no_utf_8_is_invalid():
    assert problem(make_rules(strategy={"kind": "weighted", "salt": "\ud800"})).startswith(
        "`strategy.salt` is not text"
    )


@pytest.mark.parametrize(
    "rules",
    [
        {"\ud800\n": 1, **RULES},
        make_rules(strategy={"kind": "\ud800\n"}),
        make_rules(strategy={"kind": "priority", "\ud800\n": ""}),
    ],
)
def test_a_message_can_be_written_whatever_the_rules_hold(rules):
    assert b"\n" not in problem(rules).encode()


@pytest.mark.parametrize("rules", [["x" * 100_000], {"x" * 100_000: 1, **RULES}, make_rules(constraints="x" * 100_000)])
def test_a_message_stays_short_whatever_the_rules_hold(rules):
    assert len(problem(rules)) < 200


# rows


def test_a_row_of_valid_rules_has_no_problem():
    assert problem_of_text(json.dumps(RULES)) is None


def test_an_inactive_row_is_no_policy():
    assert read_policy(make_policy(is_active=False)) is None


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "null",
        "[]",
        "{",
        "NaN",
        '"rules"',
        json.dumps(RULES) + "x",
        json.dumps(make_rules(schema=0)).replace("0", "1e400"),
        json.dumps(make_rules(schema=0)).replace("0", "1" * 5000),
        json.dumps(make_rules(schema=0)).replace("0", "1.0"),
        json.dumps(make_rules(schema=0)).replace("0", "-Infinity"),
    ],
)
def test_a_row_without_rules_that_can_be_read_is_invalid(text):
    assert problem_of_text(text)


@pytest.mark.parametrize("depth", [*range(930, 1000, 2), 100_000])
@pytest.mark.parametrize("form", ["{}", '{{"constraints": {}}}', '{{"strategy": {{"kind": {}}}}}'])
def test_rules_that_are_nested_too_deeply_are_invalid(depth, form):
    text = form.format("[" * depth + "]" * depth)
    assert problem_of_text(text)


def test_a_row_without_a_version_is_invalid():
    assert read_policy(make_policy(version=None)).problem == "`version` is missing"


def test_the_last_of_two_equal_keys_counts():
    assert problem_of_text('{"schema": 2, ' + json.dumps(make_rules(schema=1))[1:]) is None


# which policy


def make(**over):
    return read_policy(make_policy(**over))


def wins(*rows, lead=None):
    policy = decided(
        make_indexes([("offers", make_offer()), *(("routing_policies", row) for row in rows)]), lead=lead
    ).policy
    return None if policy is None else policy.id.int & 0xFF


SCOPES = [
    {"offer_id": OFFER, "vertical_id": VERTICAL, "market_id": MARKET},
    {"offer_id": OFFER, "vertical_id": VERTICAL},
    {"offer_id": OFFER, "market_id": MARKET},
    {"offer_id": OFFER},
    {"vertical_id": VERTICAL, "market_id": MARKET},
    {"vertical_id": VERTICAL},
    {"market_id": MARKET},
    {},
]


@pytest.mark.parametrize(("narrow", "wide"), [(n, w) for n in range(8) for w in range(n + 1, 8)])
def test_offer_goes_before_vertical_before_market(narrow, wide):
    rows = (
        make_policy(id=uid(0xC, 1), version=9, **SCOPES[wide]),
        make_policy(id=uid(0xC, 2), version=1, **SCOPES[narrow]),
    )
    assert wins(*rows) == 2


@pytest.mark.parametrize("scope", SCOPES)
def test_the_highest_version_wins_among_equally_specific_ones(scope):
    rows = [make_policy(id=uid(0xC, number), version=number, **scope) for number in (1, 10, 9)]
    assert wins(*rows) == 10


def test_the_smallest_id_wins_among_equal_versions():
    assert wins(*(make_policy(id=uid(0xC, number)) for number in (3, 1, 2))) == 1


def test_an_inactive_policy_never_wins():
    assert wins(make_policy(id=uid(0xC, 1), is_active=False, offer_id=OFFER), make_policy(id=uid(0xC, 2))) == 2


@pytest.mark.parametrize(
    "other", [{"offer_id": OTHER_OFFER}, {"vertical_id": OTHER_VERTICAL}, {"market_id": OTHER_MARKET}]
)
@pytest.mark.parametrize("scope", SCOPES)
def test_a_policy_that_names_something_else_does_not_match(scope, other):
    assert wins(make_policy(**{**scope, **other})) is None


@pytest.mark.parametrize("column", ["offer_id", "vertical_id", "market_id"])
def test_a_policy_that_names_what_the_lead_lacks_does_not_match(column):
    assert wins(make_policy(**{column: uid(1, 1)}), lead=make_lead(**{column: None})) is None


def test_a_more_general_policy_is_not_tried_for_an_invalid_one():
    rows = (make_policy(id=uid(0xC, 1)), make_policy(id=uid(0xC, 2), offer_id=OFFER, rules={}))
    indexes = make_indexes([("offers", make_offer()), *(("routing_policies", row) for row in rows)])
    assert decided(indexes).cause == Cause.POLICY_INVALID


def test_an_invalid_policy_is_shadowed_by_a_better_one():
    assert wins(make_policy(id=uid(0xC, 1), rules={}), make_policy(id=uid(0xC, 2), version=2)) == 2


names = st.none() | st.just(uid(0, 1))
policies = st.builds(
    Policy, st.integers(1, 3).map(lambda n: uid(0xC, n)), names, names, names, st.integers(0, 2), st.none()
)


@given(st.lists(policies, min_size=3, max_size=3, unique_by=lambda policy: policy.id))
def test_specificity_is_a_total_order(some):
    assert len({min(order, key=specificity) for order in permutations(some)}) == 1
    assert len({specificity(policy) for policy in some}) == len(some)


def test_specificity_tells_all_scopes_apart():
    keys = [specificity(Policy(uid(0, 1), *ids, 1, None)) for ids in product([None, uid(0, 1)], repeat=3)]
    assert len(set(keys)) == 8

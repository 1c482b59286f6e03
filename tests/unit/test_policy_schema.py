"""The published JSON Schema accepts what the router accepts, and refuses what it refuses."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pointsman.engine.policy import CONSTRAINTS, SLA_MODES, STRATEGIES, TIE_BREAKERS, InvalidPolicy, read_rules
from tests import policy_reference

SCHEMA = policy_reference.read_schema()
VALID: dict[str, Any] = {
    "strategy": {"kind": "priority"},
    "tie_breakers": ["lead_hash", "buyer_id"],
    "constraints": ["buyer_active", "acceptance_hours"],
    "exclusivity": {"when_ineligible": "fail_closed"},
    "sla": {"mode": "prefer", "max_response_seconds": 300},
}
validator = jsonschema_rs.Draft202012Validator(SCHEMA)


def router_accepts(rules: object) -> bool:
    try:
        read_rules(rules)
    except InvalidPolicy:
        return False
    return True


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in VALID.items() if name != key}


CASES = [
    *(without(key) for key in VALID),
    *({**VALID, "strategy": {"kind": kind}} for kind in (*STRATEGIES, "random", None, 1)),
    *({**VALID, "strategy": {"kind": "weighted", "salt": salt}} for salt in ("", "2026", None, 5)),
    {**VALID, "strategy": {"kind": "priority", "sort": "x"}},
    {**VALID, "strategy": {}},
    {**VALID, "strategy": "priority"},
    *({**VALID, "schema": version} for version in (1, 2, 0, True, "1", None)),
    *({**VALID, "tie_breakers": [name, "buyer_id"]} for name in (*TIE_BREAKERS, "coin", None)),
    *({**VALID, "tie_breakers": TIE_BREAKERS[index:]} for index in range(len(TIE_BREAKERS) + 1)),
    *({**VALID, "tie_breakers": TIE_BREAKERS[:index]} for index in range(len(TIE_BREAKERS))),
    {**VALID, "tie_breakers": [*TIE_BREAKERS, "buyer_id"]},
    {**VALID, "tie_breakers": "buyer_id"},
    {**VALID, "tie_breakers": {"0": "buyer_id"}},
    *({**VALID, "constraints": value} for value in ([], ["buyer_active"], ["acceptance_hours"], ["caps"], None, [1])),
    {**VALID, "constraints": ["buyer_active", "buyer_active"]},
    *({**VALID, "exclusivity": {"when_ineligible": value}} for value in ("fail_closed", "fallback_allowed", "x", None)),
    {**VALID, "exclusivity": {}},
    *({**VALID, "sla": {"mode": mode}} for mode in (*SLA_MODES, "x", None)),
    *({**VALID, "sla": {"mode": mode, "max_response_seconds": 0}} for mode in SLA_MODES),
    *({**VALID, "sla": {"mode": "off", "max_response_seconds": limit}} for limit in (-1, True, "1", None, 1.5, 2**63)),
    {**VALID, "sla": {"mode": "require", "max_response_seconds": 2**63 - 1}},
    {**VALID, "sla": {"max_response_seconds": 1}},
    {**VALID, "sla": {}},
    {**VALID, "sla": None},
    {**VALID, "more": 1},
    {},
    [],
    None,
    "rules",
]


@pytest.mark.parametrize("rules", CASES, ids=lambda rules: json.dumps(rules)[:120])
def test_the_schema_agrees_with_the_router(rules: object) -> None:
    document = json.loads(json.dumps(rules))
    assert router_accepts(document) == validator.is_valid(document)


_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([*TIE_BREAKERS, *CONSTRAINTS, *STRATEGIES, *SLA_MODES, "fail_closed", "fallback_allowed"]),
)
_objects = st.dictionaries(
    st.sampled_from(["kind", "salt", "mode", "max_response_seconds", "when_ineligible"]), _values, max_size=3
)
_documents = st.fixed_dictionaries(
    {
        "strategy": st.one_of(st.just(VALID["strategy"]), _objects),
        "tie_breakers": st.lists(st.sampled_from(TIE_BREAKERS), max_size=8),
        "constraints": st.lists(st.sampled_from(CONSTRAINTS), max_size=3),
        "exclusivity": st.one_of(st.just(VALID["exclusivity"]), _objects),
    },
    optional={"sla": _objects, "schema": _values, "more": _values},
)


@given(_documents)
def test_the_schema_agrees_with_the_router_on_any_document(rules: object) -> None:
    assert router_accepts(rules) == validator.is_valid(rules)


def test_the_schema_is_a_schema_and_describes_every_key() -> None:
    assert jsonschema_rs.meta.is_valid(SCHEMA)
    for name, part in SCHEMA["properties"].items():
        assert part["description"], name
        for inner, deeper in part.get("properties", {}).items():
            assert deeper["description"], f"{name}.{inner}"


def test_every_key_and_every_word_has_an_example_that_the_router_accepts() -> None:
    for rules in SCHEMA["examples"]:
        read_rules(rules)
    for name, part in SCHEMA["properties"].items():
        shown = json.dumps(part["examples"])
        for example in part["examples"]:
            read_rules({**VALID, name: example})
        for words in (part.get("items", {}), *part.get("properties", {}).values()):
            assert [word["const"] for word in words.get("oneOf", ()) if f'"{word["const"]}"' not in shown] == []
        assert [inner for inner in part.get("properties", ()) if f'"{inner}": ' not in shown] == []


def test_the_policy_reference_is_what_the_schema_says() -> None:
    """Otherwise `python -m tests.policy_reference` writes it anew."""
    assert policy_reference.reference(SCHEMA) == policy_reference.FILE.read_text("utf-8")

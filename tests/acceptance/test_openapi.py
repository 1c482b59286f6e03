"""What the service says of itself: the committed document, examples that are true to it, and answers that are too."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import asyncpg
import jsonschema_rs
import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, given, seed, settings
from hypothesis.strategies import SearchStrategy, booleans, sampled_from
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance

from pointsman import Router
from pointsman.api import create_app, problems, routes
from pointsman.api.examples import ANSWERS, OUTCOMES, PROBLEMS
from pointsman.api.openapi import as_text
from pointsman.model import Cause, OutcomeKind
from pointsman.settings import ApiKey, Scope
from pointsman.wire import KINDS, PROBLEM_TYPE, Kind
from tests.builders import make_candidate, make_lead, make_offer, make_policy
from tests.http_client import listening

COMMITTED = Path(__file__).resolve().parents[2] / "docs" / "openapi.json"


def document() -> dict[str, Any]:
    return create_app().openapi()


def test_the_committed_document_is_the_service_s() -> None:
    assert as_text(document()) == COMMITTED.read_text("utf-8"), (
        "the API has changed: renew the document with `python -m pointsman.api docs/openapi.json`,"
        " and say in CHANGELOG.md what callers will notice"
    )


def test_every_outcome_and_cause_has_an_example() -> None:
    assert set(OutcomeKind) == {outcome.outcome for outcome in OUTCOMES.values()}
    assert set(Cause) == {outcome.cause for outcome in OUTCOMES.values() if outcome.cause is not None}


def test_every_kind_of_problem_that_a_route_answers_has_an_example() -> None:
    before_any_route = {"no-such-path", "method-not-allowed", "malformed-request", "head-too-large"}
    of_the_service = {kind for kind in vars(problems).values() if isinstance(kind, Kind)} | set(problems._HTTP.values())
    slugs = {kind.slug for kind in (*KINDS.values(), *of_the_service)} - before_any_route - {"too-many-connections"}
    shown = {example["type"].removeprefix(PROBLEM_TYPE) for found in PROBLEMS.values() for example in found.values()}
    assert slugs == shown


@pytest.mark.parametrize("name", sorted(ANSWERS))
def test_the_examples_are_of_their_form(name: str) -> None:
    components = document()["components"]
    validator = jsonschema_rs.validator_for({**components["schemas"][name], "components": components})
    for example in ANSWERS[name].values():
        validator.validate(example)


def test_documents_of_hosts_that_include_our_routes_are_whole() -> None:
    create_app().openapi()
    app = FastAPI()
    app.include_router(routes)
    assert "components/responses" not in json.dumps(app.openapi())


# answers to what nobody would think of


@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # in Schemathesis' own strategies
async def test_schemathesis_finds_nothing(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    await make_candidate(connection, offer)
    leads = [await make_lead(connection, offer) for _ in range(3)]
    key, secret = ApiKey.new("schemathesis", Scope.ROUTE)
    async with Router.open(database) as router, listening(router, keys=[key]) as service:
        for lead in leads[:2]:
            await router.route(lead)
        asked = await asyncio.to_thread(ask_everything, service.url, secret, [str(lead) for lead in leads])
    assert len(asked) > 200
    assert {200, 404, 422} <= set(asked)


BEYOND_A_SCHEMA = {"/v1/explain": [positive_data_acceptance]}
"""A draft policy can be refused for what no JSON Schema can say: its tie-breakers end with `buyer_id`."""


def ask_everything(url: str, secret: str, leads: list[str]) -> list[int]:
    """Ask each route with what fits its description and with what does not; the statuses of the answers."""
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    operations = [found.ok() for found in schema.get_all_operations()]
    takes_something = [operation for operation in operations if operation.path_parameters or operation.body]
    statuses: list[int] = []
    for operation in operations:
        ask(operation.as_strategy(generation_mode=GenerationMode.POSITIVE), secret, leads, statuses)
    for operation in takes_something:
        ask(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE), secret, leads, statuses)
    return statuses


def ask(cases: SearchStrategy[schemathesis.Case], secret: str, leads: list[str], statuses: list[int]) -> None:
    """Ask one route, about leads that exist too; each answer is compared with the description."""

    @seed(1)
    @settings(max_examples=20, database=None, deadline=None, suppress_health_check=list(HealthCheck))
    @given(case=cases, lead=sampled_from(leads), is_known=booleans())
    def asked(case: schemathesis.Case, lead: str, is_known: bool) -> None:
        if is_known and "lead_id" in case.path_parameters:
            case.path_parameters["lead_id"] = lead
        answer = case.call_and_validate(
            headers={"Authorization": f"Bearer {secret}"},
            timeout=30,
            excluded_checks=BEYOND_A_SCHEMA.get(case.path, []),
        )
        statuses.append(answer.status_code)

    asked()

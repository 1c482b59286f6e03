"""The routes. Each awaits the router once and writes its answer as the contract's JSON."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Request
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, WithJsonSchema

from pointsman.api.authentication import Allowed
from pointsman.api.openapi import answers
from pointsman.api.problems import ProblemRoute
from pointsman.cache.feed import FeedState
from pointsman.errors import NotReady
from pointsman.metrics import CONTENT_TYPE
from pointsman.model import Lead
from pointsman.router import Router
from pointsman.settings import Scope
from pointsman.wire import answer_json, explanation_json, outcome_json, plain, record_json

LARGEST_BATCH = 1000
LARGEST_ID = 2**63 - 1

routes = APIRouter(route_class=ProblemRoute, default_response_class=JSONResponse)

may_route = [Depends(Allowed(Scope.ROUTE))]
may_read = [Depends(Allowed(Scope.READ))]


async def the_router(request: Request) -> Router:
    """The router that the application's lifespan opened."""
    router: Router | None = getattr(request.app.state, "pointsman_router", None)
    if router is None:
        raise NotReady("the application has not opened its router; give it `pointsman.api.lifespan(...)`")
    return router


TheRouter = Annotated[Router, Depends(the_router)]
DecisionId = Annotated[int, Path(ge=1, le=LARGEST_ID)]


@cache
def read_policy_schema() -> dict[str, Any]:
    """The package's own JSON Schema of policy rules."""
    schema: dict[str, Any] = json.loads((files("pointsman") / "policy.schema.json").read_text("utf-8"))
    return schema


class LeadIds(BaseModel):
    """A batch of leads; one that stands in it twice is routed once and answered twice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lead_ids: Annotated[list[UUID], Field(max_length=LARGEST_BATCH)]


Instant = Annotated[
    AwareDatetime,
    WithJsonSchema({"type": "string", "format": "date-time", "pattern": "^(19[7-9][0-9]|[2-8][0-9]{3})-"}),
]


def _described_rules() -> dict[str, Any]:
    """The schema of rules without what tools that read OpenAPI choke on; the last tie-breaker is `buyer_id`."""
    schema = {key: value for key, value in read_policy_schema().items() if key not in ("$schema", "$id")}
    breakers = {
        key: value for key, value in schema["properties"]["tie_breakers"].items() if key not in ("contains", "allOf")
    }
    return {**schema, "properties": {**schema["properties"], "tie_breakers": breakers}}


Rules = Annotated[dict[str, Any], WithJsonSchema(_described_rules())]


class HypotheticalLead(BaseModel):
    """A lead that may or may not exist; its id matters where buyers are drawn by lots."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: UUID = UUID(int=0)
    offer_id: UUID | None = None
    vertical_id: UUID | None = None
    market_id: UUID | None = None
    postal_code: str | None = None
    city: str | None = None


class Hypothesis(BaseModel):
    """A lead, an instant instead of now, draft rules instead of the policy that the lead falls under."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    lead: HypotheticalLead
    at: Instant | None = None
    policy: Rules | None = None


class SchemaResponse(JSONResponse):
    """A JSON Schema."""

    media_type = "application/schema+json"


@routes.post("/v1/leads/route", dependencies=may_route, responses=answers("Batch", 408, 413), tags=["leads"])
async def route_many(batch: LeadIds, router: TheRouter) -> JSONResponse:
    """Route each lead; the answers stand in the order of the ids, an error in the place of its lead."""
    found = await router.route_many(batch.lead_ids)
    return JSONResponse([answer_json(*pair) for pair in zip(batch.lead_ids, found, strict=True)])


@routes.post(
    "/v1/leads/{lead_id}/route", dependencies=may_route, responses=answers("Outcome", 404, 409), tags=["leads"]
)
async def route(lead_id: UUID, router: TheRouter) -> JSONResponse:
    """Assign the lead to exactly one buyer, or say why nobody takes it; every outcome is a 200."""
    return JSONResponse(outcome_json(await router.route(lead_id)))


@routes.get(
    "/v1/leads/{lead_id}/explanation",
    dependencies=may_read,
    responses=answers("Explanation", 404, 410),
    tags=["leads"],
)
async def explain(lead_id: UUID, router: TheRouter) -> JSONResponse:
    """What would happen to the lead now, or, where the router has assigned it, what happened; nothing is written."""
    return JSONResponse(explanation_json(await router.explain(lead_id)))


@routes.get(
    "/v1/leads/{lead_id}/decisions", dependencies=may_read, responses=answers("Records", 404), tags=["decisions"]
)
async def decisions(lead_id: UUID, router: TheRouter) -> JSONResponse:
    """What was decided for the lead, newest first."""
    return JSONResponse([record_json(record) for record in await router.decisions(lead_id)])


@routes.get("/v1/decisions/{decision_id}", dependencies=may_read, responses=answers("Record", 404), tags=["decisions"])
async def decision(decision_id: DecisionId, router: TheRouter) -> JSONResponse:
    """One recorded decision."""
    return JSONResponse(record_json(await router.decision(decision_id)))


@routes.get(
    "/v1/decisions/{decision_id}/explanation",
    dependencies=may_read,
    responses=answers("Explanation", 404, 410),
    tags=["decisions"],
)
async def explain_decision(decision_id: DecisionId, router: TheRouter) -> JSONResponse:
    """What the decision was decided from, recomputed; 410 where what it was made on is not known for sure."""
    return JSONResponse(explanation_json(await router.explain_decision(decision_id)))


@routes.post("/v1/explain", dependencies=may_read, responses=answers("Explanation", 408, 413), tags=["leads"])
async def explain_hypothetical(hypothesis: Hypothesis, router: TheRouter) -> JSONResponse:
    """What would happen to a lead that is made up, at an instant, under draft rules; nothing is written."""
    lead = Lead(*hypothesis.lead.model_dump().values())
    return JSONResponse(
        explanation_json(await router.explain_hypothetical(lead, at=hypothesis.at, policy=hypothesis.policy))
    )


@routes.get("/v1/cache", dependencies=may_read, responses=answers("Cache"), tags=["service"])
async def cache_status(router: TheRouter) -> JSONResponse:
    """How far the configuration in memory may be believed, and how much of it there is."""
    return JSONResponse(plain(router.status()))


@routes.get(
    "/v1/policy-schema",
    dependencies=may_read,
    responses=answers("PolicySchema"),
    response_class=SchemaResponse,
    tags=["service"],
)
async def policy_schema() -> SchemaResponse:
    """The JSON Schema of policy rules."""
    return SchemaResponse(read_policy_schema())


@routes.get("/livez", responses=answers("Alive"), tags=["service"])
async def livez() -> JSONResponse:
    """Whether the process answers."""
    return JSONResponse({"status": "alive"})


@routes.get("/readyz", responses=answers("Ready"), tags=["service"])
async def readyz(router: TheRouter) -> JSONResponse:
    """Whether leads can be routed here; 503 with why they cannot."""
    state, version = router.cache.state, router.cache.version
    if version is None or state is FeedState.LOADING:
        raise NotReady("the configuration is not loaded yet")
    if state is FeedState.DOWN:
        raise NotReady("the database is away; the configuration in memory cannot be proved to be the newest")
    return JSONResponse({"status": "ready", "state": state, "config_version": version})


@routes.get(
    "/metrics", dependencies=may_read, responses=answers("Metrics"), response_class=PlainTextResponse, tags=["service"]
)
async def metrics(router: TheRouter) -> PlainTextResponse:
    """Counters, histograms and gauges for Prometheus; of all processes that serve this port."""
    return PlainTextResponse(router.exposition(), media_type=CONTENT_TYPE)

"""The HTTP face on a real database: every outcome, every refusal, keys, and the service as a process."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
from fastapi import Depends, FastAPI, HTTPException

from pointsman import errors
from pointsman.api import TheRouter, create_app, lifespan, routes
from pointsman.cache.feed import FeedState
from pointsman.settings import ApiKey, Scope
from pointsman.wire import outcome_json
from tests.builders import (
    MARKET,
    enroll,
    make_buyer,
    make_candidate,
    make_exclusivity,
    make_lead,
    make_offer,
    make_policy,
)
from tests.http_client import assert_problem, client_of, serving

OUTCOME_KEYS = [
    "lead_id",
    "outcome",
    "cause",
    "buyer_id",
    "status",
    "decision_id",
    "policy_id",
    "policy_version",
    "config_version",
    "decided_at",
    "flags",
]


@contextlib.asynccontextmanager
async def host(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(dsn)
    try:
        yield connection
    finally:
        await connection.close()


class Failing:
    """Stands where a router stands and fails as one does."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    async def route(self, lead_id: UUID) -> Any:
        raise self.error

    async def explain_decision(self, decision_id: int) -> Any:
        raise self.error


class Feed:
    """A cache in some state."""

    def __init__(self, state: FeedState, version: int | None) -> None:
        self.state, self.version = state, version


# outcomes


async def test_a_validated_lead_is_routed_once_and_then_is_already_routed(database: str) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        buyer = await make_candidate(connection, offer)
        policy = await make_policy(connection, offer_id=offer, version=3)
        lead = await make_lead(connection, offer)
        async with client_of(create_app(dsn=database)) as client:
            first = await client.post(f"/v1/leads/{lead}/route")
            second = await client.post(f"/v1/leads/{lead}/route")
        routed_at = await connection.fetchval("select routed_at from leads where id = $1", lead)
    outcome, again = first.json(), second.json()
    assert list(outcome) == OUTCOME_KEYS
    assert 200 == first.status_code == second.status_code
    assert (str(lead), "routed", None, str(buyer)) == tuple(outcome[key] for key in OUTCOME_KEYS[:4])
    assert ("routed", str(policy), 3, []) == tuple(
        outcome[key] for key in ("status", "policy_id", "policy_version", "flags")
    )
    assert outcome["decided_at"] == routed_at.isoformat().replace("+00:00", "Z")
    assert {**outcome, "outcome": "already_routed"} == again


async def test_a_lead_that_is_not_validated_is_told_its_status(database: str) -> None:
    async with host(database) as connection:
        lead = await make_lead(connection, None, status="rejected")
    async with client_of(create_app(dsn=database)) as client:
        outcome = (await client.post(f"/v1/leads/{lead}/route")).json()
        why = (await client.get(f"/v1/leads/{lead}/explanation")).json()
    assert (outcome["outcome"], outcome["status"]) == ("not_validated", "rejected")
    assert {None} == {outcome[key] for key in ("cause", "buyer_id", *OUTCOME_KEYS[5:10])}
    assert {"outcome": outcome, "eligible": [], "excluded": []} == why


async def test_every_no_route_is_a_200_with_its_cause(database: str) -> None:
    async with host(database) as connection:
        unruled, closed, empty = [await make_offer(connection, is_active=active) for active in (True, False, True)]
        foreign = await make_offer(connection, vertical_id=uuid4())
        elsewhere = await make_offer(connection, market_id=uuid4())
        invalid = await make_offer(connection)
        for offer in (closed, empty, foreign, elsewhere):
            await make_policy(connection, offer_id=offer)
        await make_policy(connection, offer_id=invalid, rules={"strategy": "best"})
        leads = {
            "no_policy": await make_lead(connection, unruled),
            "policy_invalid": await make_lead(connection, invalid),
            "offer_inactive": await make_lead(connection, closed),
            "offer_vertical_mismatch": await make_lead(connection, foreign),
            "offer_market_mismatch": await make_lead(connection, elsewhere),
            "no_eligible_buyers": await make_lead(connection, empty),
        }
    async with client_of(create_app(dsn=database)) as client:
        answers = {cause: await client.post(f"/v1/leads/{lead}/route") for cause, lead in leads.items()}
    assert {200} == {answer.status_code for answer in answers.values()}
    for cause, answer in answers.items():
        assert ("no_route", cause, None) == tuple(answer.json()[key] for key in OUTCOME_KEYS[1:4])


async def test_an_exclusive_holder_that_is_paused_fails_closed_and_says_why(database: str) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        await make_policy(connection, offer_id=offer)
        holder = await make_candidate(connection, offer, status="paused")
        other = await make_candidate(connection, offer)
        exclusivity = await make_exclusivity(connection, offer, holder, scope="market", market_id=MARKET)
        lead = await make_lead(connection, offer)
    async with client_of(create_app(dsn=database)) as client:
        outcome = (await client.post(f"/v1/leads/{lead}/route")).json()
        why = (await client.get(f"/v1/decisions/{outcome['decision_id']}/explanation")).json()
    assert tuple(outcome[key] for key in ("outcome", "cause", "flags")) == (
        "no_route_exclusive_fail_closed",
        None,
        ["exclusive"],
    )
    reasons = {entry["buyer_id"]: entry["reasons"] for entry in why["excluded"]}
    held = {"code": "held_by_exclusive_buyer", "buyer_id": str(holder), "exclusivity_id": str(exclusivity)}
    assert {str(holder): [{"code": "buyer_paused"}], str(other): [held]} == reasons
    assert sorted(reasons) == list(reasons)


async def test_explanations_show_the_eligible_in_rank_order_and_facts_beside_codes(database: str) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        await make_policy(connection, offer_id=offer)
        second, first = [await make_candidate(connection, offer, enrollment={"priority_rank": rank}) for rank in (2, 1)]
        full = await make_candidate(connection, offer, daily_cap=0)
        away = await make_buyer(connection)
        await enroll(connection, away, offer)
        lead = await make_lead(connection, offer)
    async with client_of(create_app(dsn=database)) as client:
        why = (await client.get(f"/v1/leads/{lead}/explanation")).json()
        outcome = (await client.post(f"/v1/leads/{lead}/route")).json()
        what_happened = (await client.get(f"/v1/leads/{lead}/explanation")).json()
    assert [(str(first), 1), (str(second), 2)] == [(entry["buyer_id"], entry["rank"]) for entry in why["eligible"]]
    assert tuple(why["outcome"][key] for key in ("decision_id", "outcome", "status")) == (None, "routed", "validated")
    reasons = {entry["buyer_id"]: entry["reasons"] for entry in why["excluded"]}
    assert reasons[str(away)] == [{"code": "not_in_service_area"}]
    (cap,) = reasons[str(full)]
    assert tuple(cap[key] for key in ("code", "level", "used", "cap")) == ("daily_cap_reached", "buyer", 0, 0)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:00:00Z", cap["window_start"])
    assert outcome == what_happened["outcome"]
    assert why["eligible"] == what_happened["eligible"]
    assert all(re.fullmatch("[0-9a-f]{16}", entry["lead_hash"]) for entry in why["eligible"])


async def test_records_are_listed_newest_first_and_found_by_number(database: str) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        lead = await make_lead(connection, offer)
        async with client_of(create_app(dsn=database)) as client:
            nobody = (await client.post(f"/v1/leads/{lead}/route")).json()
            await make_candidate(connection, offer)
            await make_policy(connection, offer_id=offer)
            routed = (await client.post(f"/v1/leads/{lead}/route")).json()
            records = (await client.get(f"/v1/leads/{lead}/decisions")).json()
            one = (await client.get(f"/v1/decisions/{routed['decision_id']}")).json()
    assert [routed["decision_id"], nobody["decision_id"]] == [record["decision_id"] for record in records]
    assert records[0] == one
    assert {key: value for key, value in routed.items() if key != "status"} == dict(list(one.items())[:10])
    more = ["attempt", "offer_id", "vertical_id", "market_id", "postal_code", "city"]
    assert [*more, "engine_version", "tzdata_version", "unicode_version", "digest"] == list(one)[10:]


async def test_a_batch_answers_in_order_with_repeats_and_unknown_ids_in_their_places(database: str) -> None:
    unknown = uuid4()
    async with host(database) as connection:
        offer = await make_offer(connection)
        await make_candidate(connection, offer)
        await make_policy(connection, offer_id=offer)
        one, two = [await make_lead(connection, offer) for _ in range(2)]
    async with client_of(create_app(dsn=database)) as client:
        ids = [str(lead) for lead in (one, unknown, two, one)]
        answer = await client.post("/v1/leads/route", json={"lead_ids": ids})
    entries = answer.json()
    assert answer.status_code == 200
    assert ids == [entry["lead_id"] for entry in entries]
    assert [entry.get("outcome") for entry in entries] == ["routed", None, "routed", "already_routed"]
    assert list(entries[1]) == ["lead_id", "error"]
    assert (entries[1]["error"]["type"], entries[1]["error"]["status"]) == ("urn:pointsman:problem:lead-not-found", 404)
    assert entries[0]["decision_id"] == entries[3]["decision_id"]


async def test_ten_calls_at_once_for_one_lead_have_one_winner(database: str) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        await make_candidate(connection, offer)
        await make_policy(connection, offer_id=offer)
        lead = await make_lead(connection, offer)
    async with client_of(create_app(dsn=database)) as client:
        answers = await asyncio.gather(*(client.post(f"/v1/leads/{lead}/route") for _ in range(10)))
    outcomes = sorted(answer.json()["outcome"] for answer in answers)
    assert outcomes == ["already_routed"] * 9 + ["routed"]
    assert len({answer.json()["buyer_id"] for answer in answers}) == 1


# refusals


async def test_unknown_leads_decisions_and_paths_are_404(database: str) -> None:
    async with client_of(create_app(dsn=database)) as client:
        assert_problem(await client.post(f"/v1/leads/{uuid4()}/route"), 404, "lead-not-found")
        assert_problem(await client.get(f"/v1/leads/{uuid4()}/explanation"), 404, "lead-not-found")
        assert_problem(await client.get(f"/v1/leads/{uuid4()}/decisions"), 404, "lead-not-found")
        assert_problem(await client.get("/v1/decisions/999999999"), 404, "decision-not-found")
        assert_problem(await client.get("/v1/decisions/999999999/explanation"), 404, "decision-not-found")
        assert_problem(await client.get("/v1/nothing"), 404, "no-such-path")
        assert_problem(await client.post("/v1/leads/route/", json={}), 404, "no-such-path")


async def test_a_write_that_the_host_s_trigger_refuses_is_409_and_changes_nothing(database: str) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        await make_candidate(connection, offer)
        await make_policy(connection, offer_id=offer)
        lead = await make_lead(connection, offer)
        await connection.execute(
            "create function no() returns trigger language plpgsql as "
            "$$ begin raise exception 'leads are frozen'; end $$; "
            "create trigger no before update on leads for each row execute function no()"
        )
        async with client_of(create_app(dsn=database)) as client:
            refusal = assert_problem(await client.post(f"/v1/leads/{lead}/route"), 409, "refused")
            batch = (await client.post("/v1/leads/route", json={"lead_ids": [str(lead)]})).json()
        row = await connection.fetchrow("select status, buyer_id from leads where id = $1", lead)
    assert "leads are frozen" in refusal["detail"]
    assert batch[0]["error"]["status"] == 409
    assert tuple(row) == ("validated", None)


async def test_what_is_no_uuid_or_no_number_is_422(database: str) -> None:
    async with client_of(create_app(dsn=database)) as client:
        refusal = assert_problem(await client.post("/v1/leads/42/route"), 422, "invalid-request")
        assert_problem(await client.get("/v1/leads/x/explanation"), 422, "invalid-request")
        for number in ("x", "0", "-1", str(2**63)):
            assert_problem(await client.get(f"/v1/decisions/{number}"), 422, "invalid-request")
    assert refusal["detail"].startswith("path.lead_id: ")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"not json",
        b'{"lead_ids": ',
        b"\xff\xfe",
        b'{"lead_ids": ["\xff"]}',
        b"[]",
        b"{}",
        b'{"lead_ids": null}',
        b'{"lead_ids": "x"}',
        b'{"lead_ids": ["x"]}',
        b'{"lead_ids": [7]}',
        b'{"lead_ids": [], "more": 1}',
        b'{"lead_ids": [], "\\ud800": 1}',
        json.dumps({"lead_ids": [str(UUID(int=number)) for number in range(1001)]}).encode(),
    ],
    ids=lambda body: repr(body[:40]),
)
async def test_a_bad_body_is_422_and_is_not_repeated(body: bytes) -> None:
    app = create_app(Failing(AssertionError("not reached")))  # type: ignore[arg-type]
    async with client_of(app, headers={"content-type": "application/json"}) as client:
        refusal = assert_problem(await client.post("/v1/leads/route", content=body), 422, "invalid-request")
    assert all({"at", "message"} == set(complaint) for complaint in refusal.get("errors", []))


@pytest.mark.parametrize("count", [10_000, 25_000])
async def test_too_many_ids_are_422_and_hear_how_many_are_taken(count: int) -> None:
    ids = [str(UUID(int=number)) for number in range(count)]
    async with client_of(create_app(Failing(AssertionError("not reached")))) as client:  # type: ignore[arg-type]
        refusal = assert_problem(await client.post("/v1/leads/route", json={"lead_ids": ids}), 422, "invalid-request")
    assert "at most 1000 items" in refusal["detail"]


async def test_a_thousand_ids_are_answered_and_none_is_an_empty_list(database: str) -> None:
    ids = [str(UUID(int=number)) for number in range(1000)]
    async with client_of(create_app(dsn=database)) as client:
        answer = await client.post("/v1/leads/route", json={"lead_ids": ids})
        nothing = await client.post("/v1/leads/route", json={"lead_ids": []})
    assert ids == [entry["lead_id"] for entry in answer.json()]
    assert {404} == {entry["error"]["status"] for entry in answer.json()}
    assert nothing.json() == []


async def test_a_body_of_ten_megabytes_is_413_with_and_without_a_length() -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(160):
            yield b"x" * 65536

    app = create_app(Failing(AssertionError("not reached")))  # type: ignore[arg-type]
    async with client_of(app, headers={"content-type": "application/json"}) as client:
        for body in (b"x" * 10_000_000, endless()):
            assert_problem(await client.post("/v1/leads/route", content=body), 413, "body-too-large")


async def test_a_wrong_method_is_405_and_names_the_right_one() -> None:
    app = create_app(Failing(AssertionError("not reached")))  # type: ignore[arg-type]
    async with client_of(app) as client:
        answer = await client.get(f"/v1/leads/{uuid4()}/route")
    assert_problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize(
    ("error", "status", "slug"),
    [
        (errors.NotReady("not yet"), 503, "not-ready"),
        (errors.Busy("others hold it"), 503, "busy"),
        (errors.StoreUnavailable("away"), 503, "store-unavailable"),
        (errors.DatabaseUnfit("too old"), 503, "database-unfit"),
        (errors.HistoryPruned("no longer kept"), 410, "history-pruned"),
        (errors.HistoryHole("version 7 is missing"), 410, "history-hole"),
        (errors.DecisionDiffers("does not come out again"), 410, "decision-differs"),
        (errors.UnsuitableTransaction("no"), 500, "internal-error"),
    ],
)
async def test_errors_have_their_status_and_those_that_pass_say_when_to_retry(
    error: errors.PointsmanError, status: int, slug: str
) -> None:
    async with client_of(create_app(Failing(error))) as client:  # type: ignore[arg-type]
        answers = [await client.post(f"/v1/leads/{uuid4()}/route"), await client.get("/v1/decisions/1/explanation")]
    for answer in answers:
        assert str(error) == assert_problem(answer, status, slug)["detail"]
        assert (status == 503) == (answer.headers.get("retry-after", "").isdigit())


async def test_a_failure_of_our_own_is_500_and_tells_nothing() -> None:
    app = create_app(Failing(RuntimeError("password=hunter2")))  # type: ignore[arg-type]
    async with client_of(app) as client:
        answer = await client.post(f"/v1/leads/{uuid4()}/route")
    assert_problem(answer, 500, "internal-error")
    assert "hunter2" not in answer.text


# the service itself


async def test_a_service_on_a_loaded_cache_is_alive_and_ready(database: str) -> None:
    async with client_of(create_app(dsn=database)) as client:
        alive, ready = await client.get("/livez"), await client.get("/readyz")
        status = (await client.get("/v1/cache")).json()
    assert (alive.status_code, alive.json()) == (200, {"status": "alive"})
    assert (ready.status_code, ready.json()["status"], ready.json()["state"]) == (200, "ready", "fresh")
    assert {"config_version", "lag", "state", "sizes", "invalid_policies"} == set(status)
    assert ready.json()["config_version"] == status["config_version"]


@pytest.mark.parametrize(
    ("state", "version", "is_ready"),
    [
        (FeedState.LOADING, None, False),
        (FeedState.FRESH, 1, True),
        (FeedState.STALE, 1, True),
        (FeedState.DOWN, 1, False),
    ],
)
async def test_readiness_follows_the_feed(state: FeedState, version: int | None, is_ready: bool) -> None:
    router = Failing(AssertionError("not reached"))
    router.cache = Feed(state, version)  # type: ignore[attr-defined]
    async with client_of(create_app(router)) as client:  # type: ignore[arg-type]
        answer = await client.get("/readyz")
        assert (await client.get("/livez")).status_code == 200
    if is_ready:
        assert (200, state) == (answer.status_code, answer.json()["state"])
    else:
        assert_problem(answer, 503, "not-ready")


async def test_the_policy_schema_and_openapi_are_served() -> None:
    async with client_of(create_app(Failing(AssertionError("not reached")))) as client:  # type: ignore[arg-type]
        schema = await client.get("/v1/policy-schema")
        api = (await client.get("/openapi.json")).json()
    assert schema.headers["content-type"] == "application/schema+json"
    assert {"strategy", "tie_breakers", "constraints", "exclusivity", "sla", "schema"} == set(
        schema.json()["properties"]
    )
    outcome = api["paths"]["/v1/leads/{lead_id}/route"]["post"]["responses"]["200"]["content"]["application/json"]
    assert outcome["schema"] == {"$ref": "#/components/schemas/Outcome"}
    assert list(api["components"]["schemas"]["Outcome"]["properties"]) == OUTCOME_KEYS


# keys


async def test_keys_let_in_who_has_one_and_only_as_far_as_its_scope(database: str) -> None:
    (intake, route_secret), (reports, read_secret) = ApiKey.new("intake", Scope.ROUTE), ApiKey.new("r", Scope.READ)
    route, why = f"/v1/leads/{uuid4()}/route", f"/v1/leads/{uuid4()}/explanation"
    async with client_of(create_app(dsn=database, keys=[intake, reports])) as client:

        async def status(method: str, path: str, authorization: str | bytes | None) -> int:
            headers = (
                {}
                if authorization is None
                else {b"Authorization": authorization if isinstance(authorization, bytes) else authorization.encode()}
            )
            body = {"lead_ids": []} if path == "/v1/leads/route" else None
            answer = await client.request(method, path, headers=headers, json=body)
            if answer.status_code in (401, 403):
                assert_problem(answer, answer.status_code, "unauthorized" if answer.status_code == 401 else "forbidden")
                assert (answer.status_code == 401) == ("www-authenticate" in answer.headers)
            return answer.status_code

        for nobody in (
            None,
            "Bearer",
            "Bearer ",
            "Bearer wrong",
            f"Basic {route_secret}",
            route_secret,
            "Bearer é".encode(),
        ):
            assert await status("POST", route, nobody) == 401
            assert await status("GET", why, nobody) == 401
        assert await status("POST", route, f"Bearer {hashlib.sha256(route_secret.encode()).hexdigest()}") == 401
        assert await status("POST", route, f"Bearer {read_secret}") == 403
        assert await status("POST", "/v1/leads/route", f"Bearer {read_secret}") == 403
        for secret in (read_secret, route_secret):
            assert await status("GET", why, f"Bearer {secret}") == 404
            for path in ("/v1/cache", "/v1/policy-schema"):
                assert await status("GET", path, f"Bearer {secret}") == 200
                assert await status("GET", path, None) == 401
        assert await status("POST", route, f"Bearer {route_secret}") == 404
        assert await status("POST", "/v1/leads/route", f"bearer {route_secret}") == 200
        assert await status("GET", "/livez", None) == 200
        assert await status("GET", "/readyz", None) == 200


# inside a host's application


async def test_a_host_s_application_takes_the_router_by_lifespan_and_dependency(database: str) -> None:
    async def guard(x_token: Annotated[str, Depends(lambda: "open")]) -> None:
        assert x_token

    app = FastAPI(lifespan=lifespan(database))
    app.include_router(routes, dependencies=[Depends(guard)])

    @app.post("/leads/{lead_id}/accept")
    async def accept(lead_id: UUID, router: TheRouter) -> dict[str, Any]:
        return outcome_json(await router.route(lead_id))

    async with host(database) as connection:
        lead = await make_lead(connection, None)
    async with client_of(app) as client:
        accepted = await client.post(f"/leads/{lead}/accept")
        assert accepted.json()["outcome"] == "no_route"
        assert_problem(await client.post(f"/v1/leads/{uuid4()}/route"), 404, "lead-not-found")
        assert_problem(await client.post("/v1/leads/x/route"), 422, "invalid-request")
        assert (await client.get("/elsewhere")).json() == {"detail": "Not Found"}


@pytest.mark.parametrize("form", [str, lambda lead: lead.hex], ids=["plain", "without hyphens"])
async def test_a_host_s_own_guard_and_prefix_hold_for_the_hot_route_too(form: Any) -> None:
    async def closed() -> None:
        raise HTTPException(401, "the host does not know you")

    lead = form(uuid4())
    app = FastAPI()
    app.state.pointsman_router = Failing(AssertionError("not reached"))
    app.include_router(routes, prefix="/routing", dependencies=[Depends(closed)])
    async with client_of(app) as client:
        refusal = assert_problem(await client.post(f"/routing/v1/leads/{lead}/route"), 401, "unauthorized")
        assert (await client.post(f"/v1/leads/{lead}/route")).status_code == 404
    assert refusal["detail"] == "the host does not know you"


async def test_routes_without_a_lifespan_say_what_is_missing() -> None:
    app = FastAPI()
    app.include_router(routes)
    async with client_of(app) as client:
        refusal = assert_problem(await client.post(f"/v1/leads/{uuid4()}/route"), 503, "not-ready")
    assert "lifespan" in refusal["detail"]


# as a process


@pytest.mark.parametrize("workers", [1, 2])
async def test_serve_answers_over_a_socket_and_ends_when_told_to(database: str, workers: int) -> None:
    async with host(database) as connection:
        offer = await make_offer(connection)
        buyer = await make_candidate(connection, offer)
        await make_policy(connection, offer_id=offer)
        leads = [await make_lead(connection, offer) for _ in range(8)]
    key, secret = ApiKey.new("intake", Scope.ROUTE)
    async with (
        serving(database, "--workers", str(workers), POINTSMAN_API_KEYS=str(key)) as (address, process),
        httpx.AsyncClient(base_url=address, headers={"Authorization": f"Bearer {secret}"}, timeout=30) as client,
    ):
        answers = await asyncio.gather(*(client.post(f"/v1/leads/{lead}/route") for lead in leads))
        assert {("routed", str(buyer))} == {(answer.json()["outcome"], answer.json()["buyer_id"]) for answer in answers}
        assert (await client.get("/v1/cache", headers={"Authorization": ""})).status_code == 401
        assert "server" not in answers[0].headers
        if sys.platform != "win32":
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0
            assert b"Traceback" not in (await process.stderr.read() if process.stderr else b"")

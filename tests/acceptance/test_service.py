"""The service as those see it who run it: ids of requests, HEAD, metrics, slow and greedy clients, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import socket
import sys
from types import SimpleNamespace
from typing import Any
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from pointsman.api import create_app, problems, server
from pointsman.model import Outcome, OutcomeKind
from pointsman.settings import ApiKey, Scope
from tests.builders import make_candidate, make_lead, make_offer, make_policy
from tests.http_client import assert_problem, client_of, has, listening, serving
from tests.stage import until

linux = pytest.mark.skipif(sys.platform != "linux", reason="only its kernel deals connections out")


class Slow:
    """A router whose answers come when a test lets them."""

    def __init__(self) -> None:
        self.asked, self.may_answer = asyncio.Event(), asyncio.Event()

    async def route(self, lead_id: UUID) -> Outcome:
        self.asked.set()
        await self.may_answer.wait()
        return Outcome(lead_id, OutcomeKind.NOT_VALIDATED, None, None, "new")


def waiting(listening: socket.socket) -> int:
    """How many connections wait there to be accepted; they are accepted and closed."""
    listening.setblocking(False)
    count = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            listening.accept()[0].close()
            count += 1
    return count


async def answer_to(service: SimpleNamespace, *parts: bytes) -> tuple[int, dict[str, str], Any]:
    """What a client gets that sends `parts` and then waits until the service hangs up."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    told = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = told.partition(b"\r\n\r\n")
    status, *headers = head.decode().split("\r\n")
    named = dict(line.lower().split(": ", 1) for line in headers)
    return int(status.split()[1]), named, json.loads(body)


# ids of requests


async def test_an_id_that_comes_is_returned_and_one_that_does_not_is_made() -> None:
    async with client_of(create_app(Slow())) as client:  # type: ignore[arg-type]
        taken = await client.get("/livez", headers={"X-Request-ID": "intake-4711"})
        made = [(await client.get(path)).headers["x-request-id"] for path in ("/livez", "/nothing", "/v1/cache")]
    assert taken.headers["x-request-id"] == "intake-4711"
    assert len(set(made)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", request_id) for request_id in made)


@pytest.mark.parametrize("strange", ["", "x" * 129, "two words", 'quoted"', "é"])
async def test_a_strange_id_is_not_taken(strange: str) -> None:
    async with client_of(create_app(Slow())) as client:  # type: ignore[arg-type]
        answer = await client.get("/livez", headers={b"X-Request-ID": strange.encode()})
    assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])


async def test_the_id_is_bound_for_the_log_and_on_a_failure_too() -> None:
    class Noting:
        async def route(self, lead_id: UUID) -> Any:
            self.bound = structlog.contextvars.get_contextvars()
            raise RuntimeError("a bug")

    router = Noting()
    async with client_of(create_app(router)) as client:  # type: ignore[arg-type]
        answer = await client.post(f"/v1/leads/{uuid4()}/route", headers={"X-Request-ID": "r-7"})
    assert_problem(answer, 500, "internal-error")
    assert ("r-7", {"request_id": "r-7"}) == (answer.headers["x-request-id"], router.bound)


# HEAD


async def test_head_is_get_without_a_body_and_only_where_there_is_get(database: str) -> None:
    async with client_of(create_app(dsn=database)) as client:
        for path in ("/livez", "/readyz", "/v1/policy-schema", "/v1/cache", "/metrics", "/openapi.json"):
            head = await client.head(path)
            assert (200, b"") == (head.status_code, head.content), path
            assert head.headers["content-type"] == (await client.get(path)).headers["content-type"]
            assert int(head.headers["content-length"]) > 0
        missing = await client.head(f"/v1/leads/{uuid4()}/explanation")
        no_get = await client.head(f"/v1/leads/{uuid4()}/route")
        wrong = await client.post("/livez")
    assert (404, b"") == (missing.status_code, missing.content)
    assert (405, "POST") == (no_get.status_code, no_get.headers["allow"])
    assert (405, "GET, HEAD") == (wrong.status_code, wrong.headers["allow"])


async def test_head_over_a_socket_leaves_the_connection_usable() -> None:
    async with listening(Slow()) as service, httpx.AsyncClient(base_url=service.url) as client:
        assert (await client.head("/livez")).status_code == 200
        assert (await client.get("/livez")).json() == {"status": "alive"}


# metrics


async def test_metrics_need_a_key_of_scope_read_where_there_are_keys(database: str) -> None:
    key, secret = ApiKey.new("prometheus", Scope.READ)
    async with client_of(create_app(dsn=database, keys=[key])) as client:
        refused = await client.get("/metrics")
        answer = await client.get("/metrics", headers={"Authorization": f"Bearer {secret}"})
    assert_problem(refused, 401, "unauthorized")
    assert (200, "text/plain; version=0.0.4; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    assert 'pointsman_feed_state{state="fresh"} 1.0' in answer.text


async def test_workers_count_together(database: str, connection: asyncpg.Connection) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    await make_candidate(connection, offer)
    leads = [await make_lead(connection, offer) for _ in range(12)]

    async def counted() -> dict[str, float]:
        async with httpx.AsyncClient(base_url=address, timeout=30) as client:
            families = text_string_to_metric_families((await client.get("/metrics")).text)
        samples = [sample for family in families for sample in family.samples]
        return {" ".join((sample.name, *sample.labels.values())): sample.value for sample in samples}

    async def both_are_fresh() -> bool:
        return (await counted()).get("pointsman_feed_state fresh") == 2

    async def all_are_counted() -> bool:
        return (await counted()).get("pointsman_outcomes_total  routed") == 12

    async with serving(database, "--workers", "2") as (address, process):
        for lead in leads:  # each on a connection of its own, so that both workers are asked
            async with httpx.AsyncClient(base_url=address, timeout=30) as client:
                assert (await client.post(f"/v1/leads/{lead}/route")).json()["outcome"] == "routed"
        await until(both_are_fresh, "a gauge of two workers")
        await until(all_are_counted, "a count over both workers")
        if sys.platform != "win32":
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 30) == 0


@linux
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_connections_that_come_at_once_are_dealt_out_among_the_workers_that_listen(host: str) -> None:
    def connect(count: int) -> None:
        for _ in range(count):
            stack.enter_context(socket.create_connection(shared.getsockname()[:2]))

    with contextlib.ExitStack() as stack:
        try:
            shared = stack.enter_context(server.listen(host, 0, ()))
        except server.CannotListen as error:
            pytest.skip(str(error))
        server._let_workers_share(shared)
        (own,) = map(stack.enter_context, server._beside(shared))
        connect(50)  # while its worker is not ready
        own.listen(200)
        assert 0 == waiting(own)
        connect(100)
        assert 0 < waiting(own) < 100


def test_workers_that_may_not_listen_beside_each_other_have_the_one_socket() -> None:
    with server.listen("127.0.0.1", 0, ()) as shared:
        assert [] == server._beside(shared)


@linux
def test_a_port_that_workers_share_is_taken_for_every_other_service() -> None:
    with server.listen("127.0.0.1", 0, ()) as shared:
        server._let_workers_share(shared)
        with pytest.raises(server.CannotListen, match="in use"):
            server.listen("127.0.0.1", shared.getsockname()[1], ())


# clients


async def test_a_head_that_does_not_come_is_408_and_silence_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    async with listening(Slow()) as service:
        status, headers, body = await answer_to(service, b"GET /livez HT")
        reader, writer = await asyncio.open_connection(service.host, service.port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        writer.close()
        again = await answer_to(service, b"GET /livez HTTP/1.1\r\nHost: x\r\n", b"X-Slow: 1\r\n")
    assert (408, "urn:pointsman:problem:request-timeout") == (status, body["type"]) == (again[0], again[2]["type"])
    assert ("application/problem+json", "close") == (headers["content-type"], headers["connection"])


async def test_blank_lines_do_not_keep_a_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.1)
    async with listening(Slow()) as service:
        status, _, _ = await answer_to(service, b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n\r\n")
    assert status == 200  # and then it was hung up on, or this would still wait


async def test_a_body_that_does_not_come_is_408(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(problems, "BODY_SECONDS", 0.1)
    head = b"POST /v1/leads/route HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
    async with listening(Slow()) as service:
        status, headers, body = await answer_to(service, head)
    assert (408, "urn:pointsman:problem:request-timeout") == (status, body["type"])
    assert headers["x-request-id"]


async def test_a_head_without_end_is_431() -> None:
    async with listening(Slow()) as service:
        unfinished = b"GET / HTTP/1.1\r\nX-More: "
        status, _, body = await answer_to(service, unfinished.ljust(server.LARGEST_HEAD + 1, b"x"))
    assert (431, "urn:pointsman:problem:head-too-large") == (status, body["type"])


async def test_whoever_sends_ten_megabytes_hears_413_and_may_go_on() -> None:
    async with listening(Slow()) as service, httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        answer = await client.post("/v1/leads/route", content=b"x" * 10_000_000, headers={"content-type": "text/json"})
        alive = await client.get("/livez")
    assert_problem(answer, 413, "body-too-large")
    assert alive.status_code == 200


async def test_what_is_no_http_is_400() -> None:
    async with listening(Slow()) as service:
        status, headers, body = await answer_to(service, b"hello\r\n\r\n")
    assert (400, "urn:pointsman:problem:malformed-request") == (status, body["type"])
    assert headers["content-type"] == "application/problem+json"


async def test_one_connection_too_many_is_503_and_told_when_to_come_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "MOST_CONNECTIONS", 1)
    async with listening(Slow()) as service:
        _, first = await asyncio.open_connection(service.host, service.port)
        status, headers, body = await answer_to(service)
        first.close()
    assert (503, "urn:pointsman:problem:too-many-connections", "1") == (status, body["type"], headers["retry-after"])


async def test_a_client_that_does_not_read_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "READ_SECONDS", 0.1)
    asked = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n"
    async with listening(Slow()) as service:
        _, writer = await asyncio.open_connection(service.host, service.port, limit=1024)
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        with contextlib.suppress(ConnectionError):
            for _ in range(2000):
                writer.write(asked)
        await until(has(lambda: not service.server.server_state.connections), "the hang-up")
        writer.close()


# its end


async def test_calls_in_flight_are_answered_and_new_ones_are_503_while_it_ends() -> None:
    router = Slow()
    async with listening(router) as service, httpx.AsyncClient(base_url=service.url, timeout=10) as client:
        lead = uuid4()
        in_flight = asyncio.create_task(client.post(f"/v1/leads/{lead}/route"))
        await router.asked.wait()
        service.server.should_exit = True
        await until(has(lambda: service.server.lifespan.state), "the end's begin")
        new = await client.post(f"/v1/leads/{lead}/route")
        ready, alive = await client.get("/readyz"), await client.get("/livez")
        router.may_answer.set()
        answered = await in_flight
        await asyncio.wait_for(service.running, 10)
    for refused in (new, ready):
        assert_problem(refused, 503, "shutting-down")
        assert (refused.headers["retry-after"], bool(refused.headers["x-request-id"])) == ("1", True)
    assert (200, str(lead)) == (answered.status_code, answered.json()["lead_id"])
    assert alive.status_code == 200


async def test_a_call_that_does_not_end_does_not_keep_the_service(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)
    router = Slow()
    async with listening(router) as service:
        _, writer = await asyncio.open_connection(service.host, service.port)
        writer.write(f"POST /v1/leads/{uuid4()}/route HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        await router.asked.wait()
        service.server.should_exit = True
        await asyncio.wait_for(service.running, 10)
        writer.close()


def test_every_503_says_when_to_come_again() -> None:
    kinds = [value for value in vars(problems).values() if isinstance(value, problems.Kind)]
    assert [kind for kind in kinds if kind.status == 503 and not kind.retry_after] == []

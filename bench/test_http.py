"""What a call costs above the socket, by who answers it: `python -m pytest bench/test_http.py --no-cov`.

The router answers at once, so this is the framework alone. No time is asserted.
"""

from __future__ import annotations

from collections.abc import Coroutine, Mapping
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Scope

from bench.server import Floor, bare
from pointsman.api import create_app, routes
from pointsman.api.examples import LEAD, OUTCOMES
from pointsman.model import Outcome
from pointsman.settings import ApiKey
from pointsman.settings import Scope as KeyScope

PATH = f"/v1/leads/{LEAD}/route"
KEY, SECRET = ApiKey.new("intake", KeyScope.ROUTE)
HEADERS = [
    (b"host", b"127.0.0.1"),
    (b"content-type", b"application/json"),
    (b"content-length", b"0"),
    (b"authorization", f"Bearer {SECRET}".encode()),
]


class AtOnce:
    """Stands where a router stands, and has decided already."""

    async def route(self, lead_id: UUID) -> Outcome:
        return OUTCOMES["routed"]


ROUTER: Any = AtOnce()


def host() -> FastAPI:
    """An application of somebody's that includes our routes."""
    app = FastAPI()
    app.state.pointsman_router, app.state.pointsman_keys = ROUTER, (KEY,)
    app.include_router(routes)
    return app


CALLS: Mapping[str, tuple[ASGIApp, str]] = {
    "a bare ASGI application": (Floor(ROUTER), f"/{LEAD}"),
    "the service": (create_app(ROUTER), PATH),
    "the service, with a key": (create_app(ROUTER, keys=(KEY,)), PATH),
    "the service, the ordinary way": (create_app(ROUTER), PATH.replace("-", "")),
    "our routes in a host's application": (host(), PATH),
    "FastAPI, an endpoint that returns a model": (bare(ROUTER, LEAD), f"/model/{LEAD}"),
}


def scope(path: str) -> Scope:
    return {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": HEADERS,
        "client": None,
        "server": None,
        "state": {},
    }


async def receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


def run(call: Coroutine[Any, Any, None]) -> None:
    """Run to the end what never waits, without an event loop."""
    try:
        call.send(None)
    except StopIteration:
        return
    raise AssertionError("the call waits for something")


@pytest.mark.parametrize("name", CALLS)
def test_a_call(benchmark: Any, name: str) -> None:
    app, path = CALLS[name]
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    def call() -> None:
        sent.clear()
        run(app(scope(path), receive, send))

    benchmark(call)
    assert sent[0]["status"] == 200

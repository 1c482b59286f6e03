"""The hot route without the framework: a plain call for one lead is answered here, any other goes the ordinary way.

FastAPI takes more of the processor for a call than the router does for a lead (bench/README.md says how much). So the
service answers `POST /v1/leads/{lead_id}/route` before FastAPI does, where nothing speaks against it: the id is written
as ids mostly are, and the call may be made. Whatever else comes goes on to the route in `routes.py`, which stays the
one that is described, that refuses, and that hosts include with dependencies of their own.
"""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from asyncpg.pgproto import pgproto
from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.types import Receive, Scope, Send

from pointsman.api.authentication import is_plainly_allowed
from pointsman.api.problems import ProblemResponse, internal_problem, pointsman_problem
from pointsman.api.routes import route, routes
from pointsman.errors import PointsmanError
from pointsman.router import Router
from pointsman.settings import Scope as KeyScope
from pointsman.wire import outcome_json

Header = tuple[bytes, bytes]

_PLAIN = re.compile("/v1/leads/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/route")
_ORDINARY = next(found for found in routes.routes if isinstance(found, APIRoute) and found.endpoint is route)
_JSON = (b"content-type", b"application/json")
_written = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Writes as `JSONResponse` does, which makes an encoder for each answer."""


class Plain(NamedTuple):
    """A call that can be answered without the framework: which lead, as it was written, and by whom."""

    lead_id: str
    router: Router


def plain(scope: Scope) -> Plain | None:
    """The call, if it is for the hot route, may be made, and the framework has no say in it."""
    found = _PLAIN.fullmatch(scope["path"]) if scope["method"] == "POST" else None
    if found is None:
        return None
    app: FastAPI = scope["app"]
    if app.dependency_overrides or scope.get("fastapi.telemetry") is not None:  # FastAPI's spans name the route
        return None
    router: Router | None = app.state.pointsman_router
    if router is None or not is_plainly_allowed(app, scope["headers"], KeyScope.ROUTE):
        return None
    return Plain(found[1], router)


async def answer(call: Plain, named: Header, scope: Scope, receive: Receive, send: Send) -> None:
    """Route the lead and answer, with the header `named` behind those of the ordinary route."""
    # what an observer around the application may ask afterwards
    scope.update(route=_ORDINARY, endpoint=route, path_params={"lead_id": call.lead_id})
    lead_id = pgproto.UUID(call.lead_id)  # the driver's, as rows have it: it hashes and compares in C
    try:
        outcome = await call.router.route(lead_id)
    except PointsmanError as error:
        await _with(named, pointsman_problem(Request(scope), error))(scope, receive, send)
        return
    except Exception as error:
        await _with(named, internal_problem(Request(scope), error))(scope, receive, send)
        raise  # for the server's log
    body = _written(outcome_json(outcome)).encode()
    headers = [(b"content-length", b"%d" % len(body)), _JSON, named]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _with(header: Header, response: ProblemResponse) -> ProblemResponse:
    response.raw_headers.append(header)
    return response

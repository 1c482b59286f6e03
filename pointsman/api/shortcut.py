"""The hot route without the framework: a plain call for one lead is answered here, any other goes the ordinary way.

FastAPI takes more of the processor for a call than the router does for a lead (bench/README.md says how much). So the
service answers `POST /v1/leads/{lead_id}/route` before FastAPI does, where nothing speaks against it: the id is written
as ids mostly are, and the call may be made. Whatever else comes goes on to the route in `routes.py`, which stays the
one that is described, that refuses, and that hosts include with dependencies of their own.
"""

from __future__ import annotations

import json
import re
from uuid import UUID

from fastapi import FastAPI, Request
from fastapi.routing import APIRoute
from starlette.types import ASGIApp, Receive, Scope, Send

from pointsman.api.authentication import is_plainly_allowed
from pointsman.api.problems import pointsman_problem
from pointsman.api.routes import route, routes
from pointsman.errors import PointsmanError
from pointsman.router import Router
from pointsman.settings import Scope as KeyScope
from pointsman.wire import outcome_json

_PLAIN = re.compile("/v1/leads/([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})/route")
_ORDINARY = next(found for found in routes.routes if isinstance(found, APIRoute) and found.endpoint is route)
_JSON = (b"content-type", b"application/json")
_written = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
"""Writes as `JSONResponse` does, which makes an encoder for each answer."""


class Shortcut:
    """ASGI middleware: routes the lead of a plain call, and hands on all other calls."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        is_post = scope["type"] == "http" and scope["method"] == "POST"
        found = _PLAIN.fullmatch(scope["path"]) if is_post else None
        router = None if found is None else _router_for(scope)
        if found is None or router is None:
            await self._app(scope, receive, send)
            return
        # what middleware around it may ask afterwards, for a metric or a trace of its own
        scope.update(route=_ORDINARY, endpoint=route, path_params={"lead_id": found[1]})
        try:
            outcome = await router.route(UUID(found[1]))
        except PointsmanError as error:
            await pointsman_problem(Request(scope), error)(scope, receive, send)
            return
        body = _written(outcome_json(outcome)).encode()
        headers = [(b"content-length", b"%d" % len(body)), _JSON]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _router_for(scope: Scope) -> Router | None:
    """The router for a call that may be made; None where the framework has a say in it."""
    app: FastAPI = scope["app"]
    if app.dependency_overrides or scope.get("fastapi.telemetry") is not None:  # FastAPI's spans name the route
        return None
    router: Router | None = app.state.pointsman_router
    return router if is_plainly_allowed(app, scope["headers"], KeyScope.ROUTE) else None

"""Every failure as an RFC 9457 problem detail, also where the routes are part of a host's own application."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException as HttpError
from starlette.types import Message, Receive

from pointsman.errors import PointsmanError
from pointsman.wire import INTERNAL, Json, Kind, kind_of, problem, problem_detail

LARGEST_BODY = 1024 * 1024
"""Bytes; 1000 lead ids take some 40,000, and whoever sends many more is to hear how many are taken."""

BODY_SECONDS = 10
"""How long a client may take to send a body."""

INVALID_REQUEST = Kind("invalid-request", 422)
UNAUTHORIZED = Kind("unauthorized", 401)
FORBIDDEN = Kind("forbidden", 403)
BODY_TOO_LARGE = Kind("body-too-large", 413)
SHUTTING_DOWN = Kind("shutting-down", 503, 1)
MALFORMED = Kind("malformed-request", 400)
TOO_SLOW = Kind("request-timeout", 408)
HEAD_TOO_LARGE = Kind("head-too-large", 431)
TOO_MANY_CONNECTIONS = Kind("too-many-connections", 503, 1)
_HTTP = {
    400: Kind("invalid-request", 422),  # FastAPI's answer to a body that it cannot decode
    401: UNAUTHORIZED,
    403: FORBIDDEN,
    404: Kind("no-such-path", 404),
    405: Kind("method-not-allowed", 405),
    408: TOO_SLOW,
    413: BODY_TOO_LARGE,
}
_TITLES = {
    INVALID_REQUEST: "The request cannot be read",
    INTERNAL: "The service failed",
    SHUTTING_DOWN: "The service is ending",
    MALFORMED: "The request is not HTTP",
    TOO_SLOW: "The request came too slowly",
    HEAD_TOO_LARGE: "The request's head is too large",
    TOO_MANY_CONNECTIONS: "The service has too many connections",
    UNAUTHORIZED: "A valid key is needed",
    FORBIDDEN: "The key does not allow this",
    _HTTP[404]: "No such path",
    _HTTP[405]: "The path does not take this method",
    BODY_TOO_LARGE: "The body is too large",
}
Handler = Callable[[Request], Coroutine[Any, Any, Response]]


class ProblemResponse(JSONResponse):
    """A problem detail with its status."""

    media_type = "application/problem+json"

    def __init__(self, content: Json, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, content["status"], headers)

    def render(self, content: Json) -> bytes:
        """ASCII, since a complaint may name a key that no UTF-8 can write."""
        return json.dumps(content).encode("ascii")


class ProblemRoute(APIRoute):
    """Answers with problem details whatever its application does with errors, and reads no endless body."""

    def get_route_handler(self) -> Handler:
        """FastAPI's handler with its errors answered."""
        handler = super().get_route_handler()

        async def answer(request: Request) -> Response:
            try:
                return await handler(Request(request.scope, _bounded(request.receive)))
            except PointsmanError as error:
                return pointsman_problem(request, error)
            except RequestValidationError as error:
                return validation_problem(request, error)
            except HttpError as error:
                return http_problem(request, error)

        return answer


def add_problem_handlers(app: FastAPI) -> None:
    """Answer with problem details in all of `app`: unknown paths, wrong methods and failures of our own too."""
    handlers: dict[type[Exception], Any] = {
        PointsmanError: pointsman_problem,
        RequestValidationError: validation_problem,
        HttpError: http_problem,
        Exception: internal_problem,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)


def pointsman_problem(_: Request, error: PointsmanError) -> ProblemResponse:
    """An error of the router."""
    return ProblemResponse(problem(error), _retry(kind_of(error)))


def validation_problem(_: Request, error: RequestValidationError) -> ProblemResponse:
    """A request that is not what the route takes; what was sent is not repeated."""
    complaints = list(_complaints(error))
    detail = "; ".join(f"{complaint['at']}: {complaint['message']}" for complaint in complaints[:3])
    return problem_response(INVALID_REQUEST, detail, errors=complaints[:100])


def http_problem(request: Request, error: HttpError) -> ProblemResponse:
    """An error of the framework: an unknown path, a wrong method, a key."""
    kind = _HTTP.get(error.status_code, Kind(f"http-{error.status_code}", error.status_code))
    detail = str(error.detail)
    if kind.status == 404:
        detail = f"there is nothing at `{request.url.path}`"
    elif kind.status == 405:
        detail = f"`{request.url.path}` takes {(error.headers or {}).get('Allow', 'another method')}"
    elif kind is _HTTP[400]:
        detail = "the body is not JSON in UTF-8"
    return problem_response(kind, detail, error.headers)


def internal_problem(_: Request, __: Exception) -> ProblemResponse:
    """A failure of our own; what it was stands in the log and not in the answer."""
    return problem_response(INTERNAL, "something failed inside the service; its log says what")


def problem_response(
    kind: Kind, detail: str, headers: Mapping[str, str] | None = None, **extensions: Any
) -> ProblemResponse:
    """The answer to a request that came to nothing before a router was asked."""
    return ProblemResponse(problem_of(kind, detail, **extensions), {**_retry(kind), **(headers or {})})


def problem_of(kind: Kind, detail: str, **extensions: Any) -> Json:
    """A problem detail of one of the kinds that are known here."""
    return problem_detail(kind, _TITLES.get(kind, "The request failed"), detail, **extensions)


def _retry(kind: Kind) -> dict[str, str]:
    return {} if kind.retry_after is None else {"Retry-After": str(kind.retry_after)}


def _complaints(error: RequestValidationError) -> Iterable[Json]:
    for complaint in error.errors():
        place = ".".join(map(str, complaint["loc"]))
        message = "the body is not JSON" if complaint["type"] == "json_invalid" else complaint["msg"]
        yield {"at": place, "message": message}


def _bounded(receive: Receive) -> Receive:
    read = 0
    deadline: float | None = None

    async def bounded() -> Message:
        nonlocal read, deadline
        deadline = deadline or asyncio.get_running_loop().time() + BODY_SECONDS
        try:
            async with asyncio.timeout_at(deadline):
                message = await receive()
        except TimeoutError:
            why = f"the body did not come within {BODY_SECONDS} seconds"
            raise HTTPException(TOO_SLOW.status, why, {"Connection": "close"}) from None
        read += len(message.get("body", b""))
        if read > LARGEST_BODY:
            raise HTTPException(413, f"a body may have {LARGEST_BODY} bytes at most")
        return message

    return bounded

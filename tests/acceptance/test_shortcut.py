"""The hot route without the framework: what goes that way, what does not, and that nobody can tell by the answer."""

from __future__ import annotations

from hashlib import sha256
from typing import Any
from uuid import UUID

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pointsman import errors
from pointsman.api import create_app, the_router
from pointsman.api.examples import LEAD, OUTCOMES
from pointsman.model import Outcome
from pointsman.settings import ApiKey
from pointsman.settings import Scope as KeyScope
from pointsman.wire import KINDS

PATH = f"/v1/leads/{LEAD}/route"
ROUTED = OUTCOMES["routed"]
(INTAKE, SECRET), (REPORTS, READER) = ApiKey.new("intake", KeyScope.ROUTE), ApiKey.new("reports", KeyScope.READ)
KEYS = (INTAKE, REPORTS, ApiKey("of a foreign make", KeyScope.ROUTE, sha256("é".encode()).digest()))


class Giving:
    """Stands where a router stands and gives one answer, or raises it."""

    def __init__(self, answer: Outcome | Exception = ROUTED) -> None:
        self.answer = answer
        self.asked: list[UUID] = []

    async def route(self, lead_id: UUID) -> Outcome:
        self.asked.append(lead_id)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Noting:
    """Stands before FastAPI's routes and notes the paths that are looked for there."""

    def __init__(self, app: ASGIApp, noted: list[str]) -> None:
        self._app, self._noted = app, noted

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._noted.append(scope["path"])
        await self._app(scope, receive, send)


def watched(router: Giving | None, *keys: ApiKey) -> tuple[FastAPI, list[str]]:
    """The service, and the paths of the calls that take the ordinary way in it."""
    app, noted = create_app(router, keys=keys), list[str]()  # type: ignore[arg-type]
    app.router = Noting(app.router, noted)  # type: ignore[assignment]
    return app, noted


def without_shortcut(router: Giving | None, *keys: ApiKey) -> FastAPI:
    """The service with a middleware that does nothing: a call that passes one takes the ordinary way."""
    app = create_app(router, keys=keys)  # type: ignore[arg-type]
    app.add_middleware(Noting, noted=[])  # type: ignore[arg-type]
    return app


async def answer_of(app: ASGIApp, method: str = "POST", path: str = PATH, **options: Any) -> tuple[int, Any, bytes]:
    """Status, headers and body, down to the order and the bytes."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
        client.headers["X-Request-ID"] = "r-1"
        answer = await client.request(method, path, **options)
    return answer.status_code, answer.headers.raw, answer.content


# answers


@pytest.mark.parametrize("name", sorted(OUTCOMES))
async def test_every_outcome_is_written_as_the_ordinary_route_writes_it(name: str) -> None:
    app, ordinary = watched(Giving(OUTCOMES[name]))
    assert await answer_of(without_shortcut(Giving(OUTCOMES[name]))) == await answer_of(app)
    assert ordinary == []


async def test_text_of_the_host_s_is_written_as_the_ordinary_route_writes_it() -> None:
    outcome = Outcome(LEAD, ROUTED.outcome, None, None, 'zurückgestellt "⚠"\n\x00')
    assert await answer_of(without_shortcut(Giving(outcome))) == await answer_of(watched(Giving(outcome))[0])


@pytest.mark.parametrize("kind", [*KINDS, errors.UnsuitableTransaction, RuntimeError])
async def test_every_error_is_answered_as_the_ordinary_route_answers_it(kind: type[Exception]) -> None:
    app, ordinary = watched(Giving(kind("that is why")))
    assert await answer_of(without_shortcut(Giving(kind("that is why")))) == await answer_of(app)
    assert ordinary == []


async def test_a_failure_of_our_own_reaches_the_server_s_log_after_it_was_answered() -> None:
    app, _ = watched(Giving(RuntimeError("a bug")))
    sent: list[Message] = []

    async def observed(scope: Scope, receive: Receive, send: Send) -> None:
        async def kept(message: Message) -> None:
            sent.append(message)
            await send(message)

        with pytest.raises(RuntimeError, match="a bug"):
            await app(scope, receive, kept)

    assert 500 == (await answer_of(observed))[0]
    assert ["http.response.start", "http.response.body"] == [message["type"] for message in sent]


# calls


@pytest.mark.parametrize(
    ("path", "is_plain"),
    [
        (PATH, True),
        (f"/v1/leads/{str(LEAD).upper()}/route", True),
        (f"{PATH}?more=1", True),
        (f"/v1/leads/{str(LEAD).replace('-', '%2D')}/route", True),
        (f"/v1/leads/{LEAD.hex}/route", False),
        (f"/v1/leads/urn:uuid:{LEAD}/route", False),
        (f"/v1/leads/{{{LEAD}}}/route", False),
        (f"/v1/leads/{LEAD}%0A/route", False),
        (f"/v1/leads/{LEAD}%20/route", False),
        (f"/v1/leads/{str(LEAD)[:-1]}\N{FULLWIDTH DIGIT ONE}/route", False),
        ("/v1/leads/42/route", False),
        (f"{PATH}/", False),
        (f"/x{PATH}", False),
    ],
)
async def test_ids_in_any_form_are_taken_or_refused_alike(path: str, is_plain: bool) -> None:
    quick, slow = Giving(), Giving()
    app, ordinary = watched(quick)
    assert await answer_of(without_shortcut(slow), path=path) == await answer_of(app, path=path)
    assert slow.asked == quick.asked
    assert is_plain == (ordinary == [])


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "OPTIONS"])
async def test_other_methods_are_refused_alike(method: str) -> None:
    app, ordinary = watched(Giving())
    assert await answer_of(without_shortcut(Giving()), method) == await answer_of(app, method)
    assert [PATH] == ordinary


@pytest.mark.parametrize(
    ("authorization", "is_plain", "status"),
    [
        ([f"Bearer {SECRET}"], True, 200),
        ([f"bearer {SECRET}"], False, 200),
        ([f"Bearer {SECRET}", "Bearer wrong"], True, 200),
        (["Bearer wrong", f"Bearer {SECRET}"], False, 401),
        ([f"Bearer {READER}"], False, 403),
        ([f"Basic {SECRET}"], False, 401),
        ([f"Bearer{SECRET}"], False, 401),
        ([SECRET], False, 401),
        (["Bearer "], False, 401),
        (["Bearer é"], False, 401),  # a header is Latin-1
        ([b"Bearer \xe9"], True, 200),
        ([], False, 401),
    ],
)
async def test_keys_let_in_alike(authorization: list[str | bytes], is_plain: bool, status: int) -> None:
    headers = [(b"Authorization", sent if isinstance(sent, bytes) else sent.encode()) for sent in authorization]
    quick, slow = Giving(), Giving()
    app, ordinary = watched(quick, *KEYS)
    answer = await answer_of(app, headers=headers)
    assert await answer_of(without_shortcut(slow, *KEYS), headers=headers) == answer
    assert (status, is_plain) == (answer[0], ordinary == [])
    assert slow.asked == quick.asked == [LEAD] * (status == 200)


async def test_a_key_behind_two_blanks_is_good_as_far_as_fastapi_takes_it() -> None:
    headers = {"Authorization": f"Bearer  {SECRET}"}
    app, ordinary = watched(Giving(), *KEYS)
    assert await answer_of(without_shortcut(Giving(), *KEYS), headers=headers) == await answer_of(app, headers=headers)
    assert [PATH] == ordinary


async def test_a_body_is_not_read_and_not_minded() -> None:
    app, ordinary = watched(Giving())
    assert await answer_of(without_shortcut(Giving()), content=b"{" * 300_000) == await answer_of(
        app, content=b"{" * 300_000
    )
    assert ordinary == []


# who else has a say


async def test_a_service_without_an_open_router_says_so_the_ordinary_way() -> None:
    app, ordinary = watched(None)
    assert 503 == (await answer_of(app))[0]
    assert [PATH] == ordinary


async def test_dependencies_that_are_overridden_are_asked() -> None:
    app, ordinary = watched(Giving(AssertionError("not reached")))
    other = Giving(OUTCOMES["not_validated"])
    app.dependency_overrides[the_router] = lambda: other
    assert 200 == (await answer_of(app))[0]
    assert ([PATH], [LEAD]) == (ordinary, other.asked)


async def test_middleware_that_somebody_adds_sees_every_call() -> None:
    app, ordinary = watched(Giving())
    seen: list[str] = []
    app.add_middleware(Noting, noted=seen)  # type: ignore[arg-type]
    assert 200 == (await answer_of(app))[0]
    assert [PATH] == seen == ordinary


async def test_an_observer_around_the_service_learns_the_route_either_way() -> None:
    async def learn(app: FastAPI) -> dict[str, Any]:
        learned: dict[str, Any] = {}

        async def observed(scope: Scope, receive: Receive, send: Send) -> None:
            await app(scope, receive, send)
            learned.update({key: scope[key] for key in ("route", "endpoint", "path_params")})

        assert 200 == (await answer_of(observed))[0]
        return learned

    learned = await learn(watched(Giving())[0])
    assert learned == await learn(without_shortcut(Giving()))
    assert learned["path_params"] == {"lead_id": str(LEAD)}


async def test_a_service_that_a_host_mounts_answers_below_its_prefix() -> None:
    router, host = Giving(), FastAPI()
    host.mount("/routing", create_app(router))  # type: ignore[arg-type]
    assert 200 == (await answer_of(host, path=f"/routing{PATH}"))[0]
    assert 404 == (await answer_of(host))[0]
    assert [LEAD] == router.asked

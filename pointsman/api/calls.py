"""What holds for every call to the service: its id, HEAD wherever there is GET, and no new work once it ends."""

from __future__ import annotations

import re
from secrets import token_hex

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.contextvars import bind_contextvars

from pointsman.api import shortcut
from pointsman.api.problems import SHUTTING_DOWN, problem_response

REQUEST_ID = "X-Request-ID"
ENDING = "pointsman_ending"
"""Set in the state of the lifespan once the service is told to end."""

_HEADER = REQUEST_ID.lower().encode()
_USABLE = re.compile(rb"[\w.:/+=@-]{1,128}")


class Calls:
    """ASGI middleware around all others: takes or makes the id of each call, binds it for the log, and returns it.

    With `has_shortcut` a plain call to the hot route is answered without `app`.
    """

    def __init__(self, app: ASGIApp, *, has_shortcut: bool) -> None:
        self.app = app  # under this name FastAPI looks for what else is in the stack
        self._has_shortcut = has_shortcut

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one call."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = _sent(scope) or token_hex(16).encode()
        state = scope.setdefault("state", {})
        state["request_id"] = request_id.decode()
        bind_contextvars(request_id=state["request_id"])  # a call is a task of its own: nothing to take back
        is_ending = state.get(ENDING) and scope["path"] != "/livez"
        if self._has_shortcut and not is_ending and (plain := shortcut.plain(scope)) is not None:
            await shortcut.answer(plain, (_HEADER, request_id), scope, receive, send)
            return
        is_head = scope["method"] == "HEAD"

        async def send_named(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = message.get("headers", ())
                if message["status"] == 405:
                    headers = [(name, _with_head(name, value)) for name, value in headers]
                message = {**message, "headers": [*headers, (_HEADER, request_id)]}
            elif is_head:
                message = {**message, "body": b""}
            await send(message)

        if is_ending:
            await problem_response(SHUTTING_DOWN, "the service is ending; ask another, or again")(
                scope, receive, send_named
            )
            return
        await self.app({**scope, "method": "GET"} if is_head else scope, receive, send_named)


def _sent(scope: Scope) -> bytes | None:
    """The id that came with the call; one that is long or strange is none."""
    sent: bytes | None = next((value for name, value in scope["headers"] if name == _HEADER), None)
    return sent if sent is not None and _USABLE.fullmatch(sent) else None


def _with_head(name: bytes, value: bytes) -> bytes:
    return b"GET, HEAD" if name == b"allow" and value == b"GET" else value

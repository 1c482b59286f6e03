"""Who may call: `Authorization: Bearer <key>`, with a key whose scope allows the route.

Annotations are values here: FastAPI before 0.124 cannot look up the names in those of an object that is called.
"""

import hashlib
import hmac
from collections.abc import Iterable, Sequence

from fastapi import FastAPI, HTTPException
from fastapi.requests import HTTPConnection
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pointsman.settings import ApiKey, Scope

_PLAIN = b"Bearer "


class Allowed(HTTPBearer):
    """A dependency that lets a request pass with a key for `scope`; without keys on the application, everyone.

    It is the security scheme itself, and does not depend on one: FastAPI takes its time for each dependency.
    """

    def __init__(self, scope: Scope) -> None:
        told = "A key made by `pointsman key new`; `route` includes `read`"
        super().__init__(scheme_name="HTTPBearer", description=told, auto_error=False)
        self._scope = scope

    async def __call__(self, request: HTTPConnection) -> HTTPAuthorizationCredentials | None:
        """The key as it was sent, if any. Raises 401 without a key that is known, 403 with one that allows less."""
        sent = await super().__call__(request)
        keys = _keys(request.app)
        if not keys:
            return sent
        key = None if sent is None else _find(keys, sent.credentials)
        if key is None:
            why = "send `Authorization: Bearer <key>`" if sent is None else "the service does not know this key"
            raise HTTPException(401, why, {"WWW-Authenticate": "Bearer"})
        if not key.scope.allows(self._scope):
            raise HTTPException(403, f"the key `{key.name}` is for `{key.scope}`; this needs `{self._scope}`")
        return sent


def is_plainly_allowed(app: FastAPI, headers: Iterable[tuple[bytes, bytes]], scope: Scope) -> bool:
    """Whether `Allowed` would let a call with these headers pass, as far as a look at the usual form of a key tells.

    Who gets a no may have sent a good key in another form that HTTP allows; `Allowed` has the last word.
    """
    keys = _keys(app)
    if not keys:
        return True
    sent = next((value for name, value in headers if name == b"authorization"), b"")
    key = _find(keys, sent.removeprefix(_PLAIN).decode("latin-1")) if sent.startswith(_PLAIN) else None
    return key is not None and key.scope.allows(scope)


def _keys(app: FastAPI) -> Sequence[ApiKey]:
    keys: Sequence[ApiKey] = getattr(app.state, "pointsman_keys", ())
    return keys


def _find(keys: Sequence[ApiKey], secret: str) -> ApiKey | None:
    """The key of `secret`; every key is compared, in constant time, so that time tells nothing."""
    digest = hashlib.sha256(secret.encode()).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.digest):
            found = key
    return found

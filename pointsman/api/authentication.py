"""Who may call: `Authorization: Bearer <key>`, with a key whose scope allows the route.

Annotations are values here: FastAPI before 0.124 cannot look up the names in those of an object that is called.
"""

import hashlib
import hmac
from collections.abc import Sequence
from typing import Annotated

from fastapi import Depends, HTTPException, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from pointsman.settings import ApiKey, Scope

_bearer = HTTPBearer(auto_error=False, description="A key made by `pointsman key new`; `route` includes `read`")


class Allowed:
    """A dependency that lets a request pass with a key for `scope`; without keys on the application, everyone."""

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    async def __call__(
        self, request: Request, sent: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
    ) -> None:
        """Raises 401 without a key that is known, 403 with one that allows less."""
        keys: Sequence[ApiKey] = getattr(request.app.state, "pointsman_keys", ())
        if not keys:
            return
        key = None if sent is None else _find(keys, sent.credentials)
        if key is None:
            why = "send `Authorization: Bearer <key>`" if sent is None else "the service does not know this key"
            raise HTTPException(401, why, {"WWW-Authenticate": "Bearer"})
        if not key.scope.allows(self._scope):
            raise HTTPException(403, f"the key `{key.name}` is for `{key.scope}`; this needs `{self._scope}`")


def _find(keys: Sequence[ApiKey], secret: str) -> ApiKey | None:
    """The key of `secret`; every key is compared, in constant time, so that time tells nothing."""
    digest = hashlib.sha256(secret.encode()).digest()
    found = None
    for key in keys:
        if hmac.compare_digest(digest, key.digest):
            found = key
    return found

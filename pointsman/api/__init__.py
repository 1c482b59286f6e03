"""The HTTP face, alone or inside a host's own FastAPI application.

In a host's application it takes three lines, and one more for our routes beside its own:

    from pointsman.api import TheRouter, lifespan, routes

    app = FastAPI(lifespan=lifespan("postgresql://..."))
    app.include_router(routes, dependencies=[...])  # the host's own guard; or set `app.state.pointsman_keys`

    @app.post("/leads/{lead_id}/accept")
    async def accept(lead_id: UUID, router: TheRouter):
        return await router.route(lead_id)

A host with a lifespan of its own enters ours inside it: `async with lifespan("postgresql://...")(app): ...`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp

from pointsman import logs
from pointsman.api.authentication import Allowed
from pointsman.api.calls import Calls
from pointsman.api.openapi import with_components
from pointsman.api.problems import add_problem_handlers
from pointsman.api.routes import TheRouter, routes, the_router
from pointsman.cache import collector
from pointsman.router import Router
from pointsman.settings import ApiKey, read_settings

__all__ = ["Allowed", "TheRouter", "add_problem_handlers", "create_app", "lifespan", "routes", "the_router"]

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def lifespan(dsn: str, **options: Any) -> Lifespan:
    """A FastAPI lifespan that opens a router on `dsn` and closes it again; the options are those of `Router.open`."""

    @asynccontextmanager
    async def opened(app: FastAPI) -> AsyncIterator[None]:
        async with Router.open(dsn, **options) as router:
            app.state.pointsman_router = router
            yield

    return opened


class _Service(FastAPI):
    def build_middleware_stack(self) -> ASGIApp:
        """FastAPI's, with our own around it; what others have added sees every call, so then there is no shortcut."""
        return Calls(super().build_middleware_stack(), has_shortcut=not self.user_middleware)

    def openapi(self) -> dict[str, Any]:
        """The document of the service, with the forms of its answers by name."""
        if self.openapi_schema is None:
            self.openapi_schema = with_components(super().openapi())
        return self.openapi_schema


def create_app(router: Router | None = None, *, dsn: str = "", keys: Sequence[ApiKey] = (), **options: Any) -> FastAPI:
    """The service as an ASGI application, on an open `router` or on one that its lifespan opens on `dsn`.

    The `options` are those of `Router.open`. Without `keys` every caller may do everything: whoever serves it then
    binds to a loopback address.
    """
    app = _Service(
        title="Pointsman",
        summary="Routes validated leads: each goes to exactly one buyer, or the answer says why nobody takes it",
        version=version("pointsman"),
        lifespan=None if router is not None else lifespan(dsn, **options),
        redirect_slashes=False,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.pointsman_router = router
    app.state.pointsman_keys = tuple(keys)
    add_problem_handlers(app)
    app.include_router(routes)
    return app


def from_environment() -> FastAPI:
    """The service as the settings have it: what each worker of `pointsman serve --workers` runs."""
    settings = read_settings()
    logs.configure(settings.log_format, settings.log_level)
    app = create_app(dsn=settings.dsn, keys=settings.api_keys, **settings.router_options)
    app.router.lifespan_context = _settled(app.router.lifespan_context)
    return app


def _settled(opened: Callable[[Any], AbstractAsyncContextManager[object]]) -> Lifespan:
    """The lifespan of a process that is the service's own: what was loaded is kept out of the collector's way."""

    @asynccontextmanager
    async def settled(app: FastAPI) -> AsyncIterator[None]:
        async with opened(app):
            collector.settle()
            yield

    return settled

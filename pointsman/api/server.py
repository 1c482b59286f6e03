"""Serving over a socket: where the service may listen, and how it ends. Uvicorn does the rest."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import Any

import uvicorn
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import Multiprocess

from pointsman.api import create_app
from pointsman.errors import PointsmanError
from pointsman.router import Router
from pointsman.settings import PREFIX, ApiKey

GRACE_SECONDS = 20
"""How long calls in flight may take when the service is told to end."""

Announce = Callable[[str, Router], None]


class CannotListen(PointsmanError):
    """The service cannot listen on this address."""


def listen(host: str, port: int, keys: Sequence[ApiKey]) -> socket.socket:
    """A listening socket; raises `CannotListen`, also for an address beyond loopback where there are no keys."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as error:
        raise CannotListen(f"the host `{host}` is no address to listen on: {error.strerror or error}") from None
    if not keys and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise CannotListen(
            f"without keys the service listens on a loopback address only, and `{host}` is none; "
            f"make a key with `pointsman key new NAME --scope route` and set {PREFIX}API_KEYS"
        )
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise CannotListen(f"cannot listen on {host}:{port}: {error.strerror}; choose another with --port") from None


async def serve(
    listening: socket.socket, dsn: str, listen_dsn: str | None, keys: Sequence[ApiKey], announce: Announce
) -> None:
    """Serve in this process until a signal; calls in flight are answered, then the router closes."""
    async with Router.open(dsn, listen_dsn=listen_dsn) as router:
        announce(_address(listening), router)
        await _Server(_config(create_app(router, keys=keys))).serve([listening])


async def announce_ready(listening: socket.socket, dsn: str, listen_dsn: str | None, announce: Announce) -> None:
    """Open a router once: workers that cannot open theirs would only say so one by one."""
    async with Router.open(dsn, listen_dsn=listen_dsn) as router:
        announce(_address(listening), router)


def serve_in_workers(listening: socket.socket, dsn: str, workers: int) -> None:
    """Serve in `workers` processes until a signal; each reads the settings, opens its router and keeps its cache."""
    os.environ[f"{PREFIX}DATABASE_URL"] = dsn  # inherited by the workers; a command line is for all to see
    config = _config("pointsman.api:from_environment", workers=workers, factory=True)
    Multiprocess(config, sockets=[listening]).run()


class _Server(uvicorn.Server):
    """Uvicorn's server whose signals end with it, so that what was opened around it is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal once more afterwards, which would end the process at once."""
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _config(service: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        service,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        **options,
    )


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

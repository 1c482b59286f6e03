"""Serving over a socket: where the service may listen, and how it ends. Uvicorn does the rest."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

import uvicorn
from prometheus_client.multiprocess import mark_process_dead
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import HANDLED_SIGNALS
from uvicorn.supervisors import multiprocess

from pointsman.api import create_app
from pointsman.api.calls import ENDING
from pointsman.api.problems import HEAD_TOO_LARGE, MALFORMED, TOO_MANY_CONNECTIONS, TOO_SLOW, problem_response
from pointsman.cache import collector
from pointsman.errors import PointsmanError
from pointsman.router import Router
from pointsman.settings import PREFIX, ApiKey
from pointsman.wire import Kind

GRACE_SECONDS = 20
"""How long calls in flight may take when the service is told to end."""
KEEP_ALIVE_SECONDS = 5
HEAD_SECONDS = 10
"""How long a client may take for the line and headers of a request."""
READ_SECONDS = 30
"""How long a client may leave an answer unread."""
LARGEST_HEAD = 32 * 1024
MOST_CONNECTIONS = 4096
"""In each process; every one has a call in flight at most."""

Announce = Callable[[str, Router], None]


class CannotListen(PointsmanError):
    """The service cannot listen on this address."""


def listen(host: str, port: int, keys: Sequence[ApiKey]) -> socket.socket:
    """A listening socket; raises `CannotListen`, also for an address beyond loopback where there are no keys."""
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:  # the latter for a name with an empty or too long label
        why = getattr(error, "strerror", None) or error
        raise CannotListen(f"the host `{host}` is no address to listen on: {why}") from None
    if not keys and not ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise CannotListen(
            f"without keys the service listens on a loopback address only, and `{host}` is none; "
            f"make a key with `pointsman key new NAME --scope route` and set {PREFIX}API_KEYS"
        )
    try:
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        why = str(error.strerror).partition(" (")[0]  # Python repeats the address behind it
        raise CannotListen(f"cannot listen on {host}:{port}: {why}; choose another with --port") from None


async def serve(
    listening: socket.socket, dsn: str, options: Mapping[str, Any], keys: Sequence[ApiKey], announce: Announce
) -> None:
    """Serve in this process until a signal; calls in flight are answered, then the router closes."""
    async with Router.open(dsn, **options) as router:
        collector.settle()
        announce(_address(listening), router)
        await _OnlyServer(_config(create_app(router, keys=keys))).serve([listening])


async def announce_ready(listening: socket.socket, dsn: str, options: Mapping[str, Any], announce: Announce) -> None:
    """Open a router once: workers that cannot open theirs would only say so one by one."""
    async with Router.open(dsn, **options) as router:
        announce(_address(listening), router)


def serve_in_workers(listening: socket.socket, dsn: str, workers: int) -> None:
    """Serve in `workers` processes until a signal; each reads the settings, opens its router and keeps its cache."""
    os.environ[f"{PREFIX}DATABASE_URL"] = dsn  # inherited by the workers; a command line is for all to see
    multiprocess.Process = _Worker  # type: ignore[misc]  # the supervisor cannot be handed one
    _let_workers_share(listening)
    with tempfile.TemporaryDirectory(prefix="pointsman-metrics-", ignore_cleanup_errors=True) as folder:
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read when the workers import prometheus-client
        config = _config("pointsman.api:from_environment", workers=workers, factory=True)
        multiprocess.Multiprocess(config, sockets=[listening]).run()


class _Server(uvicorn.Server):
    """Uvicorn's server that answers new calls with 503 while those in flight are answered, then stops listening."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let what is in flight end, and then do what uvicorn does, which closes the sockets first of all."""
        self.lifespan.state[ENDING] = True
        in_flight = set(self.server_state.tasks)
        deadline = time.monotonic() + GRACE_SECONDS
        while in_flight and time.monotonic() < deadline and not self.force_exit:
            _, in_flight = await asyncio.wait(in_flight, timeout=0.1)
        await super().shutdown(sockets)


class _OnlyServer(_Server):
    """A server whose signals end with it, so that what was opened around it is closed."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Uvicorn's own raises the signal once more afterwards, which would end the process at once."""
        before = {number: signal.signal(number, self.handle_exit) for number in HANDLED_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _Worker(multiprocess.Process):
    """One of several processes; when it has ended, the gauges that it wrote are not shown any more."""

    @property
    def server(self) -> uvicorn.Server:
        """Made in the worker itself."""
        if self._server is None:
            self._server = _Server(self.config)
        return self._server

    def target(self, sockets: list[socket.socket] | None = None) -> None:
        """Run in the new process: listen where all workers do, and on a socket of its own."""
        shared = sockets or []
        super().target([*shared, *(own for each in shared for own in _beside(each))])

    def join(self) -> None:
        """Wait for its end."""
        super().join()
        mark_process_dead(self.pid)  # type: ignore[no-untyped-call]


def _let_workers_share(listening: socket.socket) -> None:
    """Let workers listen beside this socket. Another service still finds the port taken: it asks for it alone."""
    if sys.platform == "linux":
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _beside(shared: socket.socket) -> list[socket.socket]:
    """Another socket on the address of `shared`, where new connections are dealt out among all that listen there.

    Of one socket, whichever worker wakes first takes all that wait: a client that opens its connections at once has
    them all in one worker half of the time. The shared one stays for calls that come before a worker is ready; this one
    is only bound, so it gets none before its worker has loaded the configuration and listens.
    """
    if sys.platform != "linux":  # others give all to the last that listens, or know nothing of it
        return []
    own = socket.socket(shared.family, shared.type)
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # connections of a worker before may linger
    own.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    if shared.family == socket.AF_INET6:
        only = shared.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)
        own.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    try:
        own.bind(shared.getsockname())
    except OSError:  # not every kernel that calls itself Linux lets the first socket share once it is bound
        own.close()
        return []
    return [own]


class _Protocol(HttpToolsProtocol):
    """Uvicorn's protocol, with an end to everything that a client could draw out, and problem details."""

    _slow_head: asyncio.TimerHandle | None = None
    _slow_reader: asyncio.TimerHandle | None = None
    _head_bytes = 0
    _reads_body = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for a first request, but not for ever."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._refuse(TOO_MANY_CONNECTIONS, f"the service takes {MOST_CONNECTIONS} connections at once")
        else:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the timers."""
        self._head_is_there()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Read; an unfinished head is timed and measured, and what is left of a body already answered is timed."""
        super().data_received(data)
        if self.transport.is_closing() or (self.cycle is not None and not self.cycle.response_complete):
            return
        self._await_head()
        self._head_bytes += 0 if self._reads_body else len(data)
        if self._head_bytes > LARGEST_HEAD:
            self._refuse(HEAD_TOO_LARGE, f"the line and headers of a request may have {LARGEST_HEAD} bytes")

    def on_headers_complete(self) -> None:
        """A request begins."""
        self._head_is_there()
        self._reads_body = True
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """A request has come whole."""
        self._reads_body = False
        super().on_message_complete()

    def pause_writing(self) -> None:
        """The client does not read: wait for it, but not for ever."""
        super().pause_writing()
        self._slow_reader = self.loop.call_later(READ_SECONDS, self.transport.abort)

    def resume_writing(self) -> None:
        """The client reads again."""
        if self._slow_reader is not None:
            self._slow_reader.cancel()
            self._slow_reader = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what is no HTTP, as a problem detail."""
        self._refuse(MALFORMED, msg)

    def _await_head(self) -> None:
        if self._slow_head is None:
            self._slow_head = self.loop.call_later(HEAD_SECONDS, self._head_is_late)

    def _head_is_there(self) -> None:
        self._head_bytes = 0
        if self._slow_head is not None:
            self._slow_head.cancel()
            self._slow_head = None

    def _head_is_late(self) -> None:
        if self._head_bytes:
            self._refuse(TOO_SLOW, f"the head of the request did not come within {HEAD_SECONDS} seconds")
        else:
            self.transport.close()

    def _refuse(self, kind: Kind, detail: str) -> None:
        """Answer without the application, and hang up."""
        answer = problem_response(kind, detail, {"Connection": "close"})
        lines = [b": ".join(header) for header in (*self.server_state.default_headers, *answer.raw_headers)]
        self.transport.write(b"\r\n".join([STATUS_LINE[kind.status].rstrip(), *lines, b"", bytes(answer.body)]))
        self.transport.close()


def _config(service: Any, **options: Any) -> uvicorn.Config:
    return uvicorn.Config(
        service,
        http=_Protocol,
        loop="winloop:new_event_loop" if sys.platform == "win32" else "auto",
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=2,  # for connections; the calls on them had their time before
        **options,
    )


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

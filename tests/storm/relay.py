"""A TCP relay in front of the server that can cut, delay, swallow notifications, and fall silent without closing."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

NOTIFICATION = b"A"  # the type of the protocol's NotificationResponse


class Relay:
    """Passes bytes both ways. While `open` is clear nothing passes and nothing is closed: a half-open connection.

    While it is `deaf` notifications do not pass; `swallowed` counts them.
    """

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._port = 0
        self.open = asyncio.Event()
        self.open.set()
        self.delay = 0.0
        self.refuses = False
        self.deaf = False
        self.swallowed = 0

    @property
    def dsn(self) -> str:
        """The server's address by way of this relay."""
        user = self._parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{self._port}" if user else f"127.0.0.1:{self._port}"
        return urlunsplit(self._parts._replace(netloc=netloc, query="sslmode=disable"))

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Reset every connection."""
        for writer in list(self._writers):
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.refuses:
            writer.transport.abort()
            return
        try:
            there_reader, there_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        except OSError:
            writer.transport.abort()
            return
        self._writers |= {writer, there_writer}
        for pump in (self._pump(reader, there_writer, bytes), self._pump(there_reader, writer, self._sieve())):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _sieve(self) -> Callable[[bytes], bytes]:
        """What passes of the server's bytes, its whole messages, as they come."""
        rest = bytearray()

        def passing(data: bytes) -> bytes:
            rest.extend(data)
            passed, place = bytearray(), 0
            while len(rest) >= place + 5 and len(rest) > (end := place + int.from_bytes(rest[place + 1 : place + 5])):
                if self.deaf and rest[place : place + 1] == NOTIFICATION:
                    self.swallowed += 1
                else:
                    passed += rest[place : end + 1]
                place = end + 1
            del rest[:place]
            return bytes(passed)

        return passing

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, passing: Callable[[bytes], bytes]
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self.open.wait()
                if writer.transport.is_closing():
                    break
                writer.write(passing(data))
                await writer.drain()
        writer.transport.abort()
        self._writers.discard(writer)

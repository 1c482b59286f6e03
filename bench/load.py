"""The load generator: `python -m bench.load HOST PORT CONNECTIONS FILE`, raw requests from a file, times as JSON."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter, process_time
from typing import cast

from bench.loops import run


class Caller(asyncio.Protocol):
    """A connection that sends the next request as soon as the last one is answered."""

    def __init__(self, calls: Iterator[bytes], times: list[float], ended: asyncio.Future[None]) -> None:
        self._calls, self._times, self._ended = calls, times, ended
        self._answer = b""
        self._since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self.send()

    def send(self) -> None:
        """Send the next request; there being none, hang up."""
        call = next(self._calls, None)
        if call is None:
            self._transport.close()
            return
        self._since = perf_counter()
        self._transport.write(call)

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, found, body = self._answer.partition(b"\r\n\r\n")
        if not found or len(body) < _length(head):
            return
        self._times.append((perf_counter() - self._since) * 1_000)
        if not head.startswith(b"HTTP/1.1 200"):
            self._ended.set_exception(RuntimeError(self._answer.decode()))
            return
        self._answer = b""
        self.send()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(None)


def _length(head: bytes) -> int:
    _, _, rest = head.lower().partition(b"\r\ncontent-length:")
    return int(rest.partition(b"\r\n")[0])


def read(path: Path) -> Iterator[bytes]:
    """The requests of a file, each after its length in four bytes."""
    data, place = path.read_bytes(), 0
    while place < len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 4 + length]
        place += 4 + length


async def main(host: str, port: int, connections: int, path: Path) -> None:
    """Send all of them, and print how fast that went."""
    loop = asyncio.get_running_loop()
    calls, times = read(path), list[float]()
    ended = [loop.create_future() for _ in range(connections)]
    began, spent = perf_counter(), process_time()
    for future in ended:
        await loop.create_connection(lambda future=future: Caller(calls, times, future), host, port)
    await asyncio.gather(*ended)
    rate, processor = len(times) / (perf_counter() - began), (process_time() - spent) / len(times) * 1e6
    print(json.dumps({"rate": rate, "times": times, "processor": processor}))


if __name__ == "__main__":
    run(main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4])))

"""What tests of the router need of a database besides rows: its clock, its locks, and a wire that counts and cuts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import UUID

import asyncpg

from pointsman import Router
from pointsman.errors import PointsmanError
from pointsman.model import Exclusion, Explanation, Outcome

NOBODY = UUID(int=0)
PATIENCE = 20.0
"""Seconds after which something that should happen is taken for something that does not."""


@asynccontextmanager
async def another(database: str) -> AsyncIterator[asyncpg.Connection]:
    """One more connection to the test's database."""
    connection = await asyncpg.connect(database)
    try:
        yield connection
    finally:
        await connection.close(timeout=5)


async def until(happened: Callable[[], Awaitable[Any]], what: str) -> Any:
    """What `happened` answers as soon as that is true; a poll with an end."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not (answer := await happened()):
        assert asyncio.get_running_loop().time() < deadline, f"{what} did not happen"
        await asyncio.sleep(0.01)
    return answer


# the clock


async def set_clock(connection: asyncpg.Connection, at: datetime) -> None:
    """Make the database's clock stand at `at`."""
    await connection.execute(
        "create or replace function pointsman.clock() returns timestamptz language sql volatile "
        f"as $$ select timestamptz '{at.isoformat()}' $$"
    )


async def let_clock_jump(connection: asyncpg.Connection, start: datetime, seconds: int) -> None:
    """Make the database's clock move on by so many seconds each time it is read."""
    await connection.execute("create sequence public.ticks cache 1")
    await connection.execute(
        "create or replace function pointsman.clock() returns timestamptz language sql volatile "
        f"as $$ select timestamptz '{start.isoformat()}' + nextval('public.ticks') * interval '{seconds} s' $$"
    )


# what the router wrote


async def version(connection: asyncpg.Connection) -> int:
    """The current config version."""
    return await connection.fetchval("select max(version) from pointsman.config_commit")


async def records(connection: asyncpg.Connection, lead_id: UUID | None = None) -> list[asyncpg.Record]:
    """The rows of `decisions`, of one lead or all, in the order of their ids."""
    return await connection.fetch(
        "select * from pointsman.decisions where $1::uuid is null or lead_id = $1 order by id", lead_id
    )


async def written(connection: asyncpg.Connection) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that the router writes, to be compared with itself."""
    tables = {
        "leads": "select id, status, buyer_id, routed_at from leads order by 1",
        "decisions": "select id, lead_id, outcome from pointsman.decisions order by 1",
        "cap_usage": "select buyer_id, offer_id, kind, window_start, used from pointsman.cap_usage order by 1, 2, 3, 4",
        "rotation": "select buyer_id, offer_id, position from pointsman.rotation order by 1, 2",
    }
    return {table: [tuple(row) for row in await connection.fetch(query)] for table, query in tables.items()}


async def analyse_for_good(connection: asyncpg.Connection, tables: list[str]) -> None:
    """Have the server take tables for as large as they are now, whatever becomes of them."""
    for table in tables:
        await connection.execute(f"alter table {table} set (autovacuum_enabled = off)")
        await connection.execute(f"vacuum analyze {table}")


async def rows_read(connection: asyncpg.Connection, tables: list[str]) -> int:
    """How many rows of tables were looked at so far, as sessions have said: they say it at their ends at the latest."""
    return await connection.fetchval(
        "select sum(seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint from pg_stat_user_tables"
        " where relid = any($1::regclass[])",
        tables,
    )


async def lead_row(connection: asyncpg.Connection, lead_id: UUID) -> tuple[Any, ...]:
    """The lead's status, buyer and routing instant."""
    return tuple(await connection.fetchrow("select status, buyer_id, routed_at from leads where id = $1", lead_id))


async def served(connection: asyncpg.Connection) -> list[UUID]:
    """The buyers of all assignments, in the order of claims."""
    rows = await connection.fetch("select buyer_id from pointsman.decisions where outcome = 'routed' order by id")
    return [row["buyer_id"] for row in rows]


# what the router answers


def kinds(answers: Iterable[Outcome | PointsmanError]) -> list[str]:
    """What each answer is, an outcome or an error, in a word."""
    return [str(answer.outcome) if isinstance(answer, Outcome) else type(answer).__name__ for answer in answers]


def why_not(explanation: Explanation, buyer_id: UUID) -> list[dict[str, Any]]:
    """The buyer's reasons, each its code and facts; empty if it is not excluded."""
    found: list[Exclusion] = [excluded for excluded in explanation.excluded if excluded.buyer_id == buyer_id]
    return [{"code": str(reason.code), **reason.facts} for excluded in found for reason in excluded.reasons]


def codes(explanation: Explanation, buyer_id: UUID) -> list[str]:
    """The codes of the buyer's reasons."""
    return [reason["code"] for reason in why_not(explanation, buyer_id)]


# what sessions wait for


async def follows(router: Router, connection: asyncpg.Connection) -> None:
    """Wait until the router's cache is at the current version, without asking it to route."""
    wanted = await version(connection)

    async def caught_up() -> bool:
        return (router.cache.version or 0) >= wanted

    await until(caught_up, f"version {wanted}")


async def waiting_for_a_lock(connection: asyncpg.Connection) -> int:
    """Wait until one of the router's sessions waits for a lock; its process id."""

    async def blocked() -> int | None:
        return await connection.fetchval(
            "select pid from pg_stat_activity where datname = current_database() and application_name = 'pointsman'"
            " and wait_event_type = 'Lock' limit 1"
        )

    return await until(blocked, "a wait for a lock")


async def ended(connection: asyncpg.Connection) -> None:
    """Wait until none of the router's sessions is left."""

    async def gone() -> bool:
        return not await connection.fetchval(
            "select count(*) from pg_stat_activity"
            " where datname = current_database() and application_name = 'pointsman'"
        )

    await until(gone, "the end of the router's sessions")


async def end_sessions(connection: asyncpg.Connection, query_like: str = "%") -> int:
    """Terminate the router's sessions whose last statement is like this; how many."""
    return await connection.fetchval(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity where datname = current_database()"
        " and application_name = 'pointsman' and query ilike $1",
        query_like,
    )


# the wire


class Wire:
    """A TCP relay in front of the server that counts round trips, and can cut where a test wants it."""

    def __init__(self, dsn: str) -> None:
        self._parts = urlsplit(dsn)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._swallow_from: int | None = None
        self._port = 0
        self.trips = 0

    @property
    def dsn(self) -> str:
        """The server's address by way of this relay."""
        user = self._parts.netloc.rpartition("@")[0]
        netloc = f"{user}@127.0.0.1:{self._port}" if user else f"127.0.0.1:{self._port}"
        return urlunsplit(self._parts._replace(netloc=netloc, query="sslmode=disable"))

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def cut(self) -> None:
        """End every connection and take no new one."""
        assert self._server is not None
        self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()

    async def mend(self) -> None:
        """Take connections again, at the same address."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port)

    def swallow_answer(self, trip: int) -> None:
        """Let statements through, but end the connection in the place of the answer to the `trip`-th from now on."""
        self._swallow_from = self.trips + trip

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(self._parts.hostname, self._parts.port)
        self._writers |= {writer, there_writer}
        for pump in (self._requests(reader, there_writer), self._answers(there_reader, writer)):
            task = asyncio.create_task(pump)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError):
            length = await reader.readexactly(4)
            writer.write(length + await reader.readexactly(int.from_bytes(length, "big") - 4))  # the start-up message
            while True:
                head = await reader.readexactly(5)
                writer.write(head + await reader.readexactly(int.from_bytes(head[1:], "big") - 4))
                if head[:1] in b"SQH":  # Sync, Query, Flush: the client waits for an answer
                    self.trips += 1
        writer.transport.abort()

    async def _answers(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                if self._swallow_from is not None and self.trips >= self._swallow_from:
                    self._swallow_from = None
                    break
                writer.write(data)
        writer.transport.abort()

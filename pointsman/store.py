"""The router's SQL statements by name; their rows become values here, and the driver's errors ours."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache, partial
from importlib.resources import files
from types import MappingProxyType
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
from asyncpg.pgproto import pgproto

from pointsman.errors import Busy, DatabaseUnfit, NotReady, PointsmanError, Refused, StoreUnavailable
from pointsman.model import Cause, Flag, Lead, OutcomeKind, Record

LONG_READ_SECONDS = 60.0
"""How long an explanation may search the history, which no lead waits for."""

READERS = 2
"""Connections for what no lead waits for, beside those that leads are routed on: explanations, records, comparisons."""

SCHEMA_VERSION = 4
"""The newest migration that this release's statements need."""

_CONTENDED = (
    asyncpg.LockNotAvailableError,
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.QueryCanceledError,
)
_AWAY = (
    OSError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
)
_LOST = (ConnectionError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError)
_UNFIT = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
    asyncpg.UndefinedTableError,
    asyncpg.UndefinedColumnError,
    asyncpg.UndefinedFunctionError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
)
_UNPREPARED = (asyncpg.InvalidSQLStatementNameError, asyncpg.DuplicatePreparedStatementError)
_HOSTS_RULES = ("exec_stmt_raise", "ExecWithCheckOptions")
"""Where in the server an error comes from that a RAISE or a row security policy made, whatever its code."""
_FUNCTION = re.compile(r'^[^"«„\n]*\bPL/[^"«„\n]*\(.*$', re.MULTILINE)
"""A line of an error's context that names a function, and does not quote a statement, in whatever language it is."""
_FUNCTION_OF_OURS = re.compile(r"\bpointsman\.\w+\(|\b((claim|claim_one|hold)_\d+|state)\(")
"""The schema is not said where it is on the search path, as it is for a role of its name."""
_IDS = ("id", "buyer_id", "offer_id", "market_id", "vertical_id")
_raw_decode = json.JSONDecoder().raw_decode

_CLAIM_OF_NOTHING: tuple[Any, ...] = (
    *(0, UUID(int=0), 0, datetime.min.replace(tzinfo=UTC), "", "", ""),
    *([[]] * 16),
    *(0, *([[]] * 9)),
    *([[]] * 3),
    *(0, *([[]] * 4)),
    *([[]] * 2),
)
"""A claim without leads, which changes nothing."""
_CLAIM_OF_NOBODY: tuple[Any, ...] = (
    *(0, UUID(int=0), 0, datetime.min.replace(tzinfo=UTC), "", "", ""),
    *([None] * 31),
    *(False, False, *([None] * 9)),
)
"""A claim of no lead, which changes nothing."""

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy
AreaKey = tuple[bytes, str | None, str | None]
"""Market, scope and value of an area; bytes are hashed in a quarter of the time that ids take."""
AreaRow = tuple[bytes, int | None, bytes | None, bytes, str | None, str | None]
"""Id, buyer, market, scope and value of an area; the buyer is its place among all, in order of ids, or else its id."""
EnrollmentRow = tuple[bytes, bytes, bool | None, int | None, int | None, int | None, int | None, int | None]
"""Buyer, offer and `OwnColumns` of an enrollment."""


class DeletedUnderClaim(Refused):
    """Something that the lead's assignment points to was deleted in the meantime."""


class LostWhileReading(StoreUnavailable):
    """The connection was found dead before anything was written on it."""


class Version(NamedTuple):
    """A config version; the token tells it from the same number in another history."""

    number: int
    token: UUID


class Assignment(NamedTuple):
    """The decision that assigned a lead's present buyer."""

    decision_id: int
    policy_id: UUID | None
    policy_version: int | None
    config_version: int
    decided_at: datetime
    flags: tuple[Flag, ...]


class LeadRow(NamedTuple):
    """A lead as it was read, None where there is none, and the decision that assigned it if the router did."""

    lead: Lead | None
    assignment: Assignment | None


@dataclass(frozen=True, slots=True)
class Reading:
    """A batch of leads with the config version (None before the baseline) and the instant of that moment.

    `fence`: the next transaction id of that moment. `undecided`: the `xmin` of the lead's row, if it is one lead and no
    decision of it is recorded.
    """

    rows: list[LeadRow]
    version: Version | None
    now: datetime
    fence: int
    undecided: int | None


@dataclass(frozen=True, slots=True)
class Claimed:
    """The claim's answer, lists in the order of what was sent; `failed` is None or says why, as the claim does."""

    done: list[int]
    repeated: list[tuple[datetime, tuple[Flag, ...]] | None]
    used: list[int]
    positions: list[int]
    failed: dict[str, Any] | None


class RowImage(NamedTuple):
    """One entry of the config log: `op` i, u, d or t (table emptied)."""

    version: Version
    table: str | None
    op: str | None
    key: str | None
    image: dict[str, Any] | None


def quote_identifier(name: str) -> str:
    """`name` as an SQL identifier, good also within a function's text, which a `$$` would end."""
    quoted = name.replace('"', '""')
    if "$" in name:
        return 'U&"' + quoted.replace("\\", "\\\\").replace("$", "\\0024") + '"'
    return f'"{quoted}"'


def read_queries(text: str) -> dict[str, str]:
    """The statements of a `.sql` file by the names in their `-- name:` lines."""
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)
    return {name: body.strip() for name, body in zip(parts[1::2], parts[2::2], strict=True)}


@cache
def queries_of(file: str) -> Mapping[str, str]:
    """The statements of one of the package's own files, by name."""
    return read_queries((files("pointsman.sql") / f"{file}.sql").read_text("utf-8"))


def known(version: Version | None) -> Version:
    """The version itself; raises `NotReady` where there is none, before the baseline."""
    if version is None:
        raise NotReady("the configuration has no version yet; run `pointsman migrate` to its end")
    return version


@contextmanager
def translated() -> Iterator[None]:
    """Raise the driver's errors as ours, in the user's words."""
    try:
        yield
    except (asyncpg.PostgresError, *_AWAY) as error:
        raise _translation(error) from error


def _translation(error: BaseException) -> PointsmanError:
    """What an error of the driver's is to a caller."""
    if isinstance(error, TimeoutError):
        return StoreUnavailable("the database did not answer in time")
    message = _message(error)
    if _is_of_a_rule(error):
        return Refused(f"the database refuses this: {message}")
    if isinstance(error, _CONTENDED):
        return Busy(f"others hold what this needs for too long: {message}")
    if isinstance(error, asyncpg.ForeignKeyViolationError):
        return DeletedUnderClaim(f"the database refuses this: {message}")
    if isinstance(error, _UNPREPARED):
        return DatabaseUnfit(
            f"{message}: behind a pooler that keeps no prepared statements, open the router with "
            "`prepared_statements=False`"
        )
    if isinstance(error, _UNFIT) and not _is_of_a_trigger(error):
        return DatabaseUnfit(f"{message}; check the database's address and privileges, and run `pointsman migrate`")
    if isinstance(error, _AWAY):
        return StoreUnavailable(f"the database cannot be reached: {message}")
    return Refused(f"the database refuses this: {message}")


def _is_of_a_rule(error: BaseException) -> bool:
    """Whether a RAISE or a row security policy made it: it can say any code, as if the server were going away."""
    return isinstance(error, asyncpg.PostgresError) and error.server_source_function in _HOSTS_RULES


def _is_of_a_trigger(error: asyncpg.PostgresError) -> bool:
    """Whether the innermost function in which it came up is none of ours: a trigger of the host's that is broken."""
    innermost = _FUNCTION.search(error.context or "")
    return innermost is not None and _FUNCTION_OF_OURS.search(innermost[0]) is None


def _message(error: BaseException) -> str:
    """The error's first line: what follows are details, which can hold a lead's data."""
    return str(error).partition("\n")[0]


class _Unprepared(asyncpg.Connection):
    """A connection through a pooler that keeps no prepared statements (PgBouncer before 1.21, transaction mode).

    The driver asks twice for each statement, to describe it and to run it. A transaction around the two keeps them on
    one server, for two trips more.
    """

    async def fetch(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._on_one_server(super().fetch, query, *args, **options)

    async def fetchrow(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._on_one_server(super().fetchrow, query, *args, **options)

    async def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        return await self._on_one_server(super().fetchval, query, *args, **options)

    async def _on_one_server(self, ask: Callable[..., Awaitable[Any]], *args: Any, **options: Any) -> Any:
        if self.is_in_transaction():
            return await ask(*args, **options)
        async with self.transaction():
            return await ask(*args, **options)


class _Connections:
    """Up to `size` connections, made when they are needed and kept.

    Nothing is set on them, so nothing is to be reset when they come back, which is most of what a pool of the driver's
    does, at half the time that it takes to read a lead.
    """

    def __init__(self, make: Callable[[], Awaitable[asyncpg.Connection]], size: int, timeout: float) -> None:
        self._make = make
        self._size = size
        self._timeout = timeout
        self._is_closed = False
        self._free = asyncio.Semaphore(size)
        self._idle: list[asyncpg.Connection] = []
        self._open: set[asyncpg.Connection] = set()

    async def acquire(self) -> asyncpg.Connection:
        """A connection that nobody else has until it is released; raises `StoreUnavailable` if none comes free."""
        if self._is_closed:
            raise StoreUnavailable("the router is closed")
        if self._free.locked():
            try:
                async with asyncio.timeout(self._timeout):
                    await self._free.acquire()
            except TimeoutError:
                raise StoreUnavailable(
                    f"each of the {self._size} connections was in use for {self._timeout:g} s"
                ) from None
        else:
            await self._free.acquire()
        while self._idle:
            connection = self._idle.pop()
            if not connection.is_closed():
                return connection
            self._open.discard(connection)
        try:
            connection = await self._make()
        except BaseException:
            self._free.release()
            raise
        self._open.add(connection)
        if self._is_closed:
            self.close()
        return connection

    def release(self, connection: asyncpg.Connection) -> None:
        """Give it back, whatever became of it."""
        if connection.is_closed():
            self._open.discard(connection)
        else:
            self._idle.append(connection)
        self._free.release()

    def close(self) -> None:
        """End all of them, those in use too."""
        self._is_closed = True
        for connection in self._open:
            connection.terminate()
        self._open.clear()
        self._idle.clear()

    def there_are(self) -> int:
        return len(self._open)

    def in_use(self) -> int:
        return len(self._open) - len(self._idle)


class _Lent:
    """A connection from entering to leaving; a class, since every lead enters, and generators take their time."""

    __slots__ = ("_connection", "_connections")

    def __init__(self, connections: _Connections) -> None:
        self._connections = connections

    async def __aenter__(self) -> Connection:
        try:
            self._connection = await self._connections.acquire()
        except Exception:
            with translated():
                raise
        return self._connection

    async def __aexit__(self, _: object, error: BaseException | None, __: object) -> None:
        connection = self._connection
        if error is None:
            self._connections.release(connection)
            return
        # broken off, or the server went away: whatever state it is in, nobody gets it again
        is_lost = isinstance(error, (*_AWAY, StoreUnavailable)) and not _is_of_a_rule(error)
        if is_lost or not isinstance(error, Exception):
            connection.terminate()
        self._connections.release(connection)
        with translated():
            raise error


class Store:
    """The router's connections to one database. They are its own: nothing is left behind on them, nothing is reset."""

    def __init__(
        self,
        connections: _Connections,
        readers: _Connections,
        queries: dict[str, str],
        dsn: str,
        how: dict[str, Any],
    ) -> None:
        self._how = how
        self._connections = connections
        self._readers = readers
        self._sql = queries
        self._dsn = dsn

    @classmethod
    async def open(
        cls,
        dsn: str,
        *,
        size: int,
        timeout: float,
        on_connect: Callable[[asyncpg.Connection], None] | None = None,
        prepared_statements: bool = True,
    ) -> Store:
        """Connect to a migrated database; raises `StoreUnavailable` or `DatabaseUnfit`, each saying what to do."""
        how: dict[str, Any] = {}
        if not prepared_statements:
            how = {"connection_class": _Unprepared, "statement_cache_size": 0}
        with translated():
            connection = await connect(dsn, timeout, **how)
            try:
                host = quote_identifier(await _host_schema(connection, queries_of("queries")["installation"]))
            finally:
                await connection.close(timeout=timeout)
            queries = {name: sql.replace("@host@", host) for name, sql in queries_of("queries").items()}

        async def connected(tell: Callable[[asyncpg.Connection], None] | None) -> asyncpg.Connection:
            connection = await connect(dsn, timeout, command_timeout=timeout, max_cached_statement_lifetime=0, **how)
            try:
                await _prepare(connection, queries)
            except BaseException:
                connection.terminate()
                raise
            if tell is not None:
                tell(connection)
            return connection

        # the last resort reads configuration on a second one, beside its transaction, and leads are read while others
        # are claimed
        leads = _Connections(partial(connected, on_connect), max(size, 2), timeout)
        readers = _Connections(partial(connected, None), READERS, timeout)
        return cls(leads, readers, queries, dsn, how)

    async def close(self) -> None:
        """Close every connection; what is still under way is ended."""
        self._connections.close()
        self._readers.close()

    def connection(self) -> _Lent:
        """One of the connections for leads for as long as an `async with` lasts, outside of a transaction."""
        return _Lent(self._connections)

    def reader(self) -> _Lent:
        """The same of those for what no lead waits for, which so never has the connections of leads."""
        return _Lent(self._readers)

    async def have_ready(self, count: int) -> None:
        """Make so many connections now, so that no lead waits for it."""
        async with AsyncExitStack() as stack:
            for _ in range(count):
                await stack.enter_async_context(self.connection())

    def connections(self) -> tuple[int, int]:
        """How many of the connections for leads are in use just now, and how many there are."""
        return self._connections.in_use(), self._connections.there_are()

    async def listener(self, dsn: str | None, timeout: float) -> asyncpg.Connection:
        """A connection of its own for LISTEN, since a pool would clear its listeners."""
        with translated():
            how = self._how if dsn is None else {}  # an address of its own is a direct one
            return await connect(dsn or self._dsn, timeout, command_timeout=timeout, **how)

    async def _row(self, connection: Connection, name: str, *arguments: Any) -> asyncpg.Record:
        """The one row that a statement always answers."""
        row = await connection.fetchrow(self._sql[name], *arguments)
        assert row is not None
        return row

    # leads

    async def read_leads(self, connection: Connection, lead_ids: Sequence[UUID]) -> Reading:
        """The leads in the order of `lead_ids`; one round trip. Raises `LostWhileReading` on a dead connection."""
        try:
            if len(lead_ids) == 1:
                rows = await connection.fetch(self._sql["read_lead"], lead_ids[0])
                undecided = rows[0]["undecided"]
            else:
                rows = await connection.fetch(self._sql["read_leads"], lead_ids)
                undecided = None
        except _LOST as error:
            raise LostWhileReading(f"the database cannot be reached: {_message(error)}") from error
        first = rows[0]
        version = None if first["version"] is None else Version(first["version"], first["token"])
        return Reading([_lead_row(row) for row in rows], version, first["now"], first["fence"], undecided)

    async def transaction_faults(self, connection: Connection) -> str | None:
        """Why a caller's open transaction cannot carry a decision, None if it can."""
        try:
            row = await self._row(connection, "caller_transaction")
        except asyncpg.InFailedSQLTransactionError:
            return "it has failed already; roll it back"
        if row["isolation"] != "read committed":
            return f"its isolation level is {row['isolation']}; a decision needs READ COMMITTED"
        if row["read_only"]:
            return "it is read-only"
        if row["changed_configuration"]:
            return "it has changed configuration itself; route in a transaction of its own after that one's commit"
        return None

    @asynccontextmanager
    async def savepoint(self, connection: Connection) -> AsyncIterator[None]:
        """A part of a caller's open transaction, however that began; what raises is undone and gives its locks back."""
        await connection.execute("savepoint pointsman")
        try:
            yield
        except BaseException:
            await connection.execute("rollback to savepoint pointsman; release savepoint pointsman")
            raise
        await connection.execute("release savepoint pointsman")

    async def claim(self, connection: Connection, arguments: Sequence[Any]) -> Claimed:
        """Prove and write a batch of decisions; one round trip. The arguments are those of `claim_1`."""
        row = await self._row(connection, "claim", *arguments)
        failed = None if row["failed"] is None else json.loads(row["failed"])
        return Claimed(row["done"], _repeated(row), row["used"] or [], row["positions"] or [], failed)

    async def claim_one(self, connection: Connection, arguments: Sequence[Any]) -> list[int] | None:
        """Prove and write the decision of one lead; None if anything did not hold. Both are those of `claim_one_1`."""
        answer: list[int] | None = (await self._row(connection, "claim_one", *arguments))[0]
        return answer

    async def share_seal(self, connection: Connection) -> None:
        """Keep configuration from committing until the open transaction ends."""
        await connection.fetchrow(self._sql["share_seal"])

    async def lock_leads(self, connection: Connection, lead_ids: Sequence[UUID]) -> None:
        """Lock leads until the open transaction ends, so that nothing moves what is read of them."""
        await connection.fetch(self._sql["lock_leads"], lead_ids)

    async def held_leads(self, connection: Connection, lead_ids: Sequence[UUID]) -> set[UUID]:
        """The leads of `lead_ids` that somebody else has locked at this moment."""
        return {row["id"] for row in await connection.fetch(self._sql["held_leads"], lead_ids)}

    async def hold(self, connection: Connection, arguments: Sequence[Any]) -> tuple[list[int], list[int]]:
        """Lock all that leads could be compared on; true usage and positions. The arguments are those of `hold_1`."""
        row = await self._row(connection, "hold", *arguments)
        return row["used"], row["positions"]

    async def missing_balance(self, connection: Connection, buyer_ids: Sequence[UUID]) -> dict[UUID, Decimal | None]:
        """How much each buyer lacks of its minimum balance, None where its balance is not known."""
        if not buyer_ids:
            return {}
        rows = await connection.fetch(self._sql["missing_balance"], buyer_ids)
        return {row["id"]: None if (amount := row["amount"]) is None or amount.is_nan() else amount for row in rows}

    # routing state

    async def state(self, connection: Connection, arguments: Sequence[Any]) -> tuple[list[int], list[int]]:
        """True usage and positions of counters and enrollments, without locks."""
        row = await self._row(connection, "state", *arguments)
        return row["used"], row["positions"]

    async def state_before(
        self, connection: Connection, decision_id: int, arguments: Sequence[Any]
    ) -> tuple[list[int | None], list[int]]:
        """Usage and positions as the decisions with smaller ids left them; no usage where some of these were pruned."""
        row = await self._row(connection, "state_before", *arguments, decision_id)
        return row["used"], row["positions"]

    def usage(self, connection: Connection, slice_rows: int) -> AsyncGenerator[list[asyncpg.Record], None]:
        """Every counter of a window that may be open, in slices.

        buyer_id, offer_id, kind, window_start, used, since.
        """
        return self._slices(connection, "usage", slice_rows)

    def positions(self, connection: Connection, slice_rows: int) -> AsyncGenerator[list[asyncpg.Record], None]:
        """Every enrollment that was served, in slices: buyer_id, offer_id, position."""
        return self._slices(connection, "positions", slice_rows)

    # configuration

    async def version(self, connection: Connection) -> Version:
        """The current config version; raises `NotReady` before the baseline."""
        row = await connection.fetchrow(self._sql["version"])
        return known(None if row is None else Version(*row))

    def images(
        self, connection: Connection, table: str, slice_rows: int
    ) -> AsyncGenerator[list[Mapping[str, Any]], None]:
        """All row images of a configuration table, in slices, inside the caller's transaction; of two see below."""
        return self._slices(connection, f"load_{table}", slice_rows)

    def enrollments(self, connection: Connection, slice_rows: int) -> AsyncGenerator[list[EnrollmentRow], None]:
        """The enrollments, in slices, inside the caller's transaction."""
        return self._slices(connection, "load_enrollments", slice_rows)

    def areas(self, connection: Connection, slice_rows: int) -> AsyncGenerator[list[AreaRow], None]:
        """The areas that can count, in the order of ids, in slices, inside the caller's transaction."""
        return self._slices(connection, "load_areas", slice_rows)

    async def _slices(self, connection: Connection, name: str, slice_rows: int) -> AsyncGenerator[Any, None]:
        """All that a statement answers, inside the caller's transaction."""
        async with aclosing(_ahead(await connection.cursor(self._sql[name]), slice_rows)) as slices:
            async for rows in slices:
                yield rows

    async def detached(self, connection: Connection) -> list[str]:
        """Configuration tables whose changes nobody logs, because a trigger is missing, off or not ours."""
        return [row["rel"] for row in await connection.fetch(self._sql["detached"])]

    async def changes(self, connection: Connection, since: Version, limit: int) -> list[RowImage] | None:
        """The first `limit` rows that were committed after `since`, in the order of commits, in one round trip.

        None if `since` is not part of the history.
        """
        first, *rows = await connection.fetch(self._sql["changes"], since.number, limit + 1) or (None,)
        return _row_images(rows) if _is_of(first, since) else None

    async def all_changes(
        self, connection: Connection, since: Version, slice_rows: int
    ) -> AsyncGenerator[list[RowImage] | None, None]:
        """All of them, in slices, inside the caller's transaction; just None if `since` is not part of the history."""
        cursor = await connection.cursor(self._sql["all_changes"], since.number)
        if not _is_of(await cursor.fetchrow(), since):
            yield None
            return
        async with aclosing(_ahead(cursor, slice_rows)) as slices:
            async for rows in slices:
                yield _row_images(rows)

    # records

    async def decision(self, connection: Connection, decision_id: int) -> asyncpg.Record | None:
        """One row of decisions, None if there is none."""
        return await connection.fetchrow(self._sql["decision"], decision_id)

    async def decisions(self, connection: Connection, lead_id: UUID) -> list[Record]:
        """The records of a lead, newest first."""
        return [read_record(row) for row in await connection.fetch(self._sql["decisions"], lead_id)]

    async def token_at(self, connection: Connection, version: int) -> tuple[UUID | None, bool]:
        """The token of a past version, and whether a baseline at or before it is kept."""
        row = await self._row(connection, "token_at", version)
        return row["token"], row["has_baseline"]

    async def images_at(
        self, connection: Connection, version: int, offer_id: UUID | None, market_id: UUID | None
    ) -> list[tuple[str, dict[str, Any]]]:
        """The (table, image) pairs that a decision on an offer in a market could look at, as of a past version."""
        rows = await connection.fetch(self._sql["images_at"], version, offer_id, market_id, timeout=LONG_READ_SECONDS)
        return [(row["rel"], image) for row in rows if (image := read_image(row["image"])) is not None]


async def connect(
    dsn: str, timeout: float, name: str = "pointsman", settings: Mapping[str, str] = MappingProxyType({}), **how: Any
) -> asyncpg.Connection:
    """A connection that the server knows by `name`, in a session with these settings.

    Raises `DatabaseUnfit` for an address that cannot be read, `StoreUnavailable` for a certificate that its parameters
    do not trust, and otherwise the driver's errors.
    """
    try:
        return await asyncpg.connect(
            dsn, timeout=timeout, server_settings={"application_name": name, **settings}, **how
        )
    except ssl.SSLCertVerificationError as error:  # a ValueError too
        raise StoreUnavailable(
            f"the database's certificate is not trusted: {error.verify_message.rstrip('.')}; check the address's host,"
            " `sslmode` and `sslrootcert`"
        ) from error
    except (ValueError, asyncpg.ClientConfigurationError):
        # the driver's message can hold a part of the password
        raise DatabaseUnfit(
            "the database's address cannot be read; it must be like postgresql://user:password@host:5432/database,"
            " with what is special in a password percent-encoded"
        ) from None


async def _ahead(cursor: Any, slice_rows: int) -> AsyncGenerator[list[asyncpg.Record], None]:
    """What a cursor has left, in slices: while the caller works on one, the server makes the next.

    Who stops before the end has to close this, since nobody else can ask anything on the connection meanwhile.
    """
    coming = asyncio.create_task(cursor.fetch(slice_rows))
    try:
        while rows := await coming:
            coming = asyncio.create_task(cursor.fetch(slice_rows))
            await asyncio.sleep(0)  # it begins: the question is sent
            yield rows
    finally:
        await asyncio.wait([coming])
        if not coming.cancelled():
            coming.exception()  # nobody is left to raise it to


async def _host_schema(connection: asyncpg.Connection, installation: str) -> str:
    try:
        row = await connection.fetchrow(installation)
    except (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError):
        row = None
    if row is None:
        raise DatabaseUnfit("the router is not installed in this database; run `pointsman migrate`")
    if row["server_version"] < 150000:
        raise DatabaseUnfit("the server is older than PostgreSQL 15; upgrade it")
    if row["schema_version"] < SCHEMA_VERSION:
        raise DatabaseUnfit("the router's tables are older than this release; run `pointsman migrate`")
    host: str = row["host_schema"]
    return host


async def _prepare(connection: asyncpg.Connection, queries: dict[str, str]) -> None:
    """Run the statements of a lead's way once, on no leads, so that no decision pays for preparing them.

    What reads leads is planned here, by keys: a plan of which the server thinks well it keeps, and one that was made on
    empty tables would read all of what they have become, until somebody analyses them.
    """
    if await connection.fetchval("show default_transaction_isolation") != "read committed":
        await connection.execute("set default_transaction_isolation to 'read committed'")
    async with connection.transaction():
        await connection.execute("set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off")
        await connection.fetch(queries["read_lead"], UUID(int=0))
        await connection.fetch(queries["read_leads"], [])
    await connection.fetch(queries["changes"], 0, 0)
    await connection.fetch(queries["claim"], *_CLAIM_OF_NOTHING)
    await connection.fetch(queries["claim_one"], *_CLAIM_OF_NOBODY)


def _repeated(row: asyncpg.Record) -> list[tuple[datetime, tuple[Flag, ...]] | None]:
    """When each no-route that stands already was decided, and with which flags; None for what is new."""
    if row["repeated"] is None:
        return [None] * len(row["done"])
    return [
        None if decided_at is None else (decided_at, _flags(flags.split(",") if flags else ()))
        for decided_at, flags in zip(row["repeated"], row["repeated_flags"], strict=True)
    ]


def _flags(names: Sequence[str] | None) -> tuple[Flag, ...]:
    return tuple(map(Flag, names or ()))


def _lead(row: asyncpg.Record, lead_id: UUID, status: str, buyer_id: UUID | None) -> Lead:
    return Lead(
        lead_id,
        row["offer_id"],
        row["vertical_id"],
        row["market_id"],
        row["postal_code"],
        row["city"],
        status,
        buyer_id,
    )


def _lead_row(row: asyncpg.Record) -> LeadRow:
    if row["id"] is None:
        return LeadRow(None, None)
    lead = _lead(row, row["id"], row["status"] or "", row["buyer_id"])
    if row["decision_id"] is None:
        return LeadRow(lead, None)
    return LeadRow(
        lead,
        Assignment(
            row["decision_id"],
            row["policy_id"],
            row["policy_version"],
            row["config_version"],
            row["decided_at"],
            _flags(row["flags"]),
        ),
    )


def read_record(row: asyncpg.Record) -> Record:
    """The record in a row of decisions."""
    return Record(
        decision_id=row["id"],
        lead=_lead(row, row["lead_id"], "validated", None),
        attempt=row["attempt"],
        outcome=OutcomeKind(row["outcome"]),
        cause=None if row["cause"] is None else Cause(row["cause"]),
        flags=_flags(row["flags"]),
        buyer_id=row["buyer_id"],
        policy_id=row["policy_id"],
        policy_version=row["policy_version"],
        config_version=row["config_version"],
        decided_at=row["decided_at"],
        state=row["state"],
        engine_version=row["engine_version"],
        tzdata_version=row["tzdata_version"],
        unicode_version=row["unicode_version"],
        digest=row["digest"],
    )


def _is_of(row: asyncpg.Record | None, version: Version) -> bool:
    return row is not None and version == (row["version"], row["token"])


def _row_images(rows: Iterable[asyncpg.Record]) -> list[RowImage]:
    """The entries of the log in these rows, which come by version."""
    version, found = Version(-1, UUID(int=0)), []
    for number, token, rel, op, key, image in rows:
        if number != version.number:
            version = Version(number, token)
        found.append(RowImage(version, rel, op, key, read_image(image)))
    return found


def read_image(text: str | None) -> dict[str, Any] | None:
    """A logged row image, its ids as ids; its JSON columns stay text."""
    if text is None:
        return None
    # the server writes it without blanks around; to look for them takes as long as to read it
    image: dict[str, Any] = _raw_decode(text)[0]
    for column in _IDS:
        if (value := image.get(column)) is not None:
            image[column] = pgproto.UUID(value)
    return image

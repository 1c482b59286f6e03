"""The schema: makes and upgrades the router's tables beside the host's, attaches the feed, takes everything away again.

A run checks first and changes nothing where the host's tables do not fit. Its locks on the host's tables are short,
one table at a time, and given up again when somebody else is in the way. It can run twice, and two at once.
"""

from __future__ import annotations

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Final, NamedTuple, ParamSpec, TypeVar

import asyncpg

from pointsman.cache.indexes import TABLES
from pointsman.errors import Busy, DatabaseUnfit, StoreUnavailable
from pointsman.store import connect, quote_identifier

Report = Callable[[str], None]
T = TypeVar("T")
P = ParamSpec("P")

SEAL: Final = 7203377
"""The advisory lock under which configuration commits take their versions (0001_feed.sql)."""

MIGRATION_LOCK: Final = 7203376
"""The advisory lock of a running migration; one below the seal's."""

LOCK_TIMEOUT: Final = "100ms"
"""How long a migration waits for a lock, and so how long it can make others queue behind it, at a time."""

PATIENCE_SECONDS: Final = 60.0
"""How long it tries for one lock. Nothing pushes an autovacuum aside: PostgreSQL does that for who waits a second."""

PAUSE_SECONDS: Final = (0.1, 0.5)
"""Between two tries, at random, so as not to keep step with a host whose transactions come at a beat."""

SLICE_BLOCKS: Final = 4096
"""Table blocks that one statement of a baseline reads."""

CONTENDED: Final = (asyncpg.LockNotAvailableError, asyncpg.DeadlockDetectedError)

SERVICE_FUNCTIONS: Final = (
    "changes_1",
    "clock",
    "counted",
    "detached",
    "has_changed",
    "claim_1",
    "claim_one_1",
    "hold_1",
    "packed",
    "state",
)
"""The functions that a service role calls."""


class SchemaUnfit(DatabaseUnfit):
    """The database's tables are not as the router needs them; `faults` has one line each."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("nothing was changed: " + "; ".join(self.faults))


class SchemaNewer(DatabaseUnfit):
    """The database belongs to a later release of the router."""


class Migration(NamedTuple):
    """One numbered SQL file."""

    version: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Migrated:
    """What a run did. `baseline` is the config version that it wrote, None where none was due."""

    host_schema: str
    made_host_tables: bool
    applied: tuple[int, ...]
    attached: tuple[str, ...]
    baseline: int | None
    grants: str

    @property
    def changed(self) -> bool:
        """Whether there was anything to do."""
        return bool(self.made_host_tables or self.applied or self.attached or self.baseline)


class _Column(NamedTuple):
    kind: str
    optional: bool = False


_TYPES: Final = {
    "uuid": ("uuid",),
    "text": ("text", "varchar", "bpchar", "citext", "enum"),
    "integer": ("int2", "int4", "int8"),
    "bool": ("bool",),
    "numeric": ("numeric",),
    "timestamptz": ("timestamptz",),
    "jsonb": ("jsonb", "json"),
}
_ID, _TEXT, _INTEGER, _FLAG, _INSTANT = map(_Column, ("uuid", "text", "integer", "bool", "timestamptz"))
_TABLES: Final[dict[str, dict[str, _Column]]] = {
    "offers": {
        "id": _ID,
        "name": _TEXT,
        "vertical_id": _ID,
        "market_id": _Column("uuid", optional=True),
        "is_active": _FLAG,
    },
    "buyers": {
        "id": _ID,
        "name": _TEXT,
        "status": _TEXT,
        "timezone": _Column("text", optional=True),
        "acceptance_hours": _Column("jsonb", optional=True),
        "balance": _Column("numeric", optional=True),
        "min_balance": _Column("numeric", optional=True),
        "sla_response_seconds": _Column("integer", optional=True),
        "hourly_cap": _Column("integer", optional=True),
        "daily_cap": _Column("integer", optional=True),
    },
    "buyer_offers": {
        "buyer_id": _ID,
        "offer_id": _ID,
        "is_active": _FLAG,
        "priority_rank": _INTEGER,
        "weight": _INTEGER,
        "hourly_cap": _INTEGER,
        "daily_cap": _INTEGER,
        "created_at": _INSTANT,
    },
    "buyer_service_areas": {
        "id": _ID,
        "buyer_id": _ID,
        "market_id": _ID,
        "scope": _TEXT,
        "value": _TEXT,
        "is_active": _FLAG,
    },
    "offer_exclusivities": {
        "id": _ID,
        "offer_id": _ID,
        "buyer_id": _ID,
        "market_id": _ID,
        "scope": _TEXT,
        "value": _TEXT,
        "valid_from": _INSTANT,
        "valid_to": _INSTANT,
        "is_active": _FLAG,
    },
    "routing_policies": {
        "id": _ID,
        "name": _TEXT,
        "offer_id": _ID,
        "vertical_id": _ID,
        "market_id": _ID,
        "version": _INTEGER,
        "is_active": _FLAG,
        "rules": _Column("jsonb"),
    },
    "leads": {
        "id": _ID,
        "offer_id": _ID,
        "vertical_id": _ID,
        "market_id": _ID,
        "postal_code": _TEXT,
        "city": _TEXT,
        "status": _TEXT,
        "buyer_id": _ID,
        "routed_at": _INSTANT,
        "created_at": _INSTANT,
    },
}
_KEYS: Final[dict[str, tuple[str, ...]]] = dict.fromkeys(_TABLES, ("id",)) | {"buyer_offers": ("buyer_id", "offer_id")}
_NOT_PLAIN: Final = {"p": "a partitioned table", "f": "a foreign table", "v": "a view", "m": "a materialized view"}

# the schemas of the search path that have any of the tables, in its order
_FIND_HOST = """
select p.name, count(*)
from unnest(current_schemas(false)) with ordinality p(name, place)
join pg_namespace n on n.nspname = p.name
join pg_class c on c.relnamespace = n.oid and c.relname = any($1::text[]) and c.relkind in ('r', 'p', 'f', 'v', 'm')
where p.name <> 'pointsman'
group by p.name, p.place order by p.place
"""
_RELATIONS = """
select c.oid, c.relname, c.relkind::text as kind, c.relpersistence::text as persistence,
       pg_has_role(c.relowner, 'usage') as owned, row_security_active(c.oid) as row_security,
       exists (select from pg_inherits i where i.inhrelid = c.oid or i.inhparent = c.oid) as inherits
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = $1 and c.relname = any($2::text[]) and c.relkind in ('r', 'p', 'f', 'v', 'm')
"""
# each column with its type, a domain's being the type below it
_COLUMNS = """
with recursive base (relname, column_name, oid) as (
  select c.relname, a.attname, a.atttypid
  from pg_attribute a join pg_class c on c.oid = a.attrelid
  where a.attrelid = any($1::oid[]) and a.attnum > 0 and not a.attisdropped
  union all
  select b.relname, b.column_name, t.typbasetype from base b join pg_type t on t.oid = b.oid where t.typtype = 'd')
select b.relname, b.column_name, format_type(t.oid, null) as shown,
       case t.typtype when 'e' then 'enum' else t.typname end as kind,
       case when t.typtype = 'e' then array(
         select e.enumlabel::text from pg_enum e where e.enumtypid = t.oid) end as labels
from base b join pg_type t on t.oid = b.oid where t.typtype <> 'd'
"""
# the columns of every key: unique, whole, valid, not on expressions
_UNIQUE = """
select c.relname, array(
  select a.attname::text from unnest(i.indkey::int2[]) with ordinality k(attnum, place)
  join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
  where k.place <= i.indnkeyatts order by 1) as key
from pg_index i join pg_class c on c.oid = i.indrelid
where i.indrelid = any($1::oid[]) and i.indisunique and i.indisvalid and i.indpred is null and not 0 = any(i.indkey)
"""

_TRIGGERS = """
select g.tgrelid::regclass::text, quote_ident(g.tgname) from pg_trigger g join pg_proc p on p.oid = g.tgfoid
where p.pronamespace = 'pointsman'::regnamespace and not g.tgisinternal and g.tgname like 'pointsman\\_%'
"""


def migrations() -> list[Migration]:
    """The migrations of this release, in order."""
    folder = files("pointsman.sql") / "migrations"
    found = [
        Migration(int(match[1]), match[2], entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if (match := re.fullmatch(r"(\d{4})_(\w+)\.sql", entry.name))
    ]
    return sorted(found)


def required_version() -> int:
    """The schema version that this release needs."""
    return migrations()[-1].version


def grants(role: str, host_schema: str = "public") -> str:
    """The statements that give `role` what a routing service needs, and nothing more."""
    host, name = quote_identifier(host_schema), quote_identifier(role)
    tables = ", ".join(f"{host}.{table}" for table in _TABLES)
    views = ", ".join(f"pointsman.image_{table}" for table in TABLES)
    functions = ", ".join(f"pointsman.{function}" for function in SERVICE_FUNCTIONS)
    return "\n".join(
        (
            f"grant usage on schema {host}, pointsman to {name};",
            f"grant select on {tables} to {name};",
            f"grant update (status, buyer_id, routed_at) on {host}.leads to {name};",
            f"grant select on {views} to {name};",
            "grant select on pointsman.config_commit, pointsman.config_log, pointsman.attachment, pointsman.migration, "
            f"pointsman.settings, pointsman.pruned, pointsman.pruned_turn to {name};",
            f"grant select, insert, update on pointsman.cap_usage, pointsman.rotation to {name};",
            f"grant select, insert on pointsman.decisions to {name};",
            f"grant usage on sequence pointsman.decisions_id_seq to {name};",
            f"grant execute on function {functions} to {name};",
        )
    )


async def migrate(
    dsn: str, *, with_host_tables: bool = False, role: str = "pointsman", report: Report = lambda line: None
) -> Migrated:
    """Bring the database at `dsn` to this release's schema; safe to repeat and to run beside writers and itself.

    Raises `SchemaUnfit` with every fault at once, before anything is changed; `SchemaNewer`; `Busy` when others held
    their locks too long (what is done stays done, run it again); `StoreUnavailable` and `DatabaseUnfit`. The `grants`
    that it returns are for `role`.
    """
    async with _connection(dsn) as connection, _alone(connection, report):
        installed = await _installed_version(connection)
        host, has_tables = await _find_host(connection, installed)
        if with_host_tables and not has_tables:
            await _make_host_tables(connection, host, report)
        faults = await _faults(connection, host)
        if faults:
            raise SchemaUnfit(faults)
        applied = await _apply(connection, host, installed, report)
        attached = tuple([table for table in TABLES if await _attach(connection, host, table, report)])
        baseline = await _baseline(connection, host, report)
        return Migrated(host, with_host_tables and not has_tables, applied, attached, baseline, grants(role, host))


async def remove(dsn: str, *, report: Report = lambda line: None) -> None:
    """Take everything of the router's away, its decisions and history included; the host's tables stay as they were."""
    async with _connection(dsn) as connection, _alone(connection, report):
        if not await _installed_version(connection):
            report("nothing to remove: the router is not installed here")
            return
        for table, trigger in await connection.fetch(_TRIGGERS):
            # one table at a time, before the schema: dropping the functions would lock all the tables at once
            await _patiently(report, connection.execute, f"drop trigger {trigger} on {table}")
        await _patiently(report, connection.execute, "drop schema pointsman cascade")
        report("removed schema pointsman and its triggers")


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await _connect(dsn)
    try:
        if connection.get_server_version().major < 15:
            raise DatabaseUnfit("the server is older than PostgreSQL 15; upgrade it")
        # a long baseline is no runaway statement; DDL under REPEATABLE READ would read old catalogs
        await connection.execute(
            "set statement_timeout = 0; set idle_in_transaction_session_timeout = 0; set lock_timeout = 0; "
            "set default_transaction_isolation = 'read committed'; set client_min_messages = warning; set jit = off"
        )
        yield connection
    except asyncpg.InsufficientPrivilegeError as error:
        raise DatabaseUnfit(f"{error}; migrate as the owner of the database and of the host's tables") from error
    except asyncpg.ReadOnlySQLTransactionError as error:
        raise DatabaseUnfit("the database is read-only (a standby?); migrate on the primary server") from error
    except (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise StoreUnavailable(f"the connection to the database was lost: {error}; run it again") from error
    except asyncpg.PostgresError as error:
        raise DatabaseUnfit(f"the database refuses a step: {error}") from error
    finally:
        await connection.close(timeout=10)


async def _connect(dsn: str) -> asyncpg.Connection:
    try:
        return await connect(dsn, 10, "pointsman migrate")
    except (asyncpg.InvalidAuthorizationSpecificationError, asyncpg.InvalidCatalogNameError) as error:
        raise DatabaseUnfit(f"the database refuses the connection: {error}; check its address") from error
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise StoreUnavailable(
            f"the database cannot be reached: {error}; check its address and that it runs"
        ) from error


@asynccontextmanager
async def _alone(connection: asyncpg.Connection, report: Report) -> AsyncIterator[None]:
    if not await connection.fetchval("select pg_try_advisory_lock($1)", MIGRATION_LOCK):
        report("waiting for another migration of this database")
        await connection.execute(f"select pg_advisory_lock({MIGRATION_LOCK})")
    await connection.execute(f"set lock_timeout = '{LOCK_TIMEOUT}'")
    yield  # closing the connection gives the lock back


async def _installed_version(connection: asyncpg.Connection) -> int:
    """The newest migration that the database has, 0 where the router is not installed."""
    if await connection.fetchval("select to_regclass('pointsman.migration') is null"):
        strangers = await connection.fetchval(
            "select count(*) from pg_class where relnamespace = to_regnamespace('pointsman')"
        )
        if strangers:
            raise DatabaseUnfit("schema `pointsman` belongs to something else; rename it")
        return 0
    installed: int = await connection.fetchval("select coalesce(max(version), 0) from pointsman.migration")
    if installed > required_version():
        raise SchemaNewer(
            f"the database has schema version {installed}, this release knows {required_version()}; upgrade the router"
        )
    return installed


async def _find_host(connection: asyncpg.Connection, installed: int) -> tuple[str, bool]:
    """The schema of the host's tables, and whether it has any of them."""
    if installed:
        host: str = await connection.fetchval("select host_schema from pointsman.settings")
        return host, True
    found = await connection.fetch(_FIND_HOST, list(_TABLES))
    if found:
        whole = [name for name, count in found if count == len(_TABLES)]
        return (whole or [found[0]["name"]])[0], True
    current: str | None = await connection.fetchval("select (array_remove(current_schemas(false), 'pointsman'))[1]")
    if current is None:
        raise DatabaseUnfit("no schema but `pointsman` on the search path exists; set the role's search_path")
    return current, False


async def _make_host_tables(connection: asyncpg.Connection, host: str, report: Report) -> None:
    script = _at_host((files("pointsman.sql") / "host_tables.sql").read_text("utf-8"), host)
    try:
        async with connection.transaction():
            await connection.execute(script)
    except asyncpg.FeatureNotSupportedError as error:
        raise DatabaseUnfit(f"{error}; install PostgreSQL's contrib modules (btree_gist) on the server") from error
    report(f"made the host's tables in schema {host}")


async def _faults(connection: asyncpg.Connection, host: str) -> list[str]:
    """Everything about the host's tables that the router cannot work with."""
    relations = {row["relname"]: row for row in await connection.fetch(_RELATIONS, host, list(_TABLES))}
    oids = [row["oid"] for row in relations.values()]
    columns: dict[str, dict[str, asyncpg.Record]] = {table: {} for table in _TABLES}
    for row in await connection.fetch(_COLUMNS, oids):
        columns[row["relname"]][row["column_name"]] = row
    keys = {(row["relname"], tuple(row["key"])) for row in await connection.fetch(_UNIQUE, oids)}
    faults: list[str] = []
    for table in _TABLES:
        if table not in relations:
            faults.append(f"table {table} is missing in schema {host}")
            continue
        faults += _relation_faults(table, relations[table])
        faults += _column_faults(table, columns[table])
        if (table, _KEYS[table]) not in keys:
            faults.append(f"table {table} needs a primary or unique key on ({', '.join(_KEYS[table])})")
    return faults


def _relation_faults(table: str, relation: asyncpg.Record) -> Iterable[str]:
    plain = ("r", "p") if table == "leads" else ("r",)
    if relation["kind"] not in plain:
        yield f"table {table} is {_NOT_PLAIN[relation['kind']]}, not a plain one"
    elif table in TABLES:
        if relation["inherits"]:
            yield f"table {table} takes part in inheritance"
        if relation["persistence"] != "p":
            yield f"table {table} is unlogged: a crash empties it unseen"
        if relation["row_security"]:
            yield f"table {table} hides rows from this role (row security); migrate as its owner, or with BYPASSRLS"
        if not relation["owned"]:
            yield f"table {table} belongs to another role; migrate as its owner"


def _column_faults(table: str, columns: dict[str, asyncpg.Record]) -> Iterable[str]:
    for name, wanted in _TABLES[table].items():
        column = columns.get(name)
        if column is None:
            if not wanted.optional:
                yield f"column {table}.{name} ({wanted.kind}) is missing"
        elif column["kind"] not in _TYPES[wanted.kind]:
            yield f"column {table}.{name} is {column['shown']}, not {wanted.kind}"
        elif (table, name) == ("leads", "status") and column["labels"] is not None:
            for label in ("validated", "routed"):
                if label not in column["labels"]:
                    yield f"column leads.status ({column['shown']}) lacks the value {label}"


async def _apply(connection: asyncpg.Connection, host: str, installed: int, report: Report) -> tuple[int, ...]:
    missing = [migration for migration in migrations() if migration.version > installed]
    for migration in missing:
        await _patiently(report, _apply_one, connection, host, migration)
        report(f"applied migration {migration.version:04} {migration.name}")
    return tuple(migration.version for migration in missing)


async def _apply_one(connection: asyncpg.Connection, host: str, migration: Migration) -> None:
    async with connection.transaction():
        if await connection.fetchval("select to_regclass('pointsman.migration') is null"):
            await _install(connection, host)
        await connection.execute(_at_host(migration.sql, host))
        await connection.execute("revoke execute on all functions in schema pointsman from public")
        await connection.execute(
            "insert into pointsman.migration (version, name) values ($1, $2)", migration.version, migration.name
        )


async def _install(connection: asyncpg.Connection, host: str) -> None:
    # not "if not exists", which asks for a privilege that who owns a ready-made schema may lack
    if await connection.fetchval("select to_regnamespace('pointsman') is null"):
        await connection.execute("create schema pointsman")
    await connection.execute((files("pointsman.sql") / "installation.sql").read_text("utf-8"))
    await connection.execute("insert into pointsman.settings (host_schema) values ($1)", host)


async def _attach(connection: asyncpg.Connection, host: str, table: str, report: Report) -> bool:
    attached: bool = await _patiently(report, connection.fetchval, "select pointsman.attach($1, $2)", host, table)
    if attached:
        report(f"attached the feed to {table}")
    return attached


async def _baseline(connection: asyncpg.Connection, host: str, report: Report) -> int | None:
    """Log the whole configuration as it is at one version, if that is due."""
    due = await connection.fetch("select rel from pointsman.attachment where baseline is null order by rel")
    if not due:
        return None
    return await _patiently(report, _write_baseline, connection, host, [row["rel"] for row in due], report)


async def _write_baseline(connection: asyncpg.Connection, host: str, due: list[str], report: Report) -> int:
    async with _version_and_its_snapshot(connection, host) as version:
        first = not await connection.fetchval("select exists (select from pointsman.config_commit where baseline)")
        change_set: int = await connection.fetchval(
            "insert into pointsman.config_commit (xid, version, token, committed_at, baseline) "
            "values (null, $1, gen_random_uuid(), clock_timestamp(), true) returning change_set",
            version,
        )
        if not first:
            await _tell_to_load_anew(connection)
            # what changed while a table was not attached is known to nobody: replay starts anew from here
            await connection.execute(
                "insert into pointsman.config_log (change_set, rel, op, key) "
                "select $1, rel, 't', '' from unnest($2::text[]) rel",
                change_set,
                due,
            )
        for table in TABLES:
            rows = await _log_table(connection, host, table, change_set)
            report(f"baseline: {rows:,} rows of {table}")
        await connection.execute("update pointsman.attachment set baseline = $1 where rel = any($2)", version, due)
        await connection.execute("select pg_notify('pointsman', '')")
    report(f"wrote the baseline: config version {version}")
    return version


async def _tell_to_load_anew(connection: asyncpg.Connection) -> None:
    """Log, under a version that is taken at commit, that no table of a cache may be believed any more.

    The baseline itself comes too late for whoever follows the feed: its version is as old as its snapshot, and others
    have committed and been followed since. The blank table concerns caches alone; for the history no row is gone.
    """
    await connection.execute(
        "with signal as (insert into pointsman.config_commit default values returning change_set) "
        "insert into pointsman.config_log (change_set, rel, op, key) select change_set, '', 't', '' from signal"
    )


@asynccontextmanager
async def _version_and_its_snapshot(connection: asyncpg.Connection, host: str) -> AsyncIterator[int]:
    """A transaction that sees the configuration exactly as it is at the version that it yields.

    The seal is held while the version is drawn and the snapshot taken, so that no commit falls between them, and given
    back before a row is read. It is taken for the session, before the transaction: a statement takes its snapshot
    before it waits, and a transaction's lock would last until its end.
    """
    await connection.execute(f"select pg_advisory_lock({SEAL})")
    sealed = True
    try:
        async with connection.transaction(isolation="repeatable_read"):
            # A TRUNCATE between the snapshot and the reading would empty what is read. nowait: who truncates may be
            # waiting for the seal.
            names = ", ".join(f"{quote_identifier(host)}.{table}" for table in TABLES)
            await connection.execute(f"lock table {names} in access share mode nowait")
            version: int = await connection.fetchval("select nextval('pointsman.config_version_seq')")
            await connection.execute(f"select pg_advisory_unlock({SEAL})")
            sealed = False
            yield version
    finally:
        if sealed and not connection.is_closed():
            await connection.execute(f"select pg_advisory_unlock({SEAL})")


async def _log_table(connection: asyncpg.Connection, host: str, table: str, change_set: int) -> int:
    """Log a table's images in slices of its blocks; what lies behind the last block is younger than the snapshot."""
    blocks: int = await connection.fetchval(
        "select pg_relation_size(format('%I.%I', $1::text, $2::text)) / current_setting('block_size')::bigint",
        host,
        table,
    )
    rows = 0
    for first in range(0, blocks, SLICE_BLOCKS):
        rows += await connection.fetchval(
            "select pointsman.log_slice($1, $2, $3, $4, $5)",
            change_set,
            host,
            table,
            first,
            min(first + SLICE_BLOCKS, blocks),
        )
    return rows


async def _patiently(report: Report, step: Callable[P, Awaitable[T]], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run `step`, again and again for a while where others hold its locks."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    told = False
    while True:
        try:
            return await step(*args, **kwargs)
        except CONTENDED as error:
            if time.monotonic() > deadline:
                raise Busy(
                    f"others held a lock all the time ({error}); end long transactions and run it again"
                ) from error
            if not told:
                report(f"others hold a lock, trying again for {PATIENCE_SECONDS:.0f} s: {error}")
                told = True
        await asyncio.sleep(random.uniform(*PAUSE_SECONDS))  # noqa: S311 - spreads tries out, guards nothing


def _at_host(sql: str, host: str) -> str:
    return sql.replace("@host@", quote_identifier(host))

"""Where the tests' PostgreSQL comes from, a fresh database for each test, and the coverage that a whole run must reach.

The ladder: POINTSMAN_TEST_DATABASE_URL, a container if a Docker daemon answers, the machine's programs, the wheel.
POINTSMAN_TEST_POSTGRES=docker|path|wheel forces one rung.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

ADDRESS = "POINTSMAN_TEST_DATABASE_URL"
FORCED = "POINTSMAN_TEST_POSTGRES"

# For servers that are thrown away after the run, and for no other.
SETTINGS = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off", "max_connections": "200"}

USED_POSTGRES = pytest.StashKey[str]()


class NotToBeHad(Exception):
    """This rung of the ladder is missing here."""


@dataclass(frozen=True)
class Server:
    """A PostgreSQL server that the tests make databases on; `source` says where it comes from."""

    dsn: str
    version: str
    source: str

    def dsn_for(self, database: str) -> str:
        return urlsplit(self.dsn)._replace(path=f"/{database}").geturl()

    async def create(self, template: str) -> str:
        """Make a database under a name that no other run has."""
        name = f"pointsman_test_{secrets.token_hex(8)}"
        await self._execute(f"create database {name} template {template}")
        return name

    async def drop(self, database: str) -> None:
        await self._execute(f"drop database if exists {database} with (force)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn)
        try:
            await connection.execute(statement)
        finally:
            await connection.close(timeout=10)


# The ladder: each rung takes a stack for what must end with the run, and returns an address and its source.


def _container(stack: ExitStack) -> tuple[str, str]:
    import docker
    from docker.errors import DockerException
    from testcontainers.community.postgres import PostgresContainer

    words = " ".join(f"-c {name}={value}" for name, value in SETTINGS.items())
    try:
        docker.from_env(timeout=5).ping()
        container = PostgresContainer("postgres:15", driver=None).with_command(f"postgres {words}")
        return stack.enter_context(container).get_connection_url(), "docker, postgres:15"
    except DockerException as error:
        raise NotToBeHad(f"no container with PostgreSQL: {error}") from error


def _machine(stack: ExitStack) -> tuple[str, str]:
    try:
        return _embedded(stack, "path")
    except NotToBeHad:
        return _embedded(stack, "folder")


def _wheel(stack: ExitStack) -> tuple[str, str]:
    return _embedded(stack, "wheel")


def _embedded(stack: ExitStack, only: str | None, settings: Mapping[str, str] = SETTINGS) -> tuple[str, str]:
    from pointsman.embedded import EmbeddedPostgres, find_programs
    from pointsman.errors import EmbeddedUnavailable

    try:
        programs = find_programs(only)
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-tests-")))
        folder.chmod(0o711)  # root may have to start the server as `nobody`
        server = stack.enter_context(EmbeddedPostgres(folder / "server", programs, settings))
    except EmbeddedUnavailable as error:
        raise NotToBeHad(str(error)) from error
    return server.dsn, f"{programs.source}, {programs.bin}"


RUNGS = {"docker": _container, "path": _machine, "wheel": _wheel}


def _climb(stack: ExitStack) -> tuple[str, str]:
    if forced := os.environ.get(FORCED):
        if forced not in RUNGS:
            raise NotToBeHad(f"{FORCED} is `{forced}`, which is none of {', '.join(RUNGS)}")
        return RUNGS[forced](stack)
    if dsn := os.environ.get(ADDRESS):
        return dsn, ADDRESS
    missing = []
    for rung in RUNGS.values():
        try:
            return rung(stack)
        except NotToBeHad as error:
            missing.append(str(error))
    raise NotToBeHad("; ".join(missing))


# Fixtures


if sys.platform == "win32":

    @pytest.fixture(scope="session", autouse=True)
    def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
        """The loop of the service: asyncpg has had trouble with the proactor, and the selector starts no processes."""
        import winloop

        return winloop.EventLoopPolicy()


@pytest.fixture(scope="session")
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Server]:
    """The PostgreSQL server of this run."""
    stash = request.config.stash
    with ExitStack() as stack:
        try:
            dsn, source = await asyncio.to_thread(_climb, stack)
        except NotToBeHad as error:
            stash[USED_POSTGRES] = f"not to be had: {error}"
            raise pytest.fail.Exception(str(error), pytrace=False) from None
        version = await _version(dsn)
        stash[USED_POSTGRES] = f"{version} ({source})"
        yield Server(dsn, version, source)


@pytest.fixture(scope="session")
async def replicating_server() -> AsyncIterator[Server]:
    """Another server, from programs: one whose log subscribers can read, and where transactions can be prepared."""
    only = "wheel" if os.environ.get(FORCED) == "wheel" else None
    settings = {**SETTINGS, "wal_level": "logical", "max_prepared_transactions": "2"}
    with ExitStack() as stack:
        dsn, source = await asyncio.to_thread(_embedded, stack, only, settings)
        yield Server(dsn, await _version(dsn), source)


async def _version(dsn: str) -> str:
    connection = await asyncpg.connect(dsn)
    try:
        return (await connection.fetchval("show server_version")).split()[0]
    finally:
        await connection.close(timeout=10)


@pytest.fixture(scope="session")
async def template(server: Server) -> AsyncIterator[str]:
    """The name of a migrated database, for copying; nobody may be connected to it."""
    from pointsman.migrate import migrate

    name = await server.create("template0")
    try:
        await migrate(server.dsn_for(name), with_host_tables=True)
        yield name
    finally:
        await server.drop(name)


@pytest.fixture
async def database(server: Server, template: str) -> AsyncIterator[str]:
    """The address of a migrated database of the test's own."""
    name = await server.create(template)
    yield server.dsn_for(name)
    await server.drop(name)


@pytest.fixture
async def empty_database(server: Server) -> AsyncIterator[str]:
    """The address of a database of the test's own without any table."""
    name = await server.create("template0")
    yield server.dsn_for(name)
    await server.drop(name)


@pytest.fixture
async def connection(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to `database`."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close(timeout=10)


# The run as a whole


def pytest_configure(config: pytest.Config) -> None:
    """Measure the engine's coverage, and fail below pyproject's `fail_under`, when nothing of the suite is left out."""
    from pytest_cov.plugin import CovPlugin

    if _is_whole(config) and not config.option.no_cov and not config.pluginmanager.hasplugin("_cov"):
        config.option.cov_source = [True]  # as `--cov` does: what to measure stands in pyproject.toml
        config.pluginmanager.register(CovPlugin(config.option, config.pluginmanager), "_cov")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Measure the coverage of unit tests alone: they have to reach all of the engine, and it slows others down."""
    for item in items:
        if item.path.parent.name != "unit":
            item.add_marker(pytest.mark.no_cover)


def _is_whole(config: pytest.Config) -> bool:
    narrowing = ("keyword", "markexpr", "lf", "stepwise", "collectonly", "deselect", "ignore", "ignore_glob")
    root = config.invocation_params.dir  # coverage looks for its settings here
    return (
        root == config.rootpath
        and [root / path for path in config.args] == [root / path for path in config.getini("testpaths")]
        and not any(config.getoption(name, None) for name in narrowing)
    )


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let the process that tells of the run know what this one, if it is one of several, has used."""
    config = session.config
    if hasattr(config, "workeroutput") and USED_POSTGRES in config.stash:
        config.workeroutput["used_postgres"] = config.stash[USED_POSTGRES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take over what a process of the run has used; they climb the same ladder."""
    if used := getattr(node, "workeroutput", {}).get("used_postgres"):
        node.config.stash[USED_POSTGRES] = used


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    used = config.stash.get(USED_POSTGRES, "not needed")
    terminalreporter.write_line(f"PostgreSQL of this run: {used}")

"""Behind PgBouncer in transaction mode, which has no LISTEN and, before 1.21, keeps no prepared statements."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import asyncpg
import pytest

from pointsman import Router
from pointsman.api import from_environment
from pointsman.errors import DatabaseUnfit
from tests.builders import make_candidate, make_lead, make_offer, make_policy
from tests.http_client import client_of
from tests.invariants import violations
from tests.stage import Wire, follows, kinds, until

PROGRAM = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
CONFIGURATION = """
[databases]
* = host={host} port={port} user={user} password={password}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen_port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 100
"""

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="PgBouncer is not installed (Debian: `apt install pgbouncer`)")


def _configured(place: Path, server: SplitResult, port: int) -> Path:
    place.chmod(0o755)
    configuration = place / "pgbouncer.ini"
    configuration.write_text(
        CONFIGURATION.format(
            host=server.hostname,
            port=server.port,
            user=server.username,
            password=unquote(server.password or ""),
            listen_port=port,
        )
    )
    return configuration


@pytest.fixture
async def pooled(database: str) -> AsyncIterator[str]:
    """The database's address by way of a PgBouncer of the test's own, with fewer servers than clients."""
    assert PROGRAM is not None
    parts = urlsplit(database)
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        configuration = _configured(Path(folder), parts, port)
        as_nobody = ["-u", "nobody"] if os.geteuid() == 0 else []
        process = await asyncio.create_subprocess_exec(
            *(PROGRAM, "-q", *as_nobody, str(configuration)), stderr=asyncio.subprocess.DEVNULL
        )
        try:
            await until(lambda: _answers(port), "PgBouncer's start")
            yield f"postgresql://{parts.username}@127.0.0.1:{port}{parts.path}"
        finally:
            process.terminate()
            await process.wait()


async def _answers(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


@pytest.mark.parametrize("listens_directly", [True, False])
async def test_routers_behind_a_pooler_decide_rightly_and_follow_by_listening_or_by_polling(
    database: str, pooled: str, connection: asyncpg.Connection, listens_directly: bool
) -> None:
    offer = await make_offer(connection)
    first = await make_candidate(connection, offer, hourly_cap=1000, enrollment={"priority_rank": 1})
    second = await make_candidate(connection, offer, enrollment={"priority_rank": 2})
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(120)]
    listen_dsn = database if listens_directly else None
    async with (
        Router.open(pooled, listen_dsn=listen_dsn, prepared_statements=False) as one,
        Router.open(pooled, listen_dsn=listen_dsn, prepared_statements=False) as other,
    ):
        answers = await asyncio.gather(*((one, other)[n % 2].route_many(leads[n : n + 10]) for n in range(0, 120, 5)))
        assert {"routed", "already_routed"} == {kind for batch in answers for kind in kinds(batch)}
        await connection.execute("update buyers set status = 'paused' where id = $1", first)
        assert second == (await one.route(await make_lead(connection, offer))).buyer_id
        await follows(other, connection)
        assert ["routed"] == kinds([await other.route(await make_lead(connection, offer))])
    assert [] == await violations(connection)


async def test_decision_behind_a_pooler_takes_eight_round_trips(
    database: str, pooled: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, hourly_cap=1000)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(3)]
    async with (
        Wire(pooled) as wire,
        Router.open(wire.dsn, listen_dsn=database, prepared_statements=False) as router,
    ):
        for lead in leads[:2]:
            await router.route(lead)
        before = wire.trips
        assert ["routed"] == kinds([await router.route(leads[2])])
        assert 8 == wire.trips - before


async def test_service_and_commands_of_the_settings_work_behind_a_pooler_that_keeps_no_prepared_statements(
    database: str, pooled: str, connection: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer, hourly_cap=1000)
    await make_policy(connection)
    leads = [await make_lead(connection, offer) for _ in range(4)]
    async with Wire(pooled) as wire:
        monkeypatch.setenv("POINTSMAN_DATABASE_URL", wire.dsn)
        monkeypatch.setenv("POINTSMAN_LISTEN_URL", database)
        monkeypatch.setenv("POINTSMAN_PREPARED_STATEMENTS", "false")
        async with client_of(from_environment()) as client:
            for lead in leads[:2]:
                await client.post(f"/v1/leads/{lead}/route")
            before = wire.trips
            assert "routed" == (await client.post(f"/v1/leads/{leads[2]}/route")).json()["outcome"]
            assert 8 == wire.trips - before
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pointsman", "route", "--json", str(leads[3])), stdout=asyncio.subprocess.PIPE
        )
        told, _ = await asyncio.wait_for(command.communicate(), 60)
        assert "routed" == json.loads(told)["outcome"]
    assert [] == await violations(connection)


async def test_pooler_without_prepared_statements_is_one_clear_error(
    pooled: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_candidate(connection, offer)
    await make_policy(connection)

    async def fails() -> bool:
        leads = [await make_lead(connection, offer) for _ in range(8)]
        async with Router.open(pooled) as one, Router.open(pooled) as other:
            answers = await asyncio.gather(*((one, other)[n % 2].route_many([lead]) for n, lead in enumerate(leads)))
            return "DatabaseUnfit" in {kind for batch in answers for kind in kinds(batch)}

    try:
        for _ in range(20):  # it depends on who gets which of the pooler's servers
            if await fails():
                break
        else:
            pytest.fail("it worked, twenty times over")
    except DatabaseUnfit as error:  # it may come to light at once
        told = str(error)
        assert "prepared_statements=False" in told
    assert [] == await violations(connection)

"""TLS to the database, as its address asks for it: a certificate that is not trusted is refused."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import asyncpg
import pytest

from pointsman import Router
from pointsman.embedded import EmbeddedPostgres, find_programs
from pointsman.errors import StoreUnavailable
from pointsman.migrate import migrate
from tests.builders import make_candidate, make_lead, make_offer, make_policy
from tests.conftest import FORCED, SETTINGS
from tests.stage import another, until

OPENSSL = shutil.which("openssl")

pytestmark = pytest.mark.skipif(OPENSSL is None, reason="openssl, which makes the certificates, is not installed")


class Encrypted(NamedTuple):
    """A migrated database on a server with TLS, its own certificate, and one that somebody else signed."""

    dsn: str
    certificate: Path
    stranger: Path

    def asking(self, sslmode: str, root: Path) -> str:
        """The address that asks for TLS and trusts `root`."""
        return f"{self.dsn}?sslmode={sslmode}&sslrootcert={root}"


def certified(folder: Path, name: str) -> tuple[Path, Path]:
    """A new certificate of 127.0.0.1 that signs itself, and its key, for the owner of `folder`."""
    assert OPENSSL is not None
    certificate, key = folder / f"{name}.crt", folder / f"{name}.key"
    subprocess.run(
        [
            *(OPENSSL, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-out", certificate, "-keyout", key),
        ],
        check=True,
        capture_output=True,
    )
    key.chmod(0o600)
    if sys.platform != "win32" and os.geteuid() == 0:
        owner = folder.stat()
        os.chown(key, owner.st_uid, owner.st_gid)
    return certificate, key


async def encrypt(dsn: str, certificate: Path, key: Path) -> None:
    """Turn TLS on; a server that was built without it skips the test."""
    async with another(dsn) as connection:
        await connection.execute(f"alter system set ssl_cert_file = '{certificate.as_posix()}'")
        await connection.execute(f"alter system set ssl_key_file = '{key.as_posix()}'")
        try:
            await connection.execute("alter system set ssl = on")
        except asyncpg.InvalidParameterValueError as error:
            pytest.skip(f"this server has no TLS: {error}")
        await connection.execute("select pg_reload_conf()")

    async def answers() -> bool:
        try:
            await (await asyncpg.connect(dsn, ssl="require")).close()
        except ConnectionError:
            return False
        return True

    await until(answers, "the server's TLS")


@pytest.fixture(scope="module")
async def encrypted() -> AsyncIterator[Encrypted]:
    """A server of the tests' own: TLS is for a whole server, and wants a key that it can read."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-tests-"))
        os.chmod(folder, 0o711)  # noqa: PTH101 - root may have to start the server as `nobody`
        programs = find_programs("wheel" if os.environ.get(FORCED) == "wheel" else None)
        server = EmbeddedPostgres(Path(folder, "server"), programs, SETTINGS)
        await asyncio.to_thread(stack.enter_context, server)
        async with another(server.dsn) as connection:
            data = Path(await connection.fetchval("show data_directory"))
        certificate, key = certified(data, "server")
        stranger, _ = certified(data, "stranger")
        await encrypt(server.dsn, certificate, key)
        await migrate(server.dsn, with_host_tables=True)
        yield Encrypted(server.dsn, certificate, stranger)


async def test_all_of_a_routers_connections_are_encrypted_when_the_address_asks_for_it(encrypted: Encrypted) -> None:
    async with (
        another(encrypted.dsn) as connection,
        Router.open(encrypted.asking("verify-full", encrypted.certificate)) as router,
    ):
        offer = await make_offer(connection)
        buyer = await make_candidate(connection, offer)
        await make_policy(connection)
        assert buyer == (await router.route(await make_lead(connection, offer))).buyer_id
        assert {True} == await encryption_of_routers(connection)


async def encryption_of_routers(connection: asyncpg.Connection) -> set[bool]:
    """Whether the routers' connections are encrypted."""
    rows = await connection.fetch(
        "select ssl from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'pointsman'"
    )
    return {row["ssl"] for row in rows}


async def test_certificate_of_somebody_else_is_refused_in_one_line(encrypted: Encrypted) -> None:
    with pytest.raises(StoreUnavailable, match=r"self-signed certificate.*`sslrootcert`") as refused:
        await Router.open(encrypted.asking("verify-full", encrypted.stranger)).__aenter__()
    assert "\n" not in str(refused.value)


async def test_name_that_the_certificate_does_not_have_is_refused_where_the_name_is_checked(
    encrypted: Encrypted,
) -> None:
    by_name = encrypted._replace(dsn=encrypted.dsn.replace("127.0.0.1", "localhost"))
    async with Router.open(by_name.asking("verify-ca", encrypted.certificate)):
        pass
    with pytest.raises(StoreUnavailable, match="localhost"):
        await Router.open(by_name.asking("verify-full", encrypted.certificate)).__aenter__()


async def test_server_without_tls_is_refused_where_the_address_asks_for_it(database: str) -> None:
    with pytest.raises(StoreUnavailable, match="SSL"):
        await Router.open(f"{database}?sslmode=require").__aenter__()

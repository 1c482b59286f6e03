"""`docs/quickstart.md` from top to bottom: what it says to run is run, and prints what it says that it prints."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import httpx

from pointsman.embedded import EmbeddedPostgres
from tests.acceptance.test_docs import QUICK_START, Block, blocks_of
from tests.stage import set_clock

CLOCK = datetime(2026, 6, 10, 17, 0, tzinfo=UTC)
"""The database's clock stands still, so that answers are the same on every day."""
PROGRAMS = {"pointsman": [sys.executable, "-m", "pointsman"], "python": [sys.executable]}
SETTING_UP = ("python3 -m venv ", "source ")
"""What the suite's own environment stands in for."""


async def test_the_quick_start_works_and_prints_what_it_shows(tmp_path: Path) -> None:
    printed = ""
    for block in blocks_of(QUICK_START):
        match block.language:
            case "python":
                (tmp_path / "world.py").write_text(block.text, "utf-8")
            case "bash":
                printed = await follow(block, tmp_path)
            case "text":
                assert printed.endswith(block.text), printed
            case "json":
                assert json.loads(block.text) == json.loads(printed)


async def follow(block: Block, folder: Path) -> str:
    """Run each line of a block; what the last ones print."""
    printed = ""
    for line in block.text.splitlines():
        program, *arguments = line.split()
        if program == "curl":
            _, method, url = arguments
            printed = await ask(method, url, folder)
        elif not line.startswith(SETTING_UP) and line != "pointsman serve":  # which is started where it is asked
            printed += await run([*PROGRAMS[program], *arguments], folder)
        if "migrate" in line:
            await stop_the_clock(folder)
    return printed


async def run(command: list[str], folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**settings(), "COLUMNS": "120"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, err.decode()
    return "\n".join(line.rstrip() for line in out.decode().splitlines() if line.strip())


async def ask(method: str, url: str, folder: Path) -> str:
    """The answer of `pointsman serve`, which is started for it and told to end."""
    process = await asyncio.create_subprocess_exec(
        *PROGRAMS["pointsman"], "serve", "--port", "0", cwd=folder, env=settings(), stderr=asyncio.subprocess.PIPE
    )
    assert process.stderr is not None
    try:
        told = ""
        while not (address := re.search(r"http://\S+:\d+", told)):
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, told
            told += line.decode()
        async with httpx.AsyncClient() as client:
            answer = await client.request(method, url.replace("http://127.0.0.1:8080", address[0]), timeout=30)
    finally:
        process.terminate()
        await asyncio.wait_for(process.wait(), 30)
    return answer.text


async def stop_the_clock(folder: Path) -> None:
    server = EmbeddedPostgres(folder / ".pointsman")
    await asyncio.to_thread(server.start)
    try:
        connection = await asyncpg.connect(server.dsn)
        await set_clock(connection, CLOCK)
        await connection.close()
    finally:
        await asyncio.to_thread(server.stop)


def settings() -> dict[str, str]:
    """This process's environment without settings of ours."""
    return {name: value for name, value in os.environ.items() if not name.startswith("POINTSMAN_")}

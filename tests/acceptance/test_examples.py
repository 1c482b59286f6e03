"""Each file under `examples/` is run as its own first lines say."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import httpx
import pytest

from tests.builders import make_candidate, make_lead, make_offer, make_policy

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


async def run(example: str, database: str, *arguments: object) -> str:
    """What an example prints."""
    code, out, err = await try_to_run(example, database, *arguments)
    assert (code, err) == (0, "")
    return out


async def try_to_run(example: str, database: str, *arguments: object) -> tuple[int | None, str, str]:
    """An example's exit code and what it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(EXAMPLES / example), *map(str, arguments)),
        env={**os.environ, "DATABASE_URL": database},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    return process.returncode, out.decode(), err.decode()


async def buyer_of(connection: asyncpg.Connection, lead_id: UUID) -> UUID | None:
    return await connection.fetchval("select buyer_id from leads where id = $1", lead_id)


@pytest.fixture
async def offer(connection: asyncpg.Connection) -> UUID:
    offer = await make_offer(connection)
    await make_policy(connection)
    return offer


async def test_plain(database: str, connection: asyncpg.Connection, offer: UUID) -> None:
    buyer = await make_candidate(connection, offer)
    paused = await make_candidate(connection, offer, status="paused")
    lead, unknown = await make_lead(connection, offer), uuid4()
    elsewhere = await make_lead(connection, offer, market_id=uuid4())
    printed = await run("plain.py", database, lead, elsewhere, unknown)
    assert f"{lead} belongs to {buyer}\n" in printed
    assert f"{elsewhere} stays: no_route no_eligible_buyers\n" in printed
    assert f"  {paused}: " in printed
    assert f"{unknown} was not decided: no such lead" in printed


async def test_asyncpg_transaction(database: str, connection: asyncpg.Connection, offer: UUID) -> None:
    buyer = await make_candidate(connection, offer, daily_cap=2)
    one, two, late = [await make_lead(connection, offer) for _ in range(3)]
    assert await run("asyncpg_transaction.py", database, one) == f"{one} handed over\n"
    await connection.execute("insert into outbox values ($1, $2)", two, buyer)  # so that its own row cannot be written
    code, _, why = await try_to_run("asyncpg_transaction.py", database, two)
    assert code == 1
    assert "UniqueViolationError" in why
    assert (buyer, None) == (await buyer_of(connection, one), await buyer_of(connection, two))
    assert await run("asyncpg_transaction.py", database, late) == f"{late} handed over\n"  # the cap was given back


async def test_sqlalchemy_session(database: str, connection: asyncpg.Connection, offer: UUID) -> None:
    lead = await make_lead(connection, offer, status="new")
    assert await run("sqlalchemy_session.py", database, lead) == f"{lead} goes to nobody, it stays validated\n"
    buyer = await make_candidate(connection, offer, name="Cedar Roofing")
    lead = await make_lead(connection, offer, status="new")
    assert await run("sqlalchemy_session.py", database, lead) == f"{lead} goes to Cedar Roofing\n"
    assert await buyer_of(connection, lead) == buyer


async def test_host(database: str, connection: asyncpg.Connection, offer: UUID) -> None:
    buyer = await make_candidate(connection, offer)
    lead = await make_lead(connection, offer)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "--app-dir", str(EXAMPLES / "host"), "app:app", "--port", "0"),
        env={**os.environ, "DATABASE_URL": database},
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    try:
        told = ""
        while not (address := re.search(r"http://[\d.]+:\d+", told)):
            line = await asyncio.wait_for(process.stderr.readline(), 30)
            assert line, told
            told += line.decode()
        async with httpx.AsyncClient(base_url=address[0], timeout=30) as client:
            accepted = (await client.post(f"/leads/{lead}/accept")).json()
            all_accepted = (await client.get("/accepted")).json()
    finally:
        process.kill()
        await process.wait()
    assert ("routed", str(buyer), 4200) == (accepted["outcome"], accepted["buyer_id"], accepted["price"])
    assert {str(lead): 4200} == all_accepted


def test_every_example_is_run_here() -> None:
    found = {path.stem for path in EXAMPLES.glob("*.py")} | {path.name for path in EXAMPLES.iterdir() if path.is_dir()}
    tested = {name.removeprefix("test_") for name in globals() if name.startswith("test_")}
    assert found - {"__pycache__"} <= tested

"""Router processes, from here, and what they are given to do."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import asyncpg

import pointsman
from tests.builders import (
    MARKET,
    VERTICAL,
    enroll,
    make_area,
    make_buyer,
    make_exclusivity,
    make_offer,
    make_policy,
    rules,
)


class Process:
    """A `router_process`, from here."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, program: str = "router_process.py", *arguments: str) -> Process:
        root = str(Path(pointsman.__file__).parent.parent)
        return cls(
            await asyncio.create_subprocess_exec(
                *(sys.executable, str(Path(__file__).with_name(program)), *arguments),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": root},
                limit=2**24,
            )
        )

    async def ask(self, what: str, *arguments: Any) -> Any:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([what, *arguments]).encode() + b"\n")
        await self.process.stdin.drain()
        line = await self.process.stdout.readline()
        assert line, "the process has ended"
        return json.loads(line)

    async def route(self, leads: Sequence[UUID], what: str = "route", *more: Any) -> list[list[Any]]:
        found: list[list[Any]] = await self.ask(what, [str(lead) for lead in leads], *more)
        return found

    async def end(self) -> None:
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


async def add_leads(connection: asyncpg.Connection, offers: Sequence[UUID], count: int, **over: Any) -> list[UUID]:
    """So many validated leads, dealt out to the offers in turn."""
    lead = {"vertical_id": VERTICAL, "market_id": MARKET, "postal_code": "60614", "city": "Chicago", **over}
    ids = [uuid4() for _ in range(count)]
    await connection.copy_records_to_table(
        "leads",
        columns=("id", "offer_id", "status", *lead),
        records=[(new, offers[i % len(offers)], "validated", *lead.values()) for i, new in enumerate(ids)],
    )
    return ids


def dealt(leads: Sequence[UUID], hands: int) -> list[Sequence[UUID]]:
    return [leads[hand::hands] for hand in range(hands)]


def outcomes(answers: Sequence[Sequence[Sequence[Any]]]) -> Counter[str]:
    return Counter(answer[0] for batch in answers for answer in batch)


async def build_market(connection: asyncpg.Connection) -> tuple[list[UUID], list[UUID]]:
    """Offers under every strategy, with caps, exclusivities and buyers that take part in several."""
    strategies = ("priority", "rotation", "weighted")
    offers = [await make_offer(connection) for _ in strategies]
    buyers = []
    for number in range(8):
        buyer = await make_buyer(connection, daily_cap=60 if number % 2 else None)
        await make_area(connection, buyer)
        for offer in offers[: 1 + number % 3]:
            await enroll(
                connection,
                buyer,
                offer,
                priority_rank=number % 3,
                weight=1 + number,
                hourly_cap=25 if number % 3 else None,
            )
        buyers.append(buyer)
    for offer, strategy in zip(offers, strategies, strict=True):
        document = rules(
            strategy={"kind": strategy},
            tie_breakers=["least_recently_routed", "buyer_id"],
            exclusivity={"when_ineligible": "fallback_allowed"},
        )
        await make_policy(connection, offer_id=offer, rules=document)
    await make_exclusivity(connection, offers[0], buyers[0], scope="city", value="Evanston", market_id=MARKET)
    return offers, buyers

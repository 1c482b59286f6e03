"""What the record of a decision costs: bytes on disk, its share of the claim, and the rate of its replay.

    python -m bench.records [--dsn DSN] [--leads N] [--jobs N] [--json]

Twenty offers with the same twenty buyers, all of whom cover every lead and are equal up to their turn; the leads come
to the offers in turn. Each strategy is measured without caps and with all four caps of every buyer set. What the record
adds to a claim is the difference that it makes to the processor time of the router's backends, in batches of 50 and of
lone leads, when claims that write records and claims that do not take turns; so the server must be on this machine.
Replay is told by the clock and by the processor time of its processes, which other work on the machine changes less.
Without `--dsn` the server is the embedded PostgreSQL.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import tempfile
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any
from uuid import UUID, uuid4

import asyncpg

from pointsman import Outcome, Router
from pointsman.embedded import EmbeddedPostgres
from pointsman.migrate import migrate
from pointsman.replay import replay

DATABASE = "pointsman_bench_records"
OFFERS = BUYERS = 20
BATCH = 50
MARKET, VERTICAL = uuid4(), uuid4()
STRATEGIES = ("priority", "rotation", "weighted")
CAP = 1_000_000

TURNS, TURN = 8, 500
"""Rounds, and leads of a round, in which claims with and without their records take turns."""
RECORDS = (
    (
        "pointsman.claim_1",
        re.compile(r"insert into pointsman\.decisions \(.*order by y\.d;", re.DOTALL),
        "null;",
    ),
    (
        "pointsman.claim_one_1",
        re.compile(r"insert into pointsman\.decisions \(.*p_state, p_digest\n(.*?)returning id into done;", re.DOTALL),
        r"select nextval('pointsman.decisions_id_seq') into done \1;",
    ),
)
"""The claim's functions, where in them the record is written, and what stands there if it is not."""


async def fresh_database(server: str) -> str:
    """A migrated database without rows; its address."""
    admin = await asyncpg.connect(server)
    await admin.execute(f"drop database if exists {DATABASE} with (force)")
    await admin.execute(f"create database {DATABASE}")
    await admin.close()
    dsn = f"{server.rpartition('/')[0]}/{DATABASE}"
    await migrate(dsn, with_host_tables=True, report=lambda line: None)
    return dsn


async def fill(connection: asyncpg.Connection, strategy: str, caps: bool, count: int) -> list[UUID]:
    """Offers, buyers, a policy and leads; the leads' ids, each offer in turn."""
    rules = {
        "strategy": {"kind": strategy},
        "tie_breakers": ["lead_hash", "buyer_id"],
        "constraints": ["buyer_active", "acceptance_hours"],
        "exclusivity": {"when_ineligible": "fail_closed"},
    }
    offers, buyers, leads = ([uuid4() for _ in range(number)] for number in (OFFERS, BUYERS, count))
    cap = CAP if caps else None
    async with connection.transaction():
        await connection.execute(
            "insert into routing_policies (id, name, version, is_active, rules) values ($1, 'bench', 1, true, $2)",
            uuid4(),
            json.dumps(rules),
        )
        await connection.executemany(
            "insert into offers (id, name, vertical_id, is_active) values ($1, 'bench', $2, true)",
            [(offer, VERTICAL) for offer in offers],
        )
        await connection.executemany(
            "insert into buyers (id, name, status, hourly_cap, daily_cap) values ($1, 'bench', 'active', $2, $2)",
            [(buyer, cap) for buyer in buyers],
        )
        await connection.executemany(
            "insert into buyer_offers (buyer_id, offer_id, is_active, hourly_cap, daily_cap)"
            " values ($1, $2, true, $3, $3)",
            [(buyer, offer, cap) for buyer in buyers for offer in offers],
        )
        await connection.executemany(
            "insert into buyer_service_areas (id, buyer_id, market_id, scope, is_active)"
            " values ($1, $2, $3, 'market', true)",
            [(uuid4(), buyer, MARKET) for buyer in buyers],
        )
        await connection.executemany(
            "insert into leads (id, offer_id, vertical_id, market_id, postal_code, city, status)"
            " values ($1, $2, $3, $4, '60614', 'Chicago', 'validated')",
            [(lead, offers[number % OFFERS], VERTICAL, MARKET) for number, lead in enumerate(leads)],
        )
    return leads


async def claims(connection: asyncpg.Connection, with_records: bool, sources: dict[str, str]) -> None:
    """Put the claim's functions in place, as they are or writing no records."""
    for name, record, instead in RECORDS:
        source = sources[name]
        if not with_records:
            source, found = record.subn(instead, source)
            assert found == 1, f"{name} writes its record in another form"
        await connection.execute(source)


def ran_for(pid: int) -> int:
    """Nanoseconds for which a process of this machine has run."""
    return int(Path(f"/proc/{pid}/schedstat").read_text("ascii").split()[0])


async def processor_time(connection: asyncpg.Connection) -> int:
    """Nanoseconds for which the router's backends have run, on this machine."""
    pids = await connection.fetch(
        "select pid from pg_stat_activity where datname = current_database() and application_name = 'pointsman'"
    )
    return sum(ran_for(row["pid"]) for row in pids)


async def cost_of_claims(
    dsn: str, connection: asyncpg.Connection, leads: list[UUID], at_once: int
) -> dict[bool, float]:
    """Microseconds of the server's processor a lead, with its record and without, medians of rounds in turn."""
    sources = {
        name: await connection.fetchval("select pg_get_functiondef(to_regproc($1))", name) for name, _, _ in RECORDS
    }
    spent: dict[bool, list[float]] = {True: [], False: []}
    ahead = iter(leads)
    async with Router.open(dsn) as router:
        for number in range(-2, 2 * TURNS):
            with_records = number % 2 == 0
            await claims(connection, with_records, sources)
            before = await processor_time(connection)
            for _ in range(TURN // at_once):
                answers = await router.route_many(list(islice(ahead, at_once)))
                assert all(isinstance(answer, Outcome) and answer.buyer_id for answer in answers)
            if number >= 0:  # plans are made in the first two
                spent[with_records].append((await processor_time(connection) - before) / TURN / 1_000)
    await claims(connection, True, sources)
    return {with_records: median(rounds) for with_records, rounds in spent.items()}


async def measure(server: str, strategy: str, caps: bool, count: int, jobs: int) -> dict[str, Any]:
    """The figures of one strategy."""
    dsn = await fresh_database(server)
    connection = await asyncpg.connect(dsn)
    in_turn = TURN * 2 * (TURNS + 1)
    leads = await fill(connection, strategy, caps, count + 2 * in_turn)
    async with Router.open(dsn) as router:
        for place in range(0, count, BATCH):
            answers = await router.route_many(leads[place : place + BATCH])
            assert all(isinstance(answer, Outcome) and answer.buyer_id for answer in answers)
    await connection.execute("vacuum analyze pointsman.decisions")
    heap, indexes, state = await connection.fetchrow(
        "select pg_table_size('pointsman.decisions'), pg_indexes_size('pointsman.decisions'),"
        " (select avg(length(state)) from pointsman.decisions)"
    )
    spent = -sum(os.times()[:4])
    report = await replay(dsn, jobs=jobs)
    spent += sum(os.times()[:4])
    assert report.same_version.equal == count
    batched = await cost_of_claims(dsn, connection, leads[count : count + in_turn], BATCH)
    alone = await cost_of_claims(dsn, connection, leads[count + in_turn :], 1)
    await connection.close()
    return {
        "strategy": strategy,
        "caps": caps,
        "heap bytes": round(heap / count),
        "index bytes": round(indexes / count),
        "bytes": round((heap + indexes) / count),
        "state bytes": round(float(state)),
        "batched µs": round(batched[True]),
        "its record": round(batched[True] - batched[False]),
        "alone µs": round(alone[True]),
        "the record": round(alone[True] - alone[False]),
        "replay /s": round(report.rate),
        "of processor": round(count / spent),
    }


async def main(arguments: argparse.Namespace, server: str) -> None:
    rows = [
        await measure(server, strategy, caps, arguments.leads, arguments.jobs)
        for strategy in STRATEGIES
        for caps in (False, True)
    ]
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return
    print("".join(f"{title:>13}" for title in rows[0]))
    for row in rows:
        print("".join(f"{value!s:>13}" for value in row.values()))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        prog="python -m bench.records", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--dsn", help="a server to make the database on; default: the embedded PostgreSQL")
    parser.add_argument("--leads", type=int, default=50_000, help="decisions of each strategy")
    parser.add_argument("--jobs", type=int, default=1, help="processes of the replay")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with ExitStack() as stack:
        if options.dsn is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pointsman-bench-")))
            folder.chmod(0o711)
            options.dsn = stack.enter_context(EmbeddedPostgres(folder / "server")).dsn
        asyncio.run(main(options, options.dsn))

"""What must be true of a database whatever happened to it, checked from its tables alone.

`violations(connection)` rebuilds the configuration at every version from the log, decides every recorded decision again,
on its recorded state and on what the decisions with smaller ids left, and compares rows that must agree.
"""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from uuid import UUID

import asyncpg

from pointsman.cache.indexes import Change, Indexes
from pointsman.engine.capacity import NOBODY, Cap, State, caps
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision, decide
from pointsman.engine.record import digest, head, read_state, redecide
from pointsman.model import Lead, micros

IDS = {"id", "offer_id", "vertical_id", "market_id", "buyer_id"}


class Past:
    """Who was served when, to be asked for the state before any decision."""

    def __init__(self, decisions: list[asyncpg.Record]) -> None:
        self._served: dict[tuple[UUID, UUID], list[tuple[int, int]]] = defaultdict(list)
        for row in decisions:
            if row["buyer_id"] is not None:
                served = (row["id"], micros(row["decided_at"]))
                self._served[row["buyer_id"], row["offer_id"]].append(served)
                self._served[row["buyer_id"], NOBODY].append(served)

    def used(self, cap: Cap, before: int) -> int:
        served = self._served.get((cap.buyer_id, cap.offer_id), [])
        return sum(cap.window.start <= at < cap.window.end for _, at in served[: bisect_left(served, (before, 0))])

    def position(self, enrollment: Enrollment, before: int) -> int:
        served = self._served.get((enrollment.buyer_id, enrollment.offer_id), [])
        index = bisect_left(served, (before, 0))
        return served[index - 1][0] if index else 0

    def state(self, candidates: list[Enrollment], at: int, before: int) -> State:
        state = State()
        for enrollment in candidates:
            state.positions[enrollment.buyer_id, enrollment.offer_id] = self.position(enrollment, before)
            for cap in caps(enrollment, at):
                state.used[cap.counter] = self.used(cap, before)
        return state


async def violations(connection: asyncpg.Connection) -> list[str]:
    """One line for each thing that is not as it must be."""
    decisions = await connection.fetch("select * from pointsman.decisions order by id")
    past = Past(decisions)
    found = [line async for line in _wrong_decisions(connection, decisions, past)]
    found += [line async for line in _wrong_rows(connection)]
    return found


async def _wrong_decisions(
    connection: asyncpg.Connection, decisions: list[asyncpg.Record], past: Past
) -> AsyncIterator[str]:
    log = await connection.fetch(
        "select c.version, c.token, l.rel, l.op::text, l.key, l.row::text as image from pointsman.config_commit c"
        " left join pointsman.config_log l using (change_set) where c.version is not null order by c.version, l.seq"
    )
    indexes = Indexes(0, UUID(int=0))
    place = 0
    for row in sorted(decisions, key=lambda row: (row["config_version"], row["id"])):
        while place < len(log) and log[place]["version"] <= row["config_version"]:
            entry = log[place]
            assert entry["op"] != "t", "emptied tables are not followed here"
            if entry["rel"] is not None:
                indexes.apply(Change(entry["rel"], entry["key"], _image(entry["image"])), entry["version"])
            indexes.version, indexes.token = entry["version"], entry["token"]
            place += 1
        for line in _wrong(row, indexes, past):
            yield f"decision {row['id']}: {line}"


def _wrong(row: asyncpg.Record, indexes: Indexes, past: Past) -> Iterator[str]:
    if indexes.version != row["config_version"]:
        yield f"its config version {row['config_version']} is not in the history"
        return
    lead = Lead(
        row["lead_id"], row["offer_id"], row["vertical_id"], row["market_id"], row["postal_code"], row["city"]
    )
    at = micros(row["decided_at"])
    again = redecide(lead, indexes, read_state(row["state"]), at, State())
    if _result(again) != _recorded(row):
        yield f"on its recorded state {_result(again)} instead of {_recorded(row)}"
    if digest(head(again, indexes.version, indexes.token), row["state"]) != row["digest"]:
        yield "its digest is another one"
    state = past.state(list(indexes.covering(lead)), at, row["id"])
    true = decide(lead, indexes, state, at)
    if _result(true) != _recorded(row):
        yield f"on what came before it {_result(true)} instead of {_recorded(row)}"
    if row["buyer_id"] is not None:
        winner = indexes.enrolled(lead.offer_id)[row["buyer_id"]]
        for cap in caps(winner, at):
            if past.used(cap, row["id"]) >= cap.limit:
                yield f"passes a cap: {cap}"


def _result(decision: Decision) -> tuple[object, ...]:
    return (
        decision.outcome,
        decision.cause,
        decision.winner and decision.winner.buyer_id,
        decision.policy and decision.policy.id,
        decision.flags,
    )


def _recorded(row: asyncpg.Record) -> tuple[object, ...]:
    return row["outcome"], row["cause"], row["buyer_id"], row["policy_id"], tuple(row["flags"] or ())


async def _wrong_rows(connection: asyncpg.Connection) -> AsyncIterator[str]:
    checks = {
        "lead %s has a buyer that its last decision did not give it": """
            select l.id from leads l where l.status = 'routed' and l.buyer_id is distinct from (
              select d.buyer_id from pointsman.decisions d
              where d.lead_id = l.id and d.outcome = 'routed' order by d.id desc limit 1)""",
        "lead %s was assigned twice in one attempt": """
            select d.lead_id from pointsman.decisions d where d.outcome = 'routed'
            group by d.lead_id, d.attempt having count(*) > 1""",
        "counter %s of leads that nobody got": """
            select c from pointsman.cap_usage c where c.used < 0""",
        "enrollment %s does not stand where it was served last": """
            select r from pointsman.rotation r
            where r.offer_id <> '00000000-0000-0000-0000-000000000000' and r.position is distinct from coalesce((
              select max(d.id) from pointsman.decisions d where d.buyer_id = r.buyer_id and d.offer_id = r.offer_id), 0)""",
        "decision %s gave a turn that was not written down": """
            select d.id from pointsman.decisions d where d.outcome = 'routed' and not exists (
              select from pointsman.rotation r where r.buyer_id = d.buyer_id and r.offer_id = d.offer_id)""",
    }
    for line, query in checks.items():
        for row in await connection.fetch(query):
            yield line % row[0]


def _image(text: str | None) -> dict[str, object] | None:
    if text is None:
        return None
    return {
        column: UUID(value) if column in IDS and value is not None else value
        for column, value in json.loads(text).items()
    }

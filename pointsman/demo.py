"""`pointsman demo`: a realistic world on a real database, the load it is meant for, and proof of what came of it.

It works in a database of its own and touches no other. What it claims about leads and caps it reads from the host's
tables, not from the router's own counters.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from math import ceil
from pathlib import Path
from time import perf_counter
from typing import Any, Final
from urllib.parse import quote, urlsplit
from uuid import UUID

import asyncpg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from pointsman import world as seeded
from pointsman.embedded import EmbeddedPostgres
from pointsman.engine.zones import Zone, zone
from pointsman.errors import Busy, DatabaseUnfit
from pointsman.migrate import migrate
from pointsman.model import Exclusion, Explanation, Outcome, OutcomeKind, micros
from pointsman.router import Router
from pointsman.sentences import headline, sentence
from pointsman.store import connect, quote_identifier, translated
from pointsman.wire import explanation_json, outcome_json
from pointsman.world import NewLead, Policy, World

Json = dict[str, Any]

DATABASE: Final = "pointsman_demo"
MARK: Final = "Made by `pointsman demo`, which drops it and makes it anew at each run."
"""The comment on the demo's database: one without it belongs to somebody else."""

TARGETS: Final = {"p50_ms": 60.0, "p95_ms": 120.0, "p99_ms": 250.0}
AT_ONCE, SAME_LEAD = 50, 10
SPARE: Final = 30
"""Leads that are looked at to find one that somebody takes."""
CANDIDATES: Final = 60
"""Leads that are looked at to find one that is worth explaining."""
TOP, NAMED = 15, 6


DEMO_LOCK: Final = 7203378
"""The advisory lock of a running demo; one above the seal's."""


class NotTheDemos(DatabaseUnfit):
    """The server has a database of the demo's name that the demo did not make."""


class MayNotCreate(DatabaseUnfit):
    """The role may not make the demo a database of its own."""


async def run(dsn: str | None, leads: int, seed: int, console: Console) -> Json:
    """Do all of it, with progress on `console`; returns what `show` prints and `--json` gives.

    `dsn` is any database of a server; None is the embedded one. Raises `NotTheDemos` and `MayNotCreate` before
    anything is touched.
    """
    started = perf_counter()
    async with AsyncExitStack() as stack:
        server = dsn if dsn is not None else await stack.enter_async_context(_embedded())
        progress = stack.enter_context(_progress(console))
        stage = await _prepare(stack, server, leads, seed, progress)
        result = await _perform(stage)
    return {"database": DATABASE, "seed": seed, **result, "seconds": round(perf_counter() - started, 1)}


@asynccontextmanager
async def _embedded() -> AsyncIterator[str]:
    server = EmbeddedPostgres(Path(".pointsman"))
    await asyncio.to_thread(server.start)
    try:
        yield server.dsn
    finally:
        await asyncio.to_thread(server.stop)


@contextmanager
def _progress(console: Console) -> Iterator[Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        yield progress


# A database of its own


@asynccontextmanager
async def _database_of_its_own(server: str) -> AsyncIterator[str]:
    """Make the demo's database on the server, in the place of the last run's; yields its address."""
    # A database cannot be dropped from within.
    outside = address(server, "postgres") if urlsplit(server).path == f"/{DATABASE}" else server
    async with _connection(outside) as connection:
        with translated():
            if not await connection.fetchval("select pg_try_advisory_lock($1)", DEMO_LOCK):
                raise Busy("another demo is running on this server; wait for its end")
            await _refuse_a_stranger(connection)
        await _replace_database(connection)
        yield address(server, DATABASE)


@asynccontextmanager
async def _connection(dsn: str) -> AsyncIterator[asyncpg.Connection]:
    with translated():
        connection = await connect(dsn, 10, "pointsman demo")
    try:
        yield connection
    finally:
        await connection.close(timeout=10)


async def _refuse_a_stranger(connection: asyncpg.Connection) -> None:
    mark = await connection.fetchrow(
        "select shobj_description(oid, 'pg_database') from pg_database where datname = $1", DATABASE
    )
    if mark is not None and mark[0] != MARK:
        raise NotTheDemos(
            f"the server has a database `{DATABASE}` that the demo did not make; it was not touched: "
            "rename it, or give the demo another server"
        )


async def _replace_database(connection: asyncpg.Connection) -> None:
    try:
        await connection.execute(f"drop database if exists {DATABASE} with (force)")
        await connection.execute(f"create database {DATABASE} template template0")
        await connection.execute(f"comment on database {DATABASE} is '{MARK}'")
    except asyncpg.InsufficientPrivilegeError as error:
        raise MayNotCreate(
            f"the demo needs a database of its own, and the server says: {error}; nothing was touched: "
            "use a role with CREATEDB, or unset POINTSMAN_DATABASE_URL for an embedded server"
        ) from error
    except asyncpg.PostgresError as error:
        raise DatabaseUnfit(f"the demo cannot make its database `{DATABASE}`: {error}") from error


def address(dsn: str, database: str) -> str:
    """The address of another database on the server of `dsn`."""
    parts = urlsplit(dsn)
    query = f"?{parts.query}" if parts.query else ""
    return f"{parts.scheme}://{parts.netloc}/{quote(database)}{query}"


# The stage


@dataclass
class _Stage:
    """A world on a database, leads that wait in it, and a router."""

    dsn: str
    schema: str
    world: World
    connection: asyncpg.Connection
    router: Router
    progress: Progress
    statements: _Statements
    one_by_one: Sequence[NewLead]
    at_once: Sequence[NewLead]
    spare: Sequence[NewLead]
    candidates: Sequence[NewLead]
    names: Mapping[UUID, str] = field(init=False)
    zones: Mapping[UUID, str] = field(init=False)
    policies: Mapping[UUID | None, Policy] = field(init=False)
    offers: Mapping[UUID, str] = field(init=False)

    def __post_init__(self) -> None:
        self.names = {buyer.id: buyer.name for buyer in self.world.buyers}
        self.zones = {buyer.id: buyer.timezone for buyer in self.world.buyers}
        self.policies = {policy.id: policy for policy in self.world.routing_policies}
        self.offers = {offer.id: offer.name for offer in self.world.offers}

    def name(self, buyer_id: object) -> str:
        """What people call the buyer."""
        return self.names[buyer_id] if isinstance(buyer_id, UUID) else "nobody"

    def track(self, what: str, total: int) -> Callable[[], None]:
        """A new line of progress; call what it returns at each step."""
        task = self.progress.add_task(what, total=total)
        return lambda: self.progress.advance(task)


class _Statements:
    """Counts what the first router sends to the database for leads."""

    def __init__(self) -> None:
        self.count = 0

    def watch(self, connection: asyncpg.Connection) -> None:
        """Count the statements of this connection from now on."""
        connection.add_query_logger(self._sent)

    async def taken(self) -> int:
        """How many since the last call."""
        await asyncio.sleep(0)  # query loggers are called on the loop's next turn
        count, self.count = self.count, 0
        return count

    def _sent(self, _: object) -> None:
        self.count += 1


async def _prepare(stack: AsyncExitStack, server: str, leads: int, seed: int, progress: Progress) -> _Stage:
    steps = _Steps(progress, progress.add_task("Building a world", total=5))
    dsn = await steps.take("Making a database", stack.enter_async_context(_database_of_its_own(server)))
    world = await steps.take("Building a world", asyncio.to_thread(seeded.build, seed))
    migrated = await steps.take("Migrating", migrate(dsn, with_host_tables=True))
    connection = await stack.enter_async_context(_connection(dsn))
    waiting = seeded.leads(world, leads + AT_ONCE + SPARE + CANDIDATES, seed)
    await steps.take("Inserting world and leads", _insert(connection, world, waiting, migrated.host_schema))
    statements = _Statements()
    router = await steps.take("Opening a router", Router.open(dsn, on_connect=statements.watch))
    stack.push_async_callback(router.close)
    steps.done(f"A world of {len(world.buyers):,} buyers in {len(world.buyer_service_areas):,} service areas")
    queue = iter(waiting)
    return _Stage(
        dsn,
        migrated.host_schema,
        world,
        connection,
        router,
        progress,
        statements,
        one_by_one=tuple(islice(queue, leads)),
        at_once=tuple(islice(queue, AT_ONCE)),
        spare=tuple(islice(queue, SPARE)),
        candidates=tuple(queue),
    )


@dataclass
class _Steps:
    """One line of progress whose words change."""

    progress: Progress
    task: TaskID

    async def take(self, what: str, step: Awaitable[Any]) -> Any:
        self.progress.update(self.task, description=what)
        done = await step
        self.progress.advance(self.task)
        return done

    def done(self, what: str) -> None:
        self.progress.update(self.task, description=what)


async def _insert(connection: asyncpg.Connection, world: World, leads: Iterable[NewLead], schema: str) -> None:
    with translated():
        await seeded.insert(connection, world, schema)
        await seeded.insert_leads(connection, leads, schema)


# The load


async def _perform(stage: _Stage) -> Json:
    one_by_one, times = await _one_after_another(stage)
    statements = await stage.statements.taken()
    at_once, their_times, seconds = await _all_at_once(stage)
    their_statements = await stage.statements.taken()
    same_lead = await _the_same_lead(stage)
    explained, twin = await _worth_explaining(stage)
    pause = await _pause(stage, explained, twin)
    routed = await _routed(stage)
    counted = _caps(stage.world, routed)
    outcomes = [*one_by_one, *at_once]
    return {
        "leads": len(one_by_one),
        **_percentiles(times),
        "targets": TARGETS,
        "within_targets": all(_percentiles(times)[name] <= limit for name, limit in TARGETS.items()),
        "statements_per_decision": round(statements / len(one_by_one), 3),
        "at_once": {
            "leads": len(at_once),
            **_percentiles(their_times),
            "seconds": round(seconds, 3),
            "statements_per_decision": round(their_statements / len(at_once), 3),
        },
        "outcomes": _count(outcome.outcome for outcome in outcomes),
        "causes": _count(outcome.cause for outcome in outcomes if outcome.cause),
        "flags": _count(flag for outcome in outcomes for flag in outcome.flags),
        **same_lead,
        "caps_checked": len(counted),
        "caps_reached": sum(used == cap for used, cap in counted.values()),
        "caps_exceeded": sum(used > cap for used, cap in counted.values()),
        "buyers_with_leads": len({row["buyer_id"] for row in routed}),
        "winners": _winners(stage, routed, counted),
        "explanation": _told(stage, explained),
        "pause": pause,
    }


async def _one_after_another(stage: _Stage) -> tuple[list[Outcome], list[float]]:
    advance = stage.track("Routing one after another", len(stage.one_by_one))
    await stage.statements.taken()
    outcomes, times = [], []
    for lead in stage.one_by_one:
        outcome, milliseconds = await _timed(stage.router, lead.id)
        outcomes.append(outcome)
        times.append(milliseconds)
        advance()
    return outcomes, times


async def _all_at_once(stage: _Stage) -> tuple[list[Outcome], list[float], float]:
    advance = stage.track(f"Routing {AT_ONCE} at once", AT_ONCE)
    started = perf_counter()
    answers = await asyncio.gather(*(_timed(stage.router, lead.id) for lead in stage.at_once))
    seconds = perf_counter() - started
    for _ in answers:
        advance()
    return [outcome for outcome, _ in answers], [milliseconds for _, milliseconds in answers], seconds


async def _timed(router: Router, lead_id: UUID) -> tuple[Outcome, float]:
    started = perf_counter()
    outcome = await router.route(lead_id)
    return outcome, (perf_counter() - started) * 1000


async def _the_same_lead(stage: _Stage) -> Json:
    """Ten calls for one lead, half of them through a second router that shares only the database."""
    advance = stage.track(f"Routing one lead {SAME_LEAD} times at once", SAME_LEAD)
    lead = await _routable(stage)
    async with Router.open(stage.dsn) as other:
        routers = (stage.router, other) * (SAME_LEAD // 2)
        outcomes = await asyncio.gather(*(router.route(lead.id) for router in routers))
    for _ in outcomes:
        advance()
    rows = await stage.connection.fetchval(
        "select count(*) from pointsman.decisions where lead_id = $1 and outcome = 'routed'", lead.id
    )
    return {
        "same_lead": _count(outcome.outcome for outcome in outcomes),
        "same_lead_id": str(lead.id),
        "same_lead_buyers": sorted({stage.name(outcome.buyer_id) for outcome in outcomes}),
        "same_lead_assignments": rows,
    }


async def _routable(stage: _Stage) -> NewLead:
    for lead in stage.spare:
        if (await stage.router.explain(lead.id)).eligible:
            return lead
    raise DatabaseUnfit("no lead of this seed can be routed now; try another `--seed`")


# One lead explained, and its winner paused


async def _worth_explaining(stage: _Stage) -> tuple[Explanation, NewLead]:
    """A routed lead with many kinds of reasons, explained, and a waiting one like it, for the same buyer if may be."""
    advance = stage.track("Looking for a lead to explain", CANDIDATES)
    found: list[tuple[int, int, NewLead]] = []
    for number, lead in enumerate(stage.candidates):
        found.append((_interest(stage, await stage.router.explain(lead.id)), -number, lead))
        advance()
    for _, _, lead in sorted(found, reverse=True)[:10]:
        explained, twin = await _route_and_explain(stage, lead)
        if (await stage.router.explain(twin.id)).outcome.buyer_id == explained.outcome.buyer_id:
            break
    return explained, twin


def _interest(stage: _Stage, explanation: Explanation) -> int:
    """How much there is to see: kinds of reasons and runners-up, where the same buyer comes first every time."""
    kinds = {reason.code for buyer in explanation.excluded for reason in buyer.reasons}
    policy = stage.policies.get(explanation.outcome.policy_id)
    steady = policy is not None and json.loads(policy.rules)["strategy"]["kind"] == "priority"
    return len(kinds) + min(len(explanation.eligible), 4) + (100 if steady and len(explanation.eligible) > 2 else 0)


async def _route_and_explain(stage: _Stage, lead: NewLead) -> tuple[Explanation, NewLead]:
    await stage.router.route(lead.id)
    (twin,) = seeded.like(lead, 1, stage.world.seed)
    await seeded.insert_leads(stage.connection, [twin], stage.schema)
    return await stage.router.explain(lead.id), twin


async def _pause(stage: _Stage, explained: Explanation, twin: NewLead) -> Json:
    """Pause the winner, route the next lead like its own: somebody else gets it, at once."""
    winner = explained.outcome.buyer_id
    before = await stage.router.explain(twin.id)
    await stage.connection.execute(
        f"update {quote_identifier(stage.schema)}.buyers set status = 'paused' where id = $1", winner
    )
    committed = perf_counter()
    after = await stage.router.route(twin.id)
    milliseconds = (perf_counter() - committed) * 1000
    told = await stage.router.explain(twin.id)
    why = next((excluded for excluded in told.excluded if excluded.buyer_id == winner), None)
    return {
        "lead_id": str(twin.id),
        "buyer_id": str(winner),
        "buyer": stage.name(winner),
        "would_have_gone_to": stage.name(before.outcome.buyer_id),
        "went_to": stage.name(after.buyer_id),
        "took_effect": after.buyer_id != winner,
        "why": [] if why is None else _sentences(stage, told, why),
        "commit_to_decision_ms": round(milliseconds, 2),
        "outcome": outcome_json(after),
    }


def _told(stage: _Stage, explained: Explanation) -> Json:
    """The explanation as the contract has it, with names and sentences beside."""
    lead = next(lead for lead in stage.candidates if lead.id == explained.outcome.lead_id)
    policy = stage.policies[explained.outcome.policy_id]
    told = explanation_json(explained)
    for ranked, entry in zip(explained.eligible, told["eligible"], strict=True):
        entry["name"] = stage.name(ranked.buyer_id)
    for excluded, entry in zip(explained.excluded, told["excluded"], strict=True):
        entry["name"] = stage.name(excluded.buyer_id)
        entry["sentences"] = _sentences(stage, explained, excluded)
    where = {"postal_code": lead.postal_code, "city": lead.city, "state": seeded.markets()[lead.market_id]}
    return {
        "headline": headline(explained.outcome, stage.name),
        "lead": {"id": str(lead.id), "offer": stage.offers[lead.offer_id], **where},
        "policy": policy.name,
        "rules": json.loads(policy.rules),
        **told,
    }


def _sentences(stage: _Stage, explained: Explanation, excluded: Exclusion) -> list[str]:
    now, zone = explained.outcome.decided_at, stage.zones[excluded.buyer_id]
    return [sentence(reason, stage.name, now, zone) for reason in excluded.reasons]


# Counting, from the host's tables


Holder = tuple[str, UUID, UUID | None, str, int]
"""Level, buyer, offer, kind of window and its start."""


async def _routed(stage: _Stage) -> list[asyncpg.Record]:
    rows: list[asyncpg.Record] = await stage.connection.fetch(
        f"select buyer_id, offer_id, routed_at from {quote_identifier(stage.schema)}.leads where buyer_id is not null"
    )
    return rows


def _caps(world: World, routed: Iterable[asyncpg.Record]) -> dict[Holder, tuple[int, int]]:
    """For each window with leads and a cap: leads in it, and the cap."""
    buyers = {buyer.id: buyer for buyer in world.buyers}
    enrollments = {(row.buyer_id, row.offer_id): row for row in world.buyer_offers}
    used: Counter[Holder] = Counter()
    limits: dict[Holder, int] = {}
    for buyer_id, offer_id, routed_at in routed:
        buyer, at = buyers[buyer_id], micros(routed_at)
        windows = _windows(buyer.timezone, at)
        for level, offer, row in (("buyer", None, buyer), ("enrollment", offer_id, enrollments[buyer_id, offer_id])):
            for kind, limit in (("hour", row.hourly_cap), ("day", row.daily_cap)):
                if limit is not None:
                    holder = (level, buyer_id, offer, kind, windows[kind])
                    used[holder] += 1
                    limits[holder] = limit
    return {holder: (count, limits[holder]) for holder, count in used.items()}


def _windows(timezone: str, at: int) -> dict[str, int]:
    local = zone(timezone)
    assert isinstance(local, Zone)
    return {"hour": local.hour(at).start, "day": local.day(at).start}


def _winners(stage: _Stage, routed: Sequence[asyncpg.Record], counted: Mapping[Holder, tuple[int, int]]) -> list[Json]:
    """Who got most, for which offers, and how near its tightest cap it came."""
    offers: defaultdict[UUID, Counter[str]] = defaultdict(Counter)
    for buyer_id, offer_id, _ in routed:
        offers[buyer_id][stage.offers[offer_id]] += 1
    ranking = sorted(offers, key=lambda buyer_id: (-offers[buyer_id].total(), stage.name(buyer_id)))
    return [
        {
            "buyer_id": str(buyer_id),
            "buyer": stage.name(buyer_id),
            "leads": offers[buyer_id].total(),
            "offers": dict(sorted(offers[buyer_id].items())),
            "tightest_cap": _tightest(buyer_id, counted),
        }
        for buyer_id in ranking[:TOP]
    ]


def _tightest(buyer_id: UUID, counted: Mapping[Holder, tuple[int, int]]) -> Json | None:
    own = [(holder, *pair) for holder, pair in counted.items() if holder[1] == buyer_id]
    if not own:
        return None
    holder, used, cap = max(own, key=lambda entry: (entry[1] / entry[2], entry[0][0], entry[0][3]))
    return {"level": holder[0], "per": holder[3], "used": used, "cap": cap}


def _percentiles(times: Sequence[float]) -> dict[str, float]:
    """Nearest-rank percentiles, in milliseconds."""
    ordered = sorted(times)
    return {f"p{percent}_ms": round(ordered[ceil(len(ordered) * percent / 100) - 1], 2) for percent in (50, 95, 99)}


def _count(values: Iterable[str]) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}


# What people see


def show(console: Console, result: Json) -> None:
    """Print the tables."""
    console.print()
    console.print(_times(result))
    console.print(_outcomes(result))
    console.print(_proofs(result))
    console.print(_who_got_what(result))
    _show_explanation(console, result["explanation"])
    _show_pause(console, result["pause"])
    console.print(f"\nDone in {result['seconds']} s. The database `{result['database']}` stays until the next demo.")


def _times(result: Json) -> Table:
    at_once = result["at_once"]
    table = Table(title="Milliseconds from the call to the answer", title_justify="left")
    for column in ("", "target", f"{result['leads']:,} one after another", f"{at_once['leads']} at once"):
        table.add_column(column, justify="right")
    for key, target in result["targets"].items():
        table.add_row(
            key.removesuffix("_ms"), f"{target:.0f}", _verdict(result[key], target), _verdict(at_once[key], target)
        )
    statements = [f"{part['statements_per_decision']:.2f}" for part in (result, at_once)]
    table.add_row("statements per decision", "", *statements)
    return table


def _verdict(value: float, target: float) -> str:
    return f"[{'green' if value <= target else 'red'}]{value:.2f}[/]"


def _outcomes(result: Json) -> Table:
    table = Table(title="Outcomes", title_justify="left")
    table.add_column("outcome")
    table.add_column("leads", justify="right")
    for outcome, count in result["outcomes"].items():
        table.add_row(outcome, f"{count:,}")
        if outcome == OutcomeKind.NO_ROUTE:
            for cause, share in result["causes"].items():
                table.add_row(f"  because {cause}", f"{share:,}", style="dim")
    for flag, count in result["flags"].items():
        table.add_row(f"flag {flag}", f"{count:,}", style="dim")
    return table


def _proofs(result: Json) -> Table:
    same = result["same_lead"]
    table = Table(title="Proof", title_justify="left", show_header=False)
    table.add_row(
        f"{SAME_LEAD} calls for one lead, through two routers",
        f"{same.get('routed', 0)} routed, {same.get('already_routed', 0)} already_routed, "
        f"{result['same_lead_assignments']} assignment recorded, all answers name {_names(result['same_lead_buyers'])}",
    )
    table.add_row(
        "Caps, counted from the leads table",
        f"{result['caps_checked']:,} windows with a cap and leads: {result['caps_reached']:,} full, "
        f"[{'red' if result['caps_exceeded'] else 'green'}]{result['caps_exceeded']} exceeded[/]",
    )
    return table


def _who_got_what(result: Json) -> Table:
    shown, winners = len(result["winners"]), result["buyers_with_leads"]
    table = Table(title=f"Who got what (the first {shown} of {winners:,} buyers)", title_justify="left")
    for column, side in (("buyer", "left"), ("leads", "right"), ("for", "left"), ("tightest cap", "left")):
        table.add_column(column, justify="right" if side == "right" else "left")
    for winner in result["winners"]:
        offers = ", ".join(f"{offer} {count}" for offer, count in winner["offers"].items())
        table.add_row(escape(winner["buyer"]), str(winner["leads"]), offers, _cap_in_words(winner["tightest_cap"]))
    return table


def _cap_in_words(cap: Json | None) -> str:
    return "none" if cap is None else f"{cap['used']} of {cap['cap']} per {cap['per']} ({cap['level']})"


def _show_explanation(console: Console, told: Json) -> None:
    lead, rules = told["lead"], told["rules"]
    place = ", ".join(part for part in (lead["city"], lead["state"], lead["postal_code"]) if part and part.strip())
    console.print(f"\n[bold]One lead explained[/] ({lead['id']}): {lead['offer']} in {escape(place)}")
    console.print(f"Policy: {told['policy']} (strategy {rules['strategy']['kind']}{_sla_in_words(rules)})")
    console.print(f"[green]{escape(told['headline'])}[/]")
    console.print(_ranking(told["eligible"]))
    console.print(_why_not(told["excluded"]))


def _sla_in_words(rules: Json) -> str:
    sla = rules.get("sla")
    return f", {sla['mode']}s answers within {sla['max_response_seconds']} s" if sla else ""


def _ranking(eligible: Sequence[Json]) -> Table:
    table = Table(title="The winner and the runners-up", title_justify="left")
    for column in ("rank", "buyer", "priority", "weight", "answers within"):
        table.add_column(column, justify="left" if column == "buyer" else "right")
    for entry in eligible:
        seconds = entry["sla_response_seconds"]
        table.add_row(
            str(entry["rank"]),
            escape(entry["name"]),
            str(entry["priority_rank"]),
            str(entry["weight"]),
            "-" if seconds is None else f"{seconds} s",
            style="green" if entry["rank"] == 1 else None,
        )
    return table


def _why_not(excluded: Sequence[Json]) -> Table:
    """Those who cover the lead one by one; those with one and the same plain reason together."""
    table = Table(title=f"Why the other {len(excluded)} enrolled buyers did not get it", title_justify="left")
    table.add_column("buyer")
    table.add_column("because it")
    together: defaultdict[str, list[str]] = defaultdict(list)
    for entry in excluded:
        together["; ".join(entry["sentences"])].append(entry["name"])
    for why, names in sorted(together.items(), key=lambda item: (len(item[1]), item[0])):
        table.add_row(_names(names), escape(why))
    return table


def _names(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    listed = ", ".join(map(escape, names[:NAMED]))
    return f"{listed} and {more} more (all in --json)" if more > 0 else listed


def _show_pause(console: Console, pause: Json) -> None:
    console.print("\n[bold]Pausing the winner, live[/]")
    console.print(
        f"The next lead like it ({pause['lead_id']}) would have gone to {escape(pause['would_have_gone_to'])}."
    )
    why = "; ".join(pause["why"])
    console.print(
        f"{escape(pause['buyer'])} was paused, and the lead went to [green]{escape(pause['went_to'])}[/], "
        f"{pause['commit_to_decision_ms']:.1f} ms from COMMIT to the answer. The explanation now says: "
        f"{escape(pause['buyer'])} {escape(why)}."
    )

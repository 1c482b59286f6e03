"""The command line: what a person types, what a script reads, and what the exit code says.

Exit codes: 0 done, 1 found something (a lead to route that is unknown or refused, a replay that differs), 2
cannot run.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from importlib.metadata import version as installed_version
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, NoReturn, TypeVar
from uuid import UUID

import typer
from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table

from pointsman import backtest as backtesting
from pointsman import check as lint
from pointsman import logs
from pointsman import migrate as schema
from pointsman import prune as pruning
from pointsman import replay as proof
from pointsman.errors import (
    DecisionDiffers,
    DecisionNotFound,
    HistoryHole,
    HistoryPruned,
    LeadNotFound,
    PointsmanError,
    Refused,
)
from pointsman.findings import Level
from pointsman.model import Exclusion, Explanation, Outcome, Ranked
from pointsman.report import draw_checked, draw_owned
from pointsman.router import Router
from pointsman.sentences import headline, needed, sentence
from pointsman.settings import ApiKey, Scope, Settings, read_settings
from pointsman.wire import answer_json, explanation_json, plain, problem

T = TypeVar("T")
Opening = contextlib.AbstractAsyncContextManager[Router]
Zones = Mapping[UUID, str]
"""The names of the buyers' time zones."""

EMBEDDED_FOLDER = Path(".pointsman")
FOUND_SOMETHING, CANNOT_RUN, INTERRUPTED = 1, 2, 130

USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]
"""What wrong options and arguments raise: Click's, or by Typer's version its own copy, which it does not export."""

app = typer.Typer(
    name="pointsman",
    help="Routes validated leads: each goes to exactly one buyer, or the answer says why nobody takes it.",
    epilog="Settings are POINTSMAN_* variables; without POINTSMAN_DATABASE_URL an embedded PostgreSQL is used.",
    pretty_exceptions_enable=False,
)
keys = typer.Typer(help="Keys of the HTTP service.")
app.add_typer(keys, name="key")

out = Console()
err = Console(stderr=True)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for a program to read.")]
Since = Annotated[
    str | None, typer.Option(metavar="INSTANT", help="An instant (2026-03-01, 2026-03-01T09:00Z) or an age (7d, 12h).")
]


class CannotRun(PointsmanError):
    """The command cannot run."""


def main() -> NoReturn:
    """Run the command line; every error that a person can do something about is one line on stderr."""
    logs.configure()
    try:
        code = app(prog_name="pointsman", standalone_mode=False)
    except PointsmanError as error:
        _complain(error)
        sys.exit(CANNOT_RUN)
    except USAGE_ERROR as error:
        _complain(_misused(error))
        sys.exit(CANNOT_RUN)
    sys.exit(code)


@app.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    show_version: Annotated[bool, typer.Option("--version", help="Print the version and exit.", is_eager=True)] = False,
) -> None:
    if show_version:
        typer.echo(f"pointsman {installed_version('pointsman')}")
        raise typer.Exit
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(CANNOT_RUN)


@app.command()
def demo(
    leads: Annotated[int, typer.Option(min=1, help="Leads that are routed one after another.")] = 1000,
    seed: Annotated[int, typer.Option(help="What the demo's world is made from.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Build a realistic world, route leads through it, and show what happened and how fast.

    Example: pointsman demo --leads 1000 --seed 7
    """
    from pointsman import demo as demonstration  # its geography is an optional extra, and slow to import

    result = _run(demonstration.run(read_settings().dsn or None, leads, seed, err if as_json else out))
    if as_json:
        _print_json(result)
    else:
        demonstration.show(out, result)


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on; POINTSMAN_HOST, else 127.0.0.1.")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="The port to listen on; POINTSMAN_PORT, else 8080; 0 is any.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; each has its own cache and connections.")] = 1,
) -> None:
    """Serve the HTTP API until Ctrl+C.

    Example: pointsman serve --port 8080 --workers 2
    """
    from pointsman.api import server  # FastAPI and uvicorn, which no other command needs

    settings = read_settings()
    logs.configure(settings.log_format, settings.log_level)
    listening = server.listen(
        settings.host if host is None else host, settings.port if port is None else port, settings.api_keys
    )
    signal.signal(signal.SIGTERM, _interrupt)
    with _quietly(), contextlib.closing(listening), _database(settings, make_tables=True) as dsn, _loading() as done:

        def announce(address: str, router: Router) -> None:
            done()
            _say(f"Pointsman serves {address} (config version {router.cache.version}); Ctrl+C ends it")

        if workers == 1:
            _run(server.serve(listening, dsn, settings.router_options, settings.api_keys, announce))
        else:
            _run(server.announce_ready(listening, dsn, settings.router_options, announce))
            server.serve_in_workers(listening, dsn, workers)


@app.command()
def migrate(
    with_host_tables: Annotated[
        bool, typer.Option("--with-host-tables", help="Make the host's tables too, where there are none.")
    ] = False,
    remove: Annotated[
        bool, typer.Option("--remove", help="Take everything of the router's away, its decisions included.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the database to this release's schema, and print the grants of a least-privilege role for the service.

    Example: pointsman migrate --with-host-tables
    """
    if remove and with_host_tables:
        raise CannotRun("--remove and --with-host-tables exclude each other; give one of them")
    with _database(read_settings()) as dsn:
        if remove:
            _run(schema.remove(dsn, report=_report))
            if as_json:
                _print_json({"removed": True})
            return
        migrated = _run(schema.migrate(dsn, with_host_tables=with_host_tables, report=_report))
    if as_json:
        _print_json(
            {
                "changed": migrated.changed,
                "host_schema": migrated.host_schema,
                "made_host_tables": migrated.made_host_tables,
                "applied": migrated.applied,
                "attached": migrated.attached,
                "baseline": migrated.baseline,
                "grants": migrated.grants.splitlines(),
            }
        )
        return
    err.print(
        "The database is up to date." if migrated.changed else "The database was up to date; nothing was changed."
    )
    _say("Grants of a least-privilege role for the service (once `create role pointsman login` has made it):")
    typer.echo(migrated.grants)


@app.command()
def route(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="The leads to route.")], as_json: AsJson = False
) -> None:
    """Route leads: each is assigned to one buyer, or the answer says why not.

    With --json one lead gives its outcome, several a list, as the HTTP API does.

    Example: pointsman route 6f1e0c9e-3c2f-4a55-9d6f-1b1f6f0e2a10
    """
    lead_ids = [_lead_id(text) for text in ids]
    with _router() as router:
        answers = _run(_route(router, lead_ids))
    pairs = list(zip(lead_ids, answers, strict=True))
    if as_json:
        found = [answer_json(*pair) for pair in pairs]
        _print_json(found[0] if len(found) == 1 else found)
    else:
        _draw_outcomes([answer for answer in answers if isinstance(answer, Outcome)])
    errors = [answer for answer in answers if isinstance(answer, PointsmanError)]
    for error in errors:
        _complain(error)
    if errors:
        of_leads = all(isinstance(error, LeadNotFound | Refused) for error in errors)
        raise typer.Exit(FOUND_SOMETHING if of_leads else CANNOT_RUN)


@app.command()
def explain(
    text: Annotated[str, typer.Argument(metavar="ID", help="A lead's id, or the number of a decision.")],
    at: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="What would be at this instant: 2026-03-01T09:00Z, or an age.")
    ] = None,
    policy: Annotated[Path | None, typer.Option(metavar="FILE", help="What would be under these rules (JSON).")] = None,
    as_json: AsJson = False,
) -> None:
    """Show who gets a lead and why each other buyer does not; nothing is written.

    With --at or --policy: who would get it, whatever became of it.

    Example: pointsman explain 6f1e0c9e-3c2f-4a55-9d6f-1b1f6f0e2a10
    """
    subject = _subject(text)
    instant, rules = _instant(at), None if policy is None else _rules(policy)
    if isinstance(subject, int) and (instant or policy):
        raise CannotRun("--at and --policy ask about a lead; give its id instead of a decision's number")
    with _router() as router:
        try:
            if isinstance(subject, UUID) and (instant or policy):
                explanation, zones = _run(_explain_hypothetical(router, subject, instant, rules))
            else:
                explanation, zones = _run(_explain(router, subject))
        except (LeadNotFound, DecisionNotFound, HistoryPruned, HistoryHole, DecisionDiffers) as error:
            if as_json:
                _print_json({"error": problem(error)})
            _complain(error)
            raise typer.Exit(CANNOT_RUN) from None
    if as_json:
        _print_json(explanation_json(explanation))
    else:
        _draw(explanation, zones)


@app.command()
def replay(
    since: Since = None,
    lead: Annotated[str | None, typer.Option(metavar="ID", help="Only this lead's decisions.")] = None,
    decision: Annotated[int | None, typer.Option(metavar="NUMBER", help="Only this decision.")] = None,
    sample: Annotated[int | None, typer.Option(min=1, help="Only so many decisions, drawn at random.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Processes that share the work.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Decide recorded decisions again, on the configuration and the state of their time, and say what differs.

    Example: pointsman replay --since 7d --jobs 4
    """
    start, lead_id = _instant(since), None if lead is None else _lead_id(lead)
    with _database(read_settings()) as dsn, _progress("decided again") as progress:
        report = _run(
            proof.replay(
                dsn,
                since=start,
                lead_id=lead_id,
                decision_id=decision,
                sample=sample,
                jobs=jobs,
                progress=progress,
            )
        )
    if as_json:
        _print_json(report.as_json())
    else:
        _draw_replay(report)
    if report.same_version.different:
        raise typer.Exit(FOUND_SOMETHING)
    if unknown := proof.newer(report):
        raise proof.NewerRecord(
            f"decision {unknown.decision_id} was made by the newer release {unknown.engine_version}, which decides "
            "or records otherwise; replay it with that release"
        )


@app.command()
def backtest(
    policy: Annotated[Path, typer.Option(metavar="FILE", help="The draft's rules (JSON).")],
    since: Since = None,
    replaces: Annotated[
        str | None, typer.Option(metavar="ID", help="The one policy that the draft stands in for; else for every one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Decide the recorded leads again under draft rules, and say who gains, who loses, and whom nobody would take.

    On the configuration of their time; caps and turns move forward from the draft's own choices. Nothing is written.

    Example: pointsman backtest --policy draft.json --since 30d
    """
    rules, start = _rules(policy), _instant(since)
    policy_id = None if replaces is None else _row_id(replaces, "policy")
    with _database(read_settings()) as dsn, _progress("decided again") as progress:
        found = _run(backtesting.backtest(dsn, rules, since=start, replaces=policy_id, progress=progress))
    if as_json:
        _print_json(found.as_json())
    else:
        _draw_backtest(found)


@app.command()
def prune(
    days: Annotated[int, typer.Option(help="Keep the decisions of so many days, at least 3.")] = 90,
    as_json: AsJson = False,
) -> None:
    """Remove old decisions, and the history of the configuration that no other decision needs.

    Leads are routed meanwhile. It may be stopped at any point and run again.

    Example: pointsman prune --days 90
    """
    with _database(read_settings()) as dsn, _stages() as progress:
        pruned = _run(pruning.prune(dsn, days=days, progress=progress))
    if as_json:
        _print_json(pruned.as_json())
        return
    _print(f"{_count(pruned.decisions, 'decision')} removed, made before {plain(pruned.cutoff)}")
    _print(f"{_count(pruned.commits, 'older version')} of the configuration removed")
    if pruned.horizon is not None:
        _print(f"history begins with config version {pruned.horizon}")


@app.command("check")
def check_configuration(
    who_owns: Annotated[
        str | None, typer.Option(metavar="POSTAL", help="Answer who owns this postal code for an offer, and why.")
    ] = None,
    offer: Annotated[str | None, typer.Option(metavar="ID", help="The offer that is asked about.")] = None,
    market: Annotated[
        str | None, typer.Option(metavar="ID", help="The market, where the offer is for several.")
    ] = None,
    city: Annotated[str | None, typer.Option(help="The city, for exclusivities that hold one.")] = None,
    at: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="An instant instead of now: 2026-07-01T09:00Z, or an age: 2d.")
    ] = None,
    level: Annotated[Level, typer.Option(help="Show findings down to this level.")] = Level.NOTICE,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 for a warning too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Look through the configuration for what loses leads or money; or say who owns a postal code.

    Exit code 1 when there is an error (with --strict, a warning).

    Example: pointsman check --level warning
    Example: pointsman check --who-owns 60614 --offer 6f1e0c9e-3c2f-4a55-9d6f-1b1f6f0e2a10
    """
    asked = _place(who_owns, offer, market, city, at)
    with _database(read_settings()) as dsn:
        if asked is not None:
            owned = _run(lint.who_owns(dsn, *asked))
            if as_json:
                _print_json(lint.owned_json(owned))
            else:
                draw_owned(out, owned)
            return
        with _stages() as progress:
            checked = _run(lint.check(dsn, progress))
    if as_json:
        _print_json(lint.checked_json(checked, level))
    else:
        draw_checked(out, checked, level)
    if checked.fails(strict=strict):
        raise typer.Exit(FOUND_SOMETHING)


@keys.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Who will use the key; the service names it in its answers.")],
    scope: Annotated[Scope, typer.Option(help="What it allows; `route` includes `read`.")],
    as_json: AsJson = False,
) -> None:
    """Make a key, show it once, and print its line for the settings, which holds only its SHA-256.

    Example: pointsman key new intake --scope route
    """
    key, secret = ApiKey.new(name, scope)
    if as_json:
        _print_json({"name": key.name, "scope": key.scope, "key": secret, "setting": str(key)})
        return
    _say("The key, shown only now; its holder sends it as `Authorization: Bearer <key>`:")
    typer.echo(secret)
    _say("For the service (several keys with a comma between them):")
    typer.echo(f"POINTSMAN_API_KEYS={key}")


# running


def _run(work: Coroutine[Any, Any, T]) -> T:
    """Run `work` on the fastest event loop that is installed; Ctrl+C ends it without a word."""
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            return runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    for name in ("winloop",) if sys.platform == "win32" else ("uvloop",):
        with contextlib.suppress(ImportError):
            factory: Callable[[], asyncio.AbstractEventLoop] = __import__(name).new_event_loop
            return factory
    # asyncpg has had trouble with TLS on Windows' default, the proactor
    return asyncio.SelectorEventLoop if sys.platform == "win32" else None


@contextlib.contextmanager
def _database(settings: Settings, *, make_tables: bool = False) -> Iterator[str]:
    """The address of the database: the one of the settings, else an embedded one that runs as long as this."""
    if settings.dsn:
        yield settings.dsn
        return
    from pointsman.embedded import EmbeddedPostgres

    with _quietly(), EmbeddedPostgres(EMBEDDED_FOLDER) as server:
        for note in server.notes:
            _report(note)
        if make_tables:
            _run(schema.migrate(server.dsn, with_host_tables=True))
        yield server.dsn


@contextlib.contextmanager
def _router() -> Iterator[Opening]:
    """A router on the settings' database, to be opened."""
    settings = read_settings()
    with _database(settings) as dsn:
        yield Router.open(dsn, **settings.router_options)


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


@contextlib.contextmanager
def _loading() -> Iterator[Callable[[], None]]:
    """Show on stderr, where somebody looks on, that a router loads, and since when, until the yielded is called."""
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        bar.add_task("Loading the configuration", total=None)
        yield bar.stop


@contextlib.asynccontextmanager
async def _loaded(opening: Opening) -> AsyncIterator[Router]:
    with _loading() as done:
        async with opening as router:
            done()
            yield router


async def _route(opening: Opening, lead_ids: list[UUID]) -> list[Outcome | PointsmanError]:
    async with _loaded(opening) as router:
        return await router.route_many(lead_ids)


async def _explain(opening: Opening, subject: UUID | int) -> tuple[Explanation, Zones]:
    async with _loaded(opening) as router:
        explaining = router.explain(subject) if isinstance(subject, UUID) else router.explain_decision(subject)
        return await explaining, router.cache.time_zones()


async def _explain_hypothetical(
    opening: Opening, lead_id: UUID, at: datetime | None, rules: object
) -> tuple[Explanation, Zones]:
    async with _loaded(opening) as router:
        return await router.explain_hypothetical(lead_id, at=at, policy=rules), router.cache.time_zones()


def _rules(path: Path) -> dict[str, Any]:
    """The rules in a file; raises `CannotRun` for what is no JSON object."""
    try:
        document = json.loads(path.read_text("utf-8"), object_pairs_hook=_said_once)
    except OSError as error:
        raise CannotRun(f"the policy file cannot be read: {error.strerror}: `{path}`") from None
    except (ValueError, RecursionError) as error:
        raise CannotRun(f"the policy file `{path}` is no JSON: {error}") from None
    if not isinstance(document, dict):
        raise CannotRun(f"the policy file `{path}` holds no JSON object; write rules as in docs/policies.md")
    return document


def _said_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, none of whose keys would silently go under."""
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"`{next(key for key in keys if keys.count(key) > 1)}` stands twice in one object")
    return found


def _subject(text: str) -> UUID | int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else _lead_id(text)


def _place(
    postal_code: str | None, offer: str | None, market: str | None, city: str | None, at: str | None
) -> tuple[lint.Place, datetime | None] | None:
    """The place and the instant that --who-owns asks about, None where it does not ask."""
    if postal_code is None:
        for name, value in (("--offer", offer), ("--market", market), ("--city", city), ("--at", at)):
            if value is not None:
                raise CannotRun(f"{name} belongs to --who-owns; give a postal code too")
        return None
    if offer is None:
        raise CannotRun("--who-owns needs the offer that is asked about; give its id with --offer")
    market_id = None if market is None else _row_id(market, "market")
    return lint.Place(_row_id(offer, "offer"), postal_code, market_id, city), _instant(at)


def _row_id(text: str, what: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CannotRun(f"`{text}` is no id of a {what}; ids are UUIDs") from None


def _lead_id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise CannotRun(f"`{text}` is no lead's id; ids of leads are UUIDs") from None


def _instant(text: str | None) -> datetime | None:
    """An instant as text, or how long ago it was; without an offset it is in UTC."""
    if text is None:
        return None
    if age := re.fullmatch(r"(\d{1,6})([dhm])", text):
        unit = {"d": "days", "h": "hours", "m": "minutes"}[age[2]]
        try:
            return datetime.now(UTC) - timedelta(**{unit: int(age[1])})
        except OverflowError:
            raise CannotRun(f"`{text}` is longer ago than the year 1; give a younger age, as 7d or 12h") from None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise CannotRun(f"`{text}` is no instant; write one as 2026-03-01T09:00Z, or an age as 7d or 12h") from None
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


@contextlib.contextmanager
def _progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with a rate on stderr, where somebody looks on."""
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        task: TaskID = bar.add_task(what, total=None, rate="")

        def show(done: int, total: int) -> None:
            elapsed = bar.tasks[task].elapsed
            rate = f"{done / elapsed:,.0f} {what} a second" if elapsed else ""
            bar.update(task, completed=done, total=total, rate=rate)

        yield show


@contextlib.contextmanager
def _stages() -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of the work on stderr, where somebody looks on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what)
            bar.update(tasks[what], completed=done, total=total)

        yield show


def _interrupt(_: int, __: FrameType | None) -> NoReturn:
    """Told to end before the server listens for signals, or after: end as with Ctrl+C, closing what is open."""
    raise KeyboardInterrupt


# printing


def _misused(error: Any) -> CannotRun:
    """A usage error of Typer's as a sentence of ours, with where to read how it is meant."""
    said = str(error.format_message()).rstrip(".")
    command = "pointsman" if error.ctx is None else error.ctx.command_path
    return CannotRun(f"{said[:1].lower()}{said[1:]}; see `{command} --help`")


def _complain(error: PointsmanError) -> None:
    text = str(error) or type(error).__doc__ or ""
    typer.echo(f"pointsman: {' '.join(text.split())}", err=True)


def _report(line: str) -> None:
    err.print(line, style="dim", highlight=False, markup=False, soft_wrap=True)


def _say(line: str) -> None:
    err.print(line, highlight=False, markup=False, soft_wrap=True)


def _print_json(value: object) -> None:
    typer.echo(json.dumps(plain(value), indent=2))


def _draw_outcomes(outcomes: list[Outcome]) -> None:
    for outcome in outcomes:
        out.print(f"{outcome.lead_id}  {escape(headline(outcome))}", highlight=False, soft_wrap=True)


def _draw(explanation: Explanation, zones: Zones) -> None:
    outcome = explanation.outcome
    out.print(f"Lead {outcome.lead_id}", style="bold", highlight=False, soft_wrap=True)
    out.print(escape(headline(outcome)), highlight=False, soft_wrap=True)
    out.print(_circumstances(outcome), style="dim", highlight=False, soft_wrap=True)
    if explanation.eligible:
        out.print(_eligible(explanation.eligible))
    if explanation.excluded:
        out.print(_excluded(explanation.excluded, outcome.decided_at, zones))


def _buyer() -> Column:
    return Column("buyer", no_wrap=True, min_width=36)  # an id that is cut short names nobody


def _eligible(eligible: tuple[Ranked, ...]) -> Table:
    table = Table("rank", _buyer(), "priority", "weight", "SLA", "turn", title="Who could have it", box=SIMPLE)
    for ranked in eligible:
        seconds = ranked.sla_response_seconds
        table.add_row(
            str(ranked.rank),
            str(ranked.buyer_id),
            _shown(ranked.priority_rank),
            _shown(ranked.weight),
            "none" if seconds is None else f"{seconds} s",
            "never" if ranked.position is None else str(ranked.position),
            style="green" if ranked.rank == 1 else None,
        )
    return table


def _excluded(excluded: tuple[Exclusion, ...], now: datetime | None, zones: Zones) -> Table:
    table = Table(_buyer(), "why not", title="Who could not", box=SIMPLE)
    for exclusion in excluded:
        zone = zones.get(exclusion.buyer_id)
        why = [sentence(reason, now=now, zone=zone) for reason in exclusion.reasons]
        if exclusion.nearest_miss is not None:
            why.append(f"needed: {needed(exclusion.nearest_miss)}")
        table.add_row(str(exclusion.buyer_id), escape("\n".join(why)))
    return table


def _draw_replay(report: proof.Report) -> None:
    took = f" in {report.seconds:.1f} s ({report.rate:,.0f} a second)" if report.decisions else ""
    _print(f"{_count(report.decisions, 'decision')} decided again{took}")
    same, other = report.same_version, report.other_version
    _print(f"  {same.equal:,} equal, {same.different:,} different")
    if other.equal or other.different:
        _print(f"  decided by another version: {other.equal:,} equal, {other.different:,} different")
    if report.pruned:
        _print(f"  {report.pruned:,} no longer replayable: their configuration was pruned")
    for difference in (*same.differences, *other.differences):
        changed = "" if difference.is_intact else "; the row was changed after it was written"
        _print(f"decision {difference.decision_id}, lead {difference.lead_id}{changed}")
        for fact in difference.facts:
            _print(f"  {fact.field}: recorded {_fact(fact.recorded)}, replayed {_fact(fact.replayed)}")


def _draw_backtest(found: backtesting.Comparison) -> None:
    _print(f"{_count(found.leads, 'lead')}, of which {found.changed:,} would have ended otherwise")
    table = Table(_buyer(), "recorded", "draft", "gained", "lost", title="Who gets how many", box=SIMPLE)
    for buyer in sorted(found.buyers, key=lambda buyer: buyer.recorded - buyer.drafted):
        table.add_row(
            str(buyer.buyer_id), *(f"{count:,}" for count in (buyer.recorded, buyer.drafted, buyer.gained, buyer.lost))
        )
    if found.buyers:
        out.print(table)
    _print(f"{_count(found.new_routes, 'lead')} that nobody got would have gone to somebody")
    for cause, count in found.new_no_routes.items():
        _print(f"{_count(count, 'lead')} that somebody got would have gone to nobody: {cause}")
    hours = [hour for hour in found.hours if hour.drafted]
    if hours:
        _print(f"{_count(len(hours), 'hour')} with leads for which nobody would have been eligible:")
        for hour in hours:
            _print(f"  {plain(hour.start)}: {_count(hour.drafted, 'lead')}, recorded {hour.recorded:,}")
    if found.pruned:
        _print(f"{_count(found.pruned, 'decision')} left out: their configuration was pruned")


def _fact(value: object) -> str:
    shown = plain(value)
    return shown if isinstance(shown, str) else json.dumps(shown)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def _print(line: str) -> None:
    out.print(line, highlight=False, markup=False, soft_wrap=True)


def _circumstances(outcome: Outcome) -> str:
    policy = outcome.policy_id and f"policy {outcome.policy_id} version {outcome.policy_version}"
    parts = (
        outcome.decision_id and f"decision {outcome.decision_id}",
        policy,
        outcome.config_version and f"config version {outcome.config_version}",
        outcome.decided_at and f"at {plain(outcome.decided_at)}",
        outcome.flags and "flags " + ", ".join(outcome.flags),
    )
    return ", ".join(part for part in parts if part)


def _shown(value: object) -> str:
    return "" if value is None else str(value)

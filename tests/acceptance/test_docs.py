"""The documents are true: Python and SQL run, JSON is what we read and write, links, commands and files exist.

Each fenced block is checked by its language. Python runs on a database with a small world; what the blocks take for
granted (`lead_id`, `lead_ids`) is given to them, and `"postgresql://..."` stands for the database's address.
"""

from __future__ import annotations

import ast
import asyncio
import dataclasses
import inspect
import json
import re
import tomllib
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import httpx
import pytest
import typer
from fastapi import FastAPI

import pointsman
from pointsman import Router, errors
from pointsman.api.routes import Hypothesis, LeadIds, routes
from pointsman.cache.feed import Cache, FeedState
from pointsman.cache.indexes import Indexes
from pointsman.cli import app
from pointsman.engine import policy
from pointsman.engine.hours import read_hours
from pointsman.engine.policy import read_rules
from pointsman.migrate import grants
from pointsman.model import (
    Cause,
    Exclusion,
    Explanation,
    Flag,
    Lead,
    LostBy,
    NearestMiss,
    Outcome,
    OutcomeKind,
    Ranked,
    Reason,
    ReasonCode,
    Record,
)
from pointsman.settings import Settings
from pointsman.wire import KINDS, explanation_json, outcome_json, problem, record_json
from tests.builders import make_candidate, make_lead, make_offer, make_policy, rules

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])

NOT_RUN = {
    "yaml": "is for a program of somebody else's",
    "mermaid": "a picture, which GitHub draws",
    "bash": "makes environments, or needs a shell of its own; what it names is checked",
    "powershell": "is the bash block beside it for Windows; what it names is checked",
    "text": "what a command prints; the quick start's test compares it",
}
"""Languages of blocks that are not run, and why."""

NO_COMMANDS = {
    "decision": "`pointsman decision 1` is the text that a record's head begins with",
}
"""What follows the word `pointsman` in code without being a command, and why."""

ELSEWHERE = {
    "ruff": "the linter, from the extra `dev`",
    "mypy": "the type checker, from the extra `dev`",
    "lint-imports": "import-linter's command, from the extra `dev`",
    "curl": "what most machines have to speak HTTP with",
    "Invoke-RestMethod": "PowerShell's own for the same",
    "source": "the shell's own",
    "Activate.ps1": "made with a virtual environment",
    "mkdocs": "the builder of the site, from the extra `dev`",
    "docker": "only for those who have it",
    "python3": "Python itself",
    "python": "Python itself",
    "py": "Python's launcher on Windows",
    "bash": "comes with Git for Windows",
    "pip": "comes with a virtual environment",
}
"""Programs in shell blocks that are not ours."""

POWERSHELL = {
    r"^python3 -m venv": r"py -3.11 -m venv",
    r"source \.venv/bin/activate": r".venv\\Scripts\\Activate.ps1",
    r"\.venv/bin/": r".venv\\Scripts\\",
    r"^([A-Z]\w+)=(\S+) ": r'$env:\1 = "\2"; ',
    r"^curl -X POST ": r"Invoke-RestMethod -Method Post ",
    r"^\.ci/run": r"bash .ci/run",
}
"""What PowerShell writes otherwise than bash."""

QUICK_START = ROOT / "docs" / "quickstart.md"
"""Is run by a test of its own, step by step and in an empty folder."""

FROZEN = (Outcome, Explanation, Ranked, LostBy, Exclusion, Reason, NearestMiss, Record)
"""What a router answers with."""


class Block(NamedTuple):
    """A fenced block: its file, the number of its first line, its language and its text."""

    path: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.path.relative_to(ROOT).as_posix()}:{self.line}"


def blocks_of(path: Path) -> Iterator[Block]:
    language, start, lines = None, 0, []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), start=1):
        fence = re.fullmatch(r"```(\w*)", line)
        if fence is None:
            lines.append(line)
        elif language is None:
            language, start, lines = fence[1], number + 1, []
        else:
            yield Block(path, start, language, "\n".join(lines))
            language = None
    assert language is None, f"{path.name} has a block without an end"


BLOCKS = [block for path in DOCUMENTS for block in blocks_of(path)]


def blocks(*languages: str) -> Any:
    return pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in languages], ids=str)


def every_document() -> Any:
    return pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())


def prose_of(path: Path) -> str:
    return re.sub(r"^```.*?^```$", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)


def code_of(path: Path) -> Iterator[str]:
    """Lines of shell blocks, and code in prose."""
    yield from re.findall(r"`([^`\n]+)`", prose_of(path))
    for block in blocks_of(path):
        if block.language in ("bash", "powershell"):
            yield from block.text.splitlines()


@every_document()
def test_lists_read_alike_where_they_lie_and_in_the_built_site(path: Path) -> None:
    """Python-Markdown wants a blank line before a list, and four blanks before a list within one."""
    item = re.compile(r"( *)([-*]|\d+\.) ")
    spoilt = [
        line
        for before, line in pairwise(prose_of(path).splitlines())
        if (found := item.match(line))
        and (len(found[1]) % 4 or (before and not before.startswith(" ") and not item.match(before)))
    ]
    assert spoilt == []


def test_every_block_has_a_language_that_is_checked_or_a_reason_why_not() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "json", "sql", *NOT_RUN}


# Python


@pytest.mark.parametrize(
    "block", [block for block in BLOCKS if block.language == "python" and block.path != QUICK_START], ids=str
)
async def test_python_in_the_documents_runs(
    block: Block, database: str, connection: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    lead_ids = await small_world(connection)
    made = await run(block, database, {"lead_id": lead_ids[0], "lead_ids": lead_ids})
    if isinstance(made.get("app"), FastAPI):
        await answers_with_a_lead_routed(made["app"], lead_ids[0])
    if isinstance(made.get("outcome"), Outcome):
        assert made["outcome"].outcome is OutcomeKind.ROUTED
        assert made["outcome"].buyer_id == await connection.fetchval(
            "select buyer_id from leads where id = $1", lead_ids[0]
        )


async def small_world(connection: asyncpg.Connection) -> list[UUID]:
    """Three leads that somebody takes."""
    offer = await make_offer(connection)
    await make_policy(connection)
    for _ in range(3):
        await make_candidate(connection, offer)
    return [await make_lead(connection, offer) for _ in range(3)]


async def run(block: Block, database: str, given: dict[str, Any]) -> dict[str, Any]:
    """Run a block as a person would who replaced the address; what it leaves behind."""
    text = block.text.replace("postgresql+asyncpg://...", database.replace("postgresql://", "postgresql+asyncpg://", 1))
    text = "\n" * (block.line - 1) + text.replace("postgresql://...", database)
    code = compile(text, str(block.path), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    made = {"__name__": "__main__", **given}
    if "asyncio.run(" in text:  # brings its own event loop
        await asyncio.to_thread(exec, code, made)
    elif code.co_flags & inspect.CO_COROUTINE:
        await eval(code, made)
    else:
        exec(code, made)
    return made


async def answers_with_a_lead_routed(service: FastAPI, lead_id: UUID) -> None:
    """Ask an application's own route if it has one that takes a lead, else ours."""
    paths = {getattr(route, "path", "") for route in service.routes}
    path = "/leads/{lead_id}/accept" if "/leads/{lead_id}/accept" in paths else "/v1/leads/{lead_id}/route"
    transport = httpx.ASGITransport(service)
    async with (
        service.router.lifespan_context(service),
        httpx.AsyncClient(transport=transport, base_url="http://service") as client,
    ):
        answer = await client.post(path.format(lead_id=lead_id))
    assert answer.status_code == 200, answer.text
    assert answer.json()["outcome"] == "routed"


# SQL


async def test_sql_in_the_documents_runs(connection: asyncpg.Connection) -> None:
    role_exists = await connection.fetchval("select to_regrole('pointsman') is not null")
    transaction = connection.transaction()
    await transaction.start()  # a role belongs to the server, and must not outlive the test
    try:
        for block in BLOCKS:
            if block.language == "sql" and not (role_exists and block.text.startswith("create role")):
                await connection.execute(block.text)
    finally:
        await transaction.rollback()


async def test_the_policy_in_the_documents_sql_is_valid(connection: asyncpg.Connection) -> None:
    (insert,) = [block.text for block in BLOCKS if block.language == "sql" and "routing_policies (" in block.text]
    await connection.execute(insert)
    read_rules(json.loads(await connection.fetchval("select rules::text from routing_policies")))


def test_the_grants_in_the_documents_are_those_that_migrate_prints() -> None:
    assert grants("pointsman") in [block.text for block in BLOCKS if block.language == "sql"]


# JSON


@blocks("json")
def test_json_in_the_documents_is_what_we_read_and_write(block: Block) -> None:
    example = json.loads(block.text)
    kinds = [kind for kind in FORMS if kind in example]
    assert kinds, "no form has any of these keys"
    FORMS[kinds[0]](example)


def is_policy(example: dict[str, Any]) -> None:
    """A whole policy, or some keys of one."""
    read_rules(rules(**example))


def is_hypothesis(example: dict[str, Any]) -> None:
    read_rules(Hypothesis.model_validate(example).policy)


def is_outcome(example: dict[str, Any]) -> None:
    assert spelt(outcome_json(an_outcome(example))) == spelt(example)


def is_explanation(example: dict[str, Any]) -> None:
    explanation = Explanation(
        an_outcome(example["outcome"]),
        tuple(
            Ranked(
                **{
                    **ranked,
                    "buyer_id": UUID(ranked["buyer_id"]),
                    "lost_by": ranked["lost_by"] and LostBy(**ranked["lost_by"]),
                }
            )
            for ranked in example["eligible"]
        ),
        tuple(
            Exclusion(
                UUID(excluded["buyer_id"]),
                tuple(map(a_reason, excluded["reasons"])),
                excluded["nearest_miss"] and a_miss(**excluded["nearest_miss"]),
            )
            for excluded in example["excluded"]
        ),
    )
    assert spelt(explanation_json(explanation)) == spelt(example)


def a_miss(change: str, **facts: Any) -> NearestMiss:
    return NearestMiss(change, facts)


def is_record(example: dict[str, Any]) -> None:
    outcome = an_outcome({**example, "status": "routed"})
    record = Record(
        decision_id=outcome.decision_id or 0,
        lead=Lead(
            outcome.lead_id,
            *(UUID(example[name]) for name in ("offer_id", "vertical_id", "market_id")),
            example["postal_code"],
            example["city"],
        ),
        attempt=example["attempt"],
        outcome=outcome.outcome,
        cause=outcome.cause,
        flags=outcome.flags,
        buyer_id=outcome.buyer_id,
        policy_id=outcome.policy_id,
        policy_version=outcome.policy_version,
        config_version=outcome.config_version or 0,
        decided_at=datetime.fromisoformat(example["decided_at"]),
        state=b"",
        digest=bytes.fromhex(example["digest"]),
        **{name: example[name] for name in ("engine_version", "tzdata_version", "unicode_version")},
    )
    assert spelt(record_json(record)) == spelt(example)


def is_error_of_a_batch(example: dict[str, Any]) -> None:
    detail = example["error"]["detail"]
    expected = {"lead_id": example["lead_id"], "error": problem(errors.LeadNotFound(detail))}
    assert spelt(expected) == spelt(example)


def is_state_of_the_cache(example: dict[str, Any]) -> None:
    assert list(Cache(None).status()) == list(example)
    assert list(Indexes(0, UUID(int=0)).sizes()) == list(example["sizes"])
    assert FeedState(example["state"])


def an_outcome(example: dict[str, Any]) -> Outcome:
    return Outcome(
        UUID(example["lead_id"]),
        OutcomeKind(example["outcome"]),
        example["cause"],
        an_id(example["buyer_id"]),
        example["status"],
        example["decision_id"],
        an_id(example["policy_id"]),
        example["policy_version"],
        example["config_version"],
        datetime.fromisoformat(example["decided_at"]),
        tuple(map(Flag, example["flags"])),
    )


def a_reason(example: dict[str, Any]) -> Reason:
    facts = {name: fact for name, fact in example.items() if name != "code"}
    return Reason(ReasonCode(example["code"]), facts)


def an_id(text: str | None) -> UUID | None:
    return None if text is None else UUID(text)


def spelt(value: object) -> str:
    """JSON with its keys in their order, which is part of what the examples show."""
    return json.dumps(value, indent=2)


FORMS: dict[str, Callable[[dict[str, Any]], object]] = {
    "weekly": read_hours,
    "lead_ids": LeadIds.model_validate,
    "lead": is_hypothesis,
    "error": is_error_of_a_batch,
    "eligible": is_explanation,
    "digest": is_record,
    "lag": is_state_of_the_cache,
    "outcome": is_outcome,
    **dict.fromkeys(("strategy", "tie_breakers", "constraints", "exclusivity", "sla", "schema"), is_policy),
}
"""What a JSON block is, by the first of these keys that it has."""


# Links


@every_document()
def test_relative_links_lead_somewhere(path: Path) -> None:
    dead = []
    for link in re.findall(r"\]\(([^)\s]+)\)", prose_of(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.is_file() or (anchor and anchor not in anchors_of(target)):
            dead.append(link)
    assert dead == []


def anchors_of(path: Path) -> set[str]:
    """The headings' anchors as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# Commands


@every_document()
def test_commands_that_are_named_exist(path: Path) -> None:
    unknown = []
    for code in code_of(path):
        for words in re.findall(r"(?:/bin/|(?<![\w/.@-]))pointsman((?: [^\s&|;]+)+)", code):
            unknown += unknown_words(words.split())
    assert unknown == []


def unknown_words(words: list[str]) -> list[str]:
    """Commands and options of ours among `words` that do not exist."""
    if words[0] in NO_COMMANDS or words[0].startswith("("):
        return []
    command: Any = typer.main.get_command(app)
    unknown = []
    for word in words:
        subcommands = getattr(command, "commands", {})
        if word.startswith("--"):
            unknown += [] if any(word in option.opts for option in command.params) else [word]
        elif subcommands:
            if word not in subcommands:
                return [*unknown, word]
            command = subcommands[word]
    return unknown


def test_every_command_is_described_in_operating() -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    commands = typer.main.get_command(app).commands
    names = [" ".join((name, *rest)) for name, command in commands.items() for rest in _below(command)]
    assert [name for name in names if f"`pointsman {name}`" not in text] == []


def _below(command: Any) -> list[tuple[str, ...]]:
    return [(name,) for name in getattr(command, "commands", ())] or [()]


@blocks("bash", "powershell")
def test_shell_blocks_name_what_exists(block: Block) -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    for command in filter(None, map(str.strip, re.split(r"&&|;|\n", block.text))):
        words = [word.strip('"') for word in command.split() if not re.match(r"(\$env:)?POINTSMAN_\w+", word)]
        if words[:1] in ([], ["="]):  # a variable of PowerShell's
            continue
        program = re.split(r"[/\\]", words[0])[-1]
        assert program in ELSEWHERE or program == "pointsman" or (ROOT / words[0]).is_file(), command
        for option, value in pairwise(words):
            if option == "-c":
                assert (ROOT / value).is_file(), command
        for extra in re.findall(r"\.\[([\w,]+)\]", command):
            assert set(extra.split(",")) <= set(extras), command


@every_document()
def test_every_command_is_shown_for_both_shells(path: Path) -> None:
    shell = [block for block in blocks_of(path) if block.language in ("bash", "powershell")]
    assert ["bash", "powershell"] * (len(shell) // 2) == [block.language for block in shell]
    for bash, powershell in zip(shell[::2], shell[1::2], strict=True):
        assert in_powershell(bash.text) == powershell.text


def in_powershell(bash: str) -> str:
    for pattern, replacement in POWERSHELL.items():
        bash = re.sub(pattern, replacement, bash, flags=re.MULTILINE)
    return bash


# Completeness


def test_every_setting_is_described() -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    names = [f"POINTSMAN_{name.upper()}" for name in Settings.model_fields]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_error_is_described() -> None:
    text = (ROOT / "docs" / "operating.md").read_text("utf-8")
    names = [name for name, value in vars(errors).items() if isinstance(value, type)]
    assert [name for name in names if f"`{name}`" not in text] == []


def test_every_kind_of_problem_is_described() -> None:
    text = (ROOT / "docs" / "http.md").read_text("utf-8")
    slugs = {kind.slug for kind in KINDS.values()}
    assert sorted(slug for slug in slugs if f"`{slug}`" not in text) == []


def test_every_route_is_described() -> None:
    text = (ROOT / "docs" / "http.md").read_text("utf-8")
    described = set(re.findall(r"^\| `([A-Z]+ /\S*)` \|", text, re.MULTILINE))
    served = {f"{method} {route.path}" for route in routes.routes for method in route.methods}
    assert served == described


def test_every_outcome_cause_flag_and_reason_is_described() -> None:
    text = (ROOT / "docs" / "concepts.md").read_text("utf-8")
    words = [word for kind in (OutcomeKind, Cause, Flag, ReasonCode) for word in kind]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_every_key_and_word_of_a_policy_is_described() -> None:
    text = (ROOT / "docs" / "policy-reference.md").read_text("utf-8")
    words = [*policy.STRATEGIES, *policy.TIE_BREAKERS, *policy.CONSTRAINTS, *policy.WHEN_INELIGIBLE, *policy.SLA_MODES]
    assert [word for word in words if f"`{word}`" not in text] == []


def test_every_public_name_method_option_and_field_of_python_is_described() -> None:
    path = ROOT / "docs" / "python.md"
    text = path.read_text("utf-8")
    methods = [name for name in vars(Router) if not name.startswith("_") and name != "open"]
    assert [name for name in methods if not re.search(rf"^\| `(await )?{name}\(", text, re.MULTILINE)] == []
    described = {word for code in code_of(path) for word in re.findall(r"\w+", code)}
    fields = {field.name for kind in FROZEN for field in dataclasses.fields(kind)}
    options = [name for method in methods for name in inspect.signature(getattr(Router, method)).parameters]
    assert {*pointsman.__all__, *fields, *Lead._fields, *options} - described == {"self"}


def test_every_option_of_a_router_is_described() -> None:
    text = (ROOT / "docs" / "embedding.md").read_text("utf-8")
    options = [name for name in inspect.signature(Router.open).parameters if name != "dsn"]
    assert [name for name in options if f"| `{name}` |" not in text] == []


def test_every_guarantee_names_tests_that_exist() -> None:
    text = (ROOT / "docs" / "guarantees.md").read_text("utf-8")
    promised = re.findall(r"^\d+\. \*\*(.+?)\.?\*\*", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE)
    sections = dict(re.findall(r"^## \d+\. (.+)\n((?:(?!## ).*\n)+)", text, re.MULTILINE))
    assert promised == list(sections)
    for section in sections.values():
        kept_by = re.findall(r"^- `(tests/\S+)`: (.+)$", section, re.MULTILINE)
        assert kept_by
        for file, names in kept_by:
            tests = set(re.findall(r"^(?:async )?def (test_\w+)", (ROOT / file).read_text("utf-8"), re.MULTILINE))
            assert set(re.findall(r"`(\w+)`", names)) - tests == set()

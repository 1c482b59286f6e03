"""What a check looks like in a terminal: findings by code, tables where there are many, the week of an offer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final
from uuid import UUID

from rich.box import SIMPLE
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from pointsman.check import ADVICE, TITLES, Checked, Owned
from pointsman.findings import Code, Finding, Level, Subject
from pointsman.model import Exclusion, OutcomeKind, Reason, ReasonCode
from pointsman.ownership import Ownership, Role
from pointsman.sentences import sentence

SHOWN_OF_EACH: Final = 20
"""Findings of one code that people are shown; JSON has them all."""
WEEKS_SHOWN: Final = 5

STYLES: Final = {Level.ERROR: "bold red", Level.WARNING: "yellow", Level.NOTICE: "cyan"}

_ELSEWHERE: Final = (ReasonCode.ENROLLMENT_INACTIVE, ReasonCode.NOT_IN_SERVICE_AREA)
"""Why most of a big offer's buyers are out of the question at any one place."""

_ROLES: Final = {
    Role.COUNTS: "counts",
    Role.SET_ASIDE: "set aside: another of the same scope goes first",
    Role.SHADOWED: "shadowed by the more specific one",
    Role.NOT_YET: "not valid yet",
    Role.EXPIRED: "expired",
}


def draw_checked(out: Console, checked: Checked, level: Level) -> None:
    """Print the findings down to `level`, and how many there are of each level."""
    shown = [finding for finding in checked.findings if finding.level.rank <= level.rank]
    for (at, code), group in groupby(shown, key=lambda finding: (finding.level, finding.code)):
        _draw_group(out, at, code, list(group), checked.names)
    counts = ", ".join(_counted(checked.count(each), each) for each in Level)
    _line(out, f"Config version {checked.config_version}: {counts}.")
    if hidden := len(checked.findings) - len(shown):
        _line(out, f"{hidden} below the level `{level}` are not shown.")


def _draw_group(out: Console, level: Level, code: Code, group: Sequence[Finding], names: Mapping[UUID, str]) -> None:
    head = Text.assemble((f"{level}", STYLES[level]), f"  {TITLES[code]}  ", (f"{code}", "dim"))
    out.print(head, soft_wrap=True)
    for number, finding in enumerate(group[:SHOWN_OF_EACH]):
        rows = "; ".join(_row(row, names) for row in finding.rows)
        _line(out, f"  {rows}  {_facts(finding.facts, names)}".rstrip())
        if "buyers_open" in finding.facts and number < WEEKS_SHOWN:
            out.print(_week(finding.facts))
    if len(group) > SHOWN_OF_EACH:
        _line(out, f"  and {len(group) - SHOWN_OF_EACH} more, all of which --json shows")
    out.print(Text(f"  {ADVICE[code]}", style="dim"), soft_wrap=True)
    out.print()


def draw_owned(out: Console, owned: Owned) -> None:
    """Print who owns a place, market by market."""
    for answer in owned.answers:
        where = ", ".join(part for part in (answer.postal_code, answer.city) if part)
        out.print(f"{escape(where)} in market {answer.market_id}", style="bold", highlight=False, soft_wrap=True)
        at = _at(answer.at)
        _line(out, f"Offer {_name(answer.offer_id, owned.names)}, {at}, config version {answer.config_version}.")
        _line(out, _verdict(answer, owned))
        if answer.chain:
            out.print(_chain(answer, owned.names))
        if answer.eligible:
            out.print(_candidates(answer, owned.names))
        near = [excluded for excluded in answer.excluded if not _is_elsewhere(excluded)]
        if near:
            out.print(_excluded(near, answer.at, owned))
        if elsewhere := len(answer.excluded) - len(near):
            _line(out, f"{elsewhere} more enrolled in the offer are not active there or do not serve the place.")


def _verdict(answer: Ownership, owned: Owned) -> str:
    counts = next((link for link in answer.chain if link.role is Role.COUNTS), None)
    if answer.outcome is OutcomeKind.NO_ROUTE and answer.cause != "no_eligible_buyers":
        return f"Nobody gets its leads: {answer.cause}."
    if counts is None:
        if not answer.eligible:
            return "Nobody holds it exclusively, and nobody is eligible now."
        order = " (in an order that each lead has of its own)" if answer.order_depends_on_lead else ""
        return f"Nobody holds it exclusively; {len(answer.eligible)} can have its leads{order}."
    held = f"{_name(counts.buyer_id, owned.names)} holds it exclusively (scope {counts.scope})"
    if not answer.holder_reasons:
        return f"{held} and gets its leads."
    why = "; ".join(_sentences(counts.buyer_id, answer.holder_reasons, answer.at, owned))
    if answer.when_ineligible == "fail_closed":
        return f"{held}, but {why}: nobody gets its leads, since the policy fails closed."
    return f"{held}, but {why}: the others get its leads, since the policy falls back."


def _chain(answer: Ownership, names: Mapping[UUID, str]) -> Table:
    table = Table("scope", "holder", "from", "until", "exclusivity", title="Exclusivities", box=SIMPLE)
    table.add_column("what becomes of it")
    for link in answer.chain:
        table.add_row(
            link.scope,
            escape(_name(link.buyer_id, names)),
            "" if link.valid_from is None else _at(link.valid_from),
            "" if link.valid_to is None else _at(link.valid_to),
            str(link.exclusivity_id),
            _ROLES[link.role],
            style="green" if link.role is Role.COUNTS else None,
        )
    return table


def _candidates(answer: Ownership, names: Mapping[UUID, str]) -> Table:
    title = "Who can have its leads" + (", in the order of one of them" if answer.order_depends_on_lead else "")
    table = Table("rank", "buyer", "priority", "weight", title=title, box=SIMPLE)
    for ranked in answer.eligible:
        table.add_row(
            str(ranked.rank), escape(_name(ranked.buyer_id, names)), str(ranked.priority_rank), str(ranked.weight)
        )
    return table


def _is_elsewhere(excluded: Exclusion) -> bool:
    return all(reason.code in _ELSEWHERE for reason in excluded.reasons)


def _excluded(near: Iterable[Exclusion], at: datetime, owned: Owned) -> Table:
    table = Table("buyer", "why not", title="Who serves it and cannot", box=SIMPLE)
    for excluded in near:
        why = "\n".join(_sentences(excluded.buyer_id, excluded.reasons, at, owned))
        table.add_row(escape(_name(excluded.buyer_id, owned.names)), escape(why))
    return table


def _sentences(buyer_id: UUID, reasons: Iterable[Reason], at: datetime, owned: Owned) -> Iterator[str]:
    for reason in reasons:
        yield sentence(reason, lambda other: _name(other, owned.names), at, owned.zones.get(buyer_id))


def _week(facts: Mapping[str, Any]) -> Table:
    title = f"Buyers open, by hour in {facts['timezone']}"
    table = Table("", *(f"{hour:02}" for hour in range(24)), title=title, box=None, padding=(0, 1, 0, 0))
    for weekday, hours in facts["buyers_open"].items():
        table.add_row(weekday, *(Text(str(count), style="" if count else "bold red") for count in hours))
    return table


def _row(row: Subject, names: Mapping[UUID, str]) -> str:
    return " ".join((row.table, *(_name(value, names) for value in row.ids.values())))


def _facts(facts: Mapping[str, Any], names: Mapping[UUID, str]) -> str:
    said = (f"{fact}: {_shown(value, names)}" for fact, value in facts.items() if fact != "buyers_open")
    return ", ".join(said)


def _shown(value: object, names: Mapping[UUID, str]) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return _at(value)
    if isinstance(value, Iterable) and not isinstance(value, str):
        return " ".join(_shown(item, names) for item in value) or "none"
    return _name(value, names)


def _name(value: object, names: Mapping[UUID, str]) -> str:
    """An id, with what people call it where that is known."""
    name = names.get(value) if isinstance(value, UUID) else None
    return f"{name} ({value})" if name else str(value)


def _at(at: datetime) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _counted(count: int, level: Level) -> str:
    return f"{count} {level}" if count == 1 else f"{count} {level}s"


def _line(out: Console, text: str) -> None:
    out.print(text, highlight=False, markup=False, soft_wrap=True)

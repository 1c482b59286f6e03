"""In-memory engines on the same questions: rule engines on 16 given buyers, SQLite on the whole of it."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from random import Random
from statistics import median
from time import perf_counter_ns
from typing import Any
from uuid import UUID

from bench.figures import Figures
from bench.memory import NOW, cold_microseconds, decider, freeze, leads_with, load, spans
from bench.workloads import OURS
from bench.worlds import BenchWorld, Form
from pointsman.cache.indexes import Indexes
from pointsman.engine.capacity import State
from pointsman.engine.decide import decide
from pointsman.model import Lead, micros

Row = dict[str, Any]
Eligible = Callable[[Row], Any]
ROWS = 16
GIVEN, WHOLE = "16 buyers given", "the whole question"
PLAIN, SQLITE = "plain Python", "SQLite in memory"
QUESTIONS = 50
EXPRESSION = "status == 'active' and balance >= min_balance and used_hour < hourly_cap and used_day < daily_cap"


def plain_python() -> Eligible:
    """No engine at all: what there is to do."""
    return lambda row: (
        row["status"] == "active"
        and row["balance"] >= row["min_balance"]
        and row["used_hour"] < row["hourly_cap"]
        and row["used_day"] < row["daily_cap"]
    )


def zen_engine() -> Eligible:
    """GoRules' engine in Rust, a compiled expression."""
    expression = import_module("zen").compile_expression(EXPRESSION)
    return lambda row: expression.evaluate(row)


def rule_engine() -> Eligible:
    """A compiled rule."""
    return import_module("rule_engine").Rule(EXPRESSION).matches  # type: ignore[no-any-return]


def json_logic() -> Eligible:
    """The rule as JSON, walked each time: that is how it works."""
    pairs = (("balance", ">=", "min_balance"), ("used_hour", "<", "hourly_cap"), ("used_day", "<", "daily_cap"))
    rule = {
        "and": [
            {"==": [{"var": "status"}, "active"]},
            *({operator: [{"var": one}, {"var": other}]} for one, operator, other in pairs),
        ]
    }
    logic = import_module("json_logic").jsonLogic
    return lambda row: logic(rule, row)


def cel_python() -> Eligible:
    """Google's Common Expression Language, compiled once; its values are made of ours for each row."""
    celpy = import_module("celpy")
    environment = celpy.Environment(runner_class=celpy.CompiledRunner)
    program = environment.program(environment.compile(EXPRESSION.replace(" and ", " && ")))
    return lambda row: program.evaluate({name: celpy.json_to_cel(value) for name, value in row.items()})


ENGINES: dict[str, Callable[[], Eligible]] = {
    PLAIN: plain_python,
    "zen-engine": zen_engine,
    "rule-engine": rule_engine,
    "json-logic": json_logic,
    "CEL": cel_python,
}


def available() -> Iterator[tuple[str, Eligible]]:
    """Those whose packages are installed (`bench/requirements.txt`)."""
    for name, made in ENGINES.items():
        try:
            yield name, made()
        except ImportError:
            print(f"{name}: not installed, see bench/requirements.txt")


def first(rows: Sequence[Row], is_eligible: Eligible) -> Row | None:
    """The eligible row of the best rank."""
    return min(filter(is_eligible, rows), key=lambda row: (row["priority_rank"], row["id"]), default=None)


class Given:
    """A snapshot for one lead that has its candidates already."""

    def __init__(self, indexes: Indexes, lead: Lead) -> None:
        self._policy, self._offer = indexes.policy(lead), indexes.offer(lead.offer_id)
        self._covering = indexes.covering(lead)

    def policy(self, lead: Lead) -> Any:
        return self._policy

    def offer(self, offer_id: UUID | None) -> Any:
        return self._offer

    def covering(self, lead: Lead) -> Any:
        return self._covering

    def exclusivities(self, lead: Lead) -> Any:
        return ()


def measure_rule_engines(figures: Figures, rounds: int) -> None:
    """Which of 16 given buyers is first: status, balance and two caps. Ours knows acceptance hours besides."""
    questions = [_rows(Random(number)) for number in range(QUESTIONS)]
    expected = [first(rows, plain_python()) for rows in questions]
    engines = dict(available())
    for name, is_eligible in engines.items():
        assert expected == [first(rows, is_eligible) for rows in questions], name
    world = BenchWorld(Form(10_000))
    indexes = load(world)
    at, state = micros(NOW), State()
    given = [(lead, Given(indexes, lead)) for lead in leads_with(indexes, world, ROWS, QUESTIONS)]
    for _ in range(rounds):
        for name, is_eligible in engines.items():
            note_median(figures, name, [lambda rows=rows, rule=is_eligible: first(rows, rule) for rows in questions])
        calls = [lambda lead=lead, snapshot=snapshot: decide(lead, snapshot, state, at) for lead, snapshot in given]
        note_median(figures, OURS, calls)


def note_median(figures: Figures, subject: str, calls: Iterable[Callable[[], object]]) -> None:
    """Note the median of single calls, each made a few times in a row."""
    spans = []
    for call in calls:
        for _ in range(3):
            began = perf_counter_ns()
            call()
            spans.append(perf_counter_ns() - began)
    figures.note(GIVEN, subject, microseconds=median(spans) / 1_000)


def _rows(dice: Random) -> list[Row]:
    return [
        {
            "id": number,
            "status": "active" if dice.random() < 0.95 else "paused",
            "balance": dice.randint(0, 5_000),
            "min_balance": dice.choice((0, 50, 250)),
            "used_hour": dice.randint(0, 20),
            "hourly_cap": dice.randint(1, 30),
            "used_day": dice.randint(0, 100),
            "daily_cap": dice.randint(1, 200),
            "priority_rank": dice.randint(1, 60),
        }
        for number in range(ROWS)
    ]


def measure_sqlite(figures: Figures, rounds: int, buyers: int) -> None:
    """The whole question to SQLite with the tables in its memory, at full size; winners are checked."""
    world = BenchWorld(Form(buyers))
    indexes = load(world)
    freeze()
    database = _sqlite(world, indexes)
    leads = leads_with(indexes, world, 16, 400)
    decided = decider(indexes)

    def asked(lead: Lead) -> object:
        return database.execute(
            _QUESTION,
            (lead.market_id.bytes, lead.postal_code, lead.city, lead.offer_id.bytes),  # type: ignore[union-attr]
        ).fetchone()

    for lead in leads:
        winner, found = decided(lead).winner, asked(lead)
        assert (None if winner is None else winner.buyer_id.bytes) == (found and found[0]), lead
    for _ in range(rounds):
        figures.note(WHOLE, SQLITE, cold=median(spans(asked, leads[:400])) / 1_000)
        figures.note(WHOLE, OURS, cold=cold_microseconds(indexes, decided, leads))
    database.close()
    gc.unfreeze()


_QUESTION = """
select e.buyer_id from (
  select buyer_id from areas where market_id = ?1 and scope = 'postal_code' and value = ?2
  union select buyer_id from areas where market_id = ?1 and scope = 'city' and value = ?3
  union select buyer_id from areas where market_id = ?1 and scope = 'market' and value = '') a
join enrollments e on e.offer_id = ?4 and e.buyer_id = a.buyer_id
join buyers b on b.id = e.buyer_id
where e.is_active and b.is_usable and is_open(b.hours)
order by e.priority_rank, e.weight desc, e.buyer_id limit 1
"""


def _sqlite(world: BenchWorld, indexes: Indexes) -> sqlite3.Connection:
    """What SQLite needs of the world; acceptance hours are asked of our own compiled ones."""
    database = sqlite3.connect(":memory:")
    database.executescript("""
        create table buyers (id blob primary key, is_usable int, hours int) without rowid;
        create table enrollments (
          offer_id blob, buyer_id blob, is_active int, priority_rank int, weight int, primary key (offer_id, buyer_id)
        ) without rowid;
        create table areas (
          market_id blob, scope text, value text, buyer_id blob, primary key (market_id, scope, value, buyer_id)
        ) without rowid;
    """)
    kept: dict[int, Any] = {}
    for buyer in indexes.buyers.values():
        kept.setdefault(id(buyer.hours), buyer.hours)
        row = (buyer.id.bytes, int(not buyer.faults), id(buyer.hours))
        database.execute("insert into buyers values (?, ?, ?)", row)
    at = micros(NOW)
    database.create_function("is_open", 1, lambda key: kept[key] is None or kept[key].is_open(at))
    database.executemany(
        "insert into enrollments values (?, ?, ?, ?, ?)",
        ((row.offer_id.bytes, row.buyer_id.bytes, row.is_active, row.priority_rank, row.weight)
         for row in world.enrollments()),
    )  # fmt: skip
    database.executemany(
        "insert or ignore into areas values (?, ?, ?, ?)",
        ((row.market_id.bytes, row.scope, row.value or "", row.buyer_id.bytes) for row in world.areas()),
    )  # fmt: skip
    database.execute("analyze")
    return database

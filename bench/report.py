"""The report: goals, every figure with its spread, and plots; on a terminal, as Markdown, as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench import workloads
from bench.figures import Figures, Spread
from bench.goals import Verdict, judge
from bench.memory import STRATEGIES
from bench.plots import bar_plot, line_plot

NAMES = {
    **{metric: f"{metric}, ms" for metric in ("p50", "p95", "p99", "longest")},
    **{metric: f"{metric}, µs" for metric in ("cold", "hot")},
    "stall": "longest stall of the loop, ms",
    "as_is": "as it is, ms",
    "frozen": "after `gc.freeze()`, ms",
    "microseconds": "µs",
    "processor": "the server's processor a call, µs",
    "rate": "a second",
    "python": "Python's processor a lead, µs",
    "postgres": "PostgreSQL's processor a lead, µs",
    "bound": "a second, if PostgreSQL never paused",
    "everything": "all processes' processor a call, µs",
    "unpaused": "a second, if no processor paused",
    "finding": "finding who covers the lead, cold, µs",
    "least": "of these, look-ups and objects alone, seconds",
    "seconds": "seconds",
    "bytes_a_row": "bytes a row",
    "bytes_objects": "of these, objects that decisions read and areas' ids, bytes a row",
    "bytes_an_area": "bytes an area",
    "bytes_an_enrollment": "bytes an enrollment",
    "bytes_a_buyer": "bytes a buyer",
    "bytes": "bytes",
    "trips": "trips",
    "new_counters": "new counters a lead",
}
"""What a column says of its metric."""
HEAD = """\
# Benchmarks

What the router costs, beside floors and other ways to do the same job, from one run on one machine.
`python -m bench` made this page, and makes it again:

```bash
pip install -c constraints.txt -e ".[dev]" -r bench/requirements.txt
python -m bench --full --report docs/benchmarks.md
```

```powershell
pip install -c constraints.txt -e ".[dev]" -r bench/requirements.txt
python -m bench --full --report docs/benchmarks.md
```

Read the ratios: the subjects of a workload take turns in every round,
so that a machine whose speed drifts slows them all alike.
Each value is the median of the rounds, with the smallest and the largest beside it.
The server keeps `fsync` and `synchronous_commit` on; client and server share the machine.

*Steady*: the buyers' counters are there, as they are for most leads of a day.
*Cold*: each lead is of a kind that was never seen, so that most are the first of their buyers' windows,
and their counters are made and counted anew; the column of new counters says how many were, since a small world
soon has no such leads left.
*Two bare trips*: read the lead by its key, then one guarded UPDATE; nobody who decides outside SQL can do with less.
*Unbatched*: our own router, a transaction and a connection a lead.
The peers' sources are in `bench/peers`; they record no decisions and know no exclusivities.
Before anything was measured all of them gave the same leads to the same buyers.
"""
PLOTS = {
    "latency.svg": "Milliseconds of a call, one after another",
    "throughput.svg": "Leads a second by callers",
    "growth.svg": "Microseconds of a decision by size of the tables",
}


def machine(postgres: str, plan: str) -> dict[str, Any]:
    """What it was measured on."""
    return {
        "plan": plan,
        "system": platform.system(),
        "processors": os.cpu_count(),
        "python": platform.python_version(),
        "postgresql": postgres,
        "load": round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None,
    }


def show(figures: Figures, console: Console) -> None:
    """The goals as a table."""
    table = Table("", "measured", "smallest", "largest", "goal", "")
    for goal, value, met in judge(figures):
        marks = {None: "", True: "[green]met", False: "[red]missed"}
        table.add_row(goal.what, *map(_number, value), goal.bound, marks[met])
    console.print(table)


def as_json(figures: Figures, about: dict[str, Any]) -> str:
    """Everything, for a program."""
    goals = [
        {"what": goal.what, "value": value.median, "low": value.low, "high": value.high, "goal": goal.bound, "met": met}
        for goal, value, met in judge(figures)
    ]
    return json.dumps({"machine": about, "goals": goals, "figures": figures.values}, indent=2, ensure_ascii=False)


def write(figures: Figures, about: dict[str, Any], path: Path) -> None:
    """The report as Markdown, with its plots beside it in `benchmarks/`."""
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    plots = dict(draw(figures))
    for name, text in plots.items():
        (folder / name).write_text(text, "utf-8", newline="\n")
    path.write_text("\n".join(_lines(figures, about, folder.name, list(plots))), "utf-8", newline="\n")


def draw(figures: Figures) -> Iterator[tuple[str, str]]:
    """Name and text of each plot whose figures are there."""
    sequential = figures.values.get(workloads.SEQUENTIAL, {})
    if sequential:
        shares = ("p50", "p95", "p99")
        bars = {
            share: {name: figures.spread(workloads.SEQUENTIAL, name, share) for name in sequential} for share in shares
        }
        yield "latency.svg", bar_plot(PLOTS["latency.svg"], "ms", bars)
    if lines := dict(_by_callers(figures)):
        yield "throughput.svg", line_plot(PLOTS["throughput.svg"], "callers", "leads a second", lines)
    if lines := dict(_by_size(figures)):
        yield "growth.svg", line_plot(PLOTS["growth.svg"], "buyers, ten areas each", "µs", lines)


def _by_callers(figures: Figures) -> Iterator[tuple[str, list[tuple[float, Spread]]]]:
    for name in (*workloads.FLOORS, *workloads.PEERS):
        points = [
            (float(callers), figures.spread(workload, name, "rate"))
            for callers in workloads.LEVELS
            if figures.has(workload := workloads.callers_name("steady", callers), name, "rate")
        ]
        if points:
            yield name, points


def _by_size(figures: Figures) -> Iterator[tuple[str, list[tuple[float, Spread]]]]:
    for strategy in STRATEGIES:
        workload = f"growth, {strategy}"
        points = [
            (float(size.split()[0].replace(",", "")), figures.spread(workload, size, "cold"))
            for size in figures.values.get(workload, {})
        ]
        if len(points) > 1:
            yield strategy, points


def _lines(figures: Figures, about: dict[str, Any], folder: str, plots: Sequence[str]) -> Iterator[str]:
    yield HEAD
    yield (
        f"Made by `python -m bench {about['plan']}` on {about['system']} with {about['processors']} processors, "
        f"Python {about['python']}, PostgreSQL {about['postgresql']}; the load when the run began: {about['load']}."
    )
    yield "\n## Goals\n"
    yield "| | measured | from | to | goal | |\n|---|---|---|---|---|---|"
    yield from (_verdict(verdict) for verdict in judge(figures))
    yield "\n## Plots"
    for name in plots:
        yield f"\n![{PLOTS[name]}]({folder}/{name})"
    yield "\n## Figures"
    for workload, subjects in figures.values.items():
        yield f"\n### {workload[0].upper()}{workload[1:]}\n"
        yield from _table(figures, workload, subjects)
    yield ""


def _verdict(verdict: Verdict) -> str:
    goal, value, met = verdict
    measured = [_number(part) for part in value]
    words = {None: "", True: "met", False: "**missed**"}
    unit = "" if goal.unit == "x" else f" {goal.unit}"
    return f"| {goal.what} | {measured[0]}{unit} | {measured[1]} | {measured[2]} | {goal.bound} | {words[met]} |"


def _table(figures: Figures, workload: str, subjects: Iterable[str]) -> Iterator[str]:
    metrics = list(dict.fromkeys(metric for subject in subjects for metric in figures.values[workload][subject]))
    named = [NAMES[metric] for metric in metrics]
    yield "| | " + " | ".join(named) + " |"
    yield "|---" * (len(metrics) + 1) + "|"
    for subject in subjects:
        cells = (_cell(figures, workload, subject, metric) for metric in metrics)
        yield f"| {subject} | " + " | ".join(cells) + " |"


def _cell(figures: Figures, workload: str, subject: str, metric: str) -> str:
    if not figures.has(workload, subject, metric):
        return ""
    median, low, high = map(_number, figures.spread(workload, subject, metric))
    return median if low == high else f"{median} ({low} to {high})"


def _number(value: float) -> str:
    """Three digits that matter."""
    if value >= 1_000:
        return f"{value:,.0f}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"

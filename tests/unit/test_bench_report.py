"""The bench's report: what it makes of figures, so that a goal that is missed is said to be."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from bench import report
from bench.figures import Figures, Spread, percentiles
from bench.goals import judge
from bench.plots import bar_plot, line_plot
from bench.workloads import BARE, ORM, OURS, SEQUENTIAL, callers_name
from bench.worlds import BenchWorld, Form

ABOUT = {"plan": "--quick", "system": "Linux", "processors": 2, "python": "3.11", "postgresql": "15", "load": 0.1}


def some_figures() -> Figures:
    """Ours needs twice as long as the bare trips do, alone; at once, it does three times as much."""
    figures = Figures()
    for drift in (1.0, 4.0, 2.0):
        for name, milliseconds in ((OURS, 1.0), (BARE, 0.5), (ORM, 20.0)):
            times = [milliseconds * drift * (1 + share / 100) for share in range(100)]
            figures.note(SEQUENTIAL, name, **percentiles(times))
            figures.note(callers_name("steady", 50), name, rate=1_500 / milliseconds ** (name != BARE) / drift)
    return figures


def test_a_ratio_is_taken_round_by_round_so_that_drift_goes_out() -> None:
    figures = some_figures()
    assert Spread(2.0, 2.0, 2.0) == figures.ratio((SEQUENTIAL, OURS, "p50"), (SEQUENTIAL, BARE, "p50"))
    assert Spread(3.0, 1.5, 6.0) == figures.spread(SEQUENTIAL, OURS, "p50")


def test_goals_without_figures_are_left_out_and_missed_ones_are_said_to_be() -> None:
    verdicts = {verdict.goal.what: verdict for verdict in judge(some_figures())}
    assert verdicts["one after another, p50, to two bare trips"].met is False
    assert verdicts["faster than SQLAlchemy ORM, one after another, p50"].met is True
    assert "one hot buyer, to unbatched" not in verdicts


def test_the_report_has_a_row_for_each_goal_and_the_plots_beside_it(tmp_path: Path) -> None:
    report.write(some_figures(), ABOUT, tmp_path / "benchmarks.md")
    text = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert "| one after another, p50, to two bare trips | 2 | 2 | 2 | ≤ 1.45 x | **missed** |" in text
    assert "(benchmarks/latency.svg)" in text
    assert {"latency.svg", "throughput.svg"} == {path.name for path in (tmp_path / "benchmarks").iterdir()}
    goals = json.loads(report.as_json(some_figures(), ABOUT))["goals"]
    assert [False, True] == [goal["met"] for goal in goals if "p50" in goal["what"]]


def test_plots_are_xml_and_the_same_each_time() -> None:
    points = {"one & only": [(10.0, Spread(5.0, 4.0, 6.0)), (1_000.0, Spread(50.0, 40.0, 90.0))]}
    bars = {"p50": {"ours": Spread(1.0, 0.9, 1.1), "theirs": Spread(12.0, 11.0, 13.0)}}
    for drawn in (lambda: line_plot("t", "x", "y", points), lambda: bar_plot("t", "y", bars)):
        assert drawn() == drawn()
        assert ElementTree.fromstring(drawn()).tag.endswith("svg")


def test_a_world_is_a_function_of_its_form() -> None:
    first, second = BenchWorld(Form(1_000)), BenchWorld(Form(1_000))
    for rows in ("buyers", "enrollments", "areas"):
        assert list(getattr(first, rows)()) == list(getattr(second, rows)())
    assert first.streams("some", 20) == second.streams("some", 20)
    assert first.buyer_ids != BenchWorld(Form(1_000, seed=2)).buyer_ids

"""The alert rules, the dashboard and the page about them: they can be read, and they name what exists."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pointsman.cache.feed import FeedState
from pointsman.metrics import Metrics
from pointsman.model import Cause

DOCS = Path(__file__).resolve().parents[2] / "docs"
ALERTS = DOCS / "monitoring" / "alerts.yml"
DASHBOARD = DOCS / "monitoring" / "dashboard.json"


def metrics() -> dict[str, dict[str, set[str]]]:
    """Every name that Prometheus keeps a sample under, and the values of its labels."""
    found: dict[str, dict[str, set[str]]] = {}
    made = Metrics(FeedState)
    for family in made.registry.collect():
        labels: dict[str, set[str]] = {}
        for sample in family.samples:
            for label, value in sample.labels.items():
                labels.setdefault(label, set()).add(value)
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(family.type, ("",))
        found |= {family.name + ending: labels for ending in endings}
    found["pointsman_feed_state"] = {"state": set(FeedState)}
    return found


def expressions() -> Iterator[str]:
    """Every query of the alert rules and the dashboard."""
    for group in yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    for panel in json.loads(DASHBOARD.read_text("utf-8"))["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))


@pytest.mark.parametrize("query", list(expressions()))
def test_a_query_names_metrics_and_values_of_labels_that_exist(query: str) -> None:
    known = metrics()
    used = re.findall(r"\b(pointsman_\w+)(?:\{([^}]*)\})?", query)
    assert used
    for name, selector in used:
        assert name in known
        for label, operator, value in re.findall(r'(\w+)(=~|!~|!=|=)"([^"]*)"', selector):
            if label != "instance":
                values = known[name][label]
                assert any(re.fullmatch(value, one) if "~" in operator else value == one for one in values), value
    for labels in re.findall(r"by \(([^)]*)\)", query):
        of_all = {"instance", *(label for name, _ in used for label in known[name]), "le", "kind"}
        assert set(labels.split(", ")) <= of_all


def test_every_metric_is_on_the_dashboard_and_on_the_page() -> None:
    names = {re.sub(r"_(bucket|sum|count)$", "", name) for name in metrics()}
    shown = DASHBOARD.read_text("utf-8")
    described = (DOCS / "monitoring.md").read_text("utf-8")
    assert sorted(name for name in names if name not in shown) == []
    assert sorted(name for name in names if f"`{name}`" not in described) == []


def test_every_alert_says_how_grave_it_is_what_it_means_and_what_to_do() -> None:
    (group,) = yaml.safe_load(ALERTS.read_text("utf-8"))["groups"]
    for rule in group["rules"]:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert {"summary", "description"} == set(rule["annotations"])


def test_panels_have_titles_descriptions_and_places_of_their_own() -> None:
    panels = json.loads(DASHBOARD.read_text("utf-8"))["panels"]
    assert len({panel["id"] for panel in panels}) == len({panel["title"] for panel in panels}) == len(panels)
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")
    places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels]
    assert len(set(places)) == len(places)


def test_causes_are_told_apart() -> None:
    assert set(Cause) <= metrics()["pointsman_outcomes_total"]["cause"]


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, of Prometheus, is not installed")
def test_promtool_takes_the_alert_rules() -> None:
    checked = subprocess.run(["promtool", "check", "rules", str(ALERTS)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr

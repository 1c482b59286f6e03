"""What was measured, and ratios of it: one value a round, medians and spreads over the rounds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import NamedTuple

Series = dict[str, list[float]]


class Spread(NamedTuple):
    """The median of several values, the smallest and the largest."""

    median: float
    low: float
    high: float


class Figures:
    """Values by workload, subject and metric, in the order of the rounds."""

    def __init__(self, values: dict[str, dict[str, Series]] | None = None) -> None:
        self.values: dict[str, dict[str, Series]] = values or {}

    def note(self, workload: str, subject: str, **metrics: float) -> None:
        """Add a round's values."""
        series = self.values.setdefault(workload, {}).setdefault(subject, {})
        for metric, value in metrics.items():
            series.setdefault(metric, []).append(value)

    def add(self, values: dict[str, dict[str, Series]]) -> None:
        """Add what another process has measured."""
        for workload, subjects in values.items():
            for subject, series in subjects.items():
                for metric, rounds in series.items():
                    for value in rounds:
                        self.note(workload, subject, **{metric: value})

    def has(self, workload: str, subject: str, metric: str) -> bool:
        return metric in self.values.get(workload, {}).get(subject, {})

    def spread(self, workload: str, subject: str, metric: str) -> Spread:
        """What a subject needed or did."""
        return spread(self.values[workload][subject][metric])

    def ratio(self, ours: tuple[str, str, str], other: tuple[str, str, str]) -> Spread:
        """The first by the second, round by round."""
        first, second = (self.values[workload][subject][metric] for workload, subject, metric in (ours, other))
        return spread([one / two for one, two in zip(first, second, strict=False)])

    def rows(self) -> Iterator[tuple[str, str, str, Spread]]:
        """Every series: workload, subject, metric, and what it comes to."""
        for workload, subjects in self.values.items():
            for subject, series in subjects.items():
                for metric, values in series.items():
                    yield workload, subject, metric, spread(values)


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    return Spread(statistics.median(values), min(values), max(values))


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 of single calls."""
    ordered = sorted(times)
    return {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 95, 99)}

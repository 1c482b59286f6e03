"""What the router counts and measures, for Prometheus; every label has few values, which are known beforehand.

A router has a registry of its own. What is told on a lead's way is kept, and counted a moment later while the router
waits for the database: the library takes some microseconds for each number. Where several processes serve one port,
`pointsman serve --workers` lets them write to common files (prometheus-client's multiprocess mode), and whichever is
asked answers for all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from time import perf_counter
from typing import Any, NamedTuple, NoReturn

import structlog
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from pointsman import errors
from pointsman.errors import PointsmanError
from pointsman.model import Cause, Outcome, OutcomeKind

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Answer = Outcome | PointsmanError
"""What becomes of a lead that was to be routed."""

PHASES = ("read", "decide", "claim", "whole")
PREMISES = ("version", "late", "missing", "alone", "settled", "lead_changed", "after", "caps", "rotation")
"""Why a claim did not hold: of a whole batch the first four, of one lead the others."""
TRIES = ("first", "again", "last_resort")
COUNT_AFTER_SECONDS = 0.002
"""How long what was told waits to be counted: short, so that no lead has what many others told counted beside it."""
TICK_SECONDS = 0.1
TICKS_A_REFRESH = 10

_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_STALLS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
_BATCHES = (1, 2, 5, 10, 20, 50, 100, 200, 500)
_KINDS = tuple(name for name, value in vars(errors).items() if isinstance(value, type))
_INTERNAL = "internal"

log = structlog.get_logger()


class Gauges(NamedTuple):
    """What is true at one moment, to be shown as it is; `connections` are those in use and all."""

    state: str
    version: int
    behind: int
    proof_age: float
    sizes: Mapping[str, int]
    invalid_policies: int
    connections: tuple[int, int]
    queued: int


class Metrics:
    """Counters and histograms that the router writes, and gauges that are brought up to date once a second."""

    def __init__(self, states: Iterable[str] = ()) -> None:
        self.registry = CollectorRegistry()
        self._states = tuple(states)
        self._told: list[tuple[Callable[[Any], object], Any]] = []
        self._counting: asyncio.TimerHandle | None = None

        def counter(name: str, text: str, label: str, values: Iterable[str]) -> dict[str, Counter]:
            made = Counter(name, text, [label], registry=self.registry)
            return {value: made.labels(value) for value in values}

        def gauge(name: str, text: str, mode: Any = "livesum", labels: Iterable[str] = ()) -> Gauge:
            return Gauge(name, text, labels, registry=self.registry, multiprocess_mode=mode)

        def histogram(name: str, text: str, buckets: Iterable[float], labels: Iterable[str] = ()) -> Histogram:
            return Histogram(name, text, labels, registry=self.registry, buckets=tuple(buckets))

        outcomes = Counter(
            "pointsman_outcomes",
            "Leads that were answered for, by outcome and cause; a lead counts once in a batch.",
            ["outcome", "cause"],
            registry=self.registry,
        )
        self._outcomes = {
            (kind, cause): outcomes.labels(kind, cause or "")
            for kind in OutcomeKind
            for cause in (tuple(Cause) if kind is OutcomeKind.NO_ROUTE else (None,))
        }
        self._errors = counter(
            "pointsman_errors", "Leads that got an error, by its kind.", "kind", (*_KINDS, _INTERNAL)
        )
        phases = histogram(
            "pointsman_phase_seconds",
            "How long a batch took: to read, decide and claim (each try), and from the first call to the answers.",
            _SECONDS,
            ["phase"],
        )
        self.read, self.decide, self.claim, self._whole = (phases.labels(phase) for phase in PHASES)
        self._batch_size = histogram("pointsman_batch_leads", "Leads in a batch.", _BATCHES)
        self._conflicts = counter(
            "pointsman_conflicts", "Claims that did not hold, by the premise that had moved.", "premise", PREMISES
        )
        self._tries = tuple(counter("pointsman_tries", "Tries of batches, by kind.", "kind", TRIES).values())
        self.loads = Counter(
            "pointsman_config_loads", "How often the configuration was loaded whole.", registry=self.registry
        )
        self.changes = Counter(
            "pointsman_config_changes", "Changed rows that were applied to the cache.", registry=self.registry
        )
        self.feed_breaks = Counter(
            "pointsman_feed_breaks", "How often the configuration feed broke off.", registry=self.registry
        )
        self.catching_up = histogram(
            "pointsman_catch_up_seconds", "How long it took to apply what was committed.", _SECONDS
        )
        self.stalls = histogram(
            "pointsman_event_loop_stall_seconds", "By how much the event loop was late, looked at ten times a second.",
            _STALLS,
        )  # fmt: skip
        self._state = gauge("pointsman_feed_state", "Processes whose feed is in this state.", labels=["state"])
        self._version = gauge("pointsman_config_version", "The config version of the cache.", "livemin")
        self._behind = gauge(
            "pointsman_config_versions_behind", "Versions that are known of and not applied yet.", "livemax"
        )
        self._proof_age = gauge(
            "pointsman_proof_age_seconds", "Since when the cache's version was proved to be the newest.", "livemax"
        )
        self._rows = gauge("pointsman_cache_rows", "Rows in force in the cache.", "livemax", ["kind"])
        self._invalid = gauge("pointsman_invalid_policies", "Policies that cannot be used.", "livemax")
        self._in_use = gauge("pointsman_connections_in_use", "Connections that leads are routed on just now.")
        self._open = gauge("pointsman_connections_open", "Connections to the database for leads.")
        self._queued = gauge("pointsman_queued_leads", "Calls that wait for the next batch.")

    # what the router tells

    def tried(self, attempt: int) -> None:
        """A batch is tried, for the first time with attempt 0."""
        self._tell(self._tries[attempt].inc, 1)

    def took(self, phase: Histogram, since: float) -> None:
        """A phase that began at `since` is over."""
        self._tell(phase.observe, perf_counter() - since)

    def flushed(self, leads: int, answers: Collection[Answer], failure: Exception, since: float) -> None:
        """A batch whose first call came at `since` was answered; those without an answer of their own got `failure`."""
        self._tell(self._batch_size.observe, leads)
        self.answered(answers, since)
        if leads > len(answers):
            self._tell(self._errors[_kind(type(failure))].inc, leads - len(answers))

    def answered(self, answers: Collection[Answer], since: float) -> None:
        """Leads were answered for, in a batch or inside a caller's transaction."""
        self.took(self._whole, since)
        self._tell(self._count, answers)

    def conflicted(self, failed: Mapping[str, Any]) -> None:
        """A claim did not hold, in the claim's own words."""
        for premise, details in failed.items():
            for moved in details.values() if isinstance(details, dict) else (premise,):
                if moved in self._conflicts:  # a function of a later release may know more of them
                    self._conflicts[moved].inc()

    def _tell(self, count: Callable[[Any], object], value: Any) -> None:
        self._told.append((count, value))
        if self._counting is None:
            self._counting = asyncio.get_running_loop().call_later(COUNT_AFTER_SECONDS, self._count_told)

    def _count_told(self) -> None:
        if self._counting is not None:
            self._counting.cancel()
        told, self._told, self._counting = self._told, [], None
        for count, value in told:
            count(value)

    def _count(self, answers: Collection[Answer]) -> None:
        for answer in answers:
            if isinstance(answer, Outcome):
                self._outcomes[answer.outcome, answer.cause].inc()
            else:
                self._errors[_kind(type(answer))].inc()

    # what is read

    def refresh(self, now: Gauges) -> None:
        """Show what is true now."""
        for state in self._states:
            self._state.labels(state).set(state == now.state)
        for kind, rows in now.sizes.items():
            self._rows.labels(kind).set(rows)
        self._version.set(now.version)
        self._behind.set(now.behind)
        self._proof_age.set(now.proof_age)
        self._invalid.set(now.invalid_policies)
        self._in_use.set(now.connections[0])
        self._open.set(now.connections[1])
        self._queued.set(now.queued)

    def exposition(self) -> bytes:
        """All of it in Prometheus' text format, of every process where they write to common files."""
        self._count_told()
        everyone = CollectorRegistry()
        try:
            MultiProcessCollector(everyone)  # type: ignore[no-untyped-call]
        except ValueError:  # there are no common files
            everyone = self.registry
        return generate_latest(everyone)

    async def watch(self, gauges: Callable[[], Gauges]) -> NoReturn:
        """Measure by how much the event loop is late, and keep the gauges up to date, for ever.

        Gauges that cannot be read are left as they are, which the log says once, until they can be read again.
        """
        ticks, is_told = 0, False
        while True:
            if ticks % TICKS_A_REFRESH == 0:
                try:
                    self.refresh(gauges())
                    is_told = False
                except Exception:  # whatever it was: nobody would notice that the watch has ended
                    if not is_told:
                        log.warning("gauges cannot be brought up to date, and show what was before", exc_info=True)
                    is_told = True
            ticks += 1
            due = perf_counter() + TICK_SECONDS
            await asyncio.sleep(TICK_SECONDS)
            self.stalls.observe(max(0.0, perf_counter() - due))


def _kind(error: type[Exception]) -> str:
    """The name of the nearest of our errors that callers know."""
    return next((base.__name__ for base in error.__mro__ if base.__name__ in _KINDS), _INTERNAL)

"""Metrics, spans and log lines of a router at work: what is counted, under which few labels, and what costs nothing."""

from __future__ import annotations

import asyncio
import time
from typing import Any
from uuid import uuid4

import asyncpg
import pytest
import structlog
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import CapturingLoggerFactory, capture_logs

from pointsman import Router, tracing
from pointsman.api import create_app
from pointsman.cache.feed import FeedState
from pointsman.metrics import PREMISES, TRIES, Gauges, Metrics
from tests.builders import make_candidate, make_lead, make_offer, make_policy
from tests.http_client import client_of
from tests.stage import end_sessions, follows, until


def samples(router: Router) -> dict[tuple[str, ...], float]:
    """Every sample by its name and the values of its labels, in the order of their names."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(router.exposition().decode())
        for sample in family.samples
    }


async def test_a_batch_is_one_observation_of_each_phase_and_its_leads_are_counted(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_policy(connection, offer_id=offer)
    await make_candidate(connection, offer)
    leads = [await make_lead(connection, offer) for _ in range(3)]
    nobodys = await make_lead(connection, None)
    async with Router.open(database) as router:
        await router.route_many([*leads, nobodys, uuid4()])
        await router.route(leads[0])
        found = samples(router)
    assert (3, 1, 1) == tuple(
        found["pointsman_outcomes_total", *labels]
        for labels in (("", "routed"), ("", "already_routed"), ("no_policy", "no_route"))
    )
    assert found["pointsman_errors_total", "LeadNotFound"] == 1
    assert found["pointsman_batch_leads_sum",] == 6
    assert found["pointsman_phase_seconds_count", "whole"] == 2
    tries = sum(found["pointsman_tries_total", kind] for kind in TRIES)
    assert (tries, tries - 1, tries - 1) == tuple(
        found["pointsman_phase_seconds_count", phase] for phase in ("read", "decide", "claim")
    )


async def test_gauges_show_the_cache_the_connections_and_the_feed(
    database: str, connection: asyncpg.Connection
) -> None:
    await make_candidate(connection, await make_offer(connection))
    await make_policy(connection, rules={"strategy": "best"})
    async with Router.open(database) as router:
        await follows(router, connection)
        found = samples(router)
        assert found["pointsman_config_version",] == router.cache.version
    assert [1, 1, 1, 1] == [
        found["pointsman_cache_rows", kind] for kind in ("offers", "buyers", "enrollments", "policies")
    ]
    assert [0, 1, 0, 0] == [found["pointsman_feed_state", state] for state in FeedState]
    assert (1, 0, 0) == tuple(
        found[name,]
        for name in ("pointsman_invalid_policies", "pointsman_config_versions_behind", "pointsman_queued_leads")
    )
    assert 0 <= found["pointsman_proof_age_seconds",] < 5
    assert found["pointsman_connections_open",] >= 1 > found["pointsman_connections_in_use",]


async def test_a_conflict_is_counted_by_its_premise_and_another_try_follows(
    database: str, connection: asyncpg.Connection
) -> None:
    offer = await make_offer(connection)
    await make_policy(connection)
    buyer = await make_candidate(connection, offer, daily_cap=2)
    leads = [await make_lead(connection, offer) for _ in range(3)]
    async with Router.open(database) as router, Router.open(database) as other:
        await router.route(leads[0])
        await other.route(leads[1])
        assert (await router.route(leads[2])).buyer_id is None
        found = samples(router)
    assert buyer is not None
    assert sum(found["pointsman_conflicts_total", premise] for premise in PREMISES) >= 1
    assert found["pointsman_tries_total", "again"] >= 1


async def test_a_feed_that_breaks_off_is_counted(database: str, connection: asyncpg.Connection) -> None:
    async with Router.open(database) as router:
        await end_sessions(connection)

        async def broke() -> bool:
            return samples(router)["pointsman_feed_breaks_total",] >= 1

        await until(broke, "a broken feed")


async def test_a_loop_that_stood_still_is_seen(database: str) -> None:
    async with Router.open(database) as router:
        await asyncio.sleep(0)  # so that the watch has begun
        time.sleep(0.35)  # noqa: ASYNC251 - the stall itself

        async def seen() -> bool:
            found = samples(router)
            return (
                found["pointsman_event_loop_stall_seconds_count",]
                > found["pointsman_event_loop_stall_seconds_bucket", "0.1"]
            )

        await until(seen, "a stall")


async def test_a_gauge_that_cannot_be_read_is_told_once_and_the_watch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pointsman.metrics.TICK_SECONDS", 0)
    metrics, asked, shown = Metrics(FeedState), 0, asyncio.Event()

    def gauges() -> Gauges:
        nonlocal asked
        asked += 1
        if asked in (1, 2, 4):
            raise KeyError("sizes")
        if asked > 4:
            shown.set()
        return Gauges("fresh", asked, 0, 0.0, {}, 0, (0, 0), 0)

    with capture_logs() as lines:
        watch = asyncio.create_task(metrics.watch(gauges))
        try:
            await asyncio.wait_for(shown.wait(), 10)
        finally:
            watch.cancel()
    assert 2 == len(lines) == len([line for line in lines if "gauges" in line["event"] and line["exc_info"]])
    assert metrics.registry.get_sample_value("pointsman_config_version") >= 5
    assert metrics.registry.get_sample_value("pointsman_event_loop_stall_seconds_count") >= 40


async def test_label_values_are_few_and_known_beforehand(database: str) -> None:
    names = [sample[0] for sample in samples_of(Metrics(FeedState))]
    async with Router.open(database) as router:
        await asyncio.gather(*(router.route_many([uuid4()]) for _ in range(20)))
        afterwards = samples(router)
    assert len(afterwards) - len(names) <= len(FeedState) + 6  # states of the feed and kinds of rows
    assert len(TRIES) == len([name for name in names if name == "pointsman_tries_total"])


def samples_of(metrics: Metrics) -> list[tuple[Any, ...]]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return [(sample.name, sample.labels) for family in families for sample in family.samples]


# spans


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


async def test_with_a_provider_a_route_and_the_phases_of_its_batch_are_spans(
    database: str, connection: asyncpg.Connection, spans: InMemorySpanExporter
) -> None:
    lead = await make_lead(connection, None)
    async with Router.open(database) as router:
        await router.route(lead)
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert {"pointsman.route", "pointsman.batch", "pointsman.read", "pointsman.decide", "pointsman.claim"} == set(
        by_name
    )
    assert {
        "pointsman.lead_id": str(lead),
        "pointsman.outcome": "no_route",
        "pointsman.cause": "no_policy",
    } == dict(by_name["pointsman.route"].attributes or {})
    batch = by_name["pointsman.batch"].context
    for phase in ("read", "decide", "claim"):
        parent = by_name[f"pointsman.{phase}"].parent
        assert parent is not None
        assert parent.span_id == batch.span_id
    assert by_name["pointsman.batch"].parent is None  # a batch is of many callers


async def test_calls_over_http_have_spans_of_fastapi_s_too_which_name_the_route(
    database: str, connection: asyncpg.Connection, spans: InMemorySpanExporter
) -> None:
    lead = await make_lead(connection, None)
    async with client_of(create_app(dsn=database)) as client:
        assert (await client.post(f"/v1/leads/{lead}/route")).status_code == 200
    by_name = {span.name: span for span in spans.get_finished_spans()}
    assert {"POST /v1/leads/{lead_id}/route", "pointsman.route"} <= set(by_name)


def test_without_the_api_or_a_provider_there_are_no_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tracing.traced("pointsman.route", str.upper) is str.upper
    monkeypatch.setattr(tracing, "trace", None)
    assert tracing.traced("pointsman.route", str.upper) is str.upper


# lines


@pytest.mark.parametrize(("level", "lines"), [("debug", 2), ("info", 0)])
async def test_a_decision_is_one_line_at_debug_and_none_at_info_with_the_callers_request_id(
    level: str, lines: int, database: str, connection: asyncpg.Connection
) -> None:
    lead = await make_lead(connection, None)
    captured = CapturingLoggerFactory()
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, structlog.processors.KeyValueRenderer()],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=captured,
    )
    try:
        async with Router.open(database) as router:
            with structlog.contextvars.bound_contextvars(request_id="r-1"):
                await router.route(lead)
            await router.route_many([lead])
    finally:
        structlog.reset_defaults()
    told = [call.args[0] for call in captured.logger.calls if str(lead) in call.args[0]]
    assert lines == len(told)
    assert (lines and 1) == len([line for line in told if "request_id='r-1'" in line])


async def test_a_host_without_a_set_up_log_hears_nothing_of_decisions(
    database: str, connection: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    lead = await make_lead(connection, None)
    async with Router.open(database) as router:
        await router.route(lead)
    assert ("", "") == tuple(capsys.readouterr())

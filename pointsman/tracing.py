"""OpenTelemetry's spans, for whoever has the API (`pointsman[otel]`) and a provider; otherwise nothing, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from uuid import UUID

from pointsman.errors import PointsmanError
from pointsman.model import Outcome

try:
    from opentelemetry import trace
except ModuleNotFoundError:  # the optional extra
    trace = None  # type: ignore[assignment]

Spans = Callable[[str], AbstractContextManager[Any]]
"""Called with a span's name, it gives the context in which that is the current span; as which it enters, or as None."""


def spans() -> Spans:
    """Spans of the provider that is set now; without one, or without the API, contexts that do nothing."""
    if trace is None or isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider):
        nothing = nullcontext()
        return lambda _: nothing
    return trace.get_tracer("pointsman").start_as_current_span


def describe(span: Any, lead_id: UUID, answer: Outcome | PointsmanError) -> None:
    """Put the lead and what came of it on its span."""
    span.set_attribute("pointsman.lead_id", str(lead_id))
    if isinstance(answer, Outcome):
        span.set_attribute("pointsman.outcome", str(answer.outcome))
        if answer.cause is not None:
            span.set_attribute("pointsman.cause", str(answer.cause))

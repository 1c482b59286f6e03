"""OpenTelemetry's spans, for whoever has the API (`pointsman[otel]`) and a provider; otherwise nothing, at no cost."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar
from uuid import UUID

from pointsman.model import Outcome

try:
    from opentelemetry import trace
except ModuleNotFoundError:  # the optional extra
    trace = None  # type: ignore[assignment]

Call = TypeVar("Call", bound=Callable[..., Any])


def is_on() -> bool:
    """Whether there is a provider, as of now."""
    return trace is not None and not isinstance(
        trace.get_tracer_provider(), trace.ProxyTracerProvider | trace.NoOpTracerProvider
    )


def traced(name: str, call: Call) -> Call:
    """`call` within a span of its own; where there is no provider, `call` itself."""
    if not is_on():
        return call
    spanned: Call = trace.get_tracer("pointsman").start_as_current_span(name)(call)
    return spanned


def told(route: Callable[..., Awaitable[Outcome]]) -> Callable[..., Awaitable[Outcome]]:
    """`route`, with the lead and what came of it put on the span that it is called in."""

    async def telling(lead_id: UUID | str, **options: Any) -> Outcome:
        span = trace.get_current_span()
        span.set_attribute("pointsman.lead_id", str(lead_id))
        outcome = await route(lead_id, **options)
        span.set_attribute("pointsman.outcome", str(outcome.outcome))
        if outcome.cause is not None:
            span.set_attribute("pointsman.cause", str(outcome.cause))
        return outcome

    return telling

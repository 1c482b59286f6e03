"""OpenTelemetry's spans, for whoever has the API (`pointsman[otel]`) and a provider; otherwise nothing, at no cost."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
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


def traced(name: str, call: Call, tell: Callable[..., None] = lambda *_: None) -> Call:
    """`call` within a span of its own; where there is no provider, `call` itself.

    `tell` gets the span and the arguments before, and the span and what came of them afterwards.
    """
    if not is_on():
        return call
    start = trace.get_tracer("pointsman").start_as_current_span

    @wraps(call)
    def spanned(*arguments: Any, **options: Any) -> Any:
        with start(name) as span:
            tell(span, *arguments)
            answer = call(*arguments, **options)
            tell(span, answer)
            return answer

    @wraps(call)
    async def spanned_wait(*arguments: Any, **options: Any) -> Any:
        with start(name) as span:
            tell(span, *arguments)
            answer = await call(*arguments, **options)
            tell(span, answer)
            return answer

    return spanned_wait if iscoroutinefunction(call) else spanned  # type: ignore[return-value]


def tell_of_route(span: Any, what: UUID | str | Outcome) -> None:
    """Put a lead's id on its span, or what came of it."""
    if isinstance(what, Outcome):
        span.set_attribute("pointsman.outcome", str(what.outcome))
        if what.cause is not None:
            span.set_attribute("pointsman.cause", str(what.cause))
    else:
        span.set_attribute("pointsman.lead_id", str(what))

"""The log of the service and the command line: lines on stderr, for people or for programs.

Set up at the rim alone: a host's application keeps the logging that it has. The libraries underneath, which log in the
standard library's way, come out in the same form.
"""

from __future__ import annotations

import logging
import sys
from enum import StrEnum
from typing import Any

import structlog
from structlog.stdlib import ProcessorFormatter
from structlog.tracebacks import ExceptionDictTransformer

_OWN = "pointsman"


class LogFormat(StrEnum):
    """What a line looks like."""

    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """What is worth a line."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def configure(form: LogFormat = LogFormat.CONSOLE, level: LogLevel = LogLevel.INFO) -> None:
    """Log our own lines from `level` on, and those of others from warnings on."""
    ours: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*ours, ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        ProcessorFormatter(
            foreign_pre_chain=ours, processors=[ProcessorFormatter.remove_processors_meta, *_rendered(form)]
        )
    )
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)
    logging.getLogger(_OWN).setLevel(number)


def _rendered(form: LogFormat) -> list[Any]:
    if form is LogFormat.JSON:
        traces = ExceptionDictTransformer(show_locals=False)  # which can hold passwords and leads
        return [structlog.processors.ExceptionRenderer(traces), structlog.processors.JSONRenderer()]
    return [
        structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)
    ]

"""The log's lines as the service writes them, each test in a process of its own, since a log is set up once."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

SCRIPT = """
import logging, structlog
from pointsman import logs
logs.configure(logs.LogFormat("{form}"), logs.LogLevel("{level}"))
structlog.contextvars.bind_contextvars(request_id="r-1")
log = structlog.get_logger("pointsman.router")
log.debug("decided", lead_id="7")
log.info("said")
log.warning("the database is away", error="refused")
logging.getLogger("uvicorn.error").info("Started server process")
def fail(password):
    raise RuntimeError("a bug")
try:
    fail("hunter2")
except RuntimeError:
    logging.getLogger("uvicorn.error").exception("Exception in ASGI application")
"""


def lines(form: str, level: str) -> list[str]:
    script = SCRIPT.format(form=form, level=level)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == ""
    assert "hunter2" not in ran.stderr.replace('fail("hunter2")', "")
    return ran.stderr.splitlines()


@pytest.mark.parametrize(
    ("level", "events"),
    [
        ("debug", ["decided", "said", "the database is away", "Exception in ASGI application"]),
        ("info", ["said", "the database is away", "Exception in ASGI application"]),
        ("warning", ["the database is away", "Exception in ASGI application"]),
        ("error", ["Exception in ASGI application"]),
    ],
)
def test_json_is_one_object_a_line_from_the_level_on(level: str, events: list[str]) -> None:
    found = [json.loads(line) for line in lines("json", level)]
    assert events == [line["event"] for line in found]
    assert {"r-1"} == {line["request_id"] for line in found}
    assert all({"timestamp", "level", "logger"} <= set(line) for line in found)
    assert found[-1]["exception"][0]["exc_value"] == "a bug"


def test_the_console_is_for_people_and_has_no_colours_in_a_file() -> None:
    told = lines("console", "info")
    assert any("the database is away" in line and "request_id=r-1" in line for line in told)
    assert any("RuntimeError: a bug" in line for line in told)
    assert "\x1b" not in "".join(told)

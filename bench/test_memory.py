"""What the parts in memory cost: `python -m pytest bench --no-cov`. Nothing here asserts a time."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from pointsman import world
from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.claim import Batch, Beliefs
from pointsman.engine.capacity import State
from pointsman.engine.decide import decide
from pointsman.model import Lead, micros
from pointsman.store import Version

VERSION = Version(1, UUID(int=1))
NOW = datetime(2026, 6, 10, 17, 0, tzinfo=UTC)


def image(row: Any) -> dict[str, Any]:
    """The image that the triggers would write of a row of the world."""
    columns = row._asdict()
    if "balance" in columns:
        floor = columns["min_balance"]
        columns["funded"] = floor is None or columns["balance"] >= floor
    for column, source in (("enrolled_at", "created_at"), ("valid_from", "valid_from"), ("valid_to", "valid_to")):
        if source in columns:
            columns[column] = None if columns[source] is None else micros(columns[source])
    return columns


@pytest.fixture(scope="module")
def made() -> world.World:
    return world.build(1)


@pytest.fixture(scope="module")
def changes(made: world.World) -> list[Change]:
    return [Change(table, "", image(row)) for table in TABLES for row in getattr(made, table)]


@pytest.fixture(scope="module")
def indexes(changes: list[Change]) -> Indexes:
    loaded = Indexes(*VERSION)
    for change in changes:
        loaded.apply(change, VERSION.number)
    return loaded


@pytest.fixture(scope="module")
def leads(made: world.World) -> list[Lead]:
    return [Lead(*row[:6]) for row in world.leads(made, 1_000, 2)]


@pytest.mark.benchmark(group="load")
def test_load_of_the_demo_s_world(benchmark: Any, changes: list[Change]) -> None:
    def load() -> int:
        loaded = Indexes(*VERSION)
        for change in changes:
            loaded.apply(change, VERSION.number)
        return len(loaded.areas)

    assert benchmark(load)


@pytest.mark.benchmark(group="1,000 leads")
def test_candidates_of_1_000_leads(benchmark: Any, indexes: Indexes, leads: list[Lead]) -> None:
    assert benchmark(lambda: sum(len(indexes.covering(lead)) for lead in leads))


@pytest.mark.benchmark(group="1,000 leads")
def test_decisions_on_1_000_leads(benchmark: Any, indexes: Indexes, leads: list[Lead]) -> None:
    state, at = State(), micros(NOW)
    assert benchmark(lambda: sum(decide(lead, indexes, state, at).winner is not None for lead in leads))


@pytest.mark.benchmark(group="1,000 leads")
def test_batches_of_50_of_1_000_leads_up_to_the_claim(benchmark: Any, indexes: Indexes, leads: list[Lead]) -> None:
    at = micros(NOW)

    def batches() -> int:
        known = Beliefs()
        sent = 0
        for start in range(0, len(leads), 50):
            batch = Batch(VERSION, NOW, 0, known, known)
            for lead in leads[start : start + 50]:
                batch.add(decide(lead, indexes, batch, at))
            sent += len(batch.arguments()[6])
        return sent

    assert benchmark(batches) == len(leads)

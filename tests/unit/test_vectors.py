"""The golden vectors: the file is what the rules give, whatever the interpreter's mood, and batches do not matter."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from uuid import UUID

import pytest
import tzdata
from hypothesis import given, settings
from hypothesis import strategies as st

from pointsman.cache.indexes import Indexes
from pointsman.claim import Batch, Beliefs
from pointsman.engine.decide import Decision, decide
from pointsman.engine.record import head
from pointsman.model import Lead, micros
from pointsman.store import Version
from tests import golden

from .worlds import (
    MARKET,
    OFFER,
    Image,
    buyer_id,
    candidate,
    exclusivity,
    make_area,
    make_indexes,
    make_lead,
    make_offer,
    make_policy,
    make_rules,
    uid,
)

ROOT = Path(__file__).resolve().parents[2]
NOW = datetime(2026, 6, 10, 12, 0, tzinfo=UTC)
MOODS = [
    ({"PYTHONHASHSEED": "0", "LC_ALL": "C"}, []),
    ({"PYTHONHASHSEED": "1", "TZ": "Pacific/Apia", "PYTHONUTF8": "0"}, ["-O"]),
    ({"PYTHONHASHSEED": "4711", "TZ": "America/Havana", "LC_ALL": "tr_TR.UTF-8"}, ["-OO", "-X", "dev"]),
]


def test_the_file_is_what_its_cases_give() -> None:
    # other releases of Python and tzdata have other data, and the same vectors
    made = json.loads(golden.write())["vectors"]
    assert golden.read()["vectors"] == made, "`python -m tests.golden --write` makes the file anew"


def test_every_outcome_cause_and_strategy_has_a_vector() -> None:
    found = [vector["expected"] for vector in golden.read()["vectors"]]
    assert {"routed", "no_route", "no_route_exclusive_fail_closed"} == {result["outcome"] for result in found}
    assert 7 == len({result["cause"] for result in found})
    assert {"exclusive", "exclusive_fallback", "exclusivity_conflict"} == {
        flag for result in found for flag in result["flags"]
    }
    codes = {reason["code"] for result in found for buyer in result["excluded"] for reason in buyer["reasons"]}
    assert 13 == len(codes)


def test_rows_in_any_order_give_the_vectors() -> None:
    assert [] == golden.wrong(golden.read(), seeds=range(6))


def test_a_vector_that_says_something_else_is_found() -> None:
    document = golden.read()
    document["vectors"][1]["expected"]["digest"] = "00" * 16
    assert [document["vectors"][1]["name"]] == golden.wrong(document)


async def test_interpreters_in_any_mood_give_the_vectors() -> None:
    async def run(variables: dict[str, str], options: list[str]) -> tuple[int | None, bytes]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, *options, "-m", "tests.golden"),
            cwd=ROOT,
            env={**os.environ, **variables},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, _ = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out

    assert [(0, b"")] * len(MOODS) == await asyncio.gather(*(run(*mood) for mood in MOODS))


NEWER = [
    python
    for name in (f"python3.{minor}" for minor in range(sys.version_info.minor + 1, 30))
    for python in (shutil.which(name), *sorted(Path(sys.base_prefix).parent.glob(f"*/bin/{name}")))
    if python is not None
]
"""On the path, and where version managers put them: beside this one."""
ENGINE_ALONE = f"""
import runpy, sys
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
spec = spec_from_file_location("pointsman", {str(ROOT / "pointsman" / "__init__.py")!r})
sys.modules["pointsman"] = module_from_spec(spec)
sys.modules["pyroaring"] = ModuleType("pyroaring")
class BitMap(set):
    def __iter__(self): return iter(sorted(set.__iter__(self)))
    def __and__(self, other): return BitMap(set.__and__(self, other))
    def rank(self, number): return sum(one <= number for one in self)
    def max(self): return max(self)
sys.modules["pyroaring"].BitMap = BitMap
sys.path[:0] = [{str(ROOT)!r}, {str(Path(tzdata.__file__).parents[1])!r}]
runpy.run_module("tests.golden", run_name="__main__")
"""
"""What is built for one Python is left out: the driver, which the package's own module imports, and the bitmaps."""


@pytest.mark.skipif(not NEWER, reason="no newer Python on this machine")
@pytest.mark.parametrize("python", NEWER, ids=str)
async def test_newer_pythons_give_the_vectors(python: str | Path) -> None:
    async def run(*arguments: str) -> tuple[int | None, bytes, bytes]:
        process = await asyncio.create_subprocess_exec(
            *(python, "-B", "-I", *arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
        return process.returncode, out, err

    if (await run("-V"))[0]:
        pytest.skip(f"{python} does not start")
    assert (0, b"", b"") == await run("-c", ENGINE_ALONE)


# batches, and the order of rows

STRATEGIES = ["priority", "rotation", "weighted"]
LEADS = [make_lead(id=uid(1, number), postal_code=f"6060{number % 3}") for number in range(12)]


def rows_of(strategy: str) -> list[tuple[str, Image]]:
    """A configuration in which caps, areas, two policies and two exclusivities of one place matter."""
    rules = make_rules(
        strategy={"kind": strategy},
        tie_breakers=["least_recently_routed", "lead_hash", "buyer_id"],
        exclusivity={"when_ineligible": "fallback_allowed"},
    )
    return [
        ("routing_policies", make_policy(id=uid(0xC, 9), rules=make_rules())),
        ("routing_policies", make_policy(rules=rules, offer_id=OFFER)),
        ("offers", make_offer()),
        *candidate(1, daily_cap=3, weight=5),
        *candidate(2, buyer_hourly_cap=2),
        *candidate(3, weight=2, hourly_cap=4),
        *candidate(4, weight=1, daily_cap=2, area={"scope": "postal_code", "value": "60601"}),
        ("buyer_service_areas", make_area(id=uid(5, 9), buyer_id=buyer_id(4), scope="city", value="chicago")),
        *exclusivity(id=uid(0xD, 1), buyer_id=buyer_id(2), market_id=MARKET, scope="postal_code", value="60602"),
        *exclusivity(id=uid(0xD, 2), buyer_id=buyer_id(3), market_id=MARKET, scope="postal_code", value="60602"),
    ]


@pytest.mark.parametrize("rows", [rows_of(strategy) for strategy in STRATEGIES], ids=STRATEGIES)
@settings(max_examples=40, deadline=None)
@given(data=st.data(), cuts=st.sets(st.integers(1, len(LEADS) - 1)))
def test_any_order_of_rows_and_any_split_into_batches_give_the_same_decisions_and_the_same_records(
    rows: list[tuple[str, Image]], data: st.DataObject, cuts: set[int]
) -> None:
    one_by_one = routed_in(rows, range(len(LEADS) + 1))
    assert {None, *map(buyer_id, range(1, 5))} == {buyer for buyer, _, _ in one_by_one}
    edges = sorted({0, *cuts, len(LEADS)})
    assert one_by_one == routed_in(data.draw(st.permutations(rows)), edges)
    assert one_by_one == routed_in(rows, edges, abreast=True)


def routed_in(
    rows: list[tuple[str, Image]], edges: range | list[int], *, abreast: bool = False
) -> list[tuple[UUID | None, bytes, bytes]]:
    """Winner, head and state of each lead, decided in batches with these edges, claimed one after another.

    Batches that are made `abreast` are decided before the one before them is claimed.
    """
    world = make_indexes(rows)
    known, claimed, before = Beliefs(), list[tuple[UUID | None, bytes, bytes]](), None
    for start, end in pairwise(edges):
        batch = decided(world, known, LEADS[start:end], before)
        if abreast:
            if before is not None:
                claimed += claim_all(before, known, len(claimed))
            assert decided(world, known, LEADS[start:end]).arguments() == batch.arguments()
            before = batch
        else:
            claimed += claim_all(batch, known, len(claimed))
    return claimed if before is None else [*claimed, *claim_all(before, known, len(claimed))]


def decided(world: Indexes, known: Beliefs, leads: Sequence[Lead], before: Batch | None = None) -> Batch:
    """A batch of these leads."""
    batch = Batch(Version(world.version, world.token), NOW, 0, known, known, before)
    for lead in leads:
        batch.add(decide(lead, world, batch, micros(NOW)))
    return batch


def claim_all(batch: Batch, known: Beliefs, last_id: int) -> list[tuple[UUID | None, bytes, bytes]]:
    """The same for a batch, whose first decision's id follows `last_id`."""
    claimed = [claim(decision, known, last_id + place) for place, decision in enumerate(batch.decisions, start=1)]
    for place, decision in enumerate(batch.decisions, start=1):
        if decision.winner is not None:
            batch.served[decision.winner.turn] = last_id + place
    return claimed


def claim(decision: Decision, known: Beliefs, decision_id: int) -> tuple[UUID | None, bytes, bytes]:
    """What the claim would write for a decision, and what it leaves for the next."""
    record = (
        decision.winner and decision.winner.buyer_id,
        head(decision, 7, UUID(int=0)),
        golden.written_state(decision, known),
    )
    for cap in decision.takes:
        known.note(cap, known.usage(cap.counter) + 1)
    if decision.winner is not None:
        known.positions[decision.winner.turn] = decision_id
    return record

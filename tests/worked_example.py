"""`python -m tests.worked_example` writes `docs/example.md`: a lead of the demo's world, decided step by step.

The words of the page are in `worked_example.md` beside this, and every number comes from the world's rows and from the
engine. What the words take for granted of this lead is kept true by `tests/unit/test_worked_example.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

from pointsman import world
from pointsman.cache.indexes import Change, Indexes
from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision, decide
from pointsman.engine.eligibility import is_prompt, reasons
from pointsman.engine.explain import Standing, explain
from pointsman.engine.geo import city
from pointsman.engine.nearest import with_nearest
from pointsman.engine.policy import Rules, read_rules
from pointsman.engine.strategy import Ranking, Score, lead_hash
from pointsman.model import Exclusion, Lead, Outcome, ReasonCode, instant, micros
from pointsman.sentences import needed, sentence
from pointsman.wire import outcome_json
from pointsman.world import World
from tests.images import images_of
from tests.policy_reference import block

FILE = Path(__file__).resolve().parents[1] / "docs" / "example.md"
SEED = 1
"""The demo's own, where it is given no other."""
NOW = datetime(2026, 6, 10, 17, 0, tzinfo=UTC)
BEFORE = 1_500
"""So many leads were decided before."""
NUMBER = 3_127
"""Which of the world's leads it is, counted from 0."""
NOT_THERE = (ReasonCode.ENROLLMENT_INACTIVE, ReasonCode.NOT_IN_SERVICE_AREA, ReasonCode.GEO_MISSING)
"""Reasons of those who do not take leads of the place at all."""

NAMES = ("offer_id", "vertical_id", "market_id")
"""What a policy can name, most specific first."""


@dataclass(frozen=True)
class Example:
    """A lead, what it is decided on, and what comes of it; `routed` leads before it found a buyer."""

    world: World
    snapshot: Indexes
    state: State
    routed: int
    lead: Lead
    decision: Decision
    standing: Standing

    @property
    def policy(self) -> world.Policy:
        """The row of the policy that applies."""
        return next(
            row for row in self.world.routing_policies if self.decision.policy and row.id == self.decision.policy.id
        )

    @property
    def document(self) -> dict[str, Any]:
        """Its rules."""
        document: dict[str, Any] = json.loads(self.policy.rules)
        return document

    def name(self, buyer_id: object) -> str:
        """What people call the buyer."""
        return next(row.name for row in self.world.buyers if row.id == buyer_id)

    def why_not(self, excluded: Exclusion) -> Iterator[str]:
        """Why a buyer was not chosen: codes and sentences."""
        zone = next(row.timezone for row in self.world.buyers if row.id == excluded.buyer_id)
        for reason in excluded.reasons:
            yield f"`{reason.code}`: {sentence(reason, now=NOW, zone=zone)}"

    def policies(self) -> list[world.Policy]:
        """The rows of all active policies that match."""
        return [
            row
            for row in self.world.routing_policies
            if row.is_active and all(getattr(row, key) in (None, getattr(self.lead, key)) for key in NAMES)
        ]

    def eligible(self) -> Sequence[Enrollment]:
        """Whom the strategy orders."""
        rules, state, at = self.rules(), self.state, self.decision.at
        return [enrollment for enrollment in self.decision.covering if not reasons(enrollment, rules, state, at)]

    def rules(self, **over: Any) -> Rules:
        """The rules that apply, some of them put otherwise."""
        return read_rules({**self.document, **over})

    def order(self, rules: Rules) -> list[Enrollment]:
        """The eligible as these rules rank them."""
        return sorted(self.eligible(), key=Ranking(rules, self.lead.id, self.state).key)

    def close(self) -> list[Exclusion]:
        """Those who take leads of the place, and cannot have this one."""
        return [excluded for excluded in self.standing.excluded if excluded.reasons[0].code not in NOT_THERE]

    def is_prompt(self, enrollment: Enrollment) -> bool:
        """Whether the buyer answers within the policy's limit."""
        return is_prompt(enrollment, self.rules())


def make_example() -> Example:
    """The example, decided anew."""
    built = world.build(SEED)
    snapshot = Indexes(1, UUID(int=0))
    for table, image in images_of(built):
        snapshot.apply(Change(table, "", image), 1)
    rows = world.leads(built, NUMBER + 1, SEED)
    state, at, routed = State(), micros(NOW), 0
    for decision_id, row in enumerate(rows[:BEFORE], start=1):
        routed += _take(decide(Lead(*row), snapshot, state, at), state, decision_id)
    lead = Lead(*rows[NUMBER])
    decision = decide(lead, snapshot, state, at)
    standing = with_nearest(explain(decision, snapshot, state), decision, snapshot, state)
    return Example(built, snapshot, state, routed, lead, decision, standing)


def _take(decision: Decision, state: State, decision_id: int) -> bool:
    """Count a decision as the claim would; whether there was anything to count."""
    if decision.winner is None:
        return False
    for cap in decision.takes:
        state.used[cap.counter] = state.usage(cap.counter) + 1
    state.positions[decision.winner.turn] = decision_id
    return True


# what the page says

PROSE = Path(__file__).with_suffix(".md").read_text("utf-8")


def page(example: Example) -> str:
    """The whole page."""
    lead, standing = example.lead, example.standing
    held = example.world.offer_exclusivities
    why = [excluded.reasons[0].code for excluded in standing.excluded]
    by_rank = example.order(example.rules(sla={"mode": "off"}))
    moved = next(enrollment for enrollment in by_rank if not example.is_prompt(enrollment))
    by_turn = example.order(example.rules(strategy={"kind": "rotation"}))
    return PROSE.format(
        instant=f"{NOW:%A, %Y-%m-%d %H:%M} UTC",
        before=f"{BEFORE:,}",
        routed=f"{example.routed:,}",
        lead=_lead(example),
        city=city(lead.city),
        policies=_policies(example),
        policy=example.policy.name,
        version=example.policy.version,
        rules=block(example.document),
        enrolled=len(example.snapshot.enrolled(lead.offer_id)),
        inactive=why.count(ReasonCode.ENROLLMENT_INACTIVE),
        elsewhere=why.count(ReasonCode.NOT_IN_SERVICE_AREA),
        covering=len(standing.eligible) + len(example.close()),
        looked_at=_looked_at(example),
        eligible=len(standing.eligible),
        exclusivities=len(held),
        of_the_offer=sum(row.offer_id == lead.offer_id for row in held),
        by_rank=_ranks(example, by_rank),
        limit=example.rules().max_response_seconds,
        by_response=_ranks(example, example.order(example.rules())),
        moved=example.name(moved.buyer_id),
        moved_seconds=moved.buyer and moved.buyer.sla_response_seconds,
        winner=example.name(standing.eligible[0].buyer_id),
        takes=_takes(example),
        outcome=block(outcome_json(_outcome(example))),
        by_turn=_turns(example, by_turn),
        never=sum(example.is_prompt(one) and not example.state.position(one) for one in by_turn),
        by_score=_scores(example),
    )


def _lead(example: Example) -> str:
    lead = example.lead
    offer = next(row for row in example.world.offers if row.id == lead.offer_id)
    vertical = next(name for name in world.TRADES if world.vertical_id(name) == lead.vertical_id)
    return _table(
        ("field", "value", "stands for"),
        [
            ("`id`", f"`{lead.id}`", ""),
            ("`offer_id`", f"`{lead.offer_id}`", offer.name),
            ("`vertical_id`", f"`{lead.vertical_id}`", vertical),
            ("`market_id`", f"`{lead.market_id}`", world.markets()[lead.market_id or UUID(int=0)]),
            ("`postal_code`", f"`{lead.postal_code}`", ""),
            ("`city`", f'`"{lead.city}"`', ""),
        ],
    )


def _policies(example: Example) -> str:
    return _table(
        ("policy", "version", "names"),
        [
            (row.name, row.version, ", ".join(f"`{key}`" for key in NAMES if getattr(row, key)) or "nothing")
            for row in example.policies()
        ],
    )


def _looked_at(example: Example) -> str:
    rows: list[Sequence[object]] = [(example.name(ranked.buyer_id), "", "") for ranked in example.standing.eligible]
    for excluded in example.close():
        miss = excluded.nearest_miss
        rows.append(
            (
                example.name(excluded.buyer_id),
                "<br>".join(example.why_not(excluded)),
                "" if miss is None else needed(miss),
            )
        )
    return _table(("buyer", "reasons", "would have needed"), sorted(rows))


def _ranks(example: Example, order: Iterable[Enrollment]) -> str:
    return _table(
        ("buyer", "`priority_rank`", "promises an answer within"),
        [(example.name(one.buyer_id), one.priority_rank, _seconds(one)) for one in order],
    )


def _takes(example: Example) -> str:
    return _table(
        ("cap", "taken", "window"),
        [
            (
                f"{cap.limit} an hour" if cap.window.kind == "hour" else f"{cap.limit} a day",
                example.state.usage(cap.counter),
                f"{instant(cap.window.start):%Y-%m-%d %H:%M} to {instant(cap.window.end):%Y-%m-%d %H:%M} UTC",
            )
            for cap in example.decision.takes
        ],
    )


def _turns(example: Example, order: Iterable[Enrollment]) -> str:
    return _table(
        ("buyer", "last served by decision", "promises an answer within"),
        [(example.name(one.buyer_id), example.state.position(one) or "none yet", _seconds(one)) for one in order],
    )


def _scores(example: Example) -> str:
    return _table(
        ("buyer", "promises an answer within", "weight", "n", "u", "score"),
        [
            (example.name(one.buyer_id), _seconds(one), one.weight, *_draw(example.lead.id, one))
            for one in example.order(example.rules(strategy={"kind": "weighted"}))
        ],
    )


def _draw(lead_id: UUID, enrollment: Enrollment) -> tuple[str, str, str]:
    assert enrollment.weight is not None
    n = lead_hash(lead_id, enrollment.buyer_id, b"")
    return f"`{n:016x}`", f"{(n + 0.5) / 2**64:.6f}", f"{Score(n, enrollment.weight).value:.6f}"


def _outcome(example: Example) -> Outcome:
    decision = example.decision
    return Outcome(
        decision.lead.id,
        decision.outcome,
        decision.cause,
        decision.winner and decision.winner.buyer_id,
        decision.lead.status,
        None,
        example.policy.id,
        example.policy.version,
        example.snapshot.version,
        instant(decision.at),
        decision.flags,
    )


def _seconds(enrollment: Enrollment) -> str:
    assert enrollment.buyer is not None
    return f"{enrollment.buyer.sla_response_seconds} s"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = ["| " + " | ".join(map(str, line)) + " |" for line in (head, *rows)]
    return "\n".join([lines[0], "|---" * len(head) + "|", *lines[1:]])


if __name__ == "__main__":
    FILE.write_text(page(make_example()), "utf-8", newline="\n")

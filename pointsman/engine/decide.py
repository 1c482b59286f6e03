"""The one pure call: a lead, the configuration, the routing state and an instant in, a decision out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from operator import attrgetter
from typing import NamedTuple, Protocol
from uuid import UUID

from pointsman.engine.capacity import Cap, Full, State, caps
from pointsman.engine.configuration import Enrollment, Exclusivity, Offer
from pointsman.engine.eligibility import Screened, screen
from pointsman.engine.exclusivity import Holding, holding
from pointsman.engine.policy import Policy
from pointsman.engine.strategy import Ranking
from pointsman.model import Cause, Flag, Lead, OutcomeKind


class Snapshot(Protocol):
    """What a decision asks of the configuration at one version; the order of what it yields does not matter."""

    def policy(self, lead: Lead) -> Policy | None:
        """The most specific active policy that matches."""

    def offer(self, offer_id: UUID | None) -> Offer | None:
        """The offer, if it exists."""

    def covering(self, lead: Lead) -> Sequence[Enrollment]:
        """The enrollments in the lead's offer of buyers with a service area that holds the lead."""

    def exclusivities(self, lead: Lead) -> Iterable[Sequence[Exclusivity]]:
        """The exclusivities that match the lead, whenever they are valid: a list a scope, most specific first."""


class Decision(NamedTuple):
    """What was decided and what it rests on, which the claim proves.

    `takes`: every cap that the winner's lead counts under. `full`: for each buyer that was passed over for nothing but
    its caps and would have gone first, one cap that is full. `compared`: whose positions decided, the winner included,
    in order of buyers; empty where positions were not looked at. `covering`: everyone who could be named by the record.
    """

    lead: Lead
    at: int
    outcome: OutcomeKind
    cause: Cause | None = None
    policy: Policy | None = None
    winner: Enrollment | None = None
    flags: tuple[Flag, ...] = ()
    takes: tuple[Cap, ...] = ()
    full: tuple[Cap, ...] = ()
    compared: tuple[Enrollment, ...] = ()
    covering: Sequence[Enrollment] = ()


def decide(lead: Lead, snapshot: Snapshot, state: State, at: int) -> Decision:
    """Decide who gets `lead` at the instant `at` (microseconds), or why nobody does."""
    policy = snapshot.policy(lead)
    if policy is None:
        return _no_route(lead, at, Cause.NO_POLICY)
    if policy.rules is None:
        return _no_route(lead, at, Cause.POLICY_INVALID, policy)
    if misfit := _misfit(snapshot.offer(lead.offer_id), lead):
        return _no_route(lead, at, misfit, policy)

    # 1. eligible buyers, caps as known included
    covering = snapshot.covering(lead)
    pool = screen(covering, policy.rules, state, at)

    # 2. exclusivity: the holder alone, nobody, or the others with a word about it
    held = holding(snapshot.exclusivities(lead), at)
    pool, flags = (pool, ()) if held is None else _under(held, pool, policy.rules.fail_closed)

    # 3. the strategy orders them, 4. the SLA goes before it, 5. tie-breakers settle every remaining equality
    ranking = Ranking(policy.rules, lead.id, state)
    if pool.eligible:
        winner, compared = ranking.first(pool.eligible)
        return Decision(
            lead,
            at,
            OutcomeKind.ROUTED,
            None,
            policy,
            winner,
            flags,
            tuple(caps(winner, at)),
            _passed_over(pool.full, winner, held, ranking),
            tuple(sorted(compared, key=_turn)),
            covering,
        )
    if Flag.EXCLUSIVE in flags:
        outcome, cause = OutcomeKind.NO_ROUTE_EXCLUSIVE_FAIL_CLOSED, None
    else:
        outcome, cause = OutcomeKind.NO_ROUTE, Cause.NO_ELIGIBLE_BUYERS
    full = _proofs(pool.full)
    return Decision(lead, at, outcome, cause, policy, None, flags, (), full, (), covering)


def _no_route(lead: Lead, at: int, cause: Cause, policy: Policy | None = None) -> Decision:
    return Decision(lead, at, OutcomeKind.NO_ROUTE, cause, policy)


def _misfit(offer: Offer | None, lead: Lead) -> Cause | None:
    if offer is None or not offer.is_active:
        return Cause.OFFER_INACTIVE
    if offer.vertical_id != lead.vertical_id:
        return Cause.OFFER_VERTICAL_MISMATCH
    if offer.market_id is not None and offer.market_id != lead.market_id:
        return Cause.OFFER_MARKET_MISMATCH
    return None


def _under(held: Holding, pool: Screened, fail_closed: bool) -> tuple[Screened, tuple[Flag, ...]]:
    """Who is left under an exclusivity, and the flags that say so."""
    conflict = (Flag.EXCLUSIVITY_CONFLICT,) if held.conflict else ()
    eligible = [enrollment for enrollment in pool.eligible if _holds(held, enrollment)]
    if eligible or fail_closed:
        full = [full for full in pool.full if _holds(held, full.enrollment)]
        return Screened(eligible, full), (Flag.EXCLUSIVE, *conflict)
    return pool, (Flag.EXCLUSIVE_FALLBACK, *conflict)


def _holds(held: Holding, enrollment: Enrollment) -> bool:
    return enrollment.buyer_id == held.exclusivity.buyer_id


def _passed_over(full: list[Full], winner: Enrollment, held: Holding | None, ranking: Ranking) -> tuple[Cap, ...]:
    """A full cap of each full buyer that would have gone before the winner, or that holds the lead's exclusivity."""
    if not full:
        return ()
    before = ranking.not_behind(winner, [one.enrollment for one in full])
    if held is not None:
        before = [is_before or _holds(held, one.enrollment) for is_before, one in zip(before, full, strict=True)]
    return _proofs([one for is_before, one in zip(before, full, strict=True) if is_before])


def _proofs(full: list[Full]) -> tuple[Cap, ...]:
    """One full cap of each, in order of buyers; who has a cap of 0 is full by that and needs no proof."""
    unproven = [one for one in full if all(limit.limit for limit in one.enrollment.limits)]
    if len(unproven) > 1:
        unproven.sort(key=_turn_of_full)
    return tuple([one.cap for one in unproven])


_turn = attrgetter("turn")  # within an offer, the order of buyers
_turn_of_full = attrgetter("enrollment.turn")

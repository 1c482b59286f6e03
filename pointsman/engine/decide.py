"""The one pure call: a lead, the configuration, the routing state and an instant in, a decision out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol
from uuid import UUID

from pointsman.engine.capacity import Cap, Full, State, caps
from pointsman.engine.configuration import Enrollment, Exclusivity, Offer
from pointsman.engine.exclusivity import Holding, holding
from pointsman.engine.policy import Policy
from pointsman.engine.search import Search
from pointsman.model import Cause, Flag, Lead, OutcomeKind


class Snapshot(Protocol):
    """What a decision asks of the configuration at one version."""

    def policy(self, lead: Lead) -> Policy | None:
        """The most specific active policy that matches."""

    def offer(self, offer_id: UUID | None) -> Offer | None:
        """The offer, if it exists."""

    def covering(self, lead: Lead) -> Sequence[Enrollment]:
        """The enrollments in the lead's offer of buyers with a service area that holds the lead, in order of buyers."""

    def exclusivities(self, lead: Lead) -> Sequence[Sequence[Exclusivity]]:
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

    # eligible buyers (1), caps as known included, in the order of strategy (3), SLA preference (4) and tie-breakers (5)
    covering = snapshot.covering(lead)
    search = Search(policy.rules, lead, state, at)
    flags: tuple[Flag, ...] = ()
    scopes = snapshot.exclusivities(lead)
    held = holding(scopes, at) if scopes else None
    if held is None:
        winner = search.first(covering)
    else:  # exclusivity (2): the holder alone, nobody, or the others with a word about it
        winner, flags = _under(held, search, covering, policy.rules.fail_closed)

    full = _proofs(search.full) if search.full else ()
    if winner is not None:
        outcome, takes, compared = OutcomeKind.ROUTED, caps(winner, at), tuple(search.compared)
        return Decision(lead, at, outcome, None, policy, winner, flags, takes, full, compared, covering)
    if Flag.EXCLUSIVE in flags:
        outcome, cause = OutcomeKind.NO_ROUTE_EXCLUSIVE_FAIL_CLOSED, None
    else:
        outcome, cause = OutcomeKind.NO_ROUTE, Cause.NO_ELIGIBLE_BUYERS
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


def _under(
    held: Holding, search: Search, covering: Sequence[Enrollment], fail_closed: bool
) -> tuple[Enrollment | None, tuple[Flag, ...]]:
    """Who gets the lead under an exclusivity, and the flags that say so."""
    holder, conflict = held.exclusivity.buyer_id, (Flag.EXCLUSIVITY_CONFLICT,) if held.conflict else ()
    winner = search.first([enrollment for enrollment in covering if enrollment.buyer_id == holder])
    if winner is not None or fail_closed:
        return winner, (Flag.EXCLUSIVE, *conflict)
    others = [enrollment for enrollment in covering if enrollment.buyer_id != holder]
    return search.first(others), (Flag.EXCLUSIVE_FALLBACK, *conflict)


def _proofs(full: list[Full]) -> tuple[Cap, ...]:
    """One full cap of each, in order of buyers."""
    if len(full) > 1:
        full = sorted(full, key=_turn_of_full)
    return tuple([one.cap for one in full])


def _turn_of_full(one: Full) -> bytes:
    return one.enrollment.turn  # within an offer, the order of buyers

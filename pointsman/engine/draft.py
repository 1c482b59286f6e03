"""Draft rules in the place of the policies that there are, for questions about what would be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from uuid import UUID

from pointsman.engine.configuration import Enrollment, Exclusivity, Offer
from pointsman.engine.explain import WideSnapshot
from pointsman.engine.policy import InvalidPolicy, Policy, Rules, read_rules
from pointsman.errors import InvalidHypothesis
from pointsman.model import Lead

DRAFT = UUID(int=0)
"""The id of a policy that nobody has written down."""


def read_draft(document: object) -> Rules:
    """The rules in a decoded JSON document; raises `InvalidHypothesis` with the place of what cannot be used."""
    try:
        return read_rules(document)
    except InvalidPolicy as error:
        raise InvalidHypothesis(f"the draft policy cannot be used: {error}") from None


class Drafted:
    """A snapshot on which leads fall under draft rules: all of them, or those that fall under the policy `replaces`."""

    def __init__(self, snapshot: WideSnapshot, rules: Rules, replaces: UUID | None = None) -> None:
        self._snapshot = snapshot
        self._replaces = replaces
        self._draft = Policy(DRAFT, None, None, None, 0, rules)

    def policy(self, lead: Lead) -> Policy | None:
        if self._replaces is None:
            return self._draft
        found = self._snapshot.policy(lead)
        return self._draft if found is not None and found.id == self._replaces else found

    def offer(self, offer_id: UUID | None) -> Offer | None:
        return self._snapshot.offer(offer_id)

    def covering(self, lead: Lead) -> Sequence[Enrollment]:
        return self._snapshot.covering(lead)

    def exclusivities(self, lead: Lead) -> Sequence[Sequence[Exclusivity]]:
        return self._snapshot.exclusivities(lead)

    def enrolled(self, offer_id: UUID | None) -> Mapping[UUID, Enrollment]:
        return self._snapshot.enrolled(offer_id)

    def scopes(self, buyer_id: UUID, market_id: UUID | None) -> frozenset[str]:
        return self._snapshot.scopes(buyer_id, market_id)

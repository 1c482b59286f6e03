"""What in a configuration costs money: found from its rows and one instant, nothing else.

A finding is data, like a reason: a code, a level, the rows that it is about, its facts. `docs/check.md` has a section
for each code. Nothing here does I/O, and nothing depends on the order in which rows came.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from itertools import combinations, pairwise, product
from typing import Any, Final, NamedTuple
from uuid import UUID

from pointsman.cache.indexes import Change, Indexes
from pointsman.engine.capacity import State
from pointsman.engine.configuration import (
    Caps,
    Enrollment,
    Exclusivity,
    Image,
    Offer,
    read_area,
    read_exclusivity,
    read_json,
)
from pointsman.engine.eligibility import is_prompt, reasons
from pointsman.engine.exclusivity import holding
from pointsman.engine.hours import WEEKDAYS, Hours, Row, WeeklyHours, read_hours
from pointsman.engine.policy import Policy, Rules, specificity
from pointsman.engine.zones import DAY, HOUR, SECOND, Zone, zone
from pointsman.model import Lead, Reason, ReasonCode, instant

EXPIRES_SOON: Final = 30 * DAY
LONG_NIGHT: Final = 16 * HOUR
"""Hours over midnight that are longer than this were hardly meant: `09:00` to `05:00` for nine to five."""
NAMED_AT_MOST: Final = 10
"""How many rows or markets a fact names; beside it stands how many there are."""

_MINUTE = 60 * SECOND
_QUARTER = 15 * _MINUTE
_WEEK = 7 * DAY
_QUARTERS = _WEEK // _QUARTER
_ALL_WEEK = (1 << _QUARTERS) - 1
_EVER = 1 << 63
_NO_LEAD = UUID(int=0)
_MARKETWIDE = ("market", None)

Place = tuple[str, str | None]  # scope, normalised value


class Level(StrEnum):
    """How bad a finding is: leads are lost for sure, leads or money may be lost, or worth a look."""

    ERROR = "error"
    WARNING = "warning"
    NOTICE = "notice"

    @property
    def rank(self) -> int:
        """0 for the worst."""
        return list(Level).index(self)


class Code(StrEnum):
    """What is found, in the order in which findings of one level are listed."""

    TRIGGERS_DETACHED = "triggers_detached"
    COUNTER_DISAGREES = "counter_disagrees"
    ROW_MALFORMED = "row_malformed"
    ROW_ORPHANED = "row_orphaned"
    VALUE_UNUSABLE = "value_unusable"
    POLICY_INVALID = "policy_invalid"
    POLICY_SHADOWED = "policy_shadowed"
    POLICY_MATCHES_NO_OFFER = "policy_matches_no_offer"
    POLICY_NEVER_REACHED = "policy_never_reached"
    OFFER_WITHOUT_POLICY = "offer_without_policy"
    OFFER_WITHOUT_BUYERS = "offer_without_buyers"
    NOBODY_EVER = "nobody_ever"
    NOBODY_AT_SOME_HOURS = "nobody_at_some_hours"
    EXCLUSIVITY_DEAD = "exclusivity_dead"
    EXCLUSIVITY_PARTLY_DEAD = "exclusivity_partly_dead"
    EXCLUSIVITY_OVERLAPS = "exclusivity_overlaps"
    EXCLUSIVITY_SHADOWED = "exclusivity_shadowed"
    EXCLUSIVITY_EXPIRES = "exclusivity_expires"
    TIMEZONE_UNREADABLE = "timezone_unreadable"
    STATUS_UNKNOWN = "status_unknown"
    HOURS_UNREADABLE = "hours_unreadable"
    HOURS_NEVER_OPEN = "hours_never_open"
    HOURS_LOSE_A_MINUTE = "hours_lose_a_minute"
    HOURS_LONG_NIGHT = "hours_long_night"
    HOURS_AROUND_THE_CLOCK = "hours_around_the_clock"
    HOURS_SHRINK_AT_DST = "hours_shrink_at_dst"
    CAP_ZERO = "cap_zero"
    CAP_WITHOUT_EFFECT = "cap_without_effect"
    WEIGHT_ZERO = "weight_zero"
    PRIORITY_NEVER_REACHED = "priority_never_reached"
    ENROLLMENT_WITHOUT_AREA = "enrollment_without_area"
    AREA_WITHOUT_ENROLLMENT = "area_without_enrollment"


class Subject(NamedTuple):
    """A row that a finding is about; `ids` are its key columns."""

    table: str
    ids: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or looks wrong: `facts` are ready for JSON save for instants and ids."""

    code: Code
    level: Level
    rows: tuple[Subject, ...]
    facts: dict[str, Any]


class Cell(NamedTuple):
    """What an active offer has in a market where somebody active takes its leads; enrollments by buyer."""

    offer: Offer
    market_id: UUID
    policy: Policy | None
    enrollments: Sequence[Enrollment]


class Configuration:
    """The rows of one config version as the router reads them, and as they are written; judged at the instant `at`."""

    def __init__(self, version: int, token: UUID, at: int) -> None:
        self.indexes = Indexes(version, token)
        self.at = at
        self.buyers: list[Image] = []
        self.enrollments: list[Image] = []
        self.exclusivities: list[Image] = []
        self.malformed_areas: list[Image] = []
        self.areas_of: dict[UUID, dict[UUID, set[Place]]] = {}
        self._written = {
            "buyers": self.buyers,
            "buyer_offers": self.enrollments,
            "offer_exclusivities": self.exclusivities,
        }
        self._documents: dict[str, WeeklyHours | str] = {}
        self._standings: dict[tuple[UUID, UUID, Rules], tuple[Reason, ...]] = {}
        self._weeks: dict[tuple[str, str, int], int] = {}

    def add(self, table: str, image: Image) -> None:
        """Take a row in; buyers come before their enrollments."""
        self.indexes.apply(Change(table, "", image), self.indexes.version)
        if table == "buyer_service_areas":
            self._add_area(image)
        elif table in self._written:
            self._written[table].append(image)

    def _add_area(self, image: Image) -> None:
        area = read_area(image)
        if area is not None:
            self.areas_of.setdefault(area.buyer_id, {}).setdefault(area.market_id, set()).add((area.scope, area.value))
        if image["is_active"] and (area is None or (area.scope == "market" and image["value"])):
            self.malformed_areas.append(image)

    # what several checks ask

    @cached_property
    def offers(self) -> list[Offer]:
        """The active offers, in order of ids."""
        return sorted(
            (offer for offer in self.indexes.offers.values() if offer.is_active), key=lambda offer: offer.id.int
        )

    @cached_property
    def cells(self) -> list[Cell]:
        """Every active offer in every market where an active enrollment's buyer takes leads."""
        return [cell for offer in self.offers for cell in self._cells_of(offer)]

    def _cells_of(self, offer: Offer) -> Iterator[Cell]:
        by_market: dict[UUID, list[Enrollment]] = defaultdict(list)
        for enrollment in _by_buyer(self.indexes.enrolled(offer.id).values()):
            if enrollment.is_active and enrollment.buyer is not None:
                for market_id in self.areas_of.get(enrollment.buyer_id, ()):
                    if offer.market_id in (None, market_id):
                        by_market[market_id].append(enrollment)
        for market_id in sorted(by_market, key=lambda market_id: market_id.int):
            yield Cell(offer, market_id, self.policy(offer, market_id), by_market[market_id])

    @cached_property
    def ranked_policies(self) -> dict[tuple[UUID | None, UUID | None, UUID | None], list[Policy]]:
        """The active policies by what they are for, each list with the one that wins first."""
        found = defaultdict(list)
        for policy in sorted(self.indexes.policies.values(), key=specificity):
            found[policy.offer_id, policy.vertical_id, policy.market_id].append(policy)
        return found

    def policy(self, offer: Offer, market_id: UUID | None) -> Policy | None:
        """The policy of the offer's leads in a market; None stands for a market that no policy names."""
        wanted = product((offer.id, None), (offer.vertical_id, None), (market_id, None))  # the most specific first
        return next((self.ranked_policies[key][0] for key in wanted if key in self.ranked_policies), None)

    @cached_property
    def reached(self) -> set[UUID]:
        """The policies that some lead of an active offer can get."""
        named = {policy.market_id for policy in self.indexes.policies.values()} | {None}
        return {
            policy.id
            for offer in self.offers
            for market_id in (named if offer.market_id is None else (offer.market_id,))
            if (policy := self.policy(offer, market_id)) is not None
        }

    def standing(self, enrollment: Enrollment, rules: Rules) -> tuple[Reason, ...]:
        """What keeps an enrollment from every lead, however empty its counters are and however late it is."""
        key = (enrollment.buyer_id, enrollment.offer_id, rules)
        if key not in self._standings:
            self._standings[key] = tuple(
                reason
                for reason in reasons(enrollment, rules, State(), self.at)
                if reason.facts.get("next_opening") is None
            )
        return self._standings[key]

    def document(self, text: str | None) -> WeeklyHours | str | None:
        """The acceptance hours of a row, what is wrong with them, or None where a buyer has none."""
        if text is None:
            return None
        if text not in self._documents:
            try:
                document = read_json(text)
                self._documents[text] = "" if document is None else read_hours(document)
            except ValueError as error:
                self._documents[text] = str(error)
        return self._documents[text] or None

    @cached_property
    def hours_of(self) -> dict[UUID, str | None]:
        """The acceptance hours of each buyer as they are written."""
        return {image["id"]: image["acceptance_hours"] for image in self.buyers}

    def always_open(self, enrollment: Enrollment, rules: Rules) -> bool:
        """Whether the buyer has no closed instant under `rules`."""
        if not rules.acceptance_hours:
            return True
        document = self.document(self.hours_of.get(enrollment.buyer_id))
        return document is None or (isinstance(document, WeeklyHours) and not document.dates and _is_whole(document))

    def open_quarters(self, enrollment: Enrollment, rules: Rules, start: int) -> int:
        """In which quarters of an hour from `start` the weekly hours are open, as bits; dates do not matter."""
        text = self.hours_of.get(enrollment.buyer_id)
        document, hours = self.document(text), enrollment.buyer and enrollment.buyer.hours
        if not rules.acceptance_hours or text is None or not isinstance(document, WeeklyHours) or not hours:
            return _ALL_WEEK
        key = (text, hours.zone.name, start)
        if key not in self._weeks:
            weekly = Hours(WeeklyHours(None, document.weekly, {}), hours.zone)
            self._weeks[key] = sum(
                1 << quarter for quarter in range(_QUARTERS) if weekly.is_open(start + quarter * _QUARTER)
            )
        return self._weeks[key]


Check = Callable[[Configuration], Iterable[Finding]]
Progress = Callable[[int, int], None]


def findings(configuration: Configuration, progress: Progress = lambda done, total: None) -> list[Finding]:
    """Everything that the rows themselves show, the worst first; `progress` hears how many checks are done."""
    found: list[Finding] = []
    for done, check in enumerate(CHECKS, start=1):
        found += check(configuration)
        progress(done, len(CHECKS))
    return in_order(found)


def in_order(found: Iterable[Finding]) -> list[Finding]:
    """By level, code and rows."""
    codes = list(Code)
    return sorted(found, key=lambda finding: (finding.level.rank, codes.index(finding.code), str(finding.rows)))


# Rows


def malformed_rows(configuration: Configuration) -> Iterator[Finding]:
    """Active areas and exclusivities that the router cannot read, and so leaves out; or reads wider than they look."""
    for image in configuration.malformed_areas:
        level = Level.ERROR if read_area(image) is None else Level.WARNING
        yield Finding(Code.ROW_MALFORMED, level, (_area(image["id"]),), {"problem": _area_problem(image)})
    for image in configuration.exclusivities:
        if image["is_active"] and (problem := _exclusivity_problem(image)):
            yield Finding(Code.ROW_MALFORMED, Level.ERROR, (_exclusivity(image["id"]),), {"problem": problem})
    for row in _exclusivities(configuration):
        offer = configuration.indexes.offers.get(row.offer_id)
        if offer is not None and None not in (offer.market_id, row.market_id) and offer.market_id != row.market_id:
            facts = {"problem": "its offer is for another market"}
            yield Finding(Code.ROW_MALFORMED, Level.WARNING, (_exclusivity(row.id),), facts)


def _area_problem(image: Image) -> str:
    for column in ("buyer_id", "market_id"):
        if image[column] is None:
            return f"`{column}` is missing"
    return _scope_problem(image, ("market", "city", "postal_code"))


def _exclusivity_problem(image: Image) -> str | None:
    since, until = image["valid_from"], image["valid_to"]
    if since is not None and until is not None and since >= until:
        return "it ends before it begins"
    if read_exclusivity(image) is not None:
        return None
    for column in ("offer_id", "buyer_id"):
        if image[column] is None:
            return f"`{column}` is missing"
    scope = image["scope"]
    if scope in ("market", "city", "postal_code") and image["market_id"] is None:
        return f"scope `{scope}` needs a `market_id`"
    if scope == "offer" and image["market_id"] is not None:
        return "scope `offer` is for all markets, but there is a `market_id`"
    return _scope_problem(image, ("offer", "market", "city", "postal_code"))


def _scope_problem(image: Image, known: Sequence[str]) -> str:
    scope = image["scope"]
    if scope not in known:
        return f"the scope `{scope}` is none of {', '.join(known)}"
    if scope in ("city", "postal_code"):
        return f"scope `{scope}` needs a `value`"
    return f"scope `{scope}` is for all of it, but there is a `value`"


def orphaned_rows(configuration: Configuration) -> Iterator[Finding]:
    """Active rows that name a buyer or an offer that does not exist; an area's buyer is only looked for."""
    buyers, offers = configuration.indexes.buyers, configuration.indexes.offers
    for image in configuration.enrollments:
        if image["is_active"]:
            yield from _orphan(_enrollment(image["buyer_id"], image["offer_id"]), image, buyers, offers)
    for row in _exclusivities(configuration):
        named = {"buyer_id": row.buyer_id, "offer_id": row.offer_id}
        yield from _orphan(_exclusivity(row.id), named, buyers, offers)
    for buyer_id in configuration.areas_of:
        if buyer_id not in buyers:
            facts = {"missing": "buyer", "buyer_id": buyer_id}
            yield Finding(
                Code.ROW_ORPHANED, Level.WARNING, (Subject("buyer_service_areas", {"buyer_id": buyer_id}),), facts
            )


def _orphan(subject: Subject, named: Image, buyers: Collection[UUID], offers: Collection[UUID]) -> Iterator[Finding]:
    for what, column, known in (("buyer", "buyer_id", buyers), ("offer", "offer_id", offers)):
        if named[column] not in known:
            facts = {"missing": what, column: named[column]}
            yield Finding(Code.ROW_ORPHANED, Level.WARNING, (subject,), facts)


def unusable_values(configuration: Configuration) -> Iterator[Finding]:
    """Numbers that are negative, or null where null means nothing."""
    for image in configuration.buyers:
        wrong = _negative(image, ("hourly_cap", "daily_cap", "sla_response_seconds"))
        for field, value in wrong:
            facts = {"field": field, "value": value}
            yield Finding(Code.VALUE_UNUSABLE, Level.ERROR, (_buyer(image["id"]),), facts)
    for image in configuration.enrollments:
        if not image["is_active"]:
            continue
        wrong = _negative(image, ("hourly_cap", "daily_cap", "priority_rank", "weight"))
        wrong += [(field, None) for field in ("priority_rank", "weight") if image[field] is None]
        for field, value in wrong:
            subject = _enrollment(image["buyer_id"], image["offer_id"])
            yield Finding(Code.VALUE_UNUSABLE, Level.ERROR, (subject,), {"field": field, "value": value})


def _negative(image: Image, fields: Iterable[str]) -> list[tuple[str, int | None]]:
    return [(field, image[field]) for field in fields if image[field] is not None and image[field] < 0]


# Policies and offers


def invalid_policies(configuration: Configuration) -> Iterator[Finding]:
    """Active policies whose rules cannot be used; every lead that gets one has no route."""
    for policy in configuration.indexes.policies.values():
        if policy.rules is None:
            level = Level.ERROR if policy.id in configuration.reached else Level.WARNING
            yield Finding(Code.POLICY_INVALID, level, (_policy(policy.id),), {"problem": policy.problem})


def shadowed_policies(configuration: Configuration) -> Iterator[Finding]:
    """Policies that another for the same leads hides: a newer one as intended, one of the same version by its id."""
    for first, *others in configuration.ranked_policies.values():
        for policy in others:
            level = Level.WARNING if policy.version == first.version else Level.NOTICE
            facts = {"version": policy.version, "by": first.id, "by_version": first.version}
            yield Finding(Code.POLICY_SHADOWED, level, (_policy(policy.id),), facts)


def unreachable_policies(configuration: Configuration) -> Iterator[Finding]:
    """Policies that no offer matches, and policies that are always beaten by more specific ones."""
    for (offer_id, vertical_id, market_id), (policy, *_) in configuration.ranked_policies.items():
        if policy.id in configuration.reached:
            continue
        matching = [
            offer
            for offer in _offers_named(configuration.indexes, offer_id)
            if vertical_id in (None, offer.vertical_id) and _may_have(offer, market_id)
        ]
        facts = {"offer_id": offer_id, "vertical_id": vertical_id, "market_id": market_id}
        if not matching:
            yield Finding(Code.POLICY_MATCHES_NO_OFFER, Level.WARNING, (_policy(policy.id),), facts)
        elif any(offer.is_active for offer in matching):
            yield Finding(Code.POLICY_NEVER_REACHED, Level.NOTICE, (_policy(policy.id),), facts)


def _offers_named(indexes: Indexes, offer_id: UUID | None) -> Iterable[Offer]:
    if offer_id is None:
        return indexes.offers.values()
    offer = indexes.offers.get(offer_id)
    return () if offer is None else (offer,)


def _may_have(offer: Offer, market_id: UUID | None) -> bool:
    return offer.market_id is None or market_id is None or offer.market_id == market_id


def offers_without_policy(configuration: Configuration) -> Iterator[Finding]:
    """Active offers with markets in which no policy is meant for their leads."""
    markets = defaultdict(list)
    for cell in configuration.cells:
        markets[cell.offer.id].append(cell.market_id)
    for offer in configuration.offers:
        asked: list[UUID | None] = list(markets[offer.id]) or [offer.market_id]
        without = [market_id for market_id in asked if configuration.policy(offer, market_id) is None]
        if without:
            named = [market_id for market_id in without if market_id is not None]
            yield Finding(Code.OFFER_WITHOUT_POLICY, Level.ERROR, (_offer(offer.id),), _named("markets", named))


def offers_without_buyers(configuration: Configuration) -> Iterator[Finding]:
    """Active offers that nobody is enrolled in, or nobody who takes leads anywhere."""
    served = {cell.offer.id for cell in configuration.cells}
    for offer in configuration.offers:
        if offer.id not in served:
            enrolled = sum(enrollment.is_active for enrollment in configuration.indexes.enrolled(offer.id).values())
            facts = {"market_id": offer.market_id, "enrolled": enrolled}
            yield Finding(Code.OFFER_WITHOUT_BUYERS, Level.ERROR, (_offer(offer.id),), facts)


def hours_without_buyers(configuration: Configuration) -> Iterator[Finding]:
    """Offers that at some hour of the week, or ever, nobody takes leads of in a market: paused, closed, capped at 0."""
    for cell in configuration.cells:
        if cell.policy is None or cell.policy.rules is None:
            continue
        takers = _takers(configuration, cell, cell.policy.rules)
        where = {"market_id": cell.market_id, "policy_id": cell.policy.id}
        if takers is not None and not takers:
            codes = sorted(
                {
                    reason.code
                    for enrollment in cell.enrollments
                    for reason in configuration.standing(enrollment, cell.policy.rules)
                }
            )
            facts = {**where, "enrolled": len(cell.enrollments), "reasons": codes}
            yield Finding(Code.NOBODY_EVER, Level.ERROR, (_offer(cell.offer.id),), facts)
        elif takers and (week := _week(configuration, takers, cell.policy.rules)):
            yield Finding(Code.NOBODY_AT_SOME_HOURS, Level.WARNING, (_offer(cell.offer.id),), {**where, **week})


def _takers(configuration: Configuration, cell: Cell, rules: Rules) -> list[Enrollment] | None:
    """Who may have the market's leads, a holder of all of them considered; None where a dead holder has a finding."""
    takers = [enrollment for enrollment in cell.enrollments if not configuration.standing(enrollment, rules)]
    held = holding(configuration.indexes.exclusivities(_lead(cell.offer, cell.market_id)), configuration.at)
    if held is None or not rules.fail_closed:
        return takers
    return [enrollment for enrollment in takers if enrollment.buyer_id == held.exclusivity.buyer_id] or None


def _week(configuration: Configuration, takers: Sequence[Enrollment], rules: Rules) -> dict[str, Any] | None:
    """How many takers are open at each hour of the week on the clock that most of them go by; None if always some."""
    clock = _common_zone(takers)
    offset = clock.offset(configuration.at) * SECOND
    today = (configuration.at + offset) // DAY
    start = (today - _weekday(today)) * DAY - offset
    masks = Counter(configuration.open_quarters(enrollment, rules, start) for enrollment in takers)
    union = 0
    for mask in masks:
        union |= mask
    if union == _ALL_WEEK:
        return None
    quarters = [sum(count for mask, count in masks.items() if mask >> quarter & 1) for quarter in range(_QUARTERS)]
    hours = [min(quarters[first : first + 4]) for first in range(0, _QUARTERS, 4)]
    return {
        "timezone": clock.name,
        "hours_without_buyer": hours.count(0),
        "buyers": len(takers),
        "buyers_open": {weekday: hours[24 * day : 24 * day + 24] for day, weekday in enumerate(WEEKDAYS)},
    }


def _common_zone(enrollments: Iterable[Enrollment]) -> Zone:
    """The zone of most buyers, the first by name where several are."""
    names = Counter(
        enrollment.buyer.zone.name for enrollment in enrollments if enrollment.buyer and enrollment.buyer.zone
    )
    found = zone(min(names, key=lambda name: (-names[name], name), default="UTC"))
    assert found is not None
    return found


# Exclusivities


def dead_exclusivities(configuration: Configuration) -> Iterator[Finding]:
    """Exclusivities whose holder can take none, or not all, of the leads that they keep from everybody else."""
    for row in _exclusivities(configuration):
        offer = configuration.indexes.offers.get(row.offer_id)
        if offer is None or not offer.is_active or row.buyer_id not in configuration.indexes.buyers:
            continue
        looks = [_Look(configuration, row, offer, market_id) for market_id in _territory(configuration, row, offer)]
        looks = [look for look in looks if look.rules is not None]
        blocked = [look for look in looks if look.blocked]
        partly = [look for look in looks if look.reaches is None]
        if not blocked and not partly:
            continue
        code = Code.EXCLUSIVITY_DEAD if len(blocked) == len(looks) else Code.EXCLUSIVITY_PARTLY_DEAD
        fails_closed = any(look.rules and look.rules.fail_closed for look in blocked or partly)
        is_due = row.valid_from is None or row.valid_from <= configuration.at
        is_error = fails_closed and is_due and code is Code.EXCLUSIVITY_DEAD
        facts = {
            **_facts_of(row),
            "when_ineligible": "fail_closed" if fails_closed else "fallback_allowed",
            "reasons": sorted({reason for look in blocked for reason in look.reasons})
            or [ReasonCode.NOT_IN_SERVICE_AREA],
            **_named("markets", [look.market_id for look in blocked or partly]),
        }
        yield Finding(code, Level.ERROR if is_error else Level.WARNING, (_exclusivity(row.id),), facts)


def _territory(configuration: Configuration, row: Exclusivity, offer: Offer) -> list[UUID]:
    """The markets that an exclusivity is about: its own, the offer's, or all where anybody takes the offer's leads."""
    only = row.market_id or offer.market_id
    if only is not None:
        return [only] if offer.market_id in (None, only) else []
    served = [cell.market_id for cell in configuration.cells if cell.offer.id == offer.id]
    return sorted({*served, *configuration.areas_of.get(row.buyer_id, ())}, key=lambda market_id: market_id.int)


class _Look:
    """How an exclusivity's holder stands in a market. `reaches`: all of the territory, none of it, or (None) parts."""

    def __init__(self, configuration: Configuration, row: Exclusivity, offer: Offer, market_id: UUID) -> None:
        policy = configuration.policy(offer, market_id)
        self.market_id = market_id
        self.rules = None if policy is None else policy.rules
        places = configuration.areas_of.get(row.buyer_id, {}).get(market_id, set())
        self.reaches = _reaches(row, places)
        enrollment = configuration.indexes.enrolled(offer.id).get(row.buyer_id)
        self.reasons: set[ReasonCode] = set()
        if enrollment is None:
            self.reasons.add(ReasonCode.NOT_ENROLLED)
        elif self.rules is not None:
            self.reasons |= {reason.code for reason in configuration.standing(enrollment, self.rules)}
        if self.reaches is False:
            self.reasons.add(ReasonCode.NOT_IN_SERVICE_AREA)
        self.blocked = bool(self.reasons)


def _reaches(row: Exclusivity, places: set[Place]) -> bool | None:
    if not places:
        return False
    if _MARKETWIDE in places or (row.scope, row.value) in places:
        return True
    if row.scope == "postal_code":
        return None if any(scope == "city" for scope, _ in places) else False
    if row.scope == "city":
        return None if any(scope == "postal_code" for scope, _ in places) else False
    return None


def overlapping_exclusivities(configuration: Configuration) -> Iterator[Finding]:
    """Two rows for one place at one time; which of them counts is the contract's choice, not the owner's."""
    for rows in _by_place(configuration).values():
        for one, two in combinations(rows, 2):
            since = max(_start(one), _start(two))
            if since >= min(_end(one), _end(two)):
                continue
            held = holding([[one, two]], since)
            level = Level.NOTICE if one.buyer_id == two.buyer_id else Level.ERROR
            facts = {
                "counts": held and held.exclusivity.id,
                "holders": [one.buyer_id, two.buyer_id],
                "scope": one.scope,
                "value": one.value,
            }
            yield Finding(Code.EXCLUSIVITY_OVERLAPS, level, (_exclusivity(one.id), _exclusivity(two.id)), facts)


def shadowed_exclusivities(configuration: Configuration) -> Iterator[Finding]:
    """Wide rows with holes that narrower rows of other holders make."""
    by_offer = defaultdict(list)
    for row in _exclusivities(configuration):
        by_offer[row.offer_id].append(row)
    for offer_id, rows in by_offer.items():
        offer = configuration.indexes.offers.get(offer_id)
        for wide in rows:
            narrow = [row for row in rows if _shadows(row, wide)]
            if not narrow:
                continue
            whole = any(_takes_all(row, wide, offer) for row in narrow)
            facts = {**_facts_of(wide), "never_counts": whole, **_named("by", [row.id for row in narrow])}
            level = Level.WARNING if whole else Level.NOTICE
            yield Finding(Code.EXCLUSIVITY_SHADOWED, level, (_exclusivity(wide.id),), facts)


def _shadows(row: Exclusivity, wide: Exclusivity) -> bool:
    is_narrower = (wide.scope == "offer" and row.scope != "offer") or (
        wide.scope == "market" and row.scope in ("city", "postal_code") and row.market_id == wide.market_id
    )
    return is_narrower and row.buyer_id != wide.buyer_id and max(_start(row), _start(wide)) < min(_end(row), _end(wide))


def _takes_all(row: Exclusivity, wide: Exclusivity, offer: Offer | None) -> bool:
    """Whether a market's row leaves nothing of an offer's row, the offer being for that market alone."""
    is_same = row.scope == "market" and offer is not None and offer.market_id == row.market_id
    return is_same and _start(row) <= _start(wide) and _end(wide) <= _end(row)


def expiring_exclusivities(configuration: Configuration) -> Iterator[Finding]:
    """Rows that end within the next 30 days and are not followed at once by another for the same place."""
    at = configuration.at
    for rows in _by_place(configuration).values():
        for row in rows:
            if row.valid_to is None or not at < row.valid_to <= at + EXPIRES_SOON:
                continue
            others = [other for other in rows if other is not row and _end(other) > row.valid_to]
            if any(_start(other) <= row.valid_to for other in others):
                continue
            following = min((_start(other) for other in others), default=None)
            facts = {
                **_facts_of(row),
                "ends": instant(row.valid_to),
                "next_begins": None if following is None else instant(following),
            }
            level = Level.NOTICE if following is None else Level.WARNING
            yield Finding(Code.EXCLUSIVITY_EXPIRES, level, (_exclusivity(row.id),), facts)


def _exclusivities(configuration: Configuration) -> list[Exclusivity]:
    """The rows that are or will be valid, in order of ids."""
    rows = configuration.indexes.exclusivity_rows.values()
    due = (row for row in rows if _end(row) > max(configuration.at, _start(row)))
    return sorted(due, key=lambda row: row.id.int)


def _by_place(configuration: Configuration) -> dict[tuple[UUID, UUID | None, str, str | None], list[Exclusivity]]:
    places = defaultdict(list)
    for row in _exclusivities(configuration):
        places[row.offer_id, row.market_id, row.scope, row.value].append(row)
    return places


def _start(row: Exclusivity) -> int:
    return -_EVER if row.valid_from is None else row.valid_from


def _end(row: Exclusivity) -> int:
    return _EVER if row.valid_to is None else row.valid_to


def _facts_of(row: Exclusivity) -> dict[str, Any]:
    return {
        "offer_id": row.offer_id,
        "buyer_id": row.buyer_id,
        "market_id": row.market_id,
        "scope": row.scope,
        "value": row.value,
    }


# Buyers


def time_zones(configuration: Configuration) -> Iterator[Finding]:
    """Buyers whose time zone is missing or no IANA name; an error where hours or caps need it."""
    indexes = configuration.indexes
    capped = {image["buyer_id"] for image in configuration.enrollments if image["is_active"] and _limits(image)}
    for image in configuration.buyers:
        buyer = indexes.buyers[image["id"]]
        if buyer.zone is None:
            document = configuration.document(image["acceptance_hours"])
            needs = document is not None and not (isinstance(document, WeeklyHours) and document.zone)
            is_needed = needs or _limits(image) or buyer.id in capped
            facts = {"timezone": image["timezone"]}
            level = Level.ERROR if is_needed else Level.WARNING
            yield Finding(Code.TIMEZONE_UNREADABLE, level, (_buyer(buyer.id),), facts)


def _limits(image: Image) -> bool:
    return image["hourly_cap"] is not None or image["daily_cap"] is not None


def unknown_statuses(configuration: Configuration) -> Iterator[Finding]:
    """Buyers with a status that is neither `active` nor `paused`, which counts as paused."""
    for image in configuration.buyers:
        if image["status"] not in ("active", "paused"):
            yield Finding(Code.STATUS_UNKNOWN, Level.WARNING, (_buyer(image["id"]),), {"status": image["status"]})


def acceptance_hours(configuration: Configuration) -> Iterator[Finding]:
    """Hours that cannot be read, never open, or are hardly what was meant."""
    for image in configuration.buyers:
        document = configuration.document(image["acceptance_hours"])
        row = (_buyer(image["id"]),)
        if isinstance(document, str):
            yield Finding(Code.HOURS_UNREADABLE, Level.ERROR, row, {"problem": document})
        elif document is not None:
            clock = document.zone or zone(image["timezone"])
            for code, level, facts in _hours_facts(configuration, document, clock):
                yield Finding(code, level, row, facts)


def _hours_facts(
    configuration: Configuration, document: WeeklyHours, clock: Zone | None
) -> Iterator[tuple[Code, Level, dict[str, Any]]]:
    gaps = _gaps(document.weekly)
    if not any(document.weekly):
        if not _opens_on_a_date(document, clock, configuration.at):
            yield Code.HOURS_NEVER_OPEN, Level.WARNING, {}
        return
    if not gaps and not document.dates:
        yield Code.HOURS_AROUND_THE_CLOCK, Level.NOTICE, {}
    if short := _short_by_a_minute(document.weekly, gaps):
        yield Code.HOURS_LOSE_A_MINUTE, Level.WARNING, {"weekdays": short}
    for day, row in enumerate(document.weekly):
        for start, end in row:
            if end > DAY and end - start > LONG_NIGHT and gaps:
                facts = {
                    "weekday": WEEKDAYS[day],
                    "start": _time(start),
                    "end": _time(end),
                    "hours": (end - start) // HOUR,
                }
                yield Code.HOURS_LONG_NIGHT, Level.WARNING, facts
    if clock is not None and gaps and (shrinks := _shrinking(document, clock, configuration.at)):
        level = Level.WARNING if shrinks["vanishing"] else Level.NOTICE
        yield Code.HOURS_SHRINK_AT_DST, level, shrinks


def _opens_on_a_date(document: WeeklyHours, clock: Zone | None, at: int) -> bool:
    if clock is None:
        return any(document.dates.values())
    hours = Hours(document, clock)
    return hours.is_open(at) or hours.next_opening(at) is not None


def _short_by_a_minute(weekly: Sequence[Row], gaps: Sequence[tuple[int, int]]) -> list[str]:
    """The weekdays that end at 23:59 though the whole day was meant."""
    if not gaps:
        return []
    days = {day for day, row in enumerate(weekly) if (0, DAY - _MINUTE) in row}
    days |= {start // DAY % 7 for start, end in gaps if end - start == _MINUTE}
    return [WEEKDAYS[day] for day in sorted(days)]


def _is_whole(document: WeeklyHours) -> bool:
    return not _gaps(document.weekly)


def _gaps(weekly: Sequence[Row]) -> list[tuple[int, int]]:
    """The closed spans of a week that repeats itself, in microseconds since its Monday."""
    intervals = sorted((day * DAY + start, day * DAY + end) for day, row in enumerate(weekly) for start, end in row)
    if not intervals:
        return [(0, _WEEK)]
    edges = [intervals[0]]
    for start, end in intervals[1:]:
        if start <= edges[-1][1]:
            edges[-1] = (edges[-1][0], max(edges[-1][1], end))
        else:
            edges.append((start, end))
    edges.append((edges[0][0] + _WEEK, edges[0][1] + _WEEK))
    return [(before[1], after[0]) for before, after in pairwise(edges) if before[1] < after[0]]


def _shrinking(document: WeeklyHours, clock: Zone, at: int) -> dict[str, Any] | None:
    """What the hours lose when the clock next jumps ahead, within 400 days; None if nothing."""
    spans = list(clock.spans(at, at + 400 * DAY))
    for (_, change, before), (_, _, after) in pairwise(spans):
        if after > before:
            lost, vanishing = _lost(document, change + before, change + after)
            if not lost:
                return None
            day = instant((change + before) // DAY * DAY).date()
            return {"timezone": clock.name, "date": day.isoformat(), "minutes": lost // _MINUTE, "vanishing": vanishing}
    return None


def _lost(document: WeeklyHours, skipped_from: int, skipped_to: int) -> tuple[int, list[str]]:
    """How much of a skipped span of the wall clock the hours hold, and the intervals that lie in it whole."""
    today = skipped_from // DAY
    lost, vanishing = 0, []
    for day in (today - 1, today, today + 1):
        row = document.dates.get(day, document.weekly[_weekday(day)])
        for start, end in row:
            opens, closes = day * DAY + start, day * DAY + end
            lost += max(0, min(closes, skipped_to) - max(opens, skipped_from))
            if skipped_from <= opens and closes <= skipped_to:
                vanishing.append(f"{_time(start)}-{_time(end)}")
    return min(lost, skipped_to - skipped_from), vanishing


def _weekday(day: int) -> int:
    """0 for the Mondays among days since 1970-01-01, which was a Thursday."""
    return (day + 3) % 7


def _time(since_midnight: int) -> str:
    minutes = since_midnight // _MINUTE if since_midnight == DAY else since_midnight % DAY // _MINUTE
    return f"{minutes // 60:02}:{minutes % 60:02}"


# Caps, weights, priorities


def caps_of_zero(configuration: Configuration) -> Iterator[Finding]:
    """Caps of 0, which mean never; null would mean unlimited."""
    for subject, caps in _holders(configuration):
        for field, limit in (("hourly_cap", caps.hourly), ("daily_cap", caps.daily)):
            if limit == 0:
                yield Finding(Code.CAP_ZERO, Level.WARNING, (subject,), {"field": field})


def caps_without_effect(configuration: Configuration) -> Iterator[Finding]:
    """Caps an hour that are larger than the cap a day, and so never reached."""
    for subject, caps in _holders(configuration):
        if caps.hourly is not None and caps.daily and caps.hourly > caps.daily:
            facts = {"hourly_cap": caps.hourly, "daily_cap": caps.daily}
            yield Finding(Code.CAP_WITHOUT_EFFECT, Level.NOTICE, (subject,), facts)


def _holders(configuration: Configuration) -> Iterator[tuple[Subject, Caps]]:
    for buyer in configuration.indexes.buyers.values():
        yield _buyer(buyer.id), buyer.caps
    for enrolled in configuration.indexes.enrollments.values():
        for enrollment in enrolled.values():
            if enrollment.is_active:
                yield _enrollment(enrollment.buyer_id, enrollment.offer_id), enrollment.caps


def weights_of_zero(configuration: Configuration) -> Iterator[Finding]:
    """Enrollments of weight 0 where a policy goes by weight, which never chooses them."""
    markets = defaultdict(list)
    for cell in configuration.cells:
        if cell.policy is not None and cell.policy.rules is not None and cell.policy.rules.strategy == "weighted":
            for enrollment in cell.enrollments:
                if enrollment.weight == 0:
                    markets[enrollment.buyer_id, cell.offer.id].append(cell.market_id)
    for ids, found in markets.items():
        yield Finding(Code.WEIGHT_ZERO, Level.WARNING, (_enrollment(*ids),), _named("markets", found))


def unreached_priorities(configuration: Configuration) -> Iterator[Finding]:
    """Enrollments that in each of their places stand behind somebody who always takes the lead first."""
    behind: dict[tuple[UUID, UUID], set[UUID] | None] = {}
    holders = {(row.buyer_id, row.offer_id) for row in _exclusivities(configuration)}
    for cell in configuration.cells:
        first = _first_in_line(configuration, cell)
        for enrollment in cell.enrollments:
            key = (enrollment.buyer_id, cell.offer.id)
            before = set() if key in holders else first(enrollment)
            known = behind.setdefault(key, set())
            behind[key] = None if not before or known is None else known | before
    for key, all_before in behind.items():
        if all_before:
            by = sorted(all_before, key=lambda buyer_id: buyer_id.int)
            yield Finding(Code.PRIORITY_NEVER_REACHED, Level.WARNING, (_enrollment(*key),), _named("behind", by))


def _first_in_line(configuration: Configuration, cell: Cell) -> Callable[[Enrollment], set[UUID]]:
    """Who provably goes before an enrollment in each of its places in the cell; empty if there is a place without."""
    rules = None if cell.policy is None else cell.policy.rules
    if rules is None or rules.strategy != "priority":
        return lambda enrollment: set()
    best: dict[Place, tuple[tuple[bool, int], UUID]] = {}
    for enrollment in cell.enrollments:
        if _takes_everything(configuration, enrollment, rules):
            for place in configuration.areas_of[enrollment.buyer_id][cell.market_id]:
                entry = (_line(enrollment, rules), enrollment.buyer_id)
                best[place] = min(best.get(place, entry), entry)

    def before(enrollment: Enrollment) -> set[UUID]:
        found = set()
        for place in configuration.areas_of[enrollment.buyer_id][cell.market_id]:
            candidates = [best[held] for held in (place, _MARKETWIDE) if held in best]
            if not candidates or enrollment.priority_rank is None or min(candidates)[0] >= _line(enrollment, rules):
                return set()
            found.add(min(candidates)[1])
        return found

    return before


def _takes_everything(configuration: Configuration, enrollment: Enrollment, rules: Rules) -> bool:
    """Whether nothing but a change of configuration or balance ever keeps the enrollment from a lead in its places."""
    assert enrollment.buyer is not None
    is_uncapped = all(cap is None for cap in (*enrollment.caps, *enrollment.buyer.caps))
    return (
        is_uncapped and not configuration.standing(enrollment, rules) and configuration.always_open(enrollment, rules)
    )


def _line(enrollment: Enrollment, rules: Rules) -> tuple[bool, int]:
    """The part of the ranking that never moves: SLA preference, then the rank."""
    return rules.sla_preferred and not is_prompt(enrollment, rules), enrollment.priority_rank or 0


# Enrollments and areas


def enrollments_without_area(configuration: Configuration) -> Iterator[Finding]:
    """Active enrollments in active offers whose buyer takes no leads where the offer has them."""
    for offer in configuration.offers:
        for enrollment in configuration.indexes.enrolled(offer.id).values():
            areas = configuration.areas_of.get(enrollment.buyer_id, {})
            has_area = bool(areas) if offer.market_id is None else offer.market_id in areas
            if enrollment.is_active and enrollment.buyer is not None and not has_area:
                subject = _enrollment(enrollment.buyer_id, offer.id)
                facts = {"market_id": offer.market_id}
                yield Finding(Code.ENROLLMENT_WITHOUT_AREA, Level.WARNING, (subject,), facts)


def areas_without_enrollment(configuration: Configuration) -> Iterator[Finding]:
    """Buyers that say where they take leads and are not active in any offer."""
    enrolled = {image["buyer_id"] for image in configuration.enrollments if image["is_active"]}
    for buyer_id, markets in configuration.areas_of.items():
        if buyer_id not in enrolled and buyer_id in configuration.indexes.buyers:
            facts = {"areas": sum(map(len, markets.values()))}
            yield Finding(Code.AREA_WITHOUT_ENROLLMENT, Level.NOTICE, (_buyer(buyer_id),), facts)


CHECKS: Final[tuple[Check, ...]] = (
    malformed_rows,
    orphaned_rows,
    unusable_values,
    invalid_policies,
    shadowed_policies,
    unreachable_policies,
    offers_without_policy,
    offers_without_buyers,
    hours_without_buyers,
    dead_exclusivities,
    overlapping_exclusivities,
    shadowed_exclusivities,
    expiring_exclusivities,
    time_zones,
    unknown_statuses,
    acceptance_hours,
    caps_of_zero,
    caps_without_effect,
    weights_of_zero,
    unreached_priorities,
    enrollments_without_area,
    areas_without_enrollment,
)


# Subjects and facts


def _offer(offer_id: UUID) -> Subject:
    return Subject("offers", {"id": offer_id})


def _buyer(buyer_id: UUID) -> Subject:
    return Subject("buyers", {"id": buyer_id})


def _enrollment(buyer_id: UUID, offer_id: UUID) -> Subject:
    return Subject("buyer_offers", {"buyer_id": buyer_id, "offer_id": offer_id})


def _area(area_id: UUID) -> Subject:
    return Subject("buyer_service_areas", {"id": area_id})


def _exclusivity(exclusivity_id: UUID) -> Subject:
    return Subject("offer_exclusivities", {"id": exclusivity_id})


def _policy(policy_id: UUID) -> Subject:
    return Subject("routing_policies", {"id": policy_id})


def _named(what: str, ids: Sequence[UUID]) -> dict[str, Any]:
    """The first of `ids`, and how many there are where that is more."""
    named = {what: list(ids[:NAMED_AT_MOST])}
    return {**named, f"{what}_in_all": len(ids)} if len(ids) > NAMED_AT_MOST else named


def _by_buyer(enrollments: Iterable[Enrollment]) -> list[Enrollment]:
    return sorted(enrollments, key=lambda enrollment: enrollment.buyer_id.int)


def _lead(offer: Offer, market_id: UUID) -> Lead:
    """A lead of which no more is known."""
    return Lead(_NO_LEAD, offer.id, offer.vertical_id, market_id, None, None)

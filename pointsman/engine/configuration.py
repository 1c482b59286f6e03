"""Rows of configuration as the engine reads them: folded once, when they are applied, never on the path of a lead.

An image is a mapping with the columns that the router uses (`sql/migrations`, the `image_*` views); its JSON columns
are text, its instants microseconds. A bad row makes itself ineffective, and says so; it never raises.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from enum import IntEnum
from functools import lru_cache
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple
from uuid import UUID

from pointsman.engine import geo
from pointsman.engine.faults import Fault
from pointsman.engine.hours import Hours, UnknownZone, compile_hours
from pointsman.engine.policy import Policy, read_rules
from pointsman.engine.zones import Zone, zone

if TYPE_CHECKING:
    from pointsman.engine.capacity import Cap

NOBODY = UUID(int=0)
"""Stands for the offer where a cap or a counter is the buyer's own, over all its offers."""

_EVER = 1 << 63

Image = Mapping[str, Any]  # a driver's row or a logged one
OwnColumns = tuple[bool | None, int | None, int | None, int | None, int | None, int | None]
"""Of an enrollment's row: is_active, priority_rank, weight, hourly_cap, daily_cap, enrolled_at."""

_own_columns = itemgetter("is_active", "priority_rank", "weight", "hourly_cap", "daily_cap", "enrolled_at")


class Offer(NamedTuple):
    """What a lead answers to."""

    id: UUID
    vertical_id: UUID | None
    market_id: UUID | None
    is_active: bool


class Caps(NamedTuple):
    """The limits that one holder sets, None being unlimited; what cannot be read is None here and a fault there."""

    hourly: int | None
    daily: int | None


class Slot(IntEnum):
    """Which of the four caps that can bind an enrollment's leads."""

    HOURLY_OF_ENROLLMENT = 0
    DAILY_OF_ENROLLMENT = 1
    HOURLY_OF_BUYER = 2
    DAILY_OF_BUYER = 3


class Limit:
    """A cap that binds an enrollment's leads; `offer_id` is `NOBODY` where it is the buyer's, over all its offers.

    `cap` is how it bound last (`capacity.caps`). A buyer's is shared by all of its enrollments.
    """

    __slots__ = ("cap", "kind", "limit", "meter", "offer_id", "slot")

    def __init__(self, slot: Slot, buyer_id: UUID, offer_id: UUID, kind: str, limit: int) -> None:
        self.slot = slot
        self.kind = kind
        self.offer_id = offer_id
        self.limit = limit
        self.meter = meter(buyer_id, offer_id, kind)
        self.cap: Cap | None = None


class Limits:
    """All that bind an enrollment's leads, hours before days; `caps` is how they bound from `start` until before `end`.

    The windows of a moment ago are mostly those of the next lead too.
    """

    __slots__ = ("caps", "each", "end", "start")

    def __init__(self, each: tuple[Limit, ...]) -> None:
        self.each = each
        self.caps: tuple[Cap, ...] = ()
        self.start, self.end = (0, 0) if each else (-_EVER, _EVER)


def turn(buyer_id: UUID, offer_id: UUID) -> bytes:
    """What an enrollment is known by in the routing state: bytes keep their hash, ids work it out at each look-up."""
    return buyer_id.bytes + offer_id.bytes


def meter(buyer_id: UUID, offer_id: UUID, kind: str) -> bytes:
    """What a holder's counters of one kind, window after window, are known by in the routing state."""
    return buyer_id.bytes + offer_id.bytes + kind.encode()


def metered(meter: bytes) -> tuple[UUID, UUID, str]:
    """Buyer, offer (`NOBODY`: the buyer's own) and kind of a meter."""
    return UUID(bytes=meter[:16]), UUID(bytes=meter[16:32]), meter[32:].decode()


class Buyer:
    """Who may receive leads. `changed` is the config version at which its caps or its zone last changed."""

    __slots__ = (
        "_limits",
        "caps",
        "changed",
        "faults",
        "holder",
        "hours",
        "id",
        "sla_response_seconds",
        "zone",
    )

    def __init__(self, image: Image, changed: int) -> None:
        self.id: UUID = image["id"]
        self.holder = self.id.bytes
        self.zone: Zone | None = zone(image["timezone"])
        hourly, daily, self.faults = _caps(image["hourly_cap"], image["daily_cap"])
        self.caps = _shared(hourly, daily)
        self.faults |= _faults_of_caps(hourly, daily, self.zone)
        self.sla_response_seconds: int | None = image["sla_response_seconds"]
        self.hours, fault = _hours(image["acceptance_hours"], self.zone)
        self.changed = changed
        self._limits: tuple[Limit | None, Limit | None] | None = None
        self.faults |= fault
        if image["status"] != "active":
            self.faults |= Fault.PAUSED
        if not image["funded"]:
            self.faults |= Fault.BELOW_MIN_BALANCE
        if self.sla_response_seconds is not None and self.sla_response_seconds < 0:
            self.faults |= Fault.BAD_SLA
        self.faults = int(self.faults)  # each `|` of flags takes half a microsecond, for every enrollment

    @property
    def limits(self) -> tuple[Limit | None, Limit | None]:
        """Its caps as limits, hourly and daily, for all of its enrollments; made when they are first asked for."""
        if self._limits is None:
            hourly, daily = self.caps
            self._limits = (
                None if hourly is None else Limit(Slot.HOURLY_OF_BUYER, self.id, NOBODY, "hour", hourly),
                None if daily is None else Limit(Slot.DAILY_OF_BUYER, self.id, NOBODY, "day", daily),
            )
        return self._limits

    def is_as(self, other: Buyer) -> bool:
        """Whether both come of the same row, whenever that was read."""
        hours, others = self.hours, other.hours
        return (
            (self.id, self.faults, self.sla_response_seconds) == (other.id, other.faults, other.sla_response_seconds)
            and self.counts_like(other)
            and (hours is others or (hours is not None and others is not None and hours.is_as(others)))
        )

    def counts_like(self, other: Buyer) -> bool:
        """Whether leads are counted for both in the same windows under the same caps."""
        return self.zone is other.zone and self.caps == other.caps


class Own(NamedTuple):
    """What an enrollment's row says for itself, whoever its buyer is: its caps, and what is wrong with it."""

    hourly: int | None
    daily: int | None
    faults: int


class Standing:
    """What a decision reads of each candidate.

    Attributes lie in memory in the order of classes, base first, and of names: these six share a line of the
    processor's cache with the head of their object, as long as the whole has twelve (or twenty). A decision on buyers
    that nobody has looked at for a while waits for such lines, and for little else.
    """

    __slots__ = ("faults", "holder", "hours", "priority_rank", "turn", "weight")

    faults: int
    """Bits of `Fault`, the buyer's included."""
    holder: bytes
    """The bytes of the buyer's id, one object for all of its enrollments."""
    hours: Hours | None
    priority_rank: int | None
    turn: bytes
    weight: int | None


class Enrollment(Standing):
    """A buyer that takes part in an offer, with all that a decision reads of it.

    The cache owns these objects and may put a newer `buyer` into one between two decisions, never during one.
    """

    __slots__ = ("_limits", "buyer", "changed", "enrolled_at", "offer_id", "own")

    def __init__(self, image: Image, buyer: Buyer | None, changed: int) -> None:
        offer_id: UUID = image["offer_id"]
        self.read(turn(image["buyer_id"], offer_id), offer_id, _own_columns(image), changed)
        self.belong_to(buyer)

    def read(self, turn: bytes, offer_id: UUID, columns: OwnColumns, changed: int) -> None:
        """Be what a row says; whose it is comes next, by `belong_to`."""
        self.turn = turn
        self.offer_id = offer_id
        self.changed = changed
        is_active, self.priority_rank, self.weight, hourly, daily, self.enrolled_at = columns
        hourly, daily, faults = _caps(hourly, daily)
        if not is_active:
            faults |= Fault.INACTIVE
        if self.priority_rank is None or self.priority_rank < 0:
            faults |= Fault.BAD_PRIORITY_RANK
        if self.weight is None or self.weight < 0:
            faults |= Fault.BAD_WEIGHT
        elif self.weight == 0:
            faults |= Fault.ZERO_WEIGHT
        # of two caps there are so many pairs that few come again
        own = _own if hourly is None or daily is None else Own
        self.own = own(hourly, daily, int(faults))

    def belong_to(self, buyer: Buyer | None) -> None:
        """Take the buyer as it is now; None where no such buyer exists."""
        self.buyer = buyer
        self._limits: Limits | None = None
        hourly, daily, faults = self.own
        if buyer is None:
            self.holder, self.hours = self.turn[:16], None
            self.faults = int(faults | Fault.BUYER_MISSING)
        else:
            self.holder, self.hours = buyer.holder, buyer.hours
            self.faults = faults | buyer.faults | _faults_of_caps(hourly, daily, buyer.zone)

    @property
    def buyer_id(self) -> UUID:
        """The buyer's id, which is known also where no such buyer exists."""
        return UUID(bytes=self.turn[:16]) if self.buyer is None else self.buyer.id

    @property
    def caps(self) -> Caps:
        """The enrollment's own."""
        return Caps(self.own.hourly, self.own.daily)

    @property
    def is_active(self) -> bool:
        return not self.own.faults & Fault.INACTIVE

    @property
    def sla_response_seconds(self) -> int | None:
        return None if self.buyer is None else self.buyer.sla_response_seconds

    @property
    def limits(self) -> Limits:
        """What binds its leads; in a zone that cannot be read caps have no windows to bind in.

        Made when they are first asked for: when it wins, or may be full. Most enrollments of a large table never do.
        """
        if self._limits is None:
            self._limits = Limits(tuple(limit for limit in self._caps_as_limits() if limit is not None))
        return self._limits

    def _caps_as_limits(self) -> Iterator[Limit | None]:
        buyer = self.buyer
        if buyer is None or buyer.zone is None:
            return
        hourly, daily, _ = self.own
        hourly_of_buyer, daily_of_buyer = buyer.limits
        if hourly is not None:
            yield Limit(Slot.HOURLY_OF_ENROLLMENT, buyer.id, self.offer_id, "hour", hourly)
        yield hourly_of_buyer
        if daily is not None:
            yield Limit(Slot.DAILY_OF_ENROLLMENT, buyer.id, self.offer_id, "day", daily)
        yield daily_of_buyer

    def is_as(self, other: Enrollment) -> bool:
        """Whether both come of the same row, whenever that was read; the buyer's part aside."""
        names = ("turn", "priority_rank", "weight", "enrolled_at", "own")
        return all(getattr(self, name) == getattr(other, name) for name in names)

    def counts_like(self, other: Enrollment) -> bool:
        """Whether leads of both are counted under the same caps of the enrollment's own."""
        return self.own[:2] == other.own[:2]


class Area(NamedTuple):
    """Where a buyer takes leads; `value` is normalised, None for a whole market."""

    buyer_id: UUID
    market_id: UUID
    scope: str
    value: str | None


class Exclusivity(NamedTuple):
    """One buyer holds an offer in a scope, from `valid_from` until before `valid_to` (microseconds; None is open)."""

    id: UUID
    offer_id: UUID
    buyer_id: UUID
    market_id: UUID | None
    scope: str
    value: str | None
    valid_from: int | None
    valid_to: int | None


def read_offer(image: Image) -> Offer:
    """The offer of a row."""
    return Offer(image["id"], image["vertical_id"], image["market_id"], image["is_active"])


def read_area(image: Image) -> Area | None:
    """The service area of a row; None for one that covers nothing: inactive, incomplete, of a scope nobody knows."""
    scope = image["scope"]
    value = "" if scope == "market" else _value(scope, image["value"])
    if not image["is_active"] or image["buyer_id"] is None or image["market_id"] is None or value is None:
        return None
    return Area(image["buyer_id"], image["market_id"], scope, value or None)


def read_exclusivity(image: Image) -> Exclusivity | None:
    """The exclusivity of a row; None for one that holds nothing: inactive, or a scope without just what it needs."""
    market_id, scope = image["market_id"], image["scope"]
    value = _value("market" if scope == "offer" else scope, image["value"])
    if not image["is_active"] or value is None or image["offer_id"] is None or image["buyer_id"] is None:
        return None
    if (scope == "offer") != (market_id is None):
        return None
    return Exclusivity(
        image["id"],
        image["offer_id"],
        image["buyer_id"],
        market_id,
        scope,
        value or None,
        image["valid_from"],
        image["valid_to"],
    )


def read_policy(image: Image) -> Policy | None:
    """The policy of a row, with what is wrong with its rules if they are; None if it is not active."""
    if not image["is_active"]:
        return None
    rules, problem = None, None
    try:
        rules = read_rules(read_json(image["rules"]))
    except ValueError as error:
        problem = str(error)
    version = image["version"]
    if version is None:
        rules, problem = None, "`version` is missing"
    return Policy(
        image["id"], image["offer_id"], image["vertical_id"], image["market_id"], version or 0, rules, problem
    )


def read_json(text: str | None) -> object:
    """The value of a JSON column, which images carry as text; raises `ValueError` for what Python cannot hold."""
    try:
        return None if text is None else json.loads(text)
    except RecursionError:
        raise ValueError("the document is nested too deeply") from None


def _value(scope: str | None, value: str | None) -> str | None:
    """The normalised value, "" where the scope needs none and there is none, None where the two do not fit."""
    if scope == "postal_code":
        return geo.postal_code(value)
    if scope == "city":
        return geo.city(value)
    if scope == "market" and not (value and value.strip()):
        return ""
    return None


def _caps(hourly: int | None, daily: int | None) -> tuple[int | None, int | None, int]:
    """The limits that a row sets, and its faults."""
    faults = 0
    if hourly is not None and hourly < 0:
        hourly, faults = None, faults | Fault.BAD_HOURLY_CAP
    if daily is not None and daily < 0:
        daily, faults = None, faults | Fault.BAD_DAILY_CAP
    return hourly, daily, faults


def _faults_of_caps(hourly: int | None, daily: int | None, zone: Zone | None) -> int:
    """What is wrong with limits in a zone, None being one that cannot be read."""
    if zone is None:
        return 0 if hourly is None and daily is None else Fault.BAD_ZONE_OF_CAPS.value
    return Fault.ZERO_CAP.value if hourly == 0 or daily == 0 else 0


@lru_cache(maxsize=10_000)
def _shared(hourly: int | None, daily: int | None) -> Caps:
    """One object for all holders that set the same caps, as most do."""
    return Caps(hourly, daily)


@lru_cache(maxsize=10_000)
def _own(hourly: int | None, daily: int | None, faults: int) -> Own:
    """The same for enrollments."""
    return Own(hourly, daily, faults)


@lru_cache(maxsize=100_000)
def _hours(text: str | None, default: Zone | None) -> tuple[Hours | None, int]:
    """Compiled hours (None: always open), shared between all buyers that keep the same ones in the same zone."""
    try:
        document = read_json(text)
        return (None if document is None else compile_hours(document, default)), 0
    except UnknownZone:
        return None, Fault.BAD_ZONE_OF_HOURS
    except ValueError:
        return None, Fault.BAD_HOURS

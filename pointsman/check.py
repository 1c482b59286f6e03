"""`pointsman check`: the configuration at one moment, what in it costs money, and who owns a place."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Final, cast
from uuid import UUID

from pointsman.cache.feed import SLICE_ROWS
from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.claim import Question
from pointsman.engine.capacity import Cap, Counter, caps
from pointsman.engine.configuration import Image
from pointsman.engine.geo import postal_code
from pointsman.errors import HistoryPruned, PointsmanError
from pointsman.findings import Code, Configuration, Finding, Level, Subject, findings, in_order
from pointsman.history import read_extent
from pointsman.model import EARLIEST, LATEST, Lead, micros
from pointsman.ownership import Ownership, ownership
from pointsman.store import LONG_READ_SECONDS, Connection, Store, queries_of, quote_identifier
from pointsman.wire import reason_json

COUNTERS_AT_ONCE: Final = 5_000

Progress = Callable[[str, int, int], None]
"""Hears what is being done, how much of it is done, and how much there is."""


class UnknownInstant(PointsmanError):
    """The instant is too far away."""


class UnknownOffer(PointsmanError):
    """No such offer."""


class UnknownMarket(PointsmanError):
    """It is not known which market is meant; name it with --market."""


@dataclass(frozen=True, slots=True)
class Checked:
    """All findings at one config version, the worst first; `names` are what people call their offers and buyers."""

    config_version: int
    checked_at: datetime
    findings: tuple[Finding, ...]
    names: Mapping[UUID, str]

    def count(self, level: Level) -> int:
        """How many findings of this level there are."""
        return sum(finding.level is level for finding in self.findings)

    def fails(self, *, strict: bool = False) -> bool:
        """Whether something must be done: an error, or, strictly, a warning."""
        return bool(self.count(Level.ERROR) or (strict and self.count(Level.WARNING)))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a lead could come from, and the offer that it would answer to; None where nothing is known."""

    offer_id: UUID
    postal_code: str | None
    market_id: UUID | None = None
    city: str | None = None


@dataclass(frozen=True, slots=True)
class Owned:
    """Who owns a place, market by market.

    `names` are what people call the offer and the buyers, `zones` the buyers' time zones as they are written now.
    """

    answers: tuple[Ownership, ...]
    names: Mapping[UUID, str]
    zones: Mapping[UUID, str | None]


async def check(dsn: str, progress: Progress = lambda what, done, total: None) -> Checked:
    """Read the whole configuration at `dsn` as of one moment and look for what costs money."""
    async with _reading(dsn) as reader:
        configuration, now = await reader.configuration(progress)
        found = findings(configuration, lambda done, total: progress("checking", done, total))
        found += [finding async for finding in reader.counter_findings(configuration, progress)]
        found += await reader.trigger_findings()
        names = await reader.names(_ids(found))
    return Checked(configuration.indexes.version, now, tuple(in_order(found)), names)


async def who_owns(dsn: str, place: Place, at: datetime | None = None) -> Owned:
    """Who owns a place now, or at another instant: in the past on the configuration of then, else on that of now.

    Without a market, the offer's is taken, or all in which somebody names the postal code; raises `UnknownMarket` where
    there is none, `UnknownOffer`, `HistoryPruned` where the configuration of then is no longer kept, and `HistoryHole`
    where some of it was lost.
    """
    async with _reading(dsn) as reader:
        now = await reader.now()
        if at is not None and not EARLIEST <= at <= LATEST:
            raise UnknownInstant("an instant must lie in the years from 1970 to 8999")
        moment = now if at is None else at
        answers = [
            await reader.ownership(place, market_id, moment, is_past=moment < now)
            for market_id in await reader.markets(place)
        ]
        buyers = {buyer for answer in answers for buyer in _buyers(answer)}
        return Owned(tuple(answers), await reader.names({place.offer_id} | buyers), await reader.zones(buyers))


@asynccontextmanager
async def _reading(dsn: str) -> AsyncIterator[_Reader]:
    store = await Store.open(dsn, size=1, timeout=LONG_READ_SECONDS)
    try:
        async with (
            store.connection() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            queries = queries_of("check")
            host = quote_identifier(await connection.fetchval(queries["host"]))
            yield _Reader(store, connection, {name: sql.replace("@host@", host) for name, sql in queries.items()})
    finally:
        await store.close()


class _Reader:
    """Reads what a check needs, all as of one moment."""

    def __init__(self, store: Store, connection: Connection, queries: dict[str, str]) -> None:
        self._store = store
        self._connection = connection
        self._sql = queries

    async def now(self) -> datetime:
        """The instant by the database's clock."""
        now: datetime = await self._connection.fetchval(self._sql["moment"])
        return now

    async def configuration(self, progress: Progress) -> tuple[Configuration, datetime]:
        version, now = await self._store.version(self._connection), await self.now()
        total: int = await self._connection.fetchval(self._sql["sizes"])
        configuration, done = Configuration(version.number, version.token, micros(now)), 0
        for table in TABLES:
            cursor = await self._connection.cursor(self._sql["written"].replace("@table@", table))
            while rows := await cursor.fetch(SLICE_ROWS):
                for row in rows:
                    configuration.add(table, cast("Image", row))  # records are read like mappings
                done += len(rows)
                progress("reading", done, total)
        return configuration, now

    async def trigger_findings(self) -> list[Finding]:
        """Tables whose changes no router hears of."""
        return [
            Finding(Code.TRIGGERS_DETACHED, Level.ERROR, (Subject(row["rel"], {}),), {"missing": row["missing"]})
            for row in await self._connection.fetch(self._sql["triggers"])
        ]

    async def counter_findings(self, configuration: Configuration, progress: Progress) -> AsyncIterator[Finding]:
        """Counters of open windows that are not what the decisions say."""
        counted = list(_open_caps(configuration).values())
        for first in range(0, len(counted), COUNTERS_AT_ONCE):
            some = counted[first : first + COUNTERS_AT_ONCE]
            for row in await self._connection.fetch(
                self._sql["disagreeing"],
                [cap.buyer_id for cap in some],
                [cap.offer_id for cap in some],
                [cap.window.kind for cap in some],
                [cap.window.opens for cap in some],
                [cap.window.closes for cap in some],
            ):
                ids = {name: row[name] for name in ("buyer_id", "offer_id", "kind", "window_start")}
                facts = {"used": row["used"], "counted": row["counted"]}
                subject = Subject("pointsman.cap_usage", ids)
                yield Finding(Code.COUNTER_DISAGREES, Level.ERROR, (subject,), facts)
            progress("counting", first + len(some), len(counted))

    async def names(self, ids: Iterable[UUID]) -> dict[UUID, str]:
        """What people call these offers and buyers."""
        return {row["id"]: row["name"] or "" for row in await self._connection.fetch(self._sql["names"], list(ids))}

    async def zones(self, buyers: Iterable[UUID]) -> dict[UUID, str | None]:
        """The time zones of these buyers, whether they can be read or not."""
        return {row["id"]: row["timezone"] for row in await self._connection.fetch(self._sql["zones"], list(buyers))}

    # who owns

    async def markets(self, place: Place) -> list[UUID]:
        """The markets that a place can lie in."""
        offer = await self._connection.fetchrow(self._sql["near_offers"], place.offer_id, None)
        if offer is None:
            raise UnknownOffer(f"no such offer: `{place.offer_id}`")
        if (known := place.market_id or offer["market_id"]) is not None:
            return [known]
        rows = await self._connection.fetch(self._sql["markets_with"], place.offer_id, postal_code(place.postal_code))
        found = [row["market_id"] for row in rows if row["market_id"] is not None]
        if not found:
            raise UnknownMarket(f"nobody names `{place.postal_code}` for this offer; name its market with --market")
        return found

    async def ownership(self, place: Place, market_id: UUID, at: datetime, *, is_past: bool) -> Ownership:
        indexes = await (self._past(place, market_id, at) if is_past else self._present(place, market_id))
        offer = indexes.offer(place.offer_id)
        vertical_id = None if offer is None else offer.vertical_id
        lead = Lead(UUID(int=0), place.offer_id, vertical_id, market_id, place.postal_code, place.city)
        question = Question.of(indexes.covering(lead), micros(at))
        row = await self._connection.fetchrow(self._sql["served_before"], *question.arguments(), at)
        assert row is not None
        state = question.answered(row["used"], row["positions"])
        if not question.is_answered_by(state):
            raise _undecided(at)
        return ownership(indexes, state, lead, micros(at))

    async def _present(self, place: Place, market_id: UUID) -> Indexes:
        version = await self._store.version(self._connection)
        indexes = Indexes(version.number, version.token)
        for table in TABLES:
            for row in await self._connection.fetch(self._sql[f"near_{table}"], place.offer_id, market_id):
                indexes.apply(Change(table, "", cast("Image", row)), version.number)  # records are read like mappings
        return indexes

    async def _past(self, place: Place, market_id: UUID, at: datetime) -> Indexes:
        version: int | None = await self._connection.fetchval(self._sql["version_at"], at)
        token, is_kept = (None, False) if version is None else await self._store.token_at(self._connection, version)
        if version is None or token is None or not is_kept:
            raise HistoryPruned(f"the configuration of {at.isoformat()} is not kept")
        extent = await read_extent(self._connection)
        extent.require_whole(version)
        if extent.whole_from is not None and micros(at) < extent.whole_from:
            raise _undecided(at)
        indexes = Indexes(version, token)
        for table, image in await self._store.images_at(self._connection, version, place.offer_id, market_id):
            indexes.apply(Change(table, "", image), version)
        return indexes


def _undecided(at: datetime) -> HistoryPruned:
    return HistoryPruned(f"decisions that say who was full or next at {at.isoformat()} were pruned")


def _open_caps(configuration: Configuration) -> dict[Counter, Cap]:
    """Every counter that is being counted now, by its key."""
    enrollments = (
        enrollment for enrolled in configuration.indexes.enrollments.values() for enrollment in enrolled.values()
    )
    return {cap.counter: cap for enrollment in enrollments for cap in caps(enrollment, configuration.at)}


def _ids(found: Iterable[Finding]) -> set[UUID]:
    """Every id that a finding names."""
    return {
        value
        for finding in found
        for values in (finding.facts.values(), *(row.ids.values() for row in finding.rows))
        for value in _flat(values)
        if isinstance(value, UUID)
    }


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list):
            yield from value
        else:
            yield value


def _buyers(answer: Ownership) -> Iterator[UUID]:
    yield from (link.buyer_id for link in answer.chain)
    yield from (ranked.buyer_id for ranked in answer.eligible)
    yield from (excluded.buyer_id for excluded in answer.excluded)


# What people read


TITLES: Final[dict[Code, str]] = {
    Code.TRIGGERS_DETACHED: "Changes of this table do not reach the routers",
    Code.COUNTER_DISAGREES: "A counter is not what the decisions say",
    Code.ROW_MALFORMED: "The row is not in its form",
    Code.ROW_ORPHANED: "The row names something that does not exist",
    Code.VALUE_UNUSABLE: "A number that cannot be used keeps leads away",
    Code.POLICY_INVALID: "The policy's rules are invalid; its leads have no route",
    Code.POLICY_SHADOWED: "Another policy for the same leads always wins",
    Code.POLICY_MATCHES_NO_OFFER: "No offer matches the policy",
    Code.POLICY_NEVER_REACHED: "More specific policies take all of the policy's leads",
    Code.OFFER_WITHOUT_POLICY: "No policy is meant for leads of the offer",
    Code.OFFER_WITHOUT_BUYERS: "Nobody can take leads of the offer",
    Code.NOBODY_EVER: "Nobody enrolled in the offer can take its leads in this market",
    Code.NOBODY_AT_SOME_HOURS: "At some hours of the week nobody takes the offer's leads in this market",
    Code.EXCLUSIVITY_DEAD: "The holder can take none of the leads that it keeps from the others",
    Code.EXCLUSIVITY_PARTLY_DEAD: "The holder cannot take some of the leads that it keeps from the others",
    Code.EXCLUSIVITY_OVERLAPS: "Two exclusivities hold the same place at the same time",
    Code.EXCLUSIVITY_SHADOWED: "Narrower exclusivities of other holders take parts of this one",
    Code.EXCLUSIVITY_EXPIRES: "The exclusivity ends soon and none follows at once",
    Code.TIMEZONE_UNREADABLE: "The buyer's time zone is missing or unknown",
    Code.STATUS_UNKNOWN: "An unknown status counts as paused",
    Code.HOURS_UNREADABLE: "The acceptance hours cannot be read; the buyer gets nothing",
    Code.HOURS_NEVER_OPEN: "The buyer never opens again",
    Code.HOURS_LOSE_A_MINUTE: "A day ends at 23:59 and loses its last minute",
    Code.HOURS_LONG_NIGHT: "An interval runs over midnight for more than 16 hours",
    Code.HOURS_AROUND_THE_CLOCK: "The hours are open all week",
    Code.HOURS_SHRINK_AT_DST: "The hours shrink when the clock next jumps ahead",
    Code.CAP_ZERO: "A cap of 0 means never",
    Code.CAP_WITHOUT_EFFECT: "The cap an hour is above the cap a day",
    Code.WEIGHT_ZERO: "A weight of 0 is never chosen by weight",
    Code.PRIORITY_NEVER_REACHED: "Somebody who always takes the lead stands before this one everywhere",
    Code.ENROLLMENT_WITHOUT_AREA: "The buyer is enrolled but takes leads nowhere",
    Code.AREA_WITHOUT_ENROLLMENT: "The buyer has service areas but no offer",
}

ADVICE: Final[dict[Code, str]] = {
    Code.TRIGGERS_DETACHED: "Run `pointsman migrate`: it puts the triggers back and writes a new baseline.",
    Code.COUNTER_DISAGREES: "Find out who else writes the router's tables; with `since` at -1 a row is counted anew.",
    Code.ROW_MALFORMED: "Give the row what its scope needs, or make it inactive.",
    Code.ROW_ORPHANED: "Delete the row, or bring back what it names.",
    Code.VALUE_UNUSABLE: "Set a number of zero or more, or null where it may be unlimited.",
    Code.POLICY_INVALID: "Correct the rules; `pointsman/policy.schema.json` is their schema.",
    Code.POLICY_SHADOWED: "Make it inactive if it is done with, or give the one that should win a higher version.",
    Code.POLICY_MATCHES_NO_OFFER: "Correct its offer, vertical or market, or make it inactive.",
    Code.POLICY_NEVER_REACHED: "Make it inactive if the more specific ones are meant to cover everything.",
    Code.OFFER_WITHOUT_POLICY: "Write a policy for the offer, or a general one.",
    Code.OFFER_WITHOUT_BUYERS: "Enroll buyers who take leads there, or make the offer inactive.",
    Code.NOBODY_EVER: "See the reasons: wake up, fund or uncap a buyer, or enroll another.",
    Code.NOBODY_AT_SOME_HOURS: "Find a buyer for the hours with 0, or do not buy leads then.",
    Code.EXCLUSIVITY_DEAD: "Make the holder able to take leads, end the exclusivity, or let the policy fall back.",
    Code.EXCLUSIVITY_PARTLY_DEAD: "Give the holder service areas for all of its territory, or narrow the exclusivity.",
    Code.EXCLUSIVITY_OVERLAPS: "End or move one of the two; until then the one in `counts` wins.",
    Code.EXCLUSIVITY_SHADOWED: "Make sure that both contracts know of it.",
    Code.EXCLUSIVITY_EXPIRES: "Prolong it, or let the next one begin when it ends.",
    Code.TIMEZONE_UNREADABLE: "Set an IANA name in its exact case, such as `America/Chicago`.",
    Code.STATUS_UNKNOWN: "Set `active` or `paused`.",
    Code.HOURS_UNREADABLE: "Correct the hours; null means always open.",
    Code.HOURS_NEVER_OPEN: "Set hours; null means always open, and the status `paused` says so when the buyer rests.",
    Code.HOURS_LOSE_A_MINUTE: "End the day at `24:00`.",
    Code.HOURS_LONG_NIGHT: "If it is not meant, write the end on the 24-hour clock: `17:00` for five in the afternoon.",
    Code.HOURS_AROUND_THE_CLOCK: "If it is meant, null says the same; if not, write the hours.",
    Code.HOURS_SHRINK_AT_DST: "Nothing, if it is meant; otherwise move the interval on that date with `dates`.",
    Code.CAP_ZERO: "Set null for unlimited; if nothing is to come, pause the buyer or the enrollment instead.",
    Code.CAP_WITHOUT_EFFECT: "Lower the cap an hour or raise the cap a day.",
    Code.WEIGHT_ZERO: "Set a weight of 1 or more, or make the enrollment inactive.",
    Code.PRIORITY_NEVER_REACHED: "Cap the buyers before it, give it the same rank, or make the enrollment inactive.",
    Code.ENROLLMENT_WITHOUT_AREA: "Give the buyer a service area, or make the enrollment inactive.",
    Code.AREA_WITHOUT_ENROLLMENT: "Enroll the buyer in an offer, or make the areas inactive.",
}
"""What to do about a finding."""


def finding_json(finding: Finding) -> dict[str, Any]:
    """A finding as a program reads it, save for instants and ids."""
    return {
        "code": finding.code,
        "level": finding.level,
        "title": TITLES[finding.code],
        "rows": [{"table": row.table, **row.ids} for row in finding.rows],
        "facts": finding.facts,
        "what_to_do": ADVICE[finding.code],
    }


def checked_json(checked: Checked, level: Level = Level.NOTICE) -> dict[str, Any]:
    """A check as a program reads it, its findings down to `level`; counts are of all."""
    return {
        "config_version": checked.config_version,
        "checked_at": checked.checked_at,
        "counts": {each.value: checked.count(each) for each in Level},
        "findings": [finding_json(finding) for finding in checked.findings if finding.level.rank <= level.rank],
    }


def owned_json(owned: Owned) -> dict[str, Any]:
    """An answer to "who owns this" as a program reads it, save for instants and ids."""
    return {"answers": [_ownership_json(answer) for answer in owned.answers]}


def _ownership_json(answer: Ownership) -> dict[str, Any]:
    return {
        **_fields(answer),
        "flags": list(answer.flags),
        "chain": list(map(_fields, answer.chain)),
        "holder_reasons": list(map(reason_json, answer.holder_reasons)),
        "eligible": list(map(asdict, answer.eligible)),
        "excluded": [
            {"buyer_id": excluded.buyer_id, "reasons": list(map(reason_json, excluded.reasons))}
            for excluded in answer.excluded
        ],
    }


def _fields(value: Any) -> dict[str, Any]:
    return {field.name: getattr(value, field.name) for field in fields(value)}

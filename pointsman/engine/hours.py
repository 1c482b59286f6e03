"""Acceptance hours: read strictly, compiled once, answered by the instant.

An instant is open when the local wall clock shows a time inside the hours: both passes of a repeated hour count,
a skipped one does not exist. Instants are ints: microseconds since the Unix epoch.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from pointsman.engine.zones import DAY, HOUR, SECOND, Zone, zone

WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

Row = tuple[tuple[int, int], ...]
"""The intervals `[start, end)` of a day, in microseconds since its midnight; an end may lie in the next day."""

_MINUTE = 60 * SECOND
_WEEK = 7 * DAY
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH_WEEKDAY = WEEKDAYS.index("thu")
_LAST_DAY = date.max.toordinal() - _EPOCH_DAY

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_TIME = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])|(24):(00)")


class UnreadableHours(ValueError):
    """The acceptance hours are not in the form that the router reads."""


class UnknownZone(ValueError):
    """The acceptance hours name no time zone, and the buyer has none that can be read."""


@dataclass(frozen=True, slots=True)
class WeeklyHours:
    """A document of acceptance hours as it was read. `zone`: its own, if it names one.

    `weekly` has seven rows, Monday first; `dates` the rows that replace them, by days since 1970-01-01.
    """

    zone: Zone | None
    weekly: tuple[Row, ...]
    dates: Mapping[int, Row]


@dataclass(frozen=True, slots=True)
class _Stretch:
    """An answer and the instants `[start, end)` that it holds for."""

    start: int
    end: int
    is_open: bool


@dataclass(frozen=True, slots=True)
class _Chunk:
    """What happens in `[start, end)`. `flips`: opening and closing by turns; what spans an edge is cut there."""

    start: int
    end: int
    flips: list[int]

    def stretch(self, at: int) -> _Stretch:
        index = bisect_right(self.flips, at)
        since = self.flips[index - 1] if index else self.start
        until = self.flips[index] if index < len(self.flips) else self.end
        return _Stretch(since, until, index % 2 == 1)

    def opening_after(self, at: int) -> int | None:
        """The first opening in `(at, end)`; nothing is open at `at`, which may be the last instant before `start`."""
        index = bisect_right(self.flips, at)
        return self.flips[index] if index < len(self.flips) else None


class Hours:
    """Acceptance hours in the zone that they are read in: a pure function of the instant that remembers its last work.

    Knows nothing of a buyer, so that all buyers with the same hours can share one. From `opened` until before `closes`
    it is open, and closed from `closed` until before `opens`: the last stretches of each kind that were asked about.
    """

    __slots__ = ("_chunk", "_dates", "_open_days", "_stretch", "_weekly", "closed", "closes", "opened", "opens", "zone")

    def __init__(self, hours: WeeklyHours, zone: Zone) -> None:
        self.zone = zone
        self._weekly = hours.weekly
        self._dates = hours.dates
        self._open_days = sorted(day for day, row in hours.dates.items() if row)
        self._stretch = _Stretch(0, 0, is_open=False)
        self._chunk = _Chunk(0, 0, [])
        self.opened = self.closes = self.closed = self.opens = 0

    def is_as(self, other: Hours) -> bool:
        """Whether both are open at the same instants for the same reason."""
        return (self.zone, self._weekly, self._dates) == (other.zone, other._weekly, other._dates)

    def is_open(self, at: int) -> bool:
        """Whether the local clock shows a time inside the hours at `at`."""
        stretch = self._stretch
        if stretch.start <= at < stretch.end:
            return stretch.is_open
        self._stretch = stretch = self._chunk_with(at).stretch(at)
        if stretch.is_open:
            self.opened, self.closes = stretch.start, stretch.end
        else:
            self.closed, self.opens = stretch.start, stretch.end
        return stretch.is_open

    def next_opening(self, at: int) -> int | None:
        """The first open instant after `at`, a closed one; None if there is none, or `at` is open itself."""
        if self.is_open(at):
            return None
        chunk = self._chunk_with(at)
        while (opening := chunk.opening_after(at)) is None:
            # The row of a day can matter from a day before it by UTC until two days after its end.
            day = self._day_with_hours(chunk.end // DAY - 2)
            if day is None:
                return None
            at = max(chunk.end, (day - 1) * DAY) - 1
            chunk = self._work_out(at + 1)
        return opening

    def _chunk_with(self, at: int) -> _Chunk:
        chunk = self._chunk
        if not chunk.start <= at < chunk.end:
            self._chunk = chunk = self._work_out(at)
        return chunk

    def _work_out(self, at: int) -> _Chunk:
        """The week of UTC that holds `at`."""
        start = at // _WEEK * _WEEK
        end = start + _WEEK
        wall = self._wall_intervals(start // DAY - 2, end // DAY + 1)
        flips: list[int] = []
        for since, until, offset in self.zone.spans(start, end):
            for opens, closes in wall:
                _append(flips, max(opens - offset, since), min(closes - offset, until))
        return _Chunk(start, end, flips)

    def _wall_intervals(self, first: int, last: int) -> list[tuple[int, int]]:
        """The union of the intervals of the days `first` to `last`, in order, in microseconds on the wall clock."""
        intervals = sorted(
            (day * DAY + start, day * DAY + end) for day in range(first, last) for start, end in self._row(day)
        )
        edges: list[int] = []
        for start, end in intervals:
            _append(edges, start, end)
        return list(zip(edges[::2], edges[1::2], strict=True))

    def _row(self, day: int) -> Row:
        row = self._dates.get(day)
        return self._weekly[(day + _EPOCH_WEEKDAY) % 7] if row is None else row

    def _day_with_hours(self, first: int) -> int | None:
        """The first day from `first` on whose row is not empty."""
        if not any(self._weekly):
            index = bisect_right(self._open_days, first - 1)
            return self._open_days[index] if index < len(self._open_days) else None
        return next((day for day in range(first, _LAST_DAY + 1) if self._row(day)), None)


def _append(edges: list[int], start: int, end: int) -> None:
    """Add `[start, end)`, unless it is empty, to the edges of a union whose intervals start no later than it does."""
    if start >= end:
        return
    if edges and start <= edges[-1]:
        edges[-1] = max(edges[-1], end)
    else:
        edges += (start, end)


def compile_hours(document: object, default_zone: Zone | None) -> Hours:
    """Acceptance hours out of decoded JSON, read in their own zone or else in `default_zone`, the buyer's.

    Raises UnreadableHours for any other form, UnknownZone where neither gives a zone.
    """
    hours = read_hours(document)
    own = hours.zone or default_zone
    if own is None:
        raise UnknownZone(UnknownZone.__doc__)
    return Hours(hours, own)


def read_hours(document: object) -> WeeklyHours:
    """Acceptance hours out of decoded JSON; UnreadableHours names the place of what is not in their form."""
    parts = _object(document, "acceptance hours")
    for key in parts:
        if key not in ("timezone", "weekly", "dates"):
            raise UnreadableHours(f"acceptance hours have no key `{key}`")
    if "weekly" not in parts:
        raise UnreadableHours("acceptance hours need `weekly`")
    return WeeklyHours(
        zone=_zone(parts["timezone"]) if "timezone" in parts else None,
        weekly=_weekly(_object(parts["weekly"], "`weekly`")),
        dates={
            _day(key): _row(intervals, f"dates.{key}")
            for key, intervals in _object(parts.get("dates", {}), "`dates`").items()
        },
    )


def _object(value: object, place: str) -> dict[str, object]:
    if not isinstance(value, dict):
        raise UnreadableHours(f"{place} must be an object")
    return value


def _zone(name: object) -> Zone:
    found = zone(name)
    if found is None:
        raise UnreadableHours("`timezone` must be a name of the IANA database, in its exact case")
    return found


def _weekly(rows: dict[str, object]) -> tuple[Row, ...]:
    for key in rows:
        if key not in WEEKDAYS:
            raise UnreadableHours(f"`weekly` has no day `{key}`, only mon, tue, wed, thu, fri, sat and sun")
    return tuple(_row(rows.get(weekday, []), f"weekly.{weekday}") for weekday in WEEKDAYS)


def _day(text: str) -> int:
    """Days since 1970-01-01 of a date as `YYYY-MM-DD`."""
    try:
        # fromisoformat alone would take weeks and dates without dashes too.
        if _DATE.fullmatch(text):
            return date.fromisoformat(text).toordinal() - _EPOCH_DAY
    except ValueError:
        pass
    raise UnreadableHours(f"`dates.{text}` must be a date as YYYY-MM-DD")


def _row(intervals: object, place: str) -> Row:
    if not isinstance(intervals, list):
        raise UnreadableHours(f"`{place}` must be a list of intervals")
    return tuple(_interval(interval, f"{place}[{index}]") for index, interval in enumerate(intervals))


def _interval(interval: object, place: str) -> tuple[int, int]:
    if not isinstance(interval, list) or len(interval) != 2:
        raise UnreadableHours(f"`{place}` must be a list of a start and an end")
    start, end = _time(interval[0], f"{place}[0]"), _time(interval[1], f"{place}[1]")
    if start == DAY:
        raise UnreadableHours(f"`{place}` must not start at 24:00, which is an end only")
    if start == end:
        raise UnreadableHours(f"`{place}` must not end when it starts")
    return start, end if end > start else end + DAY


def _time(text: object, place: str) -> int:
    """Microseconds since midnight of a time as `HH:MM`."""
    match = _TIME.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise UnreadableHours(f"`{place}` must be a time as HH:MM, from 00:00 to 24:00")
    hour, minute = (int(digits) for digits in match.groups() if digits)
    return hour * HOUR + minute * _MINUTE

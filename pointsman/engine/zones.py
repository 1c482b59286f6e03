"""Time zones as spans of constant offset, and the hour and day windows that caps count over.

Data come from the `tzdata` package alone, never from the operating system, so that every process of a release
agrees. Instants and offsets are ints: microseconds since the Unix epoch, microseconds east of UTC.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from io import BytesIO
from struct import Struct, iter_unpack, unpack_from
from typing import NamedTuple
from zoneinfo import ZoneInfo

import tzdata  # type: ignore[import-untyped]  # it ships no types

from pointsman.model import EPOCH, MICROSECOND, instant, micros

TZDATA_VERSION: str = tzdata.IANA_VERSION
"""The IANA release that every answer of this module rests on, such as `2026a`."""

SECOND = 1_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
"""More than any offset: a TZif file that says otherwise is refused by `zoneinfo`."""

_EVER = 1 << 63
_STEP = 28 * DAY  # no rule in the data keeps daylight saving time for less, or drops it for less
_AHEAD = 400 * DAY
_LAST = micros(datetime(9999, 1, 1, tzinfo=UTC))  # rules are followed up to here: datetime ends within the year


class _Table(NamedTuple):
    """Where each span of constant offset starts, its offset, and the instant up to which the spans are known."""

    starts: tuple[int, ...]
    offsets: tuple[int, ...]
    until: int


@dataclass(frozen=True, slots=True)
class Window:
    """A half-open span `[start, end)` that a cap counts over, an `hour` or a `day` of one zone."""

    kind: str
    start: int
    end: int
    opens: datetime
    closes: datetime


class Zone:
    """An IANA time zone. There is one object per name (see `zone`), so zones compare by identity."""

    __slots__ = ("_day", "_epoch", "_hour", "_listed", "_rule", "_table", "name")

    def __init__(self, name: str, data: bytes) -> None:
        self.name = name
        self._listed = self._table = _read_tzif(data)
        self._rule = ZoneInfo.from_file(BytesIO(data), name)
        self._epoch = EPOCH.replace(tzinfo=self._rule)
        self._hour = self._day = _window("none", 0, 0)

    def __repr__(self) -> str:
        return f"zone({self.name!r})"

    def hour(self, at: int) -> Window:
        """The window from the latest instant up to `at` at which the local clock shows a full hour to the next one."""
        window = self._hour
        if window.start <= at < window.end:
            return window
        self._hour = window = _window("hour", self._full_hour_up_to(at), self._full_hour_after(at))
        return window

    def day(self, at: int) -> Window:
        """The window of the local calendar day: from the first instant that shows its date to the first of a later."""
        window = self._day
        if window.start <= at < window.end:
            return window
        date = (at + self._offset(at)) // DAY
        # A clock that crossed midnight back shows a date that is over already.
        while (end := self._first_to_show((date + 1) * DAY)) <= at:
            date += 1
        self._day = window = _window("day", self._first_to_show(date * DAY), end)
        return window

    def offset(self, at: int) -> int:
        """Seconds east of UTC at `at`."""
        return self._offset(at) // SECOND

    def local(self, at: int) -> str:
        """What the local clock shows at `at`, as `YYYY-MM-DDTHH:MM:SS`."""
        return instant(at + self._offset(at)).replace(tzinfo=None).isoformat(timespec="seconds")

    def spans(self, start: int, end: int) -> Iterator[tuple[int, int, int]]:
        """The spans of constant offset that make up `[start, end)`, in order, each as (start, end, offset)."""
        table = self._table_with(start, end)
        index = bisect_right(table.starts, start)
        for change in table.starts[index : bisect_left(table.starts, end)]:
            yield start, change, table.offsets[index - 1]
            start, index = change, index + 1
        yield start, end, table.offsets[index - 1]

    def _offset(self, at: int) -> int:
        table = self._table_with(at, at + 1)
        return table.offsets[bisect_right(table.starts, at) - 1]

    def _full_hour_up_to(self, at: int) -> int:
        return max(
            full
            for start, end, offset in self.spans(at - DAY, at + 1)
            if (full := (end - 1 + offset) // HOUR * HOUR - offset) >= start
        )

    def _full_hour_after(self, at: int) -> int:
        return min(
            full
            for start, end, offset in self.spans(at + 1, at + DAY)
            if (full := -(-(start + offset) // HOUR) * HOUR - offset) < end
        )

    def _first_to_show(self, local: int) -> int:
        """The first instant at which the local clock shows `local` or later, both in microseconds."""
        return min(
            first
            for start, end, offset in self.spans(local - DAY, local + DAY)
            if (first := max(start, local - offset)) < end
        )

    def _table_with(self, start: int, end: int) -> _Table:
        table = self._table
        if start < table.starts[0] or end > table.until:
            # Replaced whole, so that no thread ever sees starts without their offsets.
            self._table = table = self._listed if end <= self._listed.until else self._follow_rule(start, end)
        return table

    def _follow_rule(self, start: int, end: int) -> _Table:
        """The spans from about `start`, or from the listed ones if it lies there, to somewhat after `end`."""
        if start < self._listed.until:
            starts, offsets, known = list(self._listed.starts), list(self._listed.offsets), self._listed.until
        else:
            known = max(start // DAY * DAY - _STEP, self._listed.until)
            starts, offsets = [known], [self._offset_by_rule(known)]
        while known < end + _AHEAD:
            offset = self._offset_by_rule(known + _STEP)
            if offset != offsets[-1]:
                starts.append(self._change(known, known + _STEP, offset))
                offsets.append(offset)
            known += _STEP
        return _Table(tuple(starts), tuple(offsets), known)

    def _change(self, before: int, after: int, offset: int) -> int:
        """The first instant in `(before, after]` that has `offset`; rules change at whole seconds."""
        seconds = range(before // SECOND, after // SECOND)
        changed = bisect_left(seconds, True, key=lambda at: self._offset_by_rule(at * SECOND) == offset)
        return before + changed * SECOND

    def _offset_by_rule(self, at: int) -> int:
        since_epoch = timedelta(microseconds=min(at, _LAST))
        # Datetimes of one zone are added and subtracted by their wall clocks, which is what gives the offset here.
        local = self._rule.fromutc(self._epoch + since_epoch)
        return (local - self._epoch - since_epoch) // MICROSECOND


def zone(name: object) -> Zone | None:
    """The zone of an IANA `name` in its exact case, None for anything else."""
    return _load(name) if isinstance(name, str) and name in _names() else None


@cache
def _names() -> frozenset[str]:
    return frozenset(files("tzdata").joinpath("zones").read_text(encoding="utf-8").split())


@cache
def _load(name: str) -> Zone:
    return Zone(name, files("tzdata").joinpath("zoneinfo", *name.split("/")).read_bytes())


def _window(kind: str, start: int, end: int) -> Window:
    return Window(kind, start, end, instant(start), instant(end))


_HEADER = Struct(">20x6l")
"""Of a TZif block: how many UT flags, standard flags, leap seconds, changes, kinds of time and letters it holds."""


def _read_tzif(data: bytes) -> _Table:
    """The spans that a TZif file lists (RFC 9636); known for ever unless a yearly rule goes on after the last change.

    A file starts with a block of 32-bit data, skipped here; the same block with 64 bits and a footer follow.
    """
    block = data[_length(_HEADER.unpack_from(data), width=4) :]
    counts = _HEADER.unpack_from(block)
    changes, kinds = counts[3], counts[4]
    at = _HEADER.size + changes * 9
    instants = unpack_from(f">{changes}q", block, _HEADER.size)
    order = unpack_from(f">{changes}B", block, _HEADER.size + changes * 8)
    offsets: list[int] = [offset for offset, _, _ in iter_unpack(">lBB", block[at : at + kinds * 6])]
    has_rule = b"," in block[_length(counts, width=8) :]
    return _table(instants, [offsets[kind] for kind in order], offsets[0], has_rule=has_rule)


def _length(counts: tuple[int, ...], width: int) -> int:
    """Bytes of a block, its header included, whose instants take `width` bytes."""
    is_utc, is_std, leaps, changes, kinds, letters = counts
    return _HEADER.size + is_utc + is_std + leaps * (width + 4) + changes * (width + 1) + kinds * 6 + letters


def _table(instants: Sequence[int], offsets: Sequence[int], before: int, *, has_rule: bool) -> _Table:
    """Spans out of the file's seconds; changes of the zone's letters alone are left out."""
    starts, kept = [-_EVER], [before * SECOND]
    for at, offset in zip(instants, offsets, strict=True):
        if offset * SECOND != kept[-1]:
            starts.append(at * SECOND)
            kept.append(offset * SECOND)
    return _Table(tuple(starts), tuple(kept), instants[-1] * SECOND if has_rule else _EVER)

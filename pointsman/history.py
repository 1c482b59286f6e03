"""The configuration's past: how much of it is kept, what proves that some was lost, and a walk through it.

Config versions are drawn from a sequence, and a commit that fails leaves its number unused: a number that is missing
proves nothing. What does prove a loss raises `HistoryHole`, so that nothing is decided again on what is left.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from pointsman.cache.indexes import TABLES, Change, Indexes
from pointsman.engine.configuration import NOBODY
from pointsman.errors import HistoryHole
from pointsman.model import micros
from pointsman.store import LONG_READ_SECONDS, Connection, queries_of, read_image

SLICE = 1_000


class Extent(NamedTuple):
    """What is kept, and what shows that something was lost.

    `first_version`: of the first baseline, None where none is left. `whole_from`: from which instant on all decisions
    are kept, None if all that ever were. `has_orphans`: there are entries that have lost their commit. `emptied`: the
    first commit after the baseline that has lost all of its entries.
    """

    first_version: int | None
    last_version: int | None
    whole_from: int | None
    has_orphans: bool
    emptied: int | None

    def require_whole(self, version: int | None = None) -> None:
        """Raise `HistoryHole` where something was lost that all decisions need, or one on `version`."""
        if self.first_version is None:
            raise HistoryHole("the history of the configuration has no baseline; restore `pointsman.config_log`")
        if self.has_orphans:
            raise hole("entries of `pointsman.config_log` have lost their commit")
        if self.emptied is not None and (version is None or self.emptied <= version):
            raise hole(f"what version {self.emptied} changed is missing; restore `pointsman.config_log`")

    def is_pruned(self, version: int) -> bool:
        """Whether a version is older than what `prune` left."""
        return self.whole_from is not None and self.first_version is not None and version < self.first_version

    def is_within(self, version: int) -> bool:
        """Whether a version is between the first and the last that are kept."""
        first, last = self.first_version, self.last_version
        return first is not None and last is not None and first <= version <= last


async def read_extent(connection: Connection) -> Extent:
    """How much of the history the connection's transaction sees."""
    row = await connection.fetchrow(queries_of("history")["extent"], timeout=LONG_READ_SECONDS)
    assert row is not None
    before = row["whole_from"]
    return Extent(**{**row, "whole_from": None if before is None else micros(before)})


def hole(what: str) -> HistoryHole:
    """What a loss is told by."""
    return HistoryHole(f"the history of the configuration has a hole: {what}")


def missing_version(version: int, decision_id: int) -> HistoryHole:
    """What a decision proves that was made on a version that is not there."""
    return hole(f"version {version}, which decision {decision_id} was made on, is missing")


class History:
    """The configuration at one version after another, from a single walk over the log in the order of commits.

    A baseline is a new beginning: it says all that there is at its version.
    """

    def __init__(self, connection: Connection, first: int) -> None:
        self._connection = connection
        self._first = first
        self._cursor: Any = None
        self._rows: Sequence[asyncpg.Record] = ()
        self._place = 0
        self.indexes = Indexes(0, NOBODY)

    async def advance(self, version: int) -> Indexes:
        """The configuration at `version`, or at the last version before it that there is."""
        while (row := await self._next()) is not None and row["version"] <= version:
            self._place += 1
            if row["version"] != self.indexes.version:
                self._begin(row)
            if row["rel"]:  # none: nothing was changed; blank: caches were told to load anew
                self._apply(row)
        return self.indexes

    async def _next(self) -> asyncpg.Record | None:
        if self._place == len(self._rows):
            if self._cursor is None:
                self._cursor = await self._connection.cursor(queries_of("history")["walk"], self._first)
            self._rows, self._place = await self._cursor.fetch(SLICE), 0
        return self._rows[self._place] if self._rows else None

    def _begin(self, row: asyncpg.Record) -> None:
        if row["baseline"]:
            self.indexes = Indexes(row["version"], row["token"])
        self.indexes.version, self.indexes.token = row["version"], row["token"]

    def _apply(self, row: asyncpg.Record) -> None:
        if row["op"] == "t":
            for key in _keys(self.indexes, row["rel"]):
                self.indexes.apply(Change(row["rel"], key, None), row["version"])
        else:
            self.indexes.apply(Change(row["rel"], row["key"], read_image(row["image"])), row["version"])


def _keys(indexes: Indexes, table: str) -> list[str]:
    """The keys of all rows of a table that are in force."""
    if table == "buyer_offers":
        return [f"{buyer}:{offer}" for offer, of_offer in indexes.enrollments.items() for buyer in of_offer]
    rows: Sequence[Mapping[UUID, Any]] = (
        indexes.offers,
        indexes.buyers,
        {},
        indexes.areas,
        indexes.exclusivity_rows,
        indexes.policies,
    )
    return [str(key) for key in rows[TABLES.index(table)]]

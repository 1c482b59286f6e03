"""Old decisions and the history that only they needed, removed in small transactions while leads are routed.

What is kept can be replayed: history begins with the whole configuration as it was at its first version. Turns in the
rotation stay as they are, and so does everything that windows which may still be open count.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import asyncpg

from pointsman.errors import Busy, PointsmanError
from pointsman.store import connect, queries_of, translated

Progress = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and of how much."""

SHORTEST_DAYS: Final = 3
"""Younger decisions are what caps count: a local day can last more than a day, and zones are a day apart. Counters of
windows that began earlier always go."""

LOCK: Final = 7203379
"""The advisory lock of a running prune; two above the seal's, and one above the demo's."""

SLICE: Final = 5_000
CONNECT_SECONDS: Final = 10


class TooYoung(PointsmanError, ValueError):
    """Decisions of the last 3 days are never removed, since caps count them."""


@dataclass(frozen=True, slots=True)
class Pruned:
    """What a run removed. `horizon`: the version that history begins with, None where it was left as it is."""

    cutoff: datetime
    decisions: int
    counters: int
    horizon: int | None
    commits: int
    image: int

    def as_json(self) -> dict[str, Any]:
        """For a program to read."""
        return {
            "cutoff": self.cutoff,
            "decisions": self.decisions,
            "counters": self.counters,
            "horizon": self.horizon,
            "commits": self.commits,
            "image": self.image,
        }


async def prune(dsn: str, *, days: int, progress: Progress | None = None) -> Pruned:
    """Remove decisions that are older than `days` days, and configuration history that no kept decision needs.

    May be interrupted anywhere and run again. Raises `TooYoung`, `Busy` while another prune runs, and what stands in
    the way of the database.
    """
    if days < SHORTEST_DAYS:
        raise TooYoung(f"decisions of the last {SHORTEST_DAYS} days are never removed, since caps count them")
    with translated():
        connection = await connect(dsn, CONNECT_SECONDS, "pointsman prune", {"jit": "off"})
        try:
            await connection.execute("set statement_timeout = 0")
            return await _Pruning(connection, progress or _nothing).run(days)
        finally:
            await connection.close(timeout=CONNECT_SECONDS)


class _Pruning:
    def __init__(self, connection: asyncpg.Connection, progress: Progress) -> None:
        self._connection = connection
        self._progress = progress
        self._sql = queries_of("prune")

    async def run(self, days: int) -> Pruned:
        if not await self._value("alone", LOCK):
            raise Busy("another prune of this database is running")
        extent = await self._connection.fetchrow(self._sql["extent"], days)
        assert extent is not None
        cutoff: datetime = extent["cutoff"]
        if extent["decisions"]:
            await self._execute("remember", cutoff)
        decisions = await self._decisions(cutoff, extent["decisions"])
        counters = await self._counters()
        horizon = await self._connection.fetchrow(self._sql["horizon"], cutoff)
        if horizon is None or not horizon["commits"]:
            return Pruned(cutoff, decisions, counters, None, 0, 0)
        image = 0 if horizon["has_baseline"] else await self._image(horizon["version"], horizon["change_set"])
        await self._execute("begin_with", horizon["version"])
        commits = await self._history(horizon["version"], horizon["commits"])
        return Pruned(cutoff, decisions, counters, horizon["version"], commits, image)

    async def _decisions(self, cutoff: datetime, total: int) -> int:
        removed, last = 0, -(1 << 63)
        while removed < total:
            page = await self._connection.fetchrow(self._sql["delete_decisions"], last, SLICE, cutoff)
            if page is None or page["last"] is None:
                break
            removed, last = removed + page["gone"], page["last"]
            self._progress("decisions removed", removed, total)
        return removed

    async def _counters(self) -> int:
        removed = 0
        while gone := await self._execute("delete_counters", SHORTEST_DAYS, SLICE):
            removed += gone
            self._progress("counters removed", removed, removed)
        return removed

    async def _image(self, version: int, change_set: int) -> int:
        """Write down the whole configuration at `version`, as a part of the commit that made it so."""
        while await self._execute("drop_half_image", change_set, SLICE):
            pass
        await self._connection.execute(self._sql["make_image"].replace("@version@", str(version)))
        await self._connection.execute(self._sql["index_image"])
        total: int = await self._value("size_of_image")
        for first in range(0, total, SLICE):
            await self._execute("write_image", change_set, first, first + SLICE)
            self._progress("rows of configuration written down", min(first + SLICE, total), total)
        return total

    async def _history(self, version: int, total: int) -> int:
        removed = 0
        while oldest := await self._connection.fetch(self._sql["oldest_commits"], version, SLICE):
            if oldest[0]["entries"] > SLICE:
                await self._execute("delete_entries", oldest[0]["change_set"], SLICE)
                continue
            group, entries = [], 0
            for row in oldest:
                entries += row["entries"]
                if entries > SLICE:
                    break
                group.append(row["change_set"])
            removed += await self._execute("delete_commits", group)
            self._progress("versions removed", removed, total)
        return removed

    async def _value(self, statement: str, *arguments: Any) -> Any:
        return await self._connection.fetchval(self._sql[statement], *arguments)

    async def _execute(self, statement: str, *arguments: Any) -> int:
        """Run a statement and return how many rows it changed."""
        status = await self._connection.execute(self._sql[statement], *arguments)
        return int(status.rpartition(" ")[2])


def _nothing(what: str, done: int, total: int) -> None:
    """Progress that nobody looks at."""

"""Which exclusivity speaks for a lead, and what its holder's standing means."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from pointsman.engine.configuration import Exclusivity


class Holding(NamedTuple):
    """The exclusivity that counts, and whether another of the same scope had to be set aside."""

    exclusivity: Exclusivity
    conflict: bool


def holding(scopes: Iterable[Sequence[Exclusivity]], at: int) -> Holding | None:
    """The holding in the first of `scopes` (most specific first) with a row that is valid at `at`.

    A more specific row shadows the wider ones whatever its holder's standing. Of several rows the one that is valid
    since longest counts, then the one with the smallest id.
    """
    for rows in scopes:
        valid = [row for row in rows if _is_valid(row, at)]
        if valid:
            return Holding(min(valid, key=_seniority), len(valid) > 1)
    return None


def _is_valid(row: Exclusivity, at: int) -> bool:
    return (row.valid_from is None or row.valid_from <= at) and (row.valid_to is None or at < row.valid_to)


def _seniority(row: Exclusivity) -> tuple[bool, int, int]:
    return row.valid_from is not None, row.valid_from or 0, row.id.int

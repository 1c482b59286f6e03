"""The rows of a seeded world as the feed gives them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pointsman.cache.indexes import TABLES
from pointsman.model import micros
from pointsman.world import World

Image = dict[str, Any]

_INSTANTS = {"created_at": "enrolled_at", "valid_from": "valid_from", "valid_to": "valid_to"}
"""What a column with an instant is called in the images."""


def images_of(world: World) -> Iterator[tuple[str, Image]]:
    """Each row's image behind the name of its table, in an order in which they can be applied."""
    for table in TABLES:
        for row in getattr(world, table):
            yield table, _image(row._asdict())


def _image(row: Image) -> Image:
    for column, name in _INSTANTS.items():
        if column in row:
            row[name] = None if row[column] is None else micros(row[column])
    if "min_balance" in row:
        row["funded"] = row["min_balance"] is None or row["balance"] >= row["min_balance"]
    return row

"""The SQLAlchemy models say of the host's tables what the database says of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from sqlalchemy import Connection, Table, inspect
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import create_async_engine

from pointsman.host_tables import HostTable

TABLES = HostTable.metadata.sorted_tables


def described(columns: Iterable[dict[str, Any]]) -> dict[str, tuple[Any, ...]]:
    dialect = postgresql.dialect()
    return {
        column["name"]: (column["type"].compile(dialect), column["nullable"], column["default"] is not None)
        for column in columns
    }


def modelled(table: Table) -> dict[str, tuple[Any, ...]]:
    return described(
        {
            "name": column.name,
            "type": column.type,
            "nullable": column.nullable,
            "default": column.server_default or column.default,
        }
        for column in table.columns
    )


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
async def test_a_model_has_the_columns_of_its_table(table: Table, database: str) -> None:
    engine = create_async_engine(database.replace("postgresql://", "postgresql+asyncpg://", 1))

    def real(connection: Connection) -> tuple[dict[str, Any], list[str], set[tuple[Any, ...]]]:
        found = inspect(connection)
        keys = {
            (*key["constrained_columns"], key["referred_table"], key["options"].get("ondelete", "").lower())
            for key in found.get_foreign_keys(table.name)
        }
        return (
            described(found.get_columns(table.name)),
            found.get_pk_constraint(table.name)["constrained_columns"],
            keys,
        )

    async with engine.connect() as connection:
        columns, primary_key, foreign_keys = await connection.run_sync(real)
    await engine.dispose()
    assert columns == modelled(table)
    assert primary_key == [column.name for column in table.primary_key]
    assert foreign_keys == {(key.parent.name, key.column.table.name, key.ondelete or "") for key in table.foreign_keys}


def test_every_table_has_a_model() -> None:
    from pointsman.cache.indexes import TABLES as CONFIGURATION

    assert {*CONFIGURATION, "leads"} == {table.name for table in TABLES}

"""SQLAlchemy's connections and sessions, for hosts that have it (`pip install "pointsman[sqlalchemy]"`)."""

from __future__ import annotations

from typing import Any

import asyncpg

from pointsman.errors import UnsuitableTransaction

try:
    from sqlalchemy import text
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
except ModuleNotFoundError as error:
    raise UnsuitableTransaction(
        "the connection is neither asyncpg's nor, without the extra `pointsman[sqlalchemy]`, SQLAlchemy's"
    ) from error


async def driver_connection(connection: Any) -> asyncpg.Connection:
    """The asyncpg connection under an `AsyncConnection` or `AsyncSession`, its transaction begun.

    SQLAlchemy begins a transaction at the first statement; an empty one makes it do so. Raises `UnsuitableTransaction`
    where there is no transaction or the driver is another one.
    """
    if isinstance(connection, AsyncSession):
        if not connection.in_transaction():
            raise UnsuitableTransaction("the session has no open transaction; a decision needs one to be part of")
        await connection.flush()
        connection = await connection.connection()
    if not isinstance(connection, AsyncConnection):
        raise UnsuitableTransaction(
            "the connection is neither asyncpg's nor SQLAlchemy's `AsyncConnection` or `AsyncSession`"
        )
    if not connection.in_transaction():
        raise UnsuitableTransaction("the connection has no open transaction; a decision needs one to be part of")
    await connection.execute(text("select 1"))
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    if not isinstance(driver, asyncpg.Connection):
        raise UnsuitableTransaction("SQLAlchemy's driver is not asyncpg (`postgresql+asyncpg://`)")
    return driver

"""Inside a caller's asyncpg transaction: the assignment and a row for the courier are there together, or neither is.

DATABASE_URL=postgresql://... python examples/asyncpg_transaction.py LEAD_ID...
"""

import asyncio
import os
import sys
from uuid import UUID

import asyncpg

from pointsman import OutcomeKind, Router

OUTBOX = "create table if not exists outbox (lead_id uuid primary key, buyer_id uuid not null)"


async def hand_over(router: Router, connection: asyncpg.Connection, lead_id: UUID) -> bool:
    """Route one lead and put it into the outbox; one lead a transaction."""
    async with connection.transaction():
        outcome = await router.route(lead_id, connection=connection)
        if outcome.outcome is not OutcomeKind.ROUTED:
            return False
        await connection.execute("insert into outbox values ($1, $2)", lead_id, outcome.buyer_id)
        return True


async def main(lead_ids: list[UUID]) -> None:
    address = os.environ["DATABASE_URL"]
    connection = await asyncpg.connect(address)
    try:
        await connection.execute(OUTBOX)
        async with Router.open(address) as router:
            for lead_id in lead_ids:
                print(lead_id, "handed over" if await hand_over(router, connection, lead_id) else "stays")
    finally:
        await connection.close()


if __name__ == "__main__":
    asyncio.run(main([UUID(text) for text in sys.argv[1:]]))

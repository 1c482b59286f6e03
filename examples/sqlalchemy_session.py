"""Inside a SQLAlchemy session: a lead that has just been validated is routed in the same transaction.

DATABASE_URL=postgresql://... python examples/sqlalchemy_session.py LEAD_ID...

The models are the ready-made ones; a host that has its own uses those.
"""

import asyncio
import os
import sys
from uuid import UUID

from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine

from pointsman import Router
from pointsman.host_tables import Buyer, Lead


async def validate(router: Router, sessions: async_sessionmaker, lead_id: UUID) -> str:
    """Validate a lead, route it, and say who has it."""
    async with sessions.begin() as session:
        lead = await session.get_one(Lead, lead_id)
        lead.status = "validated"
        await router.route(lead_id, connection=session)  # flushes, so that the claim sees the new status
        await session.refresh(lead)
        buyer = lead.buyer_id and await session.get_one(Buyer, lead.buyer_id)
        return buyer.name if buyer else f"nobody, it stays {lead.status}"


async def main(lead_ids: list[UUID]) -> None:
    address = os.environ["DATABASE_URL"]
    engine = create_async_engine(address.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        async with Router.open(address) as router:
            for lead_id in lead_ids:
                print(lead_id, "goes to", await validate(router, async_sessionmaker(engine), lead_id))
    finally:
        await engine.dispose()


if __name__ == "__main__":
    asyncio.run(main([UUID(text) for text in sys.argv[1:]]))

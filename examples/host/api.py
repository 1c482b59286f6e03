"""The host's own routes, in a module that is called like one of Pointsman's."""

from uuid import UUID

import cache
from fastapi import APIRouter

router = APIRouter()


@router.get("/accepted")
async def accepted() -> dict[UUID, int]:
    """What was accepted, with its price."""
    return cache.accepted

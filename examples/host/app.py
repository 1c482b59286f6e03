"""A host's FastAPI application with the router in it, beside the host's own modules `api`, `cache` and `engine`.

DATABASE_URL=postgresql://... uvicorn --app-dir examples/host app:app

Three lines make it: the import, `lifespan=`, and the parameter `router: TheRouter`.
"""

import os
from uuid import UUID

import api
import cache
import engine
from fastapi import FastAPI

from pointsman.api import TheRouter, lifespan
from pointsman.wire import outcome_json

app = FastAPI(lifespan=lifespan(os.environ["DATABASE_URL"]))
app.include_router(api.router)


@app.post("/leads/{lead_id}/accept")
async def accept(lead_id: UUID, router: TheRouter) -> dict[str, object]:
    """Route a lead, price it with the host's own engine, and remember it in the host's own cache."""
    outcome = outcome_json(await router.route(lead_id))
    cache.accepted[lead_id] = engine.price(outcome["buyer_id"])
    return {**outcome, "price": cache.accepted[lead_id]}

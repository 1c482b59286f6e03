"""A process of its own that routes what it is sent: `python -m bench.worker DSN CALLERS`, a line of ids at a time."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from uuid import UUID

from bench.loops import run
from bench.workloads import at_once
from pointsman import Router


async def main(dsn: str, callers: int) -> None:
    """Say when the router is open; route each line of leads that comes, and print when that began and ended."""
    async with Router.open(dsn) as router:

        async def route(lead_id: UUID) -> None:
            outcome = await router.route(lead_id)
            if outcome.outcome != "routed":
                raise RuntimeError(f"not routed: {outcome}")

        print("ready", flush=True)
        while line := await asyncio.to_thread(sys.stdin.readline):
            ids = list(map(UUID, json.loads(line)))
            began = time.monotonic()
            await at_once(route, ids, callers)
            print(json.dumps([began, time.monotonic()]), flush=True)


if __name__ == "__main__":
    run(main(sys.argv[1], int(sys.argv[2])))

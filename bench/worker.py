"""A process of its own that routes the leads it is sent: `python -m bench.worker DSN CALLERS`, their ids on stdin."""

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
    """Say when the router is open, route what comes, and print when that began and ended."""
    async with Router.open(dsn) as router:
        print("ready", flush=True)
        ids = list(map(UUID, json.loads(await asyncio.to_thread(sys.stdin.readline))))
        routed = 0

        async def route(lead_id: UUID) -> None:
            nonlocal routed
            routed += (await router.route(lead_id)).outcome == "routed"

        began = time.monotonic()
        await at_once(route, ids, callers)
        print(json.dumps({"began": began, "ended": time.monotonic(), "routed": routed}))


if __name__ == "__main__":
    run(main(sys.argv[1], int(sys.argv[2])))

"""A process with a router of its own, for tests of several: reads commands as lines of JSON, answers each with one.

`["open", dsn]`, `["route", ids]` (a call of its own for each id, all at once), `["in turn", ids]` (one after another),
`["callers", ids, count]` (so many callers that share the ids, and ask again when the router is busy), `["close"]`. An
answer to leads is a list of `[outcome or error, buyer, decision, config version]`.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any
from uuid import UUID

from pointsman import Router
from pointsman.errors import Busy, PointsmanError
from pointsman.model import Outcome


def plain(answer: Outcome | PointsmanError) -> list[Any]:
    if isinstance(answer, Outcome):
        buyer = None if answer.buyer_id is None else str(answer.buyer_id)
        return [answer.outcome, buyer, answer.decision_id, answer.config_version]
    return [f"{type(answer).__name__}: {answer}", None, None, None]


async def call_by_turns(router: Router, leads: list[UUID], callers: int) -> list[list[Any]]:
    """The answers to all leads, each asked for by whichever caller is free."""
    queue, found = list(reversed(leads)), {}

    async def call() -> None:
        while queue:
            lead = queue.pop()
            (answer,) = await router.route_many([lead])
            if isinstance(answer, Busy):
                queue.append(lead)
            else:
                found[lead] = plain(answer)

    await asyncio.gather(*(call() for _ in range(callers)))
    return [found[lead] for lead in leads]


async def main() -> None:
    router: Router | None = None
    while line := await asyncio.to_thread(sys.stdin.readline):
        what, *arguments = json.loads(line)
        answer: Any = "done"
        if what == "open":
            try:
                router = await Router.open(*arguments)
            except PointsmanError as error:
                answer = f"{type(error).__name__}: {error}"
        elif router is None:
            answer = "open a router first"
        elif what == "close":
            await router.close()
            router = None
        else:
            leads = [UUID(lead) for lead in arguments[0]]
            if what == "callers":
                answer = await call_by_turns(router, leads, arguments[1])
            elif what == "route":
                batches = await asyncio.gather(*(router.route_many([lead]) for lead in leads))
                answer = [plain(found) for (found,) in batches]
            else:
                batches = [await router.route_many([lead]) for lead in leads]
                answer = [plain(found) for (found,) in batches]
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main())

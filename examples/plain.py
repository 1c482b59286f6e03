"""A plain asyncio program: route the leads whose ids are given, and say why where nobody takes one.

DATABASE_URL=postgresql://... python examples/plain.py LEAD_ID...
"""

import asyncio
import os
import sys

from pointsman import Outcome, PointsmanError, Router
from pointsman.sentences import sentence


async def main(lead_ids: list[str]) -> None:
    async with Router.open(os.environ["DATABASE_URL"]) as router:
        for lead_id, answer in zip(lead_ids, await router.route_many(lead_ids), strict=True):
            match answer:
                case PointsmanError():
                    print(f"{lead_id} was not decided: {answer}")
                case Outcome(buyer_id=None):
                    print(f"{lead_id} stays: {answer.outcome} {answer.cause or ''}")
                    for excluded in (await router.explain(lead_id)).excluded:
                        print(f"  {excluded.buyer_id}: {', '.join(map(sentence, excluded.reasons))}")
                case Outcome():
                    print(f"{lead_id} belongs to {answer.buyer_id}")


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))

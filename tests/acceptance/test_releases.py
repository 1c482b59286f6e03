"""Releases side by side on one database, while the schema is brought to the newer one's."""

from __future__ import annotations

import asyncio
from collections import Counter

import asyncpg
import pytest

import pointsman.migrate
from pointsman import Router, replay
from pointsman.engine import __version__
from pointsman.migrate import Migration, migrate, migrations, required_version
from tests.acceptance.processes import Process, add_leads, build_market, outcomes
from tests.invariants import violations
from tests.stage import another, served, until

# The next release has changed every function that carries a number, and so has given it another name.
NEXT = Migration(
    required_version() + 1,
    "next",
    """
    do $$
    declare
      f record;
    begin
      for f in select p.proname as name, pg_get_functiondef(p.oid) as text from pg_proc p
               where p.pronamespace = 'pointsman'::regnamespace and p.proname ~ '_[0-9]+$' loop
        execute replace(f.text, 'pointsman.' || f.name || '(', 'pointsman.' || f.name || '_next(');
      end loop;
    end $$;
    """,
)


@pytest.fixture
async def releases() -> dict[str, Process]:
    """Processes of the release before and of the release after this one."""
    older = Process.start("other_release.py", "0.0.9", str(required_version()), "")
    newer = Process.start("other_release.py", "99.0.0", str(NEXT.version), "_next")
    return dict(zip(("0.0.9", "99.0.0"), await asyncio.gather(older, newer), strict=True))


async def test_three_releases_decide_as_one_while_the_schema_is_brought_to_the_newest(
    database: str, connection: asyncpg.Connection, releases: dict[str, Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    older, newer = releases.values()
    offers, buyers = await build_market(connection)
    leads = await add_leads(connection, offers, 960)
    first, second, third = leads[:720], leads[720:840], leads[840:]  # the first last longer than the migration takes
    try:
        assert "DatabaseUnfit: the router's tables are older" in await newer.ask("open", database)
        assert "done" == await older.ask("open", database)
        async with Router.open(database) as router, another(database) as writer:
            work = asyncio.ensure_future(older.route(first, "in turn"))

            async def some_are_routed() -> bool:
                return len(await served(connection)) >= 10

            await until(some_are_routed, "work")
            monkeypatch.setattr(pointsman.migrate, "migrations", lambda: [*migrations(), NEXT])
            assert (NEXT.version,) == (await migrate(database)).applied
            assert not work.done()
            assert "done" == await newer.ask("open", database)
            more = asyncio.ensure_future(newer.route(second, "callers", 4))
            here = []
            for number, lead in enumerate(third):
                here.append(await router.route_many([lead]))
                if number % 5 == 0:
                    await writer.execute("update buyers set daily_cap = 40 + $2 where id = $1", buyers[1], number)
            answers = [await work, await more]
    finally:
        await asyncio.gather(older.end(), newer.end())
    assert {"routed", "no_route"} >= set(outcomes(answers))
    assert 960 == sum(map(len, answers)) + len(here)
    decided = Counter(row["v"] for row in await connection.fetch("select engine_version as v from pointsman.decisions"))
    assert {"0.0.9": 720, "99.0.0": 120, __version__: 120} == decided
    assert [] == await violations(connection)
    report = await replay.replay(database)
    assert (120, 0) == (report.same_version.equal, report.same_version.different)
    assert (840, 0) == (report.other_version.equal, report.other_version.different)

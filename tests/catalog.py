"""What a database's catalog says of it, a line for each thing, to be compared with itself."""

from __future__ import annotations

import asyncpg

# every object of ours and of a host's
CATALOG = """
with ours as (
  select c.* from pg_class c join pg_namespace n on n.oid = c.relnamespace
  where n.nspname in ('pointsman', 'public', 'app') and c.relkind <> 't')
select format('schema %s %s', n.nspname, n.nspacl) from pg_namespace n where n.nspname !~ '^pg_'
union all
select format('table %s %s %s options %s owner %s privileges %s row security %s %s identity %s',
              c.oid::regclass, c.relkind, c.relpersistence, c.reloptions, c.relowner::regrole, c.relacl,
              c.relrowsecurity, c.relforcerowsecurity, c.relreplident)
from ours c
union all
select format('column %s.%s %s %s %s %s privileges %s statistics %s %s', c.oid::regclass, a.attname,
              format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, pg_get_expr(d.adbin, d.adrelid),
              a.attacl, a.attstattarget, a.attstorage)
from ours c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
left join pg_attrdef d on d.adrelid = c.oid and d.adnum = a.attnum
union all
select format('constraint %s %s %s', o.conrelid::regclass, o.conname, pg_get_constraintdef(o.oid))
from ours c join pg_constraint o on o.conrelid = c.oid
union all
select format('index %s', pg_get_indexdef(c.oid)) from ours c where c.relkind = 'i'
union all
select format('function %s %s %s', p.oid::regprocedure, p.proacl, pg_get_functiondef(p.oid))
from pg_proc p where p.pronamespace = to_regnamespace('pointsman')
union all
select format('trigger %s %s', pg_get_triggerdef(g.oid), g.tgenabled) from pg_trigger g where not g.tgisinternal
union all
select format('trigger of a key: %s on %s %s', g.tgfoid::regproc, g.tgrelid::regclass, g.tgenabled)
from pg_trigger g where g.tgisinternal
union all
select format('view %s %s', viewname, definition) from pg_views where schemaname = 'pointsman'
union all
select format('sequence %s %s %s', sequencename, start_value, cache_size)
from pg_sequences where schemaname = 'pointsman'
union all
select format('statistics %s %s', s.stxname, pg_get_statisticsobjdef(s.oid)) from pg_statistic_ext s
union all
select format('comment on %s %s: %s', c.oid::regclass, d.objsubid, d.description)
from pg_description d join ours c on c.oid = d.objoid and d.classoid = 'pg_class'::regclass
union all
select format('extension %s', e.extname) from pg_extension e
"""


async def catalog(dsn: str) -> list[str]:
    """Its lines, sorted."""
    connection = await asyncpg.connect(dsn)
    try:
        return sorted(line for (line,) in await connection.fetch(CATALOG))
    finally:
        await connection.close(timeout=5)

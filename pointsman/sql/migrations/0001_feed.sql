-- The feed: every committed change of configuration, in the order of the commits, with the row images that the router uses.

-- The instant that the router goes by. Plain SQL without settings, so that it is inlined; tests replace it.
create function pointsman.clock() returns timestamptz language sql volatile as $$ select pg_catalog.clock_timestamp() $$;

-- Config versions. CACHE 1: numbers are drawn in the order of the commits.
create sequence pointsman.config_version_seq cache 1;

-- One row a transaction that changed configuration. Its version is taken while it commits (seal). The token tells this
-- history from another with the same numbers: a fail-over that lost commits, a restore.
-- xid: only while the transaction is open, since a restored cluster uses transaction ids again.
-- baseline: the change set holds the whole configuration as it was at its version.
create table pointsman.config_commit (
  change_set bigint generated always as identity primary key,
  xid xid8 unique default pg_current_xact_id(),
  version bigint unique,
  token uuid,
  committed_at timestamptz,
  baseline bool not null default false,
  check ((version is null) = (token is null) and (version is null) = (committed_at is null) and (version is null or xid is null))
);

-- What a change set changed, in order. op: i(nserted), u(pdated), d(eleted), b(aseline), t(able emptied or to be reloaded;
-- key is blank). row: the image after the change.
create table pointsman.config_log (
  change_set bigint not null,
  seq bigint generated always as identity,
  rel text not null,
  op "char" not null check (op in ('i', 'u', 'd', 'b', 't')),
  key text not null,
  row jsonb,
  primary key (change_set, seq),
  check ((row is not null) = (op in ('i', 'u', 'b')))
);

-- The configuration tables that are attached to the feed, each with the first baseline that holds it (null: to be written).
create table pointsman.attachment (
  rel text primary key,
  baseline bigint
);

-- The change set of this transaction, made at its first change of configuration. (Here and in all that follows, enable_seqscan:
-- sessions keep their plans, and one that was made while the log was small must not go through all of it ever after.)
create function pointsman.change_set() returns bigint language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  found_set bigint;
begin
  select c.change_set into found_set from pointsman.config_commit c where c.xid = pg_current_xact_id();
  if found_set is null then
    insert into pointsman.config_commit default values returning change_set into found_set;
  end if;
  return found_set;
end $$;

-- Whether this transaction has changed configuration. What was sealed before COMMIT (set constraints ... immediate) has no xid
-- any more; a setting that lasts as long as the transaction, and goes with a savepoint, says so.
create function pointsman.has_changed() returns bool language plpgsql stable set enable_seqscan = off as $$
begin
  return exists (select from pointsman.config_commit c where c.xid = pg_current_xact_id_if_assigned())
    or current_setting('pointsman.is_sealed', true) = 'true';
end $$;

-- At COMMIT: takes the version. The lock is held from here to the end of the commit and makes versions the order of the
-- commits; a table row in its stead would fail REPEATABLE READ writers of unrelated rows.
create function pointsman.seal() returns trigger language plpgsql security definer
set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  perform pg_advisory_xact_lock(7203377);
  update pointsman.config_commit
    set version = nextval('pointsman.config_version_seq'), token = gen_random_uuid(), committed_at = clock_timestamp(), xid = null
    where change_set = new.change_set;
  perform set_config('pointsman.is_sealed', 'true', true);
  perform pg_notify('pointsman', '');
  return null;
end $$;

-- A baseline brings its version along. ENABLE ALWAYS: sessions that replicate commit too.
create constraint trigger seal after insert on pointsman.config_commit deferrable initially deferred
  for each row when (new.version is null) execute function pointsman.seal();
alter table pointsman.config_commit enable always trigger seal;

-- The key columns of a configuration table.
create function pointsman.image_key(rel name) returns name[] language sql immutable as $$
  select case rel when 'buyer_offers' then array['buyer_id', 'offer_id']::name[] else array['id']::name[] end
$$;

-- The select list that makes a row image out of row "r" of a configuration table: the columns that the router uses, in types
-- of ours, an optional column that the host lacks replaced by its default. It is the one source of the image_* views, the
-- triggers and the baseline.
--
-- Texts are compared byte by byte (a host's collation may take two for equal). JSON is text: what a json column admits and
-- jsonb does not must not fail the host's write. Instants are microseconds since 1970, whatever the session's time zone;
-- infinities are the ends of bigint, and null where an open end means the same.
create function pointsman.image_columns(host name, rel name) returns text language sql stable
set search_path = pg_catalog, pg_temp as $$
  with wanted (rel, place, name, source, kind, fallback) as (values
    ('offers', 1, 'id', 'id', 'uuid', null),
    ('offers', 2, 'vertical_id', 'vertical_id', 'uuid', null),
    ('offers', 3, 'market_id', 'market_id', 'uuid', 'null'),
    ('offers', 4, 'is_active', 'is_active', 'flag', null),
    ('buyers', 1, 'id', 'id', 'uuid', null),
    ('buyers', 2, 'status', 'status', 'text', null),
    ('buyers', 3, 'timezone', 'timezone', 'text', quote_literal('UTC')),
    ('buyers', 4, 'acceptance_hours', 'acceptance_hours', 'text', 'null'),
    ('buyers', 5, 'funded', 'min_balance', 'funded', 'null'),
    ('buyers', 6, 'sla_response_seconds', 'sla_response_seconds', 'number', 'null'),
    ('buyers', 7, 'hourly_cap', 'hourly_cap', 'number', 'null'),
    ('buyers', 8, 'daily_cap', 'daily_cap', 'number', 'null'),
    ('buyer_offers', 1, 'buyer_id', 'buyer_id', 'uuid', null),
    ('buyer_offers', 2, 'offer_id', 'offer_id', 'uuid', null),
    ('buyer_offers', 3, 'is_active', 'is_active', 'flag', null),
    ('buyer_offers', 4, 'priority_rank', 'priority_rank', 'number', null),
    ('buyer_offers', 5, 'weight', 'weight', 'number', null),
    ('buyer_offers', 6, 'hourly_cap', 'hourly_cap', 'number', null),
    ('buyer_offers', 7, 'daily_cap', 'daily_cap', 'number', null),
    ('buyer_offers', 8, 'enrolled_at', 'created_at', 'instant', null),
    ('buyer_service_areas', 1, 'id', 'id', 'uuid', null),
    ('buyer_service_areas', 2, 'buyer_id', 'buyer_id', 'uuid', null),
    ('buyer_service_areas', 3, 'market_id', 'market_id', 'uuid', null),
    ('buyer_service_areas', 4, 'scope', 'scope', 'text', null),
    ('buyer_service_areas', 5, 'value', 'value', 'text', null),
    ('buyer_service_areas', 6, 'is_active', 'is_active', 'flag', null),
    ('offer_exclusivities', 1, 'id', 'id', 'uuid', null),
    ('offer_exclusivities', 2, 'offer_id', 'offer_id', 'uuid', null),
    ('offer_exclusivities', 3, 'buyer_id', 'buyer_id', 'uuid', null),
    ('offer_exclusivities', 4, 'market_id', 'market_id', 'uuid', null),
    ('offer_exclusivities', 5, 'scope', 'scope', 'text', null),
    ('offer_exclusivities', 6, 'value', 'value', 'text', null),
    ('offer_exclusivities', 7, 'valid_from', 'valid_from', 'start', null),
    ('offer_exclusivities', 8, 'valid_to', 'valid_to', 'end', null),
    ('offer_exclusivities', 9, 'is_active', 'is_active', 'flag', null),
    ('routing_policies', 1, 'id', 'id', 'uuid', null),
    ('routing_policies', 2, 'offer_id', 'offer_id', 'uuid', null),
    ('routing_policies', 3, 'vertical_id', 'vertical_id', 'uuid', null),
    ('routing_policies', 4, 'market_id', 'market_id', 'uuid', null),
    ('routing_policies', 5, 'version', 'version', 'number', null),
    ('routing_policies', 6, 'is_active', 'is_active', 'flag', null),
    ('routing_policies', 7, 'rules', 'rules', 'text', null)),
  present as (
    select a.attname::text as name
    from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
    where n.nspname = host and c.relname = image_columns.rel and a.attnum > 0 and not a.attisdropped),
  found as (
    select w.*, case when p.name is null then w.fallback else format('r.%I', w.source) end as value
    from wanted w left join present p on p.name = w.source where w.rel = image_columns.rel)
  select string_agg(format('%s as %I', case f.kind
      when 'uuid' then format('%s::uuid', f.value)
      when 'text' then format('%s::text collate "C"', f.value)
      when 'number' then format('%s::bigint', f.value)
      when 'flag' then format('coalesce(%s::bool, false)', f.value)
      when 'funded' then format('(%1$s::numeric is null or coalesce(%2$s >= %1$s::numeric and %2$s <> ''NaN'', false))', f.value,
        case when exists (select from present p where p.name = 'balance') then 'r.balance::numeric' else '0::numeric' end)
      when 'instant' then e.micros
      when 'start' then format('nullif(%s, -9223372036854775808)', e.micros)
      when 'end' then format('nullif(%s, 9223372036854775807)', e.micros)
    end, f.name), ', ' order by f.place)
  from found f cross join lateral (
    -- greatest and least pass nulls over, so a null needs a word of its own
    select format('case when %1$s is not null then
      greatest(least(extract(epoch from %1$s) * 1000000, 9223372036854775807), -9223372036854775808)::bigint end', f.value)
      as micros) e
$$;

-- Configuration tables whose changes the triggers do not log as they should: triggers missing, switched off or not ours.
create function pointsman.detached() returns setof text language sql stable set search_path = pg_catalog, pg_temp as $$
  select t.rel
  from unnest(array[
    'offers', 'buyers', 'buyer_offers', 'buyer_service_areas', 'offer_exclusivities', 'routing_policies']) t(rel)
  where 5 <> (
    select count(*)
    from pg_trigger g join pg_class c on c.oid = g.tgrelid join pg_namespace n on n.oid = c.relnamespace
    join (values ('pointsman_insert', 'O'), ('pointsman_update', 'O'), ('pointsman_delete', 'O'), ('pointsman_row', 'R'),
                 ('pointsman_truncate', 'A')) x(name, enabled) on x.name = g.tgname and x.enabled = g.tgenabled::text
    where n.nspname = (select s.host_schema from pointsman.settings s) and c.relname = t.rel
      and g.tgfoid = to_regproc('pointsman.log_' || t.rel))
$$;

-- Attach a configuration table to the feed: its view image_*, its trigger function log_* and the triggers. Does nothing, takes
-- no lock and returns false where all is as it should be; otherwise a baseline is due.
create function pointsman.attach(host name, rel name) returns bool language plpgsql as $attach$
declare
  log_name constant text := 'log_' || rel;
  select_list constant text := pointsman.image_columns(host, rel);
  key constant name[] := pointsman.image_key(rel);
  -- parts of the function's text; for key columns a and b:
  -- array_agg(k.a), array_agg(k.b)
  arrays constant text := (select string_agg(format('array_agg(k.%I)', k), ', ') from unnest(key) k);
  -- keys_1, keys_2
  variables constant text := (select string_agg(format('keys_%s', i), ', ') from generate_subscripts(key, 1) i);
  -- keys_1 uuid[]; keys_2 uuid[];
  declared constant text := (select string_agg(format('  keys_%s uuid[];', i), e'\n') from generate_subscripts(key, 1) i);
  -- r.a, r.b
  plain constant text := (select string_agg(format('r.%I', k), ', ') from unnest(key) k);
  -- k.a is not null and k.b is not null
  whole constant text := (select string_agg(format('k.%I is not null', k), ' and ') from unnest(key) k);
  -- r.a = k.a and r.b = k.b
  joined constant text := (select string_agg(format('r.%1$I = k.%1$I', k), ' and ') from unnest(key) k);
  -- a, b
  named constant text := (select string_agg(format('%I', k), ', ') from unnest(key) k);
  -- k.a::text || ':' || k.b::text
  spelt constant text := (select string_agg(format('k.%I::text', k), ' || '':'' || ') from unnest(key) k);
  source constant text := format($body$
-- Made by pointsman.attach. Finds the keys whose image this statement changed, and logs the images of those rows as they
-- are now. Not as the transition tables have them: a trigger of the host's that changes a row once more, in the midst of
-- this statement, has logged its image already, and the last entry of a key must be the true one.
declare
  entry_set bigint;
%1$s
begin
  if tg_op = 'TRUNCATE' then
    entry_set := pointsman.change_set();
    insert into pointsman.config_log (change_set, rel, op, key) values (entry_set, %2$L, 't', '');
    return null;
  elsif tg_level = 'ROW' then
    if tg_op = 'INSERT' then
      select %3$s into %4$s from (select %5$s from (select new.*) r) k where %6$s;
    elsif tg_op = 'DELETE' then
      select %3$s into %4$s from (select %5$s from (select old.*) r) k where %6$s;
    else
      select %3$s into %4$s from (
        select %7$s from (select %8$s from (select new.*) r except select %8$s from (select old.*) r) changed
        union (select %5$s from (select old.*) r except select %5$s from (select new.*) r)) k where %6$s;
    end if;
  elsif tg_op = 'INSERT' then
    if not exists (select from pointsman.config_commit c where c.xid = pg_current_xact_id())
      and exists (select from new_rows k where %6$s)
    then
      -- the transaction's first change: nothing was logged in the midst, so the rows are as they came (a third faster in bulk)
      entry_set := pointsman.change_set();
      insert into pointsman.config_log (change_set, rel, op, key, row)
        select entry_set, %2$L, 'i', %9$s, to_jsonb(k) from (select %8$s from new_rows r) k where %6$s;
      return null;
    end if;
    select %3$s into %4$s from (select %5$s from new_rows r) k where %6$s;
  elsif tg_op = 'DELETE' then
    select %3$s into %4$s from (select %5$s from old_rows r) k where %6$s;
  else
    select %3$s into %4$s from (
      select %7$s from (select %8$s from new_rows r except select %8$s from old_rows r) changed
      union (select %5$s from old_rows r except select %5$s from new_rows r)) k where %6$s;
  end if;
  if keys_1 is null then
    return null;
  end if;
  entry_set := pointsman.change_set();
  insert into pointsman.config_log (change_set, rel, op, key, row)
    select entry_set, %2$L, case when i is null then 'd' when tg_op = 'INSERT' then 'i' else 'u' end, %9$s, i
    from unnest(%4$s) k(%7$s)
    left join lateral (
      select to_jsonb(x) as i from (select %8$s from %10$I.%2$I r where %11$s offset 0) x) now on true;
  return null;
end $body$, declared, rel, arrays, variables, plain, whole, named, select_list, spelt, host, joined);
begin
  if not exists (select from pointsman.detached() d where d = rel)
    and exists (select from pointsman.attachment a where a.rel = attach.rel)
    and exists (select from pg_proc p where p.oid = to_regproc('pointsman.' || log_name) and p.prosrc = source)
    and to_regclass('pointsman.image_' || rel) is not null
  then
    return false;
  end if;
  execute format('create or replace view pointsman.%I as select %s from %I.%I r where %s',
    'image_' || rel, select_list, host, rel, replace(whole, 'k.', 'r.'));
  -- A session keeps its plans. enable_seqscan: one made while the table was small must not scan it for every key once it has
  -- grown (17 s for 20,000 rows). enable_hashagg: nor hold a large statement's rows in memory where a sort could use the disk.
  execute format('create or replace function pointsman.%I() returns trigger language plpgsql security definer
    set search_path = pg_catalog, pg_temp set enable_seqscan = off set enable_hashagg = off as %L', log_name, source);
  execute format('revoke execute on function pointsman.%I() from public', log_name);
  execute format('create or replace trigger pointsman_insert after insert on %I.%I referencing new table as new_rows
    for each statement execute function pointsman.%I()', host, rel, log_name);
  execute format('create or replace trigger pointsman_update after update on %I.%I referencing old table as old_rows new table as new_rows
    for each statement execute function pointsman.%I()', host, rel, log_name);
  execute format('create or replace trigger pointsman_delete after delete on %I.%I referencing old table as old_rows
    for each statement execute function pointsman.%I()', host, rel, log_name);
  -- logical replication fires row triggers only, and sessions that replicate only those that are enabled for them
  execute format('create or replace trigger pointsman_row after insert or update or delete on %I.%I
    for each row execute function pointsman.%I()', host, rel, log_name);
  execute format('create or replace trigger pointsman_truncate after truncate on %I.%I
    for each statement execute function pointsman.%I()', host, rel, log_name);
  execute format('alter table %I.%I enable trigger pointsman_insert, enable trigger pointsman_update, enable trigger pointsman_delete,
    enable replica trigger pointsman_row, enable always trigger pointsman_truncate', host, rel);
  insert into pointsman.attachment (rel) values (rel) on conflict on constraint attachment_pkey do update set baseline = null;
  return true;
end $attach$;

-- Log the images of a slice of a table's blocks as part of a baseline; returns how many rows it had.
create function pointsman.log_slice(baseline_set bigint, host name, rel name, first_block bigint, end_block bigint)
returns bigint language plpgsql as $$
declare
  logged bigint;
begin
  execute format('insert into pointsman.config_log (change_set, rel, op, key, row)
    select $1, %1$L, ''b'', %2$s, to_jsonb(x) from (select %3$s from %4$I.%1$I r where r.ctid >= %5$L and r.ctid < %6$L) x where %7$s',
    rel,
    (select string_agg(format('x.%I::text', k), ' || '':'' || ') from unnest(pointsman.image_key(rel)) k),
    pointsman.image_columns(host, rel),
    host,
    format('(%s,0)', first_block),
    format('(%s,0)', end_block),
    (select string_agg(format('x.%I is not null', k), ' and ') from unnest(pointsman.image_key(rel)) k)) using baseline_set;
  get diagnostics logged = row_count;
  return logged;
end $$;

-- Version `since`, first and without its rows, and what was committed after it, in the order of commits; the first `most` rows.
-- Whoever is at that version sees by its token whether it is part of this history: not after a fail-over that lost commits, a
-- restore, or a prune. Each commit's rows are looked up on their own, and no more than are asked for: by its statistics a
-- commit has as many rows as the baseline. Planned once and never compiled: either would take longer than all the rest.
create function pointsman.changes_1(since bigint, most bigint)
returns table (version bigint, token uuid, rel text, op text, key text, image text)
language plpgsql stable set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
begin
  return query
  select c.version, c.token, l.rel, l.op::text, l.key, l.row::text
  from pointsman.config_commit c
  left join lateral (
    select * from pointsman.config_log l
    where c.version > since and l.change_set = c.change_set and l.op <> 'b' order by l.seq limit most) l on true
  where c.version >= since
  order by c.version, l.seq
  limit most;
end $$;

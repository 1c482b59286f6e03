-- What the peers need beside the host's tables. They share their counters, so that each finds the caps as the others
-- left them.

create schema if not exists peers;

create table if not exists peers.usage (
  buyer_id uuid not null,
  offer_id uuid not null, -- all zeros: the buyer's own, over all its offers
  kind text not null,
  window_start timestamptz not null,
  used int not null,
  primary key (buyer_id, offer_id, kind, window_start)
) with (fillfactor = 80);

-- Who covers a place; the host's own key begins with the buyer.
create index if not exists buyer_service_areas_by_place on public.buyer_service_areas (market_id, scope, value)
  include (buyer_id) where is_active;

-- Whether acceptance hours hold the instant `at`, for hours like those of the bench's world.
create or replace function peers.is_open(hours jsonb, timezone text, at timestamptz) returns bool
language sql immutable parallel safe as $$
  select hours is null or hours = 'null' or exists (
    select
    from (select at at time zone coalesce(hours ->> 'timezone', timezone) as clock) c,
      lateral (values
        (clock::date, 0),
        (clock::date - 1, 1)) d(day, ago),
      lateral jsonb_array_elements(coalesce(
        hours -> 'dates' -> d.day::text,
        hours -> 'weekly' -> (array['mon', 'tue', 'wed', 'thu', 'fri', 'sat', 'sun'])[extract(isodow from d.day)::int])) i(span),
      lateral (select span ->> 0 as opens, span ->> 1 as closes, to_char(clock, 'HH24:MI') as now) t
    where case
      when ago = 0 and closes > opens then now >= opens and now < closes
      when ago = 0 then now >= opens
      else closes < opens and now < closes end)
$$;

-- Counts a lead under each cap that is set, all of them or none; the counters' order is one for all callers.
create or replace function peers.reserve(p_buyer uuid, p_offers uuid[], p_kinds text[], p_starts timestamptz[], p_caps int[])
returns bool language plpgsql as $$
declare
  counted int;
begin
  for i in 1 .. cardinality(p_caps) loop
    insert into peers.usage as u values (p_buyer, p_offers[i], p_kinds[i], p_starts[i], 1)
    on conflict (buyer_id, offer_id, kind, window_start) do update set used = u.used + 1 where u.used < p_caps[i];
    get diagnostics counted = row_count;
    if counted = 0 then
      raise exception using errcode = 'PR001', message = 'the cap is full';
    end if;
  end loop;
  return true;
exception when sqlstate 'PR001' then
  return false; -- what was counted on the way is undone
end $$;

-- The whole job in one statement of the caller's: the buyer that the lead goes to, null if nobody takes it.
create or replace function peers.route(p_lead uuid) returns uuid language plpgsql set jit = off as $$
declare
  nobody constant uuid := '00000000-0000-0000-0000-000000000000';
  at constant timestamptz := clock_timestamp();
  lead record;
  policy record;
  candidate record;
  holders uuid[];
  kinds text[];
  starts timestamptz[];
  caps int[];
begin
  select l.offer_id, l.vertical_id, l.market_id, l.postal_code, l.city, l.status, l.buyer_id into lead
  from leads l where l.id = p_lead for no key update;
  if lead.status is distinct from 'validated' or lead.buyer_id is not null then
    return lead.buyer_id;
  end if;

  select p.rules into policy
  from routing_policies p
  where p.is_active and coalesce(p.offer_id, lead.offer_id) = lead.offer_id
    and coalesce(p.vertical_id, lead.vertical_id) = lead.vertical_id
    and coalesce(p.market_id, lead.market_id) = lead.market_id
  order by p.offer_id is null, p.vertical_id is null, p.market_id is null, p.version desc, p.id limit 1;
  if policy.rules #>> '{strategy,kind}' is distinct from 'priority'
    or not exists (select from offers o where o.id = lead.offer_id and o.is_active and o.vertical_id = lead.vertical_id) then
    return null;
  end if;

  for candidate in
    select b.id, b.hourly_cap, b.daily_cap, e.hourly_cap as own_hourly_cap, e.daily_cap as own_daily_cap,
           date_trunc('hour', at) as hour, date_trunc('day', at at time zone b.timezone) at time zone b.timezone as day
    from buyer_offers e join buyers b on b.id = e.buyer_id
    where e.offer_id = lead.offer_id and e.is_active and b.status = 'active'
      and (b.min_balance is null or b.balance >= b.min_balance)
      and e.buyer_id in (
        select a.buyer_id from buyer_service_areas a
        where a.is_active and a.market_id = lead.market_id and a.scope = 'postal_code' and a.value = lead.postal_code
        union all
        select a.buyer_id from buyer_service_areas a
        where a.is_active and a.market_id = lead.market_id and a.scope = 'city' and a.value = lead.city
        union all
        select a.buyer_id from buyer_service_areas a
        where a.is_active and a.market_id = lead.market_id and a.scope = 'market')
      and peers.is_open(b.acceptance_hours, b.timezone, at)
    order by e.priority_rank, e.weight desc, b.id
  loop
    select array_agg(h order by i), array_agg(k order by i), array_agg(s order by i), array_agg(c order by i)
    into holders, kinds, starts, caps
    from (values
      (1, nobody, 'day', candidate.day, candidate.daily_cap),
      (2, nobody, 'hour', candidate.hour, candidate.hourly_cap),
      (3, lead.offer_id, 'day', candidate.day, candidate.own_daily_cap),
      (4, lead.offer_id, 'hour', candidate.hour, candidate.own_hourly_cap)) v(i, h, k, s, c)
    where c is not null;
    -- a look without locks first: what is full stays full, and costs no subtransaction
    continue when exists (
      select from unnest(holders, kinds, starts, caps) n(h, k, s, c)
      join peers.usage u on (u.buyer_id, u.offer_id, u.kind, u.window_start) = (candidate.id, n.h, n.k, n.s)
      where u.used >= n.c);
    if caps is null or peers.reserve(candidate.id, holders, kinds, starts, caps) then
      update leads set status = 'routed', buyer_id = candidate.id, routed_at = at where id = p_lead;
      return candidate.id;
    end if;
  end loop;
  return null;
end $$;

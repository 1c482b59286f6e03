-- What `pointsman check` asks beside the router's own statements; check.py alone says the names. @host@ as in queries.sql.

-- name: host
-- Where the host's tables are.
select host_schema from pointsman.settings

-- name: moment
-- The instant that the configuration is judged at.
select pointsman.clock() as now

-- name: sizes
-- How many rows there are to read.
select (select count(*) from @host@.offers) + (select count(*) from @host@.buyers) + (select count(*) from @host@.buyer_offers)
  + (select count(*) from @host@.buyer_service_areas) + (select count(*) from @host@.offer_exclusivities)
  + (select count(*) from @host@.routing_policies) as rows

-- name: written
-- All rows of a table as they are written; the cache's own reading leaves out those that are not in force.
select * from pointsman.image_@table@

-- name: triggers
-- Tables whose changes do not reach the feed as they should, each with what is missing.
select d.rel, 'triggers' as missing from pointsman.detached() d(rel)
union all
select a.rel, 'baseline' from pointsman.attachment a where a.baseline is null
union all
select 'pointsman.config_commit', 'triggers' where not exists (
  select from pg_catalog.pg_trigger g
  where g.tgrelid = 'pointsman.config_commit'::regclass and g.tgname = 'seal' and g.tgenabled = 'A')
order by 1, 2

-- name: disagreeing
-- Of the counters of open windows, those that are not what the decisions say, though neither their holder nor its buyer
-- changed since they were counted (a counter whose holder changed is counted anew before it is used). Leads that were counted
-- stand behind the config version `since`.
with asked as (
  select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[]) k(b, o, kind, f, t)),
wrong as (
  select c.buyer_id, c.offer_id, c.kind, c.window_start, c.used, c.since, pointsman.counted(k.b, k.o, k.f, k.t) as counted
  from asked k join pointsman.cap_usage c on (c.buyer_id, c.offer_id, c.kind, c.window_start) = (k.b, k.o, k.kind, k.f)
  where c.since >= 0 and c.used <> pointsman.counted(k.b, k.o, k.f, k.t))
select w.buyer_id, w.offer_id, w.kind, w.window_start, w.used, w.counted from wrong w
where not exists (
  select from pointsman.config_commit c join pointsman.config_log l on l.change_set = c.change_set
  where c.version > w.since and l.op <> 'b'
    and (l.op = 't' or (l.rel, l.key) in (
      ('buyers', w.buyer_id::text), ('buyer_offers', w.buyer_id::text || ':' || w.offer_id::text))))
order by 1, 2, 3, 4

-- name: names
-- What people call offers and buyers.
select o.id, o.name::text from @host@.offers o where o.id = any($1::uuid[])
union all
select b.id, b.name::text from @host@.buyers b where b.id = any($1::uuid[])

-- name: zones
-- The time zones of buyers.
select b.id, b.timezone::text from pointsman.image_buyers b where b.id = any($1::uuid[])

-- name: markets_with
-- The markets in which somebody in offer $1, or an exclusivity of it, names postal code $2.
select a.market_id from pointsman.image_buyer_service_areas a
where a.is_active and a.scope = 'postal_code' and upper(regexp_replace(a.value, '\s', '', 'g')) = $2
  and a.buyer_id in (select e.buyer_id from pointsman.image_buyer_offers e where e.offer_id = $1 and e.is_active)
union
select x.market_id from pointsman.image_offer_exclusivities x
where x.is_active and x.offer_id = $1 and x.scope = 'postal_code' and upper(regexp_replace(x.value, '\s', '', 'g')) = $2
order by 1

-- name: version_at
-- The config version that was in force at an instant; none before the first.
select max(c.version) as version from pointsman.config_commit c where c.committed_at <= $1

-- name: near_offers
select i.* from pointsman.image_offers i where i.id = $1 and $2::uuid is not distinct from $2

-- name: near_buyers
select i.* from pointsman.image_buyers i
where i.id in (select e.buyer_id from pointsman.image_buyer_offers e where e.offer_id = $1) and $2::uuid is not distinct from $2

-- name: near_buyer_offers
select i.* from pointsman.image_buyer_offers i where i.offer_id = $1 and $2::uuid is not distinct from $2

-- name: near_buyer_service_areas
select i.* from pointsman.image_buyer_service_areas i
where i.market_id = $2 and i.buyer_id in (select e.buyer_id from pointsman.image_buyer_offers e where e.offer_id = $1)

-- name: near_offer_exclusivities
select i.* from pointsman.image_offer_exclusivities i where i.offer_id = $1 and $2::uuid is not distinct from $2

-- name: near_routing_policies
select i.* from pointsman.image_routing_policies i where $1::uuid is not distinct from $1 and $2::uuid is not distinct from $2

-- name: served_before
-- Usage and positions as the decisions before instant $9 left them. As in state_before, usage is null where it is not known.
select
  array(
    select case when coalesce(k.f >= (select p.before from pointsman.pruned p), true) or not exists (
        select from pointsman.pruned_turn t
        where t.buyer_id = k.b and (k.o = '00000000-0000-0000-0000-000000000000' or t.offer_id = k.o))
      then pointsman.counted(k.b, k.o, k.f, least(k.t, $9::timestamptz)) end
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
      with ordinality k(b, o, kind, f, t, changed, i) order by k.i) as used,
  array(
    select coalesce(
      (select max(d.id) from pointsman.decisions d
       where d.buyer_id = r.b and d.offer_id = r.o and d.decided_at < $9::timestamptz),
      (select p.position from pointsman.pruned_turn p where (p.buyer_id, p.offer_id) = (r.b, r.o)), 0)
    from unnest($7::uuid[], $8::uuid[]) with ordinality r(b, o, i) order by r.i) as positions

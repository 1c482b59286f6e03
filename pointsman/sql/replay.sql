-- Statements of replay and backtest, by name: recorded decisions in the order in which they were made. $1 to $3 choose
-- decisions: since an instant, of a lead, by their ids.

-- name: export_snapshot
-- What other sessions need to see the same moment.
select pg_export_snapshot()

-- name: sample
-- The ids of so many decisions since an instant, of a lead, drawn at random.
select id from pointsman.decisions
where ($1::timestamptz is null or decided_at >= $1) and ($2::uuid is null or lead_id = $2) order by random() limit $3

-- name: chosen
-- How many decisions are chosen.
select count(*) from pointsman.decisions d where @chosen@

-- name: strangers
-- Chosen decisions whose config version the history does not have.
select d.id, d.lead_id, d.config_version from pointsman.decisions d
where @chosen@ and not exists (select from pointsman.config_commit c where c.version = d.config_version)
order by d.id

-- name: pruned
-- How many chosen decisions are older than the history that is kept, which begins with version $4.
select count(*) from pointsman.decisions d where @chosen@ and d.config_version < $4

-- name: bounds
-- Where to cut the chosen decisions into $4 parts of about the same size.
select config_version, id from (
  select d.config_version, d.id, row_number() over (order by d.config_version, d.id) - 1 as place, count(*) over () as total
  from pointsman.decisions d where @chosen@) q
where place % greatest(1, ceil(total::numeric / $4::int)::bigint) = 0 order by config_version, id

-- name: decisions
-- Chosen decisions from version and id ($4, $5) on and before ($6, $7), by version; decisions of one version by id.
select d.* from pointsman.decisions d
where @chosen@ and (d.config_version, d.id) >= ($4, $5) and ($6::bigint is null or (d.config_version, d.id) < ($6, $7))
order by d.config_version, d.id

-- name: first_id
-- The smallest id of a part of the chosen decisions.
select min(d.id) from pointsman.decisions d
where @chosen@ and (d.config_version, d.id) >= ($4, $5) and ($6::bigint is null or (d.config_version, d.id) < ($6, $7))

-- name: served
-- Which enrollments were served, by decisions from $1 on, in the order of claims.
select id, decided_at, uuid_send(buyer_id) || uuid_send(offer_id) as turn from pointsman.decisions
where id >= $1 and buyer_id is not null order by id

-- name: served_before
-- Which were served by decisions before $1 in windows that may still have been open when it was made, and last by each
-- enrollment's last decision before that.
select q.id, q.decided_at, uuid_send(q.buyer_id) || uuid_send(q.offer_id) as turn from (
  select id, decided_at, buyer_id, offer_id from pointsman.decisions
  where id < $1 and buyer_id is not null and (
    decided_at >= (select min(decided_at) from pointsman.decisions where id >= $1) - interval '3 days'
    or id in (select max(id) from pointsman.decisions where id < $1 and buyer_id is not null group by buyer_id, offer_id))
  union all
  select position, timestamptz 'epoch', buyer_id, offer_id from pointsman.pruned_turn where position < $1) q
order by q.id

-- name: arrivals
-- Decisions since an instant, in the order of claims.
select d.* from pointsman.decisions d where $1::timestamptz is null or decided_at >= $1 order by id

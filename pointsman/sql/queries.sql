-- The router's statements, by name; store.py says the names (and replay.py one of them). @host@ stands for the schema of the host's tables.

-- name: installation
-- Whether the router is installed, how far, and where the host's tables are.
select s.host_schema, (select coalesce(max(version), 0) from pointsman.migration) as schema_version,
       current_setting('server_version_num')::int as server_version
from pointsman.settings s

-- name: version
-- The current config version; none before the baseline.
select version, token from pointsman.config_commit where version is not null order by version desc limit 1

-- name: read_leads
-- A batch of leads in order, the config version, the instant and the next transaction id, all of one moment; and of a lead
-- that has a buyer, the decision that assigned it. Each lead is looked up on its own (offset 0): joined, all of a table of
-- middling size is read and hashed for a few leads of it, until its statistics say better.
select l.id, l.offer_id, l.vertical_id, l.market_id, l.postal_code::text, l.city::text, l.status::text, l.buyer_id,
       v.version, v.token, (select pointsman.clock()) as now, (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as fence,
       d.id as decision_id, d.policy_id, d.policy_version, d.config_version, d.decided_at, d.flags
from unnest($1::uuid[]) with ordinality q(id, place)
left join lateral (select * from @host@.leads l where l.id = q.id offset 0) l on true
left join lateral (
  select * from pointsman.config_commit where version is not null order by version desc limit 1) v on true
left join lateral (
  select * from pointsman.decisions d
  where l.buyer_id is not null and d.lead_id = l.id and d.buyer_id = l.buyer_id
  order by d.id + 0 desc limit 1) d on true
order by q.place

-- name: read_lead
-- The same for a lone lead, and which row of it this is if it was never decided: a plan that does not depend on how many
-- there are is made once, instead of at every call. Of its decisions the last one that assigned its buyer is looked for, or
-- else any.
select case when d.id is null then l.xmin end as undecided, l.id, l.offer_id, l.vertical_id, l.market_id, l.postal_code::text, l.city::text, l.status::text, l.buyer_id,
       v.version, v.token, (select pointsman.clock()) as now, (select pg_snapshot_xmax(pg_current_snapshot())::text::bigint) as fence,
       case when d.buyer_id = l.buyer_id then d.id end as decision_id, d.policy_id, d.policy_version, d.config_version, d.decided_at, d.flags
from (select $1::uuid as id) q
left join @host@.leads l on l.id = q.id
left join lateral (
  select * from pointsman.config_commit where version is not null order by version desc limit 1) v on true
left join lateral (
  select * from pointsman.decisions d where d.lead_id = q.id
  order by d.buyer_id = l.buyer_id desc nulls last, d.id desc limit 1) d on true

-- name: caller_transaction
-- What makes a caller's transaction unfit to carry a decision.
select current_setting('transaction_isolation') as isolation, current_setting('transaction_read_only') = 'on' as read_only,
       pointsman.has_changed() as changed_configuration

-- name: claim
select done, repeated, repeated_flags, used, positions, failed from pointsman.claim_1(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26, $27,
  $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43)

-- name: claim_one
select pointsman.claim_one_1(
  $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23, $24, $25, $26,
  $27, $28, $29, $30, $31, $32, $33, $34, $35, $36, $37, $38, $39, $40, $41, $42, $43, $44, $45, $46, $47, $48,
  $49)

-- name: share_seal
-- The last resort: from here to the end of the transaction no configuration can commit, and the server ends a transaction
-- whose router stopped. Evaluated from left to right: longer than the claim's is only the wait for the seal.
select set_config('lock_timeout', '1s', true), set_config('idle_in_transaction_session_timeout', '500ms', true),
       pg_advisory_xact_lock_shared(7203377), set_config('lock_timeout', '150ms', true)

-- name: lock_leads
-- The leads that are there, locked in the order of their ids until the end of the transaction.
select l.id from @host@.leads l where l.id = any($1::uuid[]) order by l.id for no key update

-- name: held_leads
-- Which of the leads somebody else has locked at this moment.
with free as materialized (
  select l.id from @host@.leads l where l.id = any($1::uuid[]) order by l.id for no key update skip locked)
select l.id from @host@.leads l where l.id = any($1::uuid[]) and not exists (select from free f where f.id = l.id)

-- name: hold
select used, positions from pointsman.hold_1($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)

-- name: state
-- True usage and positions, read without locks.
select
  array(
    select case when c.since >= k.changed then c.used else pointsman.counted(k.b, k.o, k.f, k.t) end
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
      with ordinality k(b, o, kind, f, t, changed, i)
    left join lateral (
      select c.used, c.since from pointsman.cap_usage c
      where (c.buyer_id, c.offer_id, c.kind, c.window_start) = (k.b, k.o, k.kind, k.f) offset 0) c on true
    order by k.i) as used,
  array(
    select coalesce(t.position, 0) from unnest($7::uuid[], $8::uuid[]) with ordinality r(b, o, i)
    left join lateral (
      select t.position from pointsman.rotation t where (t.buyer_id, t.offer_id) = (r.b, r.o) offset 0) t on true
    order by r.i) as positions

-- name: state_before
-- Usage and positions as the decisions with ids smaller than $9 left them. Usage is null where decisions of the window may
-- have been pruned: it began before what is kept, and some of its holder's were. (Its counter does not know them: it counted
-- only while a cap was set.)
select
  array(
    select case when coalesce(k.f >= (select p.before from pointsman.pruned p), true) or not exists (
        select from pointsman.pruned_turn t
        where t.buyer_id = k.b and (k.o = '00000000-0000-0000-0000-000000000000' or t.offer_id = k.o))
      then (
        select count(*)::int from pointsman.decisions d
        where d.buyer_id = k.b and d.decided_at >= k.f and d.decided_at < k.t and d.id < $9::bigint
          and (k.o = '00000000-0000-0000-0000-000000000000' or d.offer_id = k.o)) end
    from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
      with ordinality k(b, o, kind, f, t, changed, i)
    order by k.i) as used,
  array(
    select coalesce(
      (select max(d.id) from pointsman.decisions d where d.buyer_id = r.b and d.offer_id = r.o and d.id < $9::bigint),
      (select p.position from pointsman.pruned_turn p where (p.buyer_id, p.offer_id) = (r.b, r.o) and p.position < $9::bigint), 0)
    from unnest($7::uuid[], $8::uuid[]) with ordinality r(b, o, i) order by r.i) as positions

-- name: missing_balance
-- How much buyers lack of their minimum balance; a host without the column has balances of 0.
select b.id, (j.row ->> 'min_balance')::numeric - case when j.row ? 'balance' then (j.row ->> 'balance')::numeric else 0 end as amount
from @host@.buyers b cross join lateral (select to_jsonb(b) as row) j where b.id = any($1::uuid[])

-- name: usage
-- What the router believes when it opens: every counter of a window that may still be open.
select buyer_id, offer_id, kind, window_start, used, since from pointsman.cap_usage
where window_start at time zone 'UTC' > (select (pointsman.clock() - interval '3 days') at time zone 'UTC')

-- name: positions
-- Where every enrollment stands in the rotation.
select buyer_id, offer_id, position from pointsman.rotation where offer_id <> '00000000-0000-0000-0000-000000000000'

-- name: load_offers
select * from pointsman.image_offers

-- name: load_buyers
-- In the order of ids, in which markets number them; by an expression, as areas are.
select * from pointsman.image_buyers order by uuid_send(id)

-- name: load_enrollments
-- Ids are bytes, which Python hashes faster.
select uuid_send(buyer_id), uuid_send(offer_id), is_active, priority_rank, weight, hourly_cap, daily_cap, enrolled_at
from pointsman.image_buyer_offers

-- name: load_areas
-- Those that can count, in the order of ids, in which the cache appends them; by an expression, since a plan through the key's
-- index would read a large table row by row from all over it. A buyer is its place in load_buyers, which the cache has it by:
-- to look a million of them up takes the server a third of what it takes Python. Only who is not there is named.
select uuid_send(a.id), b.place, case when b.place is null then uuid_send(a.buyer_id) end, uuid_send(a.market_id), a.scope, a.value
from pointsman.image_buyer_service_areas a
left join (select id, row_number() over (order by uuid_send(id))::int - 1 as place from pointsman.image_buyers) b
  on b.id = a.buyer_id
where a.is_active and a.buyer_id is not null and a.market_id is not null order by 1

-- name: load_offer_exclusivities
select * from pointsman.image_offer_exclusivities

-- name: load_routing_policies
select * from pointsman.image_routing_policies

-- name: detached
-- Configuration tables whose changes are not logged as they should be.
select t as rel from pointsman.detached() t

-- name: changes
select version, token, rel, op, key, image from pointsman.changes_1($1, $2)

-- name: all_changes
-- The same without a limit, for a cursor.
select c.version, c.token, l.rel, l.op::text as op, l.key, l.row::text as image
from pointsman.config_commit c
left join lateral (
  select * from pointsman.config_log l
  where c.version > $1 and l.change_set = c.change_set and l.op <> 'b' order by l.seq) l on true
where c.version >= $1
order by c.version, l.seq

-- name: decision
-- One record.
select d.* from pointsman.decisions d where d.id = $1

-- name: decisions
-- The records of a lead, newest first.
select d.* from pointsman.decisions d where d.lead_id = $1 order by d.id + 0 desc

-- name: images_at
-- The rows that a decision on offer $2 in market $3 could look at, as they were at version $1: the images since the baseline
-- before it that are near, unless a later entry changed or removed the row or emptied its table. What is near is looked for
-- first: a million areas elsewhere are not put in order to find the latest image of each.
with span as (
  select c.change_set, c.version from pointsman.config_commit c
  where c.version <= $1 and c.version >= (select max(version) from pointsman.config_commit where baseline and version <= $1)),
near as materialized (
  select l.rel, l.op, l.key, l.row, s.version, l.seq from span s join pointsman.config_log l on l.change_set = s.change_set
  where l.op not in ('d', 't')
    and case l.rel
      when 'offers' then l.row ->> 'id' = $2::uuid::text
      when 'buyer_offers' then l.row ->> 'offer_id' = $2::uuid::text
      when 'offer_exclusivities' then l.row ->> 'offer_id' = $2::uuid::text
      when 'buyer_service_areas' then l.row ->> 'market_id' = $3::uuid::text
      else true end)
select n.rel, n.op::text as op, n.key, n.row::text as image
from near n
where not exists (
    select from span s join pointsman.config_log l on l.change_set = s.change_set
    where l.rel = n.rel and l.key = n.key and (s.version, l.seq) > (n.version, n.seq))
  and not exists (
    select from span s join pointsman.config_log l on l.change_set = s.change_set
    where l.rel = n.rel and l.op = 't' and (s.version, l.seq) > (n.version, n.seq))

-- name: token_at
-- The token of version $1, and whether a baseline at or before it is kept.
select (select token from pointsman.config_commit where version = $1) as token,
       exists (select from pointsman.config_commit where baseline and version <= $1) as has_baseline

-- Statements of prune, by name: each a small transaction that leaves everything as good as before.

-- name: alone
-- Whether no other prune of this database is running; held for the session.
select pg_try_advisory_lock($1)

-- name: extent
-- The instant before which decisions go, and how many of them there are.
select q.cutoff, (select count(*) from pointsman.decisions d where d.decided_at < q.cutoff) as decisions
from (select pointsman.clock() - make_interval(days => $1::int) as cutoff) q

-- name: remember
-- Before anything is removed: from which instant on all decisions are kept.
insert into pointsman.pruned (before) values ($1)
on conflict ((true)) do update set before = greatest(pruned.before, excluded.before)

-- name: delete_decisions
-- Those of the next $2 decisions after id $1 that are older than $3, and what turns they gave; where the next page begins,
-- and how many went.
with page as (
  select id, decided_at from pointsman.decisions where id > $1 order by id limit $2),
gone as (
  delete from pointsman.decisions d using page p where d.id = p.id and p.decided_at < $3
  returning d.id, d.buyer_id, d.offer_id),
turns as (
  insert into pointsman.pruned_turn (buyer_id, offer_id, position)
  select buyer_id, offer_id, max(id) from gone where buyer_id is not null and offer_id is not null group by 1, 2
  on conflict (buyer_id, offer_id) do update set position = greatest(pruned_turn.position, excluded.position))
select (select max(id) from page) as last, (select count(*) from gone) as gone

-- name: delete_counters
-- Some counters of windows that began more than $1 days ago: nothing counts in them any more, whatever decisions are kept.
delete from pointsman.cap_usage where ctid = any(array(
  select ctid from pointsman.cap_usage
  where window_start at time zone 'UTC' < (select (pointsman.clock() - make_interval(days => $1::int)) at time zone 'UTC')
  limit $2))

-- name: horizon
-- The version that kept history may begin with: the last one that was current before $1 and that no kept decision is
-- older than. has_baseline: it can be begun with as it is. commits: how many are older.
select c.version, c.change_set, c.baseline as has_baseline,
       (select count(*) from pointsman.config_commit o where o.version < c.version) as commits
from pointsman.config_commit c
where c.version <= (select max(version) from pointsman.config_commit where committed_at < $1)
  and c.version <= coalesce((select min(config_version) from pointsman.decisions), c.version)
  and exists (select from pointsman.config_commit b where b.baseline and b.version <= c.version)
order by c.version desc limit 1

-- name: drop_half_image
-- What an interrupted run has left of an image.
delete from pointsman.config_log where (change_set, seq) in (
  select change_set, seq from pointsman.config_log where change_set = $1 and op = 'b' limit $2)

-- name: make_image
-- All rows of the configuration as they were at version $1, in a table of this session's: the latest image of each since
-- the baseline before, unless it is gone or its table was emptied.
create temporary table horizon_image on commit preserve rows as
with log as (
  select l.rel, l.op, l.key, l.row, c.version, l.seq
  from pointsman.config_commit c join pointsman.config_log l on l.change_set = c.change_set
  where c.version <= @version@
    and c.version >= (select max(version) from pointsman.config_commit where baseline and version <= @version@)),
latest as (
  select distinct on (log.rel, log.key) log.rel, log.op, log.key, log.row, log.version, log.seq
  from log where log.op <> 't' order by log.rel, log.key, log.version desc, log.seq desc),
emptied as (
  select distinct on (log.rel) log.rel, log.version, log.seq
  from log where log.op = 't' order by log.rel, log.version desc, log.seq desc)
select row_number() over () as place, l.rel, l.key, l.row
from latest l left join emptied t on t.rel = l.rel
where l.op <> 'd' and (t.rel is null or (t.version, t.seq) < (l.version, l.seq))

-- name: index_image
create unique index on horizon_image (place)

-- name: size_of_image
select count(*) from horizon_image

-- name: write_image
-- A slice of the image, as part of change set $1. It is true already, so that a reader may see it before it is whole.
insert into pointsman.config_log (change_set, rel, op, key, row)
select $1, rel, 'b', key, row from horizon_image where place > $2 and place <= $3

-- name: begin_with
-- From here on history begins with version $1: what stands before it is nobody's starting point.
update pointsman.config_commit set baseline = (version = $1) where version <= $1 and baseline <> (version = $1)

-- name: oldest_commits
-- The oldest commits before version $1, and how many entries each has.
select c.change_set, (select count(*) from pointsman.config_log l where l.change_set = c.change_set) as entries
from pointsman.config_commit c where c.version < $1 order by c.version limit $2

-- name: delete_entries
-- Some entries of one commit, the oldest that there is: whoever follows the feed from before it loads anew already.
delete from pointsman.config_log where change_set = $1 and seq in (
  select seq from pointsman.config_log where change_set = $1 order by seq limit $2)

-- name: delete_commits
-- Commits with their entries, in one step and oldest first, so that who follows the feed finds all or nothing.
with entries as (
  delete from pointsman.config_log where change_set = any($1::bigint[]))
delete from pointsman.config_commit where change_set = any($1::bigint[])

-- Statements on the past of the configuration, by name; history.py alone says the names.

-- name: extent
-- What is kept: the first baseline, the last version, from which instant on all decisions (null: all that ever were).
-- What shows a hole: log entries that have lost their commit, a commit after the baseline that has lost all of its entries.
select (select min(version) from pointsman.config_commit where baseline) as first_version,
       (select max(version) from pointsman.config_commit) as last_version,
       (select before from pointsman.pruned) as whole_from,
       exists (select from pointsman.config_log l where not exists (
         select from pointsman.config_commit c where c.change_set = l.change_set)) as has_orphans,
       (select min(c.version) from pointsman.config_commit c
        where not c.baseline and c.version > (select min(version) from pointsman.config_commit where baseline)
          and not exists (select from pointsman.config_log l where l.change_set = c.change_set)) as emptied

-- name: walk
-- Every row of the log from the last baseline up to version $1 on, in the order of commits. A baseline says all that there
-- is at its version; what its own commit changed is in it.
select c.version, c.token, c.baseline, l.rel, l.op::text as op, l.key, l.row::text as image
from pointsman.config_commit c
left join pointsman.config_log l on l.change_set = c.change_set and (l.op = 'b') = c.baseline
where c.version >= (select max(version) from pointsman.config_commit where baseline and version <= $1)
order by c.version, l.seq

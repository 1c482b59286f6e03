-- What the migration runner needs of its own; part of the first migration's transaction.

-- Which migrations this database has.
create table pointsman.migration (
  version int primary key,
  name text not null,
  applied_at timestamptz not null default now()
);

-- One row: where the host's tables are.
create table pointsman.settings (
  only_row bool primary key default true check (only_row),
  host_schema text not null
);

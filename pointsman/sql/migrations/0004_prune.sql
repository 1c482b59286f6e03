-- What prune remembers of the decisions that it removed.

-- The instant before which decisions may be missing; no row where nothing was ever removed.
create table pointsman.pruned (
  before timestamptz not null
);
create unique index pruned_once on pointsman.pruned ((true));

-- The last removed decision that served each enrollment: where it stood in the rotation when what is kept began.
create table pointsman.pruned_turn (
  buyer_id uuid not null,
  offer_id uuid not null,
  position bigint not null,
  primary key (buyer_id, offer_id)
);

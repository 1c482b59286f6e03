-- The host's tables for a fresh start, with all their protections. A host that has them keeps its own.

-- uuids and texts beside a range in one exclusion constraint.
create extension if not exists btree_gist with schema @host@;

-- What a lead answers to.
create table @host@.offers (
  id uuid primary key default gen_random_uuid(),
  name text not null default '',
  vertical_id uuid not null,
  market_id uuid,
  is_active bool not null default true
);

-- Who may receive leads.
create table @host@.buyers (
  id uuid primary key default gen_random_uuid(),
  name text not null default '',
  status text not null default 'active',
  timezone text not null default 'UTC',
  acceptance_hours jsonb,
  balance numeric(14,2) not null default 0,
  min_balance numeric(14,2),
  sla_response_seconds int,
  hourly_cap int,
  daily_cap int,
  constraint buyers_status_known check (status in ('active', 'paused')),
  constraint buyers_sla_response_seconds_not_negative check (sla_response_seconds >= 0),
  constraint buyers_hourly_cap_not_negative check (hourly_cap >= 0),
  constraint buyers_daily_cap_not_negative check (daily_cap >= 0)
);

-- A buyer takes part in an offer.
create table @host@.buyer_offers (
  buyer_id uuid not null,
  offer_id uuid not null,
  is_active bool not null default true,
  priority_rank int not null default 100,
  weight int not null default 1,
  hourly_cap int,
  daily_cap int,
  created_at timestamptz not null default now(),
  primary key (buyer_id, offer_id),
  constraint buyer_offers_buyer foreign key (buyer_id) references @host@.buyers on delete cascade,
  constraint buyer_offers_offer foreign key (offer_id) references @host@.offers on delete cascade,
  constraint buyer_offers_priority_rank_not_negative check (priority_rank >= 0),
  constraint buyer_offers_weight_not_negative check (weight >= 0),
  constraint buyer_offers_hourly_cap_not_negative check (hourly_cap >= 0),
  constraint buyer_offers_daily_cap_not_negative check (daily_cap >= 0)
);
create index buyer_offers_by_offer on @host@.buyer_offers (offer_id);

-- Where a buyer takes leads.
create table @host@.buyer_service_areas (
  id uuid primary key default gen_random_uuid(),
  buyer_id uuid not null,
  market_id uuid not null,
  scope text not null,
  value text,
  is_active bool not null default true,
  constraint buyer_service_areas_buyer foreign key (buyer_id) references @host@.buyers on delete cascade,
  constraint buyer_service_areas_scope_known check (scope in ('market', 'city', 'postal_code')),
  constraint buyer_service_areas_value_unless_market check ((value is null) = (scope = 'market')),
  constraint buyer_service_areas_once unique nulls not distinct (buyer_id, market_id, scope, value)
);

-- One buyer holds an offer in a scope for a time. Two active rows may not hold the same: market and value count as equal
-- when both are null, postal codes whatever their white space and case, cities whatever runs of white space and case.
create table @host@.offer_exclusivities (
  id uuid primary key default gen_random_uuid(),
  offer_id uuid not null,
  buyer_id uuid not null,
  market_id uuid,
  scope text not null,
  value text,
  valid_from timestamptz,
  valid_to timestamptz,
  is_active bool not null default true,
  constraint offer_exclusivities_offer foreign key (offer_id) references @host@.offers on delete cascade,
  constraint offer_exclusivities_buyer foreign key (buyer_id) references @host@.buyers on delete cascade,
  constraint offer_exclusivities_scope_known check (scope in ('offer', 'market', 'city', 'postal_code')),
  constraint offer_exclusivities_market_unless_offer check ((market_id is null) = (scope = 'offer')),
  constraint offer_exclusivities_value_for_city_or_postal_code check ((value is not null) = (scope in ('city', 'postal_code'))),
  constraint offer_exclusivities_valid_from_before_valid_to check (valid_from <= valid_to),
  constraint offer_exclusivities_one_holder exclude using gist (
    offer_id with =,
    (coalesce(market_id, '00000000-0000-0000-0000-000000000000')) with =,
    scope with =,
    (case scope
       when 'postal_code' then lower(regexp_replace(value, '\s+', '', 'g'))
       else coalesce(lower(btrim(regexp_replace(value, '\s+', ' ', 'g'))), '')
     end) with =,
    tstzrange(valid_from, valid_to) with &&
  ) where (is_active)
);
create index offer_exclusivities_by_offer on @host@.offer_exclusivities (offer_id);
create index offer_exclusivities_by_buyer on @host@.offer_exclusivities (buyer_id);

-- The rules for a set of leads. An offer that has a policy cannot be deleted: a policy without its offer would be for all.
create table @host@.routing_policies (
  id uuid primary key default gen_random_uuid(),
  name text not null default '',
  offer_id uuid,
  vertical_id uuid,
  market_id uuid,
  version int not null default 1,
  is_active bool not null default true,
  rules jsonb not null,
  constraint routing_policies_offer foreign key (offer_id) references @host@.offers
);
create index routing_policies_by_offer on @host@.routing_policies (offer_id);

-- What is routed. Room in its pages and no index on what the router updates, so that an assignment touches no index.
create table @host@.leads (
  id uuid primary key default gen_random_uuid(),
  offer_id uuid,
  vertical_id uuid,
  market_id uuid,
  postal_code text,
  city text,
  status text not null default 'new',
  buyer_id uuid,
  routed_at timestamptz,
  created_at timestamptz not null default now(),
  constraint leads_offer foreign key (offer_id) references @host@.offers,
  constraint leads_buyer foreign key (buyer_id) references @host@.buyers
) with (fillfactor = 80);

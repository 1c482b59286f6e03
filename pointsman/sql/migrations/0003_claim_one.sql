-- The claim of a lead that comes alone: the premises, locks and writes of claim_1 in their order, one statement a row and
-- plain arguments instead of arrays of everything, which cost a lone lead as much again as its disk write. (Several of the
-- statements made one of common table expressions are no faster: what takes the time is setting up their parts.)
--
-- p_undecided: the xmin of the lead's row as it was read, if no decision of it was recorded then; whoever routes a lead updates
-- its row, so as long as it is that one nobody has. p_buyer null: nobody. p_hour, p_day: the windows; p_hour_end, p_day_end are
-- needed with is_new alone. e_ the enrollment's own, b_ the buyer's: caps (null: none is set), how many leads they are believed
-- to have counted, and when caps or zone last changed. p_place: how the record names the first of the winner's counters.
-- is_new: one of them may be missing, or has to be counted anew. is_first: so may the winner's turn. p_fence: as there. f_
-- counters that are believed full, v_ enrollments in the offer whose positions were compared, the winner included; p_position:
-- where the winner is believed to stand; null where there are none.
-- p_state, p_digest: the record's, if all is as believed (engine/record.py): setting up the expressions that make a state,
-- which a batch does once, would cost a lone lead some 50 microseconds.
--
-- The answer starts with the decision; where anything was not as believed, the true usage of the winner's counters and of f_
-- and the true positions follow. It is null where a premise does not hold, and nothing is written then: the batch's claim,
-- which makes whatever is missing and says what is wrong, comes next.
create function pointsman.claim_one_1(
  p_version bigint, p_token uuid, p_fence bigint, p_at timestamptz, p_engine text, p_tzdata text, p_unicode text,
  p_undecided xid, p_lead uuid, p_offer uuid, p_vertical uuid, p_market uuid, p_postal_code text, p_city text,
  p_outcome text, p_cause text, p_flags text, p_buyer uuid, p_policy uuid, p_policy_version bigint,
  p_head bytea, p_state bytea, p_digest bytea,
  p_hour timestamptz, p_day timestamptz, p_hour_end timestamptz, p_day_end timestamptz, e_changed bigint, b_changed bigint,
  p_place int, e_hourly bigint, e_daily bigint, b_hourly bigint, b_daily bigint,
  e_hourly_used int, e_daily_used int, b_hourly_used int, b_daily_used int, is_new bool, is_first bool,
  f_buyer uuid[], f_from timestamptz[], f_name int[], f_cap bigint[], f_changed bigint[], f_used int[],
  p_position bigint, v_buyer uuid[], v_position bigint[])
returns bigint[]
language plpgsql volatile set lock_timeout = '150ms' set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
  zero constant uuid := '00000000-0000-0000-0000-000000000000';
  k_offer uuid[];
  k_kind text[];
  k_from timestamptz[];
  k_row tid[];
  b_daily_had int;
  b_hourly_had int;
  e_daily_had int;
  e_hourly_had int;
  full_used int[];
  positions bigint[];
  is_undecided bool;
  is_ahead bool;
  as_believed bool;
  done bigint;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a claim needs a READ COMMITTED transaction';
  end if;
  select l.xmin = p_undecided into is_undecided from @host@.leads l
    where l.id = p_lead and l.status = 'validated' and l.buyer_id is null
      and l.offer_id is not distinct from p_offer and l.vertical_id is not distinct from p_vertical
      and l.market_id is not distinct from p_market
      and l.postal_code::text is not distinct from p_postal_code and l.city::text is not distinct from p_city
    for no key update;
  if not found then return null; end if;

  <<premises>>
  begin
    if p_buyer is null then
      -- whether the lead's last row says the same already is for the batch's claim to find out
      exit premises when exists (select from pointsman.decisions d where d.lead_id = p_lead);
    else
      if is_new then
        select array_agg(k.o order by k.i), array_agg(k.t order by k.i), array_agg(k.f order by k.i) into k_offer, k_kind, k_from
          from (values (1, b_daily, zero, 'day', p_day), (2, b_hourly, zero, 'hour', p_hour),
                       (3, e_daily, p_offer, 'day', p_day), (4, e_hourly, p_offer, 'hour', p_hour)) k(i, cap, o, t, f)
          where k.cap is not null;
        insert into pointsman.cap_usage (buyer_id, offer_id, kind, window_start)
          select p_buyer, k.o, k.t, k.f from unnest(k_offer, k_kind, k_from) k(o, t, f) on conflict do nothing;
        select array_agg(c.place) into k_row
          from unnest(k_offer, k_kind, k_from) k(o, t, f)
          cross join lateral (
            select c.ctid as place from pointsman.cap_usage c
            where (c.buyer_id, c.offer_id, c.kind, c.window_start) = (p_buyer, k.o, k.t, k.f) offset 0 for no key update) c;
        if pg_snapshot_xmin(pg_current_snapshot())::text::bigint < p_fence then
          -- claims on an older configuration may be under way that count under none of these; they hold their turns
          insert into pointsman.rotation (buyer_id, offer_id) values (p_buyer, zero) on conflict do nothing;
          perform from pointsman.rotation t where t.buyer_id = p_buyer and t.offer_id = zero for no key update;
          perform from pointsman.rotation t where t.buyer_id = p_buyer order by t.offer_id for no key update;
        end if;
        update pointsman.cap_usage c set
            since = case when k.o = zero then b_changed else e_changed end,
            used = pointsman.counted(p_buyer, k.o, k.f, case k.t when 'day' then p_day_end else p_hour_end end)
          from unnest(k_row, k_offer, k_kind, k_from) k(place, o, t, f)
          where c.ctid = k.place and c.since < case when k.o = zero then b_changed else e_changed end;
      end if;
      if b_daily is not null then
        update pointsman.cap_usage c set used = c.used + 1
          where c.buyer_id = p_buyer and c.offer_id = zero and c.kind = 'day' and c.window_start = p_day
            and c.used < b_daily and c.since >= b_changed
          returning c.used - 1 into b_daily_had;
        exit premises when b_daily_had is null;
      end if;
      if b_hourly is not null then
        update pointsman.cap_usage c set used = c.used + 1
          where c.buyer_id = p_buyer and c.offer_id = zero and c.kind = 'hour' and c.window_start = p_hour
            and c.used < b_hourly and c.since >= b_changed
          returning c.used - 1 into b_hourly_had;
        exit premises when b_hourly_had is null;
      end if;
      if e_daily is not null then
        update pointsman.cap_usage c set used = c.used + 1
          where c.buyer_id = p_buyer and c.offer_id = p_offer and c.kind = 'day' and c.window_start = p_day
            and c.used < e_daily and c.since >= e_changed
          returning c.used - 1 into e_daily_had;
        exit premises when e_daily_had is null;
      end if;
      if e_hourly is not null then
        update pointsman.cap_usage c set used = c.used + 1
          where c.buyer_id = p_buyer and c.offer_id = p_offer and c.kind = 'hour' and c.window_start = p_hour
            and c.used < e_hourly and c.since >= e_changed
          returning c.used - 1 into e_hourly_had;
        exit premises when e_hourly_had is null;
      end if;
      if is_first then
        insert into pointsman.rotation (buyer_id, offer_id) values (p_buyer, zero) on conflict do nothing;
        perform from pointsman.rotation t where t.buyer_id = p_buyer and t.offer_id = zero for no key update;
        insert into pointsman.rotation (buyer_id, offer_id) values (p_buyer, p_offer) on conflict do nothing;
      end if;
      perform from pointsman.rotation t
        where t.buyer_id = p_buyer and t.offer_id = p_offer and (p_position is null or t.position = p_position)
        for no key update;
      exit premises when not found;
    end if;

    -- all locks are held
    if f_buyer is not null then
      select array_agg(c.used order by k.i) into full_used
        from unnest(f_buyer, f_from, f_name, f_cap, f_changed) with ordinality k(b, f, n, cap, changed, i)
        join pointsman.cap_usage c on c.buyer_id = k.b and c.offer_id = case when k.n & 2 = 2 then zero else p_offer end
          and c.kind = case when k.n & 1 = 1 then 'day' else 'hour' end and c.window_start = k.f
        where c.used >= k.cap and c.since >= k.changed;
      exit premises when cardinality(full_used) is distinct from cardinality(f_buyer);
    end if;
    if p_position is not null then
      select array_agg(coalesce(t.position, 0) order by r.i), bool_or(coalesce(t.position, 0) < r.believed)
        into positions, is_ahead
        from unnest(v_buyer, v_position) with ordinality r(b, believed, i)
        left join pointsman.rotation t on t.buyer_id = r.b and t.offer_id = p_offer;
      exit premises when is_ahead;
    end if;
    as_believed := (b_daily_had, b_hourly_had, e_daily_had, e_hourly_had, full_used, positions)
      is not distinct from (b_daily_used, b_hourly_used, e_daily_used, e_hourly_used, f_used, v_position);
    if not as_believed then
      p_state := pointsman.state(
        array(
          select p_place + k.slot from unnest(array[0, 1, 2, 3], array[e_hourly, e_daily, b_hourly, b_daily]) k(slot, cap)
          where k.cap is not null order by k.slot & 1, k.slot) || f_name,
        array_remove(array[e_hourly_had, b_hourly_had, e_daily_had, b_daily_had], null) || full_used,
        positions);
      p_digest := substring(sha256(p_head || p_state) for 16);
    end if;
    insert into pointsman.decisions (
        decided_at, config_version, lead_id, offer_id, vertical_id, market_id, buyer_id, policy_id, policy_version, attempt,
        outcome, cause, flags, postal_code, city, engine_version, tzdata_version, unicode_version, state, digest)
      select p_at, p_version, p_lead, p_offer, p_vertical, p_market, p_buyer, p_policy, p_policy_version,
        1 + case when is_undecided then 0 else (
          select count(*) from pointsman.decisions e where e.lead_id = p_lead and e.outcome = 'routed') end,
        p_outcome, p_cause, string_to_array(nullif(p_flags, ''), ','), p_postal_code, p_city, p_engine, p_tzdata, p_unicode,
        p_state, p_digest
      from (select version, token from pointsman.config_commit where version is not null order by version desc limit 1) v
      where v.version = p_version and v.token = p_token and pointsman.clock() - p_at <= interval '5 seconds'
      returning id into done;
    exit premises when not found;
    if p_buyer is not null then
      update pointsman.rotation t set position = done where t.buyer_id = p_buyer and t.offer_id = p_offer;
      update @host@.leads l set status = 'routed', buyer_id = p_buyer, routed_at = p_at where l.id = p_lead;
      if not found then
        raise exception 'a trigger keeps leads from being assigned';
      end if;
    end if;
    if as_believed then
      return array[done];
    end if;
    return done || array_remove(array[b_daily_had, b_hourly_had, e_daily_had, e_hourly_had], null)::bigint[]
      || full_used::bigint[] || positions;
  end;

  -- a premise did not hold: what was counted for this lead is given back
  update pointsman.cap_usage c set used = c.used - 1
    from (values (b_daily_had, zero, 'day', p_day), (b_hourly_had, zero, 'hour', p_hour),
                 (e_daily_had, p_offer, 'day', p_day), (e_hourly_had, p_offer, 'hour', p_hour)) k(had, o, t, f)
    where k.had is not null and (c.buyer_id, c.offer_id, c.kind, c.window_start) = (p_buyer, k.o, k.t, k.f);
  return null;
end $$;

-- The claim of a single routed lead, whose rows this router has all seen before: the premises, locks and writes of claim_1 in
-- their order, one statement a row instead of arrays, which cost a lone lead as much again as its disk write.
--
-- The four counters of the winner come as start, limit and name each; a limit that is null has no counter. f_ counters that
-- are believed full, v_ enrollments in the offer whose positions were compared, the winner included; p_position is null
-- where they were not. done is null where anything does not hold, and nothing is written then: the batch's claim, which
-- counts anew, makes what is missing and says what is wrong, comes next.
create function pointsman.claim_one_1(
  p_version bigint, p_token uuid, p_at timestamptz, p_engine text, p_tzdata text, p_unicode text,
  p_lead uuid, p_offer uuid, p_vertical uuid, p_market uuid, p_postal_code text, p_city text, p_flags text,
  p_buyer uuid, p_policy uuid, p_policy_version bigint, p_head bytea, p_changed bigint, b_changed bigint,
  bd_start timestamptz, bd_limit bigint, bd_name int, bh_start timestamptz, bh_limit bigint, bh_name int,
  ed_start timestamptz, ed_limit bigint, ed_name int, eh_start timestamptz, eh_limit bigint, eh_name int,
  p_position bigint, f_buyer uuid[], f_offer uuid[], f_kind text[], f_start timestamptz[], f_limit bigint[], f_name int[],
  v_buyer uuid[], v_position bigint[],
  out done bigint, out used int[], out positions bigint[])
language plpgsql volatile set lock_timeout = '150ms' set jit = off set plan_cache_mode = force_generic_plan set enable_seqscan = off as $$
#variable_conflict use_column
declare
  zero constant uuid := '00000000-0000-0000-0000-000000000000';
  bd int;
  bh int;
  ed int;
  eh int;
  full_used int[] := '{}';
  turn bigint;
  last bigint;
  v record;
  state bytea;
  phantom bool;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'a claim needs a READ COMMITTED transaction';
  end if;
  perform from @host@.leads l
    where l.id = p_lead and l.status = 'validated' and l.buyer_id is null
      and l.offer_id is not distinct from p_offer and l.vertical_id is not distinct from p_vertical
      and l.market_id is not distinct from p_market
      and l.postal_code::text is not distinct from p_postal_code and l.city::text is not distinct from p_city
    for no key update;
  if not found then return; end if;
  if bd_limit is not null then
    select c.used into bd from pointsman.cap_usage c
      where c.buyer_id = p_buyer and c.offer_id = zero and c.kind = 'day' and c.window_start = bd_start
        and c.used < bd_limit and c.since >= b_changed for no key update;
    if not found then return; end if;
  end if;
  if bh_limit is not null then
    select c.used into bh from pointsman.cap_usage c
      where c.buyer_id = p_buyer and c.offer_id = zero and c.kind = 'hour' and c.window_start = bh_start
        and c.used < bh_limit and c.since >= b_changed for no key update;
    if not found then return; end if;
  end if;
  if ed_limit is not null then
    select c.used into ed from pointsman.cap_usage c
      where c.buyer_id = p_buyer and c.offer_id = p_offer and c.kind = 'day' and c.window_start = ed_start
        and c.used < ed_limit and c.since >= p_changed for no key update;
    if not found then return; end if;
  end if;
  if eh_limit is not null then
    select c.used into eh from pointsman.cap_usage c
      where c.buyer_id = p_buyer and c.offer_id = p_offer and c.kind = 'hour' and c.window_start = eh_start
        and c.used < eh_limit and c.since >= p_changed for no key update;
    if not found then return; end if;
  end if;
  select t.position into turn from pointsman.rotation t
    where t.buyer_id = p_buyer and t.offer_id = p_offer and (p_position is null or t.position = p_position)
    for no key update;
  if not found then return; end if;

  select version, token into v from pointsman.config_commit where version is not null order by version desc limit 1;
  if v.version is distinct from p_version or v.token is distinct from p_token
    or pointsman.clock() - p_at > interval '5 seconds'
  then
    return;
  end if;
  if cardinality(f_buyer) > 0 then
    select array_agg(c.used order by k.i) into full_used
      from unnest(f_buyer, f_offer, f_kind, f_start, f_limit) with ordinality k(b, o, t, f, cap, i)
      join pointsman.cap_usage c on (c.buyer_id, c.offer_id, c.kind, c.window_start) = (k.b, k.o, k.t, k.f)
      where c.used >= k.cap;
    if cardinality(full_used) is distinct from cardinality(f_buyer) then return; end if;
  end if;
  if p_position is not null then
    select array_agg(coalesce(t.position, 0) order by r.i), max(coalesce(t.position, 0)),
           bool_or(coalesce(t.position, 0) < r.believed)
      into positions, last, phantom
      from unnest(v_buyer, v_position) with ordinality r(b, believed, i)
      left join pointsman.rotation t on t.buyer_id = r.b and t.offer_id = p_offer;
    if phantom then return; end if;
  end if;

  state := pointsman.packed((eh_limit is not null)::int + (bh_limit is not null)::int + (ed_limit is not null)::int
                            + (bd_limit is not null)::int + cardinality(f_buyer))
    || coalesce(pointsman.packed(eh_name) || pointsman.packed(eh), '')
    || coalesce(pointsman.packed(bh_name) || pointsman.packed(bh), '')
    || coalesce(pointsman.packed(ed_name) || pointsman.packed(ed), '')
    || coalesce(pointsman.packed(bd_name) || pointsman.packed(bd), '');
  if cardinality(f_buyer) > 0 then
    state := state || (select string_agg(pointsman.packed(f.name) || pointsman.packed(f.used), '' order by f.i)
                       from unnest(f_name, full_used) with ordinality f(name, used, i));
  end if;
  if p_position is not null then
    state := state || pointsman.packed(last) || (
      select string_agg(pointsman.packed(case p when 0 then 0 else last - p + 1 end), '' order by i)
      from unnest(positions) with ordinality x(p, i));
  end if;

  update @host@.leads l set status = 'routed', buyer_id = p_buyer, routed_at = p_at where l.id = p_lead;
  if not found then
    raise exception 'a trigger keeps leads from being assigned';
  end if;
  if bd_limit is not null then
    update pointsman.cap_usage c set used = bd + 1
      where c.buyer_id = p_buyer and c.offer_id = zero and c.kind = 'day' and c.window_start = bd_start;
  end if;
  if bh_limit is not null then
    update pointsman.cap_usage c set used = bh + 1
      where c.buyer_id = p_buyer and c.offer_id = zero and c.kind = 'hour' and c.window_start = bh_start;
  end if;
  if ed_limit is not null then
    update pointsman.cap_usage c set used = ed + 1
      where c.buyer_id = p_buyer and c.offer_id = p_offer and c.kind = 'day' and c.window_start = ed_start;
  end if;
  if eh_limit is not null then
    update pointsman.cap_usage c set used = eh + 1
      where c.buyer_id = p_buyer and c.offer_id = p_offer and c.kind = 'hour' and c.window_start = eh_start;
  end if;
  done := nextval('pointsman.decisions_id_seq');
  update pointsman.rotation t set position = done where t.buyer_id = p_buyer and t.offer_id = p_offer;
  insert into pointsman.decisions (
      id, decided_at, config_version, lead_id, offer_id, vertical_id, market_id, buyer_id, policy_id, policy_version, attempt,
      outcome, flags, postal_code, city, engine_version, tzdata_version, unicode_version, state, digest)
    values (
      done, p_at, p_version, p_lead, p_offer, p_vertical, p_market, p_buyer, p_policy, p_policy_version,
      1 + (select count(*) from pointsman.decisions e where e.lead_id = p_lead and e.outcome = 'routed'),
      'routed', string_to_array(nullif(p_flags, ''), ','), p_postal_code, p_city, p_engine, p_tzdata, p_unicode,
      state, substring(sha256(p_head || state) for 16));
  used := array_remove(array[eh, bh, ed, bd], null) || full_used;
end $$;

"""The record of a decision, and deciding again from it."""

from __future__ import annotations

import hashlib
from random import Random

import pytest

from pointsman.engine.capacity import Counter, State, caps
from pointsman.engine.configuration import turn
from pointsman.engine.decide import Decision, decide
from pointsman.engine.explain import explain
from pointsman.engine.record import (
    DIGEST_BYTES,
    StoredState,
    digest,
    head,
    name,
    named,
    read_state,
    redecide,
)
from pointsman.model import micros
from tests.golden import written_state

from .chance import a_case, state_of
from .worlds import (
    LEAD,
    MARKET,
    NOON,
    OFFER,
    ONE,
    POLICY,
    TOKEN,
    TWO,
    VERTICAL,
    candidate,
    decided,
    exclusivity,
    make_indexes,
    make_lead,
    make_rules,
    make_state,
    make_world,
)

VERSION = 0x0102030405060708


def fields(head_bytes: bytes) -> list[bytes | None]:
    """The fields of a head, read as its description says."""
    found: list[bytes | None] = []
    while head_bytes:
        length = int.from_bytes(head_bytes[:4], "big")
        if length == 0xFFFFFFFF:
            found.append(None)
            head_bytes = head_bytes[4:]
        else:
            found.append(head_bytes[4 : 4 + length])
            head_bytes = head_bytes[4 + length :]
    return found


def head_of(*rows, lead=None, **rules):
    return head(decided(make_world(*rows, rules=make_rules(**rules)), lead=lead), VERSION, TOKEN)


# the head


def test_the_head_of_a_routed_decision():
    assert fields(head_of(candidate(1), exclusivity(), lead=make_lead(city="Köln"))) == [
        b"pointsman decision 1",
        LEAD.bytes,
        OFFER.bytes,
        VERTICAL.bytes,
        MARKET.bytes,
        b"60601",
        "Köln".encode(),
        VERSION.to_bytes(8, "big"),
        TOKEN.bytes,
        NOON.to_bytes(8, "big"),
        b"routed",
        None,
        ONE.bytes,
        POLICY.bytes,
        (1).to_bytes(8, "big"),
        b"exclusive",
    ]


def test_the_head_of_a_no_route():
    decision = decided(
        make_indexes([]), lead=make_lead(offer_id=None, vertical_id=None, market_id=None, city=None), moment=-1
    )
    assert fields(head(decision, 0, TOKEN)) == [
        b"pointsman decision 1",
        LEAD.bytes,
        None,
        None,
        None,
        b"60601",
        None,
        bytes(8),
        TOKEN.bytes,
        b"\xff" * 8,
        b"no_route",
        b"no_policy",
        None,
        None,
        None,
        b"",
    ]


def test_flags_are_joined_by_commas():
    rows = exclusivity(), exclusivity(id=OFFER)
    assert fields(head_of(*rows))[-1] == b"exclusive,exclusivity_conflict"


def test_a_missing_text_is_not_an_empty_one():
    assert head_of(lead=make_lead(city=None)) != head_of(lead=make_lead(city=""))


def test_texts_are_recorded_as_they_were_read():
    assert fields(head_of(lead=make_lead(postal_code=" 606 01")))[5] == b" 606 01"


@pytest.mark.parametrize(
    "over",
    [
        {"id": OFFER},
        {"offer_id": LEAD},
        {"vertical_id": LEAD},
        {"market_id": LEAD},
        {"postal_code": "60602"},
        {"city": "chicago"},
    ],
)
def test_every_field_of_the_lead_is_in_the_head(over):
    assert head_of(candidate(1)) != head_of(candidate(1), lead=make_lead(**over))


def test_the_digest_is_the_beginning_of_sha_256_over_head_and_state():
    assert digest(b"head", b"state") == hashlib.sha256(b"headstate").digest()[:16]
    assert DIGEST_BYTES == 16


# the state


def test_a_counter_is_named_by_the_buyers_place_in_order_of_buyers():
    world = make_world(candidate(3), candidate(1), candidate(2, hourly_cap=1, priority_rank=1))
    decision = decided(world)
    assert TWO == decision.winner.buyer_id
    assert [4] == [number for _, number in named(decision)]


def test_counters_are_named_by_place_holder_and_kind():
    (enrollment,) = make_world(candidate(1, hourly_cap=1, daily_cap=1, buyer_hourly_cap=1, buyer_daily_cap=1)).covering(
        make_lead()
    )
    assert {("enrollment", "hour"): 20, ("enrollment", "day"): 21, ("buyer", "hour"): 22, ("buyer", "day"): 23} == {
        (cap.level, cap.window.kind): name(cap, 5) for cap in caps(enrollment, NOON)
    }


def test_a_state_is_read_back():
    state = bytes.fromhex("02 07 ac02 04 00  ffffffffffffffff7f 01 00 8001")
    assert read_state(state) == StoredState({7: 300, 4: 0}, [2**63 - 1, 0, 2**63 - 128])


def test_a_state_of_small_numbers_is_read_back():
    assert read_state(bytes.fromhex("01 07 05  09 00 01 03")) == StoredState({7: 5}, [0, 9, 7])


def test_nobody_served_before_is_a_state():
    assert read_state(bytes.fromhex("00  00 00 00")) == StoredState({}, [0, 0])


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16383, 16384, 2**21 - 1, 2**21, 2**42, 2**62])
def test_numbers_of_every_length_are_written_and_read_back(number):
    rules = make_rules(strategy={"kind": "rotation"})
    world, state = make_world(candidate(1, daily_cap=2**63 - 1), candidate(2), rules=rules), State()
    (cap,) = caps(world.covering(make_lead())[0], NOON)
    state.used[cap.counter] = number
    state.positions = {turn(ONE, OFFER): number, turn(TWO, OFFER): 2**63 - 1}
    written = written_state(decided(world, state), state)
    assert read_state(written) == StoredState({1: number}, [number, 2**63 - 1])


def test_an_empty_state_names_nothing():
    assert read_state(b"\0") == StoredState({}, [])


@pytest.mark.parametrize(
    "state", [b"", b"\x80", b"\1", b"\1\0", b"\0\5", b"\2\0\0", b"\1\0\x80", b"\0\1\xff", b"\xff\xff\xff\x7f"]
)
def test_a_state_that_is_cut_short_is_none(state):
    with pytest.raises(ValueError, match="the recorded state"):
        read_state(state)


# deciding again


def around(decision: Decision, rng: Random) -> State:
    """Usage with room and any positions, for everyone, as if nothing of the true state were known."""
    state = State()
    for enrollment in decision.covering:
        for cap in caps(enrollment, decision.at):
            state.used[cap.counter] = rng.randrange(max(cap.limit, 1))
        state.positions[enrollment.turn] = rng.randrange(1_500)
    return state


def test_a_decision_follows_from_what_it_rests_on_alone():
    routed = full = compared = closed = 0
    for seed in range(1_500):
        rng = Random(seed)
        case = a_case(rng)
        world, state, at = make_indexes(case.rows), state_of(case), micros(case.at)
        decision = decide(case.lead, world, state, at)
        again = redecide(case.lead, world, read_state(written_state(decision, state)), at, around(decision, rng))
        alone = redecide(case.lead, world, read_state(written_state(decision, state)), at)
        assert decision == again == alone, f"seed {seed}"
        routed += bool(decision.takes)
        full += bool(decision.full)
        compared += bool(decision.compared)
        closed += decision.outcome == "no_route_exclusive_fail_closed" and bool(decision.full)
    assert min(routed, full, compared) > 50
    assert closed > 3


def test_a_decision_made_again_on_the_true_state_has_the_same_explanation():
    for seed in range(200):
        case = a_case(Random(seed))
        world, state, at = make_indexes(case.rows), state_of(case), micros(case.at)
        decision = decide(case.lead, world, state, at)
        true = state_of(case)
        again = redecide(case.lead, world, read_state(written_state(decision, state)), at, true)
        assert explain(decision, world, state) == explain(again, world, true), f"seed {seed}"


def test_the_record_is_believed_and_not_what_is_around():
    world = make_world(candidate(1, hourly_cap=2), candidate(2))
    full = make_state({(ONE, OFFER, "hour"): 2})
    again = redecide(make_lead(), world, read_state(written_state(decided(world, full), full)), NOON, make_state())
    assert again.winner.buyer_id == TWO


def test_what_the_record_says_is_added_to_what_is_around():
    world, state = make_world(candidate(1, hourly_cap=2), candidate(2)), State()
    full = make_state({(ONE, OFFER, "hour"): 2})
    redecide(make_lead(), world, read_state(written_state(decided(world, full), full)), NOON, state)
    assert state.used == {Counter.of(ONE, OFFER, "hour", NOON): 2}


def test_positions_go_to_those_compared_in_order_of_buyers():
    rules = make_rules(strategy={"kind": "rotation"})
    world, state = make_world(candidate(2), candidate(1), rules=rules), State()
    redecide(make_lead(), world, StoredState({}, [8, 5]), NOON, state)
    assert state.positions == {turn(ONE, OFFER): 8, turn(TWO, OFFER): 5}


def test_positions_of_others_than_those_compared_are_not_used():
    world = make_world(candidate(1), candidate(2), rules=make_rules(strategy={"kind": "rotation"}))
    assert redecide(make_lead(), world, StoredState({}, [8]), NOON, State()).winner.buyer_id == ONE


def test_a_counter_of_nobody_who_covers_the_lead_is_not_used():
    world, state = make_world(candidate(1, hourly_cap=2)), State()
    again = redecide(make_lead(), world, StoredState({1: 9, 2: 9, 3: 9, 400: 9}, []), NOON, state)
    assert (ONE, {}) == (again.winner.buyer_id, state.used)

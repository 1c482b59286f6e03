"""In which order eligible buyers come."""

from __future__ import annotations

import hashlib
from collections import Counter
from decimal import Context, Decimal
from itertools import permutations
from math import log, sqrt

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pointsman.engine import strategy
from pointsman.engine.capacity import State
from pointsman.engine.configuration import Enrollment
from pointsman.engine.strategy import Ranking, Score, lead_hash

from .worlds import (
    LEAD,
    ONE,
    THREE,
    TWO,
    buyer_id,
    candidate,
    explained,
    make_enrollment,
    make_lead,
    make_rules,
    make_state,
    make_world,
    ranks,
    read,
    uid,
    winner,
)

WEIGHTED = {"kind": "weighted"}
ROTATION = {"kind": "rotation"}
PRECISE = Context(prec=120)
LARGEST = 2**64 - 1
KNOWN = [0x4A6631345ABEFF83, 0x34A42271FFF0AA9F]
"""What `b2sum -l 64` says of the 32 bytes below, and of them and `salt`."""


def ordered(*rows, state=None, lead=None, **rules):
    return ranks(make_world(*rows, rules=make_rules(**rules)), state, lead)


def by(tie_breaker, *rows, state=None, lead=None, **rules):
    """The order that a tie-breaker alone gives: all priority ranks are equal."""
    return ordered(*rows, state=state, lead=lead, tie_breakers=[tie_breaker, "buyer_id"], **rules)


def in_decimals(n: int, weight: int) -> Decimal:
    u = PRECISE.divide(Decimal(n) + Decimal("0.5"), Decimal(2**64))
    return PRECISE.divide(-PRECISE.ln(u), Decimal(weight))


# strategies


def test_priority_puts_the_smallest_rank_first():
    rows = [candidate(number, priority_rank=rank) for number, rank in enumerate([3, 1, 2, 0, 10], start=1)]
    assert ordered(*rows) == [buyer_id(number) for number in (4, 2, 3, 1, 5)]


def test_rotation_puts_the_never_served_first_and_then_who_was_served_longest_ago():
    state = make_state(positions={ONE: 20, THREE: 3})
    assert ordered(candidate(1), candidate(2), candidate(3), state=state, strategy=ROTATION) == [TWO, THREE, ONE]


def test_weighted_puts_the_smallest_score_first():
    rows = dict(enumerate([1, 3, 7, 2, 5], start=1))
    expected = sorted(rows, key=lambda number: in_decimals(lead_hash(LEAD, buyer_id(number), b""), rows[number]))
    found = ordered(*(candidate(number, weight=weight) for number, weight in rows.items()), strategy=WEIGHTED)
    assert [buyer_id(number) for number in expected] == found


# SLA preference


def test_prompt_buyers_go_first_and_the_order_is_kept_among_them_and_among_the_others():
    rows = [
        candidate(1, priority_rank=1, sla_response_seconds=None),
        candidate(2, priority_rank=2, sla_response_seconds=301),
        candidate(3, priority_rank=4, sla_response_seconds=0),
        candidate(4, priority_rank=3, sla_response_seconds=300),
    ]
    found = ordered(*rows, sla={"mode": "prefer", "max_response_seconds": 300})
    assert found == [buyer_id(4), THREE, ONE, TWO]


def test_being_prompter_than_needed_wins_nothing():
    rows = candidate(1, sla_response_seconds=299), candidate(2, sla_response_seconds=1)
    assert ordered(*rows, sla={"mode": "prefer", "max_response_seconds": 300}) == [ONE, TWO]


@pytest.mark.parametrize("kind", ["rotation", "weighted"])
def test_the_preference_goes_before_every_strategy(kind):
    rows = [candidate(number, sla_response_seconds=9 if number == 7 else None) for number in range(1, 9)]
    state = make_state(positions={buyer_id(7): 99})
    found = ordered(*rows, state=state, strategy={"kind": kind}, sla={"mode": "prefer", "max_response_seconds": 9})
    assert found[0] == buyer_id(7)


# tie-breakers


def test_priority_rank_breaks_ties_smallest_first():
    rows = candidate(1, priority_rank=2), candidate(2, priority_rank=1)
    assert by("priority_rank", *rows, strategy=ROTATION) == [TWO, ONE]


def test_weight_breaks_ties_largest_first():
    rows = candidate(1, weight=0), candidate(2, weight=10), candidate(3, weight=9)
    assert by("weight", *rows) == [TWO, THREE, ONE]


def test_sla_response_seconds_break_ties_smallest_first_null_last():
    rows = (
        candidate(1, sla_response_seconds=None),
        candidate(2, sla_response_seconds=10**9),
        candidate(3, sla_response_seconds=0),
    )
    assert by("sla_response_seconds", *rows) == [THREE, TWO, ONE]


def test_least_recently_routed_breaks_ties_never_served_first():
    state = make_state(positions={ONE: 2, THREE: 1})
    assert by("least_recently_routed", candidate(1), candidate(2), candidate(3), state=state) == [TWO, THREE, ONE]


def test_enrolled_at_breaks_ties_earliest_first():
    rows = candidate(1, enrolled_at=None), candidate(2, enrolled_at=0), candidate(3, enrolled_at=-1)
    assert by("enrolled_at", *rows) == [THREE, TWO, ONE]


def test_lead_hash_breaks_ties_smallest_first():
    rows = [candidate(number) for number in range(1, 7)]
    expected = sorted(map(buyer_id, range(1, 7)), key=lambda buyer: lead_hash(LEAD, buyer, b"pepper"))
    assert expected == by("lead_hash", *rows, strategy={"kind": "priority", "salt": "pepper"})


def test_buyer_id_breaks_the_last_tie():
    assert ordered(candidate(3), candidate(1), candidate(2)) == [ONE, TWO, THREE]


def test_tie_breakers_apply_in_the_order_of_the_list():
    rows = (
        candidate(1, weight=1, enrolled_at=0),
        candidate(2, weight=2, enrolled_at=1),
        candidate(3, weight=2, enrolled_at=0),
    )
    names = ["weight", "enrolled_at"]
    assert [[THREE, TWO, ONE], [THREE, ONE, TWO]] == [
        ordered(*rows, tie_breakers=[*order, "buyer_id"]) for order in (names, names[::-1])
    ]


def test_the_strategy_goes_before_the_tie_breakers():
    rows = candidate(1, priority_rank=1, weight=1), candidate(2, priority_rank=2, weight=9)
    assert by("weight", *rows) == [ONE, TWO]


# n


def test_n_is_blake2b_of_lead_buyer_and_salt_as_a_big_endian_integer():
    lead, buyer = uid(0xAB, 1), uid(0xCD, 2)
    digest = hashlib.blake2b(lead.bytes + buyer.bytes + "süß".encode(), digest_size=8).digest()
    assert lead_hash(lead, buyer, "süß".encode()) == int(digest.hex(), 16)


def test_n_is_the_same_for_ever():
    lead, buyer = uid(0x00112233, 0x0123456789ABCDEF), uid(0x44556677, 0xFEDCBA9876543210)
    assert [lead_hash(lead, buyer, salt) for salt in (b"", b"salt")] == KNOWN


@pytest.mark.parametrize("kind", ["priority", "rotation", "weighted"])
def test_the_salt_is_mixed_into_every_hash(kind):
    world = make_world(candidate(1), rules=make_rules(strategy={"kind": kind, "salt": "s"}))
    assert [f"{lead_hash(LEAD, ONE, b's'):016x}"] == [ranked.lead_hash for ranked in explained(world).eligible]


def test_a_lead_hash_has_sixteen_digits():
    lead = next(lead for lead in (uid(1, number) for number in range(10_000)) if lead_hash(lead, ONE, b"") < 2**56)
    (ranked,) = explained(make_world(candidate(1)), lead=make_lead(id=lead)).eligible
    assert ("0", 16) == (ranked.lead_hash[0], len(ranked.lead_hash))


def test_blake2b_is_that_of_rfc_7693():
    """Its appendices A (BLAKE2b-512 of `abc`) and E (one hash over hashes of many lengths, keyed and not)."""
    abc = (
        "ba80a53f981c4d0d6a2797b69f12f6e94c212f14685ac4b74b12bb6fdbffa2d1"
        "7d87c5392aab792dc252d5de4533cc9518d38aa8dbf1925ab92386edd4009923"
    )
    assert abc == hashlib.blake2b(b"abc").hexdigest()
    over_all = hashlib.blake2b(digest_size=32)
    for size in (20, 32, 48, 64):
        for length in (0, 3, 128, 129, 255, 1024):
            message, key = of_appendix_e(length), of_appendix_e(size)
            over_all.update(hashlib.blake2b(message, digest_size=size).digest())
            over_all.update(hashlib.blake2b(message, digest_size=size, key=key).digest())
    assert "c23a7800d98123bd10f506c61e29da5603d763b8bbad2e737f5e765a7bccd475" == over_all.hexdigest()


def of_appendix_e(length: int) -> bytes:
    """The deterministic sequence of RFC 7693, appendix E (`selftest_seq`), whose seed is its length."""
    one, two, found = 0xDEAD4BAD * length & 0xFFFFFFFF, 1, bytearray()
    for _ in range(length):
        one, two = two, (one + two) & 0xFFFFFFFF
        found.append(two >> 24)
    return bytes(found)


# scores


def test_the_first_by_score_is_the_first_by_the_published_formula():
    """Score = -w / ln(u), largest first, as Wikipedia's `Rendezvous hashing` has it; floats tell these apart."""
    weights = {1: 100, 2: 200, 3: 300}
    for lead in range(2_000):
        hashes = {number: lead_hash(uid(7, lead), buyer_id(number), b"") for number in weights}
        published = {number: weights[number] / -log((n + 0.5) / 2**64) for number, n in hashes.items()}
        ours = {number: Score(n, weights[number]) for number, n in hashes.items()}
        assert max(published, key=published.__getitem__) == min(ours, key=ours.__getitem__)


@pytest.mark.parametrize("n", [0, 1, 511, 512, 1023, 1024, 2**40, 2**63 - 1, 2**63, 2**63 + 1, LARGEST - 1, LARGEST])
@pytest.mark.parametrize("weight", [1, 7, 10**6, 2**63 - 1])
def test_a_score_is_minus_ln_u_by_weight(n, weight):
    exact = in_decimals(n, weight)
    assert abs(Decimal(Score(n, weight).value) - exact) <= exact * Decimal("1e-14")
    assert abs(Score(n, weight).exact() - exact) <= exact * Decimal("1e-35")


# near both ends of the range, and anywhere
ns = st.one_of(
    st.integers(0, LARGEST),
    st.integers(0, 64).map(lambda bits: (1 << bits) - 1),
    st.tuples(st.integers(0, 63), st.integers(0, LARGEST)).map(lambda drawn: drawn[1] >> drawn[0]),
    st.tuples(st.integers(0, 63), st.integers(0, LARGEST)).map(lambda drawn: LARGEST - (drawn[1] >> drawn[0])),
)
weights = st.one_of(st.integers(1, 5), st.integers(1, 10**6), st.integers(1, 2**63 - 1))


@given(ns, weights, ns, weights)
@example(2**30, 1, 2**30 + 1, 1)
@example(0, 1, 1, 1)
@example(LARGEST, 1, LARGEST - 1, 1)
@example(2**63, 10**15, 2**63, 10**15 + 1)
def test_scores_are_ordered_as_exact_numbers_are(n, weight, other_n, other_weight):
    one, other = in_decimals(n, weight), in_decimals(other_n, other_weight)
    assert (one < other, one == other) == (
        Score(n, weight) < Score(other_n, other_weight),
        Score(n, weight) == Score(other_n, other_weight),
    )


@given(ns, weights, weights, st.integers(-2, 2))
def test_scores_that_floats_cannot_tell_apart_are_ordered_by_exact_decimals(n, weight, other_weight, step):
    # the n whose score under the other weight is all but equal
    u = PRECISE.exp(-in_decimals(n, weight) * other_weight)
    other_n = min(max(int(PRECISE.multiply(u, Decimal(2**64))) + step, 0), LARGEST)
    one, other = in_decimals(n, weight), in_decimals(other_n, other_weight)
    assert (one < other, one == other) == (
        Score(n, weight) < Score(other_n, other_weight),
        Score(n, weight) == Score(other_n, other_weight),
    )


def test_scores_with_the_same_float_are_ordered():
    above, below = Score(2**63, 1), Score(2**63 + 1, 1)
    assert above.value == below.value
    assert below < above


def test_the_order_does_not_hang_on_floats_that_another_platform_rounds_otherwise():
    one, other = Score(2**63, 1), Score(2**63 + 1, 1)
    one.value, other.value = one.value * (1 - 3e-16), other.value * (1 + 3e-16)
    assert other < one


class Drawn(Ranking):
    """A ranking whose hashes are given, one for each of buyers 1 to so many."""

    __slots__ = ("given",)

    def hashes(self, enrollments):
        return [self.given[enrollment.buyer_id] for enrollment in enrollments]


near = st.tuples(st.sampled_from((2**30, 2**62, 2**63, LARGEST - 9)), st.integers(0, 4)).map(sum)


@given(st.lists(st.tuples(st.one_of(near, ns), st.one_of(st.integers(1, 3), weights)), min_size=1, max_size=7))
def test_levels_by_score_are_those_of_exact_scores(drawn):
    those = [
        Enrollment(make_enrollment(buyer_id=buyer_id(number), weight=weight), None, 1)
        for number, (_, weight) in enumerate(drawn)
    ]
    ranking = Drawn(read(strategy=WEIGHTED), LEAD, State())
    ranking.given = {enrollment.buyer_id: n for enrollment, (n, _) in zip(those, drawn, strict=True)}
    exact = {enrollment: in_decimals(n, weight) for enrollment, (n, weight) in zip(those, drawn, strict=True)}
    expected = [
        [enrollment for enrollment in those if exact[enrollment] == score] for score in sorted(set(exact.values()))
    ]
    assert expected == list(map(list, ranking.levels("score", those)))


def test_equal_scores_hash_alike():
    assert len({Score(5, 2), Score(5, 2)}) == 1


def test_a_score_equals_nothing_else():
    assert Score(5, 2) != 5


def test_equal_hashes_are_settled_by_the_tie_breakers(monkeypatch):
    monkeypatch.setattr(strategy.Ranking, "hashes", lambda ranking, enrollments: [7 for _ in enrollments])
    rows = candidate(1, enrolled_at=2), candidate(2, enrolled_at=1)
    assert by("enrolled_at", *rows, strategy=WEIGHTED) == [TWO, ONE]


def test_the_larger_weight_wins_among_equal_hashes(monkeypatch):
    monkeypatch.setattr(strategy.Ranking, "hashes", lambda ranking, enrollments: [7 for _ in enrollments])
    assert ordered(candidate(1, weight=3), candidate(2, weight=4), strategy=WEIGHTED) == [TWO, ONE]


@pytest.mark.parametrize("n", [0, LARGEST])
def test_the_ends_of_the_range_can_be_ranked(monkeypatch, n):
    monkeypatch.setattr(
        strategy.Ranking,
        "hashes",
        lambda ranking, enrollments: [n if enrollment.buyer_id == ONE else 2**63 for enrollment in enrollments],
    )
    assert (TWO if n == 0 else ONE) == winner(
        make_world(candidate(1), candidate(2), rules=make_rules(strategy=WEIGHTED))
    )


# what weighted promises

LEADS = 20_000


def chosen(weights: dict[int, int], leads: int, salt: bytes = b"") -> list[int]:
    return [
        min(weights, key=lambda number: Score(lead_hash(uid(7, lead), buyer_id(number), salt), weights[number]))
        for lead in range(leads)
    ]


def test_shares_follow_the_weights():
    """As Schindelhauer and Schomaker 2005 prove of their logarithmic method: the share of i is w_i / sum(w)."""
    weights = {1: 1, 2: 2, 3: 3, 4: 10}
    counts = Counter(chosen(weights, LEADS))
    for number, weight in weights.items():
        share = weight / sum(weights.values())
        assert abs(counts[number] - LEADS * share) < 4 * sqrt(LEADS * share * (1 - share))


def test_a_buyer_that_leaves_moves_only_its_own_leads():
    weights = {1: 1, 2: 2, 3: 3, 4: 10}
    before, after = (chosen(some, 2_000) for some in (weights, {n: w for n, w in weights.items() if n != 4}))
    assert all(now == then for then, now in zip(before, after, strict=True) if then != 4)


def test_a_weight_that_grows_takes_leads_and_gives_none():
    before, after = chosen({1: 1, 2: 2, 3: 3}, 2_000), chosen({1: 1, 2: 5, 3: 3}, 2_000)
    assert {2} == {now for then, now in zip(before, after, strict=True) if then != now}


def test_weights_matter_only_by_their_ratio():
    assert chosen({1: 1, 2: 2, 3: 3}, 2_000) == chosen({1: 1000, 2: 2000, 3: 3000}, 2_000)


def test_another_salt_gives_other_buyers():
    assert chosen({1: 1, 2: 1}, 200) != chosen({1: 1, 2: 1}, 200, b"other")


def test_lead_hash_favours_nobody():
    counts = Counter(
        min((1, 2, 3, 4), key=lambda number: lead_hash(uid(7, lead), buyer_id(number), b"")) for lead in range(LEADS)
    )
    assert all(abs(count - LEADS / 4) < 4 * sqrt(LEADS * 3 / 16) for count in counts.values())


def test_the_order_of_rows_does_not_matter():
    rows = [candidate(number, weight=number, sla_response_seconds=number % 2) for number in range(1, 5)]
    assert len({tuple(ordered(*order, strategy=WEIGHTED)) for order in permutations(rows)}) == 1

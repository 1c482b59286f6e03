"""Who may be full: a decision that looks at nobody else's caps is the one that looks at everybody's."""

from __future__ import annotations

from random import Random
from typing import Any
from uuid import UUID

from hypothesis import event, given, settings
from hypothesis import strategies as st

from pointsman import claim
from pointsman.cache.indexes import Indexes
from pointsman.claim import Batch, Beliefs
from pointsman.engine.capacity import Counter, State, caps
from pointsman.engine.configuration import turn
from pointsman.engine.decide import Decision, decide
from pointsman.engine.zones import DAY, HOUR
from pointsman.model import Lead, instant, micros
from pointsman.store import Claimed, Version

from .chance import a_buyer, a_case, a_lead, an_area, an_enrollment, state_of
from .worlds import (
    NOON,
    OFFER,
    ONE,
    TWO,
    Image,
    buyer_id,
    candidate,
    gone,
    key_of,
    make_buyer,
    make_enrollment,
    make_indexes,
    make_lead,
    make_rules,
    make_world,
    put,
)

TURNS = make_rules(strategy={"kind": "rotation"})


class Life:
    """What a router believes while it claims, the configuration changes and time goes on, as chance has it."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        case = a_case(rng)
        self.rows = {(table, key_of(table, image)): image for table, image in case.rows}
        self.indexes = make_indexes(case.rows)
        self.at = micros(case.at)
        self.known = Beliefs()
        for counter, used in state_of(case).used.items():
            self.known.remember(Counter(counter), used, 0)
        self.leads = [case.lead, *(a_lead(rng) for _ in range(2))]
        self.decisions = 0

    def route(self) -> None:
        """A batch is claimed, or two of which the other is decided while the first is under way."""
        first = self.batch(None)
        batches = [first]
        if self.rng.random() < 0.3:
            self.batch(None)  # in a transaction of a caller's, who knows nothing of the first and rolls back
        if self.rng.random() < 0.5:
            batches.append(self.batch(first))
        for batch in batches:
            self.claimed(batch)

    def batch(self, before: Batch | None) -> Batch:
        """Some leads, decided."""
        self.known.take_up(self.indexes.recounted)
        version = Version(self.indexes.version, self.indexes.token)
        batch = Batch(version, instant(self.at), 0, self.known, self.known, before)
        for lead in self.rng.choices(self.leads, (8, 1, 1), k=self.rng.randrange(1, 5)):
            batch.add(self.decided(lead, batch))
        return batch

    def claimed(self, batch: Batch) -> None:
        """Some of a batch are claimed, by an answer that knows of others' claims."""
        rng, known = self.rng, self.known
        batch.arguments()
        done = [self.decisions + place if rng.random() < 0.8 else 0 for place, _ in enumerate(batch.decisions, start=1)]
        used = [known.usage(cap.counter) + rng.choice((0, 0, 0, 1, 2)) for cap in batch.caps]
        positions = [known.positions.get(turn, 0) for turn in batch.turns]
        if rng.random() < 0.1:
            known.forget(batch)
        else:
            known.learn(batch, Claimed(done, [None] * len(done), used, positions, None))

    def decided(self, lead: Lead, batch: Batch) -> Decision:
        """A decision on the batch, which is the same where everyone may be full."""
        crowded, batch.crowded = batch.crowded, None
        exact = decide(lead, self.indexes, batch, self.at)
        batch.crowded = crowded
        decision = decide(lead, self.indexes, batch, self.at)
        assert exact == decision
        candidates = {enrollment.turn for enrollment in decision.covering}
        event("nobody in doubt" if candidates.isdisjoint(crowded or ()) else "somebody in doubt")
        event("somebody full" if decision.full else "nobody full")
        self.decisions += 1
        return decision

    def change(self) -> None:
        """One row is written or deleted: mostly a holder's caps are set otherwise."""
        rng = self.rng
        holders = [(table, image) for (table, _), image in self.rows.items() if table in ("buyers", "buyer_offers")]
        if rng.random() < 0.6:
            table, image = rng.choice(holders)
            self.put(table, {**image, rng.choice(("hourly_cap", "daily_cap")): rng.choice((None, 1, 2, 3, 4))})
            return
        table, image = rng.choice(
            [
                ("buyers", a_buyer(rng)),
                ("buyer_offers", an_enrollment(rng, offer_id=OFFER)),
                ("buyer_service_areas", an_area(rng)),
            ]
        )
        if rng.random() < 0.2:
            self.rows.pop((table, key_of(table, image)), None)
            self.indexes.apply(gone(table, image), self.indexes.version)
        else:
            self.put(table, image)

    def put(self, table: str, image: Image) -> None:
        self.rows[table, key_of(table, image)] = image
        self.indexes.apply(put(table, image), self.indexes.version)

    def load(self) -> None:
        """The configuration is read anew, after a change that nobody was told of."""
        self.change()
        self.indexes = make_indexes((table, image) for (table, _), image in self.rows.items())
        self.indexes.recounted.clear()  # as a load does

    def wait(self) -> None:
        """Time goes on, often into other windows."""
        self.at += self.rng.choice((1, HOUR // 3, HOUR, DAY // 2, DAY))


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.lists(st.sampled_from("rrrrccclw"), min_size=15, max_size=40))
def test_whoever_is_not_known_to_be_crowded_has_room(seed: int, steps: list[str]) -> None:
    life = Life(Random(seed))
    life.route()
    for step in steps:
        {"r": life.route, "c": life.change, "l": life.load, "w": life.wait}[step]()


class Counted(dict[bytes, int]):
    """Usage that notes who is asked about."""

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.asked: list[UUID] = []

    def get(self, counter: bytes, default: Any = None) -> Any:
        self.asked.append(UUID(bytes=counter[:16]))
        return super().get(counter, default)


def asked_about(world: Indexes, state: State) -> list[UUID]:
    """Whose caps a decision looks at."""
    state.used = used = Counted(state.used)
    decide(make_lead(), world, state, NOON)
    return used.asked


def test_the_caps_of_those_who_surely_have_room_are_not_looked_at():
    world = make_world(*(candidate(number, daily_cap=5) for number in (1, 2, 3)), rules=TURNS)
    state = State()
    assert asked_about(world, state) == [ONE, TWO, buyer_id(3)]
    state.crowded = {turn(TWO, OFFER)}
    assert asked_about(world, state) == [TWO]


def test_who_turns_out_to_have_room_is_looked_at_no_more():
    world, state = make_world(candidate(1, daily_cap=5, buyer_daily_cap=9), candidate(2), rules=TURNS), State()
    state.crowded = {turn(ONE, OFFER), ONE.bytes}
    assert asked_about(world, state) == [ONE, ONE]
    assert (set(), []) == (state.crowded, asked_about(world, state))


def test_a_buyer_whose_own_cap_is_full_is_full():
    world, known = make_world(candidate(1, buyer_daily_cap=2), candidate(2)), Beliefs()
    (cap,) = caps(world.enrolled(OFFER)[ONE], NOON)
    known.note(cap, 2)
    assert TWO == believed_winner(world, known)


def believed_winner(world: Indexes, known: Beliefs, at: int = NOON) -> UUID:
    known.take_up(world.recounted)
    batch = Batch(Version(1, world.token), instant(at), 0, known, known)
    return decide(make_lead(), world, batch, at).winner.buyer_id


def after_three_leads(**over: Any) -> tuple[Indexes, Beliefs]:
    """Buyer 1 has room after three leads of the day, and goes first."""
    world, known = make_world(candidate(1, daily_cap=5, **over), candidate(2, priority_rank=200)), Beliefs()
    for cap in caps(world.enrolled(OFFER)[ONE], NOON):
        known.note(cap, 3)
    assert ONE == believed_winner(world, known)
    return world, known


def changed(world: Indexes, *rows: tuple[str, Image]) -> None:
    for row in rows:
        world.apply(put(*row), 2)


def test_a_cap_that_is_lowered_below_what_was_counted_is_seen():
    world, known = after_three_leads()
    changed(world, ("buyer_offers", make_enrollment(daily_cap=3)))
    assert TWO == believed_winner(world, known)


def test_a_buyers_cap_that_is_lowered_below_what_was_counted_is_seen():
    world, known = after_three_leads(buyer_daily_cap=4)
    changed(world, ("buyers", make_buyer(daily_cap=3)))
    assert TWO == believed_winner(world, known)


def test_an_enrollment_that_comes_back_with_a_lower_cap_is_looked_at():
    world, known = after_three_leads()
    world.apply(gone("buyer_offers", make_enrollment()), 2)
    assert TWO == believed_winner(world, known)
    changed(world, ("buyer_offers", make_enrollment(daily_cap=3)))
    assert TWO == believed_winner(world, known)


def test_a_buyer_that_moves_to_a_zone_whose_day_is_full_is_looked_at():
    world, known = after_three_leads()
    changed(world, ("buyers", make_buyer(timezone="Asia/Kathmandu")))
    (cap,) = caps(world.enrolled(OFFER)[ONE], NOON)
    known.note(cap, 5)
    changed(world, ("buyers", make_buyer()))
    assert ONE == believed_winner(world, known)
    changed(world, ("buyers", make_buyer(timezone="Asia/Kathmandu")))
    assert TWO == believed_winner(world, known)


def test_a_configuration_that_was_loaded_anew_may_have_lower_caps():
    _, known = after_three_leads()
    anew = make_world(candidate(1, daily_cap=3), candidate(2, priority_rank=200))
    anew.recounted.clear()  # as a load does
    assert TWO == believed_winner(anew, known)


def test_after_a_load_everyone_is_looked_at_until_all_who_have_counted_are_noted(monkeypatch):
    monkeypatch.setattr(claim, "_DOUBTED_AT_ONCE", 2)
    _, known = after_three_leads()
    for number in range(10, 14):
        known.remember(Counter.of(buyer_id(number), OFFER, "day", NOON), 1, 0)
    anew = make_world(candidate(1, daily_cap=3), candidate(2, priority_rank=200))
    anew.recounted.clear()  # as a load does
    complete = []
    for _ in range(4):
        assert TWO == believed_winner(anew, known)
        complete.append(known.crowded is not None)
    assert [False, False, True, True] == complete


def test_what_a_batch_takes_fills_a_cap_for_its_next_lead():
    world, known = after_three_leads()
    batch = Batch(Version(1, world.token), instant(NOON), 0, known, known)
    winners = []
    for _ in range(4):
        decision = decide(make_lead(), world, batch, NOON)
        batch.add(decision)
        winners.append(decision.winner.buyer_id)
    assert [ONE, ONE, TWO, TWO] == winners


def test_a_router_that_starts_takes_everyone_who_has_counted_for_possibly_full():
    world, known = make_world(candidate(1, daily_cap=3), candidate(2, priority_rank=200)), Beliefs()
    world.recounted.clear()  # as a load does
    (cap,) = caps(world.enrolled(OFFER)[ONE], NOON)
    known.remember(cap.counter, 3, 0)
    assert TWO == believed_winner(world, known)
    assert ONE == believed_winner(world, known, NOON + DAY)

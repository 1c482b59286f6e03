"""The record of a decision: its canonical bytes, its digest, and the state that it rests on.

The digest is `sha256(head || state)`, its first 16 bytes. The state is what the claim proved, which makes both in the
database; only for a lone lead the router does, of what it believes, and the claim takes them if it proved just that.

head   a sequence of fields, each its length as 4 bytes (ffffffff for null) and then its bytes, in this order: the text
       `pointsman decision 1`; the ids of lead, offer, vertical and market (16 bytes each); postal code and city (UTF-8,
       as they were read); config version (8 bytes); the version's token (16); the instant in microseconds since the
       Unix epoch (8); outcome; cause; the ids of buyer and policy; the policy's version (8); the flags, joined by
       commas.
state  numbers, each as unsigned LEB128 in its shortest form: how many counters it names; for each its name and how many
       leads it had counted before this one; then, where positions were compared, the greatest of them, and for each, in
       order of buyers, 0 if it is 0, else 1 + how far it stands behind the greatest.
name   4 x the buyer's place, from 0, among the enrollments that cover the lead in order of buyers, plus 0 for the
       hourly and 1 for the daily counter of the enrollment, 2 and 3 for those of the buyer.

The integers of the head are big-endian; ids are in order of buyers when their bytes are.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from functools import lru_cache
from hashlib import sha256
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from pointsman.engine.capacity import Cap, State, caps
from pointsman.engine.configuration import Enrollment
from pointsman.engine.decide import Decision, Snapshot, decide
from pointsman.model import Lead

DIGEST_BYTES = 16

_LENGTH = struct.Struct(">I").pack
_NULL = b"\xff\xff\xff\xff"
_ID = _LENGTH(16)
_MARK = b"pointsman decision 1"
_EMPTY = _LENGTH(0)
_OPENING = _LENGTH(len(_MARK)) + _MARK + _ID
_BASIS = struct.Struct(">IqI16sIq").pack
_POLICY = struct.Struct(">I16sIq").pack
_REMEMBERED_TEXTS = 1 << 14
_TURN = attrgetter("turn")


class StoredState(NamedTuple):
    """A record's state, read back: leads counted by the counter's name, positions in order of buyers."""

    used: Mapping[int, int]
    positions: Sequence[int]


def head(decision: Decision, config_version: int, token: UUID) -> bytes:
    """All that the digest covers but the state."""
    lead, policy, winner = decision.lead, decision.policy, decision.winner
    offer_id, vertical_id, market_id = lead.offer_id, lead.vertical_id, lead.market_id
    flags = decision.flags
    return b"".join(
        [
            _OPENING,
            lead.id.bytes,
            _NULL if offer_id is None else _ID + offer_id.bytes,
            _NULL if vertical_id is None else _ID + vertical_id.bytes,
            _NULL if market_id is None else _ID + market_id.bytes,
            _text(lead.postal_code),
            _text(lead.city),
            _BASIS(8, config_version, 16, token.bytes, 8, decision.at),
            _result(decision.outcome, decision.cause),
            _NULL if winner is None else _ID + winner.holder,
            _NULL + _NULL if policy is None else _POLICY(16, policy.id.bytes, 8, policy.version),
            _text(",".join(flags)) if flags else _EMPTY,
        ]
    )


def digest(head_bytes: bytes, state: bytes) -> bytes:
    """The digest of a record, which the claim computes in SQL too."""
    return sha256(head_bytes + state).digest()[:DIGEST_BYTES]


def packed_state(used: Sequence[tuple[int, int]], positions: Sequence[int]) -> bytes:
    """The state that names these counters with what they had counted, and these positions."""
    numbers = [len(used)]
    for pair in used:
        numbers += pair
    if positions:
        last = max(positions)
        numbers += last, *(last - position + 1 if position else 0 for position in positions)
    return bytes(numbers) if max(numbers) < 0x80 else b"".join(map(_packed, numbers))


def named(decision: Decision) -> list[tuple[Cap, int]]:
    """The caps whose counters the state names, with their names, in its order."""
    covering, winner = decision.covering, decision.winner
    names = [(cap, name(cap, bisect_left(covering, cap.counter[:16], key=_TURN))) for cap in decision.full]
    if decision.takes:
        assert winner is not None  # or nobody would take anything
        place = bisect_left(covering, winner.turn, key=_TURN)
        names[:0] = [(cap, name(cap, place)) for cap in decision.takes]
    return names


def name(cap: Cap, place: int) -> int:
    """How the state names the counter of `cap`."""
    return 4 * place + cap.slot


def read_state(state: bytes) -> StoredState:
    """A stored state in its parts; raises `ValueError` for bytes that are none."""
    numbers = _numbers(state)
    end = 1 + 2 * numbers[0] if numbers else 1
    if len(numbers) < end or len(numbers) == end + 1:
        raise ValueError("the recorded state is cut short")
    used = dict(zip(numbers[1:end:2], numbers[2:end:2], strict=True))
    positions = [numbers[end] - behind + 1 if behind else 0 for behind in numbers[end + 1 :]]
    return StoredState(used, positions)


def redecide(lead: Lead, snapshot: Snapshot, stored: StoredState, at: int, around: State | None = None) -> Decision:
    """Decide again on a recorded state, on `around` for the buyers that it does not name, which it is added to.

    Where nothing is known around, whoever the record does not name as full is not.
    """
    state = _Recorded(stored.positions, around)
    if stored.used:
        covering = snapshot.covering(lead)
        candidates = len(covering)
        for number, used in stored.used.items():
            if number >> 2 < candidates:
                state.believe(covering[number >> 2], number & 3, used, at)
    return decide(lead, snapshot, state, at)


class _Recorded(State):
    """A state whose positions are told when it is known who is compared, which depends on usage alone."""

    __slots__ = ("_recorded",)

    def __init__(self, recorded: Sequence[int], around: State | None) -> None:
        super().__init__()
        self._recorded = recorded
        if around is None:
            self.crowded = set()
        else:
            self.used, self.ahead, self.positions = around.used, around.ahead, around.positions

    def believe(self, enrollment: Enrollment, slot: int, used: int, at: int) -> None:
        """Take over what the record says of one counter; of one with room nobody asks where it says who is full."""
        crowded = self.crowded
        for cap in caps(enrollment, at):
            if cap.slot == slot and (crowded is None or used >= cap.limit):
                self.used[cap.counter] = used
                if crowded is not None:
                    crowded.add(enrollment.turn)

    def positions_of(self, compared: Sequence[Enrollment]) -> list[int]:
        recorded = self._recorded
        if len(compared) != len(recorded):
            return super().positions_of(compared)
        self.positions.update(zip([enrollment.turn for enrollment in compared], recorded, strict=True))
        return list(recorded)


@lru_cache(_REMEMBERED_TEXTS)
def _text(value: str | None) -> bytes:
    if value is None:
        return _NULL
    encoded = value.encode()
    return _LENGTH(len(encoded)) + encoded


@lru_cache
def _result(outcome: str, cause: str | None) -> bytes:
    return _text(outcome) + _text(cause)


def _packed(number: int) -> bytes:
    """A number as unsigned LEB128."""
    packed = bytearray()
    while number > 0x7F:
        packed.append(number & 0x7F | 0x80)
        number >>= 7
    packed.append(number)
    return bytes(packed)


def _numbers(packed: bytes) -> Sequence[int]:
    """Numbers in unsigned LEB128, one after another."""
    if packed.isascii():
        return packed  # each is one byte
    numbers, number, shift = [], 0, 0
    for byte in packed:
        if byte > 0x7F:
            number |= (byte & 0x7F) << shift
            shift += 7
        elif shift:
            numbers.append(number | byte << shift)
            number = shift = 0
        else:
            numbers.append(byte)
    if shift:
        raise ValueError("the recorded state is cut short")
    return numbers

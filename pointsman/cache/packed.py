"""A sorted mapping of ids to pairs of numbers, for rows of which there are millions: 24 bytes each, and no objects."""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from operator import ge
from struct import Struct
from typing import Any

_RECORD = Struct("=16sII")
_KEY, _SIZE = 16, _RECORD.size
_FULL = 256 * _SIZE
"""Bytes of a chunk: so few that to look through it or to move its half takes about a microsecond."""

Pair = tuple[int, int]
Record = tuple[bytes, int, int]


class PackedMap:
    """Keys of 16 bytes, each with two numbers of 32 bits.

    Records lie in order in chunks, which are found and searched by bisection, as in a B-tree of two levels; so whatever
    the order of changes, each moves a few kilobytes and none has to put off a larger reorganisation. Keys that come in
    their order are appended.
    """

    __slots__ = ("_chunks", "_firsts", "_greatest", "_length")

    def __init__(self) -> None:
        self._chunks = [bytearray()]
        self._firsts = [b""]  # no key of a chunk is smaller, nor any before it as great
        self._greatest = b""  # no key is greater
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Record]:
        """Key and numbers, in the order of the keys."""
        for chunk in self._chunks:
            yield from _RECORD.iter_unpack(bytes(chunk))  # a copy: an open view would forbid changes

    def get(self, key: bytes) -> Pair | None:
        """The numbers of a key, None if it is not there."""
        chunk = self._chunks[self._chunk_of(key)]
        return _pair(chunk, _place(chunk, key), key)

    def put(self, key: bytes, first: int, second: int) -> Pair | None:
        """Set the numbers of a key; its former ones, None if it is new."""
        record = _RECORD.pack(key, first, second)
        if key > self._greatest:
            self._append(key, record)
            return None
        index = self._chunk_of(key)
        chunk = self._chunks[index]
        place = _place(chunk, key)
        former = _pair(chunk, place, key)
        if former is not None:
            chunk[place : place + _SIZE] = record
            return former
        chunk[place:place] = record
        self._length += 1
        if len(chunk) > _FULL:
            self._split(index)
        return None

    def extend(self, keys: Sequence[bytes], firsts: Sequence[int], seconds: Sequence[int]) -> None:
        """Set the numbers of many keys; quickly, if these are in order and greater than all that are here."""
        if not keys or keys[0] <= self._greatest or any(map(ge, keys, keys[1:])):
            for record in zip(keys, firsts, seconds, strict=True):
                self.put(*record)
            return
        records = _packed(keys, firsts, seconds)
        self._chunks += [records[start : start + _FULL] for start in range(0, len(records), _FULL)]
        self._firsts += keys[:: _FULL // _SIZE]
        self._greatest = keys[-1]
        self._length += len(keys)

    def pop(self, key: bytes) -> Pair | None:
        """Take a key out; its numbers, None if it was not there."""
        index = self._chunk_of(key)
        chunk = self._chunks[index]
        place = _place(chunk, key)
        former = _pair(chunk, place, key)
        if former is None:
            return None
        del chunk[place : place + _SIZE]
        self._length -= 1
        if not chunk and index:  # the first stays: it begins with the smallest of all keys
            del self._chunks[index], self._firsts[index]
        return former

    def _append(self, key: bytes, record: bytes) -> None:
        if len(self._chunks[-1]) >= _FULL:
            self._chunks.append(bytearray())
            self._firsts.append(key)
        self._chunks[-1] += record
        self._greatest = key
        self._length += 1

    def _chunk_of(self, key: bytes) -> int:
        return bisect_right(self._firsts, key) - 1

    def _split(self, index: int) -> None:
        chunk = self._chunks[index]
        middle = len(chunk) // _SIZE // 2 * _SIZE
        self._chunks.insert(index + 1, chunk[middle:])
        self._firsts.insert(index + 1, bytes(chunk[middle : middle + _KEY]))
        del chunk[middle:]


def _packed(keys: Sequence[bytes], firsts: Sequence[int], seconds: Sequence[int]) -> bytearray:
    """The records of these, column by column: in a third of the time that one after another takes."""
    records = bytearray(_SIZE * len(keys))
    eights, fours = memoryview(records).cast("Q"), memoryview(records).cast("I")
    halves = memoryview(b"".join(keys)).cast("Q")
    eights[0::3], eights[1::3] = halves[0::2], halves[1::2]
    fours[4::6], fours[5::6] = memoryview(array("I", firsts)), memoryview(array("I", seconds))
    return records


def _place(chunk: bytearray, key: bytes) -> int:
    """Where in a chunk a key's record is, or would be, in bytes."""

    def key_at(start: int) -> Any:  # a part of a bytearray is one too, which compares with bytes as if it were some
        return chunk[start : start + _KEY]

    return bisect_left(range(0, len(chunk), _SIZE), key, key=key_at) * _SIZE


def _pair(chunk: bytearray, place: int, key: bytes) -> Pair | None:
    if chunk[place : place + _KEY] != key:
        return None
    _, first, second = _RECORD.unpack_from(chunk, place)
    return first, second

"""Philox-4x32-10 in vectors: a lane for each block of four words.

A word is the lower half of a 64-bit lane, so that a product of two words is one instruction; what
is in upper halves on the way means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

from tracejit.codegen.native.builder import Builder
from tracejit.codegen.native.types import Type, Value, const
from tracejit.runtime.philox import INCREMENTS, MULTIPLIERS, ROUNDS, WORD


def block(b: Builder, counter: Value, key: Value) -> list[Value]:
    """The four words (i32) of each block, from i64 counters and key."""
    lanes = max(counter.type.lanes, key.type.lanes)
    kind = Type("i64", lanes)
    half, lower, zero = (const(kind, n) for n in (32, WORD, 0))
    multipliers = [const(kind, m) for m in MULTIPLIERS]
    assert counter.type.lanes in (0, lanes)
    w = b.splat(counter, lanes)
    x, y, z = b.binary("lshr", w, half), zero, zero
    keys = [key, b.binary("lshr", key, 32)]
    for _ in range(ROUNDS):
        p, q = (
            b.mul(b.binary("and", word, lower), by)
            for word, by in zip((w, y), multipliers, strict=True)
        )
        mixed = [
            b.binary(
                "xor", b.binary("xor", b.binary("lshr", product, half), word), b.splat(k, lanes)
            )
            for product, word, k in zip((q, p), (x, z), keys, strict=True)
        ]
        w, x, y, z = mixed[0], q, mixed[1], p
        keys = [b.add(k, n) for k, n in zip(keys, INCREMENTS, strict=True)]
    return [b.cast("trunc", word, kind.of("i32")) for word in (w, x, y, z)]


def chosen(b: Builder, words: Sequence[Value], number: Value) -> Value:
    """In each lane the word of that number, an i64 from 0 to 3."""
    lanes = max(words[0].type.lanes, number.type.lanes)
    number = b.splat(number, lanes)
    found, *others = (b.splat(word, lanes) for word in words)
    for k, other in enumerate(others, 1):
        found = b.select(b.icmp("eq", number, k), other, found)
    return found


def in_turn(b: Builder, words: Sequence[Value]) -> Value:
    """The vectors' first lanes, then their second ones, and so on: of one vector, two or four."""
    if len(words) == 1:
        return words[0]
    half = len(words) // 2
    pairs = [in_turn(b, words[k::half]) for k in range(half)] if half > 1 else list(words)
    lanes = pairs[0].type.lanes
    return b.shuffle(pairs[0], pairs[1], [k for lane in range(lanes) for k in (lane, lane + lanes)])

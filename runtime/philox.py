"""The random numbers of `numerics="fast"`: Philox-4x32-10, a generator without state (Salmon,
Moraes, Dror, Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011), in plain torch.

A draw takes one key from torch's generator; its element `i` follows from the key and `i` alone.
Kernels compute the same; what is here runs where no kernel is generated, and in the reference.
Words of 32 bits are i64 tensors until they are handed out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)  # of the two halves of the key, in each round
WORD = 0xFFFFFFFF
# Bits of a uniform number, as many as the dtype's mantissa holds: the largest is below 1.
DIGITS = {torch.float64: 53, torch.float32: 24, torch.float16: 11, torch.bfloat16: 8}

# sin(2 pi y) / y as a polynomial in y^2 for |y| <= 1/4, within 6e-9 of it in all of the range.
SINE = (6.2831855, -41.34168, 81.602234, -76.57499, 39.710918)

Words = Sequence[torch.Tensor]


def keys(count: int, device: torch.device) -> tuple[torch.Tensor, ...]:
    """So many times 64 bits from torch's generator for the device."""
    drawn = torch.randint(-(1 << 63), (1 << 63) - 1, (count,), dtype=torch.int64, device=device)
    return drawn.unbind()


keys.tags = (torch.Tag.nondeterministic_seeded,)  # type: ignore[attr-defined]  # as torch's ops have


def block(counter: Words, halves: Words) -> tuple[torch.Tensor, ...]:
    """The four words at a counter of four words, under a key of two."""
    a, b, c, d = counter
    u, v = halves
    for _ in range(ROUNDS):
        p, q = a * MULTIPLIERS[0], c * MULTIPLIERS[1]  # 64 bits, which may show as negative
        a, b, c, d = (q >> 32 & WORD) ^ b ^ u, q & WORD, (p >> 32 & WORD) ^ d ^ v, p & WORD
        u, v = u + INCREMENTS[0] & WORD, v + INCREMENTS[1] & WORD
    return a, b, c, d


def word(place: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Word `place % 4` of block `place // 4`, its bits as i32."""
    counter, zero = place >> 2, torch.zeros_like(place)
    halves = (key & WORD, key >> 32 & WORD)
    words = block((counter & WORD, counter >> 32 & WORD, zero, zero), halves)
    found = words[0]
    for number, other in enumerate(words):
        found = torch.where(place & 3 == number, other, found)
    return torch.where(found >> 31 == 1, found - (1 << 32), found).to(torch.int32)


def places(sizes: Sequence[int], key: torch.Tensor) -> torch.Tensor:
    """Each element's number, in row-major order."""
    return torch.arange(math.prod(sizes), device=key.device).reshape(sizes)


def top(words: torch.Tensor, digits: int) -> torch.Tensor:
    """The upper bits of a word."""
    return words >> 32 - digits & (1 << digits) - 1


def fraction(key: torch.Tensor, place: torch.Tensor, least: int = 0) -> torch.Tensor:
    """53 bits, and `least` more of the last of them, of the two words from `place` on, in f64."""
    high, low = top(word(place, key), 26), top(word(place + 1, key), 27)
    return (high.double() * 2**27 + (low.double() + least)) * 2.0**-53


def uniform(key: torch.Tensor, sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Numbers in [0, 1): a word each, two for f64."""
    place, digits = places(sizes, key), DIGITS[dtype]
    if dtype == torch.float64:
        return fraction(key, place * 2)
    return (top(word(place, key), digits).float() * 2.0**-digits).to(dtype)


def bernoulli(key: torch.Tensor, sizes: Sequence[int], p: float) -> torch.Tensor:
    """True with probability `p`, to 32 bits."""
    return word(places(sizes, key), key).long() < limit(p)


def limit(p: float) -> int:
    """The number that a word, as i32, is below with probability `p`."""
    return round(p * 2**32) - 2**31


def cosine(turn: Any) -> Any:
    """The cosine of so many turns, from 0 to 1, of a tensor or a scalar expression in f32."""
    y = abs(turn - 0.5) - 0.25
    square, found = y * y, SINE[-1]
    for coefficient in SINE[-2::-1]:
        found = square * found + coefficient
    return y * found


def normal(key: torch.Tensor, sizes: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """Standard normal numbers by Box and Muller's transform: two words each, four for f64."""
    place = places(sizes, key)
    if dtype == torch.float64:
        chance = fraction(key, place * 4, 1)
        across = torch.cos(fraction(key, place * 4 + 2) * (2 * math.pi))
    else:
        chance = ((word(place * 2, key) & 0x7FFFFFFF).float() + 1) * 2.0**-31
        across = cosine(top(word(place * 2 + 1, key), 24).float() * 2.0**-24)
    return (torch.sqrt(torch.log(chance) * -2) * across).to(dtype)

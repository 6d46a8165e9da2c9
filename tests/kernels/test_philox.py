"""Random words in kernels: Philox-4x32-10's known answers, and the same bits on every target."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.executors import TARGETS
from tests.kernels.conftest import Nests
from tracejit.codegen.triton import offline
from tracejit.codegen.triton.generate import generate
from tracejit.fuse.index import Axis, Index
from tracejit.fuse.scalar import Scalar, cast, const, index_value, make
from tracejit.runtime import philox

KEYS = (0, 1, -1, 0x299F31D0A4093822, -(1 << 63), 123456789)
# Counter and key, word by word from the lowest, and the block: from the Random123 distribution.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    (
        (0xFFFFFFFF,) * 4,
        (0xFFFFFFFF,) * 2,
        (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD),
    ),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.fixture
def nests(each):
    return each


def unsigned(words: torch.Tensor) -> list[int]:
    return [w & philox.WORD for w in words.tolist()]


def drawn(place: Index | Scalar, key: Scalar) -> Scalar:
    place = place if isinstance(place, Scalar) else index_value(place)
    return make("philox", place, key, dtype="i32")


def plain(place: int, key: int) -> int:
    """Word `place` of the stream under `key`, in Python's own integers."""
    a, b, c, d = place >> 2 & philox.WORD, place >> 34 & philox.WORD, 0, 0
    u, v = key & philox.WORD, key >> 32 & philox.WORD
    for _ in range(10):
        p, q = a * 0xD2511F53, c * 0xCD9E8D57
        a, b, c, d = (q >> 32) ^ b ^ u, q & philox.WORD, (p >> 32) ^ d ^ v, p & philox.WORD
        u, v = u + 0x9E3779B9 & philox.WORD, v + 0xBB67AE85 & philox.WORD
    return (a, b, c, d)[place % 4]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected) -> None:
    words = philox.block([torch.tensor(w) for w in counter], [torch.tensor(w) for w in key])
    assert tuple(int(w) for w in words) == expected


def test_known_answer_of_kernels(nests) -> None:
    (i,) = nests.axes(i=4)
    nest = nests.nest([i], {"out": (i, drawn(i, nests.load("key", 0, "i64")))})
    found = nests.run(nest, {"key": torch.zeros(1, dtype=torch.int64)})["out"]
    assert unsigned(found) == list(KNOWN[0][2])


@pytest.mark.parametrize("key", KEYS)
def test_places_from_memory(nests, key: int) -> None:
    """Any place: the words of high counters, too, and those of negative ones."""
    places = [
        0,
        1,
        2,
        3,
        4,
        7,
        1 << 32,
        (1 << 34) + 1,
        (1 << 62) + 3,
        (1 << 63) - 1,
        -1,
        -(1 << 63),
    ]
    (i,) = nests.axes(i=len(places))
    word = drawn(nests.load("places", i, "i64"), nests.load("key", 0, "i64"))
    inputs = {"places": torch.tensor(places), "key": torch.tensor([key])}
    found = nests.run(nests.nest([i], {"out": (i, word)}), inputs)["out"]
    assert unsigned(found) == [plain(p, key) for p in places]
    assert unsigned(philox.word(torch.tensor(places), torch.tensor(key))) == unsigned(found)


@pytest.mark.parametrize("how", ["chosen", "rows", "blocks"])
@pytest.mark.parametrize("size", [1, 8, 31, 1000])
@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_neighbours(nests, how: str, size: int, step: int) -> None:
    """Whatever the lanes want: each word, every second, from any first one on."""
    (i,) = nests.axes(i=size)
    key = nests.load("key", 0, "i64")
    stores = {f"out{k}": (i, drawn(i * step + k, key)) for k in range(6)}
    found = nests.run(nests.nest([i], stores), {"key": torch.tensor([KEYS[3]])}, how)
    for k in range(6):
        expected = [plain(n * step + k, KEYS[3]) for n in range(size)]
        assert unsigned(found[f"out{k}"]) == expected, k


def test_one_place(nests) -> None:
    (i,) = nests.axes(i=20)
    key = nests.load("key", 0, "i64")
    stores = {f"out{k}": (i, drawn(const(k, "i64"), key)) for k in (0, 5, 6)}
    found = nests.run(nests.nest([i], stores), {"key": torch.tensor([7])})
    assert all(unsigned(found[f"out{k}"]) == [plain(k, 7)] * 20 for k in (0, 5, 6))


def test_a_key_for_each_lane(nests) -> None:
    (i,) = nests.axes(i=len(KEYS))
    nest = nests.nest([i], {"out": (i, drawn(i, nests.load("key", i, "i64")))})
    found = nests.run(nest, {"key": torch.tensor(KEYS)})["out"]
    assert unsigned(found) == [plain(n, key) for n, key in enumerate(KEYS)]


STEPS = st.sampled_from([0, 1, 2, 3, 4, 8, 12, 64, 100])


@settings(max_examples=40)
@given(
    rows=st.integers(1, 5),
    columns=st.integers(1, 70),
    steps=st.tuples(STEPS, STEPS),
    first=st.integers(0, 9),
    shift=st.sampled_from([0, 1 << 31, 1 << 34]),
    dtype=st.sampled_from(["i32", "i8", "f64"]),
    key=st.sampled_from(KEYS),
    target=st.sampled_from(TARGETS),
)
def test_any_nest(rows, columns, steps, first, shift, dtype, key, target) -> None:
    """Two axes in any order of strides, lanes of any width."""
    nests = Nests(target)
    i, j = (Index.of(Axis(name, size, False)) for name, size in (("i", rows), ("j", columns)))
    place = i * steps[0] + j * steps[1] + (first + shift)
    word = drawn(place, nests.load("key", 0, "i64"))
    value = cast(word, dtype) if dtype != "i32" else word
    nest = nests.nest([i, j], {"out": (i * columns + j, value)})
    found = nests.run(nest, {"key": torch.tensor([key])})["out"]
    at = [r * steps[0] + c * steps[1] + first + shift for r in range(rows) for c in range(columns)]
    words = torch.tensor([plain(p, key) for p in at], dtype=torch.int64)
    expected = torch.where(words >> 31 == 1, words - (1 << 32), words).to(found.dtype)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("how", ["chosen", "rows", "row", "chunks", "row-chunks", "wide-chunks"])
def test_rows_that_are_reduced(nests, how: str) -> None:
    i, r = nests.axes(i=5, r=100)
    word = drawn(i * 100 + r, nests.load("key", 0, "i64"))
    nest = nests.nest([i, r], {"out": (i, nests.reduce("sum", cast(word, "i64")))})
    found = nests.run(nest, {"key": torch.tensor([KEYS[3]])}, how)["out"]
    place = torch.arange(500).reshape(5, 100)
    assert torch.equal(found, philox.word(place, torch.tensor(KEYS[3])).sum(1))


@pytest.mark.parametrize("target", ["cuda:80", "cuda:90", "cuda:100", "hip:gfx942"])
def test_it_compiles(target: str) -> None:
    """The four neighbours of a thread share a block: two products a round, less those of zeros."""
    nests = Nests()
    (i,) = nests.axes(i=1 << 20)
    nest = nests.nest([i], {"out": (i, drawn(i, nests.load("key", 0, "i64")))})
    binary = offline.compile_kernel(generate(nest, "kernel", target=target), target)
    assert binary.code and not binary.spills
    unsigned_products = r"mul\.(hi|wide)\.u32|v_mul_hi_u32|v_mad_u64_u32"
    products = len(re.findall(unsigned_products, binary.assembly))
    assert 2 * (philox.ROUNDS - 2) <= products <= 2 * philox.ROUNDS


def test_the_function_beside_a_kernel_of_its_name() -> None:
    nests = Nests()
    (i,) = nests.axes(i=4)
    nest = nests.nest([i], {"out": (i, drawn(i, nests.load("key", 0, "i64")))})
    text = generate(nest, "philox", target="interpret").text
    assert "def philox_of_two(place, key)" in text and "def philox(key_ptr" in text

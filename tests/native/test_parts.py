"""An axis that a kernel's loads ask about (cat, pads, halves turned round) is run part by part: the
same elements as eager's, and nothing is asked within a part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import tracejit
from tests.executors import NATIVE
from tracejit.fuse.index import Axis, Index
from tracejit.fuse.loopnest import Buffer, LoopNest, Store
from tracejit.fuse.regroup import MOST_PARTS, parts
from tracejit.fuse.scalar import Load, Scalar, index_value, make, where

I = Axis("i", 64)  # noqa: E741


def loaded(buffer: str, mask: Scalar, offset: int = 0) -> Scalar:
    place = Load(buffer, Index.of(I) - offset)
    return make("load", mask, arg=place, dtype="f32")


def side_by_side(*borders: int, axis: Axis = I) -> LoopNest:
    """One buffer behind the other, as `cat` gives them."""
    place, begins = index_value(Index.of(axis)), [0, *borders]
    value = loaded(f"x{len(borders)}", place >= begins[-1], begins[-1])
    for k, border in reversed(list(enumerate(borders))):
        here = place < border
        value = where(here, loaded(f"x{k}", here, begins[k]), value)
    buffers = [Buffer(f"x{k}", "f32", axis.size) for k in range(len(begins))]
    out = Buffer("out", "f32", axis.size, True)
    return LoopNest("cat", (axis,), (*buffers, out), (Store("out", Index.of(axis), value),))


def words(nest: LoopNest) -> set[str]:
    return {scalar.op for scalar in nest.body()}


def test_nothing_is_asked_in_a_part() -> None:
    found = parts(side_by_side(16, 40), I, 8)
    assert [(begin, end) for begin, end, _ in found] == [(0, 16), (16, 40), (40, 64)]
    for k, (_, _, nest) in enumerate(found):
        assert words(nest) == {"load"}
        (load,) = nest.body()
        assert load.arg.buffer == f"x{k}" and not load.args


def test_borders_within_a_vector_are_asked_for() -> None:
    nest = side_by_side(12)
    assert parts(nest, I, 8) == [(0, 64, nest)]
    (_, _, first), (_, _, second) = parts(side_by_side(12, 32), I, 8)
    assert "where" in words(first) and words(second) == {"load"}


def test_many_parts_are_none() -> None:
    nest = side_by_side(*range(8, 8 * (MOST_PARTS + 1), 8))
    assert parts(nest, I, 8) == [(0, 64, nest)]


def test_a_store_that_is_not_wanted_is_left_out() -> None:
    here = index_value(Index.of(I)) >= 32
    x = make("load", arg=Load("x", Index.of(I)), dtype="f32")
    buffers = (Buffer("x", "f32", 64), Buffer("out", "f32", 64, True))
    nest = LoopNest("some", (I,), buffers, (Store("out", Index.of(I), x, here),))
    (_, _, first), (_, _, second) = parts(nest, I, 8)
    assert not first.stores and [s.mask for s in second.stores] == [None]


def rotated(x: torch.Tensor) -> torch.Tensor:
    left, right = x.chunk(2, -1)
    return torch.cat((-right, left), -1) * 0.5 + x


def joined(x: torch.Tensor) -> torch.Tensor:
    return torch.cat((x * 2, x[..., :1], x.abs(), x[..., 1:]), -1) + 1


def padded(x: torch.Tensor) -> torch.Tensor:
    return F.pad(x, (16, 3), value=2.0) * 2


def cleared(x: torch.Tensor) -> torch.Tensor:
    middle = x.shape[-1] // 16 * 8
    return torch.cat((torch.zeros_like(x[..., :middle]), x[..., middle:].sin()), -1)


@pytest.mark.skipif(not NATIVE, reason="native kernels")
@pytest.mark.parametrize("function", [rotated, joined, padded, cleared])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.float16])
@pytest.mark.parametrize("sizes", [(3, 64), (5, 2, 48), (1, 40_000), (7, 34), (2, 16), (300, 128)])
def test_as_eager(
    function: Callable[[torch.Tensor], torch.Tensor], dtype: torch.dtype, sizes: tuple[int, ...]
) -> None:
    x = torch.randn(sizes).to(dtype)
    x.view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -0.0])
    found = tracejit.compile(function, wait=True)(x)
    torch.testing.assert_close(found, function(x), equal_nan=True)


@pytest.mark.skipif(not NATIVE, reason="native kernels")
@given(st.lists(st.integers(1, 80), min_size=2, max_size=5), st.integers(1, 4))
def test_any_sizes(sizes: list[int], rows: int) -> None:
    given = [torch.randint(-99, 99, (rows, size)) for size in sizes]

    def together(*given: torch.Tensor) -> torch.Tensor:
        return torch.cat(given, 1) * 3 - 1

    assert torch.equal(tracejit.compile(together, wait=True)(*given), together(*given))

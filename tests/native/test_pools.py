"""Pools as reductions over windows: the same elements as ATen's, wherever they lie."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tracejit
from tests.executors import NATIVE

pytestmark = pytest.mark.skipif(not NATIVE, reason="native kernels")

SHAPES: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "2×2": ((2, 5, 12, 14), {"kernel_size": 2}),
    "odd image": ((2, 5, 13, 71), {"kernel_size": 2}),
    "3×3, step of 2": ((2, 5, 23, 70), {"kernel_size": 3, "stride": 2, "padding": 1}),
    "overlapping": ((1, 40, 9, 9), {"kernel_size": 3, "stride": 1, "padding": 1}),
    "ends beyond": ((1, 3, 10, 11), {"kernel_size": 3, "stride": 2, "ceil_mode": True}),
    "ends beyond the padding": (
        (1, 3, 10, 12),
        {"kernel_size": 4, "stride": 3, "padding": 2, "ceil_mode": True},
    ),
    "apart": ((1, 3, 20, 33), {"kernel_size": 3, "dilation": 2, "padding": 1, "stride": 1}),
    "different": (
        (1, 3, 20, 33),
        {"kernel_size": (2, 3), "stride": (3, 1), "padding": (0, 1), "dilation": (1, 2)},
    ),
    "one window": ((3, 4, 6, 7), {"kernel_size": (6, 7)}),
    "no batch": ((3, 9, 40), {"kernel_size": 3}),
    "long": ((2, 3, 65), {"kernel_size": 5, "stride": 2, "padding": 2}),
    "solid": ((1, 2, 8, 9, 21), {"kernel_size": 3, "stride": 2, "padding": 1}),
}
DIMS = {"long": 1, "solid": 3}
POOLS = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def image(*sizes: int, dtype: torch.dtype) -> torch.Tensor:
    """Random, with a NaN and infinities among it."""
    torch.manual_seed(0)
    x = torch.randn(sizes)
    places = torch.randperm(x.numel())[: x.numel() // 20]
    x.view(-1)[places] = torch.tensor([torch.nan, torch.inf, -torch.inf]).repeat(len(places))[
        : len(places)
    ]
    return x.to(dtype)


def lines(compiled: Any) -> str:
    return str(tracejit.explain(compiled))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", SHAPES)
def test_as_eager(name: str, dtype: torch.dtype) -> None:
    sizes, said = SHAPES[name]
    pool, x = POOLS[DIMS.get(name, 2)], image(*sizes, dtype=dtype)
    compiled = tracejit.compile(lambda x: pool(x, **said), wait=True)
    images = [x]
    if name != "long":  # whose strides eager takes from elsewhere while a dispatch mode is active
        images.append(x.transpose(-1, -2).contiguous().transpose(-1, -2))
    if x.ndim == 4:
        images.append(x.to(memory_format=torch.channels_last))
    for y in images:
        for _ in range(2):
            expected = pool(y, **said)
            torch.testing.assert_close(
                compiled(y), expected, rtol=0, atol=0, equal_nan=True, check_stride=True
            )
    assert "max_pool" in lines(compiled) and "(library)" not in lines(compiled)


MEANS: dict[
    str, tuple[tuple[int, ...], dict[str, Any], bool]
] = {  # the last: whether the library's
    "2×2": ((2, 5, 12, 14), {"kernel_size": 2}, False),
    "overlapping": ((2, 5, 13, 35), {"kernel_size": 3, "stride": 1, "padding": 1}, False),
    "step of 2": ((2, 5, 13, 35), {"kernel_size": 3, "stride": 2, "padding": 1}, False),
    "ends inside": ((1, 3, 9, 9), {"kernel_size": 3, "stride": 2, "ceil_mode": True}, False),
    "ends beyond": ((1, 3, 10, 9), {"kernel_size": 3, "stride": 2, "ceil_mode": True}, True),
    "padding not counted": (
        (1, 3, 10, 9),
        {"kernel_size": 3, "padding": 1, "count_include_pad": False},
        True,
    ),
    "no padding to count": ((1, 3, 9, 9), {"kernel_size": 3, "count_include_pad": False}, False),
    "other divisor": (
        (1, 3, 10, 9),
        {"kernel_size": 3, "padding": 1, "divisor_override": 5, "ceil_mode": True},
        False,
    ),
    "different": ((3, 20, 33), {"kernel_size": (2, 3), "stride": (3, 1)}, False),
    "long": ((2, 3, 65), {"kernel_size": 5, "stride": 2, "padding": 2}, False),
    "solid": ((1, 2, 8, 9, 21), {"kernel_size": 3, "stride": 2, "padding": 1}, False),
}
AVERAGES = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("name", MEANS)
def test_means(name: str, dtype: torch.dtype) -> None:
    sizes, said, library = MEANS[name]
    if name == "solid" and dtype == torch.bfloat16:
        pytest.skip("eager has none")
    pool, x = AVERAGES[DIMS.get(name, 2)], image(*sizes, dtype=torch.float32).nan_to_num(0, 1, -1)
    compiled = tracejit.compile(lambda x: pool(x, **said), wait=True)
    x = x.to(dtype)
    images = [x, x.to(memory_format=torch.channels_last)] if x.ndim == 4 else [x]
    for y in images:
        for _ in range(2):
            torch.testing.assert_close(compiled(y), pool(y, **said), check_stride=True)
    assert ("(library)" in lines(compiled)) == library


def test_with_what_surrounds_it() -> None:
    """Reads of a computed image, and of a part of one."""

    def block(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(F.relu(x[:, :, 1:]) * 2, 2) + y.amax((2, 3), keepdim=True)

    x, y = image(2, 3, 17, 24, dtype=torch.float32).nan_to_num(), torch.ones(2, 3, 4, 4)
    compiled = tracejit.compile(block, wait=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x, y), block(x, y))


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
def test_calls_of_the_library(dtype: torch.dtype) -> None:
    """Places are wanted, or elements are integers."""

    def both(x: torch.Tensor) -> Any:
        return F.max_pool2d(x, 2, return_indices=dtype == torch.float32)

    x = image(1, 2, 8, 8, dtype=torch.float32).nan_to_num().to(dtype)
    compiled = tracejit.compile(both, wait=True)
    for _ in range(2):
        torch.testing.assert_close(compiled(x), both(x))
    assert "max_pool2d_with_indices (library)" in lines(compiled)

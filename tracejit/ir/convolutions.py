"""Convolutions by provider: as sums of products over windows of a padded image, which the native
generator recognises (fuse.product) and fuses with what follows them; or as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracejit.ir.dtypes import HALVES
from tracejit.ir.graph import Graph, Node, Value
from tracejit.ir.products import GENERATED, cast, widened
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.externs import each

CONVOLUTION = "aten.convolution"


@dataclass(frozen=True)
class Windows:
    """One convolution of an image [batch, channels, *image] to [batch, filters, *places], with the
    geometry of its windows; a number a dim."""

    dtype: str
    batch: int
    channels: int
    image: tuple[int, ...]
    filters: int
    places: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]


def windows_of(node: Node) -> Windows | None:
    """The convolution that a node is; None if it is none, or is transposed, or in groups, or empty,
    or not of floats."""
    if node.op != CONVOLUTION:
        return None
    x, weight, _, stride, padding, dilation, transposed, _, groups = node.args
    assert isinstance(x, Value) and isinstance(weight, Value)
    sizes = (*x.sizes, *weight.sizes, *node.out.sizes)
    if transposed or groups != 1 or not all(isinstance(n, int) for n in sizes) or 0 in sizes:
        return None
    ndim = weight.ndim - 2
    if x.ndim != ndim + 2 or x.dtype not in ("f32", "f64", *HALVES) or weight.dtype != x.dtype:
        return None
    geometry = [tuple(each(v, ndim)) for v in (stride, padding, dilation)]
    batch, channels, *image = x.sizes
    filters, _, *kernel = weight.sizes
    places, kept = node.out.sizes[2:], (x.dtype, batch, channels, tuple(image), filters)
    return Windows(*kept, places, tuple(kernel), *geometry)


def open_convolutions(graph: Graph, choose: Callable[[Windows], str]) -> Graph:
    """The graph with each convolution that is to be GENERATED as a sum; halves are multiplied and
    added up in f32, and rounded once. All others stay calls of ATen."""

    def rule(builder: Builder, node: Node) -> Result:
        found = windows_of(node)
        if found is None or choose(found) != GENERATED:
            return None
        return _opened(builder, node, found)

    return rewrite(graph, rule)


def _opened(builder: Builder, node: Node, sizes: Windows) -> Value:
    x, weight, bias = node.args[:3]
    ndim = len(sizes.kernel)
    if any(sizes.padding):
        sides = tuple(p for p in reversed(sizes.padding) for _ in range(2))
        x = builder("aten.constant_pad_nd", x, sides, 0.0)
    image = _windowed(builder, widened(builder, x), sizes)
    weight = builder("aten.unsqueeze", widened(builder, weight), 0)
    for _ in range(ndim):
        weight = builder("aten.unsqueeze", weight, 2)
    terms = builder("aten.mul.Tensor", image, weight)
    summed = tuple(range(2 + ndim, 3 + 2 * ndim))
    total: Value = builder("aten.sum.dim_IntList", terms, summed)
    if isinstance(bias, Value):
        bias = widened(builder, bias)
        for k in range(1, 1 + ndim):
            bias = builder("aten.unsqueeze", bias, k)
        total = builder("aten.add.Tensor", total, bias)
    return cast(builder, total, sizes.dtype)


def _windowed(builder: Builder, image: Value, sizes: Windows) -> Value:
    """A padded image as [batch, 1, *places, channels, *kernel], a view of it."""
    ndim = len(sizes.kernel)
    geometry = zip(sizes.places, sizes.kernel, sizes.stride, sizes.dilation, strict=True)
    for k, numbers in enumerate(geometry):
        image = windowed(builder, image, 2 + k, *numbers)
    places, kernel = range(2, 2 + ndim), range(2 + ndim, 2 + 2 * ndim)
    image = builder("aten.permute", image, (0, *places, 1, *kernel))
    found: Value = builder("aten.unsqueeze", image, 1)
    return found


def windowed(
    builder: Builder, image: Value, dim: int, places: int, size: int, step: int, apart: int
) -> Value:
    """A view of the image: in place of a dim its first `places` windows, `step` apart; their
    `size` elements, `apart` from each other, are a new last dim."""
    image = builder("aten.unfold", image, dim, (size - 1) * apart + 1, step)
    last = image.ndim - 1
    if image.sizes[dim] != places:
        image = builder("aten.slice.Tensor", image, dim, 0, places, 1)
    if apart > 1:
        image = builder("aten.slice.Tensor", image, last, 0, image.sizes[last], apart)
    return image

"""Convolutions by provider: as sums of products over windows of a padded image, which the native
generator recognises (fuse.product) and fuses with what follows them; or as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tracejit.ir.dtypes import HALVES
from tracejit.ir.graph import Graph, Node, Value
from tracejit.ir.products import GENERATED
from tracejit.ir.rewrite import Builder, Result, rewrite
from tracejit.ops.compose import add, apply, convert, multiply, wide
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


def _opened(b: Builder, node: Node, sizes: Windows) -> Value:
    x, weight, bias = node.args[:3]
    ndim = len(sizes.kernel)
    image = wide(b, padded(b, x, sizes.padding, sizes.padding, 0.0))
    image = windows(b, image, sizes.places, sizes.kernel, sizes.stride, sizes.dilation)
    places, kernel = range(2, 2 + ndim), range(2 + ndim, 2 + 2 * ndim)
    image = apply(b, "unsqueeze", apply(b, "permute", image, (0, *places, 1, *kernel)), 1)
    weight = apply(b, "unsqueeze", wide(b, weight), 0)
    for _ in range(ndim):
        weight = apply(b, "unsqueeze", weight, 2)
    summed = tuple(range(2 + ndim, 3 + 2 * ndim))
    total = apply(b, "sum.dim_IntList", multiply(b, image, weight), summed)
    if isinstance(bias, Value):
        bias = wide(b, bias)
        for k in range(1, 1 + ndim):
            bias = apply(b, "unsqueeze", bias, k)
        total = add(b, total, bias)
    return convert(b, total, sizes.dtype)


def padded(
    b: Builder, image: Value, before: Sequence[int], after: Sequence[int], outside: float
) -> Value:
    """The image with so many elements `outside` before and after those of its last dims."""
    sides = [n for pair in zip(reversed(before), reversed(after), strict=True) for n in pair]
    return apply(b, "constant_pad_nd", image, tuple(sides), outside) if any(sides) else image


def windows(b: Builder, image: Value, *geometry: Sequence[int]) -> Value:
    """A view of the image by `geometry`, which is for each of its last dims the number of windows,
    their elements, and the steps between windows and between elements: in place of each dim its
    first windows, whose elements are new last dims."""
    lead = image.ndim - len(geometry[0])
    for dim, (places, size, step, apart) in enumerate(zip(*geometry, strict=True), lead):
        image = apply(b, "unfold", image, dim, (size - 1) * apart + 1, step)
        last = image.ndim - 1
        if image.sizes[dim] != places:
            image = apply(b, "slice.Tensor", image, dim, 0, places, 1)
        if apart > 1:
            image = apply(b, "slice.Tensor", image, last, 0, image.sizes[last], apart)
    return image

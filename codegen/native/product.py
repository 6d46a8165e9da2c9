"""From a loop nest that is a matrix product to the source of a native kernel:
`generate_product(nest, product, name, target)`.

The schedule is chosen by the sizes: tiles of sums in registers (product_tiles), or, where a factor
has only a few rows, the other factor streamed once (product_stream).
"""

from __future__ import annotations

from collections.abc import Sequence

from tracejit.codegen.native import product_matrix
from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.microkernel import tile_shape
from tracejit.codegen.native.product_frame import Frame
from tracejit.codegen.native.product_matrix import Matrix
from tracejit.codegen.native.product_stream import Stream, streams
from tracejit.codegen.native.product_tiles import FLOPS_NS, Tiles
from tracejit.codegen.native.source import Work, source
from tracejit.fuse.index import Axis
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.product import Product, as_product, index_stride
from tracejit.fuse.regroup import merged
from tracejit.runtime.cpu import Level, level_of
from tracejit.runtime.kernel import KernelSource

FEW = 64  # steps of the last summed axis that are too few for a loop of their own
FULL = 0.75  # of a tile's columns that rows of the output should fill


def generate_product(nest: LoopNest, product: Product, name: str, target: str) -> KernelSource:
    """The kernel called `name` for a product on `target` ("native:avx512"). Raises NoRule for
    a word or dtype without a rule, ValueError for an unknown target."""
    level = level_of(target)
    nest, product = _arranged(nest, product, level)
    module = Module(level=level, unrolled=True)
    frame = Frame(module, level, nest, product, name)
    schedule: Matrix | Stream | Tiles
    if product_matrix.suits(product, level):
        schedule = Matrix(frame)
    else:
        schedule = Stream(frame) if streams(product) else Tiles(frame)
    work_ns = product.flops / FLOPS_NS
    work = Work(schedule.write(), work_ns, str(schedule), schedule.scratch)
    return source(nest, name, target, module, work)


def _arranged(nest: LoopNest, product: Product, level: Level) -> tuple[LoopNest, Product]:
    """The nest with short loops joined, as those over a convolution's windows: the summed ones, and
    the columns where they stay neighbours in the output."""
    if len(product.inner) > 1 and product.inner[-1].size < FEW:
        nest, product = _joined(nest, product.inner)
    _, width = tile_shape(level, "float" if product.total.dtype == "f32" else "double")
    if len(product.columns) > 1:
        size = product.columns[-1].size
        filled = size / (-(-size // width) * width)
        if filled < FULL:
            wider = _joined(nest, product.columns[-2:])
            if index_stride(wider[0].stores[0].index, wider[1].columns[-1]) == 1:
                return wider
    return nest, product


def _joined(nest: LoopNest, axes: Sequence[Axis]) -> tuple[LoopNest, Product]:
    joined = merged(nest, axes)
    product = as_product(joined)
    assert product is not None
    return joined, product

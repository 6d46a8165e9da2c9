"""From a loop nest that is a matrix product to the source of a native kernel:
`generate_product(nest, product, name, target)`.

The schedule is chosen by the sizes: tiles of sums in registers (product_tiles), or, where a factor
has only a few rows, the other factor streamed once (product_stream).
"""

from __future__ import annotations

from tracejit.codegen.native import product_matrix
from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.entry import add_entry
from tracejit.codegen.native.product_frame import Frame
from tracejit.codegen.native.product_matrix import Matrix
from tracejit.codegen.native.product_stream import Stream, streams
from tracejit.codegen.native.product_tiles import FLOPS_NS, Tiles
from tracejit.codegen.native.source import heading, source
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.product import Product
from tracejit.runtime.cpu import level_of
from tracejit.runtime.kernel import KernelSource


def generate_product(nest: LoopNest, product: Product, name: str, target: str) -> KernelSource:
    """The kernel called `name` for a product on `target` ("native:avx512"). Raises words.NoRule for
    a word or dtype without a rule, ValueError for an unknown target."""
    level = level_of(target)
    module = Module(level=level)
    frame = Frame(module, level, nest, product, name)
    schedule: Matrix | Stream | Tiles
    if product_matrix.suits(product, level):
        schedule = Matrix(frame)
    else:
        schedule = Stream(frame) if streams(product) else Tiles(frame)
    module.comment = heading(nest, name, target, str(schedule))
    phases = schedule.write()
    work_ns = product.flops / FLOPS_NS
    add_entry(module, name, len(nest.buffers), phases, work_ns, bool(schedule.scratch))
    return source(nest, name, target, module, str(schedule), schedule.scratch)

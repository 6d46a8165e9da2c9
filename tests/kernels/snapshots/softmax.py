"""softmax: persistent reduction, 1 row a program held whole, 2 warps.

Over i of 256, r of 1000 (reduced).
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def softmax(x_ptr, out_ptr, RBLOCK: tl.constexpr):
    column = tl.arange(0, RBLOCK)
    column_mask = column < 1000
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * 1000 + column, mask=column_mask, other=0)
    row_max = tl.reduce(tl.where(column_mask, x, -float("inf")), 0, maximum)
    tmp0 = libdevice.exp(x - row_max)
    row_sum = tl.reduce(tl.where(column_mask, tmp0, 0.0), 0, add)
    out = tl.div_rn(tmp0, row_sum)
    tl.store(out_ptr + row * 1000 + column, out, mask=column_mask)

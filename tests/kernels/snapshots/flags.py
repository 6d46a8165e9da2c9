"""flags: persistent reduction, 1 row a program held whole, 1 warp.

Over i of 64, r of 50 (reduced).
"""

import triton
import triton.language as tl


@triton.jit
def either(a, b):
    return a | b


@triton.jit
def both(a, b):
    return a & b


@triton.jit
def maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def flags(x_ptr, any_ptr, all_ptr, max_ptr, RBLOCK: tl.constexpr):
    column = tl.arange(0, RBLOCK)
    column_mask = column < 50
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * 50 + column, mask=column_mask, other=0)
    row_any = tl.reduce(x, 0, either)
    tl.store(any_ptr + row, row_any)
    row_all = tl.reduce(tl.where(column_mask, x, True), 0, both)
    tl.store(all_ptr + row, row_all)
    row_max = tl.reduce(tl.where(column_mask, x.to(tl.int32), -2147483648), 0, maximum)
    row_max = row_max != 0
    tl.store(max_ptr + row, row_max)

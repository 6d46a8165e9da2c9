"""argmax: persistent reduction, 1 row a program held whole, 1 warp.

Over i of 64, r of 50 (reduced).
"""

import triton
import triton.language as tl


@triton.jit
def first_largest(a, i, b, j):  # NaN comes before everything; ties go to the first
    better = (a > b) | ((a != a) & (b == b))
    tied = (a == b) | ((a != a) & (b != b))
    first = better | (tied & (i < j))
    return tl.where(first, a, b), tl.where(first, i, j)


@triton.jit
def first_smallest(a, i, b, j):  # NaN comes before everything; ties go to the first
    better = (a < b) | ((a != a) & (b == b))
    tied = (a == b) | ((a != a) & (b != b))
    first = better | (tied & (i < j))
    return tl.where(first, a, b), tl.where(first, i, j)


@triton.jit
def argmax(x_ptr, out_ptr, low_ptr, RBLOCK: tl.constexpr):
    column = tl.arange(0, RBLOCK)
    column_mask = column < 50
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * 50 + column, mask=column_mask, other=0)
    _, row_argmax = tl.reduce((tl.where(column_mask, x, -float("inf")), column), 0, first_largest)
    row_argmax = row_argmax.to(tl.int64)
    tl.store(out_ptr + row, row_argmax)
    __1, row_argmin = tl.reduce((tl.where(column_mask, x, float("inf")), column), 0, first_smallest)
    row_argmin = row_argmin.to(tl.int64)
    tl.store(low_ptr + row, row_argmin)

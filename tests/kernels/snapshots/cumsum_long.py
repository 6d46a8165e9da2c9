"""cumsum_long: looped reduction, 1 row a program in chunks of 4096 columns, 16 warps.

Over i of 8, r of 10000 (reduced).
"""

import triton
import triton.language as tl


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def cumsum_long(x_ptr, out_ptr, RBLOCK: tl.constexpr):
    row = tl.program_id(0)
    carry = tl.full([], 0.0, tl.float64)
    for start in range(0, 10000, RBLOCK):
        column = start + tl.arange(0, RBLOCK)
        column_mask = column < 10000
        x = tl.load(x_ptr + row * 10000 + column, mask=column_mask, other=0)
        part = add(carry, tl.associative_scan(x, 0, add))
        carry = add(carry, tl.reduce(x, 0, add))
        out = part
        tl.store(out_ptr + row * 10000 + column, out, mask=column_mask)

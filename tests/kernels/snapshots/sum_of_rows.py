"""sum_of_rows: looped reduction, 64 rows a program in chunks of 64 columns, 8 warps.

Over i of 3072, r of 4096 (reduced).
"""

import triton
import triton.language as tl


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def sum_of_rows(x_ptr, out_ptr, XBLOCK: tl.constexpr, RBLOCK: tl.constexpr):
    row = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)[:, None]
    partial = tl.full([XBLOCK, RBLOCK], 0.0, tl.float32)
    for start in range(0, 4096, RBLOCK):
        column = start + tl.arange(0, RBLOCK)[None, :]
        x = tl.load(x_ptr + column * 3072 + row)
        partial = add(partial, x)
    row_sum = tl.reduce(partial, 1, add)[:, None]
    tl.store(out_ptr + row, row_sum)

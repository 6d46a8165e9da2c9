"""add_odd: pointwise, 1024 elements a program, 8 warps.

Over i of 1000003.
"""

import triton
import triton.language as tl


@triton.jit
def add_odd(x_ptr, y_ptr, out_ptr, XBLOCK: tl.constexpr):
    i = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    mask = i < 1000003
    x = tl.load(x_ptr + i, mask=mask)
    y = tl.load(y_ptr + i, mask=mask)
    out = x + y
    tl.store(out_ptr + i, out, mask=mask)

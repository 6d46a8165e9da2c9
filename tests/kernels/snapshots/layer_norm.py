"""layer_norm: persistent reduction, 1 row a program held whole, 2 warps.

Over i of 2048, r of 768 (reduced).
From:
    model.py:21 in layers.0.mlp
    model.py:22 in layers.0.mlp
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def add(a, b):
    return a + b


@triton.jit
def layer_norm(x_ptr, residual_ptr, w_ptr, b_ptr, sum_ptr, out_ptr, RBLOCK: tl.constexpr):
    column = tl.arange(0, RBLOCK)
    column_mask = column < 768
    row = tl.program_id(0)
    x = tl.load(x_ptr + row * 768 + column, mask=column_mask, other=0).to(tl.float32)
    residual = tl.load(residual_ptr + row * 768 + column, mask=column_mask, other=0)
    # model.py:21 in layers.0.mlp
    sum = x + residual
    tl.store(sum_ptr + row * 768 + column, sum, mask=column_mask)
    row_sum = tl.reduce(tl.where(column_mask, sum, 0.0), 0, add)
    tmp0 = row_sum * 0.0013020833333333333
    tmp1 = sum - tmp0
    tmp2 = tmp1 * tmp1
    row_sum_1 = tl.reduce(tl.where(column_mask, tmp2, 0.0), 0, add)
    tmp3 = libdevice.rsqrt(row_sum_1 * 0.0013020833333333333 + 1e-05)
    w = tl.load(w_ptr + column, mask=column_mask, other=0)
    tmp4 = tmp1 * tmp3 * w
    b = tl.load(b_ptr + column, mask=column_mask, other=0)
    # model.py:22 in layers.0.mlp
    tmp5 = tmp4 + b
    out = tmp5.to(tl.float16)
    tl.store(out_ptr + row * 768 + column, out, mask=column_mask)

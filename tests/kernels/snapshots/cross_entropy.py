"""cross_entropy: looped reduction, 1 row a program in chunks of 4096 columns, 16 warps.

Over i of 512, r of 50257 (reduced).
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
def cross_entropy(logits_ptr, target_ptr, loss_ptr, RBLOCK: tl.constexpr):
    row = tl.program_id(0)
    partial = tl.full([RBLOCK], -float("inf"), tl.float32)
    for start in range(0, 50257, RBLOCK):
        column = start + tl.arange(0, RBLOCK)
        column_mask = column < 50257
        logits = tl.load(logits_ptr + row * 50257 + column, mask=column_mask, other=0)
        partial = maximum(partial, tl.where(column_mask, logits, -float("inf")))
    row_max = tl.reduce(partial, 0, maximum)
    partial_1 = tl.full([RBLOCK], 0.0, tl.float32)
    for start in range(0, 50257, RBLOCK):
        column = start + tl.arange(0, RBLOCK)
        column_mask = column < 50257
        logits_1 = tl.load(logits_ptr + row * 50257 + column, mask=column_mask, other=0)
        tmp0 = libdevice.exp(logits_1 - row_max)
        partial_1 = add(partial_1, tl.where(column_mask, tmp0, 0.0))
    row_sum = tl.reduce(partial_1, 0, add)
    target = tl.load(target_ptr + row)
    logits_2 = tl.load(logits_ptr + row * 50257 + target)
    loss = row_max + libdevice.log(row_sum) - logits_2
    tl.store(loss_ptr + row, loss)

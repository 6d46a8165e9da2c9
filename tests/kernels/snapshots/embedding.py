"""embedding: pointwise, 512 elements a program, 4 warps.

Over i of 512, j of 768.
"""

import triton
import triton.language as tl


@triton.jit
def embedding(tokens_ptr, table_ptr, out_ptr, XBLOCK: tl.constexpr):
    element = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    i = element // 768
    tokens = tl.load(tokens_ptr + i)
    j = element % 768
    table = tl.load(table_ptr + tokens * 768 + j)
    tl.store(out_ptr + element, table)

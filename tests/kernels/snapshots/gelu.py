"""gelu: pointwise, 1024 elements a program, 8 warps.

Over i of 512, j of 3072.
From:
    model.py:21 in layers.0.mlp
    model.py:22 in layers.0.mlp
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def gelu(x_ptr, bias_ptr, out_ptr, XBLOCK: tl.constexpr):
    element = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    x = tl.load(x_ptr + element)
    j = element % 3072
    bias = tl.load(bias_ptr + j)
    # model.py:21 in layers.0.mlp
    tmp0 = x + bias
    tmp1 = tmp0 * 0.5
    tmp2 = (tmp0 + tmp0 * tmp0 * tmp0 * 0.044715) * 0.7978845608028654
    tmp3 = libdevice.tanh(tmp2) + 1.0
    # model.py:22 in layers.0.mlp
    out = tmp1 * tmp3
    tl.store(out_ptr + element, out)

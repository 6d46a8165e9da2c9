"""silu_and_mul: pointwise, 512 elements a program, 2 warps.

Over i of 512, j of 768.
"""

import triton
import triton.language as tl
from triton.language.extra import libdevice


@triton.jit
def silu_and_mul(gate_ptr, up_ptr, out_ptr, XBLOCK: tl.constexpr):
    element = tl.program_id(0) * XBLOCK + tl.arange(0, XBLOCK)
    gate = tl.load(gate_ptr + element).to(tl.float32)
    tmp0 = tl.div_rn(gate, libdevice.exp(-gate) + 1.0) * tl.load(up_ptr + element).to(tl.float32)
    out = tmp0.to(tl.bfloat16)
    tl.store(out_ptr + element, out)

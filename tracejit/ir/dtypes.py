"""Short dtype names used by the graph, the loop nests and every generator: which kinds there are.
What they mean in torch stored plans know too: runtime.dtypes."""

from __future__ import annotations

import torch

from tracejit.runtime.dtypes import TORCH as TORCH

NAME: dict[torch.dtype, str] = {dtype: name for name, dtype in TORCH.items()}

FLOATS = frozenset({"f64", "f32", "f16", "bf16", "f8e4m3", "f8e5m2"})
HALVES = frozenset({"f16", "bf16", "f8e4m3", "f8e5m2"})
INTS = frozenset({"i64", "i32", "i16", "i8", "u8", "u16", "u32", "u64"})
COMPLEX = frozenset({"c64", "c128"})
# What generators can compute with; a value of another dtype is handled by extern calls only.
COMPUTED = (FLOATS | INTS | {"bool"}) - {"f8e4m3", "f8e5m2"}


def itemsize(name: str) -> int:
    """Bytes of one element of the dtype called `name`."""
    return TORCH[name].itemsize


def opmath(name: str) -> str:
    """The dtype eager computes in for operands of dtype `name`: half types are widened to f32."""
    return "f32" if name in HALVES else name

"""Short dtype names used by the graph, the loop nests and every generator, and what they mean in
torch.
"""

from __future__ import annotations

import torch

TORCH: dict[str, torch.dtype] = {
    "f64": torch.float64,
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "f8e4m3": torch.float8_e4m3fn,
    "f8e5m2": torch.float8_e5m2,
    "i64": torch.int64,
    "i32": torch.int32,
    "i16": torch.int16,
    "i8": torch.int8,
    "u8": torch.uint8,
    "u16": torch.uint16,
    "u32": torch.uint32,
    "u64": torch.uint64,
    "bool": torch.bool,
    "c64": torch.complex64,
    "c128": torch.complex128,
}
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

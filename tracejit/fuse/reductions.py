"""What all generators know of reductions and scans: what leaves an element as it is, in which dtype
elements are combined, and in which pass over the columns an expression can be had.
"""

from __future__ import annotations

import math
from dataclasses import replace

from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Number, Scalar, make
from tracejit.ir.dtypes import FLOATS, HALVES, itemsize
from tracejit.ir.graph import Origin


def identity(name: str, dtype: str) -> Number:
    """What leaves the other operand of reduction or scan `name` as it is. Raises ValueError
    for an unknown one.
    """
    if name in ("sum", "any", "xor"):
        return 0
    if name == "prod":
        return 1
    if name == "all":
        return 1 if dtype == "bool" else -1
    if name not in ("min", "max", "argmin", "argmax"):
        raise ValueError(f"nothing is reduced by {name!r}")
    least = name in ("max", "argmax")
    if dtype in FLOATS:
        return -math.inf if least else math.inf
    bits = 8 * itemsize(dtype)
    if dtype[0] == "u":
        return 0 if least else (1 << bits) - 1
    return -(1 << (bits - 1)) if least else (1 << (bits - 1)) - 1


def reduced_as(name: str, dtype: str) -> str:
    """The dtype that elements are combined in: bool extremes as i32, half types widened (exact for
    extremes).
    """
    if dtype in HALVES:
        return "f32"
    if dtype == "bool" and name not in ("any", "all"):
        return "i32"
    return dtype


def passes(nest: LoopNest) -> dict[int, int]:
    """For each expression the pass over the columns in which it can be had. A reduction is had
    after its element's.
    """
    found: dict[int, int] = {}
    for scalar in nest.body():
        below = max((found[d.key] for d in scalar.deps()), default=0)
        found[scalar.key] = below + (scalar.op == "reduce")
    return found


def without_columns(nest: LoopNest) -> LoopNest:
    """A nest whose reductions run over no axis (all of one step) has none: each is the element
    itself.
    """
    if nest.reduction:
        return nest
    if not any(s.op in ("reduce", "scan") for s in nest.body()):
        return nest
    memo: dict[int, Scalar] = {}
    lines: dict[int, Origin] = {}
    for scalar in nest.body():
        args = tuple(memo[a.key] for a in scalar.args)
        if scalar.op == "scan" or (
            scalar.op == "reduce" and scalar.arg not in ("argmax", "argmin")
        ):
            new = args[0]
        elif scalar.op == "reduce":
            new = make("const", arg=0, dtype="i64")
        else:
            new = make(scalar.op, *args, arg=scalar.arg, dtype=scalar.dtype)
        memo[scalar.key] = new
        if scalar.key in nest.line_of:
            lines.setdefault(new.key, nest.line_of[scalar.key])
    stores = tuple(
        replace(s, value=memo[s.value.key], mask=memo[s.mask.key] if s.mask else None)
        for s in nest.stores
    )
    return replace(nest, stores=stores, line_of=lines)

"""What all generators know of reductions and scans: what leaves an element as it is, in which dtype
elements are combined, and in which pass over the columns an expression can be had.
"""

from __future__ import annotations

import math

from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.regroup import rewrite
from tracejit.fuse.scalar import Number, Scalar, const
from tracejit.ir.dtypes import FLOATS, HALVES, itemsize


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
    return rewrite(nest, remake=_only_element)


def _only_element(scalar: Scalar, args: tuple[Scalar, ...]) -> Scalar | None:
    """What a reduction or scan of one element is."""
    if scalar.op not in ("reduce", "scan"):
        return None
    return const(0, "i64") if scalar.arg in ("argmax", "argmin") else args[0]

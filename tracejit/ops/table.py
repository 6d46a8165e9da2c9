"""The one table of core ops: what an op means to the compiler stands in its row, nowhere else.

An op is named as in the graph (`aten.add.Tensor`; `.default` left out). The other modules of this
package add the rows; an op without a row is an extern call: slower, never wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Protocol

from tracejit.ir.graph import Node, Size, Value

if TYPE_CHECKING:
    from tracejit.fuse.index import Index
    from tracejit.fuse.scalar import Scalar

Meta = tuple[str, tuple[Size, ...]]  # dtype and sizes of one result
ShapeRule = Callable[..., "Meta | tuple[Meta, ...]"]  # called with the node's args and kwargs


class DataDependent(Exception):
    """Raised by a shape rule where sizes depend on values (`x[mask]`): only the call can tell."""


class Kind(Enum):
    """How an op lowers."""

    POINTWISE = "pointwise"  # row.expr on broadcast scalars; the result is cast to the node's dtype
    REDUCTION = "reduction"  # row.reduction over row.dims
    SCAN = "scan"  # row.reduction running along row.dims (one dim)
    VIEW = "view"  # row.index maps an output index to an input index
    PULL = "pull"  # row.pull computes one element from elements of the inputs: cat, pad, gather
    DECOMPOSE = "decompose"  # row.decompose rewrites the node into simpler ones
    EXTERN = "extern"  # an ATen call; the row exists only for its shape rule


# Kinds that a generated kernel computes: it reads its operands wherever they lie.
COMPUTES = frozenset({Kind.POINTWISE, Kind.REDUCTION, Kind.SCAN, Kind.PULL})


class Puller(Protocol):
    """What `row.pull` may ask of the lowering."""

    def value(self, value: Value, index: Sequence[Index], mask: Scalar | None = None) -> Scalar:
        """The element of `value` at `index`, in the value's own dtype.

        Where `mask` is false it is any value and nothing is read.
        """
        ...

    def indirect(self, scalar: Scalar, size: Size, wrap: bool = True) -> Index:
        """An integer scalar as an index into a dimension of `size`.

        Negative values count from the end if `wrap`. The plan checks the range beforehand, as eager
        does, unless the scalar is provably in range.
        """
        ...


class Builder(Protocol):
    """What `row.decompose` may ask of the graph: apply an op, whose shape rule gives results."""

    def __call__(self, op: str, *args: Any, **kwargs: Any) -> Any:
        """The Value (or tuple of Values) of `op(*args, **kwargs)`, with the node's origin."""
        ...


@dataclass(frozen=True)
class Op:
    """One row. Only the fields of the row's kind are set."""

    name: str
    kind: Kind
    shape: ShapeRule
    # Any kind: False for a node that this row cannot lower (training batch norm, division by
    # integer tensors), which is then an extern call. Ask through `kind_of`.
    applies: Callable[[Node], bool] | None = None
    # POINTWISE: called with the node's arguments, tensors replaced by scalars in `compute(node)`.
    expr: Callable[..., Scalar] | None = None
    compute: Callable[[Node], str] | None = None
    # REDUCTION and SCAN: key of fuse.scalar.REDUCTIONS or SCANS; dims as non-negative ints, from
    # the node's arguments; the dtype it accumulates in.
    reduction: str = ""
    dims: Callable[..., tuple[int, ...]] | None = None
    accumulate: Callable[[Node], str] | None = None
    # VIEW: (input sizes, output sizes, output index, *other arguments) -> input index.
    index: Callable[..., tuple[Index, ...]] | None = None
    # VIEW: how a write through the view reaches its base: (base value, new view value, *other args)
    # -> (op, args).
    undo: Callable[..., tuple[str, tuple[Any, ...]]] | None = None
    # PULL: (puller, node, output index, which output) -> scalar in the output's dtype.
    pull: Callable[[Puller, Node, tuple[Index, ...], int], Scalar] | None = None
    # DECOMPOSE: (builder, *node arguments) -> Value or tuple of Values; None for a result that
    # nobody needs.
    decompose: Callable[..., Any] | None = None


OPS: dict[str, Op] = {}


def row(name: str, kind: Kind, shape: ShapeRule, **fields: Any) -> Op:
    """Add a row; an op has one row only (ValueError otherwise)."""
    if name in OPS:
        raise ValueError(f"op {name} has a row already")
    OPS[name] = Op(name, kind, shape, **fields)
    return OPS[name]


def kind_of(node: Node) -> Kind:
    """How this node lowers: its row's kind; EXTERN without a row, or where it does not apply."""
    found = OPS.get(node.op)
    if found is None or (found.applies is not None and not found.applies(node)):
        return Kind.EXTERN
    return found.kind

"""Which callable performs a library call of a plan: ops are named as in the graph,
`aten.add.Tensor`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tracejit.runtime import generators, philox
from tracejit.runtime.dtypes import TORCH

# The same call without the dispatcher's boxing: 2 µs instead of 4. Names of arguments are the same.
DIRECT: dict[str, Callable[..., Any]] = {
    "aten.mm": torch.mm,
    "aten.bmm": torch.bmm,
    "aten.addmm": torch.addmm,
    "aten.baddbmm": torch.baddbmm,
    "aten.convolution": torch.convolution,
    "aten.scaled_dot_product_attention": torch.nn.functional.scaled_dot_product_attention,
}


# A view in a graph is a row-major reshape: what lies below it may have another layout than was
# recorded.
RELAXED: dict[str, Callable[..., Any]] = {"aten.view": torch.ops.aten.reshape.default}


def constant(data: Sequence[bool | int | float], dtype: str, sizes: Sequence[int]) -> torch.Tensor:
    """A CPU tensor of numbers that stand in the program, in row-major order."""
    return torch.tensor(data, dtype=TORCH[dtype]).reshape(sizes)


OWN: dict[str, Callable[..., Any]] = {  # ops that are not torch's
    "tj.constant": constant,
    "tj.keys": philox.keys,
    "tj.uniform": philox.uniform,
    "tj.normal": philox.normal,
    "tj.bernoulli": philox.bernoulli,
    **generators.CALLS,
}


def resolve(op: str) -> Any:
    """The op as torch.ops has it, or our own. Raises AttributeError if there is none."""
    if op in OWN:
        return OWN[op]
    namespace, _, rest = op.partition(".")
    name, _, overload = rest.partition(".")
    return getattr(getattr(getattr(torch.ops, namespace), name), overload or "default")


def fastest(op: str) -> Callable[..., Any]:
    """What a plan calls for the op. Raises as `resolve` does."""
    found: Callable[..., Any] = DIRECT.get(op) or RELAXED.get(op) or resolve(op)
    return found

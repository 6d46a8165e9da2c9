"""What an ATen op does to its arguments, read off its schema once per op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cache
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.private import overload_name, schema_of


class Does(Enum):
    """The ways the recorder treats a call."""

    COMPUTE = "compute"  # new tensors from its arguments
    VIEW = "view"  # one alias of its first argument
    PARTS = "parts"  # several aliases of its first argument
    WRITE = "write"  # writes to its first argument and returns it
    OUT = "out"  # writes to keyword arguments, or to each tensor of its first (_foreach_*_)
    STATS = "stats"  # a batch norm, which writes to its running statistics in training
    RESHAPE = "reshape"  # changes a tensor's own geometry (`t_`, `squeeze_`)
    READ = "read"  # gives Python a number
    COMPARE = "compare"  # gives Python whether two tensors are equal
    NOTHING = "nothing"  # bookkeeping without effect on values
    REFUSE = "refuse"


@dataclass(frozen=True)
class Facts:
    """What is known of an op. name: as in the graph. functional: the op without the write, and
    `defaults` that only the writing op has (position and value, by name). outs: names of `out`
    arguments, in order.
    """

    name: str
    does: Does
    functional: Any = None
    outs: tuple[str, ...] = ()
    defaults: Mapping[str, tuple[int, Any]] = field(default_factory=dict)
    random: bool = False
    factory: bool = False  # takes no tensor and makes one of a dtype
    why: tuple[str, str] = ("op", "")


# Ops whose schema does not say what they do.
KNOWN = {
    "aten._local_scalar_dense": Does.READ,
    "aten.equal": Does.COMPARE,
    **dict.fromkeys(("aten._unsafe_view", "aten._reshape_alias"), Does.VIEW),
    **dict.fromkeys(
        ("aten.split.Tensor", "aten.split_with_sizes", "aten.unbind.int")
        + ("aten.unsafe_split.Tensor", "aten.unsafe_split_with_sizes"),
        Does.PARTS,
    ),
    **dict.fromkeys(
        ("aten.detach_", "aten.record_stream", "aten.is_same_size")
        + ("aten._has_same_storage_numel",),
        Does.NOTHING,
    ),
    **dict.fromkeys(
        ("aten.t_", "aten.transpose_", "aten.squeeze_", "aten.squeeze_.dim", "aten.squeeze_.dims")
        + ("aten.unsqueeze_", "aten.swapdims_", "aten.swapaxes_", "aten.as_strided_"),
        Does.RESHAPE,
    ),
    **dict.fromkeys(
        ("aten.native_batch_norm", "aten._native_batch_norm_legit", "aten.cudnn_batch_norm")
        + ("aten.miopen_batch_norm", "aten._batch_norm_with_update"),
        Does.STATS,
    ),
}
# Functional forms that go by another name.
FUNCTIONAL = {"aten.normal_": "aten.normal_functional"}


def graph_name(func: Any) -> str:
    """`aten.add.Tensor`, with `.default` left out."""
    space, name = schema_of(func).name.split("::")
    overload = schema_of(func).overload_name
    return f"{space}.{name}.{overload}" if overload else f"{space}.{name}"


def composite_kernel(func: Any) -> Callable[..., Any] | None:
    """The kernel of an op that is nothing but calls of others; None for any other op."""
    return private.composite_kernel(func) if isinstance(func, private.op_overload()) else None


@cache
def facts_of(func: Any) -> Facts:
    """The facts of an overload."""
    if not isinstance(func, private.op_overload()):
        return Facts(str(func), Does.REFUSE, why=("op", f"the higher-order operator {func}"))
    op: Any = func
    name, schema, tags = graph_name(op), schema_of(op), op.tags
    random = torch.Tag.nondeterministic_seeded in tags
    if name in KNOWN:
        return Facts(name, KNOWN[name])
    if torch.Tag.data_dependent_output in tags:
        why = ("data-dependent", f"Python gets a value from {name}")
        return Facts(name, Does.REFUSE, why=why)
    written = [a for a in schema.arguments if a.alias_info is not None and a.alias_info.is_write]
    if written:
        return _writing(func, name, written, random)
    if schema.returns and not any("Tensor" in str(r.type) for r in schema.returns):
        return Facts(name, Does.REFUSE, why=("op", f"{name} returns no tensor"))
    if any(r.alias_info is not None for r in schema.returns):
        return Facts(name, Does.VIEW)
    types = {a.name: str(a.type) for a in schema.arguments}
    factory = "dtype" in types and not any("Tensor" in t for t in types.values())
    return Facts(name, Does.COMPUTE, random=random, factory=factory)


def _writing(func: Any, name: str, written: list[Any], random: bool) -> Facts:
    schema = schema_of(func)
    if torch.Tag.inplace_view in func.tags:
        return Facts(name, Does.REFUSE, why=("mutation", f"{name} changes a tensor's storage"))
    functional = _functional(func, {a.name for a in written if a.kwarg_only})
    if functional is None:
        return Facts(name, Does.REFUSE, why=("mutation", f"{name} has no functional form"))
    outs = tuple(a.name for a in written if a.kwarg_only)
    needed = {a.name for a in schema_of(functional).arguments if not a.has_default_value()}
    defaults = {
        a.name: (place, a.default_value)
        for place, a in enumerate(schema.arguments)
        if a.has_default_value() and a.name in needed
    }
    kind = str(written[0].type)
    one = len(written) == 1 and written[0].name == "self"
    if not (len(outs) == len(written) and "[]" not in kind if outs else one):
        return Facts(name, Does.REFUSE, why=("mutation", f"{name} writes to several arguments"))
    does = Does.OUT if outs or kind == "List[Tensor]" else Does.WRITE
    return Facts(name, does, functional, outs, defaults, random)


def _functional(func: Any, outs: set[str]) -> Any:
    """The overload that takes the same arguments, less `outs`, and writes to none of them; None if
    there is none.
    """
    space, name = schema_of(func).name.split("::")
    known = FUNCTIONAL.get(graph_name(func))
    plain = known.split(".")[1] if known else name[:-1] if name.endswith("_") else name
    packet = getattr(getattr(torch.ops, space), plain, None)
    if packet is None:
        return None
    wanted = _signature(func, outs)
    same_name_first = sorted(packet.overloads(), key=lambda o: o != overload_name(func))
    for overload in same_name_first:
        candidate = getattr(packet, overload)
        arguments = schema_of(candidate).arguments
        writes = any(a.alias_info is not None and a.alias_info.is_write for a in arguments)
        if not writes and _signature(candidate, set()) == wanted:
            return candidate
    return None


def _signature(func: Any, without: set[str]) -> tuple[tuple[str, str], ...]:
    arguments = schema_of(func).arguments
    return tuple((a.name, str(a.type)) for a in arguments if a.name not in without)


@cache
def overload_of(name: str) -> Any:
    """The torch op that a graph's name stands for. Raises AttributeError if torch has none."""
    space, packet, *overload = name.split(".")
    found = getattr(getattr(torch.ops, space), packet)
    return getattr(found, overload[0] if overload else "default")


@cache
def argument_names(name: str) -> tuple[str, ...]:
    """The names of an op's arguments, in order."""
    return tuple(argument.name for argument in schema_of(overload_of(name)).arguments)

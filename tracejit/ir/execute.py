"""Runs a graph node by node in plain torch: the reference, and the way to bisect a wrong result."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch

from tracejit.ir.dtypes import NAME
from tracejit.ir.graph import Arg, Graph, Node, Rng, Value, map_values, values_in
from tracejit.runtime import externs, generators
from tracejit.runtime.private import storage_key


class Left(Exception):
    """A number or index computed on the way is not what the graph or program was recorded with."""


class Disagrees(Exception):
    """An op gave another dtype or shape than the graph says."""


def execute(
    graph: Graph, inputs: Sequence[torch.Tensor], generators: Sequence[torch.Generator] = ()
) -> tuple[list[torch.Tensor], dict[int, torch.Tensor]]:
    """The outputs, and for each written input (by position) the values it gets; nothing is written.

    Each result has the strides that the graph says and shares memory with no input and no other
    result. Raises Left where a plan would leave, and Disagrees where dtype or sizes are others.
    """
    env: dict[Any, Any] = dict(zip(graph.inputs, inputs, strict=True))
    env.update((Rng("input", n, str(g.device)), g) for n, g in enumerate(generators))
    last = _last_uses(graph)
    device = inputs[0].device.type if inputs else "cpu"
    with torch.no_grad(), torch.autocast(device, enabled=False):
        for node in graph.nodes:
            env.update(zip(node.outputs, run_node(node, env), strict=True))
            for value in last.get(node, ()):
                del env[value]
        owned = {storage(t) for t in inputs}
        outputs = [_own(env[v], v, owned) for v in graph.outputs]
        position = {v: n for n, v in enumerate(graph.inputs)}
        writes = {position[old]: _own(env[new], new, owned) for old, new in graph.writes}
    return outputs, writes


def run_node(node: Node, env: dict[Any, Any]) -> list[torch.Tensor]:
    """The tensors that one operation gives, checked against its recorded dtypes and sizes."""
    args = [random(map_values(a, env.__getitem__), env) for a in node.args]
    kwargs = {k: random(map_values(v, env.__getitem__), env) for k, v in node.kwargs.items()}
    tensors = [t for t in values_of(call(node.op, args, kwargs)) if t is not None]
    for value, tensor in zip(node.outputs, tensors, strict=True):
        if sized_by_data(node.op) and tuple(tensor.shape) != value.sizes:
            raise Left(f"{node.op} gave {tuple(tensor.shape)}, recorded was {value.sizes}")
        _check(node, value, tensor)
    return tensors


def random(arg: Any, env: dict[Any, Any]) -> Any:
    """The generator in `env` that an argument stands for, made if there is none; other arguments as
    they are."""
    if not isinstance(arg, Rng):
        return arg
    if arg not in env:
        default = arg.kind == "default"
        env[arg] = generators.default_of(arg.device) if default else torch.Generator(arg.device)
    return env[arg]


def call(op: str, args: Sequence[Arg], kwargs: Mapping[str, Arg]) -> Any:
    """`op(*args, **kwargs)` on tensors: a function of tracejit's own table or an op of torch's."""
    return (RELAXED.get(op) or function(op))(*args, **kwargs)


@cache
def function(op: str) -> Any:
    """What an op's name stands for: an OpOverload, or a function of ours. Raises AttributeError if
    torch has no such op."""
    return OWN.get(op) or externs.resolve(op)


# Sizes that depend on data, although nothing in the schema says so.
SIZED_BY_DATA = frozenset({"aten._pack_padded_sequence", "aten._embedding_bag"})


@cache
def sized_by_data(op: str) -> bool:
    """Whether an op's result has as many elements as its arguments' values say. (An index that is a
    mask would too, but the recorder makes it numbers.)"""
    tags = getattr(function(op), "tags", ())
    counts = torch.Tag.dynamic_output_shape in tags and not op.startswith("aten.index.Tensor")
    return counts or op in SIZED_BY_DATA


@cache
def draws(op: str) -> bool:
    """Whether an op draws random numbers, or has to do with the state of a generator in another
    way."""
    return op in generators.CALLS or torch.Tag.nondeterministic_seeded in getattr(
        function(op), "tags", ()
    )


def expect(value: torch.Tensor, number: bool | int | float) -> None:
    """Leave unless the one-element tensor holds `number`."""
    found = value.item()
    if found != number and not (found != found and number != number):  # NaN is itself here
        raise Left(f"a number read from data is {found}, the graph was recorded with {number}")


def _of_bytes(op: Callable[..., Any]) -> Callable[..., Any]:
    """The op with a bool tensor taken as bytes."""

    def call_it(x: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return op(x.to(torch.uint8) if x.dtype == torch.bool else x, *args, **kwargs)

    return call_it


# Ops that are not torch's; and those that a rewritten graph uses more freely than torch allows: a
# view is a row-major reshape, since a pass may have changed the layout below it; argmax takes bool.
OWN: dict[str, Callable[..., Any]] = {"tj.expect": expect, **externs.OWN}
RELAXED: dict[str, Callable[..., Any]] = {
    **externs.RELAXED,
    "aten._unsafe_view": torch.ops.aten.reshape.default,
    "aten.argmax": _of_bytes(torch.ops.aten.argmax.default),
    "aten.argmin": _of_bytes(torch.ops.aten.argmin.default),
}


def values_of(result: Any) -> list[torch.Tensor | None]:
    """The tensors an op returned, as a list; for results that are optional, None in their place."""
    if result is None or isinstance(result, torch.Tensor):
        return [] if result is None else [result]
    return [item for part in result for item in (part if isinstance(part, list) else [part])]


def storage(tensor: torch.Tensor) -> int:
    """Which memory a tensor lies in."""
    return storage_key(tensor.untyped_storage())


def _check(node: Node, value: Value, tensor: torch.Tensor) -> None:
    found = (NAME.get(tensor.dtype), tuple(tensor.shape))
    if found != (value.dtype, value.sizes):
        raise Disagrees(f"{node.op} at {node.origin} gave {found[0]}{list(found[1])} for {value!r}")


def _own(tensor: torch.Tensor, value: Value, owned: set[int]) -> torch.Tensor:
    """The tensor with the strides of `value`, in memory not in `owned`, which it is from now on."""
    if storage(tensor) in owned or tensor.stride() != value.strides:
        tensor = with_strides(tensor, value.strides)
    owned.add(storage(tensor))
    return tensor


def with_strides(tensor: torch.Tensor, strides: Sequence[int]) -> torch.Tensor:
    """A copy with those strides, which may let elements share memory if they are equal."""
    fresh = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
    if tensor.numel() <= fresh.untyped_storage().nbytes() // max(tensor.element_size(), 1):
        return fresh.copy_(tensor)
    places = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for size, stride in zip(tensor.shape, strides, strict=True):
        places = places.unsqueeze(-1) + torch.arange(size, device=tensor.device) * stride
    whole = fresh.as_strided((int(places.max()) + 1,), (1,))
    whole[places] = tensor
    return fresh


def _last_uses(graph: Graph) -> dict[Node, list[Value]]:
    """For each node the values that nobody needs after it."""
    kept = set(graph.results()) | set(graph.inputs)
    last: dict[Value, Node] = {}
    for node in graph.nodes:
        for value in (*node.outputs, *values_in((node.args, tuple(node.kwargs.values())))):
            last[value] = node
    found: dict[Node, list[Value]] = {}
    for value, node in last.items():
        if value not in kept:
            found.setdefault(node, []).append(value)
    return found

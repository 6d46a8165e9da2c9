"""The long tail: ops without a row, expanded by PyTorch's own decompositions where all lowers.

A decomposition runs once on meta tensors, for each op and each look of its arguments, and what it
calls becomes a graph that is spliced in. The first one in a process costs about a second inside
torch, so ops that would stay library calls anyway are in a table and are never tried.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tracejit.ir.dtypes import COMPUTED, NAME, TORCH
from tracejit.ir.execute import OWN, function, sized_by_data, values_of
from tracejit.ir.graph import Arg, Graph, Node, Value, identity, map_values
from tracejit.ir.rewrite import Builder, Result
from tracejit.ops.table import Kind, kind_of
from tracejit.runtime.private import TorchDispatchMode, core_decompositions, is_composite, schema_of

# Library calls whatever torch can expand them to: products, convolutions, pooling, attention,
# recurrent layers, sorting, transforms, solvers; logspace, which eager computes in halves.
NEVER = re.compile(
    r"""aten\._?(
        (sparse_)?(mm|mv|bmm|addmm|addmv|baddbmm|addbmm|addr|dot|vdot|matmul|linear)
      | (int_mm|scaled_mm|grouped_mm|scaled_grouped_mm|weight_int[48]pack_mm|bilinear|trilinear)
      | (\w*convolution\w*|conv\w*|cudnn\w*|miopen\w*|mkldnn\w*|mps\w*)
      | (scaled_dot_product\w*|flash_attention\w*|efficient_attention\w*|native_multi_head\w*)
      | (\w*pool[123]d\w*|max_unpool\w*|grid_sampler\w*|upsample_bi\w*|upsample_tri\w*)
      | (\w*lstm\w*|gru\w*|rnn\w*|thnn\w*)
      | (sort|argsort|topk|kthvalue|median|nanmedian|mode|unique\w*|msort|histc\w*|bincount)
      | (fft\w*|stft|istft|linalg\w*|cholesky\w*|lu\w*|qr|svd|triangular_solve|ormqr|geqrf)
      | (pdist\w*|cdist\w*|euclidean_dist|embedding_bag\w*|ctc_loss\w*|weight_norm\w*)
      | (empty|new_empty|logspace)\w*
    )(\.\w+)?""",
    re.VERBOSE,
)
_MEMO: dict[Arg, Graph | None] = {}
Decompose = Callable[[Graph], Graph]


def expand_rare(builder: Builder, node: Node, decompose: Decompose) -> Result:
    """What a node without a row becomes; None where it stays a library call. `decompose` makes its
    parts simpler in turn."""
    if node.op in OWN or NEVER.fullmatch(node.op) or not node.op.startswith("aten."):
        return None
    if sized_by_data(node.op):
        return None
    values = (*node.inputs, *node.outputs)
    if any(v.dtype not in COMPUTED for v in values) or not _has_decomposition(node.op):
        return None
    inner = _expansion(node, decompose)
    return None if inner is None else _splice(builder, inner, node.inputs)


def _has_decomposition(op: str) -> bool:
    found = function(op)
    if schema_of(found).is_mutable or torch.Tag.nondeterministic_seeded in found.tags:
        return False
    return found in core_decompositions() or is_composite(found)


def _expansion(node: Node, decompose: Decompose) -> Graph | None:
    def look(value: Value) -> Arg:
        return (value.dtype, value.sizes, value.strides, value.device)

    # Which arguments are the same value matters as well as how each looks.
    first = {v: n for n, v in reversed(list(enumerate(node.inputs)))}
    shown = map_values((node.args, tuple(node.kwargs.items())), lambda v: (first[v], *look(v)))
    key = (node.op, identity(shown), tuple(map(look, node.outputs)))
    if key not in _MEMO:
        _MEMO[key] = _expanded(node, decompose)
    return _MEMO[key]


def _expanded(node: Node, decompose: Decompose) -> Graph | None:
    """The decomposition of a node as a graph, all of which lowers; None if it is not like that."""
    tape = Tape(node)
    try:
        with torch.no_grad(), tape:
            result = _decomposition(function(node.op))(*tape.args, **tape.kwargs)
        graph = decompose(tape.finish(result))
    except Exception:  # refused, or not possible without data: a library call is never wrong
        return None
    looks = [(v.dtype, v.sizes) for v in graph.outputs]
    lowers = all(kind_of(n) is not Kind.EXTERN for n in graph.nodes)
    return graph if lowers and looks == [(v.dtype, v.sizes) for v in node.outputs] else None


def _decomposition(op: Any) -> Any:
    return core_decompositions().get(op, op.decompose)


class Refused(Exception):
    """A decomposition did what a functional graph does not show."""


class Tape(TorchDispatchMode):
    """Records the ATen calls made on meta tensors that look like a node's inputs."""

    def __init__(self, node: Node) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's has no types
        self.graph = Graph()
        self.device = node.outputs[0].device
        self.origin = node.origin
        self.known: dict[int, tuple[Value, torch.Tensor]] = {}
        made = {v: self._input(v) for v in dict.fromkeys(node.inputs)}
        self.args = map_values(node.args, made.__getitem__)
        self.kwargs = {k: map_values(v, made.__getitem__) for k, v in node.kwargs.items()}

    def _input(self, value: Value) -> torch.Tensor:
        tensor = torch.empty_strided(
            value.sizes, value.strides, dtype=TORCH[value.dtype], device="meta"
        )
        copy = self.graph.add_input(value.dtype, value.sizes, value.strides, value.device)
        self.known[id(tensor)] = (copy, tensor)
        return tensor

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        seeded = torch.Tag.nondeterministic_seeded in func.tags
        if func.namespace != "aten" or schema_of(func).is_mutable or seeded:
            raise Refused(str(func))
        result = func(*args, **kwargs)
        if func in _ALIASES:
            self.known[id(result)] = (self.value(args[0]), result)
            return result
        op = str(func).removesuffix(".default")
        tensors = [t for t in values_of(result) if t is not None]
        metas = [(NAME[t.dtype], tuple(t.shape), tuple(t.stride()), self.device) for t in tensors]
        node = self.graph.add(op, self.arg(args), self.arg(dict(kwargs)), metas, self.origin)
        for value, tensor in zip(node.outputs, tensors, strict=True):
            self.known[id(tensor)] = (value, tensor)
        return result

    def arg(self, tree: Any) -> Any:
        """Arguments as a graph has them: values for tensors, the node's device for meta."""
        if isinstance(tree, dict):
            return {k: self.arg(v) for k, v in tree.items()}
        if isinstance(tree, (tuple, list)):
            return tuple(map(self.arg, tree))
        if isinstance(tree, torch.Tensor):
            return self.value(tree)
        return torch.device(self.device) if isinstance(tree, torch.device) else tree

    def value(self, tensor: torch.Tensor) -> Value:
        """The value that a tensor is; Refused for one that was not made here."""
        if id(tensor) not in self.known:
            raise Refused("a tensor from elsewhere")
        return self.known[id(tensor)][0]

    def finish(self, result: Any) -> Graph:
        """The graph, with what the decomposition returned as its outputs."""
        self.graph.outputs = [self.value(t) for t in values_of(result) if t is not None]
        return self.graph


_ALIASES = {
    torch.ops.aten.detach.default,
    torch.ops.aten.alias.default,
    torch.ops.aten.lift_fresh.default,
}


def _splice(builder: Builder, inner: Graph, inputs: tuple[Value, ...]) -> tuple[Value, ...]:
    """The outputs of `inner` on those inputs, its nodes appended."""
    env = dict(zip(inner.inputs, dict.fromkeys(inputs), strict=True))
    for node in inner.nodes:
        args = map_values(node.args, env.__getitem__)
        kwargs = {k: map_values(v, env.__getitem__) for k, v in node.kwargs.items()}
        metas = [(v.dtype, v.sizes) for v in node.outputs]
        made = builder.add(node.op, args, kwargs, metas, [v.strides for v in node.outputs])
        env.update(zip(node.outputs, made, strict=True))
    return tuple(env[v] for v in inner.outputs)

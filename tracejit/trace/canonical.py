"""From device-specific ATen calls to one device-neutral op each, so that one graph serves every
target.

One table: the called op, and a function from its arguments to the op that stands for it, its
arguments, and which of the call's results that op gives (by position, in order). The other results
exist only for backward; a program that uses one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch

from tracejit.ir.graph import Arg, Graph, Node, Value
from tracejit.trace.infer import Meta
from tracejit.trace.schema import argument_names


@dataclass
class Call:
    """A call on the graph's values. `kept`: which results of the real call the op gives; None for
    all.
    """

    op: str
    args: tuple[Arg, ...]
    kwargs: dict[str, Arg] = field(default_factory=dict)
    kept: tuple[int, ...] | None = None
    whole: Call | None = None  # the real call, which gives all results


class Restore:
    """Puts the real call in the place of its canonical form when a result is asked for that exists
    for the backward pass: only a graph of a forward pass has a use for it."""

    def __init__(self, graph: Graph, node: Node, call: Call, metas: list[Meta]) -> None:
        self.graph, self.node, self.call, self.metas = graph, node, call, metas

    def __call__(self, number: int) -> Value:
        whole, kept = self.call.whole, self.call.kept or ()
        assert whole is not None
        if self.node.op != whole.op:
            place = self.graph.nodes.index(self.node)
            made = self.graph.add(whole.op, whole.args, whole.kwargs, self.metas, self.node.origin)
            self.graph.nodes[place] = self.graph.nodes.pop()
            outputs = list(made.outputs)
            for n, value in zip(kept, self.node.outputs):  # used already
                outputs[n], value.node = value, made
            made.outputs, self.node = tuple(outputs), made
        return self.node.outputs[number]


# The dtypes of numbers that stand for tensors, which an operation then may take to be others.
WRAPPED: dict[type, torch.dtype] = {
    bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128,
}  # fmt: skip
# Called with the call's first argument, and the others by their names in the op's schema; None
# leaves the call as it is.
Rule = Callable[..., "Call | None"]


def canonical(call: Call) -> Call:
    """The device-neutral form of a call."""
    if call.op.endswith("generator") and "generator" not in call.kwargs:  # the default one
        call = replace(call, op=call.op.removesuffix("generator").rstrip("._"))
    rule = RULES.get(call.op)
    if rule is None:
        return call
    named = dict(zip(argument_names(call.op)[1:], call.args[1:]))
    found = rule(call.args[0], **named, **call.kwargs)
    return replace(found, whole=call) if found is not None else call


def attention(
    query: Value,
    *,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    attn_bias: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    scale: float | None = None,
    compute_log_sumexp: bool = False,
) -> Call | None:
    """One op for every kernel. Fewer heads in the keys than in the queries is grouped attention."""
    if return_debug_mask:
        return None
    kwargs: dict[str, Arg] = {}
    if scale is not None:
        kwargs["scale"] = scale
    if query.ndim == 4 and query.sizes[1] != key.sizes[1]:
        kwargs["enable_gqa"] = True
    mask = attn_bias if attn_mask is None else attn_mask
    args = (query, key, value, mask, dropout_p, is_causal)
    return Call("aten.scaled_dot_product_attention", args, kwargs, (0,))


def batch_norm(
    x: Value,
    *,
    weight: Value | None,
    bias: Value | None,
    running_mean: Value | None,
    running_var: Value | None,
    training: bool = True,
    **numbers: Arg,
) -> Call:
    """Inference reads the running statistics; training without any computes its own; training with
    them writes.

    For the last, results 3 and 4 are the new statistics: the recorder writes them.
    """
    momentum, eps = numbers.values()  # which go by other names in each library
    args: tuple[Arg, ...]
    stats = (running_mean, running_var)
    if not training:
        args = (x, weight, bias, *stats, False, momentum, eps, False)
        return Call("aten.batch_norm", args, {}, (0,))
    if None in stats:
        args = (x, weight, bias, training, momentum, eps)
        return Call("aten._native_batch_norm_legit.no_stats", args, {}, (0, 1, 2))
    args = (x, weight, bias, *stats, training, momentum, eps)
    return Call("aten._native_batch_norm_legit_functional", args, {}, (0, 1, 2))


def convolution(
    x: Value,
    *,
    weight: Value,
    bias: Value | None = None,
    stride: Arg,
    padding: Arg,
    dilation: Arg,
    transposed: bool = False,
    output_padding: Arg = None,
    groups: int,
    **settings: Arg,
) -> Call:
    """Less the settings of each library."""
    more = (0,) * (weight.ndim - 2) if output_padding is None else output_padding
    args = (x, weight, bias, stride, padding, dilation, transposed, more, groups)
    return Call("aten.convolution", args, {}, (0,))


def linear(x: Value, *, weight: Value, bias: Value | None = None) -> Call:
    return Call("aten.linear", (x, weight) if bias is None else (x, weight, bias), {}, (0,))


def zeros(sizes: Arg, **kwargs: Arg) -> Call:
    """Zeros without memory, which operations know to be zeros: of forward-mode differentiation."""
    return Call("aten.zeros", (sizes,), kwargs, (0,))


def copied(x: Arg, **kwargs: Arg) -> Call | None:
    """A number that stands for a tensor reaches a dispatch mode as itself."""
    if isinstance(x, Value):
        return None
    made: dict[str, Arg] = {"dtype": WRAPPED[type(x)]}
    made.update((name, kwargs[name]) for name in ("dtype", "device") if name in kwargs)
    return Call("aten.full", ((), x), made, (0,))


def index_put(
    x: Value, *, indices: tuple[Arg, ...], values: Value, accumulate: bool = False
) -> Call | None:
    """`x[mask] = number` with a mask of x's own sizes is a `where`."""
    if accumulate or len(indices) != 1 or values.sizes or values.device != x.device:
        return None
    mask = indices[0]
    if not isinstance(mask, Value) or mask.dtype != "bool" or mask.sizes != x.sizes:
        return None
    return Call("aten.where.self", (mask, values, x), {}, (0,)) if values.dtype == x.dtype else None


RULES: dict[str, Rule] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": attention,
    "aten._scaled_dot_product_flash_attention": attention,
    "aten._scaled_dot_product_efficient_attention": attention,
    "aten._scaled_dot_product_cudnn_attention": attention,
    "aten._scaled_dot_product_fused_attention_overrideable": attention,
    "aten.native_batch_norm": batch_norm,
    "aten._native_batch_norm_legit": batch_norm,
    "aten.cudnn_batch_norm": batch_norm,
    "aten.miopen_batch_norm": batch_norm,
    "aten._batch_norm_with_update": batch_norm,
    "aten.mkldnn_convolution": convolution,
    "aten.miopen_convolution": convolution,
    "aten.cudnn_convolution": convolution,
    "aten._convolution": convolution,
    "aten.mkldnn_linear": linear,
    "aten.index_put": index_put,
    "aten._efficientzerotensor": zeros,
    "aten._to_copy": copied,
}

DROPPED = frozenset({"pin_memory", "layout", "non_blocking"})


def tidy_kwargs(kwargs: dict[str, Arg], device: str) -> dict[str, Arg]:
    """Keyword arguments less those that say nothing: None, memory pinning, and the CPU as a place
    to be.

    `device` is where the tensors among the arguments lie, "" without any: that place says nothing
    either.
    """
    found = {k: v for k, v in kwargs.items() if v is not None and k not in DROPPED}
    place = found.get("device")
    if place is not None and str(place) == (device or "cpu"):
        del found["device"]
    return found

"""From device-specific ATen calls to one device-neutral op each, so that one graph serves every
target.

One table: the called op, and a function from its arguments to the op that stands for it, its
arguments, and which of the call's results that op gives (by position, in order). The other results
exist only for backward; a program that uses one is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tracejit.ir.graph import Arg, Value


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


# The dtypes of numbers that stand for tensors, which an operation then may take to be others.
WRAPPED: dict[type, torch.dtype] = {
    bool: torch.bool, int: torch.int64, float: torch.float64, complex: torch.complex128,
}  # fmt: skip
Rule = Callable[
    ..., "Call | None"
]  # called with the call's arguments; None leaves the call as it is


def canonical(call: Call) -> Call:
    """The device-neutral form of a call."""
    if call.op.endswith("generator") and "generator" not in call.kwargs:  # the default one
        call = replace(call, op=call.op.removesuffix("generator").rstrip("._"))
    rule = RULES.get(call.op)
    found = rule(*call.args, **call.kwargs) if rule is not None else None
    return replace(found, whole=call) if found is not None else call


# --- attention ---


def attention(
    query: Value,
    key: Value,
    value: Value,
    mask: Value | None,
    dropout: float,
    causal: bool,
    scale: float | None,
) -> Call:
    """One op for every kernel. Fewer heads in the keys than in the queries is grouped attention."""
    kwargs: dict[str, Arg] = {}
    if scale is not None:
        kwargs["scale"] = scale
    if query.ndim == 4 and query.sizes[1] != key.sizes[1]:
        kwargs["enable_gqa"] = True
    args = (query, key, value, mask, dropout, causal)
    return Call("aten.scaled_dot_product_attention", args, kwargs, (0,))


def flash_for_cpu(
    q: Value,
    k: Value,
    v: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    attn_mask: Value | None = None,
    scale: float | None = None,
) -> Call:
    return attention(q, k, v, attn_mask, dropout_p, is_causal, scale)


def flash(
    q: Value,
    k: Value,
    v: Value,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Call | None:
    return None if return_debug_mask else attention(q, k, v, None, dropout_p, is_causal, scale)


def efficient(
    q: Value,
    k: Value,
    v: Value,
    attn_bias: Value | None,
    compute_log_sumexp: bool,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Call:
    return attention(q, k, v, attn_bias, dropout_p, is_causal, scale)


def overrideable(
    q: Value,
    k: Value,
    v: Value,
    attn_bias: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    return_debug_mask: bool = False,
    *,
    scale: float | None = None,
) -> Call:
    return attention(q, k, v, attn_bias, dropout_p, is_causal, scale)


# --- batch norm ---


def batch_norm(
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value | None,
    var: Value | None,
    training: bool,
    momentum: float,
    eps: float,
) -> Call:
    """Inference reads the running statistics; training without any computes its own; training with
    them writes.

    For the last, results 3 and 4 are the new statistics: the recorder writes them.
    """
    args: tuple[Arg, ...]
    if not training:
        args = (x, weight, bias, mean, var, False, momentum, eps, False)
        return Call("aten.batch_norm", args, {}, (0,))
    if mean is None or var is None:
        args = (x, weight, bias, training, momentum, eps)
        return Call("aten._native_batch_norm_legit.no_stats", args, {}, (0, 1, 2))
    args = (x, weight, bias, mean, var, training, momentum, eps)
    return Call("aten._native_batch_norm_legit_functional", args, {}, (0, 1, 2))


def batch_norm_with_update(
    x: Value,
    weight: Value | None,
    bias: Value | None,
    mean: Value,
    var: Value,
    momentum: float,
    eps: float,
) -> Call:
    return batch_norm(x, weight, bias, mean, var, True, momentum, eps)


# --- convolution ---


def convolution(
    x: Value,
    weight: Value,
    bias: Value | None,
    padding: Arg,
    stride: Arg,
    dilation: Arg,
    groups: int,
    *settings: Any,
) -> Call:
    """Padding stands before stride in the libraries' ops, after it in ATen's."""
    zeros = (0,) * (weight.ndim - 2)
    args = (x, weight, bias, stride, padding, dilation, False, zeros, groups)
    return Call("aten.convolution", args, {}, (0,))


def cudnn_convolution(x: Value, weight: Value, *where: Any) -> Call:
    return convolution(x, weight, None, *where)


def inner_convolution(*args: Any) -> Call:
    """`_convolution` less its library settings."""
    return Call("aten.convolution", args[:9], {}, (0,))


def linear(x: Value, weight: Value, bias: Value | None = None) -> Call:
    return Call("aten.linear", (x, weight) if bias is None else (x, weight, bias), {}, (0,))


# --- forward-mode differentiation ---


def zeros(sizes: Arg, **kwargs: Arg) -> Call:
    """Zeros without memory, which operations know to be zeros."""
    return Call("aten.zeros", (sizes,), kwargs, (0,))


def copied(x: Arg, **kwargs: Arg) -> Call | None:
    """A number that stands for a tensor reaches a dispatch mode as itself."""
    if isinstance(x, Value):
        return None
    made: dict[str, Arg] = {"dtype": WRAPPED[type(x)]}
    made.update((name, kwargs[name]) for name in ("dtype", "device") if name in kwargs)
    return Call("aten.full", ((), x), made, (0,))


# --- masks as indices ---


def index_put(
    x: Value, indices: tuple[Arg, ...], values: Value, accumulate: bool = False
) -> Call | None:
    """`x[mask] = number` with a mask of x's own sizes is a `where`."""
    if accumulate or len(indices) != 1 or values.sizes or values.device != x.device:
        return None
    mask = indices[0]
    if not isinstance(mask, Value) or mask.dtype != "bool" or mask.sizes != x.sizes:
        return None
    return Call("aten.where.self", (mask, values, x), {}, (0,)) if values.dtype == x.dtype else None


RULES: dict[str, Rule] = {
    "aten._scaled_dot_product_flash_attention_for_cpu": flash_for_cpu,
    "aten._scaled_dot_product_flash_attention": flash,
    "aten._scaled_dot_product_efficient_attention": efficient,
    "aten._scaled_dot_product_cudnn_attention": efficient,
    "aten._scaled_dot_product_fused_attention_overrideable": overrideable,
    "aten.native_batch_norm": batch_norm,
    "aten._native_batch_norm_legit": batch_norm,
    "aten.cudnn_batch_norm": batch_norm,
    "aten.miopen_batch_norm": batch_norm,
    "aten._batch_norm_with_update": batch_norm_with_update,
    "aten.mkldnn_convolution": convolution,
    "aten.miopen_convolution": convolution,
    "aten.cudnn_convolution": cudnn_convolution,
    "aten._convolution": inner_convolution,
    "aten.mkldnn_linear": linear,
    "aten.index_put": index_put,
    "aten._efficientzerotensor": zeros,
    "aten._to_copy": copied,
}

# --- arguments ---

DROPPED = frozenset({"pin_memory", "layout", "non_blocking"})
CPU = torch.device("cpu")


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

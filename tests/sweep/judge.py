"""One call through the whole pipeline: recorded, compiled, run, beside eager."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils import _pytree

from tests.executors import TARGET
from tracejit.compiler import Pipeline, StageFailed
from tracejit.fuse.program import RunExtern
from tracejit.runtime import devices
from tracejit.runtime.outputs import compile_tree
from tracejit.runtime.plan import Leave, load
from tracejit.trace.recorder import record

# Relative and absolute error allowed before the two are compared with a run in float64.
CLOSE = {
    torch.float64: 1e-13,
    torch.float32: 2e-6,
    torch.bfloat16: 1 / 128,
    torch.float16: 1 / 1024,
}


@dataclass(frozen=True)
class Verdict:
    """How a call went: refused, raises, failed, wrong, left, or compiled; library calls in it."""

    kind: str
    text: str = ""
    externs: tuple[str, ...] = ()


def judge(fn: Callable[..., Any], args: tuple[Any, ...], target: str = TARGET) -> Verdict:
    """Run `fn(*args)` eagerly and compiled for `target`, and compare everything that a caller can
    see."""
    torch.manual_seed(1)
    try:
        expected = fn(*args)
    except Exception as error:
        return Verdict("raises", str(error))
    torch.manual_seed(1)
    _, recording = record(fn, args, {})
    if recording.refused is not None or recording.graph is None:
        return Verdict("refused", str(recording.refused))
    try:
        built = Pipeline(target).build(recording.graph)
    except StageFailed as error:
        return Verdict("failed", str(error))
    kernels = {n: devices.load(s, built.binaries[n]) for n, s in built.kernels.items()}
    plan = load(built.plan, built.manifest, kernels)
    externs = tuple(
        s.op
        for s in built.program.steps
        if isinstance(s, RunExtern) and s.op != "aten.empty_strided"  # an empty result
    )
    torch.manual_seed(1)
    inputs = tuple(recording.sources)
    try:
        found = compile_tree(recording.outputs)(inputs, plan.run(inputs))
    except Leave as leave:
        return Verdict("left", str(leave), externs)
    except Exception as error:
        return Verdict("failed", f"run: {type(error).__name__}: {error}", externs)
    problem = difference(expected, found, lambda: in_double(fn, args))
    return Verdict("wrong" if problem else "compiled", problem, externs)


def difference(expected: Any, found: Any, truth: Callable[[], Any]) -> str:
    """What tells the two results apart; empty if nothing that is more than rounding."""
    left, left_spec = _pytree.tree_flatten(expected)
    right, right_spec = _pytree.tree_flatten(found)
    if left_spec != right_spec:
        return f"{right_spec} for {left_spec}"
    for n, (a, b) in enumerate(zip(left, right, strict=True)):
        if not isinstance(a, torch.Tensor):
            if a != b and a == a:
                return f"{b} for {a}"
            continue
        looks = [(t.dtype, tuple(t.shape), t.stride()) for t in (a, b)]
        if looks[0] != looks[1]:
            return f"{looks[1]} for {looks[0]}"
        tolerance = CLOSE.get(a.dtype, 0)
        if not torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True):
            exact = _pytree.tree_leaves(truth())
            if n >= len(exact) or not as_near(a, b, exact[n]):
                return f"values {b} for {a}"
    return ""


def as_near(eager: torch.Tensor, ours: torch.Tensor, exact: torch.Tensor) -> bool:
    """Whether ours is no further from the exact result than twice eager's distance."""
    if not (eager.is_floating_point() and exact.shape == eager.shape):
        return False
    distances = [(t.double() - exact).abs().nan_to_num(0.0, 0.0) for t in (eager, ours)]
    same_ends = torch.equal(eager.isfinite(), ours.isfinite())
    return same_ends and float(distances[1].max()) <= 2 * float(distances[0].max())


def in_double(fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    """The result with every floating-point tensor widened; an empty tuple where that fails."""
    wide = _pytree.tree_map_only(
        torch.Tensor, lambda t: t.double() if t.is_floating_point() else t, args
    )
    torch.manual_seed(1)
    try:
        return fn(*wide)
    except Exception:
        return ()


def stepped(tensor: torch.Tensor) -> torch.Tensor:
    """An equal tensor whose elements lie two apart, after an offset."""
    wide = torch.stack([tensor, tensor], -1)
    return wide[..., 1]


def reversed_strides(tensor: torch.Tensor) -> torch.Tensor:
    """An equal tensor that is contiguous in its first dim."""
    order = tuple(range(tensor.ndim))[::-1]
    return tensor.permute(order).contiguous().permute(order)


def laid_out(args: Any, layout: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The arguments with every strided tensor in another layout."""
    return _pytree.tree_map_only(
        torch.Tensor, lambda t: layout(t) if t.layout is torch.strided else t, args
    )

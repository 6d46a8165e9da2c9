"""Loads a stored plan and runs it: `load(text, manifest, kernels)` gives a Plan, `plan.run(inputs)`
its outputs.

A plan's text may only use names that its manifest binds: library calls by their ATen name, kernels,
dtypes, allocators and the helpers below. It is checked for that before it is compiled into a
function without builtins.
"""

from __future__ import annotations

import functools
import linecache
import math
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import CodeType
from typing import Any

import torch

from tracejit.runtime import generators, private
from tracejit.runtime.constants import encode
from tracejit.runtime.dtypes import TORCH
from tracejit.runtime.externs import fastest
from tracejit.runtime.hugepages import on_huge_pages
from tracejit.runtime.reasons import Failure, Reason

Tensors = tuple[torch.Tensor, ...]  # of inputs, generators may follow
Run = Callable[[Tensors], Tensors]


class Leave(Exception):
    """A number, size or index computed by the plan differs from the recorded one. Nothing visible
    was changed. `failure`: the same as a guard that did not hold. `decision`: which of the
    manifest's decisions, and what was found, spelled as there."""

    def __init__(self, text: str, where: str = "") -> None:
        super().__init__(text)
        self.reason = Reason("left", text, where)
        self.failure = Failure(where, "", text, "data")
        self.decision: tuple[int, Any] | None = None

    @staticmethod
    def at(decision: tuple[int, Any], what: str, found: Any, wanted: Any, where: str) -> Leave:
        """A decision came out otherwise."""
        leave = Leave(f"{what} is {found!r}, recorded was {wanted!r}", where)
        leave.failure = Failure(where, repr(wanted), repr(found), "data")
        leave.decision = decision
        return leave


@dataclass(frozen=True)
class Plan:
    """A loaded plan. `run` takes the inputs as a tuple and returns the outputs as a tuple; it may
    raise Leave. `shown` does the same while torch's profiler is active: it sees each kernel by
    name."""

    run: Run
    shown: Run


def load(
    text: str,
    manifest: Mapping[str, Any],
    kernels: Mapping[str, Callable[..., Any]],
    name: str = "plan",
) -> Plan:
    """The plan of a text and its manifest. `kernels` are launchables by the names the text uses.

    Raises ValueError if the text uses a name that the manifest does not bind, or is more than one
    function.
    """
    namespace = bindings(manifest, kernels)
    file = f"<tracejit {name}>"
    code = compile(text, file, "exec")
    check(code, frozenset(namespace) | {"run"})
    # So that a traceback through the plan shows its lines.
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    devices = any(not device.startswith("cpu") for device in manifest["allocators"].values())

    def function(launches: Mapping[str, Callable[..., Any]]) -> Run:
        space = {**namespace, **launches}
        exec(code, space)
        run: Run = space["run"]
        if devices:
            run = _on_device(run)
        return _keeping_random_state(run, manifest) if manifest["draws"] else run

    @functools.cache
    def profiled() -> Run:
        names = {name: _seen(f"tracejit::{name}", namespace[name]) for name in manifest["kernels"]}
        return _seen(f"tracejit plan: {manifest['title']}", function(names))

    return Plan(function({}), lambda inputs: profiled()(inputs))


def not_loaded(*tensors: torch.Tensor) -> None:
    """Stands for the kernels of a plan that is loaded without them."""
    raise AssertionError("a kernel that was not loaded was launched")


def _seen(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call that torch's profiler shows."""

    def shown(*args: Any) -> Any:
        with torch.profiler.record_function(name):
            return call(*args)

    return shown


def check(code: CodeType, allowed: frozenset[str]) -> None:
    """Raise ValueError unless `code` is one function `run` whose global and attribute names are all
    in `allowed`."""
    functions = [c for c in code.co_consts if isinstance(c, CodeType)]
    if set(code.co_names) - {"run"} or [f.co_name for f in functions] != ["run"]:
        raise ValueError("a plan's text is one function named run and nothing else")
    (function,) = functions
    if any(isinstance(c, CodeType) for c in function.co_consts):
        raise ValueError("a plan's function contains another function")
    unknown = sorted(set(function.co_names) - allowed)
    if unknown:
        raise ValueError(
            f"a plan's text uses names that its manifest does not bind: {', '.join(unknown)}"
        )


def bindings(
    manifest: Mapping[str, Any], kernels: Mapping[str, Callable[..., Any]]
) -> dict[str, Any]:
    """Everything that a plan's text may refer to."""
    namespace: dict[str, Any] = {
        "__builtins__": {},
        **HELPERS,
        "view": private.reinterpret_tensor(),
    }
    for name, op in manifest["externs"].items():
        namespace[name] = fastest(op)
    for name, (kind, value) in manifest["constants"].items():
        namespace[name] = _constant(kind, value)
    for name, device in manifest["allocators"].items():
        namespace[name] = _allocator(device)
    if manifest["kept"]:
        namespace["take"], namespace["give"] = _kept(manifest["kept"])
    for name in manifest["kernels"]:
        namespace[name] = kernels[name]
    return namespace


def _constant(kind: str, value: str) -> Any:
    if kind == "dtype":
        return TORCH[value]
    if kind == "device":
        return torch.device(value)
    if kind == "generator":
        return generators.default_of(value)
    found = getattr(torch, value)
    if not isinstance(found, (torch.layout, torch.memory_format)):
        raise ValueError(f"torch.{value} is no layout or memory format")
    return found


def _kept(
    buffers: Sequence[tuple[Sequence[int], Sequence[int], str]],
) -> tuple[Callable[[], Tensors], Callable[[Tensors], None]]:
    """`take()` gives buffers that no other call has, `give(buffers)` puts them back. Calls that run
    at once, or that failed, cost a set each."""
    allocate, spare = _allocator("cpu"), list[Tensors]()

    def take() -> Tensors:
        try:
            return spare.pop()
        except IndexError:
            return tuple(allocate(tuple(n), tuple(s), TORCH[dtype]) for n, s, dtype in buffers)

    return take, spare.append


def _allocator(device: str) -> Callable[..., torch.Tensor]:
    """`allocate(sizes, strides, dtype)` for a device, the fastest way there is."""
    kind = torch.device(device).type
    if kind == "cpu":
        return private.empty_strided_cpu()
    if kind == "cuda":
        return private.empty_strided_cuda()
    target = torch.device(device)
    return lambda sizes, strides, dtype: torch.empty_strided(
        sizes, strides, dtype=dtype, device=target
    )


def _on_device(run: Run) -> Run:
    """Run with the inputs' device as the current one: allocation and launches go there."""

    def guarded(inputs: Tensors) -> Tensors:
        index = next(
            (t.get_device() for t in inputs if isinstance(t, torch.Tensor) and not t.is_cpu), -1
        )
        if index < 0 or index == torch.cuda.current_device():
            return run(inputs)
        with torch.cuda.device(index):
            return run(inputs)

    return guarded


def _keeping_random_state(run: Run, manifest: Mapping[str, Any]) -> Run:
    """Put the generators back to where the call began if the plan is left, or fails, after it drew:
    the call then runs eagerly from its start."""
    tensors, defaults = manifest["inputs"], set(manifest["defaults"])

    def kept(inputs: Any) -> Tensors:
        devices = {str(t.device) for t in inputs[:tensors] if t.is_cuda} | defaults
        states = generators.states(inputs[tensors:], sorted(devices))
        try:
            return run(inputs)
        except Exception:  # whatever ends the plan
            generators.restore(states)
            raise

    return kept


def laid_out(
    tensor: torch.Tensor, sizes: tuple[int, ...], strides: tuple[int, ...],
    where: str = "", number: int = -1,
) -> torch.Tensor:  # fmt: skip
    """`tensor`, in the layout that the plan was made for: copied if a library call chose another
    one here. `number`: of the decision, if the data decides on the sizes."""
    if tensor.stride() == strides and tensor.shape == sizes:
        return tensor
    if tensor.shape != sizes:
        found = tuple(tensor.size())
        what = "the size of a library call's result"
        raise Leave.at((number, list(found)), what, found, sizes, where)
    if tensor.numel() < 2 or all(
        s == t for s, t, n in zip(tensor.stride(), strides, sizes, strict=True) if n > 1
    ):
        return tensor.as_strided(
            sizes, strides, tensor.storage_offset()
        )  # sizes of 1 have any stride
    return torch.empty_strided(sizes, strides, dtype=tensor.dtype, device=tensor.device).copy_(
        tensor
    )


def tensors(result: Any) -> list[torch.Tensor]:
    """The tensors of a library call's result, in order; what is None or a number is left out."""
    if isinstance(result, torch.Tensor):
        return [result]
    return [t for t in _flat(result) if isinstance(t, torch.Tensor)]


def _flat(result: Sequence[Any]) -> list[Any]:
    found: list[Any] = []
    for item in result:
        found += _flat(item) if isinstance(item, (tuple, list)) else [item]
    return found


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides in fresh memory; repeated elements (stride 0) are laid out once
    each."""
    if any(
        stride == 0 and size > 1
        for size, stride in zip(tensor.size(), tensor.stride(), strict=True)
    ):
        return tensor.clone()
    fresh = torch.empty_strided(
        tensor.size(), tensor.stride(), dtype=tensor.dtype, device=tensor.device
    )
    return fresh.copy_(tensor)


def expect(tensor: torch.Tensor, wanted: bool | int | float, where: str, number: int) -> None:
    """Raise Leave unless the one-element tensor holds exactly what is wanted (a NaN any NaN, zeros
    with their sign). `number`: of the decision."""
    found = tensor.item()
    same = found == wanted and (
        not isinstance(wanted, float) or math.copysign(1.0, found) == math.copysign(1.0, wanted)
    )
    if not same and not (found != found and wanted != wanted):
        what = "a number computed from data"
        raise Leave.at((number, encode(found)), what, found, wanted, where)


def check_index(tensor: torch.Tensor, low: int, size: int, where: str) -> None:
    """Raise Leave unless every element lies in low … size-1. Eager then raises its own error."""
    count = tensor.numel()
    if count == 0:
        return
    if count > FEW:
        least, most = (extreme.item() for extreme in torch.aminmax(tensor))
    else:
        numbers = (tensor if tensor.dim() == 1 else tensor.reshape(-1)).tolist()
        least, most = min(numbers), max(numbers)
    if least < low or most >= size:
        raise Leave(f"an index lies outside {low} … {size - 1}", where)


def apart(
    targets: Tensors, sizes: tuple[int, ...], others: Tensors, lengths: tuple[int, ...]
) -> None:
    """Raise Leave if kernels must not write to the targets: one lies in memory that another tensor
    is on, or it may not be written to here, for which eager raises its own error. `sizes` and
    `lengths` are the bytes that they reach."""
    spans = sorted(zip([t.data_ptr() for t in targets], sizes))
    for (start, size), (following, _) in zip(spans, spans[1:]):
        if start + size > following:
            raise Leave("two tensors that are written lie in the same memory")
    for other, length in zip(others, lengths):
        start = other.data_ptr()
        below = bisect_left(spans, (start + length,)) - 1  # the last that begins before its end
        if below >= 0 and start < sum(spans[below]):
            raise Leave("a tensor that is written lies in memory of another")
    if not torch.is_inference_mode_enabled() and any(t.is_inference() for t in targets):
        raise Leave("a tensor of inference mode is written outside it")


def touched(targets: Tensors) -> None:
    """Tell autograd that kernels wrote to the tensors; those of inference mode have no version."""
    torch.autograd.graph.increment_version(targets)


FEW = 24  # indices that are sooner compared in Python than by two kernels


HELPERS: dict[str, Any] = {
    "laid_out": laid_out,
    "tensors": tensors,
    "copied": copied,
    "copy_": torch.Tensor.copy_,
    "apart": apart,
    "touched": touched,
    "on_huge_pages": on_huge_pages,
    "expect": expect,
    "check_index": check_index,
    "inf": math.inf,
    "nan": math.nan,
    "generator": torch.Generator,
}

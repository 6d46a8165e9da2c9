"""Which target a call is compiled for: one row per backend, asked for the kind of device that the
call's tensors are on.

A target is a string: `interpret`, `reference`, `native:avx2`, `cuda:90`, `hip:gfx942`. The command
line reads the table, and does not wait for torch.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracejit.runtime import cpu
from tracejit.runtime.config import config
from tracejit.runtime.errors import MissingExtra
from tracejit.runtime.reasons import Reason


@dataclass(frozen=True)
class Choice:
    """A target, or the reason why there is none. `offline`: compile and store, but run the call
    eagerly."""

    target: str = ""
    offline: bool = False
    reason: Reason | None = None


def _none(text: str) -> Choice:
    return Choice(reason=Reason("backend", text))


def _native(device: str) -> Choice:
    if device != "cpu":
        return _none(f"native kernels run CPU tensors, not {device}")
    if lacking := cpu.lacking():
        return _none(lacking)
    levels = [f"native:{level}" for level in cpu.host_levels()]
    wanted = config.target if kind_of(config.target) == "native" else levels[0]
    return Choice(wanted, offline=wanted not in levels)


def _interpret(device: str) -> Choice:
    if importlib.util.find_spec("numpy") is None:
        return _none(str(MissingExtra(what="the interpreter", packages="numpy", extra="cpu")))
    if device != "cpu":
        return _none(f"the interpreter runs CPU tensors, not {device}")
    return Choice("interpret")


def _triton(device: str) -> Choice:
    if device == "cuda":
        return Choice(gpu_target())
    if is_gpu(config.target):
        return Choice(config.target, offline=True)
    return _none(
        f"Triton has no machine code for {device} tensors; backend='interpret' runs its kernels, "
        "slowly, and TRACEJIT_TARGET=cuda:90 compiles them without running"
    )


def _auto(device: str) -> Choice:
    if device == "cuda":
        return _triton(device)
    return _native(device)


BACKENDS: dict[str, Callable[[str], Choice]] = {
    "auto": _auto,
    "triton": _triton,
    "native": _native,
    "interpret": _interpret,
    "reference": lambda device: Choice("reference"),
    "eager": lambda device: _none("backend='eager' compiles nothing"),
}


def kind_of(target: str) -> str:
    """The kind of a target: "cuda" of "cuda:90", "native" of "native:avx2"."""
    return target.partition(":")[0]


def is_gpu(target: str) -> bool:
    """Whether the target's kernels run on GPU tensors."""
    return kind_of(target) in ("cuda", "hip")


def backend_for(target: str) -> str:
    """The backend that compiles for a target; "auto" for none."""
    return "triton" if is_gpu(target) else kind_of(target) or "auto"


def gpu_target() -> str:
    """The target of the current GPU."""
    import torch

    return _target_of(torch.cuda.current_device())


@functools.cache
def _target_of(index: int) -> str:
    """The target of the GPU with this index: its compute capability, or its gfx name without
    features."""
    import torch

    if torch.version.hip:
        name: str = torch.cuda.get_device_properties(index).gcnArchName
        return f"hip:{name.split(':')[0]}"
    major, minor = torch.cuda.get_device_capability(index)
    return f"cuda:{major}{minor}"


def choose(backend: str, device: str) -> Choice:
    """The target for tensors on this kind of device (`cpu`, `cuda`, …)."""
    return _choose(backend, device, config.target)


@functools.cache
def _choose(backend: str, device: str, offline: str) -> Choice:
    return BACKENDS[backend](device)


def device_of(*trees: Any) -> str:
    """The kind of device of the first tensor that is not on the CPU, in arguments and modules; else
    `cpu`."""
    import torch

    stack = list(trees)
    while stack:
        item = stack.pop()
        if isinstance(item, torch.Tensor):
            if not item.is_cpu:
                return item.device.type
        elif isinstance(item, (tuple, list)):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
        elif isinstance(item, torch.nn.Module):
            first = next(item.parameters(), None)
            if first is not None:
                stack.append(first)
    return "cpu"


@functools.cache
def only_cpu() -> bool:
    """Whether this process can have tensors on the CPU only, so that there is no need to look."""
    import torch

    return not torch.cuda.is_available()

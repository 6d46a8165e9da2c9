"""Who is measured: one class each. A peer imports what it needs in its methods, so that the process
that only starts others stays light."""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

Function = Callable[..., Any]
OFFLINE = "cuda:90"  # what tracejit compiles for where it has no target of its own


class Peer:
    """A way of running a function. This one runs it as it is."""

    name: ClassVar[str] = "eager"
    stored: ClassVar[bool] = False  # keeps compiled programs: a warm start differs from a cold one
    prepares: ClassVar[bool] = False  # its first use on a machine leaves something for all later
    guess: ClassVar[tuple[float, float]] = (4, 4)  # seconds of a cold and a warm start's process

    def available(self) -> str:
        """Why it cannot run here at all; "" if it can."""
        return ""

    def environment(self, caches: Path) -> dict[str, str]:
        """The variables that put all it keeps on disk below `caches`."""
        return {}

    def load(self) -> None:
        """Import what a program that uses it imports, and what its first call is bound to."""

    def compile(self, function: Function, device: str) -> Function:
        """The function as this peer runs it, on tensors of this device."""
        return function

    def fault(self, compiled: Function) -> str:
        """Why a function that was called is not what this peer is measured as; "" if it is."""
        return ""

    def note(self, device: str) -> str:
        """What it does on this device, in words."""
        return "PyTorch, operation by operation"

    def remark(self, device: str) -> str:
        """What must stand beside each of its figures lest they mislead; "" if nothing."""
        return ""


class EagerAgain(Peer):
    """The control: whatever differs between it and eager is noise."""

    name = "eager again"

    def note(self, device: str) -> str:
        return "the same once more: the noise of every other figure"


class TorchCompile(Peer):
    name = "torch.compile"
    stored = True
    prepares = True  # Inductor's precompiled headers, outside of the cache's directory
    guess = (30, 12)
    mode: ClassVar[str] = "default"

    def environment(self, caches: Path) -> dict[str, str]:
        return {
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }

    def load(self) -> None:
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch._inductor.compile_fx")

    def compile(self, function: Function, device: str) -> Function:
        import torch

        compiled: Function = torch.compile(function, mode=self.mode)
        return compiled

    def note(self, device: str) -> str:
        return f"Inductor, {'C++ for this CPU' if device == 'cpu' else 'Triton'}"


class MaxAutotune(TorchCompile):
    name = "max-autotune"
    prepares = False  # they are the same
    mode = "max-autotune"

    def note(self, device: str) -> str:
        tuned = (
            "; without freezing it tunes no matrix product on the CPU" if device == "cpu" else ""
        )
        return f'torch.compile(mode="max-autotune"): {super().note(device)}{tuned}'


class Tracejit(Peer):
    name = "tracejit"
    stored = True
    guess = (7, 5)

    def environment(self, caches: Path) -> dict[str, str]:
        target = os.environ.get("TRACEJIT_TARGET") or OFFLINE
        return {
            "TRACEJIT_CACHE_DIR": str(caches / "tracejit"),
            "TRACEJIT_TARGET": target,
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }

    def available(self) -> str:
        return "" if importlib.util.find_spec("triton") else "triton is not installed"

    def load(self) -> None:
        importlib.import_module("tracejit.api")

    def compile(self, function: Function, device: str) -> Function:
        from tracejit.api import compile

        backend = "triton" if self.offline(device) else "auto"
        return compile(function, backend=backend, wait=True, strict=True)

    def offline(self, device: str) -> bool:
        """Whether backend="auto" has no generator for this device, so that the program is compiled
        for a GPU that is not here."""
        from tracejit.runtime import targets

        return targets.choose("auto", device).reason is not None

    def fault(self, compiled: Function) -> str:
        from tracejit.api import dispatcher_of

        entries = dispatcher_of(compiled).entries
        if not entries:
            return "nothing was compiled"
        reason = entries[0].reason
        return "" if reason is None or reason.kind == "offline" else f"ran eagerly: {reason.text}"

    def note(self, device: str) -> str:
        from tracejit.runtime import targets
        from tracejit.runtime.config import config

        if self.offline(device):
            return (
                f"compiles and stores the program for {config.target} (backend='auto' has no "
                "generator for this device); calls run eagerly once the guards have been checked"
            )
        return f"kernels for {targets.choose('auto', device).target}"

    def remark(self, device: str) -> str:
        from tracejit.runtime.config import config

        offline = self.offline(device)
        return f"compiled for {config.target}, calls run eagerly here" if offline else ""


EAGER, CONTROL = Peer.name, EagerAgain.name
PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Peer(), TorchCompile(), MaxAutotune(), Tracejit(), EagerAgain())
}

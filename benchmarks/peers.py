"""Who is measured: one class each."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import ClassVar

from tracejit.benchmarks.foreign import Jax, TensorFlow
from tracejit.benchmarks.peer import Function, Peer
from tracejit.runtime.config import config

OFFLINE = "cuda:90"  # what tracejit compiles for where it has no target of its own


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

    def environment(self, caches: Path, threads: int) -> dict[str, str]:
        return {
            "TORCHINDUCTOR_CACHE_DIR": str(caches / "inductor"),
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }

    def load(self, threads: int) -> None:
        importlib.import_module("torch._dynamo")
        importlib.import_module("torch._inductor.compile_fx")

    def compile(self, function: Function, device: str) -> Function:
        import torch

        compiled: Function = torch.compile(function, mode=self.mode)
        return compiled

    def forget(self) -> None:
        importlib.import_module("torch._dynamo").reset()

    def note(self, device: str) -> str:
        return f"Inductor, {'C++ for this CPU' if device == 'cpu' else 'Triton'}"


class MaxAutotune(TorchCompile):
    name = "max-autotune"
    prepares = False  # they are the same
    tunes = True
    mode = "max-autotune"

    def environment(self, caches: Path, threads: int) -> dict[str, str]:
        """With freezing, without which it tunes no matrix product on the CPU; a program that needs
        no gradients may have it."""
        return super().environment(caches, threads) | {"TORCHINDUCTOR_FREEZING": "1"}

    def note(self, device: str) -> str:
        return f'torch.compile(mode="max-autotune") with freezing: {super().note(device)}'


class Tracejit(Peer):
    name = "tracejit"
    package = "triton"
    stored = True
    tunes = True
    guess = (7, 5)

    def environment(self, caches: Path, threads: int) -> dict[str, str]:
        return {
            "TRACEJIT_CACHE_DIR": str(caches / "tracejit"),
            "TRACEJIT_TARGET": config.target or OFFLINE,
            "TRITON_CACHE_DIR": str(caches / "triton"),
        }

    def load(self, threads: int) -> None:
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
MEASURED = (Peer(), TorchCompile(), MaxAutotune(), Tracejit(), Jax(), TensorFlow(), EagerAgain())
PEERS: dict[str, Peer] = {peer.name: peer for peer in MEASURED}

"""Small programs to compile, and what child processes do with them. Imports no test tools: children
import it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

import tracejit
from tests.fire.disks import warned


def chain(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * 3 + 1) * 2


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


class Block(torch.nn.Module):
    """Three different kernels and two products."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(16)
        self.wide = torch.nn.Linear(16, 32)
        self.narrow = torch.nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = torch.nn.functional.gelu(self.wide(self.norm(x)))
        return torch.softmax(x + self.narrow(hidden), dim=-1)


def block() -> Block:
    """The same module in every process."""
    torch.manual_seed(0)
    return Block().eval().requires_grad_(False)


def compiled(function: Any, **options: Any) -> Any:
    """A new compiled object: it knows nothing but what is on disk."""
    return tracejit.compile(function, **{"backend": "reference", "wait": True, **options})


def right(function: Any, x: torch.Tensor | None = None, **options: Any) -> list[str]:
    """Compile, call twice and compare with eager; where the entries came from. Raises if wrong."""
    x = torch.randn(4, 16) if x is None else x
    f, want = compiled(function, **options), function(x)
    for _ in range(2):
        got = f(x)
        assert torch.allclose(got, want, rtol=1e-5, atol=1e-6), f"{got} is not {want}"
    return sources(f)


def sources(f: Any) -> list[str]:
    """Whether each entry of a compiled function was `recorded` or came from `disk`."""
    from tracejit.api import dispatcher_of

    return [entry.source for entry in dispatcher_of(f).entries]


def for_a_gpu() -> tuple[list[str], list[str]]:
    """A call compiled for a GPU that need not be here, and the cache's warnings."""
    return warned(lambda: right(block(), torch.ones(4, 16), backend="triton"))


def stuck(started: str) -> None:
    """The same, with a compiler that makes this file and then takes a minute."""
    from tracejit.codegen.triton import offline

    def compile_kernels(*args: Any, **kwargs: Any) -> Any:
        Path(started).touch()
        time.sleep(60)

    offline.compile_kernels = compile_kernels
    for_a_gpu()


def leaving(signal: str) -> None:
    """Call in the background and come to the end of the program when this file appears."""
    from tracejit.runtime.worker import worker

    compiled(block(), wait=False, backend="triton")(torch.ones(4, 16))
    while not Path(signal).exists():
        time.sleep(0.01)
    worker.close()

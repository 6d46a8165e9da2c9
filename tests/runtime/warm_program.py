"""The program that test_end_to_end runs in processes of their own. Prints one line of JSON."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import torch

before = set(sys.modules)
import tracejit  # noqa: E402


@tracejit.compile(backend="interpret", wait=True)
def chain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * y + x) * 2


@tracejit.compile(backend="interpret", wait=True)
def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.nn.functional.gelu(self.inner(self.norm(x)))


def twice() -> dict[str, Any]:
    """Each program called twice and compared with eager."""
    x, y = torch.randn(8, 16), torch.randn(16)
    block = Block().eval().requires_grad_(False)
    compiled = tracejit.compile(block, backend="interpret", wait=True)
    start = time.perf_counter()
    results = [(chain(x, y), softmax(x), compiled(x)) for _ in range(2)]
    seconds = time.perf_counter() - start
    modules = sorted(set(sys.modules) - before)
    expected = (torch.relu(x * y + x) * 2, torch.softmax(x, -1), block(x))
    from tracejit.api import dispatcher_of

    return {
        "right": all(
            torch.allclose(a, b, atol=1e-6)
            for r in results
            for a, b in zip(r, expected, strict=True)
        ),
        "sources": [
            [e.source for e in dispatcher_of(f).entries] for f in (chain, softmax, compiled)
        ],
        "modules": modules,
        "seconds": seconds,
    }


def later(function: Any) -> Any:
    """The function, compiled in the background."""
    return tracejit.compile(function.__wrapped__, backend="interpret")


def fork() -> dict[str, Any]:
    """Fork while the parent compiles; both give right results."""
    f, x = later(softmax), torch.randn(4, 40)
    f(x)
    child = os.fork()
    right = torch.allclose(f(x), torch.softmax(x, -1))
    if child == 0:
        g = tracejit.compile(softmax.__wrapped__, backend="interpret", wait=True)
        right = right and torch.allclose(g(x), torch.softmax(x, -1)) and torch.allclose(g(x), g(x))
        os._exit(0 if right else 1)
    return {"child": os.waitpid(child, 0)[1], "right": right}


def leave() -> dict[str, Any]:
    """Exit right after the first call: the compiler is at work."""
    f, x = later(softmax), torch.randn(4, 40)
    return {"right": torch.equal(f(x), torch.softmax(x, -1))}


if __name__ == "__main__":
    torch.manual_seed(0)
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    if word == "import-only":
        print(json.dumps({"modules": sorted(set(sys.modules) - before)}))
    else:
        print(json.dumps({"fork": fork, "exit": leave}.get(word, twice)()))

"""The program that test_bundle runs in processes of their own: `build PATH TARGET` and
`load PATH`. Prints one line of JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

import tracejit
from tracejit.api import dispatcher_of


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> dict[str, Any]:
        y = torch.nn.functional.gelu(self.inner(self.norm(x))) * scale
        return {"y": x + y, "shape": y.shape}


def build(path: str, target: str) -> dict[str, Any]:
    made = tracejit.build(block(), (torch.randn(8, 16),), {"scale": 0.5}, target=target, out=path)
    return {"text": str(made), "kernels": len(made.plan.kernels)}


def load(path: str) -> dict[str, Any]:
    """Import, call, and compare with eager. Other weights than those that build saw."""
    tracejit.load(path)
    torch.manual_seed(1)
    plain, x = block(), torch.randn(8, 16)
    compiled = tracejit.compile(plain, backend="interpret", wait=True)
    found, expected = compiled(x, scale=0.5), plain(x, scale=0.5)
    return {
        "right": torch.allclose(found["y"], expected["y"], atol=1e-6)
        and found["shape"] == expected["shape"],
        "sources": [entry.source for entry in dispatcher_of(compiled).entries],
        "traced": "tracejit.trace" in sys.modules,
    }


def block() -> Block:
    return Block().eval().requires_grad_(False)


if __name__ == "__main__":
    print(json.dumps({"build": build, "load": load}[sys.argv[1]](*sys.argv[2:])))

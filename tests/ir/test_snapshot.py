"""What a graph looks like, as recorded and after all passes. `ACCEPT=1 pytest
tests/ir/test_snapshot.py` writes the snapshots anew.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from torch import nn

from tracejit.ir import passes
from tracejit.ir.graph import Graph
from tracejit.trace.recorder import record

SNAPSHOTS = Path(__file__).parent / "snapshots"


class Block(nn.Module):
    """A residual block with a view, a norm, a product, a write and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 16)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        gate, value = self.wide(self.norm(x)).chunk(2, dim=-1)
        out = x + torch.sigmoid(gate) * value
        out[:, 0] = 0.5
        return out.transpose(0, 1)


def recorded() -> Graph:
    with torch.no_grad():
        _, recording = record(Block(), (torch.ones(2, 3, 8),), {})
    assert recording.graph is not None, recording.refused
    return recording.graph


@pytest.mark.parametrize("name", ["recorded", "lowered"])
def test_graph_prints_as(name: str) -> None:
    graph = recorded()
    if name == "lowered":
        graph = passes.run(graph, passes.default_passes())
    file = SNAPSHOTS / f"{name}.txt"
    if os.environ.get("ACCEPT") == "1":
        file.write_text(f"{graph}\n")
    assert f"{graph}\n" == file.read_text()

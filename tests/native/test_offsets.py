"""Unrolled loops over slices: one kernel for all steps that differ only in where they begin."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tracejit
from tests.executors import NATIVE
from tests.native.test_product import rand

pytestmark = pytest.mark.skipif(not NATIVE, reason="native kernels")


def recurrent(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    h = torch.zeros_like(x[0])
    for step in x:
        h = torch.tanh(step + h @ w)
    return h


def gates(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
    """As torch's own recurrent cells: gates are computed in place on chunks."""
    found, c = [], torch.zeros_like(x[0, :, : w.shape[0]])
    for step in x:
        parts = (step + c @ w).chunk(2, 1)
        kept, new = parts[0].sigmoid_(), parts[1].tanh_()
        c = kept * c + new
        found.append(c)
    return found


def reversed_steps(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    h = torch.zeros_like(x[0])
    for k in reversed(range(len(x))):
        h = torch.tanh(x[k].flip(0) + h @ w)
    return h


def shifted(x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
    """Loads at two offsets of one tensor, some behind a mask."""
    found, h = [], x[0]
    for k in range(len(x) - 1):
        padded = torch.nn.functional.pad(x[k + 1], (1, -1))
        h = torch.sin(padded + x[k] + (h @ w))
        found.append(h)
    return found


CASES = {
    "recurrent": (recurrent, rand(9, 5, 16), rand(16, 16), 4),
    "recurrent, turned": (recurrent, rand(5, 9, 16).transpose(0, 1), rand(16, 16), 4),
    "recurrent, a part": (recurrent, rand(12, 5, 40)[2:, :, 8:24], rand(16, 16), 4),
    "gates": (gates, rand(9, 5, 32), rand(16, 32), 6),
    "reversed": (reversed_steps, rand(9, 5, 16), rand(16, 16), 4),
    "shifted": (shifted, rand(9, 5, 16), rand(16, 16) / 8, 8),
}


@pytest.mark.parametrize("name", CASES)
def test_one_kernel_for_all_steps(name: str, fresh_cache: Path) -> None:
    function, x, w, most = CASES[name]
    compiled = tracejit.compile(function, wait=True)
    for seed in range(3):
        given = x + seed if x.is_contiguous() else x
        torch.testing.assert_close(compiled(given, w), function(given, w), rtol=1e-5, atol=1e-5)
    report = tracejit.explain(compiled).to_json()
    (entry,) = report["entries"]
    assert len(entry["program"]["kernels"]) <= most, str(tracejit.explain(compiled))

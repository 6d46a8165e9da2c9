"""Large fresh memory is on huge pages, where the system has them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import tracejit
from tracejit.runtime import hugepages

SMAPS = Path("/proc/self/smaps")
LARGE, SMALL = hugepages.FROM // 4, 1000  # elements of f32


def flags(tensor: torch.Tensor) -> list[str]:
    """Those of the mapping that a tensor's middle lies in (proc(5), VmFlags)."""
    middle, found = tensor.data_ptr() + tensor.nbytes // 2, False
    for line in SMAPS.read_text().splitlines():
        if area := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            found = int(area[1], 16) <= middle < int(area[2], 16)
        elif found and line.startswith("VmFlags:"):
            return line.split()[1:]
    raise AssertionError("the tensor is nowhere")


@pytest.mark.skipif(not SMAPS.exists(), reason="no /proc/self/smaps here")
@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage").exists(), reason="this system has no huge pages"
)
def test_large_results_are_on_huge_pages() -> None:
    compiled = tracejit.compile(lambda x: x + 1, wait=True)
    for size in (LARGE, SMALL):
        compiled(torch.zeros(size))  # the recording is eager
        result = compiled(torch.zeros(size))
        assert ("hg" in flags(result)) == (size == LARGE)
        assert torch.equal(result, torch.ones(size))


def test_without_them_nothing_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hugepages, "_advise", lambda: None)
    tensor = torch.empty(8)
    assert hugepages.on_huge_pages(tensor) is tensor


@pytest.mark.parametrize("size", [0, 1, 5000])
def test_a_refusal_changes_nothing(size: int) -> None:
    """Smaller than a page, empty, or not alone on its pages: the values stay."""
    tensor = torch.arange(size)
    assert torch.equal(hugepages.on_huge_pages(tensor), torch.arange(size))

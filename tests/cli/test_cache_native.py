"""`tracejit cache show` of native kernels."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import tracejit
from tests.cli.caches import document, only, text
from tests.cli.test_cache_show import labelled
from tests.executors import TARGET
from tracejit.runtime import cpu

pytestmark = pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels")


def scaled(x: torch.Tensor) -> torch.Tensor:
    return torch.tanh(x) * 3


@pytest.fixture
def own(fresh_cache: Path) -> Path:
    """A cache with one native kernel."""
    tracejit.compile(scaled, wait=True)(torch.ones(40))
    return fresh_cache


def test_only_what_is_known_is_said(own: Path) -> None:
    kernel = only(own, "kernels", TARGET)
    lines = labelled(text(own, "show", kernel))
    (code,) = lines["code"]
    assert " of object, compiled in " in code
    assert "launch" not in lines
    assert "register" not in code and "spilled" not in code
    assert document(own, "show", kernel)["kernel"]["machine_code"]["registers"] is None
    assert "registers" not in str(tracejit.explain(tracejit.compile(scaled)))


def test_source_and_assembly(own: Path) -> None:
    kernel = only(own, "kernels", TARGET)
    source, assembly = text(own, "show", kernel, "--source"), text(own, "show", kernel, "--ptx")
    assert "define ptr @tanh_mul(" in source and "test_cache_native.py" in source
    assert "tanh_mul:" in assembly and "define" not in assembly

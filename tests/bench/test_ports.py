"""Workloads in other frameworks: each is written once for each, and computes what PyTorch does."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
import torch

from tracejit import benchmarks
from tracejit.benchmarks.convert import to_numpy, to_torch
from tracejit.benchmarks.equality import difference
from tracejit.benchmarks.foreign import Foreign
from tracejit.benchmarks.peers import PEERS
from tracejit.benchmarks.registry import registered

FOREIGN = [peer for peer in PEERS.values() if isinstance(peer, Foreign)]
PORTED = {name: row for name, row in registered().items() if row.port}
SMALL = [n for n, row in PORTED.items() if not row.suite or "/1K/" in n or "/b1/" in n]


def functions(module: str) -> set[str]:
    """Names of the functions of a module of ports, which is not imported."""
    path = Path(benchmarks.__path__[0]) / "ports" / f"{module}.py"
    nodes = ast.parse(path.read_text()).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("peer", FOREIGN, ids=lambda peer: peer.name)
def test_every_port_is_written(peer: Foreign) -> None:
    for port in {row.port for row in PORTED.values()}:
        module, _, name = port.partition(":")
        assert name.replace("-", "_") in functions(f"{peer.ports}_{module}"), port


def test_what_has_no_port_says_why() -> None:
    jax = PEERS["jax.jit"]
    assert jax.lacks(registered()["llama"]) == "written for PyTorch only"
    assert "cannot write into a buffer" in jax.lacks(registered()["micro/gate-into/16/fp32"])
    assert jax.lacks(registered()["models/gpt/b1/bf16"]) == ""
    assert PEERS["torch.compile"].lacks(registered()["llama"]) == ""


@pytest.mark.parametrize("peer", FOREIGN, ids=lambda peer: peer.name)
def test_equal_to_pytorch(peer: Foreign) -> None:
    if importlib.util.find_spec(peer.package) is None:
        pytest.skip(f"{peer.package} is not installed")
    peer.load(0)
    wrong = {name: found for name in SMALL if (found := difference_of(peer, name))}
    assert wrong == {}


def difference_of(peer: Foreign, name: str) -> str:
    """In what way the peer's result is not PyTorch's; "" if it is the same."""
    torch.manual_seed(0)
    work = PORTED[name].build(not name.startswith("micro/"))
    compiled = peer.compile(peer.version(work, PORTED[name].port), "cpu")
    result = peer.result(compiled(*peer.inputs(work)))
    with torch.no_grad():
        return difference(result, work.function(*work.args), foreign=True)


def test_they_are_missed_with_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = PEERS["jax.jit"].available("cpu")
    assert said == "jax is not installed: pip install 'tracejit[peers]'"
    assert PEERS["tracejit"].available("cpu") == "triton is not installed"
    assert "CPU only" in PEERS["tf.function"].available("cuda")


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64, torch.bool])
def test_there_and_back(dtype: torch.dtype) -> None:
    tensor = torch.arange(6).reshape(2, 3).t().to(dtype)
    assert torch.equal(to_torch(to_numpy(tensor)), tensor)


def test_bfloat16_there_and_back() -> None:
    pytest.importorskip("ml_dtypes")
    tensor = torch.randn(3, 4).to(torch.bfloat16)
    found = to_torch(to_numpy(tensor.t()))
    assert found.dtype == torch.bfloat16 and torch.equal(found, tensor.t())

"""The workloads: each is there, small when it is tiny, and runs eagerly."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from tracejit.benchmarks import registry
from tracejit.benchmarks.registry import chosen, registered
from tracejit.runtime.errors import BadOption, MissingExtra

DEFAULT = ["pointwise", "softmax", "layer-norm", "gpt", "llama", "gpt2", "bert", "vit", "resnet"]


def test_the_default_set() -> None:
    assert [w.name for w in chosen([])] == DEFAULT
    assert set(registered()) - set(DEFAULT) == {"gpt16"}
    assert [w.name for w in chosen(["gpt16", "gpt", "gpt16"])] == ["gpt16", "gpt"]


@pytest.mark.parametrize("name", registered())
def test_tiny_runs_and_repeats(name: str) -> None:
    """The same seed gives the same work in every process."""
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        work = registered()[name].build(True)
        assert sum(a.numel() for a in work.args) <= 1000
        with torch.no_grad():
            results.append(pytree.tree_leaves(work.function(*work.args)))
    assert any(isinstance(leaf, torch.Tensor) and leaf.numel() for leaf in results[0])
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_each_is_described() -> None:
    assert all(w.about and "\n" not in w.about for w in registered().values())


def test_unknown_name() -> None:
    with pytest.raises(BadOption, match="workload='gptt' is not one of pointwise, .*resnet"):
        chosen(["gptt"])


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtra) as caught:
        chosen(["gpt", "llama", "vit"])
    assert str(caught.value) == (
        "each of the workloads llama, vit needs transformers: pip install 'tracejit[bench]'"
    )
    assert [w.name for w in chosen(["gpt"])] == ["gpt"]


def test_looking_loads_no_torch() -> None:
    code = (
        "import sys, tracejit.cli.bench as b; b.registered(); "
        "print([m for m in ('torch', 'transformers', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_decorated_function_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "REGISTRY", {})

    @registry.workload("one line", default=False)
    def my_own(tiny: bool) -> registry.Work:
        return registry.Work(abs, (torch.zeros(1 if tiny else 9),))

    row = registry.REGISTRY["my-own"]
    assert (row.about, row.default, row.needs) == ("one line", False, "")
    assert row.build(True).args[0].numel() == 1

"""The workloads: each is there, small when it is tiny, and runs eagerly."""

from __future__ import annotations

import importlib.util
import itertools
import subprocess
import sys

import pytest
import torch
from torch.utils import _pytree as pytree

from tracejit.benchmarks import micro, registry
from tracejit.benchmarks.registry import chosen, registered
from tracejit.benchmarks.traffic import traffic
from tracejit.runtime.errors import BadOption, MissingExtra

DEFAULT = ["pointwise", "softmax", "layer-norm", "gpt", "llama", "gpt2", "bert", "vit", "resnet"]


def test_the_default_set() -> None:
    assert [w.name for w in chosen([])] == DEFAULT
    others = {name for name, row in registered().items() if not row.suite} - set(DEFAULT)
    assert others == {"gpt16"}
    assert [w.name for w in chosen(["gpt16", "gpt", "gpt16"])] == ["gpt16", "gpt"]


def small(row: registry.Workload) -> bool:
    """One size and batch of each: tiny ones are alike."""
    return not row.suite or "/16/" in row.name or "/b1/" in row.name


@pytest.mark.parametrize("name", [name for name, row in registered().items() if small(row)])
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
    said = "workload='gptt' is not one of pointwise, .*resnet, micro/…, models/…"
    with pytest.raises(BadOption, match=said):
        chosen(["gptt"])


@pytest.mark.parametrize(
    ("word", "count", "first"),
    [
        ("micro", 240, "micro/gate/16/fp32"),
        ("micro/softmax", 10, "micro/softmax/16/fp32"),
        ("micro/*/16", 48, "micro/gate/16/fp32"),
        ("micro/*/bf16", 120, "micro/gate/16/bf16"),
        ("micro/*/64K/fp32", 24, "micro/gate/64K/fp32"),
        ("models", 28, "models/gpt/b1/fp32"),
        ("models/*/b8/bf16", 7, "models/gpt/b8/bf16"),
        ("gpt*", 3, "gpt"),
    ],
)
def test_suites_are_named_by_parts_and_patterns(word: str, count: int, first: str) -> None:
    found = [row.name for row in chosen([word])]
    assert (len(found), found[0]) == (count, first)


def test_the_micro_suite_is_a_table() -> None:
    """Every kernel in every size and type, with as many elements as its name says."""
    cells = {tuple(row.name.split("/")[1:]) for row in chosen(["micro"])}
    assert cells == set(
        itertools.product([k.name for k in micro.KERNELS], micro.SIZES, micro.DTYPES)
    )
    counts = {"16": 16, "1K": 1 << 10, "64K": 1 << 16, "1M": 1 << 20, "16M": 1 << 24}
    assert {name: rows * width for name, (rows, width) in micro.SIZES.items()} == counts
    for kernel in ("gate", "sum-middle", "embedding-add"):
        args = registered()[f"micro/{kernel}/64K/bf16"].build(False).args
        floats = [a for a in args if a.is_floating_point()]
        assert floats[-1].numel() == 1 << 16 and {a.dtype for a in floats} == {torch.bfloat16}


def test_models_have_their_batch_and_type() -> None:
    work = registered()["models/mlp/b8/bf16"].build(False)
    assert isinstance(work.function, torch.nn.Module)
    assert work.args[0].shape[0] == 8 and work.args[0].dtype == torch.bfloat16
    assert {p.dtype for p in work.function.parameters()} == {torch.bfloat16}
    work = registered()["models/gpt/b8/bf16"].build(True)
    assert work.args[0].shape[0] == 8 and work.args[0].dtype == torch.int64


def test_rows_of_a_table_that_are_not_taken_are_not_read() -> None:
    torch.manual_seed(0)
    work = registered()["micro/embedding-add/1K/fp32"].build(False)
    table, ids, places = work.args
    taken = ids.unique().numel()
    assert 0 < taken < table.shape[0]
    result = work.function(*work.args)
    moved = taken * 64 * 4 + ids.numel() * 8 + 2 * places.numel() * 4
    assert traffic(work, result) == moved


def test_what_shares_memory_moves_once() -> None:
    work = registered()["micro/gate-into/1K/fp32"].build(False)
    result = work.function(*work.args)
    assert result is work.args[2] and traffic(work, result) == 3 * 1024 * 4


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
    assert (row.about, row.default, row.needs, row.suite) == ("one line", False, "", "")
    assert row.build(True).args[0].numel() == 1

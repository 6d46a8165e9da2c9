"""Kernels, plans and records in a store: whole or not there, counted, and with their graph."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import tracejit
from tracejit.api import dispatcher_of
from tracejit.ir.text import parse
from tracejit.runtime import bundle, cache
from tracejit.runtime.cache import Cache, Kernel, StoredPlan, make_record
from tracejit.runtime.files import Item
from tracejit.runtime.kernel import KernelSource
from tracejit.runtime.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache")


SOURCE = KernelSource("relu", "x = 1\n", "interpret", (("x", "*fp32"),), ("x",), {}, 1)
KERNEL = Kernel("k" * 64, SOURCE)
PLAN = StoredPlan("a" * 64, "def run(): pass\n", {"title": "f"}, {"relu": KERNEL}, {}, "graph(…)\n")


def test_a_hit_is_counted_once_in_a_process(store: Store) -> None:
    cache = Cache(store.directory)
    record = make_record({}, None, PLAN.key, "f")
    assert cache.write_plan(PLAN) and cache.write_record("f", record)
    os.utime(store.path("kernels", KERNEL.key), (5, 5))
    for _ in range(2):
        cache.used("f", record, [KERNEL.key])
    Cache(store.directory).used("f", record, [])
    assert store.hits(record.key) == 2
    assert store.path("kernels", KERNEL.key).stat().st_mtime > 1e9


def test_a_plan_is_whole_or_not_there(store: Store) -> None:
    cache = Cache(store.directory)
    assert cache.write_plan(PLAN, {"target": "interpret"})
    assert cache.read_plan(PLAN.key) == PLAN
    assert store.inspect("plans", PLAN.key).written["environment"] == {"target": "interpret"}
    store.remove("kernels", KERNEL.key)  # what a limit does in another process
    assert cache.read_plan(PLAN.key) is None
    assert cache.write_plan(PLAN) and cache.read_plan(PLAN.key) == PLAN


@pytest.mark.parametrize("fields", [{}, {"manifest": {}, "kernels": 3}])
def test_a_whole_file_of_another_shape(store: Store, fields: dict[str, object]) -> None:
    cache = Cache(store.directory)
    store.write("plans", "p", Item(fields))
    with pytest.warns(UserWarning, match="is not as this version writes it"):
        assert cache.read_plan("p") is None
    assert store.keys("plans") == []


def summed(x: torch.Tensor) -> torch.Tensor:
    return torch.relu(x + 1).sum(-1)


def test_the_graph_is_kept(fresh_cache: Path, tmp_path: Path) -> None:
    compiled = tracejit.compile(summed, backend="interpret", wait=True)
    compiled(torch.ones(2, 3))
    found = cache.shared()
    (key,) = found.store.keys("plans")
    plan = found.read_plan(key)
    assert plan is not None
    head, recorded, lowered = plan.graph.replace("# after the passes", "# recorded").split(
        "# recorded\n"
    )
    assert head == "" and "aten.relu" in recorded
    stages = {stage.name: stage.text for stage in dispatcher_of(compiled).traces}
    passes = list(stages)[: list(stages).index("schedule")]
    assert parse(recorded) and recorded.strip() == stages["recorded"]
    assert parse(lowered) and lowered.strip() == stages[passes[-1]] and len(passes) > 1
    tracejit.build(summed, (torch.ones(2, 3),), target="interpret", out=tmp_path / "b")
    assert bundle.unpack((tmp_path / "b").read_bytes()).plan.graph == plan.graph
    found.store.remove("plans", key)
    tracejit.load(tmp_path / "b")
    assert found.read_plan(key) == plan


def test_what_is_written_says_for_what(fresh_cache: Path) -> None:
    compiled = tracejit.compile(summed, backend="interpret", numerics="fast", wait=True)
    compiled(torch.ones(2, 3))
    store = cache.shared().store
    environments = [store.peek(f.kind, f.key).written["environment"] for f in store.files()]
    assert len(environments) == 3
    assert all(found == cache.environment("interpret", "fast") for found in environments)

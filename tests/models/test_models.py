"""Models with random weights: equal to eager, compiled whole, their kernels pinned.

`ACCEPT=1 .venv/bin/pytest tests/models -k pinned` writes the table of counts and bytes anew.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils import _pytree as pytree

import tracejit
from tracejit.api import dispatcher_of
from tracejit.benchmarks.models import MODELS
from tracejit.benchmarks.registry import Work
from tracejit.check import check_kernels
from tracejit.codegen.triton import offline
from tracejit.compiler import Pipeline
from tracejit.fuse.program import Program, RunExtern, RunKernel
from tracejit.runtime import cpu
from tracejit.runtime.config import config
from tracejit.runtime.kernel import KernelSource
from tracejit.trace.recorder import record

TABLE = Path(__file__).with_name("table.json")
TARGETS = ("cuda:80", "cuda:90", "cuda:100", "hip:gfx942")

# Kernels besides matrix products and attention that one more block may cost: its norms, each with
# the residual add in it, its activation with the gate, and its rotary embedding.
PER_BLOCK = {"gpt": 3, "llama": 4, "gpt2": 3, "bert": 3, "vit": 3}


@functools.cache
def workload(name: str, **sizes: int) -> Work:
    torch.manual_seed(0)
    return MODELS[name](**sizes)


@dataclass
class Compiled:
    """A model's program for the interpreter, and the sources of its kernels."""

    program: Program
    sources: dict[str, KernelSource]


@functools.cache
def compiled(name: str, target: str = "interpret", **sizes: int) -> Compiled:
    """Record the model's call and take it through all stages but machine code."""
    work = workload(name, **sizes)
    with torch.no_grad():
        _, recording = record(work.function, work.args, {})
    assert recording.graph is not None, recording.refused
    built = Pipeline(target="interpret").build(recording.graph)
    return Compiled(built.program, built.kernels)


def sources_for(name: str, target: str) -> dict[str, KernelSource]:
    """The model's kernels as generated for a target."""
    return Pipeline(target=target).generate(compiled(name).program)


def assert_equal(ours: Any, eager: Any) -> None:
    """Same structure, same types, same values (to rounding), dtypes and strides."""
    assert type(ours) is type(eager)
    leaves, shape = pytree.tree_flatten(ours)
    expected, expected_shape = pytree.tree_flatten(eager)
    assert shape == expected_shape
    for mine, theirs in zip(leaves, expected, strict=True):
        torch.testing.assert_close(mine, theirs, check_stride=True)


@pytest.fixture(params=MODELS)
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.skipif(bool(cpu.lacking()), reason="no native kernels here")
def test_native_equals_eager(name: str) -> None:
    """What "auto" does with CPU tensors, strict."""
    work = workload(name)
    model = tracejit.compile(work.function, wait=True, strict=True)
    with torch.no_grad():
        want = work.function(*work.args)
        for _ in range(3):
            assert_equal(model(*work.args), want)
    dispatcher = dispatcher_of(model)
    assert [entry.run is not None for entry in dispatcher.entries] == [True]
    assert dispatcher.reasons == []


def test_interpreted_equals_eager(name: str) -> None:
    """Strict: a call that ran eagerly for want of a program would raise."""
    work = workload(name)
    model = tracejit.compile(work.function, backend="interpret", wait=True, strict=True)
    with torch.no_grad():
        want = work.function(*work.args)
        for _ in range(3):
            assert_equal(model(*work.args), want)
    dispatcher = dispatcher_of(model)
    assert [entry.run is not None for entry in dispatcher.entries] == [True]
    assert dispatcher.reasons == []


def test_offline_equals_eager(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled for a GPU that is not here: the program is stored, the calls are eager's."""
    monkeypatch.setattr(config, "target", "cuda:90")
    work = workload(name)
    model = tracejit.compile(work.function, backend="triton", wait=True, strict=True)
    with torch.no_grad():
        want = work.function(*work.args)
        for _ in range(2):
            assert_equal(model(*work.args), want)
    (entry,) = dispatcher_of(model).entries
    assert entry.reason.kind == "offline", entry.reason


def test_each_kernel_equals_eager(name: str) -> None:
    work = workload(name)
    with torch.no_grad():
        found = check_kernels(work.function, *work.args)
    assert found
    assert [f"{c.kernel}: {c.wrong}" for c in found if c.wrong] == []


@pytest.mark.parametrize("target", TARGETS)
def test_each_kernel_compiles_without_spills(name: str, target: str) -> None:
    sources = sources_for(name, target)
    binaries = list(offline.compile_kernels(list(sources.values()), target))
    spills = {name: b.spills for name, b in zip(sources, binaries, strict=True)}
    assert spills == dict.fromkeys(sources, 0)


def counts(name: str) -> dict[str, Any]:
    """What a change of the compiler must not change unnoticed."""
    made = compiled(name)
    steps = made.program.steps
    launches = [s.nest.bytes_moved() for s in steps if isinstance(s, RunKernel)]
    externs: dict[str, int] = {}
    for step in steps:
        if isinstance(step, RunExtern):
            externs[step.op] = externs.get(step.op, 0) + 1
    return {
        "kernels": len(made.sources),
        "launches": len(launches),
        "externs": dict(sorted(externs.items())),
        "read": sum(read for read, _ in launches),
        "written": sum(written for _, written in launches),
    }


def test_counts_are_pinned() -> None:
    found = {name: counts(name) for name in MODELS}
    if os.environ.get("ACCEPT") == "1":
        TABLE.write_text(json.dumps(found, indent=1) + "\n")
    assert found == json.loads(TABLE.read_text())


@pytest.mark.parametrize("block_model", PER_BLOCK)
def test_one_more_block_costs_few_kernels(block_model: str) -> None:
    two, three = counts_of_blocks(block_model, 2), counts_of_blocks(block_model, 3)
    assert three[0] - two[0] <= PER_BLOCK[block_model]
    assert three[1] == two[1], "a further block needs no kernel that the others do not have"


def counts_of_blocks(name: str, blocks: int) -> tuple[int, int]:
    """Launches and different kernels of the model with so many blocks."""
    made = compiled(name, blocks=blocks)
    launches = sum(isinstance(step, RunKernel) for step in made.program.steps)
    return launches, len(made.sources)

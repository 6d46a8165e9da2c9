"""`tracejit bisect`: a mistake planted in each stage is found in that stage."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from tracejit.check import CALL, GENERATOR, NEST, RECORDER, Check
from tracejit.cli.root import tracejit as command
from tracejit.codegen.triton import rules
from tracejit.fuse.scalar import Scalar
from tracejit.ir import passes
from tracejit.ir.graph import Graph
from tracejit.ops.table import OPS
from tracejit.runtime import bind, devices
from tracejit.runtime.plan import Plan

MODEL = """\
import torch


def f(x, y):
    return (x * y).sum(-1), {"max": [(x - y).amax(0)]}


def inputs():
    return torch.randn(4, 8), torch.randn(4, 8)


def several(x, out):
    out.add_(torch.nn.functional.dropout(x, 0.5, True))
    return x.t(), out * 2


def refused(x):
    return torch.from_numpy(x.numpy() * 2)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    (tmp_path / "bad.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "bad", raising=False)


def run(*words: str) -> Result:
    return CliRunner().invoke(command, ["bisect", *words])


def recorder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operands of a subtraction are swapped when it is written down."""
    add = Graph.add

    def swapped(graph: Graph, op: str, args: Any, *rest: Any, **more: Any) -> Any:
        args = (args[1], args[0], *args[2:]) if op.startswith("aten.sub") else args
        return add(graph, op, args, *rest, **more)

    monkeypatch.setattr(Graph, "add", swapped)


def a_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass makes products sums."""

    def wrong(graph: Graph) -> Graph:
        for node in graph.nodes:
            node.op = node.op.replace("aten.mul", "aten.add")
        return graph

    listed = [*passes.default_passes(), ("planted", wrong)]
    monkeypatch.setattr(passes, "default_passes", lambda: listed)


def broken_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass raises."""

    def broken(graph: Graph) -> Graph:
        raise LookupError("broken")

    listed = [*passes.default_passes(), ("raising", broken)]
    monkeypatch.setattr(passes, "default_passes", lambda: listed)


def nest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row says that a product is a difference."""

    def wrong(x: Scalar, y: Scalar) -> Scalar:
        return x - y

    monkeypatch.setitem(OPS, "aten.mul.Tensor", replace(OPS["aten.mul.Tensor"], expr=wrong))


def generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton's text for a product is a sum."""
    monkeypatch.setitem(rules.RULES, ("mul", "any"), rules.RULES["add", "any"])


def call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loaded plan gives its outputs negated."""
    load = bind.load

    def wrong(*args: Any) -> Plan:
        plan = load(*args)

        def negated(inputs: Any) -> Any:
            return tuple(-output for output in plan.run(inputs))

        return replace(plan, run=negated, shown=negated)

    monkeypatch.setattr(bind, "load", wrong)


PLANTED: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    RECORDER: recorder,
    "planted": a_pass,
    "raising": broken_pass,
    NEST: nest,
    GENERATOR: generator,
    CALL: call,
}


@pytest.mark.parametrize("stage", PLANTED)
def test_a_planted_mistake_is_found_in_its_stage(
    stage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    PLANTED[stage](monkeypatch)
    done = run("bad.py:f", "--inputs", "inputs", "--backend", "interpret")
    assert done.exit_code == 1, done.output
    assert f"at fault: {stage}" in done.output and done.output.count("WRONG") == 1
    assert (", kernel " in done.output) == (stage in (NEST, GENERATOR))
    data = json.loads(run("bad:f", "--inputs", "inputs", "--backend", "interpret", "--json").output)
    assert data["fault"] == data["stages"][-1] and data["fault"]["stage"] == stage
    assert [step["wrong"] for step in data["stages"][:-1]] == [""] * (len(data["stages"]) - 1)


def test_a_kernel_that_raises_is_the_generators_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: Any) -> None:
        raise LookupError("broken")

    monkeypatch.setattr(devices, "load", lambda *args: broken)
    done = run("bad.py:f", "--inputs", "inputs", "--backend", "interpret")
    assert done.exit_code == 1, done.output
    assert f"at fault: {GENERATOR}\n  LookupError: broken" in done.output


@pytest.mark.parametrize("backend", ["auto", "interpret", "reference"])
def test_all_is_well(backend: str) -> None:
    done = run("bad.py:f", "--inputs", "inputs", "--backend", backend)
    assert done.exit_code == 0 and "every stage agrees with eager" in done.output
    data = json.loads(run("bad:f", "--inputs", "inputs", "--backend", backend, "--json").output)
    stages = [step["stage"] for step in data["stages"]]
    assert data["schema"] == 1 and data["fault"] is None
    assert stages[0] == RECORDER and GENERATOR in stages and stages[-1] == CALL


def test_writes_and_random_numbers_are_those_of_one_call() -> None:
    """Each stage begins with the same inputs and random state, though calls change them."""
    arguments = "torch.ones(4, 3), torch.zeros(4, 1).expand(4, 3).contiguous()"
    done = run("bad.py:several", "--args", arguments, "--backend", "interpret")
    assert done.exit_code == 0, done.output


def test_what_cannot_be_compared() -> None:
    done = run("bad.py:refused", "--args", "torch.ones(2)")
    assert done.exit_code == 2 and "the call was not recorded" in done.output
    done = run("bad.py:f", "--inputs", "inputs", "--args", "1, 2")
    assert done.exit_code == 2 and "--args and --inputs both" in done.output
    done = run("bad.py:f", "--inputs", "inputs", "--backend", "triton")
    assert torch.cuda.is_available() or "nothing to compare" in done.output


def test_expanded_inputs_keep_their_strides() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1

    with torch.no_grad():
        found = list(Check(f, (torch.randn(4, 1).expand(4, 8),), {}, "interpret").stages())
    assert [c.wrong for c in found] == [""] * len(found)

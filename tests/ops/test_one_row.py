"""An elementwise op is one row: the one that CONTRIBUTING.md shows, and one that is added here and
becomes a kernel on every path."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import tracejit
from tests.executors import BACKENDS
from tests.ops.test_values import FLOATS, INTS, check, pairs, values
from tracejit.fuse.scalar import VOCABULARY, Scalar, where
from tracejit.ops.pointwise import always, floating, pointwise
from tracejit.ops.table import OPS, Kind
from tracejit.ops.words import Step, isnan, log1p, operand

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [path for folder in ("tracejit", "codegen", "runtime")
           for path in sorted((ROOT / folder).rglob("*.py"))]  # fmt: skip
# Elementwise ops that the compiler itself puts into graphs or takes out of them, and why.
BUILT = {
    "aten.clone": "copies that layouts ask for",
    "aten._to_copy": "casts",
    "aten.neg": "tensors that are negated lazily",
    "aten.eq.Tensor": "torch.equal, in steps",
    "aten.where.self": "x[mask] = number, at the graph's door",
    "aten.add.Tensor": "x + 0; the bias of a product in loops",
    "aten.sub.Tensor": "x - 0",
    "aten.mul.Tensor": "x * 1; a product in loops",
    "aten.div.Tensor": "x / 1",
    "aten.pow.Tensor_Scalar": "x ** 1",
}
NAME = "aten.special_xlog1py"  # has no row


def test_the_table_alone_names_elementwise_ops() -> None:
    elementwise = {op.name for op in OPS.values() if op.kind is Kind.POINTWISE}
    outside = [path for path in SOURCES if ROOT / "tracejit" / "ops" not in path.parents]
    found = {name for path in outside for name in names_in(path)}
    assert found & elementwise == set(BUILT)


def names_in(path: Path) -> Iterator[str]:
    """The ops that a module names, in what is no docstring."""
    for node in ast.walk(ast.parse(path.read_text())):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and "\n" not in node.value
        ):
            yield from re.findall(r"\baten\.\w+(?:\.\w+)?", node.value)


def test_the_op_that_contributing_shows_is_that_diff_and_nothing_else() -> None:
    (diff,) = re.findall(r"```diff\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S)
    changed = re.findall(r"^\+\+\+ b/(.+)$", diff, re.M)
    hunks = [re.findall(r"^\+(.*)$", hunk, re.M) for hunk in diff.split("@@\n")[1:]]
    path = ROOT / changed[0]
    without = text = path.read_text()
    for lines in hunks:
        added = "\n".join([*lines, ""])
        assert text.count(added) == 1
        without = without.replace(added, "")
    (name,) = re.findall(r'^\+pointwise\("(\w+)"', diff, re.M)
    assert len(changed) == 1 and path.parent == ROOT / "tracejit" / "ops"
    assert OPS[f"aten.{name}"].kind is Kind.POINTWISE
    assert name not in without
    assert [p for p in SOURCES if re.search(rf"\b{name}\b", p.read_text())] == [path]
    for dtype in (*FLOATS, *INTS, torch.bool):
        x = values(dtype)
        check(lambda x=x: getattr(torch.ops.aten, name)(x), rtol=1e-6)


def xlog1py(x: Scalar, y: Scalar, *, step: Step) -> Scalar:
    """`x * log1p(y)`, 0 where x is 0 unless y is NaN."""
    return where(isnan(y), y, where(x.eq(0), operand(0, x.dtype), x * step(log1p(y))))


@pytest.fixture
def added(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    """A row for the op that has none, for one test."""
    before, words = dict(OPS), dict(VOCABULARY)
    assert NAME not in OPS
    pointwise("special_xlog1py", xlog1py, operands=2, rule=floating, rounds=always, stepwise=True)
    row = OPS.pop(NAME)
    assert (before, words) == (OPS, VOCABULARY)  # nothing else was added
    monkeypatch.setitem(OPS, NAME, row)


def program(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.special.xlog1py(x * 2, y).sum(-1)


@pytest.mark.parametrize("dtype", [*FLOATS, *INTS, torch.bool], ids=str)
def test_an_added_row_is_as_eager(added: None, dtype: torch.dtype) -> None:
    """Its shape rule and its values."""
    x, y = pairs(dtype)
    check(lambda: torch.special.xlog1py(x, y), rtol=2e-6)


@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_an_added_row_is_fused(added: None, backend: str) -> None:
    compiled = tracejit.compile(program, backend=backend, wait=True, strict=True)
    x, y = torch.randn(6, 40), torch.rand(6, 40)
    compiled(x, y)
    torch.testing.assert_close(compiled(x, y), program(x, y))
    (entry,) = tracejit.explain(compiled, x, y).to_json()["entries"]
    assert (len(entry["program"]["kernels"]), entry["program"]["library"]) == (1, [])


def test_an_added_row_is_machine_code(added: None, tmp_path: Path) -> None:
    x, y = torch.randn(6, 40), torch.rand(6, 40)
    built = tracejit.build(program, (x, y), target="cuda:90", out=tmp_path / "built")
    (kernel,) = built.plan.kernels.values()
    assert kernel.binary is not None and kernel.binary.kind == "cubin"
    assert "libdevice.log1p" in kernel.source.text
    assert not built.plan.manifest["externs"]

"""What a kernel's text looks like. `ACCEPT=1 pytest tests/kernels/test_text.py` writes the
snapshots anew.
"""

from __future__ import annotations

import ast
import os
import re
from pathlib import Path

import pytest

from tracejit.codegen.triton import rules
from tracejit.codegen.triton.generate import generate
from tracejit.codegen.triton.layout import broken, split
from tracejit.codegen.triton.strategy import Strategy, choose, ladder
from tracejit.fuse.scalar import make
from tracejit.ir.graph import Origin

SNAPSHOTS = Path(__file__).parent / "snapshots"
KEPT = (
    *("gelu", "silu_and_mul", "embedding", "add_odd", "softmax", "layer_norm", "cross_entropy"),
    *("argmax", "cumsum_long", "sum_of_rows", "group_mean", "flags"),
)


@pytest.mark.parametrize("name", KEPT)
def test_snapshot(examples, name: str) -> None:
    if name == "silu_and_mul" and not rules.SIGNED_ZEROS:
        pytest.skip("this version of triton needs another text for -x")
    text = generate(examples[name], name, target="cuda:90").text
    path = SNAPSHOTS / f"{name}.py"
    if os.environ.get("ACCEPT") == "1":
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text(), "the kernel changed; ACCEPT=1 writes the snapshot anew"


def test_the_same_nest_gives_the_same_text(example) -> None:
    name, nest = example
    assert generate(nest, name, target="cuda:90") == generate(nest, name, target="cuda:90")


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942", "interpret"])
def test_form(example, target: str) -> None:
    """Lines fit, only what is imported is used and the other way round, and only builtins of tl."""
    name, nest = example
    text = generate(nest, name, target=target).text
    assert max(map(len, text.splitlines())) <= 100
    assert text.endswith("\n") and "\n\n\n\n" not in text
    assert not [line for line in text.splitlines() if line != line.rstrip()]
    tree = ast.parse(text)
    assert (ast.get_docstring(tree) or "").startswith(f"{name}: ")
    imported = {
        a.asname or a.name.split(".")[0]
        for n in ast.walk(tree)
        if isinstance(n, (ast.Import, ast.ImportFrom))
        for a in n.names
    }
    used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)}
    assert {i for i in imported if i not in used} == set()
    assert ("libdevice" in imported) == ("libdevice." in text)
    # Functions of Triton's own library (tl.sum, tl.zeros …) cannot be interpreted beside compiling.
    import triton.language as tl

    for word in set(re.findall(r"\btl\.(\w+)\(", text)):
        assert tl.core.is_builtin(getattr(tl, word)), word


def test_each_line_of_the_user_stands_once(nests) -> None:
    (i,) = nests.axes(i=64)
    first, second = Origin("m.py", 3, "f"), Origin("m.py", 4, "f", "blocks.1")
    x = nests.load("x", i)
    a = make("exp", x * 2.0)
    b = a * a + 1.0
    c = make("tanh", b)
    lines = {x: first, a: first, a.args[0]: first, b: second, b.args[0]: second, c: first}
    text = generate(
        nests.nest([i], {"out": (i, c), "b": (i, b)}, lines), "kernel", target="cuda:90"
    ).text
    body = text.split("def kernel")[1]
    assert body.count("# m.py:3 in f\n") == 1
    assert body.count("# m.py:4 in blocks.1\n") == 1
    assert body.index("m.py:3") < body.index("libdevice.exp") < body.index("m.py:4")
    assert text.split('"""')[1].count("m.py:") == 2


def test_masks_only_where_sizes_do_not_divide(nests) -> None:
    for size, masked in (
        (1 << 20, False),
        (768 * 7, False),
        (1000003, True),
        (100, True),
        (64, False),
    ):
        (i,) = nests.axes(i=size)
        text = generate(
            nests.nest([i], {"out": (i, nests.load("x", i) + 1.0)}), "kernel", target="cuda:90"
        ).text
        assert ("mask" in text) == masked, size
    i, r = nests.axes(i=4096, r=1024)
    text = generate(
        nests.nest([i, r], {"out": (i, nests.reduce("sum", nests.load("x", i * 1024 + r)))}),
        "k",
        target="cuda:90",
    ).text
    assert "mask" not in text


def test_each_row_is_read_once_if_it_is_held_whole(examples) -> None:
    text = generate(examples["layer_norm"], "k", target="cuda:90").text
    assert text.count("tl.load(x_ptr") == text.count("tl.load(residual_ptr") == 1
    looped = generate(
        examples["layer_norm"], "k", target="cuda:90", strategy=Strategy("looped", 1, 256)
    ).text
    assert looped.count("tl.load(x_ptr") == 3
    assert looped.count("tl.load(w_ptr") == 1
    assert looped.count("tl.store(sum_ptr") == 1
    assert looped.index("tl.store(sum_ptr") < looped.index(
        "row_sum = "
    )  # in the first pass, which has it


def test_strategies(examples) -> None:
    kinds = {name: choose(nest, "cuda:90") for name, nest in examples.items()}
    assert kinds["softmax"] == Strategy("persistent", 1, 1024, 2)
    assert kinds["softmax_long"].kind == kinds["cross_entropy"].kind == "looped"
    assert kinds["softmax_16k"].kind == "persistent"
    assert kinds["sum_of_rows"].xblock == 64
    assert kinds["cumsum_long"].kind == "looped"
    for name, nest in examples.items():
        for target in ("cuda:90", "hip:gfx942", "interpret"):
            steps = list(ladder(choose(nest, target), nest, target))
            assert len(set(steps)) == len(steps) < 30, name
            for step in steps:
                assert step.num_warps * (64 if target.startswith("hip") else 32) <= 1024
                assert step.xblock & (step.xblock - 1) == step.rblock & (step.rblock - 1) == 0


def test_the_interpreter_gets_large_blocks_of_the_same_kernel(examples) -> None:
    source = generate(examples["add"], "add", target="interpret")
    assert source.constants == {"XBLOCK": 1 << 16}
    assert source.grid == 16
    gpu = generate(examples["add"], "add", target="cuda:90")
    assert source.text.split("def add")[1] == gpu.text.split("def add")[1]


def test_long_statements_are_broken() -> None:
    line = "out = tl.where(" + ", ".join(f"argument_{k}[a, b]" for k in range(8)) + ")"
    pieces = broken(line)
    assert pieces[0] == "out = tl.where(" and pieces[-1] == ")" and len(pieces) == 10
    assert ast.dump(ast.parse("\n".join(pieces))) == ast.dump(ast.parse(line))
    assert broken("x = 1") == ["x = 1"]
    assert split("a, f(b, c), [d, e]") == ["a", "f(b, c)", "[d, e]"]

"""Whole programs with library calls that the native target treats as its own: products that become
kernels, convolutions channels last. Equal to eager in values, dtypes and strides."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tracejit
from tracejit.api import dispatcher_of
from tracejit.codegen.native import providers
from tracejit.ir.layout import channels_last, channels_last_strides
from tracejit.ir.products import GENERATED, LIBRARY, ONEDNN, Sizes, open_products
from tracejit.ir.text import parse
from tracejit.ir.verify import verify
from tracejit.runtime import cpu

pytestmark = pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels")
Program = tuple[Callable[..., Any], tuple[torch.Tensor, ...]]
GENERATOR = torch.Generator().manual_seed(0)


def rand(*sizes: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*sizes, generator=GENERATOR).to(dtype)


def last(x: torch.Tensor) -> torch.Tensor:
    return x.to(memory_format=torch.channels_last)


def into(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """Writes the image into an argument."""
    x.copy_(F.conv2d(x, w, padding=1).relu())
    return x.sum()


IMAGE, WEIGHT = rand(2, 8, 14, 14), rand(8, 8, 3, 3)
CONVOLUTIONS: dict[str, Program] = {
    "alone": (lambda x, w: F.conv2d(x, w), (IMAGE, WEIGHT)),
    "relu": (lambda x, w: F.conv2d(x, w).relu(), (IMAGE, WEIGHT)),
    "two": (lambda x, w: F.conv2d(F.conv2d(x, w).relu(), w) + 1, (IMAGE, WEIGHT)),
    "both seen": (lambda x, w: ((y := F.conv2d(x, w)), y.relu()), (IMAGE, WEIGHT)),
    "a view": (lambda x, w: F.conv2d(x, w).flatten(2), (IMAGE, WEIGHT)),
    "patches": (lambda x, w: F.conv2d(x, w).flatten(2).transpose(1, 2) * 2, (IMAGE, WEIGHT)),
    "a slice": (lambda x, w: F.conv2d(x, w)[:, 1:, ::2], (IMAGE, WEIGHT)),
    "strides": (lambda x, w: F.conv2d(x, w).as_strided((3, 4), (7, 2), 5) + 1, (IMAGE, WEIGHT)),
    "product": (
        lambda x, w: F.conv2d(x, w)[0].flatten(1) @ x[0, 0].flatten()[:144],
        (IMAGE, WEIGHT),
    ),
    "mean": (lambda x, w: F.conv2d(x, w).mean((2, 3)), (IMAGE, WEIGHT)),
    "softmax": (lambda x, w: F.conv2d(x, w).softmax(1), (IMAGE, WEIGHT)),
    "pooled": (lambda x, w: F.max_pool2d(F.conv2d(x, w).relu(), 2), (IMAGE, WEIGHT)),
    "both of pooling": (
        lambda x, w: F.max_pool2d(F.conv2d(x, w), 2, return_indices=True),
        (IMAGE, WEIGHT),
    ),
    "residual": (lambda x, w: F.relu(F.conv2d(x, w, padding=1) + x), (IMAGE, WEIGHT)),
    "channels": (lambda x, w, b: F.conv2d(x, w, b) * b[:, None, None], (IMAGE, WEIGHT, rand(8))),
    "groups": (
        lambda x, w: F.conv2d(x, w, stride=2, padding=2, dilation=2, groups=4),
        (IMAGE, rand(8, 2, 3, 3)),
    ),
    "already so": (lambda x, w: F.conv2d(x, w).relu(), (last(IMAGE), last(WEIGHT))),
    "halves": (lambda x, w: F.conv2d(x, w).relu() + 1, (IMAGE.bfloat16(), WEIGHT.bfloat16())),
    "one channel": (lambda x, w: F.conv2d(x, w).relu(), (rand(2, 1, 9, 9), rand(1, 1, 3, 3))),
    "one pixel": (lambda x, w: F.conv2d(x, w).relu(), (rand(2, 4, 3, 3), rand(6, 4, 3, 3))),
    "norm": (
        lambda x, w, b: F.batch_norm(F.conv2d(x, w), b, b.abs() + 1, b, b).relu(),
        (IMAGE, WEIGHT, rand(8)),
    ),
    "written": (into, (IMAGE.clone(), WEIGHT)),
    "transposed": (lambda x, w: F.conv_transpose2d(x, w).relu(), (IMAGE, WEIGHT)),
    "volume": (lambda x, w: F.conv3d(x, w).relu(), (rand(1, 2, 5, 6, 7), rand(3, 2, 3, 3, 3))),
}

A, B, ROW = rand(33, 40), rand(40, 70), rand(70)
NAN = torch.full((70,), torch.nan)
PRODUCTS: dict[str, Program] = {
    "mm": (lambda a, b: a @ b, (A, B)),
    "linear": (lambda a, w, c: F.linear(a, w, c), (A, rand(70, 40), ROW)),
    "gelu": (lambda a, w, c: F.gelu(F.linear(a, w, c)), (A, rand(70, 40), ROW)),
    "one row": (lambda a, w, c: F.silu(F.linear(a, w, c)), (rand(1, 40), rand(70, 40), ROW)),
    "norm": (lambda a, w, c: F.layer_norm(F.linear(a, w, c) + c, (70,)), (A, rand(70, 40), ROW)),
    "both ways": (lambda a, b: ((y := a @ b), y.relu(), y.sum(0)), (A, B)),
    "gate": (lambda a, b, c: F.silu(a @ b) * (a @ c), (A, B, rand(40, 70))),
    "chain": (lambda a, b, c: (a @ b).relu() @ c, (A, B, rand(70, 5))),
    "prologue": (lambda a, b: (F.gelu(a) + 1) @ b, (A, B)),
    "a sum of columns": (lambda a, b: (a @ b).softmax(-1).sum(0), (A, B)),
    "bmm": (lambda a, b: torch.bmm(a, b).exp(), (rand(5, 7, 9), rand(5, 9, 11))),
    "baddbmm": (
        lambda c, a, b: torch.baddbmm(c, a, b, beta=0.5, alpha=2),
        (rand(11), rand(5, 7, 9), rand(5, 9, 11)),
    ),
    "factors": (lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=-1), (ROW, A, B)),
    "no bias": (lambda c, a, b: torch.addmm(c, a, b, beta=0), (NAN, A, B)),
    "a bias of rows": (lambda c, a, b: torch.addmm(c, a, b), (rand(33, 1), A, B)),
    "halves": (
        lambda a, w, c: F.gelu(F.linear(a, w, c)),
        (A.bfloat16(), rand(70, 40).bfloat16(), ROW.bfloat16()),
    ),
    "half": (lambda a, b: (a @ b) * 2, (A.half(), B.half())),
    "double": (lambda a, b: (a @ b).tanh(), (A.double(), B.double())),
    "whole numbers": (lambda a, b: a @ b, (A.int(), B.int())),
    "no rows": (lambda a, b: a[:0] @ b, (A, B)),
    "no terms": (lambda a, b: a[:, :0] @ b[:0] + 1, (A, B)),
    "one term": (lambda a, b: a[:, :1] @ b[:1] + 1, (A, B)),
    "transposed result": (lambda a, b: (a @ b).t().contiguous().relu(), (A, B)),
    "same twice": (lambda a: a @ a.t() + a @ a.t(), (A,)),
    "residual": (lambda a, b: (a @ b) + a, (A, rand(40, 40))),
    "repeated": (lambda a, b: a.expand(6, 40) @ b, (rand(1, 40), B)),
}


def check(program: Program) -> None:
    function, args = program
    ours, theirs = ([a.clone(memory_format=torch.preserve_format) for a in args] for _ in "ab")
    compiled = tracejit.compile(function, wait=True, strict=True)
    for _ in range(2):
        found, wanted = compiled(*ours), function(*theirs)
        pairs = zip(torch.utils._pytree.tree_leaves(found), torch.utils._pytree.tree_leaves(wanted))
        for mine, eager in pairs:
            wide = mine.dtype in (torch.bfloat16, torch.float16)
            near = {"rtol": 2e-2, "atol": 2e-2} if wide else {"rtol": 2e-5, "atol": 2e-5}
            if mine.dtype == torch.float64:
                near = {"rtol": 1e-12, "atol": 1e-12}
            torch.testing.assert_close(mine, eager, **near, equal_nan=True)
            assert mine.stride() == eager.stride()
    torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5, equal_nan=True)
    assert dispatcher_of(compiled).reasons == []


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions(name: str) -> None:
    check(CONVOLUTIONS[name])


@pytest.mark.parametrize("name", PRODUCTS)
def test_products(name: str) -> None:
    check(PRODUCTS[name])


def test_only_what_is_seen_is_laid_out_again() -> None:
    text = """graph(x: f32[2, 8, 14, 14], w: f32[8, 8, 3, 3]):
  v0: f32[2, 8, 12, 12] = aten.convolution(x, w, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
  v1: f32[2, 8, 12, 12] = aten.relu(v0)
  v2: f32[2, 8, 10, 10] = aten.convolution(v1, w, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
  return v2"""
    graph = channels_last(parse(text))
    verify(graph)
    assert [n.op.removeprefix("aten.") for n in graph.nodes] == (
        ["clone", "convolution", "relu", "convolution", "clone"]
    )
    assert all(n.out.strides == channels_last_strides(n.out.sizes) for n in graph.nodes[:-1])
    assert graph.outputs[0].strides == (800, 100, 10, 1)


def test_large_weights_stay() -> None:
    text = """graph(x: f32[1, 64, 3, 3], w: f32[64, 64, 3, 3]):
  v0: f32[1, 64, 1, 1] = aten.convolution(x, w, None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1)
  return v0"""
    graph = parse(text)
    assert channels_last(graph) is graph


def test_products_that_are_not_wanted_stay() -> None:
    text = """graph(x: f32[4, 5], w: f32[5, 6]):
  v0: f32[4, 6] = aten.mm(x, w)
  return v0"""
    graph = parse(text)
    assert open_products(graph, lambda sizes: LIBRARY) is graph
    asked = []
    opened = open_products(graph, lambda sizes: asked.append(sizes) or GENERATED)
    assert asked == [Sizes("f32", 1, 4, 6, 5)]
    verify(opened)
    assert [n.op for n in opened.nodes][-1] == "aten.sum.dim_IntList"


WEIGHT_T, BIAS = rand(6, 5).T, rand(6)
TO_ONEDNN = {
    "mm": (torch.mm, (rand(4, 5), WEIGHT_T)),
    "addmm": (torch.addmm, (BIAS, rand(4, 5), WEIGHT_T)),
    "bf16": (F.linear, (rand(4, 5).bfloat16(), rand(6, 5).bfloat16(), BIAS.bfloat16())),
    "rows in steps": (torch.mm, (rand(8, 10)[::2, ::2], rand(5, 6))),
}
NOT_TO_ONEDNN = {
    "batched": (torch.bmm, (rand(2, 4, 5), rand(2, 5, 6))),
    "bias of a matrix": (torch.addmm, (rand(4, 6), rand(4, 5), WEIGHT_T)),
    "alpha": (lambda b, x, w: torch.addmm(b, x, w, alpha=2), (BIAS, rand(4, 5), WEIGHT_T)),
}


@pytest.mark.parametrize("name", [*TO_ONEDNN, *NOT_TO_ONEDNN])
def test_products_by_onednn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers, "provider", lambda sizes, target: ONEDNN)
    function, args = (TO_ONEDNN | NOT_TO_ONEDNN)[name]
    compiled = tracejit.compile(function)
    for _ in range(2):
        torch.testing.assert_close(compiled(*args), function(*args), check_stride=True)
    ops = str(tracejit.explain(compiled))
    assert ("_linear_pointwise" in ops) == (name in TO_ONEDNN)


@pytest.mark.parametrize("way", [LIBRARY, GENERATED])
def test_a_report_says_why_the_library_computes_a_product(
    way: str, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    monkeypatch.setattr(providers, "provider", lambda sizes, target: way)
    compiled = tracejit.compile(torch.mm, wait=True)
    compiled(rand(4, 5), rand(5, 6))
    text = str(tracejit.explain(compiled))
    assert ("products by the library are quicker here" in text) == (way == LIBRARY)

"""Kernels for AVX-512 and its matrix unit, on processors that have neither (emulation.py)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from tests.native import test_product_matrix as products
from tests.native.emulation import emulated
from tests.native.test_attention import check, plain, randn
from tests.native.test_product import Written
from tracejit.codegen.native import objects
from tracejit.runtime import cpu
from tracejit.runtime.cpu import LEVELS, Level

pytestmark = pytest.mark.skipif("avx2" not in cpu.host_levels(), reason="needs AVX2")
WAYS = [True, False]


@pytest.fixture(params=WAYS, ids=["unit", "vectors"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Compiled for AVX2, with a matrix unit or as where there is none."""
    compile_text, threads = objects.compile_text, torch.get_num_threads()

    def compiled(text: str, level: Level, assembly: bool = False) -> tuple[bytes, str]:
        return compile_text(emulated(text, request.param), LEVELS["avx2"], assembly)

    monkeypatch.setattr(objects, "compile_text", compiled)
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(threads)


@pytest.mark.parametrize("m, k, n", [(4, 3, 2), (17, 31, 33), (48, 96, 70), (97, 512, 80)])
@pytest.mark.parametrize("flip", [(False, False), (False, True), (True, True)])
def test_products(m: int, k: int, n: int, flip: tuple[bool, bool]) -> None:
    a = products.half(k, m).t() if flip[0] else products.half(m, k)
    b = products.half(n, k).t() if flip[1] else products.half(k, n)
    w = Written(a, b)
    x, y = a.double(), b.double()
    products.check(w, w.mm(*w.inputs), want=x @ y, size=x.abs() @ y.abs())


CALLS = {
    "whole tiles": (1, 2, 64, 128, 64),
    "parts of tiles": (2, 3, 37, 77, 40),
    "few rows": (1, 4, 9, 300, 64),
}


@pytest.mark.parametrize("sizes", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("how", ["", "causal", "mask", "scale"])
def test_attention(sizes: tuple[int, ...], how: str) -> None:
    call = plain(*sizes, causal=how == "causal", dtype=torch.bfloat16)
    if how == "mask":
        call = replace(call, mask=randn(sizes[2], sizes[3]) > -1)
    if how == "scale":
        call = replace(call, scale=-0.3)
    check(call, "native:avx512")

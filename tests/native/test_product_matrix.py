"""Products of bf16 in tiles of the matrix unit: with one, and on vectors where there is none."""

from __future__ import annotations

import pytest
import torch

from tests.native.test_product import Written, rand
from tracejit.codegen.native import matrix_unit
from tracejit.codegen.native.objects import compile_text
from tracejit.codegen.native.product import generate_product
from tracejit.codegen.native.product_matrix import LEAST
from tracejit.fuse.product import as_product
from tracejit.runtime import cpu

pytestmark = pytest.mark.skipif("avx512" not in cpu.host_levels(), reason="needs AVX-512")
NO = "_ZN2at18in_parallel_regionEv"  # a function of torch that says no
BF16 = torch.bfloat16


@pytest.fixture(params=["unit", "vectors"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the unit, or as on a processor that has none."""
    if request.param == "vectors":
        monkeypatch.setattr(matrix_unit, "PERMISSION", NO)
    elif "amx_bf16" not in cpu.host_flags():
        pytest.skip("this processor has no matrix unit")
    return str(request.param)


def half(*sizes: int, seed: int = 0) -> torch.Tensor:
    return rand(*sizes, dtype=BF16, seed=seed)


def check(w: Written, *outputs: object, want: torch.Tensor, size: torch.Tensor) -> None:
    """As near to the true result as one rounding to bf16 after sums of f32 allows. `size`: the sums
    of absolute values."""
    nest, _ = w.nest(*outputs)
    product = as_product(nest)
    assert product is not None
    source = generate_product(nest, product, "kernel", "native:avx512")
    assert source.strategy.startswith("tiles of the matrix unit")
    (ours,) = w.kernel("avx512", *outputs)()
    assert ours.dtype == BF16 and ours.shape == want.shape
    bound = want.abs() * 2**-8 + size * 2**-20
    assert bool(((ours.double() - want).abs() <= bound).all())


SHAPES = [
    (4, 3, 2),
    (16, 32, 32),
    (17, 31, 33),
    (33, 64, 31),
    (47, 65, 5),
    (48, 96, 70),
    (64, 100, 64),
    (300, 33, 40),
    # The right factor read where it lies, if its elements are neighbours along k.
    (5, 128, 48),
    (40, 256, 160),
    (97, 512, 80),
]


@pytest.mark.parametrize("m, k, n", SHAPES)
@pytest.mark.parametrize("flip", [(False, False), (False, True), (True, False), (True, True)])
def test_sizes_and_strides(way: str, m: int, k: int, n: int, flip: tuple[bool, bool]) -> None:
    assert m >= LEAST
    a = half(k, m).t() if flip[0] else half(m, k)
    b = half(n, k).t() if flip[1] else half(k, n)
    w = Written(a, b)
    x, y = a.double(), b.double()
    check(w, w.mm(*w.inputs), want=x @ y, size=x.abs() @ y.abs())


def test_gaps(way: str) -> None:
    a, b = half(40, 130)[:, 2:66], half(50, 80)[::2, :64].t()
    w = Written(a, b)
    x, y = a.double(), b.double()
    check(w, w.mm(*w.inputs), want=x @ y, size=x.abs() @ y.abs())


@pytest.mark.parametrize("shared", [False, True])
def test_batches(way: str, shared: bool) -> None:
    a = half(3, 20, 40)
    b = half(3, 25, 40).mT if not shared else half(1, 40, 25).expand(3, 40, 25)
    w = Written(a, b)
    x, y = a.double(), b.double()
    check(w, w.mm(*w.inputs), want=x @ y, size=x.abs() @ y.abs())


@pytest.mark.parametrize("flip", [False, True])
def test_before_and_after(way: str, flip: bool) -> None:
    """Both factors are computed, each once; the sum is finished where it is."""
    a, bias, rest = half(37, 50), half(29), half(37, 29)
    b = half(29, 50).t() if flip else half(50, 29)
    w = Written(a, b, bias, rest)
    x, y, c, r = w.inputs
    total = w.mm(w("relu", x), w("mul.Tensor", y, 2.0))
    out = w("add.Tensor", w("relu", w("add.Tensor", total, c)), r)
    left, right = a.double().relu(), 2 * b.double()
    first = (left @ right).to(BF16) + bias
    want = (first.relu() + rest).double()
    size = left @ right.abs() + first.abs() + rest.abs()
    check(w, out, want=want, size=size * 2**12)  # three roundings of eager's


def test_what_is_not_finite_stays_where_it_is(way: str) -> None:
    """Padding is zeros on both sides, which no infinity meets."""
    a, b = half(18, 33), half(33, 19)
    a[2, 32], a[17, 0], b[4, 18] = torch.inf, torch.nan, -torch.inf
    w = Written(a, b)
    (ours,) = w.kernel("avx512", w.mm(*w.inputs))()
    want = a.double() @ b.double()
    assert torch.equal(ours.isnan(), want.isnan()) and torch.equal(ours.isinf(), want.isinf())


@pytest.mark.parametrize("k, turned", [(256, True), (255, False)])
def test_factors_change_places(way: str, k: int, turned: bool) -> None:
    """Where the right one's rows are whole tiles, and packing them would be more work; in a batch,
    with something before and after."""
    a, b, rest = half(2, 21, k), half(2, 48, k).mT, half(2, 21, 48)
    w = Written(a, b, rest)
    x, y, r = w.inputs
    out = w("add.Tensor", w.mm(w("relu", x), y), r)
    nest, _ = w.nest(out)
    product = as_product(nest)
    assert product is not None
    source = generate_product(nest, product, "kernel", "native:avx512")
    assert ("turned" in source.strategy) == turned
    left, right = a.double().relu(), b.double()
    want = ((left @ right).to(BF16) + rest).double()
    check(w, out, want=want, size=(left @ right.abs() + rest.double().abs()) * 2**12)


def test_threads_change_no_bit(way: str) -> None:
    w = Written(half(150, 96), half(96, 130))
    run = w.kernel("avx512", w.mm(*w.inputs))
    (one,) = run()
    try:
        torch.set_num_threads(3)
        (three,) = run()
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, three)


def test_machine_code() -> None:
    """Tiles are multiplied by the unit, and nothing spills on vectors."""
    w = Written(half(64, 64), half(64, 64).t())
    nest, _ = w.nest(w.mm(*w.inputs))
    product = as_product(nest)
    assert product is not None
    source = generate_product(nest, product, "kernel", "native:avx512")
    _, assembly = compile_text(source.text, cpu.LEVELS["avx512"], assembly=True)
    for instruction in ("ldtilecfg", "tdpbf16ps", "vcvtneps2bf16", "tilerelease", "vfmadd"):
        assert instruction in assembly

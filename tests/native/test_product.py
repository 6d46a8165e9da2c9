"""Matrix products as loop nests: recognised, and generated with tiles or strips, against eager."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tracejit.ops  # noqa: F401  (registers the rows)
from tests.executors import spilled
from tracejit.codegen.native.builder import Module
from tracejit.codegen.native.microkernel import add_microkernel, tile_shape
from tracejit.codegen.native.objects import compile_kernel, compile_text
from tracejit.codegen.native.product import generate_product
from tracejit.fuse.finish import finish
from tracejit.fuse.index import Axis, Index
from tracejit.fuse.loopnest import Buffer, LoopNest, Store
from tracejit.fuse.product import Product, as_product
from tracejit.fuse.program import Program, RunKernel
from tracejit.fuse.scalar import Load, make
from tracejit.ir.decompose import decompose
from tracejit.ir.dtypes import NAME
from tracejit.ir.execute import call
from tracejit.ir.graph import Graph, Value, map_values
from tracejit.runtime import cpu, devices

LEVELS = [name for name in ("avx512", "avx2", "neon") if name in cpu.host_levels()]
each_level = pytest.mark.parametrize("level", LEVELS)


class Written:
    """A graph written op by op on example tensors, and the one kernel that it becomes."""

    def __init__(self, *examples: torch.Tensor) -> None:
        self.graph, self.examples = Graph(), examples
        self.real: dict[Value, torch.Tensor] = {}
        for k, tensor in enumerate(examples):
            dtype = NAME[tensor.dtype]
            value = self.graph.add_input(dtype, tensor.shape, tensor.stride(), name=f"x{k}")
            self.real[value] = tensor
        self.inputs = list(self.real)

    def __call__(self, op: str, *args: Any, **kwargs: Any) -> Value:
        named = {k: map_values(v, self.real.__getitem__) for k, v in kwargs.items()}
        real = call(f"aten.{op}", map_values(args, self.real.__getitem__), named)
        meta = (NAME[real.dtype], tuple(real.shape), tuple(real.stride()), "cpu")
        out = self.graph.add(f"aten.{op}", args, kwargs, [meta]).out
        self.real[out] = real
        return out

    def mm(self, a: Value, b: Value) -> Value:
        """a[…, m, k] · b[…, k, n]; halves are multiplied and added up in f32."""
        dtype, dims = self.real[a].dtype, self.real[a].dim()
        if dtype in (torch.bfloat16, torch.float16):
            a, b = (self("_to_copy", x, dtype=torch.float32) for x in (a, b))
        terms = self("mul.Tensor", self("unsqueeze", a, dims), self("unsqueeze", b, dims - 2))
        total = self("sum.dim_IntList", terms, [dims - 1])
        wide = self.real[total].dtype
        return total if wide == dtype else self("_to_copy", total, dtype=dtype)

    def program(self, *outputs: Value) -> Program:
        self.graph.outputs = list(outputs)
        return finish(decompose(self.graph))

    def nest(self, *outputs: Value) -> tuple[LoopNest, RunKernel]:
        (step,) = self.program(*outputs).steps
        assert isinstance(step, RunKernel)
        return step.nest, step

    def kernel(self, level: str, *outputs: Value) -> Callable[[], list[torch.Tensor]]:
        """What runs the generated kernel and gives its outputs."""
        nest, step = self.nest(*outputs)
        product = as_product(nest)
        assert product is not None, str(nest)
        run = loaded(nest, product, level)
        tensors = {f"x{k}": t for k, t in enumerate(self.examples)}
        made = {v.name: torch.full_like(self.real[v], torch.nan) for v in outputs}
        args = [{**tensors, **made}[step.args[b.name]] for b in nest.buffers]

        def launch() -> list[torch.Tensor]:
            run(*args)
            return [made[v.name].clone() for v in outputs]

        return launch


def loaded(nest: LoopNest, product: Product, level: str) -> Callable[..., None]:
    """The product's kernel, ready to be called."""
    source = generate_product(nest, product, "kernel", f"native:{level}")
    binary = compile_kernel(source, source.target)
    return devices.load(source, binary)


def rand(*sizes: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(sum(sizes) + 1000 * seed)
    return torch.randn(*sizes, generator=generator).to(dtype)


def exact(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return a.double() @ b.double()


def check_mm(a: torch.Tensor, b: torch.Tensor, level: str, tolerance: float = 4e-7) -> None:
    """The kernel's product is as near to the true one as f32 sums allow."""
    w = Written(a, b)
    (ours,) = w.kernel(level, w.mm(*w.inputs))()
    bound = tolerance * (a.double().abs() @ b.double().abs())
    assert ours.shape == (a @ b).shape and ours.dtype == a.dtype
    assert bool(((ours.double() - exact(a, b)).abs() <= bound).all())


SHAPES = [
    (1, 17, 33),
    (3, 33, 17),
    (17, 3, 1),
    (17, 33, 65),
    (33, 17, 3),
    (14, 400, 48),
    (30, 64, 96),
]


@each_level
@pytest.mark.parametrize("m, k, n", SHAPES)
@pytest.mark.parametrize("flip", [(False, False), (False, True), (True, False), (True, True)])
def test_sizes_and_strides(level: str, m: int, k: int, n: int, flip: tuple[bool, bool]) -> None:
    a = rand(k, m).t() if flip[0] else rand(m, k)
    b = rand(n, k, seed=1).t() if flip[1] else rand(k, n, seed=1)
    check_mm(a, b, level)


@each_level
def test_gaps(level: str) -> None:
    """Rows that lie apart, and elements that do."""
    check_mm(rand(20, 100)[:, 3:60], rand(57, 90)[:, 5:40], level)
    check_mm(rand(20, 114)[:, ::2], rand(57, 80)[:, ::2], level)
    check_mm(rand(2, 114)[:, ::2], rand(57, 80)[:, ::2], level)


@each_level
@pytest.mark.parametrize("m", [1, 9, 40])
def test_batches(level: str, m: int) -> None:
    check_mm(rand(3, m, 20), rand(3, 20, 33), level)
    check_mm(rand(3, m, 20), rand(3, 33, 20).mT, level)


@each_level
@pytest.mark.parametrize("m", [2, 18])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(level: str, m: int, dtype: torch.dtype) -> None:
    tolerance = {torch.bfloat16: 4e-3, torch.float16: 6e-4, torch.float64: 1e-15}[dtype]
    for flip in (False, True):
        a = rand(m, 50, dtype=dtype)
        b = rand(37, 50, dtype=dtype).t() if flip else rand(50, 37, dtype=dtype)
        check_mm(a, b, level, tolerance)


@each_level
@pytest.mark.parametrize("m", [1, 40])
def test_epilogue(level: str, m: int) -> None:
    """Bias, activation and residual, and a second output."""
    w = Written(rand(m, 64), rand(50, 64), rand(50), rand(m, 50, seed=2))
    a, weight, bias, residual = w.inputs
    total = w("add.Tensor", w.mm(a, w("t", weight)), bias)
    out = w("add.Tensor", w("mul.Tensor", w("relu", total), 0.5), residual)
    for ours, value in zip(w.kernel(level, total, out)(), (total, out), strict=True):
        torch.testing.assert_close(ours, w.real[value])


@each_level
@pytest.mark.parametrize("m", [1, 40])
def test_prologue(level: str, m: int) -> None:
    """Both factors are computed: a gate, and a scale for each column."""
    w = Written(rand(m, 70), rand(m, 70, seed=1), rand(33, 70), rand(33, 1))
    a, gate, weight, scale = w.inputs
    left = w("mul.Tensor", a, w("relu", gate))
    right = w("t", w("mul.Tensor", weight, scale))
    out = w.mm(left, right)
    torch.testing.assert_close(w.kernel(level, out)()[0], w.real[out], rtol=1e-5, atol=1e-4)


@each_level
def test_heads(level: str) -> None:
    """Rows, columns and sums over several axes: heads read and written in another order."""
    heads = rand(2, 3, 5, 16)  # batch, head, place, element
    w = Written(heads, rand(40, 48))
    x, weight = w.inputs
    joined = w("permute", x, [0, 2, 1, 3])
    left = w("unsqueeze", joined, 2)
    right = w("view", weight, [1, 1, 40, 3, 16])
    out = w("sum.dim_IntList", w("mul.Tensor", left, right), [3, 4])
    want = heads.permute(0, 2, 1, 3).reshape(2, 5, 48) @ rand(40, 48).t()
    torch.testing.assert_close(w.kernel(level, out)()[0], want)


def by_hand(
    sizes: dict[str, int], a: Index, b: Index, out: Index, spans: tuple[int, int, int]
) -> LoopNest:
    """The nest out[…] = sum of a[…] · b[…]; the axis r is summed over."""
    terms = [make("load", arg=Load(n, index), dtype="f32") for n, index in (("a", a), ("b", b))]
    total = make("reduce", make("mul", *terms), arg="sum", dtype="f32")
    buffers = [Buffer(n, "f32", span, n == "out") for n, span in zip(("a", "b", "out"), spans)]
    loops = tuple(Axis(n, size, n == "r") for n, size in sizes.items())
    return LoopNest("nest", loops, tuple(buffers), (Store("out", out, total),))


@each_level
def test_split_columns(level: str) -> None:
    """What a product stores goes to heads that lie apart."""
    sizes = {"i": 2, "h": 3, "j": 10, "d": 16, "r": 20}
    i, h, j, d, r = (Index.of(Axis(n, size, n == "r")) for n, size in sizes.items())
    out = i * 480 + h * 160 + j * 16 + d
    nest = by_hand(sizes, i * 200 + j * 20 + r, h * 320 + d * 20 + r, out, (400, 960, 960))
    product = as_product(nest)
    assert product is not None and product.sizes == (1, 20, 48, 20)
    x, weight, found = rand(2, 10, 20), rand(48, 20), torch.zeros(2, 3, 10, 16)
    loaded(nest, product, level)(x, weight, found)
    torch.testing.assert_close(found, (x @ weight.t()).view(2, 10, 3, 16).transpose(1, 2))


@each_level
def test_accuracy(level: str) -> None:
    """Long sums are no further from the truth than eager's."""
    for m in (2, 30):
        a, b = rand(m, 3000), rand(64, 3000).t()
        w = Written(a, b)
        (ours,) = w.kernel(level, w.mm(*w.inputs))()
        truth = exact(a, b)
        mine, theirs = ((x.double() - truth).square().mean().sqrt() for x in (ours, a @ b))
        assert mine <= 1.1 * theirs


@each_level
@pytest.mark.parametrize("m, k, n", [(2, 300, 700), (150, 500, 130)])
def test_threads_change_no_bit(level: str, m: int, k: int, n: int) -> None:
    w = Written(rand(m, k), rand(k, n))
    run = w.kernel(level, w.mm(*w.inputs))
    (one,) = run()
    try:
        torch.set_num_threads(3)
        (three,) = run()
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, three)


@pytest.mark.parametrize("level", cpu.LEVELS)
@pytest.mark.parametrize("kind", ["float", "double"])
def test_tiles_stay_in_registers(level: str, kind: str) -> None:
    """Every tile that a product can ask for."""
    module, target = Module(), cpu.LEVELS[level]
    rows, columns = tile_shape(target, kind)
    lanes = target.lanes(64 if kind == "double" else 32)
    for r in {1, 2, rows // 2 + 1, rows - 1, rows}:
        for c in range(lanes, columns + 1, lanes):
            add_microkernel(module, target, r, c, kind)
    _, assembly = compile_text(module.text().replace("define internal", "define"), target)
    assert spilled(assembly) == 0


def recognised(w: Written, *outputs: Value) -> Product | None:
    return as_product(w.nest(*outputs)[0])


def test_axes_of_a_product() -> None:
    w = Written(rand(3, 5, 7), rand(3, 7, 9))
    product = recognised(w, w.mm(*w.inputs))
    assert product is not None and product.sizes == (3, 5, 9, 7)
    assert product.flops == 2 * 3 * 5 * 9 * 7
    # stored transposed, the factors change places, so that columns are neighbours
    sizes = {"i": 5, "j": 9, "r": 7}
    i, j, r = (Index.of(Axis(n, size, n == "r")) for n, size in sizes.items())
    product = as_product(by_hand(sizes, i * 7 + r, r * 9 + j, j * 5 + i, (35, 63, 45)))
    assert product is not None and product.sizes == (1, 9, 5, 7)


def test_what_is_no_product() -> None:
    w = Written(rand(4, 6), rand(4, 6))
    a, b = w.inputs
    assert recognised(w, w("sum.dim_IntList", w("mul.Tensor", a, b), [1])) is None  # no m, no n
    w = Written(rand(4, 6))
    (a,) = w.inputs
    assert recognised(w, w("sum.dim_IntList", w("mul.Tensor", a, 2.0), [1])) is None
    assert recognised(w, w("amax", a, [1])) is None
    assert recognised(w, w("relu", a)) is None

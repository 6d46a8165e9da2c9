"""What is timed to find out who is quickest on a machine: for each class of matrix products and of
convolutions one that stands for it, its operands, and what each provider calls.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Union

import torch

from tracejit.codegen.native.generate import generate
from tracejit.codegen.native.objects import compile_kernel
from tracejit.fuse.finish import finish
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import RunKernel
from tracejit.ir.convolutions import CONVOLUTION, Windows, open_convolutions
from tracejit.ir.dtypes import NAME, TORCH
from tracejit.ir.graph import Graph, numel
from tracejit.ir.layout import weights_are_most
from tracejit.ir.products import GENERATED, LIBRARY, ONEDNN, Sizes, open_products
from tracejit.runtime import devices
from tracejit.runtime.externs import fastest

Wanted = Union[Sizes, Windows]
Tensors = tuple[torch.Tensor, ...]
Call = Callable[..., object]
# Most rows and the longest sums of a class, and rows, columns and length of the product that stands
# for it: whole tiles at every level, so that the timed kernel is quick to compile.
_ANY = float("inf")
_CLASSES = (
    (1, _ANY, (1, 512, 512)),
    (32, _ANY, (8, 512, 512)),
    (256, _ANY, (112, 512, 512)),
    (_ANY, 128, (1008, 256, 64)),
    (_ANY, 1024, (252, 512, 256)),
    (_ANY, _ANY, (252, 256, 2048)),
)
_LARGE = 252  # rows
_BATCHED = (8, 112, 112, 64)
# A generated kernel may take so much longer: what follows it costs no memory traffic, which counts
# the less the longer the product takes itself.
_MARGIN, _MARGIN_LARGE = 1.1, 1.0
_FEW_TERMS = 256  # of a window's sum
_FEW_PLACES = 256  # of an image's windows
# Channels, size of the image, filters, size of the window, stride and padding of the convolution
# that stands for a class.
_WINDOWS = {
    "of one place": (128, 28, 128, 1, 1, 0),
    "few channels": (3, 112, 64, 7, 2, 3),
    "small images": (256, 10, 256, 3, 1, 1),
    "large images": (64, 40, 64, 3, 1, 1),
}


@dataclass(frozen=True)
class Trial:
    """`stand_in` is timed for the class `name`; a generated kernel may take `margin` times the
    least time. `make` gives the operands of one call, `calls` what each provider does with them."""

    name: str
    stand_in: Wanted
    margin: float
    make: Callable[[], Tensors]
    calls: Callable[[str], dict[str, Call]]


def trial(wanted: Wanted) -> Trial:
    """The trial for the class of a product or a convolution."""
    return _convolution(wanted) if isinstance(wanted, Windows) else _product(wanted)


# Matrix products


def _product(wanted: Sizes) -> Trial:
    """y = bias + x·wᵀ, or bias + x·w if batched."""
    batched = wanted.batch > 1
    fitting = (same for m, k, same in _CLASSES if wanted.m <= m and wanted.k <= k)
    sizes = Sizes(wanted.dtype, *(_BATCHED if batched else (1, *next(fitting))))
    name = f"{sizes.dtype} batched" if batched else f"{sizes.dtype} {sizes.m} rows of {sizes.k}"
    lead = (sizes.batch,) if batched else ()

    def make() -> Tensors:
        x, w = _ones(sizes, *lead, sizes.m, sizes.k), _ones(sizes, *lead, sizes.n, sizes.k).mT
        return _ones(sizes, sizes.n), x, w, _ones(sizes, *lead, sizes.m, sizes.n)

    def calls(target: str) -> dict[str, Call]:
        op = "aten.baddbmm" if batched else "aten.addmm"
        library, linear = fastest(op), fastest("mkldnn._linear_pointwise")
        *inputs, y = make()
        found: dict[str, Call] = {
            LIBRARY: lambda bias, x, w, out: library(bias, x, w),
            GENERATED: generated(op, inputs, (), y, target),
        }
        if not batched:
            found[ONEDNN] = lambda bias, x, w, out: linear(x, w.mT, bias, "none", [], "")
        return found

    return Trial(name, sizes, _MARGIN_LARGE if sizes.m == _LARGE else _MARGIN, make, calls)


# Convolutions


def _convolution(wanted: Windows) -> Trial:
    """Images of few channels, windows of one place, small images, or all others; also for one and
    three dims, which have no stand-ins of their own."""
    window, places = int(numel(wanted.kernel)), wanted.batch * int(numel(wanted.places))
    if window == 1:
        name = "of one place"
    elif window * wanted.channels <= _FEW_TERMS:
        name = "few channels"
    else:
        name = "small images" if places <= _FEW_PLACES else "large images"
    channels, image, filters, kernel, stride, padding = _WINDOWS[name]
    out = (image + 2 * padding - kernel) // stride + 1
    pairs = ((n, n) for n in (kernel, stride, padding, 1))
    same = Windows(wanted.dtype, 1, channels, (image, image), filters, (out, out), *pairs)
    geometry = (same.stride, same.padding, same.dilation, False, (0, 0), 1)

    def make() -> Tensors:
        x = _ones(same, 1, channels, image, image)
        weight = _ones(same, filters, channels, kernel, kernel)
        y = _ones(same, 1, filters, out, out)
        if not weights_are_most(weight.numel(), x.numel() + y.numel()):
            x = x.to(memory_format=torch.channels_last)
        return x, weight, _ones(same, filters), y

    def calls(target: str) -> dict[str, Call]:
        x, weight, bias, y = make()
        x = x.contiguous()
        library = fastest(CONVOLUTION)
        ours = generated(CONVOLUTION, (x, weight, bias), geometry, y, target)
        return {
            LIBRARY: lambda x, weight, bias, y: library(x, weight, bias, *geometry),
            GENERATED: lambda _, weight, bias, y: ours(x, weight, bias, y),
        }

    return Trial(f"{wanted.dtype} convolution, {name}", same, _MARGIN, make, calls)


def _ones(wanted: Wanted, *shape: int) -> torch.Tensor:
    """Written, or all would share one page of zeros."""
    return torch.ones(shape, dtype=TORCH[wanted.dtype], device="cpu")


def generated(
    op: str, inputs: Sequence[torch.Tensor], more: Sequence[Any], out: torch.Tensor, target: str
) -> Call:
    """What runs the generated kernels for out = op(*inputs, *more) on such tensors."""
    graph = Graph()
    given = [graph.add_input(NAME[t.dtype], tuple(t.shape), tuple(t.stride())) for t in inputs]
    meta = (NAME[out.dtype], tuple(out.shape), tuple(out.stride()), "cpu")
    graph.outputs = [graph.add(op, (*given, *more), {}, [meta]).out]
    graph = open_convolutions(open_products(graph, lambda _: GENERATED), lambda _: GENERATED)
    program = finish(graph)
    order = [v.name for v in given] + program.outputs
    between: dict[str, torch.Tensor] = {}
    kernels = []
    for step in program.steps:
        assert isinstance(step, RunKernel) and isinstance(step.nest, LoopNest)
        source = generate(step.nest, "trial", target=target)
        run = devices.load(source, compile_kernel(source, target))
        for slot in step.outs:
            if slot.name not in order:
                dtype = TORCH[slot.dtype]
                between[slot.name] = torch.empty_strided(slot.sizes, slot.strides, dtype=dtype)
        kernels.append((run, [step.args[b.name] for b in step.nest.buffers]))

    def call(*tensors: torch.Tensor) -> None:
        here = {**between, **dict(zip(order, tensors, strict=True))}
        for run, names in kernels:
            run(*[here[name] for name in names])

    return call

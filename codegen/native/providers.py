"""Which provider computes a matrix product on this machine: `provider(sizes, target)`.

Providers differ by up to 2× from processor to processor, so one product of each class (dtype, how
many rows, batched or not) is timed with each of them, the first time that one of the class is
compiled here. The times are kept in the cache beside the processor's name, for all processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

from tracejit.codegen.native.generate import generate
from tracejit.codegen.native.objects import compile_kernel
from tracejit.fuse.finish import finish
from tracejit.fuse.program import RunKernel
from tracejit.ir.dtypes import HALVES, NAME, TORCH
from tracejit.ir.graph import Graph
from tracejit.ir.products import GENERATED, LIBRARY, ONEDNN, Sizes, open_products
from tracejit.runtime import cache, cpu, devices, log, upkeep
from tracejit.runtime.externs import fastest
from tracejit.runtime.store import Item, digest

Times = dict[str, float]  # provider -> microseconds
Operands = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]  # bias, x, w, output
# Most rows and the longest sums of a class, and rows, columns and length of the product that stands
# for it: whole tiles at every level, so that the timed kernel is quick to compile.
_ANY = float("inf")
_CLASSES = (
    (1, _ANY, (1, 512, 512)),
    (32, _ANY, (8, 512, 512)),
    (256, _ANY, (112, 512, 512)),
    (_ANY, 128, (1008, 256, 64)),
    (_ANY, 1024, (504, 1024, 256)),
    (_ANY, _ANY, (504, 512, 2048)),
)
_LARGE = 504  # rows
_BATCHED = (8, 112, 112, 64)
# A generated product may take so much longer: what follows it costs no memory traffic, which counts
# the less the longer the product takes itself.
MARGIN, _MARGIN_LARGE = 1.1, 1.0
_COLD = 8 << 20  # bytes of operands used in turn: a model's weights are not in the nearest cache
_ROUNDS = 4  # how often each provider is timed

_known: dict[str, dict[str, Times]] = {}  # by the key of the machine, then by class


def provider(sizes: Sizes, target: str) -> str:
    """GENERATED, LIBRARY (ATen) or ONEDNN for a product of these sizes.

    For another machine's target nothing can be timed: products are generated, but those of halves,
    for which libraries have instructions of their own.
    """
    if cpu.level_of(target).name not in cpu.host_levels():
        return LIBRARY if sizes.dtype in HALVES else GENERATED
    return chosen(_class(sizes), times(sizes, target))


def chosen(name: str, measured: Times) -> str:
    """The provider to take for a class."""
    return best(measured, _MARGIN_LARGE if f" {_LARGE} rows" in name else MARGIN)


def best(measured: Times, margin: float = MARGIN) -> str:
    """The provider to take; a generated product may take `margin` times the least time."""
    quickest = min(measured, key=measured.__getitem__)
    generated = measured.get(GENERATED, float("inf"))
    return GENERATED if generated <= margin * measured[quickest] else quickest


def times(sizes: Sizes, target: str) -> Times:
    """Microseconds of each provider for the class of these sizes; measured if not known."""
    store, machine, name = cache.shared().store, _machine(target), _class(sizes)
    known = _known.setdefault(machine, {})
    if name not in known:
        known.update(kept(target))
    if name not in known:
        with torch.no_grad(), torch.autocast("cpu", enabled=False):
            known[name] = _measure(_stand_in(sizes), target)
        log.say(log.CACHE, f"timed {name} on {cpu.host_name()}: {known[name]} µs")
        fields = {"processor": cpu.host_name(), "target": target, "times": known}
        store.write(upkeep.HOSTS, machine, Item(fields), cache.environment(target, ""))
    return known[name]


def kept(target: str) -> dict[str, Times]:
    """What has been measured on this machine, by class; nothing is measured."""
    item = cache.shared().store.read(upkeep.HOSTS, _machine(target))
    found: dict[str, Times] = item.fields["times"] if item else {}
    return found


def _machine(target: str) -> str:
    """The key under which times are kept: all that changes them."""
    here = {"processor": cpu.host_name(), "threads": str(torch.get_num_threads())}
    return digest(cache.environment(target, ""), here)


def _class(sizes: Sizes) -> str:
    if sizes.batch > 1:
        return f"{sizes.dtype} batched"
    same = _stand_in(sizes)
    return f"{sizes.dtype} {same.m} rows of {same.k}"


def _stand_in(sizes: Sizes) -> Sizes:
    if sizes.batch > 1:
        return Sizes(sizes.dtype, *_BATCHED)
    fitting = (same for m, k, same in _CLASSES if sizes.m <= m and sizes.k <= k)
    return Sizes(sizes.dtype, 1, *next(fitting))


def _measure(sizes: Sizes, target: str) -> Times:
    """The least time of each provider for y = bias + x·wᵀ (x·w if batched), taken in turns."""
    operands = _operands(sizes)
    call = fastest("aten.addmm" if sizes.batch == 1 else "aten.baddbmm")
    calls: dict[str, Callable[..., object]] = {
        LIBRARY: lambda bias, x, w, out: call(bias, x, w),
        GENERATED: _generated(target, *operands[0]),
    }
    if sizes.batch == 1:
        linear = fastest("mkldnn._linear_pointwise")
        calls[ONEDNN] = lambda bias, x, w, out: linear(x, w.mT, bias, "none", [], "")
    for name, run in list(calls.items()):
        try:
            run(*operands[0])
        except RuntimeError:  # oneDNN was not built in, or has no such product on this processor
            del calls[name]
    found = dict.fromkeys(calls, float("inf"))
    for _ in range(_ROUNDS):
        for name, run in calls.items():
            found[name] = min(found[name], _seconds(run, operands) * 1e6)
    return {name: round(value, 2) for name, value in found.items()}


def _operands(sizes: Sizes) -> list[Operands]:
    """Operands for one call after the other; written, or they would share one page of zeros."""
    lead = (sizes.batch,) if sizes.batch > 1 else ()

    def ones(*shape: int) -> torch.Tensor:
        return torch.ones(shape, dtype=TORCH[sizes.dtype], device="cpu")

    found: list[Operands] = []
    while not found or len(found) * sum(t.nbytes for t in found[0]) < _COLD:
        x, w = ones(*lead, sizes.m, sizes.k), ones(*lead, sizes.n, sizes.k).mT
        found.append((ones(sizes.n), x, w, ones(*lead, sizes.m, sizes.n)))
    return found


def _seconds(run: Callable[..., object], operands: list[Operands]) -> float:
    """Of one of several calls, each on other operands."""
    start = time.perf_counter()
    for each in operands:
        run(*each)
    return (time.perf_counter() - start) / len(operands)


def _generated(
    target: str, bias: torch.Tensor, x: torch.Tensor, w: torch.Tensor, out: torch.Tensor
) -> Callable[..., object]:
    """What runs the generated kernel for out = bias + x·w on such tensors."""
    graph = Graph()
    dtype = NAME[x.dtype]
    inputs = [graph.add_input(dtype, tuple(t.shape), tuple(t.stride())) for t in (bias, x, w)]
    op = "aten.baddbmm" if x.dim() == 3 else "aten.addmm"
    meta = (dtype, tuple(out.shape), tuple(out.stride()), "cpu")
    graph.outputs = [graph.add(op, tuple(inputs), {}, [meta]).out]
    program = finish(open_products(graph, lambda sizes: GENERATED))
    (step,) = program.steps
    assert isinstance(step, RunKernel)
    source = generate(step.nest, "product", target=target)
    run = devices.load(source, compile_kernel(source, target))
    names = [v.name for v in inputs]
    places = [
        names.index(name) if (name := step.args[b.name]) in names else len(names)
        for b in step.nest.buffers
    ]
    return lambda *tensors: run(*[tensors[place] for place in places])

"""From a loop nest to the source of a Triton kernel: `generate(nest, name, target=…)`.

The same nest gives the same text, byte for byte.
"""

from __future__ import annotations

import keyword
import re
from dataclasses import replace
from functools import partial

from tracejit.codegen.triton.emit import Emitter
from tracejit.codegen.triton.layout import broken
from tracejit.codegen.triton.names import Names
from tracejit.codegen.triton.rules import TYPE, combine_names
from tracejit.codegen.triton.strategy import Strategy, choose, ladder
from tracejit.fuse.loopnest import LoopNest, kernel_source
from tracejit.fuse.reductions import passes, without_columns
from tracejit.runtime.kernel import KernelSource

INDENT = "    "


def generate(
    nest: LoopNest, name: str, *, target: str, strategy: Strategy | None = None
) -> KernelSource:
    """The kernel called `name` for `nest` on `target` ("cuda:90", "hip:gfx942", "interpret").

    `strategy` overrides the choice of tiles. Raises NoRule for a word or dtype without a
    rule, ValueError for an unknown target.
    """
    if not name.isidentifier() or keyword.iskeyword(name):
        raise ValueError(f"a kernel cannot be called {name!r}")
    nest = without_columns(nest)
    if strategy is None:
        first, *rest = ladder(choose(nest, target), nest, target)
        lighter = tuple(partial(generate, nest, name, target=target, strategy=s) for s in rest)
        return replace(generate(nest, name, target=target, strategy=first), lighter=lighter)
    names = Names(combine_names())
    for reserved in (name, *(f"{b.name}_ptr" for b in nest.buffers)):
        names.taken.add(reserved)
    emitter = Emitter(nest, name, strategy, names)
    body = _pointwise(emitter) if not emitter.looped else _looped(emitter)
    constants = {"XBLOCK": strategy.xblock, "RBLOCK": strategy.rblock}
    code = "\n".join(body)
    used = {k: v for k, v in constants.items() if re.search(rf"\b{k}\b", code)}
    text = _module(nest, name, emitter, strategy, body, used)
    params = [(f"{b.name}_ptr", f"*{TYPE[b.dtype]}") for b in nest.buffers]
    return kernel_source(
        nest,
        name,
        text,
        target,
        str(strategy),
        params,
        constants=used,
        grid=-(-nest.rows // strategy.xblock),
        num_warps=strategy.num_warps,
        num_stages=strategy.num_stages,
        divisible=tuple(pointer for pointer, _ in params),
    )


def _pointwise(emitter: Emitter) -> list[str]:
    """Everything once: elements of a flat range, or rows that are held whole."""
    for store in emitter.nest.stores:
        emitter.compute(store.needs)
        emitter.store(store)
    return emitter.lines


def _looped(emitter: Emitter) -> list[str]:
    """Several passes over the columns; in each what its reductions and stores need is computed
    again.
    """
    nest, when = emitter.nest, passes(emitter.nest)
    reductions = [s for s in nest.body() if s.op == "reduce"]
    stores = {s: max(when[n.key] for n in s.needs) for s in nest.stores}
    across = [s for s in nest.stores if any(a.reduce for a in s.index.axes())]
    last = max([when[r.key] for r in reductions] + [stores[s] + 1 for s in across])
    for number in range(last):
        emitter.inner, emitter.after = [], []
        for reduction in reductions:
            if when[reduction.key] == number + 1:
                emitter.compute((reduction,))
        for store in across:
            if stores[store] == number:
                emitter.compute(store.needs)
                emitter.store(store)
        emitter.lines.append(f"for start in range(0, {nest.columns}, RBLOCK):")
        emitter.lines.extend(INDENT + line for line in emitter.inner)
        emitter.lines.extend(emitter.after)
        emitter.end_loop()
    emitter.inner = emitter.after = emitter.lines
    for store in nest.stores:
        if store not in across:
            emitter.compute(store.needs)
            emitter.store(store)
    return emitter.lines


def _module(
    nest: LoopNest,
    name: str,
    emitter: Emitter,
    strategy: Strategy,
    body: list[str],
    used: dict[str, int],
) -> str:
    """The whole text: what it is, imports, combining functions, the kernel."""
    lines = [f'"""{name}: {strategy}.', ""]
    loops = ", ".join(f"{a.name} of {a.size}{' (reduced)' if a.reduce else ''}" for a in nest.axes)
    lines.append(f"Over {loops or 'one element'}." if nest.axes else "One element.")
    places = [str(o) for o in dict.fromkeys(nest.origins) if o.file]
    if places:
        lines += ["From:", *(f"    {place}" for place in places)]
    lines += ['"""', "", "import triton", "import triton.language as tl"]
    if any("libdevice." in line for line in body):
        lines.append("from triton.language.extra import libdevice")
    for combine in emitter.combines.values():
        lines += ["", "", *combine.text.rstrip().splitlines()]
    params = [f"{b.name}_ptr" for b in nest.buffers] + [f"{c}: tl.constexpr" for c in used]
    lines += [
        "",
        "",
        "@triton.jit",
        *_signature(name, params),
        *(INDENT + piece for line in body for piece in broken(line)),
        "",
    ]
    return "\n".join(lines)


def _signature(name: str, params: list[str]) -> list[str]:
    one = f"def {name}({', '.join(params)}):"
    if len(one) <= 100:
        return [one]
    return [f"def {name}(", *(f"{INDENT}{p}," for p in params), "):"]

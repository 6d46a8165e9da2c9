"""The compiler as one list of stages: a recorded graph in; plan and kernels, as texts and binaries,
out."""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from tracejit.codegen import plan as plan_text
from tracejit.codegen.generators import generator_for
from tracejit.codegen.inplace import in_place
from tracejit.codegen.offsets import with_shared_kernels
from tracejit.fuse import scalar
from tracejit.fuse.attention import Attention, with_attention
from tracejit.fuse.finish import finish
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.program import Program, RunKernel
from tracejit.ir import passes
from tracejit.ir.convolutions import open_convolutions
from tracejit.ir.draws import draw_in_kernels
from tracejit.ir.graph import Graph, Value, map_values
from tracejit.ir.layout import channels_last
from tracejit.ir.pooling import open_pools
from tracejit.ir.products import open_products
from tracejit.ir.split import split_reductions
from tracejit.runtime import forks
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.reasons import Reason
from tracejit.runtime.targets import is_gpu, kind_of
from tracejit.runtime.worker import Leaving

# Expressions are shared within one lowering (fuse.scalar), so two may not run side by side.
_one_at_a_time = forks.Lock(threading.Lock)
Make = Callable[[Sequence[KernelSource]], Iterable[Binary]]
Binaries = Callable[[Sequence[KernelSource], Make], Iterable[Binary]]


@dataclass
class Stage:
    """What one stage made, as text made on demand; or its error."""

    name: str
    seconds: float
    show: Callable[[], str]
    error: str = ""

    @property
    def text(self) -> str:
        return self.error or self.show()

    def __str__(self) -> str:
        return f"# {self.name} ({self.seconds * 1e3:.1f} ms)\n{self.text}"


class StageFailed(Exception):
    """A stage raised `cause`."""

    def __init__(self, stage: str, cause: BaseException) -> None:
        self.stage, self.cause = stage, cause
        self.reason = Reason("compiler", f"{type(cause).__name__}: {cause}", stage)
        super().__init__(f"{stage}: {self.reason.text}")


@dataclass
class Built:
    """What the stages made. `kernels` and `binaries` go by the names that the plan's text calls."""

    program: Program
    plan: str
    manifest: dict[str, Any]
    kernels: dict[str, KernelSource]
    binaries: dict[str, Binary | None]


@dataclass
class Pipeline:
    """One compilation: its target and options, and the history of what each stage made."""

    target: str
    numerics: str = "eager"
    title: str = ""
    binaries: Binaries = lambda sources, make: make(sources)  # finds some, makes the others
    history: list[Stage] = field(default_factory=list)

    def build(self, graph: Graph) -> Built:
        """All stages, in order. Raises StageFailed; `history` keeps what was made until then."""
        with _one_at_a_time, forks.gate:
            program, kernels = self.lower(graph)
            scalar.clear()
        with self.stage("plan") as show:
            names = {id(nest): name for name, nest in kernel_nests(program).items()}
            text, manifest = plan_text.render(program, names, self.title)
            show(text)
        with self.stage("machine code") as show:
            binaries = self.compile(kernels)
            show("\n".join(f"{name}: {summary(b)}" for name, b in binaries.items()))
        kernels = {name: replace(source, lighter=()) for name, source in kernels.items()}
        return Built(program, text, manifest, kernels, binaries)

    def lower(self, graph: Graph) -> tuple[Program, dict[str, KernelSource]]:
        """From the recorded graph to a program and its kernels' sources."""
        with self.stage("recorded") as show:
            graph = retarget(graph, self.target)
            show(graph)
        for name, work in self.passes():
            with self.stage(name) as show:
                graph = passes.run(graph, [(name, work)])
                show(graph)
        return self.scheduled(graph)

    def scheduled(self, graph: Graph) -> tuple[Program, dict[str, KernelSource]]:
        """From a graph after all passes to a program and its kernels' sources."""
        with self.stage("schedule") as show:
            program = finish(graph)
            if kind_of(self.target) == "native":
                program = in_place(with_shared_kernels(with_attention(program)))
            show(Listing(program))
        with self.stage("kernels") as show:
            kernels = self.generate(program)
            show("\n\n".join(k.text for k in kernels.values()))
        return program, kernels

    def passes(self) -> list[tuple[str, passes.Pass]]:
        """The graph passes for the target, in order."""
        drawing = [("draws", draw_in_kernels)] if self.numerics == "fast" else []
        own: list[tuple[str, passes.Pass]] = []
        if is_gpu(self.target):
            own = [("split reductions", split_reductions)]
        elif kind_of(self.target) == "native":
            from tracejit.codegen.native.providers import provider

            choose = functools.partial(provider, target=self.target)
            own = [
                ("convolutions", functools.partial(open_convolutions, choose=choose)),
                ("channels last", channels_last),
                ("pools", open_pools),
                ("products", functools.partial(open_products, choose=choose)),
            ]
        return [*drawing, *passes.default_passes(), *own]

    def generate(self, program: Program) -> dict[str, KernelSource]:
        """The source of each different nest, by name."""
        generate = generator_for(kind_of(self.target)).source
        return {
            name: generate(nest, name, target=self.target)
            for name, nest in kernel_nests(program).items()
        }

    def compile(self, kernels: dict[str, KernelSource]) -> dict[str, Binary | None]:
        """Machine code for each kernel; None for targets that have none."""
        compile = generator_for(kind_of(self.target)).compile
        if compile is None:
            return dict.fromkeys(kernels)
        make = functools.partial(compile, target=self.target)
        return dict(zip(kernels, self.binaries(list(kernels.values()), make), strict=True))

    @contextmanager
    def stage(self, name: str) -> Iterator[Callable[[Any], None]]:
        """Time a stage and keep what it hands to the yielded function, printed when asked for."""
        start = time.perf_counter()
        made: list[Any] = []
        try:
            yield made.append
        except Leaving:
            raise
        except Exception as error:  # of any type: it is told with its stage
            text = f"{type(error).__name__}: {error}"
            self.history.append(Stage(name, time.perf_counter() - start, str, text))
            raise StageFailed(name, error) from error
        seconds = time.perf_counter() - start
        self.history.append(Stage(name, seconds, lambda: str(made[0])))


def kernel_nests(program: Program) -> dict[str, LoopNest | Attention]:
    """The different loop nests of a program by name, in order of first use."""
    return {s.nest.name: s.nest for s in program.steps if isinstance(s, RunKernel)}


def retarget(graph: Graph, target: str) -> Graph:
    """The graph for a GPU although recorded on the CPU: devices among values and arguments
    change."""
    device = "cuda" if is_gpu(target) else "cpu"
    values = [*graph.inputs, *(v for n in graph.nodes for v in n.outputs)]
    if device == "cpu" or any(v.device != "cpu" for v in values):
        return graph
    moved: dict[Value, Value] = {}
    new = Graph()
    for value in graph.inputs:
        moved[value] = new.add_input(value.dtype, value.sizes, value.strides, device, value.name)
    for node in graph.nodes:
        args = _on_device(map_values(node.args, moved.__getitem__), device)
        kwargs = {
            k: _on_device(map_values(v, moved.__getitem__), device) for k, v in node.kwargs.items()
        }
        metas = [(v.dtype, v.sizes, v.strides, device) for v in node.outputs]
        made = new.add(node.op, args, kwargs, metas, node.origin)
        for old, value in zip(node.outputs, made.outputs, strict=True):
            value.name = old.name
            moved[old] = value
    new._count = graph._count
    new.outputs = [moved[v] for v in graph.outputs]
    new.writes = [(moved[a], moved[b]) for a, b in graph.writes]
    new.together = [[moved[v] for v in group] for group in graph.together]
    return new


def _on_device(tree: Any, device: str) -> Any:
    if isinstance(tree, torch.device) and tree.type == "cpu":
        return torch.device(device)
    if isinstance(tree, (tuple, list)):
        return type(tree)(_on_device(item, device) for item in tree)
    return tree


class Listing:
    """A program as text: decisions, then each step, nests in full once."""

    def __init__(self, program: Program) -> None:
        self.program = program

    def __str__(self) -> str:
        lines = [
            f"{'fused' if d.fused else 'apart'}: {d.what}: {d.reason}"
            + (f" ({d.bytes_saved} bytes saved)" if d.fused else "")
            for d in self.program.decisions
        ]
        shown: set[int] = set()
        for step in self.program.steps:
            if isinstance(step, RunKernel):
                if id(step.nest) not in shown:
                    shown.add(id(step.nest))
                    lines.append(str(step.nest))
                outs = ", ".join(s.name for s in step.outs)
                lines.append(f"{outs} = {step.nest.name}({', '.join(step.args.values())})")
            else:
                lines.append(str(step))
        return "\n".join(lines)


def summary(binary: Binary | None) -> str:
    """One line about a compiled kernel."""
    if binary is None:
        return "runs from its source"
    facts = [f"{len(binary.code)} bytes"]
    if binary.registers is not None:
        facts += [f"{binary.registers} registers", f"{binary.spills} spilled"]
        facts.append(f"{binary.shared} bytes shared")
    return ", ".join([*facts, f"{binary.seconds * 1e3:.0f} ms"])


def names_from(graph: Graph, paths: Sequence[str]) -> None:
    """Name graph inputs after their access paths: `self.layers[0].weight` becomes
    layers_0_weight."""
    taken: set[str] = set()
    for value, path in zip(graph.inputs, paths, strict=True):
        words = re.findall(r"\w+", path)
        name = "_".join(words[1:] if len(words) > 1 and words[0] in ("self", "arg") else words)
        name = name if name.isidentifier() else f"a_{name}"
        while name in taken:
            name += "_"
        taken.add(name)
        value.name = name

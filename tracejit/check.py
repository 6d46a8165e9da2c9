"""Which stage makes a result wrong? What each stage made is run beside eager, one after the other.

A graph is run by torch, operation by operation: so the recorder and the passes are asked first.
Then each launch of the program is given eager's own values, so that a mistake shows in the kernel
that makes it and in no other: if its loop nest in plain torch makes it too, that is at fault, else
the generator. Last comes the compiled call itself, with guards, plan and disk cache. See
CONTRIBUTING.md.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tracejit.compiler import Pipeline, StageFailed
from tracejit.fuse.execute import launch_nest, run_program
from tracejit.fuse.program import RunKernel
from tracejit.ir import passes
from tracejit.ir.execute import execute, run_node, with_strides
from tracejit.ir.graph import Graph, Value
from tracejit.runtime import devices
from tracejit.runtime.outputs import compile_tree
from tracejit.runtime.targets import backend_for
from tracejit.trace.recorder import record

Tensors = Sequence[torch.Tensor]
# Stages beside the passes of the graph, which go by their own names.
RECORDER, NEST, GENERATOR, CALL = "recorder", "loop nest", "generator", "compiled call"


@dataclass(frozen=True)
class Checked:
    """One comparison: the stage, the kernel if it is about a launch, the largest absolute
    difference, and what is wrong (or "")."""

    stage: str
    kernel: str
    difference: float
    wrong: str


def check_kernels(f: Callable[..., Any], *args: Any, **kwargs: Any) -> list[Checked]:
    """Record `f(*args, **kwargs)` and run each launch of its program in Triton's interpreter.

    Differences beyond torch.testing's tolerances of the dtype are reported, not raised. Raises
    ValueError, with the reason, for a call that cannot be recorded.
    """
    check = Check(f, args, kwargs, "interpret")
    *_, (_, graph) = check.passed()
    return check.launches(graph)


class Check:
    """One recorded call, and the state in which everything is compared. `f` is called five times,
    each time with what its inputs and the random state were.

    Raises ValueError, with the reason, for a call that cannot be recorded.
    """

    def __init__(
        self, f: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], target: str
    ) -> None:
        self.call = functools.partial(f, *args, **kwargs)
        self.pipeline = Pipeline(target)
        self.asked = RECORDER
        _, self.recording = record(f, args, kwargs)
        if self.recording.graph is None:
            raise ValueError(f"the call was not recorded: {self.recording.refused}")
        self.graph: Graph = self.recording.graph
        self.inputs = [copied(source) for source in self.recording.sources]

    def stages(self) -> Iterator[Checked]:
        """Every stage of the compiler, in order, as soon as it is known. The first that is wrong,
        or raises, is at fault; nothing comes after one that raises."""
        try:
            graph = yield from self.graphs()
            self.asked = GENERATOR
            yield from self.launches(graph)
            self.asked = CALL
            yield from self.calls()
        except Exception as error:  # of any type: the stage that raised it is at fault
            stage = error.stage if isinstance(error, StageFailed) else self.asked
            yield Checked(stage, "", 0.0, f"{type(error).__name__}: {error}")

    def alike(self, work: Callable[[], Any]) -> Any:
        """What `work` gives with the inputs and the random state of all others."""
        with torch.no_grad():
            for old, _ in self.graph.writes:
                place = self.graph.inputs.index(old)
                self.recording.sources[place].copy_(self.inputs[place])
        with torch.random.fork_rng():
            return work()

    def graphs(self) -> Generator[Checked, None, Graph]:
        """What was recorded beside eager, then each pass beside what was recorded. Gives the last
        graph."""
        want = tensors_in(self.alike(self.call))
        first = self.executed(self.graph)
        rebuild = compile_tree(self.recording.outputs)
        made = self.alike(lambda: rebuild(self.recording.sources, first))
        yield compared(RECORDER, tensors_in(made), want)
        for name, graph in self.passed():
            yield compared(name, self.executed(graph), first)
        return graph

    def passed(self) -> Iterator[tuple[str, Graph]]:
        """The graph after each pass for the target."""
        graph = self.graph
        for name, work in self.pipeline.passes():
            self.asked = name
            graph = passes.run(graph, [(name, work)])
            yield name, graph

    def executed(self, graph: Graph) -> list[torch.Tensor]:
        """The graph's outputs, then what its inputs become."""
        run = functools.partial(execute, graph, self.inputs, self.recording.generators)
        outputs, writes = self.alike(run)
        return [*outputs, *writes.values()]

    def launches(self, graph: Graph) -> list[Checked]:
        """Each launch of the program that a graph becomes, given eager's values."""
        program, sources = self.pipeline.scheduled(graph)
        binaries = self.pipeline.compile(sources)
        kernels = {name: devices.load(sources[name], binaries[name]) for name in sources}
        eager = self.alike(functools.partial(eager_values, graph, self.inputs))
        launch = Launch(kernels, eager, {old.name: new.name for old, new in graph.writes})
        inputs = [copied(source) for source in self.inputs]
        self.alike(functools.partial(run_program, program, inputs, launch))
        return launch.found

    def calls(self) -> Iterator[Checked]:
        """The call as `tracejit.compile` makes it, when nothing is recorded any more."""
        from tracejit import compile

        backend = backend_for(self.pipeline.target)
        compiled = compile(self.call.func, backend=backend, wait=True)
        again = functools.partial(compiled, *self.call.args, **self.call.keywords)
        self.alike(again)
        want, found = self.alike(self.call), self.alike(again)
        yield compared(CALL, tensors_in(found), tensors_in(want))


class Launch:
    """Runs each launch of a program as a kernel, keeps how that compares with eager's values, and
    goes on with these. `written`: what inputs become, by name, for kernels that write to them."""

    def __init__(
        self,
        kernels: Mapping[str, Callable[..., Any]],
        eager: Mapping[str, torch.Tensor],
        written: Mapping[str, str],
    ) -> None:
        self.kernels, self.eager, self.written = kernels, eager, written
        self.found: list[Checked] = []

    def __call__(self, step: RunKernel, buffers: dict[str, torch.Tensor]) -> None:
        before = {name: copied(tensor) for name, tensor in buffers.items()}
        self.kernels[step.nest.name](*(buffers[b.name] for b in step.nest.buffers))
        wanted = {b: want for b, want in self.wanted(step) if want is not None}
        wrong = [b for b, want in wanted.items() if compared("", [buffers[b]], [want]).wrong]
        stage = self.blamed(step, before, wrong[0], wanted[wrong[0]]) if wrong else GENERATOR
        for buffer, want in wanted.items():
            self.found.append(compared(stage, [buffers[buffer]], [want], step.nest.name))
            buffers[buffer].copy_(want)

    def wanted(self, step: RunKernel) -> Iterator[tuple[str, torch.Tensor | None]]:
        """Each buffer that the launch writes, and eager's value for it where it has a name."""
        for buffer in step.nest.buffers:
            name = step.args[buffer.name]
            if buffer.written:
                yield buffer.name, self.eager.get(self.written.get(name, name))

    def blamed(
        self, step: RunKernel, buffers: dict[str, torch.Tensor], wrong: str, want: torch.Tensor
    ) -> str:
        """Whether the nest in plain torch is wrong too."""
        launch_nest(step, buffers)
        return NEST if compared("", [buffers[wrong]], [want]).wrong else GENERATOR


def eager_values(graph: Graph, inputs: Tensors) -> dict[str, torch.Tensor]:
    """Every value of a graph that is determined, by name, computed by torch one operation at a
    time."""
    env: dict[Value, torch.Tensor] = dict(zip(graph.inputs, inputs, strict=True))
    with torch.no_grad():
        for node in graph.nodes:
            env.update(zip(node.outputs, run_node(node, env), strict=True))
    chance = {value for node in graph.nodes if "empty" in node.op for value in node.outputs}
    return {value.name: tensor for value, tensor in env.items() if value not in chance}


def copied(tensor: torch.Tensor) -> torch.Tensor:
    """The same values and strides in other memory."""
    return with_strides(tensor, tensor.stride())


def tensors_in(result: Any) -> list[torch.Tensor]:
    """The tensors of a return value, in order."""
    if isinstance(result, torch.Tensor):
        return [result]
    if isinstance(result, Mapping):
        result = list(result.values())
    if not isinstance(result, (tuple, list)):
        result = list(getattr(result, "__dict__", {}).values())
    return [tensor for part in result for tensor in tensors_in(part)]


def compared(stage: str, ours: Tensors, eager: Tensors, kernel: str = "") -> Checked:
    """Ours beside eager's, with torch.testing's tolerances for each dtype."""
    if len(ours) != len(eager):
        return Checked(stage, kernel, 0.0, f"{len(ours)} tensors, of eager's {len(eager)}")
    wrong = ""
    for found, want in zip(ours, eager):
        try:
            torch.testing.assert_close(found, want, equal_nan=True)
        except AssertionError as difference:
            wrong = wrong or str(difference)
    return Checked(stage, kernel, max(map(_difference, ours, eager), default=0.0), wrong)


def _difference(ours: torch.Tensor, eager: torch.Tensor) -> float:
    """The largest absolute difference; of integers and bools, whether there is one."""
    if ours.shape != eager.shape or not ours.numel():
        return 0.0
    if ours.dtype.is_complex:
        return float((ours - eager).abs().nan_to_num().max())
    if ours.dtype.is_floating_point:
        return float((ours.double() - eager.double()).abs().nan_to_num().max())
    return float((ours != eager).any())

"""Random programs of views, pointwise ops, reductions, indexing and in-place writes, against eager.

Each is a Python function, made line by line: a line is kept if eager can run it. Numbers are small
multiples of 1/4, so that sums are exact in any order; what is not exact (exp, division, …) is not
fed to what jumps (comparisons, argmax, casts to integers), where the last bit would decide.
"""

from __future__ import annotations

import importlib
import itertools
import linecache
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, assume, given, reject, settings

import tracejit
import tracejit.ops
from tests.executors import BACKENDS
from tracejit.ir import passes
from tracejit.ir.execute import execute, storage
from tracejit.ir.graph import Graph, show
from tracejit.ir.text import parse
from tracejit.ir.verify import verify
from tracejit.runtime.errors import RanEagerly
from tracejit.runtime.outputs import compile_tree
from tracejit.runtime.paths import around
from tracejit.trace.recorder import record
from tracejit.trace.recording import Recording

for _module in pkgutil.iter_modules(tracejit.ops.__path__):
    importlib.import_module(f"tracejit.ops.{_module.name}")

# {x} {y}: tensors; {d} {e}: dims of x; {i}: an index of dim 0; {n}: a number; {t}: a dtype
SMOOTH = """
torch.neg({x}) | {x} + {y} | {x} - {y} * {n} | {x} * {y} | {n} - {x} | torch.relu({x}) | {x} ** 2
torch.add({x}, {y}, alpha=2) | torch.lerp({x}, {y}, 0.5) | {x}.abs() | torch.square({x})
""".replace("\n", "|")
JUMPS = """
torch.maximum({x}, {y}) | torch.where({x} > {n}, {x}, {y}) | {x} > {y} | {x} == {y} | {x} != {n}
torch.logical_not({x}) | {x} // 2 | {x} % 3 | torch.remainder({x}, {y}) | {x}.round() | {x} & {y}
torch.bitwise_or({x}, {y}) | ~{x} | {x} << 1 | {x}.sign() | {x}.clamp(-1, {n}) | {x}.to(torch.{t})
{x}.floor() | {x}.to(torch.{t}) + {y} | torch.minimum({x}, {y}) | {x}.bool() | torch.isnan({x})
{x} >= {n}
""".replace("\n", "|")
INEXACT = """
torch.sigmoid({x}) | {x}.abs().sqrt() | torch.tanh({x}) | {x} / ({y} * {y} + 1)
torch.exp(-{x}.abs()) | torch.softmax({x}, {d}) | torch.log_softmax({x}, {d})
torch.logsumexp({x}, {d}) | {x}.var({d}) | {x}.mean({d}, keepdim=True) | {x}.mean() | {x}.std({d})
{x} / 3 | F.gelu({x}) | F.silu({x}) | F.layer_norm({x}, {x}.shape[-1:])
torch.rsqrt({x}.abs() + 1) | {x}.norm() | F.softplus({x})
""".replace("\n", "|")
VIEWS = """
{x}.transpose({d}, {e}) | {x}.reshape(-1) | {x}.view(-1) | {x}[{i}] | {x}[{i}:] | {x}[..., 1:]
{x}[::2] | {x}[..., None] | {x}.unsqueeze({d}) | {x}.squeeze() | {x}.expand(2, *{x}.shape)
{x}.diagonal() | {x}.permute(*range({x}.ndim)[::-1]) | {x}.split(2, {d})[-1] | {x}.unbind({d})[0]
{x}.narrow({d}, 0, 1) | {x}.unflatten(0, (2, -1)) | {x}.flatten() | {x}.unfold({d}, 2, 1)
{x}.movedim({d}, {e}) | {x}.chunk(2, {d})[0] | {x}.contiguous() | {x}.clone() | {x}[:, {i}]
{x}.mT | {x}.select({d}, -1) | {x}.squeeze({d}) | {x}.view_as({x}) | {x}[None] | {x}.detach()
{x}[-1:, ..., :1]
""".replace("\n", "|")
REDUCTIONS = """
{x}.sum({d}) | {x}.sum() | {x}.sum({d}, keepdim=True) | {x}.sum(({d}, {e})) | {x}.cumsum({d})
{x}.sum({d}, dtype=torch.float64) | torch.trace({x})
""".replace("\n", "|")
PICKS = """
{x}.amax({d}) | {x}.argmax({d}) | {x}.any({d}) | {x}.all() | {x}.min({d}).values | {x}.argmin()
{x}.max() | {x}.amin(({d}, {e})) | {x}.count_nonzero({d}) | torch.aminmax({x}).max
{x}.max({d}).indices
""".replace("\n", "|")
BUILDS = """
torch.cat([{x}, {y}], {d}) | torch.stack([{x}, {x}], {d}) | F.pad({x}, (1, 2), value={n})
F.pad({x}, (0, -1)) | torch.full_like({x}, {n}) | {x} + torch.arange({x}.shape[-1])
torch.tril({x}) | {x}.repeat(2, 1) | {x}.roll(1, {d}) | {x}.flip({d})
{x} * torch.zeros({x}.shape) | torch.triu({x}, 1) | {x}.new_ones(2)
{x}.repeat_interleave(2, {d}) | torch.stack([{x}, {y}], {d}) | torch.zeros_like({x})
""".replace("\n", "|")
INDEXING = """
{x}[torch.tensor([0, -1])] | {x}.index_select({d}, torch.arange(1))
{x}[..., torch.tensor([[0], [0]])]
torch.gather({x}, {d}, torch.zeros_like({x}, dtype=torch.int64))
{x}[torch.tensor([0]), ..., None]
{x}.take_along_dim(torch.zeros_like({x}, dtype=torch.int64), {d}) | {x}.masked_fill({y} > 0, {n})
{x}.scatter({d}, torch.zeros_like({x}, dtype=torch.int64)[:1], {n})
""".replace("\n", "|")
WRITES = """
{x}.add_({y}) | {x}.mul_({n}) | {x}.copy_({y}) | {x}.zero_() | {x}[{i}:] = {n}
{x}[..., 0] += {n} | {x}[{i}] = {y} | {x}.fill_({n}) | {x}.transpose({d}, {e}).mul_({y})
{x}[:, ::2] = {y} | {x}.diagonal().fill_({n}) | {x}.view(-1)[:1].add_(1) | {x} += {y}
{x}[torch.tensor([0, -1])] = {n} | {x}.select({d}, 0).copy_({y}) | {x}.unsqueeze(0).neg_()
{x}[..., :1].sub_({y}) | {x}.t_() | {x}.squeeze_() | torch.add({x}, {n}, out={x})
{x}.index_fill_({d}, torch.tensor([0]), {n}) | {x}.index_add_(0, torch.tensor([0]), {y})
{x}[None].mul_({y}) | {x}.detach().add_({n})
""".replace("\n", "|")
WRITES_JUMP = """
{x}.masked_fill_({x} > 0, {n}) | {x}[{x} > {n}] = {n} | {x}.clamp_(0) | {x}.relu_()
{x}.copy_({x} > 0)
""".replace("\n", "|")


@dataclass(frozen=True)
class Template:
    """A line with holes. jumps: takes exact values only; inexact: its result is not exact."""

    text: str
    writes: bool = False
    jumps: bool = False
    inexact: bool = False


def _templates(text: str, **flags: bool) -> list[Template]:
    return [Template(t.strip(), **flags) for t in text.split("|") if t.strip()]


GROUPS = [
    _templates(SMOOTH),
    _templates(JUMPS, jumps=True),
    _templates(INEXACT, inexact=True),
    _templates(VIEWS),
    _templates(REDUCTIONS),
    _templates(PICKS, jumps=True),
    _templates(BUILDS),
    _templates(INDEXING, jumps=True),
    _templates(WRITES, writes=True),
    _templates(WRITES_JUMP, writes=True, jumps=True),
]
DTYPES = ["float32", "float64", "float16", "bfloat16", "int64", "int32", "uint8", "bool"]
NUMBERS = ["2", "-1", "0", "0.5", "1.0", "-0.0", "True", "0.25"]
LAYOUTS = ["plain", "transposed", "step", "offset", "shared"]
LARGEST = 150


@dataclass(frozen=True)
class Input:
    """How to make one argument; "shared" is a view of the argument before it."""

    dtype: str
    shape: tuple[int, ...]
    layout: str
    seed: int

    def make(self, before: torch.Tensor | None) -> torch.Tensor:
        dtype = getattr(torch, self.dtype)
        if self.layout == "shared" and before is not None and before.ndim:
            return before[: self.shape[0] if self.shape else 1]
        shape = list(self.shape)
        if self.layout == "transposed":
            shape.reverse()
        if self.layout == "step" and shape:
            shape[-1] *= 2
        if self.layout == "offset":
            shape = [2, *shape]
        generator = torch.Generator().manual_seed(self.seed)
        data = torch.randint(-8, 9, shape, generator=generator) / 4
        data = data.abs() if self.dtype == "uint8" else data
        data = (data > 0) if self.dtype == "bool" else data.to(dtype)
        if self.layout == "transposed":
            return data.permute(tuple(range(data.ndim))[::-1])
        if self.layout == "step" and shape:
            return data[..., ::2]
        return data[1] if self.layout == "offset" else data


@dataclass(frozen=True)
class Program:
    """A function as text, and its arguments."""

    source: str
    inputs: tuple[Input, ...]

    def arguments(self) -> list[torch.Tensor]:
        made: list[torch.Tensor] = []
        for spec in self.inputs:
            made.append(spec.make(made[-1] if made else None))
        return made

    def function(self) -> Callable[..., Any]:
        name = f"<program {next(_COUNT)}>"
        space: dict[str, Any] = {"torch": torch, "F": torch.nn.functional, "__name__": name}
        exec(compile(self.source, name, "exec"), space)
        linecache.cache[name] = (len(self.source), None, self.source.splitlines(True), name)
        return space["program"]  # type: ignore[no-any-return]

    def __repr__(self) -> str:
        return f"{self.source}\n# inputs: {self.inputs}"


_COUNT = itertools.count()


@st.composite
def programs(draw: st.DrawFn) -> Program:
    """A program of up to 8 lines that eager runs."""
    sizes = st.lists(st.sampled_from([1, 2, 3, 4, 2, 3, 0]), max_size=3).map(tuple)
    shapes = draw(st.lists(sizes, min_size=1, max_size=2))
    inputs = tuple(
        Input(
            draw(st.sampled_from(DTYPES)),
            draw(st.sampled_from(shapes)),
            draw(st.sampled_from(LAYOUTS)),
            n,
        )
        for n in range(draw(st.integers(1, 3)))
    )
    blank = Program("", inputs)
    env = dict(zip("abc", blank.arguments(), strict=False))
    head = f"def program({', '.join(env)}):"
    lines: list[str] = []
    inexact: set[int] = set()
    for _ in range(draw(st.integers(1, 8))):
        _step(draw, env, lines, inexact)
    names = draw(st.lists(st.sampled_from(sorted(env)), min_size=1, max_size=3))
    returned = names[0] if len(names) == 1 else ", ".join(names)
    body = "".join(f"    {line}\n" for line in [*lines, f"return {returned}"])
    return Program(f"{head}\n{body}", inputs)


def _step(
    draw: st.DrawFn, env: dict[str, torch.Tensor], lines: list[str], inexact: set[int]
) -> None:
    """Try one more line; it is added if eager can run it and its result is small."""
    template = draw(st.sampled_from(draw(st.sampled_from(GROUPS))))
    exact = [n for n, t in env.items() if storage(t) not in inexact]
    names = sorted(exact if template.jumps else env)
    if not names:
        return
    x, y = (draw(st.sampled_from(names)) for _ in range(2))
    dims = st.integers(-1, max(env[x].ndim - 1, 0))
    line = template.text.format(
        x=x, y=y, d=draw(dims), e=draw(dims), i=draw(st.integers(-1, 2)),
        n=draw(st.sampled_from(NUMBERS)), t=draw(st.sampled_from(DTYPES)),
    )  # fmt: skip
    name = f"t{len(lines)}"
    text = line if template.writes else f"{name} = {line}"
    # On copies first: a line that raises halfway may have written.
    trial = _copies(env)
    try:
        exec(text, {"torch": torch, "F": torch.nn.functional}, trial)
    except (RuntimeError, IndexError, TypeError, ValueError, NotImplementedError):
        return
    if any(t.numel() > LARGEST or t.ndim > 5 or t.is_complex() for t in trial.values()):
        return
    before = {n: storage(t) for n, t in env.items()}
    exec(text, {"torch": torch, "F": torch.nn.functional}, env)
    lines.append(text)
    if template.inexact or {before[x], before[y]} & inexact:
        inexact.add(storage(env[x] if template.writes else env[name]))


def _copies(env: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors with fresh memory, sharing it as they do."""
    memory = {storage(t): t.untyped_storage().clone() for t in env.values()}
    return {
        n: torch.empty(0, dtype=t.dtype).set_(
            memory[storage(t)], t.storage_offset(), t.shape, t.stride()
        )
        for n, t in env.items()
    }


# --- comparing ---

TOLERANCE = {torch.float16: 4e-3, torch.bfloat16: 3e-2, torch.float32: 2e-5, torch.float64: 1e-10}


def flat(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


def sharing(tensors: Sequence[torch.Tensor]) -> list[Any]:
    """Which tensors are one object, which share memory and where, and how each looks."""
    first: dict[int, torch.Tensor] = {}
    found = []
    for n, t in enumerate(tensors):
        base = first.setdefault(storage(t), t)
        same = next(k for k, other in enumerate(tensors) if other is t)
        group = next(k for k, other in enumerate(tensors) if other is base)
        offset = t.storage_offset() - base.storage_offset()
        found.append((n, same, group, offset, t.dtype, tuple(t.shape), t.stride()))
    return found


def check_equal(
    expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor], exact: bool
) -> None:
    for a, b in zip(expected, found, strict=True):
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        tolerance = 0 if exact else TOLERANCE.get(a.dtype, 0)
        torch.testing.assert_close(b, a, rtol=tolerance, atol=tolerance, equal_nan=True)


def run_eager(program: Program) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Arguments and results after an eager call."""
    arguments = program.arguments()
    return arguments, flat(program.function()(*arguments))


common = settings(
    deadline=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ],
)
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@given(programs())
@settings(common, max_examples=200)
def test_programs_are_programs(program: Program) -> None:
    """The generator itself: two eager runs agree in everything that the tests compare."""
    first, second = run_eager(program), run_eager(program)
    check_equal([*first[0], *first[1]], [*second[0], *second[1]], exact=True)
    assert sharing([*first[0], *first[1]]) == sharing([*second[0], *second[1]])


def recorded(program: Program) -> tuple[Recording, list[int]]:
    """The program recorded, that call compared with eager; which argument each graph input is.

    A program that the recorder refuses is right all the same, and ends the example there.
    """
    arguments = program.arguments()
    result, recording = record(program.function(), tuple(arguments), {})
    check_same_call(run_eager(program), (arguments, flat(result)), exact=True)
    assume(recording.graph is not None)
    order = [
        next(n for n, a in enumerate(arguments) if a is source)
        for number, source in enumerate(recording.sources)
        if number not in recording.spans
    ]
    return recording, order


def replayed(
    program: Program, graph: Graph, recording: Recording, order: list[int]
) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Arguments and results after the graph ran in place of the function."""
    arguments = program.arguments()
    given, inputs = iter(order), list[torch.Tensor]()
    for number in range(len(recording.sources)):
        span = recording.spans.get(number)
        whole = span and around(inputs[span.of], (span.offset, span.size))
        inputs.append(arguments[next(given)] if span is None else whole)
    outputs, writes = execute(graph, inputs)
    for position, values in writes.items():
        inputs[position].copy_(values)
    return arguments, flat(compile_tree(recording.outputs)(inputs, outputs))


def check_same_call(expected: Any, found: Any, exact: bool) -> None:
    """Values, dtypes, strides, sharing of arguments and results."""
    expected, found = [*expected[0], *expected[1]], [*found[0], *found[1]]
    check_equal(expected, found, exact)
    assert sharing(expected) == sharing(found)


@given(programs())
@settings(common, max_examples=300)
def test_recorded_graph(program: Program) -> None:
    """The recording call is eager's own; the graph alone does the same again, also as text."""
    recording, order = recorded(program)
    graph = recording.graph
    assert graph is not None
    verify(graph)
    again = parse(show(graph))
    assert show(again) == show(graph)
    for each in (graph, again):
        check_same_call(run_eager(program), replayed(program, each, recording, order), exact=True)


@given(programs())
@settings(common, max_examples=300)
def test_passes_and_decompositions(program: Program) -> None:
    """The same after all passes, each verified; no pass changes the graph it was given."""
    recording, order = recorded(program)
    graph = recording.graph
    assert graph is not None
    before = show(graph)
    new = graph
    for name, work in passes.default_passes():
        new = passes.run(new, [(name, work)])
        verify(new, name)
    assert show(graph) == before
    check_same_call(run_eager(program), replayed(program, new, recording, order), exact=False)


@pytest.mark.parametrize("backend", BACKENDS)
@given(program=programs())
@settings(common, max_examples=60)
def test_whole_pipeline(backend: str, program: Program) -> None:
    """The first call, recorded, and the second, which runs the plan."""
    compiled = tracejit.compile(program.function(), backend=backend, wait=True, strict=True)
    for _ in range(2):
        arguments = program.arguments()
        try:
            result = compiled(*arguments)
        except RanEagerly:
            reject()
        check_same_call(run_eager(program), (arguments, flat(result)), exact=False)

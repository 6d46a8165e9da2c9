"""torch.compile(f, backend="tracejit"), as torch finds it: by the package's entry point.

Programs of tests/semantics run through it; where Dynamo or AOTAutograd themselves differ from
eager, the result is that of backend="aot_eager".
"""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import logging
import subprocess
import sys
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import tracejit
from tests.executors import BACKEND
from tests.semantics import programs_state, programs_tensors
from tests.semantics.support import PHASES, Program, Seen, plain
from tracejit import compiler, dynamo
from tracejit.api import dispatcher_of
from tracejit.runtime import log
from tracejit.runtime.checker import Nobody
from tracejit.runtime.errors import BadOption, CompilerWarning, RanEagerly

FOUND = importlib.metadata.entry_points(group="torch_dynamo_backends")
pytestmark = [
    pytest.mark.skipif("tracejit" not in FOUND.names, reason="tracejit is not installed"),
    pytest.mark.filterwarnings("ignore"),  # Dynamo's about what it does not trace
]
OPTIONS = {"wait": True, "backend": BACKEND}


before: weakref.WeakSet[Any] = weakref.WeakSet()  # graphs of other tests


@pytest.fixture(autouse=True)
def forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing of another test's is compiled. (Dynamo keeps some graphs with breaks.)"""
    # pytest's handler would have torch write out every graph for its structured log.
    monkeypatch.setattr(logging.getLogger("torch.__trace"), "disabled", True)
    torch._dynamo.reset()
    log.forget()
    before.update(dynamo.graphs())
    yield
    torch._dynamo.reset()


def door(function: Any, **options: Any) -> Any:
    return torch.compile(function, backend="tracejit", options=OPTIONS, **options)


def aot_eager(function: Any) -> Any:
    return torch.compile(function, backend="aot_eager")


def graphs() -> list[Any]:
    return [graph for graph in dynamo.graphs() if graph not in before]


def kinds() -> list[str]:
    """What sort each living graph is: inference, forward or backward."""
    return [graph.__name__ for graph in graphs()]


def ran(kind: str = "") -> list[Any]:
    """The graphs (of one kind) of which a plan has run."""
    return [
        graph
        for graph in graphs()
        if graph.__name__ == (kind or graph.__name__) and dispatcher_of(graph).first is not Nobody
    ]


def reasons() -> str:
    """The kinds of reasons for which graphs ran eagerly, but for AOTAutograd's own first call."""
    kinds = {r.kind for g in graphs() for r in dispatcher_of(g).reasons}
    return " ".join(sorted(kinds - {"outer-tracer"}))


def difference(expected: Seen, got: Seen) -> str:
    phases = (got.phases[name].difference(expected.phases[name]) for name in PHASES)
    return next(filter(None, phases), "")


# One of each family whose members differ in their dtype only.
FAMILIES = ("rounding ", "promote ", "ints ", "overflow ")
KEPT = (
    "rounding torch.bfloat16",
    "promote torch.float16",
    "promote torch.bool",
    "ints torch.uint8",
    "overflow torch.int8",
)
STATE = (
    "batch_norm",
    "buffers",
    "buffer_rebound",
    "closure_changed",
    "copies",
    "counter",
    "effects",
    "flags",
    "global_changed",
    "gradients",
    "loops_on_data",
    "modes",
    "python_random",
    "structures",
    "two_instances",
    "user_error",
)
PROGRAMS: dict[str, Program] = {
    **{
        name: programs_tensors.calls(case)
        for name, case in programs_tensors.FUNCTIONS.items()
        if name in KEPT or not name.startswith(FAMILIES)
    },
    **{name: programs_state.PROGRAMS[name] for name in STATE},
}

# Programs that show something else under Dynamo with any backend.
DYNAMO: set[str] = {
    "overlapping written",
    "set slice of itself",
    "self overlapping written",
    "conj argument",
    "try",
    "copies",
}
# Programs without a graph that is called often enough for a plan to run, or that is captured.
NO_PLAN: set[str] = {
    ".data =",
    "argument in containers",
    "buffer_rebound",
    "conj argument",
    "counter",
    "expanded written",
    "nothing",
    "out= resized",
    "overlapping written",
    "partial work then error",
    "promote torch.bool",
    "self overlapping written",
    "structures",
    "try",
    "user_error",
}
# The kinds of reasons why graphs ran eagerly.
EAGER: dict[str, str] = {
    ".data =": "mutation",
    "overlapping written": "op",
    "self overlapping written": "mutation",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    program = PROGRAMS[name]
    eager, got = Seen(program, plain), Seen(program, door)
    if name != "python_random":  # whose draws say how often each graph is called
        assert bool(ran()) == (name not in NO_PLAN)
    assert reasons() == EAGER.get(name, "")
    if name not in DYNAMO:
        assert difference(eager, got) == ""
    else:
        assert difference(eager, got) != ""
        torch._dynamo.reset()
        assert difference(Seen(program, aot_eager), got) == ""


def test_graph_breaks(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        y = x.sin() + 1
        print("between")
        return y.cos() * 2

    g, x = door(f), torch.randn(5)
    want = f(x)
    for _ in range(4):
        torch.testing.assert_close(g(x), want)
    assert capsys.readouterr().out == "between\n" * 5
    assert len(ran("inference")) == 2


def test_branches_on_data() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * 2 + 1 if x.sum() > 0 else x - 3

    g, x = door(f), torch.ones(4)
    for sign in (1, -1, -1, 1, -1, 1):
        torch.testing.assert_close(g(x * sign), f(x * sign))
    assert len(ran("inference")) == 3  # the condition, and both branches


def test_one_graph() -> None:
    f = lambda x: (x.softmax(-1), x.t())  # noqa: E731
    g, x = door(f, fullgraph=True), torch.randn(3, 4)
    for _ in range(3):
        torch.testing.assert_close(g(x), f(x))
    assert len(ran()) == len(graphs()) == 1
    assert g(x)[1]._base is x  # a view of the argument, as eager's


def test_sizes_that_change() -> None:
    f = lambda x: (x * 2).sum(0) / x.shape[0]  # noqa: E731
    g = door(f, dynamic=True)
    for size in (2, 3, 5, 7, 5, 3, 3, 2, 8, 9, 10, 11, 12, 13, 13):
        x = torch.randn(size, 4)
        torch.testing.assert_close(g(x), f(x))
    (graph,) = graphs()
    assert len(dispatcher_of(graph).entries) == 8 and reasons() == "entries"


def test_sizes_marked_dynamic() -> None:
    f = lambda x: x.cumsum(0) + x.shape[0]  # noqa: E731
    g = door(f)
    for size in (4, 4, 4, 6, 6, 9, 4):
        x = torch.randn(size, 3)
        torch._dynamo.mark_dynamic(x, 0)
        torch.testing.assert_close(g(x), f(x))
    assert len(ran()) == len(graphs()) == 1


def test_sizes_of_training() -> None:
    model, twin = twins(lambda: nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 2)))
    g = door(model, dynamic=True)
    for size in (3, 5, 5, 5, 2, 3):
        x = torch.randn(size, 4)
        g(x).square().mean().backward()
        twin(x).square().mean().backward()
    same_state(model, twin)
    assert ran("forward") and ran("backward")


class Block(nn.Module):
    """A small transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.normed = nn.LayerNorm(16), nn.LayerNorm(16)
        self.qkv, self.out = nn.Linear(16, 48), nn.Linear(16, 16)
        self.up, self.down = nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        parts = self.qkv(self.norm(x)).unflatten(-1, (3, 2, 8)).movedim(-3, 0).transpose(2, 3)
        mixed = functional.scaled_dot_product_attention(*parts, is_causal=True)
        x = x + self.out(mixed.transpose(1, 2).flatten(2))
        return x + self.down(functional.gelu(self.up(self.normed(x))))


class Net(nn.Module):
    """Convolutions with batch norms, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Conv2d(4, 4, 3),
            nn.BatchNorm2d(4),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x).mean((2, 3))


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 3)
    )


def twins(make: Callable[[], nn.Module]) -> tuple[nn.Module, nn.Module]:
    model, twin = make(), make()
    twin.load_state_dict(model.state_dict())
    return model, twin


def same_state(model: nn.Module, twin: nn.Module) -> None:
    """Parameters, their gradients and buffers are the same."""
    for (name, a), b in zip(model.state_dict(keep_vars=True).items(), twin.state_dict().values()):
        torch.testing.assert_close(a.detach(), b, msg=lambda text, name=name: f"{name}: {text}")
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad)


def training(compiled: Any, model: nn.Module, batch: tuple[int, ...], steps: int) -> list[Any]:
    """Some steps of an optimizer, then an evaluation; the losses, and the random state."""
    torch.manual_seed(3)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    losses: list[Any] = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = compiled(torch.randn(batch)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    losses.append(torch.get_rng_state())
    model.eval()
    with torch.no_grad():
        losses += [compiled(torch.ones(batch)) for _ in range(3)]
    model.train()
    return losses


@pytest.mark.parametrize(
    ("make", "batch"),
    [(mlp, (5, 6)), (Net, (3, 2, 6, 6)), (Block, (2, 5, 16))],
    ids=["mlp", "convolutions", "transformer"],
)
def test_training(make: Callable[[], nn.Module], batch: tuple[int, ...]) -> None:
    model, twin = twins(make)
    expected = training(twin, twin, batch, 5)
    got = training(door(model, fullgraph=True), model, batch, 5)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)
    for a, b in zip(model.parameters(), twin.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
    for a, b in zip(model.buffers(), twin.buffers()):
        torch.testing.assert_close(a, b)
    assert sorted(kinds()) == ["backward", "forward", "inference"]
    assert not [graph for graph in graphs() if graph not in ran()] and reasons() == ""
    for graph in ran():
        (entry,) = tracejit.explain(graph).entries
        assert entry.facts()["kernels"]


def test_gradient_of_an_input() -> None:
    f = lambda x, y: (x.sin() * y).sum(-1).exp()  # noqa: E731
    g = door(f)
    for _ in range(3):
        x, y = (torch.randn(3, 4, requires_grad=True) for _ in range(2))
        got = torch.autograd.grad(g(x, y).sum(), (x, y))
        torch.testing.assert_close(got, torch.autograd.grad(f(x, y).sum(), (x, y)))
    assert ran("forward") and ran("backward")


def test_two_compilations_of_one_module() -> None:
    model = mlp()
    a, b, x = door(model), torch.compile(model, backend="tracejit", mode="max-autotune"), None
    for _ in range(3):
        x = torch.randn(4, 6)
        torch.testing.assert_close(a(x), model(x))
        torch.testing.assert_close(b(x), model(x))
    assert ran()


def test_options() -> None:
    f = lambda x: x * 3  # noqa: E731
    options = {"numerics": "fast", "wait": True, "backend": "reference", "strict": True}
    g = torch.compile(f, backend="tracejit", options=options)
    for _ in range(3):
        g(torch.ones(3))
    (graph,) = graphs()
    made = dispatcher_of(graph).options
    assert {name: getattr(made, name) for name in options} == options and ran() == [graph]


@pytest.mark.parametrize("options", [{"numerics": "exact"}, {"backend": "cpu"}, {"epilogue": 1}])
def test_bad_options(options: dict[str, Any]) -> None:
    g = torch.compile(lambda x: x + 1, backend="tracejit", options=options)
    for _ in range(2):
        with pytest.raises(BadOption):
            g(torch.ones(2))


def test_strict() -> None:
    options = OPTIONS | {"strict": True}
    quantised = functools.partial(torch.quantize_per_tensor, scale=0.1, zero_point=0)
    g = torch.compile(
        lambda x: quantised(x, dtype=torch.quint8).int_repr(), backend="tracejit", options=options
    )
    g(torch.ones(2))  # beneath AOTAutograd's own check of the first call
    with pytest.raises(RanEagerly, match="torch.quint8"):
        g(torch.ones(2))


def test_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(compiler, "finish", broken)
    model, twin = twins(mlp)
    expected, got = training(twin, twin, (5, 6), 3), training(door(model), model, (5, 6), 3)
    torch.testing.assert_close(got, expected)
    same_state(model, twin)
    assert not ran() and reasons() == "compiler"


def test_autograd_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracejit.runtime import private

    def broken(**parts: Any) -> Any:
        raise ZeroDivisionError("injected")

    monkeypatch.setattr(private, "aot_autograd", lambda: broken)
    f = lambda x: x * 3  # noqa: E731
    with pytest.warns(CompilerWarning, match="graph of <lambda> runs eagerly"):
        torch.testing.assert_close(door(f)(torch.ones(3)), f(torch.ones(3)))
    assert not graphs()


def test_explained_by_the_users_lines(fresh_cache: Path) -> None:
    model = mlp()
    g = door(model)
    for _ in range(3):
        g(torch.randn(5, 6)).sum().backward()
    forward, backward = graphs()
    text = str(tracejit.explain(forward))
    line = nn.Linear.forward.__code__.co_firstlineno
    assert text.startswith("tracejit.dynamo.Sequential.forward ")
    assert f"modules/linear.py:{line} in 2" in text
    assert f"modules/linear.py:{line} in 2" in str(tracejit.explain(backward))

    def scaled(x: torch.Tensor) -> torch.Tensor:
        return x.sin() * 2

    h = door(scaled)
    for _ in range(3):
        h(torch.ones(3))
    text, line = str(tracejit.explain(graphs()[-1])), scaled.__code__.co_firstlineno + 1
    assert text.startswith("tracejit.dynamo.scaled.inference ")
    assert f"dynamo/test_door.py:{line} in scaled" in text


def test_gradients_of_what_kernels_drew() -> None:
    """With fast numerics the backward graph has the mask of the forward one."""
    options = {**OPTIONS, "numerics": "fast"}
    drop = torch.compile(
        lambda x: functional.dropout(x.exp(), 0.5), backend="tracejit", options=options
    )
    x = torch.zeros(8, 16, requires_grad=True)
    seen = []
    for _ in range(5):
        y = drop(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        assert torch.equal(gradient, y) and set(y.flatten().tolist()) == {0.0, 2.0}
        seen.append(y.detach())
    assert not torch.equal(seen[-1], seen[-2])
    plan = next(s.text for s in tracejit.last_traces(graphs()[0]) if s.name == "plan")
    assert "tj_keys" in plan


def test_dropped_graphs_are_freed() -> None:
    def use() -> None:
        g = door(lambda x: x.exp() + 1)
        for _ in range(3):
            g(torch.ones(3))

    use()
    assert len(graphs()) == 1
    torch._dynamo.reset()
    gc.collect()
    assert graphs() == []


def test_nothing_of_dynamo_is_imported_without_it() -> None:
    program = (
        "import sys, torch, tracejit; tracejit.compile; "
        "print('torch._dynamo' in sys.modules, 'tracejit.dynamo' in sys.modules); "
        "print('tracejit' in torch.compiler.list_backends(), 'tracejit.dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.split() == ["False", "False", "True", "False"], done.stderr

"""The dispatcher's decisions: what is remembered about refusals, plans that break, and the cost of
a call."""

from __future__ import annotations

import gc
import timeit
import warnings
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import tracejit
from tests.executors import BACKEND, TARGET
from tracejit import firstcall
from tracejit.api import dispatcher_of
from tracejit.runtime import log
from tracejit.runtime.config import config
from tracejit.runtime.errors import CompilerError, CompilerWarning, RanEagerly

KERNEL = {"native": "define ptr @", "interpret": "@triton.jit"}[BACKEND]  # in its text


@pytest.fixture(autouse=True)
def separate(fresh_cache: Path) -> Iterator[None]:
    log.forget()
    yield


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def compiled(function: Any, **options: Any) -> Any:
    return tracejit.compile(function, **{"backend": BACKEND, "wait": True, **options})


def recordings(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Counts the calls that are recorded from now on."""
    seen: list[Any] = []
    original = firstcall.record

    def counting(*args: Any) -> Any:
        seen.append(args)
        return original(*args)

    monkeypatch.setattr(firstcall, "record", counting)
    return seen


def test_refused_call_is_recorded_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen = recordings(monkeypatch)

    def noisy(x: torch.Tensor) -> torch.Tensor:
        print("called")
        return x * 2

    f = compiled(noisy)
    for _ in range(4):
        assert torch.equal(f(torch.ones(3)), torch.full((3,), 2.0))
    assert capsys.readouterr().out == "called\n" * 4
    assert len(seen) == 1 and len(dispatcher_of(f).refused) == 1
    f(torch.ones(4))  # another kind of call is tried
    assert len(seen) == 2
    assert "impure" in str(tracejit.explain(f))


def test_refused_call_is_an_error_under_strict(capsys: pytest.CaptureFixture[str]) -> None:
    f = compiled(lambda x: print("called") or x, strict=True)
    for _ in range(2):
        with pytest.raises(RanEagerly, match="impure"):
            f(torch.ones(3))


def break_plan(f: Any, error: Exception) -> None:
    def broken(inputs: Any) -> Any:
        raise error

    (entry,) = dispatcher_of(f).entries
    entry.run = broken


def test_broken_plan_is_given_up() -> None:
    f, x = compiled(double), torch.ones(3)
    f(x)
    break_plan(f, RuntimeError("launch failed"))
    with pytest.warns(CompilerWarning, match="launch failed"):
        assert torch.equal(f(x), x * 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(f(x), x * 2)
    assert dispatcher_of(f).reasons[-1].place == "run"


def test_broken_plan_is_an_error_under_strict() -> None:
    f, x = compiled(double, strict=True), torch.ones(3)
    f(x)
    break_plan(f, RuntimeError("launch failed"))
    for _ in range(2):
        with pytest.raises(CompilerError, match="launch failed"):
            f(x)


def test_error_that_eager_raises_too_is_eagers() -> None:
    calls = []

    def function(x: torch.Tensor) -> torch.Tensor:
        if calls:
            raise LookupError("eager's own")
        return x * 2

    f, x = compiled(function), torch.ones(3)
    f(x)
    calls.append(1)
    break_plan(f, RuntimeError("launch failed"))
    (check,) = (entry.check for entry in dispatcher_of(f).entries)
    check.fast = lambda args, kwargs: check.ending.function(args, kwargs, args, ())  # unguarded
    with pytest.raises(LookupError, match="eager's own"):
        f(x)
    assert dispatcher_of(f).entries[0].run is not None


@pytest.mark.parametrize("error", [ValueError("odd text"), RuntimeError("out of memory")])
def test_plan_that_cannot_be_loaded_is_made_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path
) -> None:
    """A device's error says nothing of the files: they stay for others."""
    from tracejit.runtime import bind
    from tracejit.runtime.errors import CacheWarning

    x = torch.ones(3)
    compiled(double)(x)
    original, failures = bind.bind, []

    def failing(*args: Any) -> Any:
        if not failures:
            failures.append(1)
            raise error
        return original(*args)

    monkeypatch.setattr(bind, "bind", failing)
    f = compiled(double)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert torch.equal(f(x), x * 2)
    named = any("cannot be loaded" in str(w) for w in caught if w.category is CacheWarning)
    is_content = isinstance(error, ValueError)
    assert named is is_content and (fresh_cache / "damaged").exists() is is_content
    assert torch.equal(f(x), x * 2)
    assert [entry.source for entry in dispatcher_of(f).entries] == ["recorded"]


def test_recursion_runs_plainly_inside_a_recording() -> None:
    def function(x: torch.Tensor, depth: int) -> torch.Tensor:
        return x if depth == 0 else f(x * 2, depth - 1)

    f = compiled(function)
    x = torch.ones(3)
    for _ in range(3):
        assert torch.equal(f(x, 3), x * 8)


def test_a_call_costs_a_few_microseconds() -> None:
    f, x = compiled(double), torch.ones(3)
    f(x)
    (entry,) = dispatcher_of(f).entries
    entry.run = lambda inputs: inputs  # what is left is check, dispatch and rebuild
    best = min(timeit.repeat(lambda: f(x), number=2000, repeat=7)) / 2000
    assert best < 20e-6, best  # about 0.7 µs alone on the machine


def traced_by_dynamo(f: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    return torch.compile(lambda x: f(x), backend="eager", fullgraph=True)(x)  # type: ignore[no-any-return]


def under_a_function_mode(f: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    class Mode(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, f: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            return f(*args, **(kwargs or {}))

    with Mode():
        return f(x)  # type: ignore[no-any-return]


def faked(f: Callable[..., Any], x: torch.Tensor) -> torch.Tensor:
    with FakeTensorMode(allow_non_fake_inputs=True):
        assert f(x).size() == x.size()
    return x * 2


OUTER = {
    "dynamo": traced_by_dynamo,
    "function mode": under_a_function_mode,
    "fake tensors": faked,
    "make_fx": lambda f, x: make_fx(lambda x: f(x))(x)(x),
    "vmap": lambda f, x: torch.func.vmap(lambda y: f(x) + 0 * y)(x)[0],
    "grad": lambda f, x: torch.func.grad(lambda y: (f(x) * y).sum())(x),
    "functionalize": lambda f, x: torch.func.functionalize(f)(x),
    "jit.trace": lambda f, x: torch.jit.trace(f, (x,), check_trace=False)(x),
}


@pytest.mark.parametrize("name", OUTER)
def test_inside_another_tracer_the_plain_function_runs(name: str) -> None:
    """Also the plan of the last call is not run, though its guards hold on the tensors."""
    calls: list[Any] = []

    f, x = compiled(double), torch.ones(3)
    for _ in range(3):
        f(x)
    (entry,) = dispatcher_of(f).entries
    plan = entry.run
    entry.run = lambda inputs: calls.append(inputs) or plan(inputs)  # type: ignore[misc]
    for _ in range(2):
        f(x)
    assert dispatcher_of(f).first is entry.check and len(calls) == 2
    assert torch.equal(OUTER[name](f, x), x * 2)
    assert len(calls) == 2
    assert torch.equal(f(x), x * 2) and len(calls) == 3


def test_entries_take_turns() -> None:
    f = compiled(double)
    shapes = [torch.ones(n) for n in (2, 3, 4)]
    for _ in range(4):
        for x in shapes:
            assert torch.equal(f(x), x * 2)
    dispatcher = dispatcher_of(f)
    assert len(dispatcher.entries) == 3 and dispatcher.first is dispatcher.entries[2].check


def test_a_plan_that_is_left_makes_room_for_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = recordings(monkeypatch)
    f = compiled(lambda x: x * int(x.sum() > 0))
    for _ in range(4):
        for x in (torch.ones(3), -torch.ones(3)):
            assert torch.equal(f(x), x * int(x.sum() > 0))
    assert len(seen) == len(dispatcher_of(f).entries) == 2


def test_a_compiled_model_dies_with_its_last_user() -> None:
    gc.collect()
    gc.disable()  # not by the collector: models hold much memory
    try:
        net = torch.nn.Linear(3, 3).eval()
        f = compiled(net)
        with torch.no_grad():
            for _ in range(4):
                f(torch.ones(3))
        assert dispatcher_of(f).first is dispatcher_of(f).entries[0].check
        alive = weakref.ref(net)
        del net, f
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.parametrize(
    ("level", "shown", "hidden"),
    [
        (1, "recorded 1 calls in", "aten.mul.Tensor("),
        (2, f"test_dispatch.double: compiled for {TARGET}", "aten.mul.Tensor("),
        (3, "= aten.mul.Tensor(x, 2)", KERNEL),
        (4, KERNEL, "nothing is hidden"),
    ],
)
def test_debugging_ladder(
    level: int,
    shown: str,
    hidden: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(config, "debug", level)
    compiled(double)(torch.ones(3))
    lines = capsys.readouterr().err
    assert shown in lines and hidden not in lines
    assert all(line.startswith("tracejit| ") for line in lines.splitlines())

"""What tracejit.compile returns behaves as what it was given: names, signatures, methods, modules,
pickling."""

from __future__ import annotations

import copy
import inspect
import io
import pickle
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

import tracejit
from tests.executors import BACKEND
from tracejit.api import is_compiled, plain
from tracejit.runtime.errors import BadOption, NotCompilable, NotCompiled


@tracejit.compile(backend="eager")
def scaled(x: torch.Tensor, /, by: float = 2.0, *, plus: float = 0.0) -> torch.Tensor:
    """Scale and shift."""
    return x * by + plus


@tracejit.compile
def bare(x: torch.Tensor) -> torch.Tensor:
    return x


class Thing:
    def __init__(self, by: float) -> None:
        self.by = by

    @tracejit.compile(backend="eager")
    def method(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.by

    @staticmethod
    @tracejit.compile(backend="eager")
    def static(x: torch.Tensor) -> torch.Tensor:
        return x + 1

    @tracejit.compile(backend="eager")
    @staticmethod
    def compiled_static(x: torch.Tensor) -> torch.Tensor:
        return x + 2


class Net(nn.Module):
    """A small net."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.factor = 2.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.first(x)) * self.factor

    def helper(self) -> float:
        return self.factor


ONES = torch.ones(3)


def test_function_keeps_name_signature_and_doc() -> None:
    assert scaled.__name__ == "scaled" and scaled.__doc__ == "Scale and shift."
    assert str(inspect.signature(scaled)) == (
        "(x: 'torch.Tensor', /, by: 'float' = 2.0, *, plus: 'float' = 0.0) -> 'torch.Tensor'"
    )
    assert scaled.__module__ == __name__ and callable(scaled.__wrapped__)
    assert torch.equal(scaled(ONES, 3, plus=1), torch.full((3,), 4.0))


def test_decorator_with_and_without_arguments() -> None:
    assert is_compiled(scaled) and is_compiled(bare)
    assert torch.equal(bare(ONES), ONES)


def test_methods() -> None:
    thing = Thing(3.0)
    assert torch.equal(thing.method(ONES), 3 * ONES)
    assert torch.equal(Thing.method(thing, ONES), 3 * ONES)
    assert torch.equal(Thing.static(ONES), 2 * ONES) and torch.equal(thing.static(ONES), 2 * ONES)
    assert torch.equal(Thing.compiled_static(ONES), 3 * ONES)
    bound = tracejit.compile(Thing(5.0).method, backend="eager")
    assert torch.equal(bound(ONES), 5 * ONES)


def test_self_and_function_are_ordinary_keywords() -> None:
    f = tracejit.compile(lambda **names: sorted(names), backend="eager")
    assert f(self=1, function=2, args=3) == ["args", "function", "self"]


def test_wrong_arguments_raise_as_the_function_does() -> None:
    with pytest.raises(TypeError, match=r"scaled\(\) missing 1 required positional argument: 'x'"):
        scaled()


@pytest.mark.parametrize(
    "what", [3, None.__class__, Net, torch.jit.script(nn.Linear(2, 2)), property(len)]
)
def test_what_cannot_be_compiled(what: Any) -> None:
    with pytest.raises(NotCompilable):
        tracejit.compile(what)


@pytest.mark.parametrize(
    ("name", "value"),
    [("backend", "gpu"), ("numerics", "exact"), ("wait", 1), ("dynamic", True), ("strict", None)],
)
def test_bad_option(name: str, value: Any) -> None:
    with pytest.raises(BadOption, match=name):
        tracejit.compile(bare, **{name: value})


def test_compiling_twice_is_compiling_once() -> None:
    again = tracejit.compile(scaled, backend="eager")
    assert plain(again) is plain(scaled) and again is not scaled
    net = Net()
    assert plain(tracejit.compile(tracejit.compile(net))) is net


@pytest.mark.parametrize(
    "again", [lambda f: pickle.loads(pickle.dumps(f)), copy.copy, copy.deepcopy]
)
def test_decorated_function_copies_to_itself(again: Callable[[Any], Any]) -> None:
    assert again(scaled) is scaled


def test_undecorated_function_survives_pickling() -> None:
    original = plain(scaled)
    f = tracejit.compile(module_function, backend="eager")
    g = pickle.loads(pickle.dumps(f))
    assert is_compiled(g) and plain(g) is module_function and plain(scaled) is original


def module_function(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def test_module_is_of_its_class() -> None:
    net = Net()
    compiled = tracejit.compile(net, backend="eager")
    assert (
        isinstance(compiled, Net) and isinstance(compiled, nn.Module) and compiled.__class__ is Net
    )
    assert compiled is not net and repr(compiled) == repr(net)
    assert type(compiled).__name__ == "Net" and compiled.__doc__ == "A small net."
    assert str(inspect.signature(compiled.forward)) == str(inspect.signature(net.forward))


def test_module_state_is_the_same() -> None:
    net = Net()
    compiled = tracejit.compile(net, backend="eager")
    assert list(compiled.state_dict()) == list(net.state_dict())
    assert [n for n, _ in compiled.named_modules()] == [n for n, _ in net.named_modules()]
    assert all(a is b for a, b in zip(compiled.parameters(), net.parameters(), strict=True))
    compiled.load_state_dict({k: torch.zeros_like(v) for k, v in net.state_dict().items()})
    assert net.first.weight.abs().sum() == 0


def test_module_attributes_are_shared_both_ways() -> None:
    net = Net()
    compiled = tracejit.compile(net, backend="eager")
    compiled.factor = 5.0
    assert net.factor == 5.0 and compiled.helper() == 5.0
    net.extra = 1
    assert compiled.extra == 1
    del compiled.extra
    assert not hasattr(net, "extra")
    compiled.new = nn.Linear(2, 2)
    assert "new.weight" in net.state_dict()
    assert compiled.eval() is compiled and not net.training and not net.norm.training
    assert compiled.double() is compiled and net.first.weight.dtype is torch.float64
    compiled.requires_grad_(False)
    assert not net.first.weight.requires_grad
    assert "_tracejit_dispatcher" not in vars(net)


def test_module_gives_eager_results_and_runs_hooks() -> None:
    net = Net().eval()
    compiled = tracejit.compile(net, backend="eager")
    seen: list[str] = []
    compiled.register_forward_pre_hook(lambda *_: seen.append("pre"))
    x = torch.randn(2, 4)
    assert torch.equal(compiled(x), net(x))
    assert seen == ["pre", "pre"]


def test_module_in_a_module() -> None:
    net = Net()
    outer = nn.Sequential(tracejit.compile(net, backend="eager"), nn.ReLU()).eval()
    assert "0.first.weight" in outer.state_dict()
    assert outer(torch.randn(2, 4)).shape == (2, 4)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
def test_module_copies_are_compiled_and_independent(copier: Callable[[Any], Any]) -> None:
    compiled = tracejit.compile(Net().eval(), backend="eager", wait=True)
    other = copier(compiled)
    assert is_compiled(other) and isinstance(other, Net)
    x = torch.randn(2, 4)
    assert torch.equal(other(x), compiled(x))
    with torch.no_grad():
        other.first.weight.zero_()
    assert compiled.first.weight.abs().sum() > 0


def test_shallow_copy_of_a_module() -> None:
    compiled = tracejit.compile(Net(), backend="eager")
    other = copy.copy(compiled)
    other.factor = 9.0
    assert compiled.factor == 2.0 and other.first is compiled.first


def test_module_saves_and_loads() -> None:
    compiled = tracejit.compile(Net().eval(), backend="eager")
    file = io.BytesIO()
    torch.save(compiled, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert is_compiled(again) and torch.equal(again.first.weight, compiled.first.weight)


def test_class_change_reaches_the_module() -> None:
    net = Net().eval()
    compiled = tracejit.compile(net, backend="eager")
    torch.nn.utils.parametrizations.weight_norm(compiled.first)

    class Other(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    compiled.__class__ = Other
    assert isinstance(compiled, Other)
    x = torch.randn(2, 4)
    assert compiled(x) is x and net(x) is x


def test_questions_about_what_is_not_compiled() -> None:
    with pytest.raises(NotCompiled):
        tracejit.explain(len)
    with pytest.raises(NotCompiled):
        tracejit.last_traces(Net())


def test_unknown_attribute_of_the_package() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        tracejit.nothing  # noqa: B018
    assert {"compile", "explain", "last_traces"} <= set(dir(tracejit))


class Repeated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = 2.0

    def repeat(self, x: Any, times: int) -> Any:
        for _ in range(times):
            x = x * self.scale
        return x


def test_a_partial_of_a_method(fresh_cache: Any) -> None:
    """What it is made of is reached from it, through a partial of a partial too."""
    module, x = Repeated(), torch.ones(3)
    for twice in (partial(module.repeat, times=2), partial(partial(module.repeat), times=2)):
        module.scale = 2.0
        compiled = tracejit.compile(twice, backend=BACKEND, wait=True)
        assert all(compiled(x).equal(x * 4) for _ in range(4))
        assert len(tracejit.api.dispatcher_of(compiled).entries) == 1
        module.scale = 3.0
        assert all(compiled(x).equal(x * 9) for _ in range(2))

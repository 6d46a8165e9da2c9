"""Each kind of change is noticed and named with both values; what changes nothing passes."""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from .support import check, guards_of

SCALE = 2.0
LIMITS = [1, 2]


class Mode(enum.Enum):
    FAST = 1
    SLOW = 2


@dataclasses.dataclass
class Config:
    width: int = 3
    names: tuple[str, ...] = ("a", "b")
    mode: Mode = Mode.FAST
    inner: dict[str, float] = dataclasses.field(default_factory=lambda: {"p": 0.1})


class Block(nn.Module):
    factor = 1.5

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.dropout = nn.Dropout(0.1)
        self.config = Config()
        self.steps = [1, 2]
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.dropout(self.linear(x)) * self.factor + self.shift
        if self.config.mode is Mode.FAST and self.config.width == 3:
            x = x * self.config.inner["p"] * len(self.config.names)
        for step in self.steps:
            x = x + step
        return self.tail(x)

    def tail(self, x: torch.Tensor) -> torch.Tensor:
        return x.relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Block() for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = layer(x)
        return x


def _hook(*args: Any) -> None:
    return None


def _set(path: str, value: Any) -> Callable[[Net], None]:
    def change(net: Net) -> None:
        *parents, name = path.split(".")
        target: Any = functools.reduce(
            lambda at, part: at[int(part)] if part.isdigit() else getattr(at, part), parents, net
        )
        setattr(target, name, value)

    return change


def _other_tail(x: torch.Tensor) -> torch.Tensor:
    return x.tanh()


CHANGES: dict[str, tuple[Callable[[Net], Any], str]] = {
    "attribute of a submodule": (
        _set("layers.1.dropout.p", 0.2),
        "self.layers[1].dropout.p was 0.1, is 0.2",
    ),
    "training": (
        lambda net: net.layers[0].train(),
        "self.layers[0].dropout.training was False, is True",
    ),
    "parameter frozen": (
        lambda net: net.layers[0].linear.weight.requires_grad_(False),
        "self.layers[0].linear.weight.requires_grad was True, is False",
    ),
    "parameter cast": (
        lambda net: net.layers[1].linear.double(),
        "self.layers[1].linear.bias.dtype was float32, is float64",
    ),
    "parameter of another size": (
        _set("layers.0.linear.weight", nn.Parameter(torch.zeros(4, 3))),
        "self.layers[0].linear.weight.size(0) was 3, is 4",
    ),
    "parameter removed": (
        _set("layers.0.linear.bias", None),
        "self.layers[0].linear.bias was a tensor float32[3], is None",
    ),
    "parameters tied": (
        lambda net: setattr(net.layers[0].linear, "weight", net.layers[1].linear.weight),
        "self.layers[1].linear.weight was another object than self.layers[0].linear.weight, "
        "is the same",
    ),
    "buffer replaced by another dtype": (
        _set("layers.0.shift", torch.zeros(3, dtype=torch.int64)),
        "self.layers[0].shift.dtype was float32, is int64",
    ),
    "config value": (_set("layers.0.config.width", 4), "self.layers[0].config.width was 3, is 4"),
    "config value of an equal other type": (
        _set("layers.0.config.width", 3.0),
        "self.layers[0].config.width was 3, is 3.0",
    ),
    "enum": (
        _set("layers.0.config.mode", Mode.SLOW),
        "self.layers[0].config.mode was <Mode.FAST: 1>, is <Mode.SLOW: 2>",
    ),
    "tuple": (
        _set("layers.0.config.names", ("a",)),
        "self.layers[0].config.names was ('a', 'b'), is ('a',)",
    ),
    "dict value": (
        lambda net: net.layers[0].config.inner.update(p=0.5),
        "self.layers[0].config.inner['p'] was 0.1, is 0.5",
    ),
    "dict key": (
        lambda net: net.layers[0].config.inner.update(q=0.5),
        "keys of self.layers[0].config.inner was ['p'], is ['p', 'q']",
    ),
    "list item": (
        lambda net: net.layers[1].steps.__setitem__(0, 7),
        "self.layers[1].steps[0] was 1, is 7",
    ),
    "list appended": (
        lambda net: net.layers[1].steps.append(7),
        "len(self.layers[1].steps) was 2, is 3",
    ),
    "forward hook": (
        lambda net: net.layers[0].register_forward_hook(_hook),
        "self.layers[0]._forward_hooks was empty, is a OrderedDict of 1",
    ),
    "forward pre-hook": (
        lambda net: net.layers[0].dropout.register_forward_pre_hook(_hook),
        "self.layers[0].dropout._forward_pre_hooks was empty, is a OrderedDict of 1",
    ),
    "method replaced on the instance": (
        _set("layers.0.tail", _other_tail),
        f"self.layers[0].tail was absent, is {__name__}:_other_tail",
    ),
    "forward replaced on the instance": (
        _set("layers.0.dropout.forward", _other_tail),
        f"self.layers[0].dropout.forward was absent, is {__name__}:_other_tail",
    ),
    "layer added": (lambda net: net.layers.append(Block()), "keys of self.layers._modules"),
    "layer of another class": (
        lambda net: net.layers.__setitem__(0, nn.Identity()),
        "self.layers[0] was a Block, is a Identity",
    ),
    "layer replaced by its like": (lambda net: net.layers.__setitem__(0, Block().eval()), ""),
    "class of an object": (
        lambda net: setattr(net.layers[0].config, "__class__", Other),
        "self.layers[0].config was a Config, is a Other",
    ),
    "dict of an object": (
        lambda net: setattr(net.layers[0].config, "__dict__", {**vars(Config()), "width": 9}),
        "self.layers[0].config.width was 3, is 9",
    ),
    "equal float": (_set("layers.1.dropout.p", float("0.1")), ""),
    "unread attribute": (_set("layers.1.unread", 5), ""),
    "values of a parameter": (lambda net: net.layers[0].linear.weight.data.fill_(3), ""),
}


class Other(Config):
    pass


@pytest.mark.parametrize("name", CHANGES)
def test_module_changes(name: str) -> None:
    change, expected = CHANGES[name]
    net = Net().eval()
    x = torch.zeros(2, 3)
    guards = guards_of(net, x)
    assert check(guards, net, x) == ""
    change(net)
    found = check(guards, net, x)
    assert found == expected or (expected and found.startswith(expected)), found


ARGUMENTS: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], str]] = {
    "size": ((torch.zeros(4, 2),), (torch.zeros(8, 2),), "x.size(0) was 4, is 8"),
    "dimensions": ((torch.zeros(4, 2),), (torch.zeros(4),), "x.dim() was 2, is 1"),
    "dtype": ((torch.zeros(2),), (torch.zeros(2).half(),), "x.dtype was float32, is float16"),
    "device": (
        (torch.zeros(2),),
        (torch.zeros(2, device="meta"),),
        "x.device was cpu, is meta",
    ),
    "strides": (
        (torch.zeros(2, 3),),
        (torch.zeros(3, 2).t(),),
        "x.stride() was (3, 1), is (1, 2)",
    ),
    "requires_grad": (
        (torch.zeros(2),),
        (torch.zeros(2, requires_grad=True),),
        "x.requires_grad was False, is True",
    ),
    "subclass": (
        (torch.zeros(2),),
        (nn.Parameter(torch.zeros(2), requires_grad=False),),
        "x.type was torch:Tensor, is torch.nn.parameter:Parameter",
    ),
    "conjugate": (
        (torch.zeros(2, dtype=torch.complex64),),
        (torch.zeros(2, dtype=torch.complex64).conj(),),
        "x.is_conj() was False, is True",
    ),
    "layout": ((torch.eye(2),), (torch.eye(2).to_sparse(),), "x.layout was strided, is sparse_coo"),
    "tensor to number": ((torch.zeros(2),), (1.0,), "x was a tensor float32[2], is 1.0"),
    "number": ((1,), (2,), "x was 1, is 2"),
    "int and bool": ((1,), (True,), "x was 1, is True"),
    "int and float": ((1,), (1.0,), "x was 1, is 1.0"),
    "signed zero": ((0.0,), (-0.0,), "x was 0.0, is -0.0"),
    "NaN": ((float("nan"),), (float("nan"),), ""),
    "large equal int": ((10**30,), (int("1" + "0" * 30),), ""),
    "None": ((None,), (torch.zeros(1),), "x was None, is a tensor float32[1]"),
    "string": (("mean",), ("sum",), "x was 'mean', is 'sum'"),
    "dtype argument": ((torch.float32,), (torch.float16,), "x was torch.float32, is torch.float16"),
    "slice": ((slice(1, 2),), (slice(1, 3),), "x was slice(1, 2, None), is slice(1, 3, None)"),
    "enum member": ((Mode.FAST,), (Mode.SLOW,), "x was <Mode.FAST: 1>, is <Mode.SLOW: 2>"),
    "list length": (([1],), ([1, 2],), "len(x) was 1, is 2"),
    "list to tuple": (([torch.zeros(1)],), ((torch.zeros(1),),), "type of x was list, is tuple"),
    "nested": (
        ([{"a": (1, torch.zeros(2))}],),
        ([{"a": (1, torch.zeros(3))}],),
        "x[0]['a'][1].size(0) was 2, is 3",
    ),
    "dict order": (
        ({"a": 1, "b": 2},),
        ({"b": 2, "a": 1},),
        "keys of x was ['a', 'b'], is ['b', 'a']",
    ),
    "set": (({1, 2},), ({1, 3},), "elements of x was [1, 2], is [1, 3]"),
    "dataclass": ((Config(),), (Config(width=5),), "x.width was 3, is 5"),
    "number of arguments": ((1,), (1, 2), "number of args was 1, is 2"),
    "same tensors anew": (([torch.zeros(2)],), ([torch.zeros(2)],), ""),
    "same dataclass anew": ((Config(),), (Config(),), ""),
}


def _read(x: Any, y: Any = None) -> Any:
    return x.width if isinstance(x, Config) else x


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments(name: str) -> None:
    before, after, expected = ARGUMENTS[name]
    guards = guards_of(_read, *before)
    assert check(guards, _read, *before) == ""
    assert check(guards, _read, *after) == expected
    assert check(guards, _read, *before) == ""


def test_keyword_arguments() -> None:
    x = torch.zeros(2)
    guards = guards_of(_read, x, y=1)
    assert check(guards, _read, x, y=1) == ""
    assert check(guards, _read, x, y=2) == "y was 1, is 2"
    assert check(guards, _read, x) == "keyword arguments was y, is none"


def test_order_of_collected_keywords() -> None:
    def f(**kwargs: Any) -> Any:
        return sum(kwargs.values())

    guards = guards_of(f, a=1, b=2)
    assert check(guards, f, a=1, b=2) == ""
    assert check(guards, f, b=2, a=1) == "keyword arguments was a, b, is b, a"


def test_one_object_twice() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    x, y = torch.zeros(2), torch.zeros(2)
    guards = guards_of(f, x, x)
    assert check(guards, f, y, y) == ""
    assert "y was the same object as x, is another" in check(guards, f, x, y)


def test_globals(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * SCALE + sum(LIMITS)

    x = torch.zeros(2)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert check(guards, f, x) == f"global {__name__}.SCALE was 2.0, is 3.0"
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    monkeypatch.setitem(globals(), "LIMITS", [1, 2])
    assert check(guards, f, x) == ""
    monkeypatch.setitem(globals(), "sum", max)
    assert check(guards, f, x) == f"global {__name__}.sum was absent, is max"


def _helper(x: torch.Tensor) -> torch.Tensor:
    return x + 1


def test_a_called_function_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return _helper(x)

    x = torch.zeros(2)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    monkeypatch.setitem(globals(), "_helper", _other_tail)
    assert check(guards, f, x).startswith(f"global {__name__}._helper was")


def test_code_of_a_function_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return _helper(x)

    x = torch.zeros(2)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    monkeypatch.setattr(_helper, "__code__", _other_tail.__code__)
    assert check(guards, f, x).startswith(f"code of global {__name__}._helper was")


def test_defaults() -> None:
    def f(x: torch.Tensor, p: float = 0.5, *, q: float = 0.25) -> torch.Tensor:
        return x * p * q

    x = torch.zeros(2)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    f.__defaults__ = (0.75,)
    assert check(guards, f, x) == "default 0 of f was 0.5, is 0.75"
    f.__defaults__ = (0.5,)
    f.__kwdefaults__ = {"q": 1.0}
    assert check(guards, f, x) == "default q of f was 0.25, is 1.0"


def test_closure_cells() -> None:
    scale = 2.0

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * scale

    x = torch.zeros(2)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    scale = 3.0
    assert check(guards, f, x) == "closure scale of f was 2.0, is 3.0"


def test_a_class_attribute_and_a_method(monkeypatch: pytest.MonkeyPatch) -> None:
    net, x = Net().eval(), torch.zeros(1, 3)
    guards = guards_of(net, x)
    assert check(guards, net, x) == ""
    with monkeypatch.context() as patch:
        patch.setattr(Block, "factor", 2.5)
        assert check(guards, net, x) == "Block.factor was 1.5, is 2.5"
    with monkeypatch.context() as patch:
        patch.setattr(Block, "tail", lambda self, x: x)
        assert check(guards, net, x).startswith("Block.tail was")
    with monkeypatch.context() as patch:
        patch.setattr(nn.Linear, "forward", lambda self, x: x)
        assert check(guards, net, x).startswith(
            "Linear.forward was torch.nn.modules.linear:Linear.forward"
        )
    assert check(guards, net, x) == ""


def test_computed_names_guard_the_whole_object() -> None:
    class Holder:
        a, b = 1, 2

        def read(self, name: str) -> Any:
            return getattr(self, name)

    holder = Holder()
    holder.c = 3  # type: ignore[attr-defined]

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * holder.read("".join(["c"]))

    x = torch.zeros(2)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    holder.c = 4  # type: ignore[attr-defined]
    assert check(guards, f, x) == "closure holder of f.c was 3, is 4"
    holder.c = 3  # type: ignore[attr-defined]
    holder.d = 3  # type: ignore[attr-defined]
    assert check(guards, f, x).startswith("keys of vars(closure holder of f) was")


def test_an_absent_name_appears() -> None:
    net, x = Net().eval(), torch.zeros(1, 3)

    def f(x: torch.Tensor) -> torch.Tensor:
        return net(x) * (2 if hasattr(net, "extra") else 1) * getattr(net, "gain", 1)

    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    net.extra = nn.Linear(1, 1)
    assert "extra was absent" in check(guards, f, x)
    del net.extra
    assert check(guards, f, x) == ""
    net.gain = 3
    assert "gain was absent, is 3" in check(guards, f, x)


def test_slots_and_properties() -> None:
    class Point:
        __slots__ = ("_x",)

        def __init__(self, x: float) -> None:
            self._x = x

        @property
        def x(self) -> float:
            return self._x

    def f(t: torch.Tensor, point: Point) -> torch.Tensor:
        return t * point.x

    t = torch.zeros(2)
    guards = guards_of(f, t, Point(2.0))
    assert check(guards, f, t, Point(2.0)) == ""
    assert check(guards, f, t, Point(3.0)) == "point._x was 2.0, is 3.0"


def test_partials_and_bound_methods() -> None:
    class Scale:
        by = 2.0

        def apply(self, x: torch.Tensor, extra: float) -> torch.Tensor:
            return x * self.by * extra

    scale, x = Scale(), torch.zeros(2)
    call = functools.partial(scale.apply, extra=3.0)
    guards = guards_of(call, x)
    assert check(guards, call, x) == ""
    scale.by = 4.0
    assert "by" in check(guards, call, x)
    method = scale.apply
    guards = guards_of(method, x, 2.0)
    assert check(guards, method, x, 2.0) == ""
    scale.by = 5.0
    assert "by was 4.0, is 5.0" in check(guards, method, x, 2.0)


def test_a_user_module_as_a_global(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = types.ModuleType("settings_of_a_user")
    settings.__file__ = "/nowhere/settings_of_a_user.py"
    settings.level = 1  # type: ignore[attr-defined]
    monkeypatch.setitem(globals(), "settings", settings)

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * settings_level()

    def settings_level() -> int:
        return globals_settings().level  # type: ignore[no-any-return]

    def globals_settings() -> Any:
        return settings

    x = torch.zeros(1)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    settings.level = 2  # type: ignore[attr-defined]
    assert "level was 1, is 2" in check(guards, f, x)


AMBIENT: dict[str, tuple[Callable[[], Any], str]] = {
    "no_grad": (torch.no_grad, "grad mode was True, is False"),
    "inference_mode": (torch.inference_mode, "grad mode was True, is False"),
    "autocast": (lambda: torch.autocast("cpu"), "autocast was {}, is {'cpu': 'bfloat16'}"),
    "default device": (lambda: torch.device("meta"), "default device was None, is meta"),
}


@pytest.mark.parametrize("name", AMBIENT)
@pytest.mark.parametrize("tensors", [True, False])
def test_ambient_state(name: str, tensors: bool) -> None:
    make, expected = AMBIENT[name]
    args = (torch.zeros(2),) if tensors else (3,)

    def f(x: Any) -> Any:
        return x * 2

    guards = guards_of(f, *args)
    with make():
        assert check(guards, f, *args) == expected
    assert check(guards, f, *args) == ""
    with make():
        inside = guards_of(f, *args)
        assert check(inside, f, *args) == ""
    assert check(inside, f, *args) != ""


def test_default_dtype_and_determinism() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    x = torch.zeros(2)
    guards = guards_of(f, x)
    torch.set_default_dtype(torch.float64)
    try:
        assert check(guards, f, x) == "default dtype was float32, is float64"
    finally:
        torch.set_default_dtype(torch.float32)
    torch.use_deterministic_algorithms(True)
    try:
        assert "deterministic algorithms was [False, False], is [True, False, True]" in check(
            guards, f, x
        )
    finally:
        torch.use_deterministic_algorithms(False)
    handle = nn.modules.module.register_module_forward_hook(_hook)
    assert "global module hooks was 0, is 1" in check(guards, f, x)
    handle.remove()
    assert check(guards, f, x) == ""


def _double(module: nn.Module, args: Any, result: torch.Tensor) -> torch.Tensor:
    return result * 2


def _triple(module: nn.Module, args: Any, result: torch.Tensor) -> torch.Tensor:
    return result * 3


def test_hooks_that_stay() -> None:
    net, x = nn.Linear(2, 2), torch.zeros(1, 2)
    handle = net.register_forward_hook(_double)
    guards = guards_of(net, x)
    assert check(guards, net, x) == ""
    handle.remove()
    assert check(guards, net, x) == "number of self._forward_hooks was 1, is 0"
    net.register_forward_hook(_double)
    assert check(guards, net, x) == ""  # the same hook under another key
    net._forward_hooks.clear()
    net.register_forward_hook(_triple)
    assert check(guards, net, x).startswith("value 0 of self._forward_hooks was")


def test_a_module_that_the_call_looks_up_itself(tmp_path: Any, monkeypatch: Any) -> None:
    (tmp_path / "looked_up.py").write_text("SCALE = 2.0\n")
    monkeypatch.syspath_prepend(tmp_path)

    def by_name(x: torch.Tensor) -> Any:
        return x * importlib.import_module("looked_up").SCALE

    def inside(x: torch.Tensor) -> Any:
        import looked_up  # type: ignore[import-not-found]

        return x * looked_up.SCALE

    x = torch.zeros(1)
    by_name(x)  # importing it has effects of its own
    for function in (by_name, inside):
        guards = guards_of(function, x)
        assert check(guards, function, x) == ""
        monkeypatch.setattr("looked_up.SCALE", 3.0)
        assert check(guards, function, x) == "global looked_up.SCALE was 2.0, is 3.0"
        monkeypatch.undo()
        monkeypatch.syspath_prepend(tmp_path)

"""What makes a call eager: effects and impure code; and that observation leaves no trace."""

from __future__ import annotations

import contextvars
import gc
import logging
import os
import random
import sys
import time
import uuid
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from tracejit.runtime.guards import GuardSet
from tracejit.trace.observe import Observer
from tracejit.trace.recording import Recording

from .support import changes_of, check, checker, guards_of, inputs_of, observe, reason_of

COUNT = 0
SEEN: list[int] = []
LEVEL: contextvars.ContextVar[int] = contextvars.ContextVar("LEVEL", default=1)
log = logging.getLogger("tests.guards")


class Counter(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self.history: list[int] = []
        self.register_buffer("mean", torch.zeros(2))


class Attribute(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.count += 1
        return x


class NewAttribute(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.last = 3
        return x


class ListAppend(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.history.append(1)
        return x


class BufferRebound(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean = self.mean + x
        return x


class SetAttr(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        setattr(self, "co" + "unt", 5)
        return x


class Data(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.mean.data = x + 1
        return x


class Deleted(Counter):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        del self.count
        return x


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Attribute, "count self.count = (1,)"),
        (NewAttribute, "put self.last = (3,)"),
        (ListAppend, "extend self.history.None = (1,)"),
        (BufferRebound, "put self.mean = (tensor([1., 1.]),)"),
        (SetAttr, "put self.count = (5,)"),
        (Deleted, "drop self.count = ()"),
    ],
)
def test_changed_attributes(kind: type[Counter], words: str) -> None:
    (change,) = changes_of(kind(), torch.ones(2))
    assert change.startswith(words)


def test_other_memory_is_no_change_that_can_be_replayed() -> None:
    reason = reason_of(Data(), torch.ones(2))
    assert reason.kind == "side-effect" and "gives other memory to self.mean" in reason.text


def test_the_place_of_an_effect_is_the_users_line() -> None:
    (change,) = changes_of(Attribute(), torch.ones(2))
    line = Attribute.forward.__code__.co_firstlineno + 1
    assert change.endswith(f"{__file__}:{line}")


def test_changed_globals_and_cells() -> None:
    total = 0

    def cell(x: torch.Tensor) -> torch.Tensor:
        nonlocal total
        total += 1
        return x

    def name(x: torch.Tensor) -> torch.Tensor:
        global COUNT
        COUNT += 1
        return x

    def item(x: torch.Tensor) -> torch.Tensor:
        SEEN.append(1)
        return x

    x = torch.zeros(1)
    found = [change.split(" /")[0] for f in (cell, name, item) for change in changes_of(f, x)]
    where = f"global {__name__}"
    assert found == [
        "count cell.total = (1,)",
        f"count {__name__}.COUNT = (1,)",
        f"extend {where}.SEEN.None = (1,)",
    ]


def test_an_argument_is_changed() -> None:
    def f(x: torch.Tensor, out: list[Any]) -> torch.Tensor:
        out.append(x)
        return x

    assert changes_of(f, torch.zeros(1), []) == ["extend out.None = (tensor([0.]),)"]


def test_what_the_call_makes_may_change() -> None:
    class Made:
        def __init__(self) -> None:
            self.items: list[Any] = []

        def push(self, item: Any) -> None:
            self.items.append(item)
            self.last = item

    def f(x: torch.Tensor) -> Any:
        made, count = Made(), 0

        def step() -> None:
            nonlocal count
            count += 1

        for factor in range(3):
            made.push(x * factor)
            step()
        return made.items + [count]

    x = torch.zeros(1)
    assert check(guards_of(f, x), f, x) == ""


def test_what_torch_walks_and_writes_in_modules() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    x = torch.zeros(1, 2)

    def total(x: torch.Tensor) -> Any:
        return x + sum(p.sum() for _, p in net.named_parameters())

    guards = guards_of(total, x)
    assert len(guards.input_nodes) == 3 and check(guards, total, x) == ""
    net[0].register_parameter("extra", nn.Parameter(torch.zeros(1)))
    assert "extra" in check(guards, total, x)
    for change, words in (
        (net.eval, "training = (False,)"),
        (lambda: net.register_buffer("more", torch.zeros(1)), "more = (tensor([0.]),)"),
        (lambda: net.add_module("last", nn.Identity()), "last = (Identity(),)"),
    ):
        found = changes_of(lambda x: (change(), x), x)  # noqa: B023
        assert any(words in each for each in found), found
    found = changes_of(lambda x: (net.register_forward_hook(lambda *args: None), x), x)
    assert any("_forward_hooks" in each for each in found), found


def test_tensors_written_in_place_are_no_python_effect() -> None:
    norm = nn.BatchNorm1d(3)
    x = torch.randn(4, 3)
    assert check(guards_of(norm, x), norm, x) == ""


def _environ_write() -> None:
    os.environ["SOME_OTHER_FLAG"] = "1"


IMPURE: dict[str, tuple[Callable[[], Any], str]] = {
    "clock": (time.time, "time.time"),
    "sleep": (lambda: time.sleep(0), "time.sleep"),
    "print": (lambda: print(end=""), "builtins.print"),
    "random": (random.random, "Random.random"),
    "randint": (lambda: random.randint(0, 3), "Random.getrandbits"),
    "uuid": (uuid.uuid4, "urandom"),
    "file": (lambda: open(os.devnull).close(), "open"),
    "listdir": (lambda: os.listdir("/"), "posix.listdir"),
    "environment": (_environ_write, "__setitem__"),
    "warning": (lambda: warnings.warn("x", stacklevel=1), "_warnings.warn"),
    "log": (lambda: log.error("x"), "_log"),
    "write": (lambda: sys.stdout.write(""), "write"),
    "exec": (lambda: exec("1"), "builtins.exec"),
    "numpy": (lambda: torch.zeros(2).numpy(), "Tensor.numpy"),
}


@pytest.mark.parametrize("name", IMPURE)
@pytest.mark.filterwarnings("ignore")
def test_impure_functions(name: str) -> None:
    call, words = IMPURE[name]

    def f(x: torch.Tensor) -> torch.Tensor:
        call()
        return x

    reason = reason_of(f, torch.zeros(1))
    assert reason.kind == "impure" and words in reason.text, reason
    assert reason.place.startswith(__file__)


def test_seeding_at_random_is_refused() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        torch.seed()
        return x

    assert str(reason_of(f, torch.zeros(1))).startswith("random: calls torch.random.seed")


def test_numpy_random_is_impure() -> None:
    numpy = pytest.importorskip("numpy")

    def f(x: torch.Tensor) -> torch.Tensor:
        return x * float(numpy.random.rand())

    assert reason_of(f, torch.zeros(1)).kind == "impure"


def test_pure_python_passes() -> None:
    def f(x: torch.Tensor, n: int) -> Any:
        import math

        sizes = sorted({str(i): i**2 for i in range(n)}.items(), key=lambda item: -item[1])
        text = ", ".join(f"{name}={size:.2f}" for name, size in sizes).upper().split(",")
        assert isinstance(x, torch.Tensor) and len(text) == n
        both = list(zip(map(str, sizes), enumerate(reversed(text))))
        return x * math.sqrt(n) + max(abs(size) for _, size in sizes) + len(both)

    x = torch.zeros(1)
    guards = guards_of(f, x, 3)
    assert check(guards, f, x, 3) == ""


def test_environment_and_loggers_are_guarded(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        log.debug("nothing")
        return x * (2 if os.environ.get("SOME_FLAG") == "1" else 1)

    x = torch.zeros(1)
    monkeypatch.delenv("SOME_FLAG", raising=False)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    monkeypatch.setenv("SOME_FLAG", "1")
    assert check(guards, f, x) == "environment variable SOME_FLAG was absent, is '1'"
    monkeypatch.delenv("SOME_FLAG")
    log.setLevel(logging.DEBUG)
    try:
        assert "enabled for level 10 was False, is True" in check(guards, f, x)
    finally:
        log.setLevel(logging.NOTSET)


def test_context_variables_are_guarded() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * LEVEL.get()

    x = torch.zeros(1)
    guards = guards_of(f, x)
    assert check(guards, f, x) == ""
    token = LEVEL.set(5)
    assert "LEVEL.get() was absent, is 5" in check(guards, f, x)
    LEVEL.reset(token)

    def store(x: torch.Tensor) -> torch.Tensor:
        LEVEL.set(7)
        return x

    contextvars.copy_context().run(lambda: _is_effect(store, x))


def _is_effect(function: Callable[..., Any], x: torch.Tensor) -> None:
    assert reason_of(function, x).kind == "side-effect"


def test_modes_changed_inside_and_restored_pass_but_not_if_they_stay() -> None:
    def inside(x: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return x * 2

    def leaves(x: torch.Tensor) -> torch.Tensor:
        torch.set_grad_enabled(False)
        return x * 2

    x = torch.zeros(1)
    assert check(guards_of(inside, x), inside, x) == ""
    try:
        assert "grad mode" in reason_of(leaves, x).text
    finally:
        torch.set_grad_enabled(True)


def test_code_that_no_path_reaches() -> None:
    table = {"f": eval("lambda x: x + 1")}

    def f(x: torch.Tensor) -> torch.Tensor:
        return table["f"](x)  # type: ignore[no-any-return]

    x = torch.zeros(1)
    assert check(guards_of(f, x), f, x) == ""  # in a dict of the closure: reached
    hidden: Any = iter([lambda x: x + 1] * 9)
    found = observe(lambda x: next(hidden)(x), x)
    assert not isinstance(found, GuardSet)


def test_hooks_are_restored() -> None:
    events: list[str] = []

    def mine(frame: Any, event: str, arg: Any) -> None:
        events.append(event)

    def fails(x: torch.Tensor) -> torch.Tensor:
        raise ValueError("from the call")

    x = torch.zeros(1)
    assert sys.getprofile() is None and gc.isenabled()
    sys.setprofile(mine)
    try:
        guards = observe(lambda x: x + 1, x)
        assert sys.getprofile() is mine and isinstance(guards, GuardSet)
        assert "call" in events  # the other profiler saw the call too
        with pytest.raises(ValueError, match="from the call"):
            observe(fails, x)
        assert sys.getprofile() is mine
        observe(lambda x: print(end=""), x)
        assert sys.getprofile() is mine
    finally:
        sys.setprofile(None)
    with pytest.raises(ValueError, match="from the call"):
        observe(fails, x)
    assert sys.getprofile() is None and gc.isenabled()


def test_a_profiler_that_cannot_be_restored_is_left_alone() -> None:
    import cProfile

    profiler = cProfile.Profile()
    profiler.enable()
    try:
        before = sys.getprofile()
        found = observe(lambda x: x + 1, torch.zeros(1))
        assert sys.getprofile() is before
    finally:
        profiler.disable()
    if before is not None:
        assert not isinstance(found, GuardSet) and found.kind == "hook"


def test_suspension_hides_what_runs_meanwhile() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        sys.setprofile(None)  # as the recorder does around its own work
        time.time()
        sys.setprofile(observer.hook)
        return x

    x = torch.zeros(1)
    observer = Observer(f, (x,), {})
    with observer:
        f(x)
    # Its cell holds the observer itself, which changes: only the absence of an impure call matters
    # here.
    found = observer.finish(Recording(sources=[x]))
    assert isinstance(found, GuardSet) or found.kind != "impure"


@pytest.mark.parametrize("cycle", [False, True])
@pytest.mark.parametrize("where", ["argument", "global"])
def test_models_are_not_kept_alive(
    cycle: bool, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_argument(net: nn.Module, x: torch.Tensor) -> Any:
        return net(x)

    def by_global(x: torch.Tensor) -> Any:
        return model(x)  # type: ignore[name-defined]  # noqa: F821

    net: Any = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.1)).eval()
    if cycle:
        net[0].owner = [net]
    x = torch.zeros(1, 2)
    if where == "global":
        monkeypatch.setitem(globals(), "model", net)
        function, args = by_global, (x,)
    else:
        function, args = by_argument, (net, x)
    guards = guards_of(function, *args)
    assert check(guards, function, *args) == ""
    alive = [weakref.ref(net), weakref.ref(net[0]), weakref.ref(net[0].weight)]
    monkeypatch.undo()
    del net, args
    if cycle:
        gc.collect()
    assert [ref() is None for ref in alive] == [True] * 3
    assert checker(guards, function).held  # the guards themselves live on


def test_two_models_share_guards() -> None:
    def f(net: nn.Module, x: torch.Tensor) -> Any:
        return net(x)

    nets = [nn.Linear(2, 2) for _ in range(3)]
    x = torch.zeros(1, 2)
    guards = guards_of(f, nets[0], x)
    for _ in range(3):
        for net in nets:
            assert check(guards, f, net, x) == ""
    assert check(guards, f, nn.Linear(2, 3), x) != ""


def test_objects_made_anew_for_each_call_are_walked() -> None:
    class State:
        def __init__(self, scale: float) -> None:
            self.scale = scale
            self.items = [1, 2]

    def f(state: State, x: torch.Tensor) -> Any:
        return x * state.scale + sum(state.items)

    x = torch.zeros(1)
    guards = guards_of(f, State(2.0), x)
    for _ in range(20):
        assert check(guards, f, State(2.0), x) == ""
    assert check(guards, f, State(3.0), x) == "state.scale was 2.0, is 3.0"
    compiled = checker(guards, f)
    before = compiled.fast
    for _ in range(5):
        assert inputs_of(compiled, (State(2.0), x), {}) is not None
    assert compiled.fast is before  # no longer bound to one object, so never bound again

"""Changes of Python objects that a plan makes again: each kind, once recorded and three times
replayed, next to an eager twin."""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tracejit
from tests.executors import BACKEND
from tests.semantics.support import Picture, first_difference
from tracejit.api import dispatcher_of
from tracejit.runtime.outputs import compile_tree


class Slots:
    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = torch.zeros(2)


class Box:
    kind = "box"

    def __init__(self) -> None:
        self.items: list[Any] = [torch.zeros(2), 1]
        self.last: Any = torch.ones(2)
        self.other: Any = torch.zeros(2)
        self.table: dict[str, Any] = {"a": 1.0, "b": torch.ones(2)}
        self.queue: collections.deque[Any] = collections.deque([1, 2], maxlen=2)
        self.names = {"x", "y"}
        self.steps = 0
        self.slots = Slots()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.box = Box()


TOTAL = 0


def put(m: Any, x: Any) -> Any:
    m.box.last = x * 2
    return m.box.last


def buffer(m: Any, x: Any) -> Any:
    m.mean = m.mean * 0.5 + x
    return m.mean[:1]


def slot(m: Any, x: Any) -> Any:
    m.box.slots.value = m.box.slots.value + x


def swapped(m: Any, x: Any) -> Any:
    m.box.last, m.box.other = m.box.other, m.box.last
    return x + 1


def appended(m: Any, x: Any) -> Any:
    m.box.items.append(x + 1)
    m.box.items[:] = m.box.items[-2:]
    return m.box.items


def queued(m: Any, x: Any) -> Any:
    m.box.queue.append(3)
    return x * len(m.box.queue)


def rekeyed(m: Any, x: Any) -> Any:
    m.box.table["b"] = m.box.table["b"] + x
    m.box.table["c"] = m.box.table.pop("a", 0.0)
    return x * 2


def renamed(m: Any, x: Any) -> Any:
    m.box.names.discard("x")
    m.box.names.add("z")
    return x + len(m.box.names)


def counted(m: Any, x: Any) -> Any:
    global TOTAL
    box = m.box
    m.box.steps += 1
    box.steps = box.steps + 2
    TOTAL += 1
    return x + 1


def added_to_tensors(m: Any, x: Any) -> Any:
    """`+=` of what is no whole number reads it."""
    m.mean += 1
    m.box.last = m.box.last + 1
    x.rank = getattr(x, "rank", 0)
    x.rank += 1
    return m.mean * 2


def deleted(m: Any, x: Any) -> Any:
    m.box.mark = 1
    del m.box.mark
    m.box.fresh = [x + 1, {"k": 2}]
    return x


def on_class(m: Any, x: Any) -> Any:
    Box.kind = "crate"
    return x + 1


def on_tensor(m: Any, x: Any) -> Any:
    x.note = "seen"
    return x + 1


def shared(m: Any, x: Any) -> Any:
    """The stored tensor is the returned one's base."""
    y = x * 2
    m.box.last = y
    return y[1:], m.box


CASES = [
    put, buffer, slot, swapped, appended, queued, rekeyed, renamed, counted, added_to_tensors,
    deleted, on_class, on_tensor, shared,
]  # fmt: skip


def shown(m: Net) -> Any:
    box = m.box
    return [
        m.mean, [[k, v] for k, v in vars(box).items() if k != "slots"], box.slots.value, Box.kind,
        list(vars(m)), TOTAL, box.queue.maxlen,
    ]  # fmt: skip


def run(function: Callable[..., Any], wrap: Callable[[Any], Any]) -> Any:
    global TOTAL
    TOTAL, Box.kind = 0, "box"
    torch.manual_seed(0)
    picture, m, f = Picture(), Net(), wrap(function)
    seen = []
    for _ in range(5):
        x = torch.randn(2)
        result = f(m, x)
        same = result[1] is m.box if isinstance(result, tuple) else result is m.box.last
        found = result[:1] if isinstance(result, tuple) else result
        seen.append(picture.of([found, same, shown(m), vars(x)]))
    return seen


@pytest.mark.parametrize("function", CASES, ids=lambda f: f.__name__)
def test_like_eager(function: Callable[..., Any], fresh_cache: Any) -> None:
    expected = run(function, lambda f: f)
    made: list[Any] = []

    def wrap(f: Any) -> Any:
        made.append(tracejit.compile(f, backend=BACKEND, wait=True, strict=True))
        return made[-1]

    for source in ("recorded", "disk"):
        got = run(function, wrap)
        assert got == expected, first_difference(expected, got)
        entries = dispatcher_of(made[-1]).entries
        assert {e.source for e in entries} == {source} and len(entries) <= 3
        assert sum(e.check.held for e in entries) >= 2  # calls that ran a plan


def test_counters_do_not_specialise(fresh_cache: Any) -> None:
    f, m = tracejit.compile(counted, backend=BACKEND, wait=True, strict=True), Net()
    for _ in range(100):
        f(m, torch.zeros(2))
    assert m.box.steps == 300 and len(dispatcher_of(f).entries) == 1


def test_changed_objects_must_stay_apart(fresh_cache: Any) -> None:
    def f(xs: Any, ys: Any, x: Any) -> Any:
        xs.append(x * 2)
        return x * len(ys)

    compiled = tracejit.compile(f, backend=BACKEND, wait=True)
    x = torch.ones(1)
    for _ in range(8):
        assert compiled([], [], x).item() == 0
        both: list[Any] = []
        assert compiled(both, both, x).item() == 1 and len(both) == 1


def test_unknown_changes_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing is written by a step 'env'"):
        compile_tree(
            {"after": [{"put": [0, "env", "A"], "value": {"const": 1}}], "result": {"const": 1}}
        )


def test_a_failed_plan_changes_nothing(fresh_cache: Any) -> None:
    def f(m: Any, x: Any, i: Any) -> Any:
        m.box.steps += 1
        m.box.last = x[i]
        return x * 2

    compiled, m, x = tracejit.compile(f, backend=BACKEND, wait=True), Net(), torch.ones(3)
    for _ in range(3):
        compiled(m, x, torch.tensor([0]))
    with pytest.raises(IndexError):
        compiled(m, x, torch.tensor([7]))
    assert m.box.steps == 4 and m.box.last.tolist() == [1.0]


def evaluated(method: Callable[..., Any]) -> Callable[..., Any]:
    def inner(self: Any, x: Any) -> Any:
        was = self.training
        self.eval()
        found = method(self, x)
        self.train(was)
        return found

    return inner


class Sampler(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Dropout(0.5), nn.ReLU())

    @evaluated
    def sample(self, x: Any) -> Any:
        return self.net(x)


def test_a_mode_that_is_set_and_set_back(fresh_cache: Any) -> None:
    """What the layers read was set by the call: what they were before is guarded, not that."""
    net, x = Sampler(), torch.tensor([1.0, -1.0])
    sample = tracejit.compile(net.sample, backend=BACKEND, wait=True)
    for _ in range(3):
        assert sample(x).equal(x.relu()) and net.net[0].training
    assert len(dispatcher_of(sample).entries) == 1
    for _ in range(2):
        net.net[0].eval()
        assert sample(x).equal(x.relu()) and net.net[0].training
    assert len(dispatcher_of(sample).entries) == 2

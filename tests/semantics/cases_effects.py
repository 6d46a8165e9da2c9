"""Python effects: what a function does to Python's own world."""

from __future__ import annotations

import dataclasses
import io
import os
import random
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy
import torch
from torch import nn

from .cases import CHANGED, Wrap, attempt, case, t

E = "Python effects"


class Holder:
    def __init__(self) -> None:
        self.last: Any = None
        self.flag: Any = 0
        self.rows: list[Any] = []
        self.table: dict[Any, Any] = {}
        self.inner: Any = None


def reaching(name: str, function: Any, eager: str = "", wrong: str = "") -> None:
    """A case: a function that changes an object that it reaches, which is looked at after each
    call, and which others change as well."""

    def program(c: Wrap) -> Iterator[Any]:
        f, h = c(function), Holder()
        h.inner = Holder()
        h.inner.last = t(3)
        for _ in range(4):
            yield f(t(3), h), vars(h).copy(), vars(h.inner).copy()
        yield CHANGED
        h.last, h.flag, h.rows, h.table = t(3), 5, [t(3)], {"last": t(3)}
        for _ in range(3):
            yield attempt(f, t(3), h), vars(h).copy(), vars(h.inner).copy()
        yield attempt(f, t(2), h), vars(h).copy(), vars(h.inner).copy()

    case(E, name, eager=eager, wrong=wrong)(program)


def set_tensor(x: Any, h: Any) -> Any:
    h.last = x * 2
    return h.last + 1


def set_input(x: Any, h: Any) -> Any:
    h.last = x
    return x + 1


def set_constant(x: Any, h: Any) -> Any:
    h.flag = "seen"
    return x * 2


def set_nested(x: Any, h: Any) -> Any:
    h.inner.last, h.inner.flag = x + 1, x.shape[0]
    return h.inner.last * 2


def set_object(x: Any, h: Any) -> Any:
    h.last = Holder()
    h.last.flag = 3
    return x * h.last.flag


def delete(x: Any, h: Any) -> Any:
    h.flag = 1
    del h.flag
    return x * 2


def delete_for_good(x: Any, h: Any) -> Any:
    if hasattr(h, "flag"):
        del h.flag
        return x * 3
    return x * 2


def append(x: Any, h: Any) -> Any:
    h.rows.append(x * 2)
    return x + 1


def set_item(x: Any, h: Any) -> Any:
    if not h.rows:
        h.rows.append(0)
    h.rows[0] = x * 3
    return h.rows[0] + 1


def pop(x: Any, h: Any) -> Any:
    h.rows += [1.0, 2.0]
    y = x * h.rows.pop()
    del h.rows[0]
    return y


def put(x: Any, h: Any) -> Any:
    h.table["last"] = x * 2
    h.table["sum"] = x.sum()
    return h.table["last"] + 1


def put_constant(x: Any, h: Any) -> Any:
    h.table["shape"] = tuple(x.shape)
    return x + 1


def remember(x: Any, h: Any) -> Any:
    key = x.shape[0]
    if key not in h.table:
        h.table[key] = torch.ones(key) * 3
    return x * h.table[key]


reaching("attribute mutation of reached objects: a tensor", set_tensor)
reaching("attribute mutation of reached objects: an input", set_input)
reaching("attribute mutation of reached objects: a constant", set_constant)
reaching("attribute mutation of reached objects: of a nested object", set_nested)
reaching(
    "attribute mutation of reached objects: any other object (eager)",
    set_object,
    eager="side-effect",
)
reaching("attribute mutation of reached objects: set and deleted", delete)
reaching("attribute mutation of reached objects: deleted", delete_for_good)
reaching("list mutation of reached objects: append", append)
reaching("list mutation of reached objects: an item set", set_item)
reaching("list mutation of reached objects: extended and popped", pop)
reaching("dict mutation of reached objects: tensors", put)
reaching("dict mutation of reached objects: a constant", put_constant)
reaching("dict mutation of reached objects: a memo that is filled once", remember)


@dataclasses.dataclass
class State:
    step: int = 0
    mean: Any = None


@case(E, "attribute mutation of reached objects: of a dataclass")
def _(c: Wrap) -> Iterator[Any]:
    def f(x: Any, s: State) -> Any:
        s.mean = x.mean() if s.mean is None else s.mean * 0.5 + x.mean() * 0.5
        return x - s.mean

    g, s = c(f), State()
    for _ in range(4):
        yield g(t(3), s), s
    yield CHANGED
    s.mean = torch.ones(())
    yield g(t(3), s), g(t(3), s), s


@case(E, "counters (self.step += 1) must not recompile for ever")
def _(c: Wrap) -> Iterator[Any]:
    from tracejit.api import dispatcher_of

    class Stepper(nn.Module):
        step = 0

        def forward(self, x: Any) -> Any:
            self.step += 1
            return x * 2

    m = Stepper()
    f = c(m)
    for _ in range(20):
        yield f(t(3)), m.step
    yield CHANGED
    m.step = 100
    for _ in range(5):
        yield f(t(3)), m.step
    if f is not m:
        found = dispatcher_of(f)
        assert len(found.entries) <= 2 and len(found.refused) <= 2, "compiled again and again"


@case(E, "counters that results depend on")
def _(c: Wrap) -> Iterator[Any]:
    class Warming(nn.Module):
        step = 0

        def forward(self, x: Any) -> Any:
            self.step += 1
            return x * min(self.step / 4, 1.0)

    m = Warming()
    f = c(m)
    for _ in range(10):
        yield f(t(3)), m.step
    yield CHANGED
    m.step = 1
    for _ in range(3):
        yield f(t(3)), m.step


def eager_frame(name: str, function: Any, eager: str = "impure", wrong: str = "") -> None:
    """A case: a function with an effect that must happen on each call."""

    def program(c: Wrap) -> Iterator[Any]:
        GENERATOR.seed(3)
        f = c(function)
        for _ in range(4):
            yield f(t(3))
        yield CHANGED
        yield f(t(2)), f(t(2)), random.random(), numpy.random.rand(), GENERATOR.random()

    case(E, name, eager=eager, wrong=wrong)(program)


def printing(x: Any, n: int) -> Any:
    print("call", n, tuple(x.shape))
    return x * 2


def printing_tensors(x: Any, n: int) -> Any:
    print(x.sum() > 0)
    return x * 2


@case(E, "print", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    f = c(printing)
    for n in (1, 1, 1):
        yield f(t(3), n)
    yield CHANGED
    yield f(t(3), 2), f(t(3), 2), f(t(2), 2)


@case(E, "print of tensors", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    f = c(printing_tensors)
    for x in (torch.ones(3), torch.ones(3), torch.ones(3)):
        yield f(x, 0)
    yield CHANGED
    yield f(-torch.ones(3), 0), f(torch.ones(3), 0)


@case(E, "time", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    f = c(lambda x: (x * 2, time.perf_counter_ns(), time.time()))
    seen = []
    for number in range(6):
        if number == 4:
            yield CHANGED
        y, *now = f(t(3))
        seen.append(now)
        yield y, seen == sorted(seen), len({n for n, _ in seen})


@case(E, "file writes", eager="impure")
def _(c: Wrap) -> Iterator[Any]:
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "log")

        def f(x: Any) -> Any:
            with open(path, "a") as file:
                file.write(f"{len(x)} ")
            return x * 2

        def text() -> str:
            with open(path) as file:
                return file.read()

        g = c(f)
        for _ in range(3):
            yield g(t(3)), text()
        yield CHANGED
        os.remove(path)
        yield g(t(2)), g(t(2)), text()


@case(E, "writes to a stream in memory", eager="unguardable")
def _(c: Wrap) -> Iterator[Any]:
    stream = io.StringIO()
    f = c(lambda x: (x * 2, stream.write(f"{len(x)} ")))
    for _ in range(3):
        yield f(t(3)), stream.getvalue()
    yield CHANGED
    stream.truncate(0)
    yield f(t(2)), f(t(2)), stream.getvalue()


eager_frame("random", lambda x: x * random.random() + random.choice([1.0, 2.0]), eager="impure")
eager_frame("numpy.random", lambda x: x * float(numpy.random.rand()), eager="impure")
eager_frame("random through an object", lambda x: x * GENERATOR.random(), eager="impure")
GENERATOR = random.Random(3)


@case(E, "os.environ")
def _(c: Wrap) -> Iterator[Any]:
    name = "OF_A_CASE"
    os.environ[name] = "2.0"
    f = c(lambda x: x * float(os.environ[name]) + float(os.environ.get("OF_NO_CASE", "1.0")))
    yield f(t(3))
    yield f(t(3))
    yield f(t(3))
    yield CHANGED
    os.environ[name] = "3.0"
    yield f(t(3)), f(t(3))
    del os.environ[name]
    yield attempt(f, t(3)), attempt(f, t(3))


MARK: Any = None


def marks(x: Any) -> Any:
    global MARK
    MARK = "marked"
    return x * 2


@case(E, "a global set to the constant that it is")
def _(c: Wrap) -> Iterator[Any]:
    global MARK
    MARK = "marked"
    f = c(marks)
    for _ in range(3):
        yield f(t(3)), MARK
    yield CHANGED
    MARK = 5
    yield f(t(3)), MARK
    yield f(t(3)), MARK


@case(E, "a closure variable set to the constant that it is")
def _(c: Wrap) -> Iterator[Any]:
    mark: Any = "marked"

    def f(x: Any) -> Any:
        nonlocal mark
        mark = "marked"
        return x * 2

    g = c(f)
    for _ in range(3):
        yield g(t(3)), mark
    yield CHANGED
    mark = 5
    yield g(t(3)), mark
    yield g(t(3)), mark


def reset(x: Any, h: Any) -> Any:
    h.last = h.inner.last
    return x * 2


def push_and_pop(x: Any, h: Any) -> Any:
    h.rows.append(x)
    return h.rows.pop() * 2 + len(h.rows)


def put_and_take(x: Any, h: Any) -> Any:
    h.table["now"] = x
    return h.table.pop("now") * 2


reaching("attribute mutation of reached objects: the tensor that it was", reset)
reaching("list mutation of reached objects: appended and popped", push_and_pop)
reaching("dict mutation of reached objects: put and taken out", put_and_take)

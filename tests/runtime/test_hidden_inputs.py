"""What a call can read besides tensors and plain attributes: after a change it gives what eager
gives, compiled or not."""

from __future__ import annotations

import array
import collections
import ctypes
import datetime
import decimal
import fractions
import functools
import itertools
import logging
import math
import operator
import os
import pathlib
import queue
import random
import re
import sys
import threading
import time
import types
import uuid
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import tracejit
from tests.executors import BACKEND

X = torch.arange(1.0, 4.0)


class Kept(list[int]):
    """A list to which weak references can be made."""

    __hash__ = object.__hash__  # type: ignore[assignment]


ONE, TWO = Kept([1]), Kept([1, 2])
# A function of x and an object, and two such objects that it can tell apart.
OBJECTS: dict[str, tuple[Callable[[Any, Any], Any], Callable[[], Any], Callable[[], Any]]] = {
    "fraction": (
        lambda x, v: x * float(v),
        lambda: fractions.Fraction(1, 2),
        lambda: fractions.Fraction(3, 4),
    ),
    "decimal": (
        lambda x, v: x * float(v),
        lambda: decimal.Decimal("0.5"),
        lambda: decimal.Decimal("0.75"),
    ),
    "timedelta": (
        lambda x, v: x * v.total_seconds(),
        lambda: datetime.timedelta(seconds=1),
        lambda: datetime.timedelta(seconds=2),
    ),
    "date": (
        lambda x, v: x * v.year,
        lambda: datetime.date(2020, 1, 1),
        lambda: datetime.date(2021, 1, 1),
    ),
    "uuid": (lambda x, v: x * (v.int % 7), lambda: uuid.UUID(int=3), lambda: uuid.UUID(int=5)),
    "path": (
        lambda x, v: x * len(v.name),
        lambda: pathlib.Path("/a/bb"),
        lambda: pathlib.Path("/a/ccc"),
    ),
    "text of a path": (
        lambda x, v: x * len(str(v)),
        lambda: pathlib.Path("/a/bb"),
        lambda: pathlib.Path("/a/ccc"),
    ),
    "bytearray": (lambda x, v: x * v[0], lambda: bytearray(b"\1"), lambda: bytearray(b"\3")),
    "memoryview": (lambda x, v: x * v[0], lambda: memoryview(b"\1"), lambda: memoryview(b"\3")),
    "array": (
        lambda x, v: x * sum(v),
        lambda: array.array("i", [1, 2]),
        lambda: array.array("i", [4, 2]),
    ),
    "C number": (lambda x, v: x * v.value, lambda: ctypes.c_int(2), lambda: ctypes.c_int(3)),
    "values of a dict": (lambda x, v: x * sum(v), lambda: {1: 2}.values(), lambda: {1: 3}.values()),
    "keys of a dict": (lambda x, v: x * sum(v), lambda: {1: 2}.keys(), lambda: {2: 2}.keys()),
    "mapping proxy": (
        lambda x, v: x * v["a"],
        lambda: types.MappingProxyType({"a": 1}),
        lambda: types.MappingProxyType({"a": 2}),
    ),
    "iterator": (lambda x, v: x * next(v), lambda: iter([1, 2]), lambda: iter([2, 3])),
    "count": (lambda x, v: x * next(v), lambda: itertools.count(3), lambda: itertools.count(5)),
    "method caller": (
        lambda x, v: v(x),
        lambda: operator.methodcaller("mul", 2),
        lambda: operator.methodcaller("mul", 3),
    ),
    "item getter": (
        lambda x, v: x * v([1, 2, 3]),
        lambda: operator.itemgetter(0),
        lambda: operator.itemgetter(2),
    ),
    "pattern": (
        lambda x, v: x * len(v.findall("aabb")),
        lambda: re.compile("a"),
        lambda: re.compile("aa"),
    ),
    "match": (
        lambda x, v: x * len(v.group()),
        lambda: re.match("a+", "aab"),
        lambda: re.match("a+", "aaab"),
    ),
    "queue": (lambda x, v: x * v.qsize(), queue.Queue, lambda: filled(queue.Queue())),
    "weak set": (
        lambda x, v: x * len(v),
        lambda: weakref.WeakSet([ONE]),
        lambda: weakref.WeakSet([ONE, TWO]),
    ),
    "weak dict": (
        lambda x, v: x * len(v),
        lambda: weakref.WeakKeyDictionary({ONE: 1}),
        lambda: weakref.WeakKeyDictionary({ONE: 1, TWO: 1}),
    ),
    "weak reference": (
        lambda x, v: x * len(v()),
        lambda: weakref.ref(ONE),
        lambda: weakref.ref(TWO),
    ),
    "counter": (
        lambda x, v: x * v["a"],
        lambda: collections.Counter("aab"),
        lambda: collections.Counter("aaab"),
    ),
    "chain of maps": (
        lambda x, v: x * v["a"],
        lambda: collections.ChainMap({"a": 1}),
        lambda: collections.ChainMap({}, {"a": 2}),
    ),
    "dtype's range": (
        lambda x, v: x * v.max,
        lambda: torch.finfo(torch.float16),
        lambda: torch.finfo(torch.float32),
    ),
}


def filled(found: queue.Queue[int]) -> queue.Queue[int]:
    found.put(1)
    return found


@pytest.mark.parametrize("name", OBJECTS)
def test_objects(name: str) -> None:
    f, first, second = OBJECTS[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for make in (first, first, first, second, second, first):
        assert g(X, make()).equal(f(X, make()))


class Plain:
    value = 1


LOCAL = threading.local()
LOG = logging.getLogger("tracejit-hidden")


def named() -> int:
    return 3


# A function of x, and what it can tell being set: for monkeypatch.setattr, to one and to another.
ATTRIBUTES: dict[str, tuple[Callable[[Any], Any], Any, str, Any, Any]] = {
    "sys.argv": (lambda x: x * len(sys.argv), sys, "argv", ["a"], ["a", "b"]),
    "of sys": (lambda x: x * sys.mine, sys, "mine", 1, 2),  # type: ignore[attr-defined]
    "of math": (lambda x: x * math.mine, math, "mine", 1, 2),  # type: ignore[attr-defined]
    "of torch": (lambda x: x * torch.mine, torch, "mine", 1, 2),
    "class of torch": (lambda x: x * isinstance(x, torch.Mine), torch, "Mine", torch.Tensor, int),
    "sys.path": (lambda x: x * len(sys.path), sys, "path", ["a"], ["a", "b"]),
    "of a thread": (lambda x: x * LOCAL.value, LOCAL, "value", 1, 2),
    "level of a logger": (lambda x: x * LOG.getEffectiveLevel(), LOG, "level", 10, 20),
    "name of a function": (lambda x: x * len(named.__name__), named, "__name__", "a", "bb"),
    "words of a function": (lambda x: x * len(named.__doc__ or ""), named, "__doc__", "a", "bb"),
}


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_attributes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, holder, attribute, first, second = ATTRIBUTES[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for value in (first, first, first, second, second, first):
        monkeypatch.setattr(holder, attribute, value, raising=False)
        assert g(X).equal(f(X))


ENVIRONMENT: dict[str, Callable[[Any], Any]] = {
    "contains": lambda x: x * ("TRACEJIT_HIDDEN" in os.environ),
    "get": lambda x: x * len(os.environ.get("TRACEJIT_HIDDEN", "")),
    "getenv": lambda x: x * len(os.getenv("TRACEJIT_HIDDEN", "")),
    "len": lambda x: x * len(os.environ),
    "iterate": lambda x: x * len([k for k in os.environ if k.startswith("TRACEJIT_H")]),
    "dict": lambda x: x * len(dict(os.environ)),
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_environment(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f = ENVIRONMENT[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for there in (False, False, False, True, True, False):
        if there:
            monkeypatch.setenv("TRACEJIT_HIDDEN", "1")
        else:
            monkeypatch.delenv("TRACEJIT_HIDDEN", raising=False)
        assert g(X).equal(f(X))


THREADS: dict[str, Callable[[Any], Any]] = {
    "name": lambda x: x * len(threading.current_thread().name),
    "main": lambda x: x * (threading.current_thread() is threading.main_thread()),
    "number": lambda x: x * (threading.get_ident() == threading.main_thread().ident),
    "count": lambda x: x * threading.active_count(),
}


@pytest.mark.parametrize("name", THREADS)
def test_threads(name: str) -> None:
    f = THREADS[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        assert g(X).equal(f(X))
    found: list[tuple[Any, Any]] = []
    thread = threading.Thread(target=lambda: found.append((g(X), f(X))), name="another")
    thread.start()
    thread.join()
    assert found[0][0].equal(found[0][1])


def test_the_interpreters_own_state() -> None:
    limit = sys.getrecursionlimit()

    def f(x: Any) -> Any:
        return x * sys.getrecursionlimit()

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    try:
        for deepest in (limit, limit, limit + 9, limit + 9):
            sys.setrecursionlimit(deepest)
            assert g(X).equal(f(X))
    finally:
        sys.setrecursionlimit(limit)


def test_what_differs_between_processes() -> None:
    for f in (lambda x: x * (hash("text") % 7), lambda x: x * (id(X) % 97)):
        g = tracejit.compile(f, backend=BACKEND, wait=True)
        for _ in range(3):
            assert g(X).equal(f(X))
        assert {reason.kind for reason in tracejit.api.dispatcher_of(g).reasons} == {"impure"}


NAMES: dict[str, Callable[[Any], Any]] = {
    "getattr": lambda x: x * getattr(Plain, "".join(["val", "ue"])),
    "hasattr": lambda x: x * hasattr(Plain, "other"),
    "default": lambda x: x * getattr(Plain, "other", 5),
    "name": lambda x: x * len(Plain.__name__),
}


@pytest.mark.parametrize("name", NAMES)
def test_attributes_of_a_global_class(name: str) -> None:
    f = NAMES[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    try:
        for change in ({}, {}, {}, {"value": 2}, {"other": 3}, {"__name__": "Longer"}, {}):
            for attribute, value in change.items():
                setattr(Plain, attribute, value)
            assert g(X).equal(f(X))
    finally:
        Plain.value, Plain.__name__ = 1, "Plain"
        del Plain.other  # type: ignore[attr-defined]


def test_subclasses() -> None:
    def f(x: Any) -> Any:
        return x * len(Plain.__subclasses__())

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        assert g(X).equal(f(X))
    another = type("Another", (Plain,), {})
    assert g(X).equal(f(X)) and another is not None


def test_what_is_still_compiled() -> None:
    """Library calls that only compute, and objects that are only carried, leave a call compiled."""

    class Carrying:
        def __init__(self) -> None:
            self.lock = threading.Lock()
            self.seen: weakref.WeakSet[Any] = weakref.WeakSet()
            self.log = LOG
            self.scale = 2.0

        def __call__(self, x: Any) -> Any:
            with self.lock:
                names = re.sub("a", "b", "aa") + os.path.join("a", "b")
                self.log.debug("not shown")
                return x * self.scale * len(names) * float(fractions.Fraction(1, 2))

    LOG.setLevel(logging.ERROR)
    carrying = Carrying()
    g = tracejit.compile(carrying, backend=BACKEND, wait=True)
    for _ in range(3):
        assert g(X).equal(carrying(X))
    assert not tracejit.api.dispatcher_of(g).reasons


PRINTS = functools.partial(print, "held")
# Functions in C that are called by C, where no profile hook sees them.
CALLED_BY_C: dict[str, Callable[[Any], Any]] = {
    "map": lambda x: x * len(list(map(print, ["map"]))),
    "partial": lambda x: (functools.partial(print, "partial")(), x * 2)[1],
    "held partial": lambda x: (PRINTS(), x * 2)[1],
    "sorted": lambda x: x * len(sorted(["sorted"], key=print)),
    "filter": lambda x: x * (1 + len(list(filter(print, ["filter"])))),
    "starmap": lambda x: x * len(list(itertools.starmap(print, [("starmap",)]))),
    "reduce": lambda x: x * (functools.reduce(lambda a, b: 3, map(print, ["reduce", "it"]))),
    "variable": lambda x: (lambda say: x * len(list(map(say, ["variable"]))))(print),
    "iter": lambda x: (next(iter(functools.partial(print, "iter"), 0)), x * 2)[1],
}


@pytest.mark.parametrize("name", CALLED_BY_C)
def test_functions_called_by_c(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    f = CALLED_BY_C[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(4):
        wanted = f(X), capsys.readouterr().out
        assert g(X).equal(wanted[0])
        assert capsys.readouterr().out == wanted[1] != ""


def test_clocks_and_random_numbers_called_by_c() -> None:
    for f in (
        lambda x: x * next(iter(time.perf_counter_ns, 0)),
        lambda x: x * list(map(random.getrandbits, [60]))[0],
        lambda x: x * collections.defaultdict(time.perf_counter_ns)["a"],
    ):
        g = tracejit.compile(f, backend=BACKEND, wait=True)
        assert len({float(g(X.double())[0]) for _ in range(5)}) == 5


def test_seeds_called_by_c() -> None:
    def f(x: Any, generator: torch.Generator) -> Any:
        list(map(generator.manual_seed, [3]))
        return x + torch.rand(3, generator=generator)

    g, generator = tracejit.compile(f, backend=BACKEND, wait=True), torch.Generator()
    generator.manual_seed(3)
    for _ in range(4):
        assert g(X, generator).equal(f(X, torch.Generator()))


def test_what_is_called_directly_is_as_before(capsys: pytest.CaptureFixture[str]) -> None:
    def f(x: Any, loud: bool) -> Any:
        if loud:
            print("loud", "indeed" if x.dim() else "", time.perf_counter() > 0)
        return x * 2 + sum(map(len, ["a", "bb"])) + len(sorted([3, 1], key=abs))

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for loud in (False, False, False, True, True, False):
        assert g(X, loud).equal(X * 2 + 5)
    assert capsys.readouterr().out == "loud indeed True\n" * 2
    assert tracejit.api.dispatcher_of(g).entries


@pytest.mark.parametrize("name", ["linear", "relu", "scaled_dot_product_attention"])
def test_functions_that_layers_call_are_replaced(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Layers(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU())

        def forward(self, x: Any) -> Any:
            x = self.inside(x)
            return functional.scaled_dot_product_attention(x, x, x)

    module = Layers().requires_grad_(False)
    g, x = tracejit.compile(module, backend=BACKEND, wait=True), torch.randn(1, 2, 3, 4)
    for replaced in (False, False, False, True, True, False):
        with monkeypatch.context() as patch:
            if replaced:
                patch.setattr(functional, name, lambda x, *rest, **more: x * 3)
            torch.testing.assert_close(g(x), module(x))
    assert not tracejit.api.dispatcher_of(g).reasons


@functools.singledispatch
def dispatched(value: Any) -> float:
    return 1.0


def test_single_dispatch() -> None:
    def f(x: Any) -> Any:
        return x * dispatched(2)

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        assert g(X).equal(X)
    dispatched.register(int, lambda value: 5.0)
    for _ in range(3):
        assert g(X).equal(X * 5)


@functools.lru_cache
def remembering(number: int) -> float:
    return number * Plain.value


def test_results_that_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    def f(x: Any) -> Any:
        return x * remembering(3)

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for value in (1, 1, 1, 2, 2):
        monkeypatch.setattr(Plain, "value", value)
        assert g(X).equal(X * 3)  # as eager: what is remembered does not change
    remembering.cache_clear()
    assert g(X).equal(X * 6) and g(X).equal(X * 6)
    assert {reason.kind for reason in tracejit.api.dispatcher_of(g).reasons} == {"unguardable"}


FOLDS = {"whole": np.sum, "pairs": np.add}
ODD = np.frompyfunc(lambda number: number + 3, 1, 1)


def test_functions_of_numpy() -> None:
    """They compute; which one it is is guarded. One made of a user's function is not known."""

    def f(x: Any) -> Any:
        pair = FOLDS["pairs"](1.0, np.sqrt(4.0))
        return x * float(FOLDS["whole"](x.shape)) + float(np.prod(x.shape)) + float(pair)

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    assert all(g(X).equal(f(X)) for _ in range(3)) and not tracejit.api.dispatcher_of(g).reasons
    try:
        FOLDS["pairs"], FOLDS["whole"] = np.multiply, np.max
        assert g(X).equal(f(X))
    finally:
        FOLDS["pairs"], FOLDS["whole"] = np.add, np.sum
    assert g(X).equal(f(X))
    odd = tracejit.compile(lambda x: x * ODD(1), backend=BACKEND, wait=True)
    assert all(odd(X).equal(X * 4) for _ in range(2))
    assert [reason.kind for reason in tracejit.api.dispatcher_of(odd).reasons] == ["unguardable"]

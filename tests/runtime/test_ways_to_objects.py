"""However an object reaches the code that reads or writes its attributes, a call sees what they
are now, and leaves what eager leaves."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import functools
import inspect
import itertools
import operator
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of


class Box:
    __match_args__ = ("n",)

    def __init__(self) -> None:
        self.n = 0
        self.items = [0]


@dataclasses.dataclass
class Data:
    n: int = 0


class Sequence:
    def __getitem__(self, index: int) -> Box:
        if index:
            raise IndexError
        return box


class Slots:
    __slots__ = ("args",)


class Carrying(Exception):
    pass


box, data = Box(), Data()


def first(values: Any) -> Any:
    for value in values:
        return value.n


def inside(holder: Any) -> Any:
    return holder.args[0].n


def in_slots() -> Slots:
    made = Slots()
    made.args = [box]  # type: ignore[attr-defined]
    return made


def raising() -> None:
    raise KeyError(box)


def caught(x: Any) -> Any:
    try:
        raising()
    except KeyError as error:
        return x + error.args[0].n


def echo() -> Iterator[Any]:
    held: Any = yield
    while True:
        held = yield held.n


def sent(x: Any) -> Any:
    generator: Any = echo()
    next(generator)
    return x + generator.send(box)


def yielded() -> Iterator[Box]:
    yield box


def matched(x: Any) -> Any:
    match box:
        case Box(number):
            return x + number


def within(x: Any) -> Any:
    with contextlib.nullcontext(box) as held:
        return x + held.n


READS: dict[str, Callable[[Any], Any]] = {
    "generator over a tuple": lambda x: x + sum(k.n for k in (box,)),
    "generator over a list": lambda x: x + sum(k.n for k in [box]),
    "comprehension": lambda x: x + sum([k.n for k in [box]]),
    "next of a generator": lambda x: x + next(k.n for k in [box]),
    "values of a dict": lambda x: x + sum(k.n for k in {"a": box}.values()),
    "items of a dict": lambda x: x + sum(v.n for _, v in {"a": box}.items()),
    "keys of a dict": lambda x: x + sum(k.n for k in {box: 1}),
    "a view of a dict": lambda x: x + first({"a": box}.values()),
    "a set": lambda x: x + sum(k.n for k in {box}),
    "a deque": lambda x: x + sum(k.n for k in collections.deque([box])),
    "an ordered dict": lambda x: x + first(collections.OrderedDict({box: 1})),
    "a counter": lambda x: x + sum(k.n for k in collections.Counter([box])),
    "a chain of maps": lambda x: x + sum(k.n for k in collections.ChainMap({box: 1})),
    "a proxy of a map": lambda x: x + sum(k.n for k in types.MappingProxyType({box: 1})),
    "reversed": lambda x: x + sum(k.n for k in reversed([box])),
    "enumerate": lambda x: x + sum(k.n for _, k in enumerate([box])),
    "zip": lambda x: x + sum(k.n for k, _ in zip([box], [1])),
    "chain": lambda x: x + sum(k.n for k in itertools.chain([box])),
    "cycle and islice": lambda x: x + sum(k.n for k in itertools.islice(itertools.cycle([box]), 1)),
    "product": lambda x: x + sum(k.n for pair in itertools.product([box]) for k in pair),
    "groupby": lambda x: x + sum(k.n for _, g in itertools.groupby([box]) for k in g),
    "another generator": lambda x: x + sum(k.n for k in yielded()),
    "a sequence": lambda x: x + sum(k.n for k in Sequence()),  # type: ignore[attr-defined]
    "an exception": lambda x: x + inside(ValueError(box)),
    "an exception of the user's": lambda x: x + inside(Carrying(box)),
    "a namespace": lambda x: x + inside(types.SimpleNamespace(args=[box])),
    "slots": lambda x: x + inside(in_slots()),
    "an exception that is caught": caught,
    "sent to a generator": sent,
    "a pattern": matched,
    "a context": within,
    "str.format": lambda x: x + float(f"{box.n}"),
    "str.format of an item": lambda x: x + float(f"{box.items[0]}"),
    "asdict": lambda x: x + dataclasses.asdict(data)["n"],
    "astuple": lambda x: x + dataclasses.astuple(data)[0],
    "replace": lambda x: x + dataclasses.replace(data).n,
    "getattr_static": lambda x: x + inspect.getattr_static(box, "n"),
    "getmembers": lambda x: x + dict(inspect.getmembers(box))["n"],
    "methodcaller": lambda x: x + operator.methodcaller("__getattribute__", "n")(box),
    "attrgetter": lambda x: x + operator.attrgetter("n")(box),
    "reduce": lambda x: x + functools.reduce(getattr, ["n"], box),
    "object.__getattribute__": lambda x: x + object.__getattribute__(box, "n"),
    "__import__": lambda x: x + __import__(__name__, fromlist=["box"]).box.n,
}


def change(number: int) -> None:
    box.n = data.n = box.items[0] = number


@pytest.mark.parametrize("name", READS)
def test_what_is_read(name: str) -> None:
    compiled, found = tracejit.compile(READS[name], backend=BACKEND, wait=True), []
    numbers = [0, 0, 0, 1, 1, 2, 0]
    for number in numbers:
        change(number)
        found.append(compiled(torch.zeros(1)).item())
    assert found == numbers


def stores(x: Any) -> Any:
    [setattr(k, "n", 7) for k in [box]]
    return x


def stores_by_name(x: Any) -> Any:
    operator.methodcaller("__setattr__", "n", 7)(box)
    return x


def stores_in_values(x: Any) -> Any:
    def store(values: Any) -> None:
        for value in values:
            value.n = 7

    store({"a": box}.values())
    return x


@pytest.mark.parametrize("program", [stores, stores_by_name, stores_in_values])
def test_what_is_written(program: Callable[[Any], Any]) -> None:
    compiled = tracejit.compile(program, backend=BACKEND, wait=True)
    for _ in range(4):
        change(0)
        compiled(torch.zeros(1))
        assert box.n == 7


def test_what_is_still_compiled() -> None:
    """Errors that torch raises and the program looks at, templates without attributes."""

    def f(x: Any) -> Any:
        try:
            x @ torch.ones(5, 5)
        except RuntimeError as error:
            return x + (1 if "shapes" in str(error) else 2), f"{1} {2}"

    compiled = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        assert compiled(torch.zeros(2, 2))[0].sum() == f(torch.zeros(2, 2))[0].sum()
    assert not dispatcher_of(compiled).reasons

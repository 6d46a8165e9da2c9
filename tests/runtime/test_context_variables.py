"""Context variables: whoever asks for one, and whatever it holds, a call sees what it holds now."""

from __future__ import annotations

import contextvars
import functools
import operator
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of


class Holder:
    def __init__(self, number: int = 0) -> None:
        self.number = number
        self.table = {"number": number}


NUMBER: ContextVar[int] = ContextVar("NUMBER")
HOLDER: ContextVar[Holder] = ContextVar("HOLDER")
PRESET = Holder()
UNSET: ContextVar[Holder] = ContextVar("UNSET", default=PRESET)
part_of_number, part_of_holder = functools.partial(NUMBER.get), functools.partial(HOLDER.get)
get_holder, by_name = HOLDER.get, operator.methodcaller("get")


def ask(_: object) -> Holder:
    return HOLDER.get()


def later(x: Any) -> Any:
    found = HOLDER.get()

    def inner() -> int:
        return found.number

    return x + inner()


PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "a constant": lambda x: x + NUMBER.get(),
    "an object": lambda x: x + HOLDER.get().number,
    "inside an object": lambda x: x + HOLDER.get().table["number"],
    "read later": later,
    "its method under a name": lambda x: x + get_holder().number,
    "its class's method": lambda x: x + ContextVar.get(NUMBER),
    "a partial, constant": lambda x: x + part_of_number(),
    "a partial, object": lambda x: x + part_of_holder().number,
    "called by map": lambda x: x + sum(map(ContextVar.get, [NUMBER])),
    "called by Python that map calls": lambda x: x + next(map(ask, "a")).number,
    "a method by its name": lambda x: x + operator.methodcaller("get")(NUMBER),
    "a method by its name, kept": lambda x: x + by_name(HOLDER).number,
    "an item of the context": lambda x: x + contextvars.copy_context()[HOLDER].number,
    "the context as a dict": lambda x: x + {**contextvars.copy_context()}[NUMBER],
    "in a copy of the context": lambda x: contextvars.copy_context().run(
        lambda: x + HOLDER.get().number
    ),
}


@pytest.fixture(autouse=True)
def _as_before() -> Iterator[None]:
    tokens = NUMBER.set(0), HOLDER.set(Holder())
    yield
    NUMBER.reset(tokens[0])
    HOLDER.reset(tokens[1])


def calls(f: Callable[[Any], Any], change: Callable[[int], None]) -> list[float]:
    """What a compiled function gives after each of several changes."""
    compiled, found = tracejit.compile(f, backend=BACKEND, wait=True), []
    for number in (0, 0, 0, 1, 1, 2, 0):
        change(number)
        found.append(compiled(torch.zeros(1)).item())
    return found


def other_value(number: int) -> None:
    NUMBER.set(number)
    HOLDER.set(Holder(number))


def same_object(number: int) -> None:
    NUMBER.set(number)
    held = HOLDER.get()
    held.number = held.table["number"] = number


@pytest.mark.parametrize("change", [other_value, same_object])
@pytest.mark.parametrize("name", PROGRAMS)
def test_what_it_holds_now(name: str, change: Callable[[int], None]) -> None:
    assert calls(PROGRAMS[name], change) == [0, 0, 0, 1, 1, 2, 0]


def test_an_object_by_default() -> None:
    def change(number: int) -> None:
        UNSET.get().number = number

    assert calls(lambda x: x + UNSET.get().number, change) == [0, 0, 0, 1, 1, 2, 0]


@pytest.mark.parametrize("variable", [HOLDER, UNSET])
def test_an_object_that_is_only_written_to(variable: ContextVar[Holder]) -> None:
    def store(x: Any) -> Any:
        variable.get().number = 7
        return x + 1

    def seen(number: int) -> None:
        found.append(variable.get().number)
        variable.get().number = 0

    found: list[int] = []
    calls(store, seen)
    assert found[1:] == [7] * 6


def test_constants_are_compiled() -> None:
    compiled = tracejit.compile(PROGRAMS["a constant"], backend=BACKEND, wait=True, strict=True)
    for _ in range(3):
        assert compiled(torch.zeros(1)).item() == 0
    assert len(dispatcher_of(compiled).entries) == 1

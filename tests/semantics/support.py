"""Run a program twice, eager and compiled, and compare all that it can see."""

from __future__ import annotations

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of
from tracejit.runtime.reasons import Reason

Wrap = Callable[[Any], Any]
Program = Callable[[Wrap], Any]


def attempt(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a call, or its exception as data."""
    try:
        return function(*args, **kwargs)
    except Exception as error:
        return "raised", type(error), str(error)


class Picture:
    """Values as nested tuples that compare: tensors with layout and with who shares with whom."""

    def __init__(self) -> None:
        self.objects: dict[int, int] = {}
        self.storages: dict[int, int] = {}
        self.alive: list[Any] = []

    def of(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return self._tensor(value)
        if isinstance(value, dict):
            return type(value), [(self.of(k), self.of(v)) for k, v in value.items()]
        if isinstance(value, (list, tuple)):
            return type(value).__name__, [self.of(v) for v in value]
        if is_dataclass(value) and not isinstance(value, type):
            return type(value).__name__, [self.of(getattr(value, f.name)) for f in fields(value)]
        return type(value), re.sub("0x[0-9a-f]+", "", repr(value))

    def _tensor(self, tensor: torch.Tensor) -> Any:
        self.alive.append(tensor)
        storage = tensor.untyped_storage()._cdata
        return (
            type(tensor),
            tensor.dtype,
            tuple(tensor.shape),
            tensor.stride(),
            tensor.storage_offset(),
            tensor.requires_grad,
            tensor.is_leaf,
            tensor.is_inference(),
            tensor.is_conj(),
            self.objects.setdefault(id(tensor), len(self.objects)),
            self.storages.setdefault(storage, len(self.storages)),
            Values(tensor),
        )


class Values:
    """The numbers of a tensor at this moment. Equal to others that round as eager's do."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.held = tensor.detach().clone().resolve_conj()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Values):
            return False
        try:
            torch.testing.assert_close(self.held, other.held, equal_nan=True)
        except AssertionError:
            return False
        return True

    def __repr__(self) -> str:
        return repr(self.held)


class Seen:
    """What a program showed: pictures taken as it ran, what it printed, random state at its end."""

    def __init__(self, program: Program, wrap: Wrap) -> None:
        self.compiled: list[Any] = []

        def wrapped(function: Any) -> Any:
            made = wrap(function)
            if made is not function:
                self.compiled.append(made)
            return made

        torch.manual_seed(7)
        text = io.StringIO()
        picture = Picture()
        self.steps = []
        with contextlib.redirect_stdout(text), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            for step in program(wrapped):
                self.steps.append(picture.of(step))
        self.printed = text.getvalue()
        self.random = torch.get_rng_state().tolist()

    @property
    def reasons(self) -> list[Reason]:
        """Why calls of what it compiled ran eagerly."""
        return [r for f in self.compiled for r in dispatcher_of(f).reasons]


def compiled(function: Any) -> Any:
    return tracejit.compile(function, backend=BACKEND, wait=True)


def first_difference(eager: Any, compiled: Any, at: str = "result") -> str:
    """Where two pictures begin to differ."""
    both = isinstance(eager, (list, tuple)) and isinstance(compiled, (list, tuple))
    if both and len(eager) == len(compiled):
        for number, (a, b) in enumerate(zip(eager, compiled, strict=True)):
            if a != b:
                return first_difference(a, b, f"{at}[{number}]")
    return f"{at} is {compiled!r}, eager {eager!r}"


def plain(function: Any) -> Any:
    return function


def difference(program: Program) -> tuple[str, Seen]:
    """How the compiled program differs from the eager one, or nothing; and what it showed."""
    expected, got = Seen(program, plain), Seen(program, compiled)
    for number, (a, b) in enumerate(zip(expected.steps, got.steps, strict=True)):
        if a != b:
            return f"step {number}: {first_difference(a, b)}", got
    if expected.printed != got.printed:
        return f"printed {expected.printed!r}, compiled {got.printed!r}", got
    return "" if expected.random == got.random else "the random state differs", got


def compare(program: Program) -> set[str]:
    """The compiled program shows what the eager one does, with plans made now and found on disk.
    Gives the kinds of reasons for which calls were not captured."""
    kinds: set[str] = set()
    for _ in range(2):
        found, seen = difference(program)
        assert not found, found
        kinds |= {r.kind for r in seen.reasons}
    return kinds - {"left", "entries"}

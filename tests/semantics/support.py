"""Run a program twice, eager and compiled, and compare all that it can see."""

from __future__ import annotations

import contextlib
import io
import random
import re
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of, is_compiled
from tracejit.dispatch import Dispatcher
from tracejit.entry import Entry
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
        if isinstance(value, (set, frozenset)):
            return type(value), sorted(map(repr, value))
        if is_dataclass(value) and not isinstance(value, type):
            return type(value).__name__, [self.of(getattr(value, f.name)) for f in fields(value)]
        return type(value), re.sub("0x[0-9a-f]+", "", repr(value))

    def _tensor(self, tensor: torch.Tensor) -> Any:
        self.alive.append(tensor)
        return (
            type(tensor),
            tensor.dtype,
            tensor.device,
            tensor.layout,
            tuple(tensor.shape),
            tensor.requires_grad,
            tensor.is_leaf,
            tensor.is_inference(),
            tensor.is_conj(),
            tensor.is_neg(),
            self.objects.setdefault(id(tensor), len(self.objects)),
            self._place(tensor) if tensor.layout is torch.strided else (),
            Values(tensor),
        )

    def _place(self, tensor: torch.Tensor) -> Any:
        """Where a dense tensor's elements lie."""
        storage = tensor.untyped_storage()._cdata
        number = self.storages.setdefault(storage, len(self.storages))
        return number, tensor.stride(), tensor.storage_offset()


class Values:
    """The numbers of a tensor at this moment. Equal to others that round as eager's do."""

    def __init__(self, tensor: torch.Tensor) -> None:
        held = tensor.detach()
        if tensor.layout is not torch.strided:
            held = held.to_dense()
        elif tensor.is_quantized:
            held = held.dequantize()
        elif tensor.dtype.itemsize == 1 and tensor.dtype.is_floating_point:
            held = held.float()  # float8 does not compare
        self.held = held.clone().resolve_conj().resolve_neg()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Values):
            return False
        if self.held.is_meta or other.held.is_meta:
            return self.held.is_meta and other.held.is_meta
        try:
            torch.testing.assert_close(self.held, other.held, equal_nan=True)
        except AssertionError:
            return False
        return True

    def __repr__(self) -> str:
        return repr(self.held)


CHANGED = object()  # a program yields it before it changes what its function depends on
PHASES = ("first", "compiled", "changed")


@dataclass
class Phase:
    """What a program showed up to some point: pictures taken as it ran, and at the end of the phase
    what it had printed and the state of torch's, Python's and NumPy's random numbers."""

    steps: list[Any] = field(default_factory=list)
    printed: str = ""
    random: tuple[Any, ...] = ()

    def difference(self, expected: Phase) -> str:
        """How this differs from what eager showed; empty if it does not."""
        for number, (a, b) in enumerate(zip(expected.steps, self.steps)):
            if a != b:
                return f"step {number}: {first_difference(a, b)}"
        if len(self.steps) != len(expected.steps):
            return f"{len(self.steps)} steps, eager {len(expected.steps)}"
        if self.printed != expected.printed:
            return f"printed {self.printed!r}, eager {expected.printed!r}"
        names = ("torch's", "Python's", "NumPy's")
        changed = [n for n, a, b in zip(names, self.random, expected.random) if a != b]
        return f"{' and '.join(changed)} random state differs" if changed else ""


class Seen:
    """What a program showed in each phase. The first yield ends the phase "first", CHANGED ends
    "compiled". Functions that it compiled are not kept alive."""

    def __init__(self, program: Program, wrap: Wrap) -> None:
        self.dispatchers: list[weakref.ref[Dispatcher]] = []
        self._reasons: list[list[Reason]] = []
        self._entries: dict[int, list[Compiled]] = {}
        self.phases = {name: Phase() for name in PHASES}
        _seed()
        text = io.StringIO()
        picture = Picture()

        def wrapped(function: Any) -> Any:
            made = wrap(function)
            if is_compiled(made):
                dispatcher = dispatcher_of(made)
                self.dispatchers.append(weakref.ref(dispatcher))
                self._reasons.append(dispatcher.reasons)
            return made

        with contextlib.redirect_stdout(text), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            name = "first"
            for step in program(wrapped):
                if step is CHANGED:
                    name = "changed"
                    continue
                phase = self.phases[name]
                phase.steps.append(picture.of(step))
                phase.printed, phase.random = text.getvalue(), _random_states()
                self._look()
                name = "compiled" if name == "first" else name
        self._look()

    def _look(self) -> None:
        for number, reference in enumerate(self.dispatchers):
            dispatcher = reference()
            if dispatcher is not None:
                self._entries[number] = [_compiled(entry) for entry in dispatcher.entries]

    @property
    def reasons(self) -> list[Reason]:
        """Why calls of what it compiled ran eagerly."""
        return [r for reasons in self._reasons for r in reasons]

    @property
    def entries(self) -> list[Compiled]:
        """What it compiled, as far as it was alive at a yield."""
        return [e for entries in self._entries.values() for e in entries]


@dataclass(frozen=True)
class Compiled:
    """An entry of a compiled function, in figures."""

    source: str  # "recorded", "disk", or "local" if it holds in its own process only
    kernels: int
    externs: int


def _compiled(entry: Entry) -> Compiled:
    bound = entry.bound
    if bound is None:
        return Compiled(entry.source, 0, 0)
    manifest = bound.stored.manifest
    source = "local" if entry.guards.local is not None else entry.source
    return Compiled(source, manifest.get("launches", 0), manifest.get("calls", 0))


def _seed() -> None:
    torch.manual_seed(7)
    random.seed(7)
    numpy.random.seed(7)


def _random_states() -> tuple[Any, ...]:
    state = numpy.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), repr(state)


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
    for name in PHASES:
        found = got.phases[name].difference(expected.phases[name])
        if found:
            return f"{name}, {found}", got
    return "", got


def compare(program: Program) -> set[str]:
    """The compiled program shows what the eager one does, with plans made now and found on disk.
    Gives the kinds of reasons for which calls were not captured."""
    kinds: set[str] = set()
    for _ in range(2):
        found, seen = difference(program)
        assert not found, found
        kinds |= {r.kind for r in seen.reasons}
    return kinds - {"left", "entries", "thread"}

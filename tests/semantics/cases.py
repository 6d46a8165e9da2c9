"""The cases of "never wrong, never stale": each a program with a name, and how it is expected to
run.

A program is a generator function of `c`, which is tracejit.compile or nothing. It yields all that
can be seen: results, arguments after the call, state. The first yield is the phase "first"; what
follows up to CHANGED are further calls of the same kind, the phase "compiled"; what comes after
CHANGED is the phase "changed": something that the calls depend on is different now. Cases are in
cases_*.py, one module a section.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from .support import CHANGED, PHASES, Program, Wrap, attempt

__all__ = [
    "CASES",
    "CHANGED",
    "PHASES",
    "Case",
    "Wrap",
    "attempt",
    "bits",
    "called",
    "case",
    "load",
    "t",
]


@dataclass(frozen=True)
class Case:
    """One way in which a tracing compiler may be wrong. `eager` are the kinds of reasons for which
    some of its calls run eagerly; `wrong` the phases ("warm" is one) in which it is known to differ
    from eager, or "crash" if it brings the process down."""

    section: str
    name: str
    program: Program
    eager: frozenset[str]
    wrong: frozenset[str]

    @property
    def key(self) -> str:
        return f"{self.section}: {self.name}"


CASES: dict[str, Case] = {}
MODULES = ("state", "tensors", "control", "random", "context", "effects")


def load() -> dict[str, Case]:
    """All cases, by section."""
    for name in MODULES:
        importlib.import_module(f"{__package__}.cases_{name}")
    return CASES


def case(section: str, name: str, eager: str = "", wrong: str = "") -> Callable[[Program], Program]:
    """Register a program as a case."""

    def register(program: Program) -> Program:
        made = Case(section, name, program, frozenset(eager.split()), frozenset(wrong.split()))
        assert made.key not in CASES, made.key
        CASES[made.key] = made
        return program

    return register


def called(function: Callable[..., Any], *makes: Callable[[], tuple[Any, ...]]) -> Program:
    """The program that calls one function with arguments that each of `makes` makes anew: three
    times with the first one's, then twice with each other one's."""

    def program(c: Wrap) -> Iterator[Any]:
        f = c(function)
        for number, make in enumerate(makes):
            if number == 1:
                yield CHANGED
            for _ in range(2 if number else 3):
                args = make()
                yield attempt(f, *args), args

    return program


def t(*sizes: int, dtype: torch.dtype | None = None) -> torch.Tensor:
    """Random numbers of any dtype, small ones if whole."""
    if dtype is None or dtype.is_complex or dtype.is_floating_point:
        return torch.randn(sizes, dtype=dtype if dtype is None or dtype.itemsize > 1 else None).to(
            dtype or torch.get_default_dtype()
        )
    if dtype is torch.bool:
        return torch.rand(sizes) > 0.5
    return torch.randint(0 if dtype is torch.uint8 else -5, 6, sizes).to(dtype)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor's bits as whole numbers: they tell -0.0, denormals and the last place of a
    mantissa."""
    whole = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return tensor.contiguous().view(whole[tensor.dtype.itemsize])

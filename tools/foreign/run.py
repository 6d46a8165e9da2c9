"""What becomes of one case: compared with eager on each of a few calls, and counted."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils import _pytree as pytree

import tracejit
from tools.foreign.case import Case
from tracejit.api import dispatcher_of
from tracejit.benchmarks.equality import difference
from tracejit.report import Explanation
from tracejit.runtime.worker import worker

CALLS = ("first", "compiled", "other values", "other values again")
SETTLING = 8  # calls after which what runs in parts has found them all


@dataclass
class Outcome:
    """What was found of a case. Times are seconds, of the quickest of a few calls."""

    name: str
    package: str
    differences: list[str] = field(default_factory=list)
    kernels: int = 0
    launches: int = 0
    library: int = 0  # library calls of one call
    frames: int = 0  # parts that run eagerly
    reasons: list[str] = field(default_factory=list)
    entries: int = 0
    source: str = ""  # of the first entry: "recorded" or "disk"
    seconds: dict[str, float] = field(default_factory=dict)


def run(case: Case) -> Outcome:
    """The case, eagerly and compiled with the options that a new user has."""
    outcome = Outcome(case.name, case.package)
    try:
        function, args = case.build()
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            _compare(function, args, outcome)
    except Exception as error:
        outcome.differences.append(f"{type(error).__name__}: {error}")
    return outcome


def _compare(function: Callable[..., Any], args: tuple[Any, ...], outcome: Outcome) -> None:
    compiled = tracejit.compile(function)
    others = _others(function, args)
    for call, given in zip(CALLS, (args, args, others, others)):
        expected = _drawing_alike(function, given)
        start = time.perf_counter()
        found = _drawing_alike(compiled, given)
        seconds = time.perf_counter() - start
        worker.drain()
        outcome.seconds[call] = seconds
        if wrong := difference(found, expected):
            outcome.differences.append(f"{call} call: {wrong}")
    for _ in range(SETTLING if dispatcher_of(compiled).reasons else 0):
        compiled(*args)
        worker.drain()
    outcome.seconds["eager"] = _quickest(function, args)
    outcome.seconds["compiled"] = _quickest(compiled, args)
    _count(tracejit.explain(compiled), outcome)


def _others(function: Callable[..., Any], args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Arguments with other values, if the function takes them: indices may have to be in order."""
    others = changed(args)
    try:
        _drawing_alike(function, others)
    except Exception:
        return args
    return others


def changed(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Other values of the same kind: numbers that are indices stay in range."""

    def other(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        return leaf * 0.75 if leaf.is_floating_point() else leaf.flip(-1) if leaf.ndim else leaf

    return tuple(pytree.tree_map(other, arg) for arg in args)


def _drawing_alike(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    torch.manual_seed(0)
    return function(*args)


def _quickest(function: Callable[..., Any], args: tuple[Any, ...]) -> float:
    times = []
    for _ in range(3):
        start = time.perf_counter()
        function(*args)
        times.append(time.perf_counter() - start)
    return min(times)


def _count(found: Explanation, outcome: Outcome) -> None:
    """Kernels and library calls of a function's first entry, else of all its parts."""
    outcome.entries = len(found.entries)
    outcome.reasons += [str(reason).partition("\n")[0] for reason in found.fallbacks]
    outcome.source = found.entries[0].source if found.entries else ""
    if found.entries:
        outcome.seconds |= {f"to {k}": v for k, v in found.entries[0].seconds.items()}
    compiled = _compiled(found)
    for facts in (entry.facts() for each in compiled for entry in each.entries[:1]):
        outcome.kernels += len(facts["kernels"])
        outcome.launches += facts["launches"]
        outcome.library += facts["calls"]
    outcome.frames = _eager_frames(found)


def _compiled(found: Explanation) -> list[Explanation]:
    """The function, or of one that runs eagerly the parts that do not."""
    if found.entries:
        return [found]
    return [each for part in found.parts for each in _compiled(part)]


def _eager_frames(found: Explanation) -> int:
    """Functions that ran as they are written although they were to be compiled."""
    return bool(found.fallbacks) + sum(map(_eager_frames, found.parts))

"""torch.compile(f, backend="tracejit"), as torch finds it: by the package's entry point.

Programs of tests/semantics run through it; where Dynamo or AOTAutograd themselves differ from
eager, the result is that of backend="aot_eager".
"""

from __future__ import annotations

import gc
import importlib.metadata
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import tracejit
from tests.executors import BACKEND
from tests.semantics import programs_state, programs_tensors
from tests.semantics.support import Program, Seen, first_difference, plain
from tracejit import compiler
from tracejit.api import dispatcher_of
from tracejit.runtime import log
from tracejit.runtime.checker import Nobody
from tracejit.runtime.errors import BadOption, CompilerWarning, RanEagerly

FOUND = importlib.metadata.entry_points(group="torch_dynamo_backends")
pytestmark = [
    pytest.mark.skipif("tracejit" not in FOUND.names, reason="tracejit is not installed"),
    pytest.mark.filterwarnings("ignore"),  # Dynamo's about what it does not trace
]
OPTIONS = {"wait": True, "backend": BACKEND}


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """Nothing of another test's is compiled."""
    torch._dynamo.reset()
    log.forget()
    gc.collect()
    yield
    torch._dynamo.reset()


def door(function: Any, **options: Any) -> Any:
    return torch.compile(function, backend="tracejit", options=OPTIONS, **options)


def aot_eager(function: Any) -> Any:
    return torch.compile(function, backend="aot_eager")


def graphs() -> list[Any]:
    from tracejit import dynamo

    return dynamo.graphs()


def kinds() -> list[str]:
    """What sort each living graph is: inference, forward or backward."""
    return [graph.__name__ for graph in graphs()]


def ran(kind: str = "") -> list[Any]:
    """The graphs (of one kind) of which a plan has run."""
    return [
        graph
        for graph in graphs()
        if graph.__name__ == (kind or graph.__name__) and dispatcher_of(graph).first is not Nobody
    ]


def reasons() -> str:
    """The kinds of reasons for which graphs ran eagerly."""
    return " ".join(sorted({r.kind for g in graphs() for r in dispatcher_of(g).reasons}))


def difference(expected: Seen, got: Seen) -> str:
    for number, (a, b) in enumerate(zip(expected.steps, got.steps, strict=True)):
        if a != b:
            return f"step {number}: {first_difference(a, b)}"
    if expected.printed != got.printed:
        return f"printed {expected.printed!r}, compiled {got.printed!r}"
    return "" if expected.random == got.random else "the random state differs"


# One of each family whose members differ in their dtype only.
FAMILIES = ("rounding ", "promote ", "ints ", "overflow ")
KEPT = (
    "rounding torch.bfloat16",
    "promote torch.float16",
    "promote torch.bool",
    "ints torch.uint8",
    "overflow torch.int8",
)
STATE = (
    "batch_norm",
    "buffers",
    "buffer_rebound",
    "closure_changed",
    "copies",
    "counter",
    "effects",
    "flags",
    "global_changed",
    "gradients",
    "loops_on_data",
    "modes",
    "python_random",
    "structures",
    "two_instances",
    "user_error",
)
PROGRAMS: dict[str, Program] = {
    **{
        name: programs_tensors.calls(case)
        for name, case in programs_tensors.FUNCTIONS.items()
        if name in KEPT or not name.startswith(FAMILIES)
    },
    **{name: programs_state.PROGRAMS[name] for name in STATE},
}

# Programs that show something else under Dynamo with any backend.
DYNAMO: set[str] = {
    "overlapping written",
    "set slice of itself",
    "self overlapping written",
    "conj argument",
    "try",
    "copies",
}
# Programs of which no plan runs, and the kinds of reasons why graphs of theirs ran eagerly.
EAGER: dict[str, str] = {}
NO_PLAN: set[str] = set()


@pytest.mark.parametrize("name", PROGRAMS)
def test_programs(name: str) -> None:
    program = PROGRAMS[name]
    eager, got = Seen(program, plain), Seen(program, door)
    assert bool(ran()) == (name not in NO_PLAN)
    assert reasons() == EAGER.get(name, "")
    if name not in DYNAMO:
        assert difference(eager, got) == ""
    else:
        assert difference(eager, got) != ""
        torch._dynamo.reset()
        assert difference(Seen(program, aot_eager), got) == ""

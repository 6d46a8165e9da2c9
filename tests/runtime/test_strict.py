"""TRACEJIT_STRICT=1: every call that can only run eagerly is an error that names the reason and the
user's line."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.runtime.config import config
from tracejit.runtime.errors import RanEagerly
from tracejit.runtime.reasons import KINDS


class Labelled(torch.Tensor):
    pass


def printing(x: Any) -> Any:
    x = x + 1
    print("now")  # here
    return x


def timed(x: Any) -> Any:
    return x * time.time()  # here


def set_data(x: Any) -> Any:
    x.data = x + 1
    return x


def numpy_round_trip(x: Any) -> Any:
    return torch.from_numpy(x.numpy() * 2)  # here


def seeded(x: Any) -> Any:
    torch.default_generator.seed()  # here
    return torch.rand(3) + x


def stated(x: Any) -> Any:
    states = [torch.get_rng_state()]
    torch.default_generator.set_state(states[0])  # here
    return torch.rand(3) + x


def gives_an_object(x: Any) -> Any:
    return (x + i for i in range(3))


def hidden(x: Any) -> Any:
    return next(ITERATOR) * x


ITERATOR = iter([1.0] * 100)


def trains(x: Any) -> Any:
    return x * torch.ones(3, requires_grad=True)


def plain(x: Any) -> Any:
    return x * 2


X = torch.ones(3)
CASES: list[tuple[Callable[..., Any], Any, str]] = [
    (printing, X, "impure"),
    (timed, X, "impure"),
    (set_data, torch.ones(3), "side-effect"),
    (numpy_round_trip, X, "data-dependent"),
    (seeded, X, "random"),
    (stated, X, "random"),
    (gives_an_object, X, "output"),
    (hidden, X, "unguardable"),
    (trains, X, "autograd"),
    (plain, X.as_subclass(Labelled), "tensor"),
    (plain, X.to_sparse(), "tensor"),
    (plain, X.to("meta"), "backend"),
]


@pytest.mark.parametrize(
    ("function", "x", "kind"), CASES, ids=lambda v: getattr(v, "__name__", None)
)
def test_each_kind_of_fallback(
    function: Any, x: Any, kind: str, monkeypatch: pytest.MonkeyPatch, fresh_cache: Any
) -> None:
    monkeypatch.setattr(config, "strict", True)
    compiled = tracejit.compile(function, backend=BACKEND, wait=True)
    lines, first = inspect.getsourcelines(function)
    marked = [first + n for n, line in enumerate(lines) if "# here" in line]
    for _ in range(2):
        with pytest.raises(RanEagerly) as error:
            compiled(x)
        text = str(error.value)
        assert f"{kind}: " in text and kind in KINDS
        place = re.search(r"test_strict\.py:(\d+)", text)
        assert place is not None and int(place[1]) in (marked or range(first, first + len(lines)))


def test_what_is_compiled_is_no_error(monkeypatch: pytest.MonkeyPatch, fresh_cache: Any) -> None:
    monkeypatch.setattr(config, "strict", True)
    compiled = tracejit.compile(lambda x: x[x > 0] * 2 if x.sum() > 0 else x - 1, backend=BACKEND)
    for x in (X, -X, torch.tensor([1.0, -1.0, 3.0])):
        for _ in range(3):
            compiled(x)


def test_an_operation_that_raises_is_eagers_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "strict", True)
    compiled = tracejit.compile(lambda x, i: x[i] * 2, backend=BACKEND, wait=True)
    for i in (0, 1, 9):
        arguments = X, torch.tensor([i])
        if i < 3:
            compiled(*arguments)
        else:
            with pytest.raises(IndexError):
                compiled(*arguments)

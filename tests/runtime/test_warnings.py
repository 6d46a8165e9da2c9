"""Warnings that torch gives from C++ are given by compiled functions as often as by eager ones."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of

PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "std": lambda x: x.std() * 2,
    "var of a dim": lambda x: x.expand(3, 1).var(1),
    "var_mean": lambda x: torch.var_mean(x)[1],
    "correction": lambda x: torch.var(x.expand(3), correction=3),
    "index": lambda x: x[(x > 0).to(torch.uint8)],
    "range": lambda x: torch.range(0, 3) + x,
}


def said(f: Callable[[Any], Any]) -> list[str]:
    """What three calls warn of."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(3):
            f(torch.ones(1))
    return [str(each.message) for each in seen]


@pytest.mark.parametrize("name", PROGRAMS)
def test_every_call_warns(name: str) -> None:
    f = PROGRAMS[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    assert said(g) == said(f) and len(said(f)) == 3
    assert {reason.kind for reason in dispatcher_of(g).reasons} == {"op"}


ENOUGH: dict[str, Callable[[Any], Any]] = {
    "std": lambda x: x.std() * 2,
    "var of a dim": lambda x: x.expand(3, 1).var(0),
    "correction": lambda x: torch.var(x.expand(4), correction=3),
    "no correction": lambda x: torch.var(x, correction=0),
    "mask": lambda x: x[x > 0],
}


@pytest.mark.parametrize("name", ENOUGH)
def test_without_a_warning_it_is_compiled(name: str) -> None:
    f = ENOUGH[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    x = torch.rand(5) if name == "std" else torch.rand(1)
    for _ in range(3):
        torch.testing.assert_close(g(x), f(x))
    assert not dispatcher_of(g).reasons

"""A profiler that is active on a first call: its program runs, and is compiled on the next call
without it."""

from __future__ import annotations

import cProfile
import sys
from typing import Any

import torch

import tracejit
from tracejit.api import dispatcher_of


def twice(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def test_under_cprofile_runs_eagerly_and_is_compiled_later(fresh_cache: Any) -> None:
    compiled = tracejit.compile(twice, backend="interpret", wait=True)
    x = torch.ones(3)
    profiler = cProfile.Profile()
    profiler.enable()
    try:
        assert torch.equal(compiled(x), x * 2)
    finally:
        profiler.disable()
    dispatcher = dispatcher_of(compiled)
    assert [r.kind for r in dispatcher.reasons] == ["hook"]
    assert torch.equal(compiled(x), x * 2)
    assert len(dispatcher.entries) == 1


def test_a_python_hook_sees_the_call_and_stays(fresh_cache: Any) -> None:
    compiled = tracejit.compile(twice, backend="interpret", wait=True)
    names = []

    def hook(frame: Any, event: str, arg: Any) -> None:
        names.append(frame.f_code.co_name)

    sys.setprofile(hook)
    try:
        compiled(torch.ones(3))
        assert sys.getprofile() is hook
    finally:
        sys.setprofile(None)
    assert "twice" in names
    assert len(dispatcher_of(compiled).entries) == 1

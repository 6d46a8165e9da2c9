"""`make foreign` counts what it runs, and notices a result that differs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tools.foreign import cases
from tools.foreign.case import Case
from tools.foreign.run import run

PINNED = Path(__file__).resolve().parents[2] / "tools" / "foreign" / "requirements.txt"
X = torch.linspace(-1, 1, 12).reshape(3, 4)


def outcome_of(function: Callable[..., Any]) -> Any:
    return run(Case("a case", "torch", lambda: (function, (X,))))


def test_what_is_compiled_is_counted() -> None:
    found = outcome_of(lambda x: torch.softmax(x * 2, 1).cumsum(0))
    assert not found.differences and not found.reasons
    assert found.kernels >= 1 and found.entries == 1 and found.frames == 0


def test_what_runs_eagerly_has_a_reason() -> None:
    found = outcome_of(lambda x: (print(end=""), x + 1)[1])
    assert not found.differences and found.frames >= 1
    assert found.reasons[0].startswith("impure")


def test_a_difference_is_told() -> None:
    calls: list[int] = []
    found = outcome_of(lambda x: x + (calls.append(1) or len(calls)))
    assert any("first call" in text for text in found.differences)


def test_an_error_is_a_difference() -> None:
    (text,) = outcome_of(lambda x: x.view(5)).differences
    assert text.startswith("RuntimeError")


def test_each_package_is_pinned() -> None:
    lines = PINNED.read_text().splitlines()
    pinned = {line.partition("==")[0].replace("_", "-") for line in lines if "==" in line}
    assert {case.package for case in cases()} <= pinned
    assert len({(case.package, case.name) for case in cases()}) == len(cases()) >= 32

"""What is found in code objects, and constants as JSON."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tracejit.runtime.constants import decode, differ, encode, is_constant, same
from tracejit.trace.effects import line_of_store
from tracejit.trace.reads import Asked, analyse


class Color(enum.Enum):
    RED = 1


def test_names_by_use() -> None:
    def f(self: Any, x: Any) -> Any:
        global SETTING
        SETTING = 1  # type: ignore[name-defined]
        self.count = x.size + self.base.scale
        del self.old
        return len(x.items())

    reads = analyse(f.__code__)
    assert set(reads.loads) == {"size", "base", "scale", "items"}
    assert reads.stores == ("count", "old")
    assert reads.global_loads == ("len",) and reads.global_stores == ("SETTING",)
    assert not reads.computed and not reads.asked
    assert line_of_store(f.__code__, "count") == f.__code__.co_firstlineno + 3


def test_variables_of_enclosing_functions() -> None:
    count = 0

    def f() -> int:
        nonlocal count
        count += 1
        return count

    assert analyse(f.__code__).cell_stores == ("count",)


def _named(self: Any) -> Any:
    return getattr(self, "a", None), hasattr(self.config, "b")


def _computed(self: Any, name: str) -> Any:
    return getattr(self.config, name), vars(self), self.config.__dict__


def _unknown(self: Any) -> Any:
    return [getattr(layer, "a", None) for layer in self.layers] and getattr(self.f(), self.name)


def _written(self: Any, name: str) -> None:
    setattr(self, name, 1)
    setattr(self, "a", 1)  # noqa: B010


class _Overridden:
    def __getattribute__(self, name: str) -> Any:
        return super().__getattribute__(name)


@pytest.mark.parametrize(
    ("function", "asked"),
    [
        (_named, [Asked(("self",), "a"), Asked(("self", "config"), "b")]),
        (
            _computed,
            [
                Asked(("self", "config"), None),
                Asked(("self",), None),
                Asked(("self", "config"), None),
                Asked(("self", "config"), None, True),
            ],
        ),
        (_written, [Asked(("self",), None, True), Asked(("self",), "a", True)]),
        (_Overridden.__getattribute__, [Asked(("self",), None)]),
    ],
)
def test_names_asked_of_objects(function: Callable[..., Any], asked: list[Asked]) -> None:
    reads = analyse(function.__code__)
    assert list(reads.asked) == asked and not reads.computed


def test_computed_names_of_unknown_objects() -> None:
    assert analyse(_unknown.__code__).computed


CONSTANTS = [
    None, True, 1, 1.0, 0.0, -0.0, float("nan"), float("inf"), 2**80, "a", b"\x00a", 1j,
    complex("nan+1j"), (), (1, (2.0, "a")), torch.Size([1, 2]), frozenset({1, "a"}),
    slice(1, None, 2), range(3), ..., torch.float16, torch.device("cpu"), torch.device("cuda:1"),
    torch.strided, torch.channels_last, Color.RED,
]  # fmt: skip


def _spelled(value: Any) -> str:
    """`repr`, but the same in every process: a set's order is not."""
    return f"frozenset of {len(value)}" if isinstance(value, frozenset) else repr(value)


@pytest.mark.parametrize("value", CONSTANTS, ids=_spelled)
def test_constants_survive_json(value: Any) -> None:
    assert is_constant(value)
    again = decode(json.loads(json.dumps(encode(value))))
    assert same(value, again) and not differ(again, value)


def test_constants_that_only_look_equal_differ() -> None:
    for i, left in enumerate(CONSTANTS):
        for j, right in enumerate(CONSTANTS):
            assert same(left, right) == (i == j), (left, right)
    assert not same((1,), (True,)) and not same((0.0,), (-0.0,)) and not same(1, 1.0)


def test_what_is_no_constant() -> None:
    for value in ([], {}, object(), torch.zeros(1), ([],), int):
        assert not is_constant(value)
    with pytest.raises(TypeError):
        encode([])
    with pytest.raises(ValueError, match="no constant"):
        decode(["call", "os.system"])

"""Instances of pytree classes that are filled in directly are those that the class's own function
makes."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from typing import Any

import pytest
import torch

from tracejit.runtime.pytrees import Mould


@dataclasses.dataclass
class Output(OrderedDict[str, Any]):
    """As transformers' ModelOutput: fields are attributes, and items where they are not None."""

    loss: Any = None
    logits: Any = None
    states: Any = None

    def __post_init__(self) -> None:
        self.update({k: v for k, v in vars(self).items() if v is not None})


class Plain(dict[str, Any]):
    pass


class Counted(Output):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.count = len(self)


class Slotted(Output):
    __slots__ = ("extra",)


class Made(Output):
    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        return super().__new__(cls)


def tensors() -> list[Any]:
    return [torch.zeros(2), (torch.zeros(1), torch.zeros(1))]


def mould(kind: Any, calls: list[Any]) -> Mould:
    def unflatten(children: list[Any], context: Any) -> Any:
        calls.append(children)
        return kind(**dict(zip(context, children)))

    return Mould(unflatten)


@pytest.mark.parametrize("kind", [Output, Plain])
def test_filled_in_as_the_first(kind: Any) -> None:
    calls: list[Any] = []
    make, context = mould(kind, calls), ["states", "logits"]
    for _ in range(3):
        children = tensors()
        made, expected = make(children, context), kind(**dict(zip(context, children)))
        assert type(made) is kind and list(made) == list(expected)
        assert all(made[key] is expected[key] for key in expected)
        assert list(vars(made).items()) == list(vars(expected).items())
    assert len(calls) == 1


@pytest.mark.parametrize("kind", [Counted, Slotted, Made, lambda **items: list(items.values())])
def test_what_may_hold_more_is_made_by_its_own_function(kind: Any) -> None:
    calls: list[Any] = []
    make = mould(kind, calls)
    for _ in range(3):
        make(tensors(), ["states", "logits"])
    assert len(calls) == 3

"""Return values: every container, aliases of inputs and of each other, the same object twice, and
what is refused.
"""

from __future__ import annotations

import collections
import dataclasses
import enum
from typing import Any, NamedTuple

import pytest
import torch

from tests.trace.replay import check, refused, same
from tracejit.runtime.outputs import compile_tree
from tracejit.trace.recorder import record


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclasses.dataclass
class Result:
    logits: torch.Tensor
    extra: Any = None


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: torch.Tensor


class Plain:
    def __init__(self, value: Any) -> None:
        self.value, self.count = value, 3


class Slotted:
    __slots__ = ("value",)


class Colour(enum.Enum):
    RED = 1


def x46() -> tuple[torch.Tensor]:
    return (torch.randn(4, 6),)


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x * 2,
        lambda x: (x * 2,),
        lambda x: [x * 2, (x + 1, {"a": x.sum(), 3: None})],
        lambda x: {},
        lambda x: None,
        lambda x: (
            1,
            2.5,
            float("inf"),
            -0.0,
            "s",
            True,
            torch.float16,
            x.device,
            x.shape,
            ...,
            1j,
        ),
        lambda x: (slice(1, 2), Colour.RED, b"bytes", frozenset({1})),
        lambda x: Pair(x * 2, [x + 1]),
        lambda x: collections.OrderedDict(b=x * 2, a=x + 1),
        lambda x: collections.defaultdict(list, a=x * 2),
        lambda x: torch.max(x, 1),
        lambda x: x.sort(descending=True),
        lambda x: (torch.nn.Linear, torch.nn.functional.dropout, x + 1),
    ],
)
def test_containers(fn: Any) -> None:
    check(fn, x46)


@pytest.mark.parametrize("kind", [Result, Frozen, Plain])
def test_objects_are_built_again(kind: Any) -> None:
    (x,) = x46()
    result, recording = record(lambda x: kind(x * 2), (x,), {})
    assert recording.refused is None
    again = compile_tree(recording.outputs)((x,), (x * 2,))
    assert type(again) is kind
    same(vars(result), vars(again))


@pytest.mark.parametrize(
    "fn",
    [
        lambda x: x,
        lambda x: (x, x),
        lambda x: x.t(),
        lambda x: (x[1], x[1], x.view(-1)),
        lambda x: (x.add_(1), x[1:]),
        lambda x: x.detach(),
        lambda x: x.expand(2, 4, 6),
    ],
)
def test_aliases_of_the_argument(fn: Any) -> None:
    check(fn, x46)


def test_alias_of_an_argument_that_is_a_part_itself() -> None:
    check(lambda x: (x[1:, ::2], x.t()), lambda: (torch.randn(6, 9)[1:5, 2:8],))


def twice(x: torch.Tensor) -> Any:
    y = x * 2
    return y, y, {"again": y}


def base_and_views(x: torch.Tensor) -> Any:
    y = x * 2
    return y[1], y, y.t(), y.view(-1)[3:9:2]


def views_only(x: torch.Tensor) -> Any:
    y = x * 2
    return y[:2], y[1:3]


def two_objects_that_look_alike(x: torch.Tensor) -> Any:
    y = x * 2
    return y, y.view_as(y), y[1:], y[1:]


def part_with_gaps(x: torch.Tensor) -> Any:
    return (x * 2)[:, 1:3]


def transposed(x: torch.Tensor) -> Any:
    return (x * 2).t(), (x + 1).permute(1, 0).unsqueeze(1), (x * 3).expand(3, 4, 6)


def copied_from_an_argument(x: torch.Tensor) -> Any:
    y, z = torch.empty(4, 6), torch.empty(4, 6)
    return y.copy_(x), z.copy_(x), x.clone(), x.clone()


@pytest.mark.parametrize(
    "fn",
    [
        twice,
        base_and_views,
        views_only,
        two_objects_that_look_alike,
        part_with_gaps,
        transposed,
        copied_from_an_argument,
    ],
)
def test_aliases_of_each_other(fn: Any) -> None:
    check(fn, x46)


def test_strides_after_a_write_are_eagers() -> None:
    def fn(x: torch.Tensor) -> Any:
        y = torch.empty(6, 4).t()
        y.copy_(x)
        z = torch.empty_strided((4, 6), (1, 4))
        z[1:] = x[1:]
        z[:1] = 0
        return y, z

    check(fn, x46)


def shared_list(x: torch.Tensor) -> Any:
    both = [x * 2]
    return both, both


def new_parameter(x: torch.Tensor) -> Any:
    return torch.nn.Parameter(x * 2, requires_grad=False)


def slotted(x: torch.Tensor) -> Any:
    made = Slotted()
    made.value = x * 2
    return made


def test_refused() -> None:
    assert refused(shared_list, x46).startswith("output")


def test_new_parameter() -> None:
    check(new_parameter, x46)


def test_refused_types_are_named() -> None:
    _, recording = record(slotted, x46(), {})
    assert recording.refused is not None and "Slotted" in recording.refused.text
    _, recording = record(lambda x: Plain(3), x46(), {})
    assert recording.refused is not None and "Plain" in recording.refused.text
    given = [torch.ones(2)]
    _, recording = record(lambda a: a, (given,), {})
    assert (
        recording.refused is not None and "list that the call was given" in recording.refused.text
    )


def test_gradients_are_refused_only_where_they_matter() -> None:
    weight = torch.nn.Parameter(torch.randn(6))

    def fn(x: torch.Tensor) -> Any:
        return x * weight

    _, recording = record(fn, x46(), {})
    assert recording.refused is not None and recording.refused.kind == "autograd"
    with torch.no_grad():
        _, recording = record(fn, x46(), {})
    assert recording.refused is None
    _, recording = record(lambda x: (x * weight).detach() + 1, x46(), {})
    assert recording.refused is None
    _, recording = record(lambda x: (weight, x + 1), x46(), {})
    assert recording.refused is None


def test_unknown_recipes_are_errors() -> None:
    for tree in ({"what": 1}, [], {"object": "nowhere:Thing", "fields": []}, {"out": "0 or 1/0"}):
        with pytest.raises(ValueError):
            compile_tree(tree)

"""Small programs, compiled and called three times, are eager's twins: values, layouts, aliasing,
writes, random state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils import _pytree as pytree

import tracejit
from tracejit.runtime import log

Make = Callable[[], tuple[Any, ...]]


@pytest.fixture(autouse=True)
def separate(fresh_cache: Path) -> Iterator[None]:
    log.forget()
    yield


def t(*sizes: int) -> torch.Tensor:
    return torch.randn(sizes)


def swap(x: torch.Tensor, y: torch.Tensor) -> None:
    before = x.clone()
    x.copy_(y)
    y.copy_(before)


def shared(x: torch.Tensor) -> Any:
    y = x + 1
    return y, y[1:], y.t(), y


def update(x: torch.Tensor) -> torch.Tensor:
    x[:, 1] = 5.0
    x[1:].mul_(2)
    return x.sum()


def same(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x, x


PROGRAMS: dict[str, tuple[Callable[..., Any], Make]] = {
    "identity": (lambda x: x, lambda: (t(3, 4),)),
    "view of an argument": (lambda x: x.view(-1), lambda: (t(3, 4),)),
    "outputs that share": (shared, lambda: (t(3, 4),)),
    "view written and returned": (lambda x: x[1:].mul_(2), lambda: (t(3, 4),)),
    "writes through slices": (update, lambda: (t(3, 4),)),
    "out=": (lambda x, y: torch.add(x, x, out=y), lambda: (t(3, 4), t(3, 4))),
    "swap": (swap, lambda: (t(4), t(4))),
    "one tensor twice": (lambda x, y: x.add_(y), lambda: same(t(4))),
    "index_put": (
        lambda x, i: x.index_put_((i,), torch.ones(4)),
        lambda: (t(5, 4), torch.tensor([0, 2])),
    ),
    "negative indices": (lambda x, i: x[i], lambda: (t(5, 4), torch.tensor([0, -1, 2]))),
    "empty": (lambda x: (x + 1, x.sum(), x.long() * 2), lambda: (t(0, 4),)),
    "no dimensions": (lambda x: (x + 1, x * 2.5), lambda: (t(),)),
    "transposed argument": (lambda x: x * 2 + 1, lambda: (t(4, 3).t(),)),
    "expanded": (lambda x: (x.expand(4, 3), x.expand(4, 3).clone()), lambda: (t(3),)),
    "integers": (lambda x: (x // 3, x % 3, x / 2, x >> 1), lambda: (torch.arange(-8, 8),)),
    "half": (lambda x: torch.softmax(x, -1), lambda: (t(3, 40).half(),)),
    "library call": (
        lambda x, w: torch.relu(functional.conv2d(x, w)),
        lambda: (t(1, 3, 8, 8), t(4, 3, 3, 3)),
    ),
    "containers": (
        lambda d: {"a": d["x"] * 2, "b": [d["y"], None, 3, "s"]},
        lambda: ({"x": t(2), "y": t(3)},),
    ),
    "named results": (lambda x: (x.max(1), x.sort(1)), lambda: (t(3, 9),)),
    "a number from data": (lambda x: x * int(x.sum() > 0), lambda: (t(3),)),
    "random": (lambda x: functional.dropout(x, 0.5) + torch.rand(30), lambda: (t(30),)),
    "channels last": (
        lambda x: (x.contiguous(memory_format=torch.channels_last), x * 2),
        lambda: (t(2, 3, 4, 5),),
    ),
    "gradients needed": (lambda x: x * 2, lambda: (t(3).requires_grad_(),)),
    "detached": (lambda x: x.detach() * 2, lambda: (t(3).requires_grad_(),)),
}


def twin(tree: Any) -> Any:
    """A copy of the arguments with the same layouts and the same sharing among them."""
    made: dict[int, torch.Tensor] = {}

    def copy(value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        if id(value) not in made:
            fresh = torch.empty_strided(value.size(), value.stride(), dtype=value.dtype)
            made[id(value)] = fresh.copy_(value.detach()).requires_grad_(value.requires_grad)
        return made[id(value)]

    return pytree.tree_map(copy, tree)


def relations(leaves: list[Any]) -> tuple[list[list[bool]], list[list[bool]]]:
    """Which tensors share memory, and which are one object."""
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    where = [x.untyped_storage().data_ptr() or id(x) for x in tensors]
    return [[a == b for b in where] for a in where], [[a is b for b in tensors] for a in tensors]


def assert_twins(found: Any, expected: Any) -> None:
    got, structure = pytree.tree_flatten(found)
    want, expected_structure = pytree.tree_flatten(expected)
    assert structure == expected_structure
    assert relations(got) == relations(want)
    for a, b in zip(got, want, strict=True):
        if not isinstance(b, torch.Tensor):
            assert a == b and type(a) is type(b)
            continue
        assert a.stride() == b.stride() and a.requires_grad == b.requires_grad
        torch.testing.assert_close(a, b, equal_nan=True)


@pytest.mark.parametrize("name", PROGRAMS)
def test_twins(name: str) -> None:
    function, make = PROGRAMS[name]
    compiled = tracejit.compile(function, backend="interpret", wait=True)
    for seed in range(3):
        torch.manual_seed(seed)
        args = make()
        copies = twin(args)
        state = torch.get_rng_state()
        expected = function(*args)
        after = torch.get_rng_state()
        torch.set_rng_state(state)
        found = compiled(*copies)
        assert torch.equal(torch.get_rng_state(), after)
        assert_twins((found, copies), (expected, args))

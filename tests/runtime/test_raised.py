"""Operations that raise inside a call that catches it: for sizes and dtypes, or for data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of

ERRORS = (RuntimeError, IndexError, NotImplementedError)


def tried(operation: Callable[..., Any]) -> Callable[..., Any]:
    """A function that computes something before and after an operation that may fail."""

    def f(x: torch.Tensor, y: torch.Tensor) -> Any:
        before = x * 2
        try:
            z, said = operation(before, y), ""
        except ERRORS as error:
            z, said = before.sum(), str(error)
        return z + 1, said

    return f


FAILS: dict[str, Callable[..., Any]] = {
    "mm": lambda x, y: x @ y,
    "broadcast": lambda x, y: x + y,
    "view": lambda x, y: x.view(7),
    "view of strides": lambda x, y: x.t().view(-1),
    "cat": lambda x, y: torch.cat([x, y], 0),
    "linear": lambda x, y: torch.nn.functional.linear(x, y),
    "bmm": lambda x, y: torch.bmm(x, y),
    "conv2d": lambda x, y: torch.conv2d(x[None, None], y),
    "expand": lambda x, y: x.expand(2, 7),
    "dtype": lambda x, y: x.long() @ y,
}


@pytest.mark.parametrize("name", FAILS)
def test_failing_for_sizes_is_compiled(name: str) -> None:
    f = tried(FAILS[name])
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    x, y = torch.randn(3, 4), torch.randn(3, 5)
    assert f(x, y)[1], "it does not fail"
    for _ in range(3):
        found, wanted = g(x, y), f(x, y)
        torch.testing.assert_close(found[0], wanted[0])
        assert found[1] == wanted[1]
    assert not dispatcher_of(g).reasons
    assert dispatcher_of(g).entries


def test_other_sizes_do_not_fail() -> None:
    f = tried(FAILS["mm"])
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for sizes in ((3, 4), (4, 2), (3, 4), (4, 2), (4, 3)):
        x, y = torch.randn(3, 4), torch.randn(sizes)
        found, wanted = g(x, y), f(x, y)
        torch.testing.assert_close(found[0], wanted[0])
        assert found[1] == wanted[1]


def test_failing_for_data_is_eager() -> None:
    f = tried(lambda x, y: x[y[0, :2].long()])
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for last in (9.0, 1.0, 9.0, 1.0, 2.0, 1.0):
        x, y = torch.randn(3, 4), torch.tensor([[1.0, last]])
        found, wanted = g(x, y), f(x, y)
        torch.testing.assert_close(found[0], wanted[0])
        assert found[1] == wanted[1]
    assert {reason.kind for reason in dispatcher_of(g).reasons} >= {"raised"}


def test_a_write_that_fails() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        try:
            x.add_(y)
        except RuntimeError:
            x.mul_(2)
        return x + 1

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        x, y = torch.ones(3), torch.ones(4)
        z = x.clone()
        assert g(x, y).equal(f(z, y))
        assert x.equal(z)


def test_an_error_that_leaves_is_eager_s() -> None:
    def f(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return (x * 2) @ y

    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for _ in range(3):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            g(torch.ones(3, 4), torch.ones(3, 4))
    assert g(torch.ones(3, 4), torch.ones(4, 2)).shape == (3, 2)

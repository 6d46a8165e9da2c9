"""Results that a call makes in another inference mode than its own."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of


def inside(x: torch.Tensor) -> Any:
    with torch.inference_mode():
        y = x * 2
    return y, x + 1


def outside(x: torch.Tensor) -> Any:
    with torch.inference_mode(False):
        y = torch.ones(2, 3) * 3
    return y, y.t() if not torch.is_inference_mode_enabled() else y * 2


def views(x: torch.Tensor) -> Any:
    with torch.inference_mode():
        y = (x * 2).t()
        return y, y[0], {"conj": (x * 2j).conj()}


def written(x: torch.Tensor) -> Any:
    with torch.inference_mode():
        y = x.clone()
        y.add_(1)
        return [y, y.view(-1), x.sum()]


PROGRAMS: dict[str, Callable[..., Any]] = {
    "inside": inside,
    "outside": outside,
    "views": views,
    "written": written,
}


def tensors(found: Any) -> list[torch.Tensor]:
    if isinstance(found, torch.Tensor):
        return [found]
    return [
        t for part in (found.values() if isinstance(found, dict) else found) for t in tensors(part)
    ]


def told(found: Any) -> list[Any]:
    """What can be told of results besides their values."""
    all_of_them = tensors(found)
    first = [next(n for n, o in enumerate(all_of_them) if _shared(o, t)) for t in all_of_them]
    facts = [
        (t.is_inference(), t.dtype, t.stride(), t.storage_offset(), t.is_conj(), t.requires_grad)
        for t in all_of_them
    ]
    return [first, facts]


def _shared(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("around", [False, True])
def test_like_eager(name: str, around: bool) -> None:
    f = PROGRAMS[name]
    g = tracejit.compile(f, backend=BACKEND, wait=True)
    for mode in (around, around, around, not around, not around, around):
        x = torch.randn(2, 3)
        with torch.inference_mode() if mode else nullcontext():
            found, wanted = g(x), f(x)
        assert told(found) == told(wanted)
        for one, other in zip(tensors(found), tensors(wanted)):
            torch.testing.assert_close(one, other)
    assert not dispatcher_of(g).reasons


def test_an_inference_tensor_is_one() -> None:
    g = tracejit.compile(inside, backend=BACKEND, wait=True)
    for _ in range(3):
        y, z = g(torch.ones(3))
        with pytest.raises(RuntimeError, match=r"(?i)inplace update to inference tensor"):
            y.add_(1)
        assert z.add_(1).equal(torch.full((3,), 3.0))

"""Kernels that write to inputs where they lie: only where nobody can tell, and it is noticed."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

import tracejit
from tests.executors import NATIVE
from tests.native.test_product import rand

pytestmark = pytest.mark.skipif(not NATIVE, reason="native kernels")


def into(o: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    o.copy_(a * b + a)


def step(p: torch.Tensor, m: torch.Tensor, v: torch.Tensor, g: torch.Tensor) -> None:
    m.mul_(0.9).add_(g, alpha=0.1)
    v.mul_(0.99).addcmul_(g, g, value=0.01)
    p.addcdiv_(m, v.sqrt().add_(1e-8), value=-1e-3)


def add_and_return(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    p.add_(g)
    return p


def sums_after(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    p.add_(g)
    return p.sum(1) + g.sum(1)


def product_into(o: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> None:
    o.copy_(torch.relu(a @ b))


def softmax_into_itself(p: torch.Tensor) -> None:
    p.copy_(torch.softmax(p, 1))


def swap(p: torch.Tensor, q: torch.Tensor) -> None:
    kept = p.clone()
    p.copy_(q)
    q.copy_(kept)


def old_value_returned(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    kept = p * 2
    p.mul_(g)
    return kept


def turned(p: torch.Tensor, g: torch.Tensor) -> None:
    p.copy_(p.t() + g)


def other_way_round(p: torch.Tensor, g: torch.Tensor) -> None:
    p.t().mul_(g)


def moved(p: torch.Tensor, g: torch.Tensor) -> None:
    p.copy_(torch.roll(p, 1, 0) + g)


def part(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    p[1:].mul_(2)
    return p + g


def result_too(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    new = p + g
    p.copy_(new)
    return new


def column_means(p: torch.Tensor, g: torch.Tensor) -> None:
    p.mul_(0.9).add_(g.mean(0), alpha=0.1)


def checked(p: torch.Tensor, g: torch.Tensor) -> torch.Tensor:
    p.add_(g)
    return g[:1] if bool((g.sum() > 1e6).item()) else g[1:]


def copied_into(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    cache.index_copy_(0, at, rows)
    return cache @ rows.t()


def put_into(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    cache[at] = rows * 2
    return torch.sort(cache.sum(1)).values  # a library call comes after


def put_columns(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> None:
    cache[:, at] = rows.t()


def added_into(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> None:
    cache.index_put_((at,), rows, accumulate=True)


def scattered_into(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> None:
    cache.scatter_(0, at[:, None].expand(5, 37), rows)


def filled(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    cache.index_fill_(0, at, 3.0)
    return cache + 1


def put_after_it_was_read(cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor) -> None:
    cache[at] = rows + cache.mean(0)


def read_before_and_sorted_after(
    cache: torch.Tensor, at: torch.Tensor, rows: torch.Tensor
) -> torch.Tensor:
    mean = cache.mean(0)
    cache[at] = rows
    return torch.sort(mean).values


SQUARE = (rand(37, 37), rand(37, 37, seed=1), rand(37, 37, seed=2), rand(37, 37, seed=3))
FLAT = tuple(x.reshape(-1)[:1000].abs() for x in SQUARE)
PARTS = tuple(x[:, :20] for x in SQUARE[:3])
CACHE = (SQUARE[0], torch.tensor([3, 36, 0, 17, 8]), SQUARE[1][:5])
# A function, its arguments, how many of its writes kernels make.
CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...], int]] = {
    "into": (into, FLAT[:3], 1),
    "into, bf16": (into, tuple(x.bfloat16() for x in FLAT[:3]), 1),
    "into a part of a matrix": (into, PARTS, 0),
    "step": (step, FLAT, 3),
    "add and return": (add_and_return, SQUARE[:2], 1),
    "sums after": (sums_after, SQUARE[:2], 0),
    "product into": (product_into, SQUARE[:3], 1),
    "softmax into itself": (softmax_into_itself, SQUARE[:1], 0),
    "swap": (swap, SQUARE[:2], 1),
    "old value returned": (old_value_returned, FLAT[:2], 1),
    "turned": (turned, SQUARE[:2], 0),
    "the other way round": (other_way_round, (rand(150, 203), rand(203, 150)), 0),
    "moved": (moved, FLAT[:2], 0),
    "part": (part, SQUARE[:2], 0),
    "result too": (result_too, SQUARE[:2], 1),
    "column means": (column_means, (SQUARE[0][0], SQUARE[1]), 0),
    "checked": (checked, FLAT[:2], 0),
    "copied into": (copied_into, CACHE, 1),
    "put into": (put_into, CACHE, 1),
    "put columns": (put_columns, CACHE, 1),
    "added into": (added_into, CACHE, 0),
    "scattered into": (scattered_into, CACHE, 1),
    "filled": (filled, CACHE, 1),
    "put after it was read": (put_after_it_was_read, CACHE, 0),
    "read before, sorted after": (read_before_and_sorted_after, CACHE, 0),
}


def _copy(x: torch.Tensor) -> torch.Tensor:
    """A copy with the same strides, also where there are gaps between elements."""
    return x.clone() if x.is_contiguous() else x.new_empty(37, 37)[:, :20].copy_(x)


def plan_of(compiled: Any) -> str:
    (text,) = (str(t) for t in tracejit.last_traces(compiled) if t.name == "plan")
    return text


@pytest.mark.parametrize("name", CASES)
def test_as_eager(name: str, fresh_cache: Any) -> None:
    function, examples, direct = CASES[name]
    compiled = tracejit.compile(function, wait=True)
    ours, theirs = (tuple(_copy(x) for x in examples) for _ in range(2))
    for _ in range(3):
        versions = [(x._version, y._version) for x, y in zip(ours, theirs)]
        found, expected = compiled(*ours), function(*theirs)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5, check_stride=True)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        for x, y, (before, its) in zip(ours, theirs, versions):
            assert (x._version > before) == (y._version > its)
    (touched,) = re.findall(r"touched\(\((.*),\)\)", plan_of(compiled)) or [""]
    assert len(re.findall(r"\w+", touched)) == direct


def test_a_result_that_is_the_input_is_it() -> None:
    compiled = tracejit.compile(add_and_return, wait=True)
    p, g = (x.clone() for x in SQUARE[:2])
    for _ in range(3):
        assert compiled(p, g) is p


def test_tensors_on_one_array() -> None:
    """Two storages, one memory: torch cannot tell, an address can."""
    compiled = tracejit.compile(into, wait=True)
    for _ in range(2):
        compiled(*(torch.empty(100) for _ in range(3)))
    for shift in (0, 1, 50, 100):
        results = []
        for function in (into, compiled):
            array = np.arange(300, dtype=np.float32)
            a = torch.from_numpy(array[:100])
            o, b = torch.from_numpy(array[shift : shift + 100]), torch.from_numpy(array[200:])
            function(o, a, b)
            results.append(torch.from_numpy(array))
        assert torch.equal(*results), shift


def test_two_that_are_written_on_one_array() -> None:
    def both(p: torch.Tensor, q: torch.Tensor, g: torch.Tensor) -> None:
        p.add_(g)
        q.mul_(g)

    compiled = tracejit.compile(both, wait=True)
    for _ in range(2):
        compiled(*(torch.empty(100) for _ in range(3)))
    results = []
    for function in (both, compiled):
        array, g = np.arange(150, dtype=np.float32), rand(100)
        function(torch.from_numpy(array[:100]), torch.from_numpy(array[50:]), g)
        results.append(torch.from_numpy(array))
    assert torch.equal(*results)


def test_many_that_are_written() -> None:
    """An optimizer's step: what is read may lie between what is written."""

    def step(ps: list[torch.Tensor], gs: list[torch.Tensor], ms: list[torch.Tensor]) -> None:
        for p, g, m in zip(ps, gs, ms):
            m.mul_(0.9).add_(g, alpha=0.1)
            p.sub_(m)

    def made(shared: bool) -> list[list[torch.Tensor]]:
        lines = torch.from_numpy(np.arange(90 * 16, dtype=np.float32)).view(90, 16)
        ps, gs, ms = ([torch.from_numpy(x.numpy()) for x in lines[k::3]] for k in range(3))
        if shared:  # the last gradient begins in a parameter
            gs[-1] = torch.from_numpy(lines.view(-1).numpy()[75 * 16 + 8 :][:16])
        return [ps, gs, ms]

    compiled = tracejit.compile(step, wait=True)
    for shared in (False, False, True):
        ours, theirs = made(shared), made(shared)
        compiled(*ours)
        step(*theirs)
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    assert plan_of(compiled).count("copy_(") == 0
    (reason,) = tracejit.explain(compiled).fallbacks
    assert "lies in memory of another" in str(reason)


def test_a_tensor_of_inference_mode_outside_it() -> None:
    """Eager writes and then raises."""
    with torch.inference_mode():
        p, q = torch.ones(8), torch.ones(8)
    compiled = tracejit.compile(add_and_return, wait=True)
    g = torch.ones(8)
    for _ in range(2):
        compiled(torch.ones(8), g)
    for function, given in ((add_and_return, p), (compiled, q)):
        with pytest.raises(RuntimeError, match="[Ii]nference"):
            function(given, g)
    with torch.inference_mode():
        for _ in range(3):
            torch.testing.assert_close(compiled(q, g), add_and_return(p, g))


def test_autograd_hears_of_it() -> None:
    """What was saved for backward and then written by a kernel is an error, as in eager."""
    compiled = tracejit.compile(add_and_return, wait=True)
    g = torch.ones(8)
    for _ in range(2):
        compiled(torch.ones(8), g)
    for function in (add_and_return, compiled):
        p, x = torch.ones(8), torch.ones(8, requires_grad=True)
        y = (x * p).sum()
        with torch.no_grad():
            function(p, g)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.backward()


def test_an_index_outside_is_eagers_error() -> None:
    """Also if the plan is left after something was written."""
    compiled = tracejit.compile(put_into, wait=True)
    for _ in range(2):
        compiled(*(x.clone() for x in CACHE))
    caches = []
    for function in (put_into, compiled):
        cache = CACHE[0].clone()
        with pytest.raises(IndexError, match="out of bounds"):
            function(cache, torch.tensor([3, 36, 0, 37, 8]), CACHE[2])
        caches.append(cache)
    assert torch.equal(*caches)

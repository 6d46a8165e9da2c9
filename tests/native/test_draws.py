"""`numerics="fast"`: random numbers drawn inside kernels. The same on every target and with any
threads, new in each call, repeated after a seed, in program order with what torch draws itself."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tracejit
from tests.executors import BACKEND, BACKENDS
from tracejit import compiler
from tracejit.api import dispatcher_of
from tracejit.ir.draws import RULES
from tracejit.ir.execute import execute
from tracejit.runtime import philox
from tracejit.trace.recorder import record

Function = Callable[..., Any]
EVERYWHERE = [*BACKENDS, "reference"]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]
everywhere = pytest.mark.parametrize("backend", EVERYWHERE)
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)


def compiled(f: Function, *args: Any, backend: str = BACKEND, numerics: str = "fast") -> Function:
    """`f` after a first call: the next with such arguments runs the plan."""
    made = tracejit.compile(f, backend=backend, numerics=numerics, wait=True, strict=True)
    made(*args)
    return made


def seeded(seed: int, f: Function, *args: Any) -> Any:
    torch.manual_seed(seed)
    return f(*args)


def key() -> torch.Tensor:
    """The next from torch's generator."""
    return philox.keys(1, torch.device("cpu"))[0]


def key_after(seed: int) -> torch.Tensor:
    return seeded(seed, key)


def plan_of(f: Function) -> str:
    return next(s.text for s in tracejit.last_traces(f) if s.name == "plan")


def calls(f: Function) -> set[str]:
    """The library calls of the plan."""
    (entry,) = dispatcher_of(f).entries
    return set(entry.bound.stored.manifest["externs"].values())


X = torch.linspace(-2, 2, 5 * 33).reshape(5, 33)
P = torch.linspace(0, 1, 5 * 33).reshape(5, 33)
PROGRAMS: dict[str, tuple[Function, tuple[torch.Tensor, ...]]] = {
    "rand": (lambda: torch.rand(5, 33), ()),
    "rand of a dtype": (lambda: torch.rand(7, 3, dtype=torch.bfloat16), ()),
    "rand of no dims": (lambda: torch.rand(()) + torch.rand(1), ()),
    "rand_like": (lambda x: torch.rand_like(x) * x, (X,)),
    "rand_like of a dtype": (lambda x: torch.rand_like(x, dtype=torch.float64), (X,)),
    "uniform_": (lambda x: torch.empty_like(x).uniform_(-1, 2), (X,)),
    "uniform_ of the default": (lambda x: x.clone().uniform_(), (X,)),
    "randn": (lambda: torch.randn(5, 33) + 1, ()),
    "randn of f64": (lambda: torch.randn(5, 33, dtype=torch.float64), ()),
    "randn_like": (lambda x: torch.randn_like(x), (X,)),
    "normal_": (lambda x: torch.empty_like(x).normal_(3, 0.5), (X,)),
    "normal_ of f16": (lambda x: x.half().normal_(100, 7), (X,)),
    "normal of numbers": (lambda: torch.normal(1.0, 2.0, (4, 9)), ()),
    "normal of means": (lambda x: torch.normal(x, 2.0), (X,)),
    "bernoulli_": (lambda x: torch.empty_like(x).bernoulli_(0.3), (X,)),
    "bernoulli_ of integers": (lambda x: x.long().bernoulli_(0.3), (X,)),
    "bernoulli_ of bools": (lambda x: (x > 0).bernoulli_(), (X,)),
    "bernoulli": (lambda p: torch.bernoulli(p), (P,)),
    "bernoulli of f64": (lambda p: torch.bernoulli(p.double()), (P,)),
    "bernoulli of halves": (lambda p: torch.bernoulli(p.half()), (P,)),
    "bernoulli of a number": (lambda p: torch.bernoulli(p, 0.5), (P,)),
    "bernoulli_ by a tensor": (lambda x, p: x.clone().bernoulli_(p), (X, P)),
    "bernoulli_ by a row": (lambda x, p: x.clone().bernoulli_(p[0]), (X, P)),
    "dropout": (lambda x: F.dropout(x.relu(), 0.25), (X,)),
    "dropout in place": (lambda x: F.dropout(x + 1, 0.25, inplace=True), (X,)),
    "dropout of bf16": (lambda x: F.dropout(x.bfloat16(), 0.1), (X,)),
    "native_dropout": (lambda x: torch.native_dropout(x, 0.25, True), (X,)),
    "native_dropout unsaid": (lambda x: torch.native_dropout(x.half(), 0.25, None), (X,)),
    "alpha_dropout": (lambda x: F.alpha_dropout(x, 0.3, training=True), (X,)),
    "dropout2d": (lambda x: F.dropout2d(x[None, :, :, None] + 1, 0.5), (X,)),
    "feature_alpha_dropout": (
        lambda x: F.feature_alpha_dropout(x[None, :, :, None], 0.5, training=True),
        (X,),
    ),
    "softmax, dropped": (lambda x: F.dropout(x.softmax(-1), 0.1) @ x.t(), (X,)),
    "several": (lambda x: F.dropout(x, 0.5) + torch.rand_like(x) * torch.randn(33), (X,)),
}
PLACES = torch.tensor([[3, 0], [4, 4], [1, 2]])
READ: dict[str, tuple[Function, tuple[torch.Tensor, ...]]] = {
    "joined": (lambda x: torch.cat([torch.rand(3, 33), x, torch.rand_like(x)]), (X,)),
    "padded": (lambda: F.pad(torch.rand(4, 5), (1, 2, 3, 0), value=7.0), ()),
    "reflected": (lambda: F.pad(torch.rand(1, 4, 5), (1, 2), mode="reflect"), ()),
    "gathered": (lambda p: torch.rand(5, 2).gather(0, p), (PLACES,)),
    "indexed": (lambda p: torch.rand(5, 9)[p] + 1, (PLACES,)),
    "embedded": (lambda p: F.embedding(p, torch.rand(5, 16)), (PLACES,)),
    "flipped": (lambda: torch.rand(6, 7).flip(0, 1) * 2, ()),
    "rolled": (lambda: torch.rand(6, 7).roll((2, 3), (0, 1)) * 2, ()),
    "turned": (lambda: torch.rand(60, 70).t().contiguous(), ()),
    "strided": (lambda: torch.rand(64, 31)[3::5, 1::3] + 1, ()),
    "every other": (lambda: torch.rand(640)[1::2] + 1, ()),
    "from a place on": (lambda: torch.rand(640)[4:] + torch.rand(640)[:-4], ()),
    "repeated": (lambda x: torch.rand(33) + torch.rand(5, 1) + x, (X,)),
    "viewed": (lambda: torch.rand(8, 12).view(4, 2, 3, 4).permute(2, 0, 3, 1) + 1, ()),
    "the largest of": (lambda x: torch.rand(5, 33).argmax(1), (X,)),
    "running": (lambda: torch.rand(5, 33).gt(0.5).long().cumsum(1), ()),
    "counted": (lambda: torch.rand(70, 300).gt(0.5).sum(0), ()),
    "counted in rows": (lambda: torch.rand(70, 301).gt(0.5).sum(1), ()),
    "counted, long": (lambda: (torch.rand(3, 1 << 15) > 0.5).sum(1), ()),
    "chosen": (lambda x: torch.where(torch.rand_like(x) > 0.5, x, 0), (X,)),
    "one of each dtype": (
        lambda: [torch.rand(40, dtype=d) for d in (torch.float64, torch.float16, torch.float32)],
        (),
    ),
}


@pytest.mark.parametrize("name", READ)
def test_read_at_any_places(name: str) -> None:
    """However a draw is read, and by which kind of kernel: its numbers are those of the places."""
    f, args = READ[name]
    expected, *found = (
        tensors(seeded(16, compiled(f, *args, backend=backend), *args))
        for backend in reversed(EVERYWHERE)
    )
    for results in found:
        assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


NORMAL = frozenset(n for n in PROGRAMS if "norm" in n or "randn" in n or n == "several")
each_program = pytest.mark.parametrize("name", PROGRAMS)


def tensors(result: Any) -> list[torch.Tensor]:
    return [result] if isinstance(result, torch.Tensor) else list(result)


@each_program
def test_the_same_everywhere(name: str) -> None:
    """Equal in bits, but for logarithms and sums; with what eager's result looks like; and drawn by
    no library call."""
    f, args = PROGRAMS[name]
    eager = tensors(f(*args))
    found = {}
    for backend in EVERYWHERE:
        made = compiled(f, *args, backend=backend)
        found[backend] = tensors(seeded(11, made, *args))
        assert not any(op.removeprefix("aten.") in str(RULES) for op in calls(made)), calls(made)
        assert "tj.keys" in calls(made)
    for backend in EVERYWHERE[:-1]:
        for ours, reference, like in zip(found[backend], found["reference"], eager, strict=True):
            assert ours.dtype == like.dtype and ours.stride() == like.stride()
            exact = name not in NORMAL and "softmax" not in name
            close = {"rtol": 0, "atol": 0} if exact else {}
            torch.testing.assert_close(ours, reference, **close)


@pytest.mark.parametrize("name", [*PROGRAMS, *READ])
def test_the_graph_in_plain_torch(name: str) -> None:
    """`ir.execute` runs the rewritten graph and gives what kernels give."""
    f, args = (PROGRAMS | READ)[name]
    _, recording = record(f, args, {})
    stages = compiler.Pipeline("reference", "fast")
    graph = recording.graph
    for _, work in stages.passes():
        graph = work(graph)
    assert any(node.op == "tj.keys" for node in graph.nodes)
    torch.manual_seed(12)
    outputs, _ = execute(graph, recording.sources)
    made = compiled(f, *args, backend="reference")
    for ours, expected in zip(tensors(seeded(12, made, *args)), outputs, strict=True):
        torch.testing.assert_close(ours, expected)


@each_program
def test_new_in_each_call_and_repeated_after_a_seed(name: str) -> None:
    f, args = PROGRAMS[name]
    made = compiled(f, *args)
    first, second = (tensors(made(*args)) for _ in range(2))
    if first[0].numel() > 10:
        assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    again = [tensors(seeded(3, made, *args)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*again, strict=True))
    other = tensors(seeded(4, made, *args))
    if first[0].numel() > 10:
        assert any(not torch.equal(a, b) for a, b in zip(again[0], other, strict=True))


@each_program
def test_eager_numerics_draw_as_eager(name: str) -> None:
    f, args = PROGRAMS[name]
    made = compiled(f, *args, numerics="eager")
    assert "tj." not in plan_of(made)
    expected = tensors(seeded(5, f, *args))
    for ours, like in zip(tensors(seeded(5, made, *args)), expected, strict=True):
        torch.testing.assert_close(ours, like)
    assert seeded_state(5, made, *args) == seeded_state(5, f, *args)


def seeded_state(seed: int, f: Function, *args: Any) -> list[int]:
    """The generator's state after a call."""
    seeded(seed, f, *args)
    return torch.get_rng_state().tolist()


# What is drawn


@everywhere
@each_dtype
def test_the_formulas(backend: str, dtype: torch.dtype) -> None:
    sizes = (3, 50)
    uniform = compiled(lambda: torch.rand(sizes, dtype=dtype), backend=backend)
    assert torch.equal(seeded(1, uniform), philox.uniform(key_after(1), sizes, dtype))
    normal = compiled(lambda: torch.randn(sizes, dtype=dtype), backend=backend)
    torch.testing.assert_close(seeded(1, normal), philox.normal(key_after(1), sizes, dtype))
    dropped = compiled(lambda x: F.dropout(x, 0.3), torch.ones(sizes, dtype=dtype), backend=backend)
    kept = seeded(1, dropped, torch.ones(sizes, dtype=dtype)) != 0
    assert torch.equal(kept, philox.bernoulli(key_after(1), sizes, 0.7))


@pytest.mark.parametrize(
    "look",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.permute(3, 0, 2, 1),
        lambda x: x[:, ::2],
        lambda x: x.expand(3, *x.shape).transpose(0, 1),
    ],
)
def test_counted_by_place_whatever_the_layout(look: Function) -> None:
    """Element i in row-major order, however it lies in memory."""
    x = look(torch.ones(2, 4, 6, 8))
    made = compiled(lambda x: torch.rand_like(x), x)
    found = seeded(2, made, x)
    assert found.stride() == torch.rand_like(x).stride()
    assert torch.equal(found, philox.uniform(key_after(2), x.shape, torch.float32))


@settings(max_examples=20)
@given(
    sizes=st.lists(st.integers(1, 9), max_size=4),
    dtype=st.sampled_from(DTYPES),
    p=st.sampled_from([1e-9, 0.1, 0.5, 0.999]),
    backend=st.sampled_from(EVERYWHERE),
    seed=st.integers(0, 1 << 40),
)
def test_any_sizes(sizes: list[int], dtype: torch.dtype, p: float, backend: str, seed: int) -> None:
    x = torch.ones(sizes, dtype=dtype)
    made = compiled(lambda x: (F.dropout(x, p), torch.rand_like(x)), x, backend=backend)
    torch.manual_seed(seed)
    keys = [key() for _ in range(2)]
    dropped, uniform = seeded(seed, made, x)
    assert torch.equal(dropped != 0, philox.bernoulli(keys[0], sizes, 1 - p))
    assert torch.equal(uniform, philox.uniform(keys[1], sizes, dtype))


def test_threads_do_not_matter() -> None:
    x = torch.ones(1 << 18)
    made = compiled(lambda x: F.dropout(x, 0.1) + torch.randn_like(x), x)
    one = seeded(6, made, x)
    torch.set_num_threads(2)
    try:
        two = seeded(6, made, x)
    finally:
        torch.set_num_threads(1)
    assert torch.equal(one, two)


# Order and state


def test_in_program_order_with_what_torch_draws() -> None:
    def f(x):
        a = torch.rand(4)
        b = torch.randperm(9)
        c = F.dropout(x, 0.5)
        d = torch.empty(3).exponential_()
        e = torch.randint(0, 100, (5,))
        return a, b, c, d, e, torch.rand(2)

    x = torch.ones(6)
    made = compiled(f, x)
    found = seeded(8, made, x)
    state = torch.get_rng_state()
    torch.manual_seed(8)
    first = philox.uniform(key(), (4,), torch.float32)
    order = torch.randperm(9)
    kept = philox.bernoulli(key(), (6,), 0.5)
    waits = torch.empty(3).exponential_()
    numbers = torch.randint(0, 100, (5,))
    last = philox.uniform(key(), (2,), torch.float32)
    expected = (first, order, kept.float() * 2, waits, numbers, last)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert torch.equal(state, torch.get_rng_state())


def test_keys_are_drawn_at_once_where_nothing_lies_between() -> None:
    def f(x):
        for _ in range(3):
            x = F.dropout(x, 0.1)
        x = x + torch.randint(0, 9, (1,))
        return x + torch.rand_like(x) + torch.rand_like(x)

    made = compiled(f, X)
    assert re.findall(r"tj_keys\((\d), ", plan_of(made)) == ["3", "2"]
    torch.manual_seed(15)
    expected = X
    for _ in range(3):
        expected = expected * philox.bernoulli(key(), X.shape, 0.9).div(0.9)
    expected = expected + torch.randint(0, 9, (1,))
    expected = expected + philox.uniform(key(), X.shape, X.dtype)
    expected = expected + philox.uniform(key(), X.shape, X.dtype)
    torch.testing.assert_close(seeded(15, made, X), expected)


def test_a_draw_that_nobody_needs_moves_the_generator() -> None:
    def f(x):
        torch.rand(5)
        return torch.rand_like(x)

    made = compiled(f, X)
    torch.manual_seed(9)
    key()
    expected = philox.uniform(key(), X.shape, torch.float32)
    assert torch.equal(seeded(9, made, X), expected)


def test_one_draw_read_by_several_kernels() -> None:
    """Rows, columns, a product and the mask itself see the same numbers."""

    def f(x, w):
        y = F.dropout(x, 0.5)
        return y, y.sum(0), y.sum(1), y @ w, (y != 0).sum(), y.t().contiguous()

    x, w = torch.ones(40, 24), torch.randn(24, 8)
    made = compiled(f, x, w)
    for _ in range(3):
        y, columns, rows, product, count, turned = made(x, w)
        assert 0 < count < y.numel() and count == (y != 0).sum()
        assert torch.equal(columns, y.sum(0)) and torch.equal(rows, y.sum(1))
        torch.testing.assert_close(product, y @ w)
        assert torch.equal(turned, y.t())


@settings(max_examples=8)
@given(
    batch=st.integers(1, 3),
    length=st.sampled_from([1, 5, 16, 33, 70]),
    heads=st.sampled_from([1, 2, 3]),
    width=st.sampled_from([4, 5, 16]),
    wide=st.sampled_from([8, 30, 64]),
    seed=st.integers(0, 1 << 30),
)
def test_in_attention_and_behind_products(
    batch: int, length: int, heads: int, width: int, wide: int, seed: int
) -> None:
    """A transformer's layer in training: what follows a product on its tiles draws there."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(heads * width, heads, wide, 0.2)
    x = torch.randn(length, batch, heads * width)
    found = []
    with torch.no_grad():
        for backend in ("reference", BACKEND):
            made = compiled(layer, x, backend=backend)
            assert "aten.bernoulli.p" not in calls(made)
            found.append(seeded(seed, made, x))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)


def test_two_draws_differ() -> None:
    made = compiled(lambda x: (torch.rand_like(x), torch.rand_like(x)), X)
    one, two = made(X)
    assert not torch.equal(one, two)


def test_a_plan_that_is_left_gives_its_numbers_back() -> None:
    """The branch taken is another: the call runs eagerly from its start, generator and all."""

    def f(x, y):
        a = torch.rand_like(x)
        return a + 1 if y.sum() > 0 else a

    made = tracejit.compile(f, backend=BACKEND, numerics="fast", wait=True)
    made(X, torch.ones(3))
    assert torch.equal(seeded(10, made, X, -torch.ones(3)), seeded(10, f, X, -torch.ones(3)))
    expected = philox.uniform(key_after(10), X.shape, torch.float32)
    assert torch.equal(seeded(10, made, X, torch.ones(3)), expected + 1)
    assert torch.equal(seeded(10, made, X, -torch.ones(3)), expected)


def test_writes_to_arguments() -> None:
    def f(x):
        x.uniform_(2, 3)
        x[0].normal_()
        return x.sum()

    made = compiled(f, torch.zeros(4, 10))
    x = torch.zeros(4, 10)
    assert torch.equal(made(x), x.sum())
    assert (x[1:] >= 2).all() and (x[1:] < 3).all() and (x[0] < 2).any()


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan])
def test_what_is_no_probability_raises_as_in_eager(bad: float) -> None:
    def f(p):
        return torch.bernoulli(p)

    made = compiled(f, P)
    wrong = P.clone()
    wrong[2, 3] = bad
    torch.manual_seed(13)
    with pytest.raises(RuntimeError) as eager:
        f(wrong)
    torch.manual_seed(13)
    with pytest.raises(RuntimeError) as ours:
        made(wrong)
    assert str(ours.value) == str(eager.value)
    torch.manual_seed(14)
    assert torch.equal(made(P), philox.uniform(key_after(14), P.shape, P.dtype) < P)


# What stays with torch


def own(x):
    return torch.rand(3, generator=GENERATOR) + x


GENERATOR = torch.Generator()
LIBRARY: dict[str, tuple[Function, tuple[Any, ...]]] = {
    "integers": (lambda: torch.randint(0, 7, (9,)), ()),
    "a permutation": (lambda: torch.randperm(9), ()),
    "multinomial": (lambda p: torch.multinomial(p[0], 3), (P,)),
    "exponential": (lambda x: torch.empty_like(x).exponential_(), (X,)),
    "deviations in a tensor": (lambda p: torch.normal(0.0, p), (P,)),
    "both in tensors": (lambda x, p: torch.normal(x, p), (X, P)),
    "complex": (lambda: torch.randn(4, dtype=torch.complex64), ()),
    "nothing": (lambda: torch.rand(0, 3), ()),
    "all dropped": (lambda x: torch.native_dropout(x, 1.0, True), (X,)),
}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_rest_is_torchs_own(name: str) -> None:
    f, args = LIBRARY[name]
    made = compiled(f, *args)
    assert "tj." not in plan_of(made)
    for ours, like in zip(
        tensors(seeded(1, made, *args)), tensors(seeded(1, f, *args)), strict=True
    ):
        assert torch.equal(ours, like)
    assert seeded_state(1, made, *args) == seeded_state(1, f, *args)


def test_a_generator_of_the_callers_own() -> None:
    made = tracejit.compile(own, backend=BACKEND, numerics="fast", wait=True)
    for _ in range(3):
        GENERATOR.manual_seed(1)
        expected = own(X[0, :3])
        GENERATOR.manual_seed(1)
        assert torch.equal(made(X[0, :3]), expected)


def test_nothing_is_dropped_in_evaluation() -> None:
    made = compiled(lambda x: F.dropout(x, 0.5, training=False) * 2, X)
    assert torch.equal(made(X), X * 2)
    assert "tj.keys" not in calls(made)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Function) -> None:
    """Dropout is one operation or several to a recorder, by the mode."""
    x = torch.ones(4, 9)
    with mode():
        made = compiled(lambda x: F.dropout(x, 0.5), x)
        assert calls(made) == {"tj.keys"}
        assert torch.equal(seeded(17, made, x) != 0, philox.bernoulli(key_after(17), (4, 9), 0.5))


# Distributions

MANY = 1 << 20


def distance(sample: torch.Tensor, distribution: Function) -> float:
    """Kolmogorov and Smirnov's: the largest between the sample's distribution and the given one."""
    ordered = sample.double().flatten().sort().values
    steps = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return float((steps - distribution(ordered)).abs().max())


def moments(sample: torch.Tensor) -> list[float]:
    """Mean, variance, skew and kurtosis."""
    sample = sample.double()
    mean, deviation = sample.mean(), sample.std()
    unit = (sample - mean) / deviation
    return [float(m) for m in (mean, deviation**2, (unit**3).mean(), (unit**4).mean())]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_uniform(dtype: torch.dtype) -> None:
    made = compiled(lambda: torch.rand(MANY, dtype=dtype))
    sample = seeded(20, made)
    assert distance(sample, lambda x: x) < 1.95 / MANY**0.5  # one sample in 1000 lies further off
    expected = [1 / 2, 1 / 12, 0, 9 / 5]
    assert all(abs(m - e) < 6e-3 for m, e in zip(moments(sample), expected, strict=True))
    pairs = sample.view(-1, 2).double()
    assert abs(float(torch.corrcoef(pairs.t())[0, 1])) < 5e-3


@each_dtype
def test_uniform_is_below_one(dtype: torch.dtype) -> None:
    """Each multiple of the dtype's step is as likely, from 0 to the last before 1."""
    made = compiled(lambda: torch.rand(MANY, dtype=dtype))
    sample = seeded(21, made)
    assert sample.min() >= 0 and sample.max() < 1
    digits = philox.DIGITS[dtype]
    steps = sample.double() * 2.0**digits
    assert torch.equal(steps, steps.round())
    if digits < 16:
        counts = torch.bincount(steps.long(), minlength=1 << digits)
        assert len(counts) == 1 << digits and counts.min() > 0
        even = MANY / (1 << digits)
        squares = float(((counts - even) ** 2 / even).sum())  # chi squared of 2^digits - 1
        assert abs(squares - (1 << digits)) < 5 * (2 << digits) ** 0.5


@pytest.mark.parametrize(
    ("low", "high", "dtype"),
    [
        (-3, 5, torch.float32),
        (100, 101, torch.bfloat16),
        (1000, 1001, torch.float16),
        (1, 1 + 2**-22, torch.float32),
        (2, 2, torch.float32),
        (-1, 1, torch.float64),
    ],
)
def test_uniform_between(low: float, high: float, dtype: torch.dtype) -> None:
    """The upper end is not among them, although numbers are rounded."""
    made = compiled(lambda: torch.empty(4000, dtype=dtype).uniform_(low, high))
    sample = seeded(22, made)
    assert sample.min() >= low and (sample.max() < high or low == high)
    if high - low > 1:
        assert abs(float(sample.double().mean()) - (low + high) / 2) < 0.2


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_normal(dtype: torch.dtype) -> None:
    made = compiled(lambda: torch.randn(MANY, dtype=dtype))
    sample = seeded(23, made)
    assert distance(sample, torch.special.ndtr) < 1.95 / MANY**0.5
    expected = [0, 1, 0, 3]
    allowed = [4e-3, 6e-3, 1e-2, 2e-2]
    for found, wanted, most in zip(moments(sample), expected, allowed, strict=True):
        assert abs(found - wanted) < most
    assert sample.isfinite().all() and 4.4 < sample.abs().max() < 7
    assert abs(float(torch.corrcoef(sample.view(-1, 2).double().t())[0, 1])) < 5e-3


def test_the_ends_of_normal() -> None:
    """The words that lie at the ends give numbers that are finite, and no NaN."""
    assert float(philox.cosine(torch.tensor(0.0))) == pytest.approx(1, abs=1e-6)
    turns = torch.arange(1 << 12).float() / (1 << 12)
    exact = torch.cos(turns.double() * 2 * math.pi)
    assert float((philox.cosine(turns) - exact).abs().max()) < 4e-7
    assert math.sqrt(-2 * math.log(2.0**-31)) < 6.6  # of the smallest chance
    assert philox.limit(1.0) == 1 << 31 and philox.limit(0.0) == -(1 << 31)
    five = torch.tensor(5)
    assert (
        philox.bernoulli(five, (1000,), 1.0).all()
        and not philox.bernoulli(five, (1000,), 0.0).any()
    )


@pytest.mark.parametrize("p", [0.0, 1e-4, 0.1, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("way", ["number", "tensor", "dropout"])
def test_rates(p: float, way: str) -> None:
    ways: dict[str, Function] = {
        "number": lambda x: torch.empty_like(x).bernoulli_(p),
        "tensor": lambda x: torch.bernoulli(x * p),
        "dropout": lambda x: (F.dropout(x, 1 - p) != 0).float(),
    }
    x = torch.ones(MANY // 4)
    made = compiled(ways[way], x)
    found = float(seeded(24, made, x).mean())
    assert abs(found - p) <= 5 * math.sqrt(p * (1 - p) / x.numel())


@each_dtype
def test_what_dropout_keeps(dtype: torch.dtype) -> None:
    x = torch.tensor([1.0, -2.5, math.inf, math.nan, 0.0] * 40).to(dtype)
    made = compiled(lambda x: torch.native_dropout(x, 0.2, True), x)
    found, kept = seeded(25, made, x)
    assert kept.dtype == torch.bool and 0 < kept.sum() < kept.numel()
    expected = (x.double() * kept / 0.8).to(dtype)
    torch.testing.assert_close(found, expected, equal_nan=True)


# Disk, GPUs

SCRIPT = """
import sys, torch, tracejit
import torch.nn.functional as F
def f(x):
    return F.dropout(x, 0.5) + torch.randn_like(x)
made = tracejit.compile(f, backend=sys.argv[1], numerics=sys.argv[2], wait=True)
x = torch.ones(64)
torch.manual_seed(1)
first = made(x)
torch.manual_seed(1)
print(first.tolist() == f(x).tolist())
torch.manual_seed(1)
print(made(x).sum().item())
"""


def test_a_second_process_finds_the_plan(tmp_path) -> None:
    """Its first call is fast already; eager numerics keep plans of their own."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "TRACEJIT_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": "."}

    def run(numerics: str) -> list[str]:
        command = [sys.executable, str(script), BACKEND, numerics]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return done.stdout.split()

    (was_eager, total), (found, again) = run("fast"), run("fast")
    assert (was_eager, found) == ("True", "False")
    assert total == again
    assert [run("eager")[0] for _ in range(2)] == ["True", "True"]


@pytest.mark.parametrize("target", ["cuda:90", "hip:gfx942"])
@pytest.mark.parametrize("name", ["dropout", "several", "randn of f64", "softmax, dropped"])
def test_for_a_gpu(target: str, name: str) -> None:
    """Compiled without one; the key is drawn there, so nothing waits for it."""
    f, args = PROGRAMS[name]
    _, recording = record(f, args, {})
    built = compiler.Pipeline(target, "fast").build(recording.graph)
    assert re.search(r"= tj_keys\(\d, device=cuda\)", built.plan)
    assert not any("rand" in op or "drop" in op for op in built.manifest["externs"].values())
    assert any("philox(" in kernel.text for kernel in built.kernels.values())
    assert all(b is not None and b.code and not b.spills for b in built.binaries.values())


def test_probabilities_on_a_gpu_are_checked_by_the_library() -> None:
    _, recording = record(lambda p: torch.bernoulli(p), (P,), {})
    built = compiler.Pipeline("cuda:90", "fast").build(recording.graph)
    assert set(built.manifest["externs"].values()) == {"aten.bernoulli"}

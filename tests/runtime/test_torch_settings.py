"""torch's settings that a call asks for, or sets, and the default dtype that is set inside."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of
from tracejit.runtime import settings
from tracejit.trace import purity


@pytest.fixture(autouse=True)
def unchanged() -> Iterator[None]:
    """Every setting is afterwards what it was."""
    before = {name: settings.read(name) for name in settings.SETTINGS}
    yield
    for name, value in before.items():
        if settings.read(name) != value:
            settings.write(name, value)


def compiled(f: Callable[..., Any]) -> Callable[..., Any]:
    return tracejit.compile(f, backend=BACKEND, wait=True)


def reasons(f: Any) -> list[str]:
    return [str(reason) for reason in dispatcher_of(f).reasons]


def others(value: Any) -> Any:
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, tuple):
        return value[::-1]
    return torch.float64 if isinstance(value, torch.dtype) else None


def test_every_setting_is_written_as_it_is_read() -> None:
    assert len(CHANGED) > 10
    for name in CHANGED:
        before = settings.read(name)
        other = others(before)
        settings.write(name, other)
        assert settings.read(name) == other, name
        settings.write(name, before)
        assert settings.read(name) == before, name


CHANGED = sorted(
    name
    for names in settings.SETS.values()
    for name in names
    if others(settings.read(name)) is not None
)


@pytest.mark.parametrize("name", CHANGED)
def test_what_a_call_asks_for_is_guarded(name: str) -> None:
    other = others(settings.read(name))
    ask = getattr(torch._C, name)

    def f(x: torch.Tensor) -> tuple[torch.Tensor, str]:
        return x * 2, str(ask())

    g, x = compiled(f), torch.ones(3)
    first = [g(x)[1] for _ in range(3)]
    settings.write(name, other)
    assert g(x)[1] == g(x)[1] == f(x)[1] != first[0]
    assert not reasons(g)


def test_the_usual_names() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        if torch.backends.cudnn.benchmark or not torch.backends.mkldnn.enabled:
            return x * 3
        return x * (2 + torch.backends.cuda.flash_sdp_enabled())

    g, x = compiled(f), torch.ones(3)
    for _ in range(3):
        assert g(x).equal(f(x))
    with torch.backends.cudnn.flags(benchmark=True):
        assert g(x).equal(x * 3)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        assert g(x).equal(x * 2)
    with torch.backends.mkldnn.flags(enabled=False):
        assert g(x).equal(x * 3)
    assert g(x).equal(f(x))
    assert not reasons(g)


def test_what_a_call_sets_is_set_again() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        torch.backends.cuda.enable_flash_sdp(False)
        torch.set_default_dtype(torch.float64)
        return x * 2

    g, x = compiled(f), torch.ones(3)
    for _ in range(4):
        torch.backends.cuda.enable_flash_sdp(True)
        torch.set_default_dtype(torch.float32)
        assert g(x).equal(x * 2)
        assert not torch.backends.cuda.flash_sdp_enabled()
        assert torch.get_default_dtype() is torch.float64
    for _ in range(3):  # set already: then set again to the same
        assert g(x).equal(x * 2)
        assert not torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(True)
    g(x)
    assert not torch.backends.cuda.flash_sdp_enabled()
    assert not reasons(g)


def test_set_and_put_back() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            asked = torch.backends.cuda.flash_sdp_enabled()
            return torch.nn.functional.scaled_dot_product_attention(x, x, x) + asked

    g, x = compiled(f), torch.randn(1, 2, 8, 4)
    for _ in range(3):
        torch.testing.assert_close(g(x), f(x))
        assert torch.backends.cuda.flash_sdp_enabled()
    torch.backends.cuda.enable_flash_sdp(False)
    torch.testing.assert_close(g(x), f(x))
    assert not torch.backends.cuda.flash_sdp_enabled()
    assert not reasons(g)


def test_anomaly_mode_is_asked_for_and_set() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        with torch.autograd.set_detect_anomaly(True):
            return x * 2 + torch.is_anomaly_enabled()

    g, x = compiled(f), torch.ones(3)
    for _ in range(3):
        assert g(x).equal(x * 3)
        assert not torch.is_anomaly_enabled()
    assert not reasons(g)


def test_setters_without_a_row_are_not_pure() -> None:
    for name in ("set_flush_denormal", "set_num_interop_threads", "_set_thread_name"):
        assert purity._sets(name)
    for name in ("_set_grad_enabled", "set_autocast_enabled", "is_grad_enabled"):
        assert not purity._sets(name)


DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PROGRAMS: dict[str, Callable[..., Any]] = {
    "true_divide": lambda i, b: i / 3,
    "true_divide of two": lambda i, b: i / (i * i + 1),
    "number": lambda i, b: i + 1.7,
    "bool": lambda i, b: b * 0.3,
    "complex": lambda i, b: i + 2j,
    "comparison": lambda i, b: i > 16777216.5,
    "function": lambda i, b: i.sin() + b.exp(),
    "factory": lambda i, b: torch.ones(3) / 3 + torch.full((3,), 0.1) + torch.arange(3) * 0.5,
    "constant": lambda i, b: torch.tensor(0.1) + i,
    "linspace": lambda i, b: torch.linspace(0, 1, 5) * i.sum(),
    "power": lambda i, b: i.abs() ** 0.5,
    "where": lambda i, b: torch.where(b, 0.1, 0.2) + torch.where(b, i, 0.5),
    "in place": lambda i, b: (i + 0).mul_(3).add_(2) / 7,
    "clamp": lambda i, b: i.clamp(min=0.5),
    "sum": lambda i, b: i.sum() * 0.1 + (i / 3).mean(),
    "cat": lambda i, b: torch.cat([i / 3, i]),
    "random": lambda i, b: torch.zeros(3) + i,
}


@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("inside", DTYPES)
@pytest.mark.parametrize("around", DTYPES[:3])
def test_default_dtype(name: str, inside: torch.dtype, around: torch.dtype) -> None:
    program = PROGRAMS[name]

    def f(i: torch.Tensor, b: torch.Tensor) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(inside)
        y = program(i, b)
        torch.set_default_dtype(before)
        return y, program(i, b)

    i, b = torch.tensor([5, -7, 16777217]), torch.tensor([True, False, True])
    torch.set_default_dtype(around)
    g = compiled(f)
    for _ in range(3):
        for found, wanted in zip(g(i, b), f(i, b)):
            assert found.dtype is wanted.dtype
            torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, equal_nan=True)
    assert torch.get_default_dtype() is around
    torch.set_default_dtype(torch.float32)
    for found, wanted in zip(g(i, b), f(i, b)):
        assert found.dtype is wanted.dtype
        torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0, equal_nan=True)


def test_default_dtype_compiled() -> None:
    """Most of the programs above run plans."""
    eager = []
    for name, program in PROGRAMS.items():

        def f(i: torch.Tensor, b: torch.Tensor, program: Any = program) -> Any:
            torch.set_default_dtype(torch.float64)
            return program(i, b)

        g = compiled(f)
        for _ in range(2):
            torch.set_default_dtype(torch.float32)
            g(torch.tensor([5, -7, 8]), torch.tensor([True, False, True]))
        if reasons(g):
            eager.append((name, reasons(g)))
    assert not eager


def test_explain_names_the_setting() -> None:
    g, x = compiled(lambda x: x * 2 if torch.backends.cudnn.enabled else x), torch.ones(3)
    g(x)
    assert "torch's setting _get_cudnn_enabled is True" in str(tracejit.explain(g))


@pytest.mark.parametrize("dtype", [*DTYPES, torch.int64, torch.uint8, torch.bool])
def test_memory_that_a_deterministic_mode_fills(dtype: torch.dtype) -> None:
    def f(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = torch.empty(2, 3, dtype=dtype)
        return made, x.new_empty(3) + x, torch.empty_like(x) * 2

    def plain(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (torch.empty(2, 3, dtype=dtype).shape, x * 2)  # type: ignore[return-value]

    g, h, x = compiled(f), compiled(plain), torch.ones(3)
    torch.use_deterministic_algorithms(True)
    try:
        for _ in range(3):
            torch.testing.assert_close(g(x), f(x), equal_nan=True)
        assert not reasons(g)
    finally:
        torch.use_deterministic_algorithms(False)
    for _ in range(3):
        assert h(x)[1].equal(x * 2)
    assert not reasons(h)


def test_whether_memory_is_filled_is_noticed() -> None:
    g, x = compiled(lambda x: torch.empty(4) * x), torch.zeros(4)
    torch.use_deterministic_algorithms(True)
    try:
        assert all(g(x).isnan().all() for _ in range(3))
        torch.utils.deterministic.fill_uninitialized_memory = False
        g(x)
        assert len(dispatcher_of(g).entries) == 2
        torch.utils.deterministic.fill_uninitialized_memory = True
        assert g(x).isnan().all()
        assert len(dispatcher_of(g).entries) == 2
    finally:
        torch.use_deterministic_algorithms(False)
        torch.utils.deterministic.fill_uninitialized_memory = True

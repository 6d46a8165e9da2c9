"""The real thing, small: record a function, compile its kernel for a GPU, store it, find it again,
and run it beside eager. In a temporary cache; part of doctor."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tracejit.cli.doctor.checks import FAULT, MISSING, OK, PACKAGES, Check, isolated
from tracejit.runtime.config import config

TARGET = "cuda:90"
GROUP = "end to end"
SIZES = (4, 64)


def softmax_of(x: Any, w: Any) -> Any:
    """The function that is compiled: one kernel with a reduction."""
    return (x * w + 1.0).softmax(-1)


@contextmanager
def temporary_cache(target: str) -> Iterator[None]:
    """An empty cache, and this target, while the check runs."""
    before = config.cache_dir, config.target
    with tempfile.TemporaryDirectory(prefix="tracejit-doctor-") as folder:
        config.cache_dir, config.target = f"{folder}/cache", target
        try:
            yield
        finally:
            config.cache_dir, config.target = before


def end_to_end() -> Iterator[Check]:
    """The steps, each with its time; one that fails ends them."""
    for package in PACKAGES[:2]:  # torch and triton
        try:
            importlib.import_module(package.name)
        except Exception:  # an import may raise anything
            text = f"needs {package.name}, whose import fails"
            yield Check(GROUP, STEPS["compiled_for_gpu"], FAULT, text)
            return
    for step in (compiled_for_gpu, interpreted, native, on_gpu):
        yield from isolated(GROUP, step, STEPS[step.__name__])


STEPS = {
    "compiled_for_gpu": f"compile for {TARGET}",
    "interpreted": "interpreter",
    "native": "native code",
    "on_gpu": "run on the GPU",
}


def _compiled(backend: str) -> Any:
    import tracejit

    return tracejit.compile(softmax_of, backend=backend, wait=True, strict=True)


def _arguments(device: str = "cpu") -> Any:
    import torch

    return torch.randn(SIZES, device=device), torch.randn(SIZES[1], device=device)


def compiled_for_gpu() -> Iterator[Check]:
    """Record, lower and compile to machine code; store it and find it again."""
    import torch

    import tracejit

    with temporary_cache(TARGET), torch.no_grad():
        arguments = _arguments()
        first = _compiled("triton")
        first(*arguments)
        (entry,) = tracejit.explain(first).entries
        (kernel,) = entry.kernels.values()
        binary = kernel.binary
        assert binary is not None and binary.code
        seconds = entry.seconds
        yield Check(
            GROUP,
            STEPS["compiled_for_gpu"],
            OK,
            f"recorded in {seconds['record'] * 1e3:.0f} ms, compiled in "
            f"{seconds['compile'] * 1e3:.0f} ms: {len(binary.code):,} bytes of {binary.kind}, "
            f"{binary.registers} registers",
            facts=dict(seconds) | {"registers": binary.registers, "bytes": len(binary.code)},
        )
        again = _compiled("triton")
        again(*arguments)
        (entry,) = tracejit.explain(again).entries
        found = entry.source == "disk"
        text = f"found again in {entry.seconds['load'] * 1e3:.1f} ms" if found else "not found"
        yield Check(GROUP, "store", OK if found else FAULT, text, facts=dict(entry.seconds))


def interpreted() -> Iterator[Check]:
    """The same kernel in Triton's interpreter, beside eager."""
    if importlib.util.find_spec("numpy") is None:
        command = next(p for p in PACKAGES if p.name == "numpy").command
        yield Check(GROUP, STEPS["interpreted"], MISSING, "needs numpy", command)
        return
    yield _beside_eager("interpret", "cpu", STEPS["interpreted"])


def native() -> Iterator[Check]:
    """The same loop nest as code for this CPU, beside eager."""
    from tracejit.runtime import cpu

    if missing := cpu.lacking():
        command = next(p for p in PACKAGES if p.name == "llvmlite").command
        yield Check(GROUP, STEPS["native"], MISSING, missing, command)
        return
    yield _beside_eager("native", "cpu", STEPS["native"])


def on_gpu() -> Iterator[Check]:
    """The same on the GPU, if there is one."""
    import torch

    if torch.cuda.is_available():
        yield _beside_eager("triton", "cuda", STEPS["on_gpu"])


def _beside_eager(backend: str, device: str, name: str) -> Check:
    """Compile on the first call, run on the second, and compare with eager."""
    import torch

    with temporary_cache(""), torch.no_grad():
        arguments = _arguments(device)
        function = _compiled(backend)
        function(*arguments)
        start = time.perf_counter()
        found = function(*arguments)
        seconds = time.perf_counter() - start
        difference = float((found - softmax_of(*arguments)).abs().max())
    equal = difference < 1e-6
    words = f"equal to eager (off by {difference:.1g})" if equal else f"off by {difference:.3g}"
    facts = {"seconds": seconds, "difference": difference}
    text = f"{words}, {seconds * 1e3:.1f} ms"
    return Check(GROUP, name, OK if equal else FAULT, text, facts=facts)

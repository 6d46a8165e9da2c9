"""The generators by kind of target: one row each, imported when it is first used."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from tracejit.runtime.kernel import Binary, KernelSource

# Kind of target -> the function that makes a KernelSource of a nest, and the one that compiles
# sources (none where kernels run from their text).
ROWS: dict[str, tuple[str, str]] = {
    "cuda": ("tracejit.codegen.triton.generate", "tracejit.codegen.triton.offline"),
    "hip": ("tracejit.codegen.triton.generate", "tracejit.codegen.triton.offline"),
    "interpret": ("tracejit.codegen.triton.generate", ""),
    "reference": ("tracejit.fuse.reference", ""),
    "native": ("tracejit.codegen.native.generate", "tracejit.codegen.native.objects"),
}


@dataclass(frozen=True)
class Generator:
    """`source(nest, name, target=…)` makes a kernel's source; `compile(sources, target=…)` machine
    code, in order and as soon as it is there."""

    source: Callable[..., KernelSource]
    compile: Callable[..., Iterable[Binary]] | None


def generator_for(kind: str) -> Generator:
    """The generator of a kind of target ("cuda" of "cuda:90"). ValueError for an unknown one."""
    if kind not in ROWS:
        raise ValueError(f"no generator makes kernels for {kind!r}; known are {', '.join(ROWS)}")
    source, compiler = ROWS[kind]
    compile: Any = import_module(compiler).compile_kernels if compiler else None
    return Generator(import_module(source).generate, compile)

"""Runs a kernel's text under Triton's interpreter, on CPU tensors.

`triton.language` is patched only while a kernel runs, so that kernels can be compiled in the same
process without TRITON_INTERPRET. Triton's interpreter combines reductions one element at a time in
Python and cuts bf16 instead of rounding; here whole blocks are combined, and bf16 is rounded as in
hardware.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from tracejit.runtime import private
from tracejit.runtime.devices.base import Launchable, check_spans, execute
from tracejit.runtime.devices.interpret_math import Library
from tracejit.runtime.forks import gate
from tracejit.runtime.kernel import Binary, KernelSource


def load(source: KernelSource, binary: Binary | None) -> Launchable:
    """The kernel, run from its text; a binary is not looked at."""
    return Interpreted(source)


class Interpreted:
    """A kernel's text as a function of CPU tensors."""

    def __init__(self, source: KernelSource) -> None:
        self.source = source
        namespace = execute(source)
        for name, value in list(namespace.items()):
            if hasattr(value, "fn") and callable(
                value.fn
            ):  # what @triton.jit made: the plain function inside
                namespace[name] = value.fn
        if "libdevice" in namespace:
            namespace["libdevice"] = Library()
        self.function: Callable[..., None] = namespace[source.name]
        self.types = [private.triton_type(kind) for _, kind in source.params]

    def __call__(self, *tensors: torch.Tensor) -> None:
        """Run all programs, one after another. Raises ValueError for tensors that the kernel would
        reach beyond."""
        check_spans(self.source, tensors)
        with interpreting() as builder:
            builder.set_grid_dim(self.source.grid, 1, 1)
            pointers = [pointer(t, kind) for t, kind in zip(tensors, self.types, strict=True)]
            for program in range(self.source.grid):
                builder.set_grid_idx(program, 0, 0)
                self.function(*pointers, **self.source.constants)


def pointer(tensor: torch.Tensor, kind: Any) -> Any:
    """A tensor's memory as the interpreter's pointer."""
    import triton.language as tl

    handle = private.triton_interpreter().TensorHandle(
        np.array([tensor.data_ptr()], dtype=np.uint64), kind
    )
    return tl.tensor(handle, kind)


@contextmanager
def interpreting() -> Iterator[Any]:
    """`triton.language` computes with NumPy inside. Yields the builder, which holds the grid and
    program index."""
    interpreter = private.triton_interpreter()
    semantic = rounding_semantic()
    with gate, private.triton_language, np.errstate(all="ignore"):
        apply, restore = patches(semantic)
        before = interpreter.interpreter_semantic
        interpreter.interpreter_semantic = semantic
        put_back(apply)
        changed = replace_combining()
        try:
            yield semantic.builder
        finally:
            put_back(changed)
            put_back(restore)
            interpreter.interpreter_semantic = before


@functools.cache
def patches(semantic: Any) -> tuple[list[tuple[Any, str, Any]], list[tuple[Any, str, Any]]]:
    """What interpreting with this semantic changes in `triton.language`: (object, attribute, value)
    to apply, and to put back.

    Found by letting the interpreter patch it once and comparing, because that takes milliseconds
    and setting the attributes microseconds. A missing attribute is put back as `patches`.
    """
    import triton.language as tl

    core = (tl.core, tl.math, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base, tl.condition)
    before = [(place, dict(vars(place))) for place in (tl, *core)]
    private.patch_triton_language(semantic)
    apply, restore = [], []
    for place, old in before:
        for name, value in vars(place).items():
            if name not in old or old[name] is not value:
                apply.append((place, name, value))
                restore.append((place, name, old.get(name, patches)))
    put_back(restore)
    return apply, restore


def put_back(changes: list[tuple[Any, str, Any]]) -> None:
    """Set attributes, or delete those whose value says that there was none."""
    for place, name, value in changes:
        if value is patches:
            delattr(place, name)
        else:
            setattr(place, name, value)


def replace_combining() -> list[tuple[Any, str, Any]]:
    """Put `reduce` and `associative_scan` below in place of the interpreter's; returns what puts
    them back."""
    import triton.language as tl

    before = []
    for place in (tl, tl.core):
        for name, function in (("reduce", reduce), ("associative_scan", associative_scan)):
            before.append((place, name, getattr(place, name)))
            setattr(place, name, function)
    return before


@functools.cache
def rounding_semantic() -> Any:
    """The interpreter's semantic on a builder that converts to and from bf16 as hardware does."""
    import triton.language as tl

    interpreter = private.triton_interpreter()
    base: Any = interpreter.InterpreterBuilder

    class Builder(base):  # type: ignore[misc]  # Triton has no types
        options: Any

        def __init__(self) -> None:
            super().__init__()
            self.options = type(self.options)(
                sanitize_overflow=False
            )  # integers wrap; nothing is checked

        def create_minnumf(self, lhs: Any, rhs: Any) -> Any:
            return self.binary_op(lhs, rhs, np.fmin)  # NaN loses; in triton 3.6 it wins

        def create_maxnumf(self, lhs: Any, rhs: Any) -> Any:
            return self.binary_op(lhs, rhs, np.fmax)

        def create_splat(self, ret_ty: Any, arg: Any) -> Any:
            data = arg.data.reshape(-1)[0]  # a scalar comparison's handle has its operands' dtype
            return interpreter.TensorHandle(
                np.full(ret_ty.shape, data, arg.data.dtype), arg.dtype.scalar
            )

        def get_all_ones_value(self, type: Any) -> Any:
            zero = self.get_null_value(type).data  # in triton 3.6 unsigned integers overflow here
            return interpreter.TensorHandle(~zero, type.scalar)

        def get_bf16(self, value: float) -> Any:
            return self.create_fp_trunc(self.get_fp32(value), tl.bfloat16)  # triton 3.6 has none

        def cast_impl(self, src: Any, dst_type: Any) -> Any:
            have, want = src.dtype.scalar, dst_type.scalar
            if tl.bfloat16 not in (have, want):
                return super().cast_impl(src, dst_type)
            handle = interpreter.TensorHandle
            data = widen_bf16(src.data) if have == tl.bfloat16 else src.data
            if want == tl.bfloat16:
                return handle(round_bf16(data.astype(np.float32)), tl.bfloat16)
            return super().cast_impl(handle(data, tl.float32), dst_type)

    return private.triton_semantic(Builder())


def widen_bf16(bits: Any) -> Any:
    """bf16 stored as uint16 to fp32: exact."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)


def round_bf16(values: Any) -> Any:
    """fp32 to bf16 stored as uint16: to nearest, ties to even; NaN stays NaN."""
    bits = values.view(np.uint32)
    rounded = (bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> np.uint32(16)
    return np.where(np.isnan(values), np.uint32(0x7FC0), rounded).astype(np.uint16)


def reduce(input: Any, axis: int, combine_fn: Any, keep_dims: bool = False, **_: Any) -> Any:
    """`tl.reduce`: the halves of a block are combined until one slice is left."""
    parts = list(input) if isinstance(input, tuple) else [input]
    blocks = [np.moveaxis(p.handle.data, axis, 0) for p in parts]
    types = [p.dtype for p in parts]
    while (size := blocks[0].shape[0]) > 1:
        half = size // 2
        lower = [wrap(b[:half], t) for b, t in zip(blocks, types, strict=True)]
        upper = [wrap(b[half:], t) for b, t in zip(blocks, types, strict=True)]
        blocks = combined(combine_fn, lower, upper)
    results = [np.moveaxis(b, 0, axis) if keep_dims else b[0] for b in blocks]
    wrapped = tuple(wrap(np.asarray(r), t) for r, t in zip(results, types, strict=True))
    return wrapped if isinstance(input, tuple) else wrapped[0]


def associative_scan(
    input: Any, axis: int, combine_fn: Any, reverse: bool = False, **_: Any
) -> Any:
    """`tl.associative_scan`: each element is combined with the one 1, 2, 4 … before it."""
    if reverse:
        raise NotImplementedError("no generated kernel scans backwards")
    parts = list(input) if isinstance(input, tuple) else [input]
    blocks = [np.moveaxis(p.handle.data, axis, 0) for p in parts]
    types = [p.dtype for p in parts]
    step = 1
    while step < blocks[0].shape[0]:
        before = [wrap(np.roll(b, step, axis=0), t) for b, t in zip(blocks, types, strict=True)]
        here = [wrap(b, t) for b, t in zip(blocks, types, strict=True)]
        new = combined(
            combine_fn, before, here
        )  # of whole blocks, since Triton's have powers of two
        blocks = [np.concatenate([b[:step], n[step:]]) for b, n in zip(blocks, new, strict=True)]
        step *= 2
    results = tuple(wrap(np.moveaxis(b, 0, axis), t) for b, t in zip(blocks, types, strict=True))
    return results if isinstance(input, tuple) else results[0]


def combined(combine_fn: Any, left: list[Any], right: list[Any]) -> list[Any]:
    """The arrays that the combining function gives for two lists of blocks."""
    result = getattr(combine_fn, "fn", combine_fn)(*left, *right)
    results = result if isinstance(result, tuple) else (result,)
    return [r.handle.data for r in results]


def wrap(data: Any, dtype: Any) -> Any:
    """An array as the interpreter's tensor; one without dimensions is a scalar, which it holds in
    one element."""
    import triton.language as tl

    handle = private.triton_interpreter().TensorHandle
    if data.ndim == 0:
        return tl.tensor(handle(data.reshape(1), dtype), dtype)
    return tl.tensor(handle(data, dtype), tl.block_type(dtype, list(data.shape)))

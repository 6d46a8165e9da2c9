"""Whether a call happens inside something that must see the function's own operations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tracejit.runtime import private


def traced() -> bool:
    """True inside another tracer: a dispatch mode (fake tensors, make_fx, a recording), a functorch
    transform, torch.jit.trace, Dynamo, a function mode other than a default device, or a level of
    forward-mode differentiation. The plain function runs there."""
    return bool(
        private.dispatch_modes()
        or private.functorch() is not None
        or (private.function_modes() and foreign_function_mode())
        or private.jit_tracing() is not None
        or _is_compiling()
        or private.dual_level() >= 0
    )


def recording() -> bool:
    """Whether this thread is recording a call of ours."""
    return bool(getattr(_recordings, "depth", 0))


@contextmanager
def being_recorded() -> Iterator[None]:
    """Surrounds a call that is recorded."""
    _recordings.depth = getattr(_recordings, "depth", 0) + 1
    try:
        yield
    finally:
        _recordings.depth -= 1


_recordings = threading.local()
_is_compiling = torch.compiler.is_compiling


def foreign_function_mode() -> bool:
    """Whether an active function mode is more than `torch.device` as a context."""
    return not all(map(private.is_device_context, private.function_mode_stack()))

"""tracejit: a just-in-time compiler for PyTorch that shows its work.

    @tracejit.compile
    def f(x, w): ...

Importing it loads nothing: what it holds is imported when it is first used, torch too, so that the
command line answers at once. Compiling imports no tracer, generator or sympy before a call needs
them: a stored plan runs without. The settings are read, and checked, at the first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tracejit.runtime.errors import TracejitError
from tracejit.runtime.version import VERSION as __version__

if TYPE_CHECKING:
    from tracejit.ahead import build
    from tracejit.api import compile
    from tracejit.report import explain, last_traces
    from tracejit.runtime.bundle import load

__all__ = ["TracejitError", "__version__", "build", "compile", "explain", "last_traces", "load"]

# Loaded when first asked for (PEP 562).
_LATER = {
    "build": "tracejit.ahead",
    "compile": "tracejit.api",
    "explain": "tracejit.report",
    "last_traces": "tracejit.report",
    "load": "tracejit.runtime.bundle",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module 'tracejit' has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(_LATER[name]), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})

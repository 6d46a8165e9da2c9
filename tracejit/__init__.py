"""tracejit: a just-in-time compiler for PyTorch that shows its work.

    @tracejit.compile
    def f(x, w): ...

Importing it loads neither the tracer nor the generators nor sympy: a stored plan runs without them.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tracejit.api import compile
from tracejit.runtime.cache import VERSION as __version__
from tracejit.runtime.errors import TracejitError

if TYPE_CHECKING:
    from tracejit.ahead import build
    from tracejit.report import explain, last_traces
    from tracejit.runtime.bundle import load

__all__ = ["TracejitError", "__version__", "build", "compile", "explain", "last_traces", "load"]

# Loaded when first asked for (PEP 562).
_LATER = {
    "build": "tracejit.ahead",
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

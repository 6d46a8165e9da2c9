"""What is common to the devices."""

from __future__ import annotations

import linecache
from collections.abc import Callable
from typing import Any

from tracejit.runtime.kernel import KernelSource

# A loaded kernel: takes one tensor for each parameter, in order; outputs are written in place.
Launchable = Callable[..., None]


def execute(source: KernelSource) -> dict[str, Any]:
    """The namespace that a kernel's text leaves behind; tracebacks through it show its lines."""
    file = f"<tracejit kernel {source.name}>"
    linecache.cache[file] = (len(source.text), None, source.text.splitlines(keepends=True), file)
    namespace: dict[str, Any] = {"__name__": f"tracejit_kernel_{source.name}"}
    exec(compile(source.text, file, "exec"), namespace)
    return namespace

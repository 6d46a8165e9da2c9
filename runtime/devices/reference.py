"""Runs kernels that are plain torch: what `tracejit.fuse.reference` writes for a nest. For
bisecting a wrong result.
"""

from __future__ import annotations

from tracejit.runtime.devices.base import Launchable, execute
from tracejit.runtime.kernel import Binary, KernelSource


def load(source: KernelSource, binary: Binary | None) -> Launchable:
    """The function that the text defines; a binary is not looked at."""
    launchable: Launchable = execute(source)[source.name]
    return launchable

"""Runs kernels that are plain torch: what `tracejit.fuse.reference` writes for a nest. For
bisecting a wrong result.
"""

from __future__ import annotations

import torch

from tracejit.runtime.devices.base import Launchable, execute
from tracejit.runtime.kernel import Binary, KernelSource


class Reference:
    """The device "reference": any device that torch has."""

    def load(self, source: KernelSource, binary: Binary | None = None) -> Launchable:
        """The function that the text defines; a binary is not looked at."""
        launchable: Launchable = execute(source)[source.name]
        return launchable

    def synchronize(self) -> None:
        """Wait for the GPU, if torch has used one."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()

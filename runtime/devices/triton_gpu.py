"""Launches compiled kernels on CUDA and HIP devices through Triton's driver, without compiling
anything.

A kernel is loaded on a device when it is first launched there. Alignment is looked at in each
launch: the machine code assumes 16 bytes, so a tensor that begins elsewhere is copied first, and an
output copied back.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch

from tracejit.runtime import private
from tracejit.runtime.devices.base import Launchable
from tracejit.runtime.kernel import Binary, KernelSource

ALIGNED = 16  # bytes that the machine code assumes of every pointer in `divisible`


def load(source: KernelSource, binary: Binary | None) -> Launchable:
    """The kernel from its machine code. Raises ValueError without it."""
    if binary is None:
        raise ValueError(f"{source.name} has no machine code for {source.target}")
    return GPUKernel(source, binary)


class GPUKernel:
    """A compiled kernel. Launches go to the current stream of the tensors' device."""

    def __init__(self, source: KernelSource, binary: Binary) -> None:
        self.source, self.binary = source, binary
        self.spans = source.spans
        self.checked = tuple(
            k for k, (name, _) in enumerate(source.params) if name in source.divisible
        )
        self.written = frozenset(
            k for k, (name, _) in enumerate(source.params) if name in source.outputs
        )
        self.constants = tuple(source.constants.values())
        self._launch: dict[int, Callable[..., None]] = {}

    def __call__(self, *tensors: torch.Tensor) -> None:
        """Launch; returns before the kernel is done."""
        if self.source.grid == 0:
            return
        index = tensors[0].get_device()
        launch = self._launch.get(index)
        if launch is None:
            launch = self._launch[index] = self._load(index)
        for k in self.checked:
            if tensors[k].data_ptr() % ALIGNED:
                self._launch_aligned(launch, tensors)
                return
        launch(*tensors, *self.constants)

    def _launch_aligned(
        self, launch: Callable[..., None], tensors: tuple[torch.Tensor, ...]
    ) -> None:
        """Launch on aligned copies of the tensors that are not aligned."""
        copies = {
            k: flat(tensors[k], self.spans[k])
            for k in self.checked
            if tensors[k].data_ptr() % ALIGNED
        }
        moved = [copies[k].clone() if k in copies else t for k, t in enumerate(tensors)]
        launch(*moved, *self.constants)
        for k in copies.keys() & self.written:
            copies[k].copy_(moved[k])

    def _load(self, index: int) -> Callable[..., None]:
        """Load the machine code on one device and bind everything that stays the same from launch
        to launch."""
        driver = private.triton_driver()
        binary, grid = self.binary, self.source.grid
        metadata = binary.metadata
        with torch.cuda.device(index):
            run = driver.launcher_cls(self._description(), named(metadata))
            loaded = driver.utils.load_binary(metadata["name"], binary.code, binary.shared, index)
        function = loaded[1]
        packed = (metadata["num_warps"], metadata["num_ctas"], binary.shared)
        stream_of = driver.get_current_stream

        def launch(*arguments: Any) -> None:
            run(grid, 1, 1, stream_of(index), function, packed, None, None, None, *arguments)

        return launch

    def _description(self) -> Any:
        """What Triton's launcher reads of a source: parameter names, their types, and which are
        constants."""
        constants = dict.fromkeys(self.source.constants, "constexpr")
        types = {**dict(self.source.params), **constants}
        names = list(types)
        values = {(names.index(name),): value for name, value in self.source.constants.items()}
        return SimpleNamespace(
            signature=types, constants=values, fn=SimpleNamespace(arg_names=names)
        )


def named(metadata: dict[str, Any]) -> Any:
    """The metadata as attributes, which is how Triton's launcher reads it."""
    return namedtuple("KernelMetadata", sorted(metadata))(**metadata)


def flat(tensor: torch.Tensor, span: int) -> torch.Tensor:
    """The memory that a kernel may reach through a tensor, one-dimensional."""
    return tensor.as_strided((span,), (1,))

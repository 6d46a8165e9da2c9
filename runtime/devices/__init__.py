"""Where kernels run, behind one small interface. Choosing a device is a table; a row is loaded when
it is first used.

`load(source, binary)` makes a KernelSource callable on tensors, in the order of its parameters.
"""

from __future__ import annotations

import functools
from importlib import import_module

from tracejit.runtime.devices.base import Device, Launchable
from tracejit.runtime.kernel import Binary, KernelSource

# Kind of target -> module and class. Nothing of it is imported here: triton is not needed until a
# kernel is loaded.
DEVICES: dict[str, tuple[str, str]] = {
    "cuda": ("tracejit.runtime.devices.triton_gpu", "TritonGPU"),
    "hip": ("tracejit.runtime.devices.triton_gpu", "TritonGPU"),
    "interpret": ("tracejit.runtime.devices.interpret", "Interpreter"),
    "reference": ("tracejit.runtime.devices.reference", "Reference"),
    "native": ("tracejit.runtime.devices.native", "Native"),
}


@functools.cache
def device_for(kind: str) -> Device:
    """The device for a kind of target ("cuda" of "cuda:90"). ValueError for an unknown one."""
    if kind not in DEVICES:
        raise ValueError(f"no device runs target {kind!r}; known are {', '.join(DEVICES)}")
    module, name = DEVICES[kind]
    device: Device = getattr(import_module(module), name)()
    return device


def load(source: KernelSource, binary: Binary | None = None) -> Launchable:
    """A kernel as a function of tensors. GPUs need the binary; the others run the source's text."""
    if binary is not None and binary.compiled is not None:
        source = binary.compiled  # the compiler settled for other tiles than those asked for
    return device_for(source.target.split(":")[0]).load(source, binary)


def synchronize(target: str) -> None:
    """Wait until what was launched for `target` is done."""
    device_for(target.split(":")[0]).synchronize()


__all__ = ["DEVICES", "Device", "Launchable", "device_for", "load", "synchronize"]

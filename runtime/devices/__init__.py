"""Where kernels run, behind one small interface. Choosing a device is a table; a row is loaded when
it is first used.

`load(source, binary)` makes a KernelSource callable on tensors, in the order of its parameters.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from tracejit.runtime.devices.base import Launchable
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.targets import kind_of

# Kind of target -> the module whose `load` makes kernels for it callable. Nothing of it is imported
# here: triton is not needed until a kernel is loaded.
DEVICES: dict[str, str] = {
    "cuda": "tracejit.runtime.devices.triton_gpu",
    "hip": "tracejit.runtime.devices.triton_gpu",
    "interpret": "tracejit.runtime.devices.interpret",
    "reference": "tracejit.runtime.devices.reference",
    "native": "tracejit.runtime.devices.native",
}
Load = Callable[[KernelSource, Binary | None], Launchable]


def load_for(kind: str) -> Load:
    """`load` for a kind of target ("cuda" of "cuda:90"). ValueError for an unknown one."""
    if kind not in DEVICES:
        raise ValueError(f"no device runs target {kind!r}; known are {', '.join(DEVICES)}")
    found: Load = import_module(DEVICES[kind]).load
    return found


def load(source: KernelSource, binary: Binary | None = None) -> Launchable:
    """A kernel as a function of tensors. GPUs and the native CPU need the binary; the others run
    the source's text."""
    if binary is not None and binary.compiled is not None:
        source = binary.compiled  # the compiler settled for other tiles than those asked for
    return load_for(kind_of(source.target))(source, binary)

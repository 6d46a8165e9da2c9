"""The CPU as a target: `native:` and the name of an instruction set, for which kernels are made.

Code for a level runs on every CPU that has it, so objects can be shared between hosts of one level.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OLDEST = (0, 45)  # llvmlite from which on it has all that is used here


@dataclass(frozen=True)
class Level:
    """One instruction set: LLVM's name for a CPU that has it, the bytes of a vector register and
    how many there are, the flags by which a CPU says so, the end of SLEEF's names in libtorch."""

    name: str
    machine: str  # platform.machine()
    cpu: str
    features: str
    bytes: int
    registers: int
    flags: frozenset[str]
    sleef: str
    masked: bool  # loads and stores with masks for all element sizes

    def lanes(self, bits: int = 32) -> int:
        """Elements of this many bits in a register."""
        return self.bytes * 8 // bits


_V3 = frozenset(["avx2", "fma", "f16c", "bmi2"])
_V4 = _V3 | frozenset(["avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512cd"])
# The best first.
LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("avx512", "x86_64", "x86-64-v4", "-prefer-256-bit", 64, 32, _V4, "avx512f", True),
        Level("avx2", "x86_64", "x86-64-v3", "", 32, 16, _V3, "avx2", False),
        Level("neon", "aarch64", "generic", "", 16, 32, frozenset({"asimd"}), "advsimd", False),
    )
}


def level_of(target: str) -> Level:
    """The level of a target such as "native:avx2". Raises ValueError for an unknown one."""
    name = target.partition(":")[2]
    if name not in LEVELS:
        raise ValueError(f"no CPU target is called {target!r}; known are {', '.join(LEVELS)}")
    return LEVELS[name]


@functools.cache
def host_levels() -> tuple[str, ...]:
    """The levels that this machine runs, the best first."""
    flags, machine = host_flags(), platform.machine()
    return tuple(n for n, lv in LEVELS.items() if lv.machine == machine and lv.flags <= flags)


@functools.cache
def _cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text()
    except OSError:
        return ""


def host_flags() -> frozenset[str]:
    """What the processor says it can do, by the kernel's names; nothing where there is no
    /proc/cpuinfo."""
    found = re.search(r"^(?:flags|Features)\s*:(.*)$", _cpuinfo(), re.MULTILINE)
    return frozenset(found[1].split()) if found else frozenset()


@functools.cache
def host_name() -> str:
    """What tells this processor from others whose timings differ: vendor, family, model, stepping,
    name; what the kernel knows of it."""
    wanted = (
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "model name",
        "CPU implementer",
        "CPU part",
    )
    first = _cpuinfo().partition("\n\n")[0]
    lines = dict(re.findall(r"^([^\t:]+)\s*:\s*(.*)$", first, re.MULTILINE))
    return " ".join(lines[key] for key in wanted if key in lines) or platform.processor()


@functools.cache
def llvm_version() -> str:
    """llvmlite's version, which names its LLVM's; "" if it is not installed. It is not imported."""
    if importlib.util.find_spec("llvmlite") is None:
        return ""
    return importlib.metadata.version("llvmlite")


def lacking() -> str:
    """Why this process cannot make or run native kernels, in a sentence; "" if it can."""
    version = llvm_version()
    if not version:
        return "native kernels need llvmlite: pip install 'tracejit[cpu]'"
    if tuple(map(int, re.findall(r"\d+", version)[:2])) < OLDEST:
        oldest = ".".join(map(str, OLDEST))
        return (
            f"native kernels need llvmlite {oldest} or later, not {version}: "
            "pip install -U llvmlite"
        )
    if not host_levels():
        return (
            f"native kernels need a CPU with {', '.join(LEVELS)}, and this one "
            f"({platform.machine()}) has none of them"
        )
    return ""


@functools.cache
def llvm() -> Any:
    """llvmlite.binding, ready for this machine and for those of LEVELS."""
    import llvmlite.binding as binding

    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()
    return binding


@functools.cache
def loading_machine() -> Any:
    """The target machine with which object code is loaded: it generates nothing."""
    return llvm().Target.from_default_triple().create_target_machine()

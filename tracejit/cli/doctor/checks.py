"""What doctor looks at, one generator for each group of rows. Each imports what it looks at itself,
so that a broken package is a row and not an end."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tracejit.benchmarks.machine import cpuinfo
from tracejit.runtime import config
from tracejit.runtime.version import VERSION
from tracejit.runtime.words import plural

OK, MISSING, FAULT = "ok", "missing", "fault"


@dataclass(frozen=True)
class Check:
    """One row: what was looked at, how it is, and what to do if it is not well."""

    group: str
    name: str
    state: str
    text: str
    advice: str = ""
    facts: dict[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


Probe = Callable[[], Iterator[Check]]


def isolated(group: str, probe: Probe, name: str = "check") -> Iterator[Check]:
    """The rows of a probe; what it raises is a row too, of this name."""
    try:
        yield from probe()
    except Exception as error:  # of any type: it is what the row says
        first = str(error).strip().partition("\n")[0]
        yield Check(group, name, FAULT, f"{type(error).__name__}: {first}")


@dataclass(frozen=True)
class Package:
    """A package that tracejit uses: its oldest supported version, the extra that brings it ("" for
    none), what it is for, and whether its import is tried."""

    name: str
    oldest: str
    extra: str
    use: str
    tried: bool = True
    module: str = ""

    @property
    def command(self) -> str:
        """What installs or upgrades it."""
        return f"pip install 'tracejit[{self.extra}]'" if self.extra else self.upgrade

    @property
    def again(self) -> str:
        """What repairs it."""
        return f"pip install --force-reinstall '{self.name}>={self.oldest}'"

    @property
    def upgrade(self) -> str:
        return f"pip install --upgrade '{self.name}>={self.oldest}'"


PACKAGES = (
    Package("torch", "2.11", "", "what is recorded"),
    Package("triton", "3.6", "", "the language of the kernels"),
    Package("sympy", "1.13.3", "", "the language of sizes"),
    Package("numpy", "1.26", "cpu", "backend='interpret'"),
    Package("llvmlite", "0.45", "cpu", "the native CPU generator"),
    Package("click", "8.1", "cli", "this command"),
    Package("rich", "13", "cli", "its tables"),
    Package("matplotlib", "3.8", "bench", "the plot of tracejit bench", tried=False),
    Package("transformers", "5.0", "bench", "models of tracejit bench", tried=False),
    Package("scikit-learn", "1.5", "bench", "the digits example", tried=False, module="sklearn"),
)
OLDEST_PYTHON = (3, 10)


def versions() -> Iterator[Check]:
    """tracejit, Python, and each package: is it there, does it import, is it new enough?"""
    where = str(Path(__file__).parents[1])
    yield Check("versions", "tracejit", OK, f"{VERSION} in {where}", facts={"version": VERSION})
    python, new_enough = platform.python_version(), sys.version_info >= OLDEST_PYTHON
    yield Check(
        "versions",
        "python",
        OK if new_enough else FAULT,
        f"{python} ({platform.python_implementation()}), {platform.platform()}",
        "" if new_enough else "install Python 3.10 or newer",
        {"version": python, "platform": platform.platform(), "executable": sys.executable},
    )
    for package in PACKAGES:
        yield _package(package)


def _package(package: Package) -> Check:
    module = package.module or package.name
    if importlib.util.find_spec(module) is None:
        state = MISSING if package.extra else FAULT
        text = f"not installed ({package.use})"
        return Check("versions", package.name, state, text, package.command)
    try:
        imported = importlib.import_module(module) if package.tried else None
    except Exception as error:  # an import may raise anything
        text = f"installed, but its import fails: {str(error).strip().partition(chr(10))[0]}"
        return Check("versions", package.name, FAULT, text, package.again)
    version = _version(package.name, imported)
    facts = {"version": version, "oldest": package.oldest, "extra": package.extra}
    if numbers(version) < numbers(package.oldest):
        text = f"{version}, and {package.oldest} is the oldest that is supported"
        return Check("versions", package.name, FAULT, text, package.upgrade, facts)
    return Check("versions", package.name, OK, version, facts=facts)


def _version(name: str, module: Any) -> str:
    """The version that its installation states, else the module itself."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return str(getattr(module, "__version__", "0"))


def numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` as (2, 13, 0)."""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


FEATURES = ("avx2", "fma", "avx512f", "avx512_bf16", "amx_tile", "asimd", "sve", "bf16", "i8mm")


def devices() -> Iterator[Check]:
    """The processor and the GPUs."""
    import torch

    about = cpuinfo()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    words = about.get("flags", about.get("Features", "")).split()
    features = [name for name in FEATURES if name in words]
    model = about.get("model name", platform.processor() or platform.machine())
    threads = torch.get_num_threads()
    yield Check(
        "devices",
        "cpu",
        OK,
        f"{model}, {', '.join(features) or platform.machine()}; {usable} of {os.cpu_count()} cores "
        f"may be used, torch uses {plural(threads, 'thread')}",
        facts={"model": model, "features": features, "usable": usable, "threads": threads},
    )
    yield from _providers()
    yield from _gpus(torch)


def _providers() -> Iterator[Check]:
    """Who computes matrix products and convolutions, as far as it has been measured here."""
    from tracejit.runtime import cpu

    if cpu.lacking():
        return
    from tracejit.codegen.native import providers

    found = providers.kept(f"native:{cpu.host_levels()[0]}")
    if found:
        text = "; ".join(f"{name}: {found[name]['by']}" for name in sorted(found))
        facts = dict[str, Any](found)
        yield Check("devices", "providers", OK, f"quickest here: {text}", facts=facts)


def _gpus(torch: Any) -> Iterator[Check]:
    driver = _driver()
    if not torch.cuda.is_available():
        text = "none: kernels can be compiled for one (TRACEJIT_TARGET), and interpreted"
        advice = ""
        if driver:
            text = f"torch sees none, but there is a driver ({driver})"
            advice = "install a torch with CUDA: https://pytorch.org/get-started/locally"
        yield Check("devices", "gpu", MISSING, text, advice, {"driver": driver})
        return
    from tracejit.runtime.targets import _target_of

    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        target = _target_of(index)
        facts = {"name": about.name, "target": target, "memory": about.total_memory}
        text = f"{about.name} ({target}), {about.total_memory / 2**30:.0f} GiB; driver {driver}"
        yield Check("devices", f"gpu {index}", OK, text, facts=facts | {"driver": driver})


def _driver() -> str:
    """The version of NVIDIA's or AMD's kernel driver; "" if there is none."""
    for name in ("/proc/driver/nvidia/version", "/sys/module/amdgpu/version"):
        try:
            text = Path(name).read_text()
        except OSError:
            continue
        found = re.search(r"\d+\.\d+(\.\d+)?", text)
        return found[0] if found else text.strip()
    return ""


TOOLS = {"ptxas": "machine code for CUDA", "cuobjdump": "", "nvdisasm": "listings of machine code"}


def toolchain() -> Iterator[Check]:
    """The tools in triton's wheel: are they there, do they run?"""
    if importlib.util.find_spec("triton") is None:
        yield Check("toolchain", "ptxas", FAULT, "comes with triton", PACKAGES[1].command)
        return
    from tracejit.runtime import private

    for name, use in TOOLS.items():
        yield _tool(name, use, private)


def _tool(name: str, use: str, private: Any) -> Check:
    state = FAULT if name == "ptxas" else MISSING
    advice = PACKAGES[1].again
    try:
        path = private.triton_ptxas(90) if name == "ptxas" else private.triton_tool(name)
        done = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=30)
    except Exception as error:  # Triton's, or the system's
        return Check("toolchain", name, state, f"{type(error).__name__}: {error}", advice)
    found = re.search(r"release [\d.]+, V([\d.]+)", done.stdout)
    if done.returncode or found is None:
        text = f"does not run: {(done.stderr or done.stdout).strip()[:80]}"
        return Check("toolchain", name, state, text, advice)
    text = f"{found[1]}{f' ({use})' if use else ''}"
    return Check("toolchain", name, OK, text, facts={"path": path, "version": found[1]})


def settings() -> Iterator[Check]:
    """The environment variables in force, and those that look like ours and are none."""
    with warnings.catch_warnings(record=True) as unknown:
        warnings.simplefilter("always")
        config.read(os.environ)
    given = [flag for flag in config.FLAGS if flag.name in os.environ]
    for flag in given:
        value = os.environ[flag.name]
        facts = {"value": value, "default": getattr(config.Config(), flag.field)}
        yield Check("settings", flag.name, OK, f"{value!r}: {flag.about}", facts=facts)
    for warning in unknown:
        text = str(warning.message)
        yield Check("settings", text.split()[0], FAULT, text, f"unset {text.split()[0]}")
    if not given and not unknown:
        yield Check("settings", "environment", OK, "nothing is set: the defaults are in force")

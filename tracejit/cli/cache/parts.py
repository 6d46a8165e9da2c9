"""The texts of an entry: its source, the plan's graph, the stored assembly, and the machine code
disassembled."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tracejit.cli.cache.describe import Subject
from tracejit.runtime import cpu
from tracejit.runtime.errors import TracejitError
from tracejit.runtime.files import Item


def stored(found: Subject) -> dict[str, str]:
    """The texts in the entry's own file, by name."""
    wanted = ("kernel.py", "plan.py", "graph.txt", "assembly")
    parts = found.item.parts
    return {name: parts[name].decode() for name in wanted if parts.get(name)}


def source(found: Subject) -> str:
    """A kernel's source; the plan's text, for a plan or a record."""
    if found.entry.kind == "kernels":
        return found.item.text("kernel.py")
    return _plan(found).text("plan.py")


def graph(found: Subject) -> str:
    """The graph of the plan that the entry is of."""
    item = _plan(found)
    if not item.parts.get("graph.txt"):
        assert found.plan is not None
        raise TracejitError(text=f"plan {found.plan.entry.short} was stored without its graph")
    return item.text("graph.txt")


def assembly(found: Subject) -> str:
    """The assembly of a kernel: PTX, or amdgcn on HIP, as stored; of a native kernel, compiled
    again from its source."""
    if _compiled(found, "assembly") == "object":
        from tracejit.codegen.native.objects import compile_text

        if missing := cpu.lacking():
            raise TracejitError(text=f"{missing}, to compile it again for its assembly")
        level = cpu.level_of(str(found.entry.target))
        return compile_text(found.item.text("kernel.py"), level, assembly=True)[1]
    if not found.item.parts.get("assembly"):
        raise TracejitError(text=f"kernel {found.entry.short} was stored without its assembly")
    return found.item.text("assembly")


def sass(found: Subject) -> str:
    """The machine code of a CUDA kernel, disassembled."""
    binary = _compiled(found, "machine code")
    if binary != "cubin":
        raise TracejitError(
            text=f"kernel {found.entry.short} is for {found.entry.target}, whose assembly is its "
            "machine code one to one: --ptx shows it"
        )
    with tempfile.TemporaryDirectory(prefix="tracejit-") as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(found.item.parts["binary"])
        done = subprocess.run([nvdisasm(), "-c", str(path)], capture_output=True, text=True)
    if done.returncode:
        why = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        raise TracejitError(text=f"nvdisasm does not read kernel {found.entry.short}: {why}")
    return done.stdout


def nvdisasm() -> str:
    """The tool's path, as triton finds it: TRITON_NVDISASM_PATH, triton's wheel, else PATH. Raises
    TracejitError if it is in none of them."""
    spec = importlib.util.find_spec("triton")
    places = [Path(p) for p in spec.submodule_search_locations or ()] if spec else []
    wheel = [str(place / "backends" / "nvidia" / "bin" / "nvdisasm") for place in places]
    for path in (os.environ.get("TRITON_NVDISASM_PATH", ""), *wheel, "nvdisasm"):
        if found := shutil.which(path):
            return found
    raise TracejitError(
        text="--sass needs nvdisasm, which is neither in triton's wheel nor in PATH: "
        "pip install triton, or set TRITON_NVDISASM_PATH"
    )


def _compiled(found: Subject, what: str) -> str:
    """The kind of a kernel's binary. Raises TracejitError for an entry that has none."""
    entry = found.entry
    if entry.kind != "kernels":
        names = found.plan.item.fields["kernels"] if found.plan is not None else {}
        some = ", ".join(f"{key[:12]} ({name})" for name, key in list(names.items())[:4])
        text = f"a {entry.kind[:-1]} has no {what} of its own; ask for a kernel"
        raise TracejitError(text=f"{text}: {some}" if some else text)
    binary = found.item.fields["binary"]
    if binary is None:
        raise TracejitError(
            text=f"kernel {entry.short} has no {what}: for {entry.target} it runs from its source"
        )
    return str(binary["kind"])


def _plan(found: Subject) -> Item:
    if found.plan is None:
        raise TracejitError(
            text=f"no whole plan of {found.entry.kind[:-1]} {found.entry.short} is in the cache"
        )
    return found.plan.item


class Part(NamedTuple):
    """A text that can be asked for, its name in JSON, and its language."""

    text: Callable[[Subject], str]
    file: str
    language: str


# By the option's name.
PARTS: dict[str, Part] = {
    "source": Part(source, "source", "python"),
    "graph": Part(graph, "graph.txt", "python"),
    "ptx": Part(assembly, "assembly", "text"),
    "sass": Part(sass, "sass", "text"),
}

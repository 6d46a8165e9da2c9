"""What is stored on disk, and under which keys: kernels, plans, and records.

    kernels/<key>            a kernel's text, what a launch needs to know, machine code, assembly
    plans/<key>              a plan's text, manifest, kernels' keys, explain's report, the graph
    records/<function>/<key> guards as JSON, how outputs are rebuilt, and the plan they lead to
    hits/<key>               a byte for each process that found the record
    damaged/  locks/         what was set aside; claims of processes that are compiling

A key is the sha256 of everything that can change the result: the content and `environment()`.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import platform
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from tracejit.runtime import cpu, log
from tracejit.runtime.config import config
from tracejit.runtime.directory import default_directory
from tracejit.runtime.files import FORMAT, Item, digest
from tracejit.runtime.kernel import Binary, KernelSource
from tracejit.runtime.store import Store
from tracejit.runtime.version import VERSION

T = TypeVar("T")
MOST_RECORDS = 64  # records of one function that are looked at in a search


@dataclass(frozen=True)
class Kernel:
    """A stored kernel: its source, and its binary where the target has machine code."""

    key: str
    source: KernelSource
    binary: Binary | None = None


@dataclass(frozen=True)
class StoredPlan:
    """A stored plan. `kernels` maps names in the text to kernels; `report` is what explain shows
    (JSON); `graph` is the graph as recorded and after the passes."""

    key: str
    text: str
    manifest: dict[str, Any]
    kernels: dict[str, Kernel]
    report: dict[str, Any] = field(default_factory=dict)
    graph: str = ""


@dataclass(frozen=True)
class Record:
    """A stored record: under these guards, that plan, its outputs rebuilt so. `summary` is one line
    for people."""

    key: str
    guards: dict[str, Any]
    outputs: Any
    plan: str
    summary: str = ""


# What all keys contain: everything outside the program that can change what is generated or how it
# runs. Name -> what it is for a target and numerics. docs/reference.md says the same in words.
ENTRIES: dict[str, Callable[[str, str], str]] = {
    "format": lambda target, numerics: str(FORMAT),
    "tracejit": lambda target, numerics: VERSION,
    "sources": lambda target, numerics: _checkout_state(),
    "torch": lambda target, numerics: "{__version__} {git_version}".format(**_torch_version()),
    "runtime": lambda target, numerics: "cuda {cuda} hip {hip}".format(**_torch_version()),
    "triton": lambda target, numerics: _of(target, _triton_version, without="reference native"),
    "variables": lambda target, numerics: _of(target, _triton_variables, only="cuda hip"),
    "llvm": lambda target, numerics: _of(target, cpu.llvm_version, only="native"),
    "python": lambda target, numerics: _python_version(),
    "machine": lambda target, numerics: platform.machine(),
    "target": lambda target, numerics: target,
    "numerics": lambda target, numerics: numerics,
}
# Variables by which Triton compiles, as it lists them itself (get_cache_invalidating_env_vars), and
# its tools; those that only say where files lie or what is printed are left out.
_COMPILES = re.compile(
    r"TRITON_(?!(CACHE|HOME|DUMP|PRINT|INTERPRET|REPRODUCER|NVDISASM|CUOBJDUMP|KERNEL_DUMP)).*"
    r"|(AMDGCN_USE|ALLOW_LHS|DISABLE_MMA|DISABLE_LLVM|DISABLE_PTXAS|PTXAS|LLVM_PASS|LLVM_EXTRACT)_.*"
)


@functools.cache
def environment(target: str, numerics: str) -> dict[str, str]:
    """ENTRIES for a target and numerics, in this process."""
    return {name: now(target, numerics) for name, now in ENTRIES.items()}


def _of(target: str, now: Callable[[], str], only: str = "", without: str = "") -> str:
    """What `now` gives, for targets of these kinds; "" for others, which it says nothing of."""
    kind = target.partition(":")[0]
    return now() if (not only or kind in only.split()) and kind not in without.split() else ""


def _triton_variables() -> str:
    found = sorted(item for item in os.environ.items() if _COMPILES.fullmatch(item[0]))
    return " ".join(map("=".join, found))


def _python_version() -> str:
    return f"{platform.python_implementation()} {sys.version_info[0]}.{sys.version_info[1]}"


def _torch_version() -> Mapping[str, Any]:
    """The names in torch/version.py, without importing torch: the command line does not wait for
    it."""
    if "torch" in sys.modules:
        return dict(vars(sys.modules["torch"].version))
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return vars(importlib.import_module("torch.version"))
    import runpy

    return runpy.run_path(str(Path(spec.origin).with_name("version.py")))


def _triton_version() -> str:
    """Triton's version without importing it; "" if it is not installed."""
    if "triton" in sys.modules:
        return str(sys.modules["triton"].__version__)
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        return ""
    found = re.search(r"__version__\s*=\s*['\"](.+?)['\"]", Path(spec.origin).read_text())
    if found:
        return found[1]
    import triton

    return str(triton.__version__)


def _checkout_state() -> str:
    """In a source checkout, a digest of the files' sizes and times, so that an edit is a new key;
    else ""."""
    root = Path(__file__).resolve().parent.parent
    if not (root / "tracejit" / "__init__.py").exists() or not (root / "pyproject.toml").exists():
        return ""
    states = []
    for folder in ("tracejit", "codegen", "runtime"):
        for path, _, files in os.walk(root / folder):
            for name in files:
                if name.endswith(".py"):
                    status = os.stat(f"{path}/{name}")
                    states.append(
                        f"{path[len(str(root)) :]}/{name} {status.st_size} {status.st_mtime_ns}"
                    )
    return digest("\n".join(sorted(states)))[:16]


class Cache:
    """Kernels, plans and records in one store."""

    def __init__(self, directory: Path | None = None) -> None:
        self.store = Store(directory or default_directory())
        self._counted: set[tuple[int, str]] = set()  # processes and records: hits that are counted

    # kernels

    @staticmethod
    def kernel_key(source: KernelSource, numerics: str) -> str:
        """The key of a kernel from what it is made of, known before it is compiled."""
        return digest(environment(source.target, numerics), source.to_json())

    def write_kernel(self, kernel: Kernel, where: Mapping[str, str] | None = None) -> bool:
        """Store a kernel, made in the environment `where`; False if the disk does not take it."""
        return self.store.write("kernels", kernel.key, kernel_item(kernel), where)

    def read_kernel(self, key: str) -> Kernel | None:
        """The kernel, or None if it is not stored (or was damaged)."""
        return self._read("kernels", key, functools.partial(kernel_from, key))

    def holds(self, kernel: Kernel) -> bool:
        """Whether the kernel is stored; renews its time."""
        found = self.read_kernel(kernel.key)
        self.store.touch("kernels", kernel.key)
        return found is not None and found.source == kernel.source

    def _read(self, kind: str, key: str, make: Callable[[Item], T | None]) -> T | None:
        """What `make` makes of an item; one that it cannot read is set aside."""
        item = self.store.read(kind, key)
        if item is None:
            return None
        try:
            return make(item)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as problem:
            self.store.set_aside(kind, key, f"it is not as this version writes it ({problem!r})")
            return None

    # plans

    def write_plan(self, plan: StoredPlan, where: Mapping[str, str] | None = None) -> bool:
        """Store a plan and those of its kernels that are not stored yet, kernels first."""
        for kernel in plan.kernels.values():
            if not self.holds(kernel) and not self.write_kernel(kernel, where):
                return False
        return self.store.write("plans", plan.key, plan_item(plan), where)

    def read_plan(self, key: str) -> StoredPlan | None:
        """The plan with all its kernels, or None if any part is missing or damaged."""
        return self._read("plans", key, functools.partial(self._plan, key))

    def _plan(self, key: str, item: Item) -> StoredPlan | None:
        kernels = {}
        for name, kernel_key in item.fields["kernels"].items():
            kernel = self.read_kernel(kernel_key)
            if kernel is None:
                return None
            kernels[name] = kernel
        return plan_from(key, item, kernels)

    def read_report(self, key: str) -> dict[str, Any]:
        """What explain shows of a plan; {} if it is not stored."""
        return self._read("plans", key, report_from) or {}

    # records

    def write_record(
        self, function: str, record: Record, where: Mapping[str, str] | None = None
    ) -> bool:
        """Store a record of a function. Its plan must have been stored before."""
        return self.store.write("records", f"{function}/{record.key}", record_item(record), where)

    def read_record(self, function: str, key: str) -> Record | None:
        """The record, or None if it is not stored (or was damaged)."""
        return self._read("records", f"{function}/{key}", functools.partial(record_from, key))

    def records(self, function: str) -> Iterator[Record]:
        """Stored records of a function, those used last first."""
        for key in self.store.keys("records", function)[:MOST_RECORDS]:
            record = self.read_record(function, key.rpartition("/")[2])
            if record is not None:
                yield record

    def used(self, function: str, record: Record, kernels: Iterable[str]) -> None:
        """Note that a record led to a plan: for least-recently-used order, and as a hit, one for
        each process."""
        hit = (os.getpid(), record.key)  # a forked child is another process
        if hit not in self._counted:
            self._counted.add(hit)
            self.store.hit(record.key)
        self.store.touch("records", f"{function}/{record.key}")
        self.store.touch("plans", record.plan)
        for key in kernels:
            self.store.touch("kernels", key)


def plan_key(
    text: str, manifest: dict[str, Any], kernels: dict[str, Kernel], target: str, numerics: str
) -> str:
    """The key of a plan: it covers the text, the kernels and the environment."""
    keys = {name: kernel.key for name, kernel in kernels.items()}
    return digest(environment(target, numerics), text, manifest, keys)


def make_record(guards: dict[str, Any], outputs: Any, plan: str, summary: str) -> Record:
    """A record under its key, which covers the guards, the outputs and the plan."""
    key = digest(guards, {"outputs": outputs}, plan)
    return Record(key, guards, outputs, plan, summary)


def kernel_item(kernel: Kernel) -> Item:
    """A kernel as the content of a file."""
    source = kernel.source.to_json()
    parts = {"kernel.py": source.pop("text").encode()}
    binary = None
    if kernel.binary is not None:
        binary = kernel.binary.to_json()
        parts["binary"] = kernel.binary.code
        parts["assembly"] = kernel.binary.assembly.encode()
    return Item({"source": source, "binary": binary}, parts)


def kernel_from(key: str, item: Item) -> Kernel:
    """The kernel that `kernel_item` described."""
    source = KernelSource.from_json({**item.fields["source"], "text": item.text("kernel.py")})
    data, binary = item.fields["binary"], None
    if data is not None:
        binary = Binary.from_json(data, item.parts["binary"], item.text("assembly"))
    return Kernel(key, source, binary)


def plan_item(plan: StoredPlan) -> Item:
    """A plan as the content of a file, its kernels by key."""
    keys = {name: kernel.key for name, kernel in plan.kernels.items()}
    parts = {
        "plan.py": plan.text.encode(),
        "report.json": json.dumps(plan.report).encode(),
        "graph.txt": plan.graph.encode(),
    }
    return Item({"manifest": plan.manifest, "kernels": keys}, parts)


def plan_from(key: str, item: Item, kernels: dict[str, Kernel]) -> StoredPlan:
    """The plan that `plan_item` described, without its report, which no call needs."""
    text, graph = item.text("plan.py"), item.text("graph.txt")
    return StoredPlan(key, text, item.fields["manifest"], kernels, graph=graph)


def report_from(item: Item) -> dict[str, Any]:
    """The report in a plan's file."""
    report: dict[str, Any] = json.loads(item.text("report.json"))
    return report


def record_item(record: Record) -> Item:
    """A record as the content of a file."""
    fields = ("guards", "outputs", "plan", "summary")
    return Item({name: getattr(record, name) for name in fields})


def record_from(key: str, item: Item) -> Record:
    """The record that `record_item` described."""
    fields = item.fields
    return Record(key, fields["guards"], fields["outputs"], fields["plan"], fields["summary"])


_caches: dict[str, Cache] = {}


def shared() -> Cache:
    """The process's cache for the directory that the configuration names now."""
    cache = _caches.get(config.cache_dir)
    if cache is None:  # no lock, which a fork could leave locked: of two made at once, one is kept
        cache = _caches.setdefault(config.cache_dir, Cache())
        log.say(log.CACHE, f"cache at {cache.store.directory}")
    return cache

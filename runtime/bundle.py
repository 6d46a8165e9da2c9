"""Bundles: one compiled program in one file, to be carried to other processes and machines.

A bundle is a file of the store (runtime.store) whose parts are files of the store: the record, the
plan and each kernel, every one with its own digest. It holds no keys that are used as they are: on
import each key is computed anew from the content, so nothing in a file says where it is written.
Like any program, a bundle is code that will run: load only what you trust.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from tracejit.runtime import cache, cpu, plan, targets
from tracejit.runtime.cache import Cache, Kernel, Record, StoredPlan
from tracejit.runtime.config import TARGET, config
from tracejit.runtime.errors import BadBundle
from tracejit.runtime.files import Item, decode, encode
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.identity import named_key
from tracejit.runtime.words import plural

KIND = "bundle"
AGAIN = "build it again with tracejit.build"
# What may differ between the machine that built for a GPU and the one that runs: kernels for a GPU
# depend on neither the processor nor the CUDA that torch was built with.
_FREE_FOR_GPUS = ("machine", "runtime")


@dataclass(frozen=True)
class Bundle:
    """What a bundle holds. `name` and `code` say which function it is of (runtime.identity)."""

    name: str
    code: str
    target: str
    numerics: str
    record: Record
    plan: StoredPlan
    environment: Mapping[str, str] = field(repr=False)

    def __str__(self) -> str:
        return f"{self.name} for {self.target}: {plural(len(self.plan.kernels), 'kernel')}"


def load(path: str | os.PathLike[str]) -> Bundle:
    """Import a file that `tracejit.build` wrote into the cache of this process (TRACEJIT_CACHE_DIR,
    else the platform's), where calls of the compiled function find it without tracing.

    Everything is checked before anything is written. Raises BadBundle, which says what to do, for a
    damaged file, and for one made with other versions or for a target that is not here; OSError if
    the file cannot be read.
    """
    data = Path(path).read_bytes()
    try:
        bundle = unpack(data)
        check_environment(bundle)
        check_target(bundle.target)
        bundle = here(bundle)
    except ValueError as problem:
        raise BadBundle(path=os.fspath(path), why=problem) from None
    store = cache.shared()
    function = named_key(bundle.name, bundle.code, bundle.target, bundle.numerics)
    where = cache.environment(bundle.target, bundle.numerics)
    if not (
        store.write_plan(bundle.plan, where) and store.write_record(function, bundle.record, where)
    ):
        why = f"the cache at {store.store.directory} does not take it; set TRACEJIT_CACHE_DIR"
        raise BadBundle(path=os.fspath(path), why=why)
    return bundle


def pack(bundle: Bundle) -> bytes:
    """The bytes of a bundle's file."""
    parts = {
        "record": encode("records", cache.record_item(bundle.record)),
        "plan": encode("plans", cache.plan_item(bundle.plan)),
    }
    for kernel in bundle.plan.kernels.values():
        parts[kernel.key] = encode("kernels", cache.kernel_item(kernel))
    names = ("name", "code", "target", "numerics", "environment")
    return encode(KIND, Item({name: getattr(bundle, name) for name in names}, parts))


def unpack(data: bytes) -> Bundle:
    """The bundle of a file's bytes. Raises ValueError, with the reason, unless all of it is well
    formed."""
    try:
        item = decode(KIND, data)
        return _read(item)
    except (KeyError, TypeError, AttributeError) as problem:
        raise ValueError(f"it is not as tracejit writes it ({problem!r}); {AGAIN}") from None
    except ValueError as problem:
        raise ValueError(f"{problem}; {AGAIN}") from None


def _read(item: Item) -> Bundle:
    fields = item.fields
    words = {n: fields[n] for n in ("name", "code", "target", "numerics")}
    if not all(isinstance(word, str) for word in words.values()):
        raise ValueError("its name, code, target or numerics is no text")
    if not TARGET.fullmatch(words["target"]):
        raise ValueError(f"it is for {words['target']!r}, which is no target")
    environment = {str(name): str(value) for name, value in fields["environment"].items()}
    record = cache.record_from("", decode("records", item.parts["record"]))
    GuardSet.from_json(record.guards)
    return Bundle(
        **words, record=record, plan=_read_plan(item, words["target"]), environment=environment
    )


def _read_plan(item: Item, target: str) -> StoredPlan:
    """The plan with its kernels; loaded once, without them, to see that its text keeps the rules of
    plans."""
    found = decode("plans", item.parts["plan"])
    kernels = {
        name: _read_kernel(item.parts[key], name, target)
        for name, key in found.fields["kernels"].items()
    }
    text, manifest = found.text("plan.py"), found.fields["manifest"]
    plan.load(text, manifest, dict.fromkeys(kernels, plan.not_loaded), "plan of a bundle")
    return replace(cache.plan_from("", found, kernels), report=cache.report_from(found))


def _read_kernel(data: bytes, name: str, target: str) -> Kernel:
    kernel = cache.kernel_from("", decode("kernels", data))
    source = kernel.source
    if source.name != name or not re.fullmatch(r"[A-Za-z_]\w*", name):
        raise ValueError(f"kernel {name!r} is stored under another name")
    if source.target != target:
        raise ValueError(f"kernel {name} is for {source.target}, the bundle for {target}")
    if ":" in target and (kernel.binary is None or not kernel.binary.code):
        raise ValueError(f"kernel {name} has no machine code")
    return kernel


def check_environment(bundle: Bundle) -> None:
    """Raise ValueError if something differs between where the bundle was built and here, and name
    it."""
    now = cache.environment(bundle.target, bundle.numerics)
    on_gpu = targets.is_gpu(bundle.target)
    free = _FREE_FOR_GPUS if on_gpu else ()
    for name, value in now.items():
        was, own = bundle.environment.get(name, "nothing"), value
        if on_gpu and name == "torch":
            was, own = release(was), release(own)
        if was != own and name not in free:
            what = {"sources": "other sources of tracejit"}.get(
                name, f"{name} {was}, here is {own}"
            )
            raise ValueError(f"it was built with {what}; {AGAIN} here, or with the versions here")


def release(version: str) -> str:
    """torch's version without what it was built for: `2.13.0+cpu abc` gives `2.13.0 abc`."""
    return re.sub(r"\+\S+", "", version)


def check_target(target: str) -> None:
    """Raise ValueError if the target is not of this machine, nor of TRACEJIT_TARGET."""
    if ":" not in target or target == config.target:
        return
    if targets.is_gpu(target):
        known = [targets.gpu_target()] if torch.cuda.is_available() else []
    else:
        known = [f"native:{level}" for level in cpu.host_levels()]
    found = " or ".join(known) or ("no GPU" if targets.is_gpu(target) else "no such CPU")
    if target not in known:
        raise ValueError(
            f"it is for {target}, and here is {found}: build it for that, or set "
            f"TRACEJIT_TARGET={target} to import it nonetheless"
        )


def here(bundle: Bundle) -> Bundle:
    """The bundle with the keys that it has in this process, and for its current GPU."""
    target, numerics = bundle.target, bundle.numerics
    kernels = {
        name: Kernel(Cache.kernel_key(k.source, numerics), k.source, k.binary)
        for name, k in bundle.plan.kernels.items()
    }
    text, manifest = bundle.plan.text, bundle.plan.manifest
    key = cache.plan_key(text, manifest, kernels, target, numerics)
    guards, outputs = bundle.record.guards, bundle.record.outputs
    if targets.is_gpu(target):
        device = f"cuda:{torch.cuda.current_device() if torch.cuda.is_available() else 0}"
        outputs = moved(outputs, "cuda:0", device)
        guards = on_device(guards, device)
        guards = {**guards, "packages": _torch_as_here(guards["packages"])}
    record = cache.make_record(guards, outputs, key, bundle.record.summary)
    stored = replace(bundle.plan, key=key, kernels=kernels)
    return Bundle(bundle.name, bundle.code, target, numerics, record, stored, bundle.environment)


def _torch_as_here(packages: dict[str, str]) -> dict[str, str]:
    """torch's version among the guards is that of the build for this machine: the release was
    compared."""
    return {n: torch.__version__ if n == "torch" else v for n, v in packages.items()}


def on_device(guards: dict[str, Any], device: str) -> dict[str, Any]:
    """Guards (JSON) that ask for every tensor on `device` instead, if they ask for all on one."""
    tensors = [node for node in guards["nodes"] if node[3] == "tensor"]
    if len({node[4]["device"] for node in tensors}) != 1:
        return guards
    nodes = [
        [*node[:4], {**node[4], "device": device}] if node[3] == "tensor" else node
        for node in guards["nodes"]
    ]
    return {**guards, "nodes": nodes}


def moved(outputs: Any, was: str, now: str) -> Any:
    """A recipe for outputs (runtime.outputs) in which `torch.device(now)` stands for `was`."""
    if isinstance(outputs, dict):
        return {name: moved(value, was, now) for name, value in outputs.items()}
    if isinstance(outputs, list):
        if outputs == ["device", was]:  # as runtime.constants spells it
            return ["device", now]
        return [moved(value, was, now) for value in outputs]
    return outputs

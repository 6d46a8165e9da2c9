"""Whatever can change a result is in the keys: each entry by itself makes another key, under which
nothing that was stored is found."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tracejit
from tests.fire.common import as_new_process
from tracejit.api import dispatcher_of
from tracejit.runtime import cache, cpu, files
from tracejit.runtime.cache import ENTRIES, Cache, Kernel, make_record, plan_key
from tracejit.runtime.identity import code_digest, named_key
from tracejit.runtime.kernel import KernelSource

ROOT = Path(__file__).resolve().parents[2]
GPU, CPU = "cuda:90", "native:avx512"
SOURCE = KernelSource("relu", "x = 1\n", GPU, (("x", "*fp32"),), ("x",), {"SIZE": 4}, 1)


def versions(name: str, value: str) -> Callable[[pytest.MonkeyPatch], None]:
    found = {**vars(torch.version), name: value}
    return lambda patch: patch.setattr(cache, "_torch_version", lambda: found)


# For each entry: a change of what it stands for in this process, for a target that asks.
CHANGES: dict[str, tuple[str, Callable[[pytest.MonkeyPatch], None]]] = {
    "format": (CPU, lambda patch: patch.setattr(cache, "FORMAT", files.FORMAT + 1)),
    "tracejit": (CPU, lambda patch: patch.setattr(cache, "VERSION", "99.1")),
    "sources": (CPU, lambda patch: patch.setattr(cache, "_checkout_state", lambda: "edited")),
    "torch": (CPU, versions("git_version", "another")),
    "runtime": (GPU, versions("cuda", "99.1")),
    "triton": (GPU, lambda patch: patch.setattr(cache, "_triton_version", lambda: "99.1")),
    "variables": (GPU, lambda patch: patch.setenv("TRITON_F32_DEFAULT", "tf32x3")),
    "llvm": (CPU, lambda patch: patch.setattr(cpu, "llvm_version", lambda: "99.1")),
    "python": (CPU, lambda patch: patch.setattr(sys, "version_info", (3, 99, 0))),
    "machine": (CPU, lambda patch: patch.setattr(platform, "machine", lambda: "pdp11")),
}


@pytest.fixture(autouse=True)
def asked_anew() -> Iterator[None]:
    cache.environment.cache_clear()
    yield
    cache.environment.cache_clear()


def keys(target: str = CPU, numerics: str = "eager") -> dict[str, str]:
    """One key of each kind, of things that are the same whatever the environment."""
    cache.environment.cache_clear()
    kernel = Kernel("k", SOURCE)
    return {
        "kernel": Cache.kernel_key(replace(SOURCE, target=target), numerics),
        "plan": plan_key("text", {}, {"relu": kernel}, target, numerics),
        "function": named_key("m.f", "code", target, numerics),
    }


def test_every_entry_is_tried() -> None:
    assert [*CHANGES, "target", "numerics"] == list(ENTRIES)
    assert list(cache.environment(CPU, "eager")) == list(ENTRIES)


@pytest.mark.parametrize("name", CHANGES)
def test_an_entry_by_itself_changes_every_key(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    target, change = CHANGES[name]
    before, old = keys(target), cache.environment(target, "eager")
    change(monkeypatch)
    after, new = keys(target), cache.environment(target, "eager")
    assert {entry for entry in ENTRIES if old[entry] != new[entry]} == {name}
    assert [kind for kind in before if before[kind] == after[kind]] == []


def test_target_and_numerics_change_every_key() -> None:
    for other in (keys("native:avx2"), keys(numerics="fast")):
        assert [kind for kind, key in keys().items() if other[kind] == key] == []


@pytest.mark.parametrize("name", CHANGES)
def test_nothing_is_found_under_another_key(
    name: str, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """End to end: the same call in a process in which only this entry differs is recorded again,
    and in one in which nothing does it is found on disk."""

    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    def source() -> str:
        as_new_process()
        compiled = tracejit.compile(double, backend="reference", wait=True)
        assert compiled(torch.ones(3)).tolist() == [2, 2, 2]
        (entry,) = dispatcher_of(compiled).entries
        return entry.source

    real = cache.environment
    assert source() == "recorded" and source() == "disk"
    patched = lambda target, numerics: {**real(target, numerics), name: "another"}  # noqa: E731
    for module in [m for m in list(sys.modules.values()) if vars(m).get("environment") is real]:
        monkeypatch.setattr(module, "environment", patched)
    assert source() == "recorded" and source() == "disk"


def test_a_new_version_of_a_file_is_a_new_key(tmp_path: Path, monkeypatch: Any) -> None:
    """In a checkout the compiler's own sources count, also without a new version."""
    (tmp_path / "pyproject.toml").touch()
    for folder in ("tracejit", "codegen", "runtime"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tracejit" / "__init__.py").touch()
    monkeypatch.setattr(cache, "__file__", str(tmp_path / "runtime" / "cache.py"))
    states = [cache._checkout_state()]
    for folder in ("tracejit", "codegen", "runtime"):
        (tmp_path / folder / "new.py").write_text("x = 1")
        states.append(cache._checkout_state())
    os.utime(tmp_path / "codegen" / "new.py", ns=(1, 1))
    states.append(cache._checkout_state())
    assert len(set(states)) == 5 and "" not in states
    (tmp_path / "pyproject.toml").unlink()
    assert cache._checkout_state() == ""  # installed: the version says it


OTHER: dict[str, Any] = {
    "params": (("x", "*fp16"),), "outputs": (), "constants": {"SIZE": 8}, "divisible": ("x",),
    "spans": (4,), "name": "gelu", "text": "x = 2\n", "target": "cuda:80", "strategy": "rows",
}  # fmt: skip


@pytest.mark.parametrize("field", [f.name for f in fields(KernelSource) if f.compare])
def test_every_field_of_a_kernel_is_in_its_key(field: str) -> None:
    other = replace(SOURCE, **{field: OTHER.get(field, 99)})
    assert Cache.kernel_key(other, "eager") != Cache.kernel_key(SOURCE, "eager")


def test_the_content_of_plans_functions_and_records() -> None:
    kernels = {"relu": Kernel("k", SOURCE)}
    plans = [
        plan_key("text", {"a": 1}, kernels, CPU, "eager"),
        plan_key("other", {"a": 1}, kernels, CPU, "eager"),
        plan_key("text", {"a": 2}, kernels, CPU, "eager"),
        plan_key("text", {"a": 1}, {"relu": Kernel("other", SOURCE)}, CPU, "eager"),
        plan_key("text", {"a": 1}, {"gelu": kernels["relu"]}, CPU, "eager"),
    ]
    functions = [named_key(*names, CPU, "eager") for names in ("fc", "gc", "fd")]
    given = [({}, None, "p"), ({"n": 1}, None, "p"), ({}, 1, "p"), ({}, None, "q")]
    records = [make_record(guards, outputs, plan, "").key for guards, outputs, plan in given]
    for found in (plans, functions, records):
        assert len(set(found)) == len(found)
    codes = [compile(text, "f", "eval") for text in ("x + 1", "x + 2", "x - 1", "y + 1")]
    assert len({code_digest(code) for code in codes}) == len(codes)


def test_variables_are_those_that_triton_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever Triton itself takes for a reason to compile again is one for us, unless it only
    says what is printed."""
    libtriton = pytest.importorskip("triton._C.libtriton")
    names = re.findall(
        rb"\x00([A-Z][A-Z0-9]+_[A-Za-z0-9_]+)(?=\x00)", Path(libtriton.__file__).read_bytes()
    )
    for name in {name.decode() for name in names}:
        monkeypatch.setenv(name, "1")
    asked = libtriton.get_cache_invalidating_env_vars()
    printing = re.compile(r".*(DUMP|DEBUG|TIMING|DIAGNOSTICS|REPRODUCER|USE_IR_LOC|MULTITHREAD).*")
    said = cache._triton_variables()
    assert [n for n in asked if not printing.fullmatch(n) and f"{n}=" not in said] == []
    assert "TRITON_F32_DEFAULT" in asked and "TRITON_F32_DEFAULT=1" in said
    monkeypatch.setenv("TRITON_CACHE_DIR", "/elsewhere")
    assert cache._triton_variables() == said

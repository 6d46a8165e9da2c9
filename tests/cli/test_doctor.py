"""Doctor finds what is wrong, says what helps, and survives what is broken."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from click.testing import CliRunner

import tracejit
from tests.executors import TARGET
from tracejit.cli.doctor import cache as cachehealth
from tracejit.cli.doctor import checks, endtoend
from tracejit.cli.doctor import command as doctor
from tracejit.cli.doctor.checks import FAULT, MISSING, OK, Check
from tracejit.cli.root import tracejit as command
from tracejit.codegen.native import providers
from tracejit.ir.products import Sizes
from tracejit.runtime import cpu
from tracejit.runtime.config import config

ROOT = Path(__file__).resolve().parents[2]


def rows(found: Iterator[Check]) -> dict[str, Check]:
    return {check.name: check for check in found}


def hide(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """As if these packages were not installed."""
    real = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name in names else real(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)


def test_all_is_well_here(fresh_cache: Path) -> None:
    """The whole command once, as text and as JSON."""
    done = CliRunner().invoke(command, ["doctor", "--json"])
    document = json.loads(done.stdout)
    assert done.exit_code == 0, document
    assert document.keys() == {"schema", "ok", "checks"} and document["ok"] is True
    keys = {"group", "name", "state", "text", "advice", "facts"}
    assert all(check.keys() == keys for check in document["checks"])
    assert list(dict.fromkeys(c["group"] for c in document["checks"])) == list(doctor.PROBES)
    compiled = next(c for c in document["checks"] if c["name"] == "compile for cuda:90")
    assert compiled["facts"]["registers"] > 0 and compiled["facts"]["compile"] > 0
    assert {"store", "interpreter"} <= {c["name"] for c in document["checks"]}
    assert config.cache_dir == str(fresh_cache) and not fresh_cache.exists()


def test_text(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        Check("versions", "torch", OK, "2.13.0"),
        Check("versions", "numpy", MISSING, "not installed", "pip install 'tracejit[cpu]'"),
        Check("cache", "entries", FAULT, "2 are damaged", "tracejit cache verify --fix"),
        Check("cache", "disk", FAULT, "full", "tracejit cache verify --fix"),
    ]
    monkeypatch.setattr(doctor, "examined", lambda: iter(found))
    done = CliRunner().invoke(command, ["doctor"])
    assert done.exit_code == 1
    assert done.output == (
        "versions\n"
        "  torch    ok       2.13.0\n"
        "  numpy    missing  not installed\n"
        "cache\n"
        "  entries  fault    2 are damaged\n"
        "  disk     fault    full\n"
        "\nTo repair:\n  tracejit cache verify --fix\n"
        "\nTo add what is missing:\n  pip install 'tracejit[cpu]'\n"
        "\n2 faults\n"
    )
    monkeypatch.setattr(doctor, "examined", lambda: iter(found[:2]))
    done = CliRunner().invoke(command, ["doctor"])
    assert done.exit_code == 0 and done.output.endswith("All that is needed is well.\n")


def test_a_long_row_goes_on_below_itself() -> None:
    check = Check("devices", "cpu", OK, " ".join(["word"] * 20))
    first, second, *_ = doctor._row(check, 5, 60).plain.splitlines()
    head = "  cpu  ok       "
    assert first == head + " ".join(["word"] * 9)
    assert second.startswith(" " * len(head) + "word") and len(second) <= 60


def test_packages_are_those_of_the_project_file() -> None:
    text = (ROOT / "pyproject.toml").read_text()
    asked = dict(re.findall(r'"([\w-]+)>=([\d.]+)"', text.partition("dev = [")[0]))
    asked = {name: oldest for name, oldest in asked.items() if name != "setuptools"}
    assert {p.name: p.oldest for p in checks.PACKAGES} == asked
    for package in checks.PACKAGES:
        block = re.search(rf"^{package.extra or 'dependencies'} = \[(.*?)^\]", text, re.S | re.M)
        assert block is not None and f'"{package.name}>=' in block[1]
    python = ".".join(map(str, checks.OLDEST_PYTHON))
    assert f'requires-python = ">={python}"' in text


def test_what_is_missing_comes_with_its_command(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "numpy", "triton", "sklearn")
    found = rows(checks.versions())
    assert (found["numpy"].state, found["numpy"].advice) == (MISSING, "pip install 'tracejit[cpu]'")
    assert found["scikit-learn"].advice == "pip install 'tracejit[bench]'"
    assert (found["triton"].state, found["triton"].advice) == (
        FAULT,
        "pip install --upgrade 'triton>=3.6'",
    )
    assert rows(checks.toolchain())["ptxas"].state == FAULT


def test_no_interpreter_without_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    hide(monkeypatch, "numpy")
    (found,) = endtoend.interpreted()
    assert (found.state, found.advice) == (MISSING, "pip install 'tracejit[cpu]'")


def test_no_native_code_without_llvmlite(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "lacking", lambda: "native kernels need llvmlite")
    (found,) = endtoend.native()
    assert (found.state, found.advice) == (MISSING, "pip install 'tracejit[cpu]'")


@pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels")
def test_native_code_and_who_computes_products(
    fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(providers, "_known", {})
    (found,) = endtoend.native()
    assert found.state == OK
    assert "providers" not in rows(checks.devices())
    providers.provider(Sizes("f32", 1, 2, 8, 8), TARGET)
    row = rows(checks.devices())["providers"]
    assert row.text.startswith("quickest here: f32 8 rows of 512: ")
    assert set(row.facts["f32 8 rows of 512"]["microseconds"]) >= {"generated", "aten"}


def test_a_package_whose_import_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.import_module

    def import_module(name: str, package: str | None = None) -> ModuleType:
        if name in ("llvmlite", "triton"):
            raise OSError("libllvm.so: cannot open\nshared object file")
        return real(name, package)

    monkeypatch.setattr(importlib, "import_module", import_module)
    found = rows(checks.versions())
    assert found["llvmlite"].state == FAULT and found["numpy"].state == OK
    assert found["llvmlite"].text == "installed, but its import fails: libllvm.so: cannot open"
    assert "--force-reinstall" in found["llvmlite"].advice
    (compiled,) = endtoend.end_to_end()
    assert (compiled.state, compiled.text) == (FAULT, "needs triton, whose import fails")


def test_versions_that_are_too_old(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.metadata.version
    old = {"torch": "2.9.1+cpu"}
    monkeypatch.setattr(importlib.metadata, "version", lambda n: old.get(n) or real(n))
    monkeypatch.setattr(checks, "OLDEST_PYTHON", (4, 0))
    found = rows(checks.versions())
    assert found["torch"].text == "2.9.1+cpu, and 2.11 is the oldest that is supported"
    assert found["torch"].state == found["python"].state == FAULT
    assert checks.numbers("2.11.0a0+git12") == (2, 11, 0) > checks.numbers("2.9")


def test_a_probe_that_breaks_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> Iterator[Check]:
        yield Check("devices", "cpu", OK, "one")
        raise RuntimeError("no\ndriver")

    monkeypatch.setattr(checks, "devices", broken)
    monkeypatch.setattr(doctor, "PROBES", {**_quick(), "gone": "tracejit.cli.gone:probe"})
    found = list(doctor.examined())
    assert [(c.group, c.state, c.text) for c in found] == [
        ("devices", OK, "one"),
        ("devices", FAULT, "RuntimeError: no"),
        ("gone", FAULT, "ModuleNotFoundError: No module named 'tracejit.cli.gone'"),
    ]


def _quick() -> dict[str, str]:
    return {"devices": "tracejit.cli.doctor.checks:devices"}


def test_a_wrong_result_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    real = tracejit.compile

    def compile(function: Any, **options: Any) -> Any:
        compiled = real(function, **options)
        return lambda *args: compiled(*args) + 0.25

    monkeypatch.setattr(tracejit, "compile", compile)
    (found,) = endtoend.interpreted()
    assert (found.state, found.text.partition(",")[0]) == (FAULT, "off by 0.25")


def test_a_compiler_that_fails_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracejit.codegen.triton import offline

    def compile_kernels(sources: Any, target: str) -> Any:
        raise offline.CannotCompile("ptxas: gone\nmore")

    monkeypatch.setattr(offline, "compile_kernels", compile_kernels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = rows(endtoend.end_to_end())
    assert found["compile for cuda:90"].state == FAULT
    assert "ptxas: gone" in found["compile for cuda:90"].text
    assert found["interpreter"].state == OK


def test_tools_that_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        if "ptxas" in command[0]:
            raise FileNotFoundError(2, "No such file", command[0])
        return subprocess.CompletedProcess(command, 1, "", "wrong architecture")

    list(
        checks.toolchain()
    )  # triton runs its tools once to find them, and remembers where they are
    monkeypatch.setattr(subprocess, "run", run)
    found = rows(checks.toolchain())
    assert found["ptxas"].state == FAULT and "No such file" in found["ptxas"].text
    assert found["nvdisasm"].state == MISSING and "wrong arch" in found["nvdisasm"].text


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACEJIT_DEBUG", "1")
    monkeypatch.setenv("TRACEJIT_STRIKT", "1")
    found = rows(checks.settings())
    assert found["TRACEJIT_DEBUG"].facts == {"value": "1", "default": 0}
    assert found["TRACEJIT_STRIKT"].state == FAULT
    assert "did you mean TRACEJIT_STRICT" in found["TRACEJIT_STRIKT"].text
    assert found["TRACEJIT_STRIKT"].advice == "unset TRACEJIT_STRIKT"


def test_a_driver_without_a_torch_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(checks, "_driver", lambda: "550.54")
    found = rows(checks.devices())["gpu"]
    assert found.state == MISSING and "550.54" in found.text and "pytorch.org" in found.advice


class FakeCuda:
    """One GPU, as torch.cuda describes it."""

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 1

    def get_device_properties(self, index: int) -> SimpleNamespace:
        return SimpleNamespace(name="NVIDIA H100", total_memory=80 << 30)

    def get_device_capability(self, index: int) -> tuple[int, int]:
        return 9, 0


def test_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracejit.runtime import targets

    monkeypatch.setattr(torch, "cuda", FakeCuda())
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(targets, "_target_of", targets._target_of.__wrapped__)
    monkeypatch.setattr(checks, "_driver", lambda: "550.54")
    found = rows(checks.devices())["gpu 0"]
    assert (found.state, found.text) == (OK, "NVIDIA H100 (cuda:90), 80 GiB; driver 550.54")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_check_on_a_gpu() -> None:
    (found,) = endtoend.on_gpu()
    assert found.state == OK and found.text.startswith("equal to eager")


# the cache


def test_a_cache_that_is_not_there_yet(fresh_cache: Path) -> None:
    found = rows(cachehealth.cache_health())
    assert found["directory"].state == OK and "made when" in found["directory"].text
    assert found["size"].text.startswith("0 entries, 0 B of 4.0 GiB")
    assert not fresh_cache.exists()


def test_a_cache_with_a_damaged_entry(fresh_cache: Path) -> None:
    f = tracejit.compile(lambda x: x + 1, backend="reference", wait=True)
    f(torch.ones(3))
    found = rows(cachehealth.cache_health())
    assert (
        found["entries"].text.endswith("looked at, whole")
        and found["other versions"].text == "none"
    )
    (plan,) = (fresh_cache / "plans").iterdir()
    plan.write_bytes(plan.read_bytes()[:-1])
    found = rows(cachehealth.cache_health())
    assert (found["entries"].state, found["entries"].advice) == (
        FAULT,
        "tracejit cache verify --fix",
    )
    assert found["entries"].text.startswith("1 of 3 entries looked at are damaged; plans ")
    assert plan.exists()  # looking sets nothing aside


def test_a_cache_that_others_may_write(fresh_cache: Path) -> None:
    fresh_cache.mkdir()
    fresh_cache.chmod(0o777)
    found = rows(cachehealth.cache_health())["directory"]
    assert (found.state, found.advice) == (FAULT, f"chmod -R go-w {fresh_cache}")
    assert fresh_cache.stat().st_mode & 0o777 == 0o777


def test_a_full_disk(fresh_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = SimpleNamespace(total=1 << 30, used=1 << 30, free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    found = rows(cachehealth.cache_health())["disk"]
    assert found.state == FAULT and "make room" in found.advice

"""tracejit.build and tracejit.load: one file carries a program to a process that never traces, and
a file that does not fit is refused by name."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tracejit
from tracejit.runtime import bundle, cache
from tracejit.runtime.config import config
from tracejit.runtime.errors import BadBundle, BadOption, BuildWarning, NotBuilt, NotCompilable
from tracejit.runtime.files import Item, decode, encode
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.reasons import Failure

PROGRAM = Path(__file__).parent / "bundle_program.py"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(config, "cache_dir", str(tmp_path / "cache"))
    monkeypatch.setattr(config, "target", "")
    yield


def program(directory: Path, *words: str) -> Any:
    """What the program prints, run with an empty cache of its own; any warning is an error."""
    root = str(Path(__file__).parents[2])
    environ = {"TRACEJIT_CACHE_DIR": str(directory), "PYTHONPATH": root}
    command = [sys.executable, "-W", "error", str(PROGRAM), *words]
    done = subprocess.run(command, env=os.environ | environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def scaled(x: torch.Tensor, by: float = 3.0) -> tuple[torch.Tensor, torch.device]:
    return torch.softmax(x * by, -1), x.device


class Scale:
    by = 2.0


@functools.cache
def kept() -> Scale:
    return Scale()


def unreached(x: torch.Tensor) -> torch.Tensor:
    return x * kept().by


def asking(x: torch.Tensor) -> torch.Tensor:
    return x + 1 if x.is_cuda else torch.relu(x) + (2 if x.device.type == "cpu" else 3)


def test_build_here_load_there(tmp_path: Path) -> None:
    file = str(tmp_path / "block.tracejit")
    built = program(tmp_path / "one", "build", file, "interpret")
    assert built == {"text": "__main__.Block for interpret: 2 kernels", "kernels": 2}
    loaded = program(tmp_path / "two", "load", file)
    assert loaded == {"right": True, "sources": ["disk"], "traced": False}


def test_for_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(4, 32)
    made = tracejit.build(scaled, (x,), target="cuda:90", out=tmp_path / "b")
    with pytest.raises(BadBundle, match="it is for cuda:90, and here is no GPU.*TRACEJIT_TARGET"):
        tracejit.load(tmp_path / "b")
    assert not (tmp_path / "cache" / "plans").exists()
    monkeypatch.setattr(config, "target", "cuda:90")
    loaded = tracejit.load(tmp_path / "b")
    assert loaded.plan.key == made.plan.key and loaded.record == made.record
    assert loaded.record.outputs == {"tuple": [{"out": 0}, {"const": ["device", "cuda:0"]}]}
    stored = cache.shared().read_plan(loaded.plan.key)
    assert stored is not None and stored.manifest["allocators"]
    for kernel in stored.kernels.values():
        assert kernel.binary is not None and kernel.binary.kind == "cubin" and kernel.binary.code
    guards = GuardSet.from_json(loaded.record.guards)
    failed = guards.values(scaled, (x,), {})
    assert isinstance(failed, Failure) and str(failed) == "x.device was cuda:0, is cpu"


def test_for_another_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(bundle.targets, "gpu_target", lambda: "cuda:80")
    bundle.check_target("cuda:80")
    with pytest.raises(ValueError, match="it is for cuda:90, and here is cuda:80: build it for"):
        bundle.check_target("cuda:90")


def test_on_another_gpu_of_the_machine() -> None:
    made = tensor_guards("cuda:0", "cuda:0")
    assert bundle.on_device(made, "cuda:3") == tensor_guards("cuda:3", "cuda:3")
    mixed = tensor_guards("cuda:0", "cpu")
    assert bundle.on_device(mixed, "cuda:3") == mixed
    assert bundle.moved({"const": ["device", "cuda:0"]}, "cuda:0", "cuda:3") == {
        "const": ["device", "cuda:3"]
    }


def tensor_guards(*devices: str) -> dict[str, Any]:
    return {"nodes": [[-1, "args", None, "tensor", {"device": device}] for device in devices]}


def test_a_compiled_function_keeps_its_numerics(tmp_path: Path) -> None:
    fast = tracejit.compile(scaled, backend="interpret", numerics="fast")
    x = torch.randn(2, 8)
    assert tracejit.build(fast, (x,), target="interpret", out=tmp_path / "b").numerics == "fast"
    tracejit.load(tmp_path / "b")
    fast(x)
    (entry,) = tracejit.explain(fast).entries
    assert entry.source == "disk" and entry.program["kernels"]


def test_what_cannot_be_built(tmp_path: Path) -> None:
    x, out = torch.randn(3), tmp_path / "b"
    with pytest.raises(NotBuilt, match="cannot be built for interpret: .*impure"):
        tracejit.build(lambda x: (print(), x + 1)[1], (x,), target="interpret", out=out)
    kept()  # so that the call does not make it
    with pytest.raises(NotBuilt, match="kept remembers results"):
        tracejit.build(unreached, (x,), target="interpret", out=out)
    with pytest.raises(BadOption, match="args='Tensor' is not one of a tuple"):
        tracejit.build(scaled, x, target="interpret", out=out)
    with pytest.raises(BadOption, match="target='sm_90' is not one of cuda:<sm>"):
        tracejit.build(scaled, (x,), target="sm_90", out=out)
    with pytest.raises(NotCompilable):
        tracejit.build(3, (x,), target="interpret", out=out)
    with pytest.raises(ZeroDivisionError):
        tracejit.build(lambda x: x / (1 // 0), (x,), target="interpret", out=out)
    assert not out.exists()


def test_code_that_asks_for_the_device(tmp_path: Path) -> None:
    x = torch.randn(3)
    with pytest.warns(BuildWarning) as found:
        tracejit.build(asking, (x,), target="cuda:90", out=tmp_path / "b")
    asked = [str(w.message).partition(",")[0] for w in found]
    assert asked == [
        f"asking of {__name__}.asking asks for {q}" for q in ("is_cuda", "device.type")
    ]


def test_code_that_leaves_the_device(tmp_path: Path) -> None:
    with pytest.warns(BuildWarning, match="asks for cpu, and was recorded on the CPU"):
        tracejit.build(
            lambda x: (x + 1).cpu(), (torch.ones(3),), target="cuda:90", out=tmp_path / "b"
        )


class Scaler:
    def __init__(self, by: float) -> None:
        self.by = by

    @tracejit.compile(backend="interpret", wait=True)
    def scale(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x * self.by)


def test_a_method(tmp_path: Path) -> None:
    x = torch.randn(5)
    tracejit.build(Scaler(2.0).scale, (x,), target="interpret", out=tmp_path / "b")
    tracejit.load(tmp_path / "b")
    assert torch.equal(Scaler(2.0).scale(x), torch.relu(x * 2))
    (entry,) = tracejit.explain(Scaler.scale).entries
    assert entry.source == "disk"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    tracejit.build(scaled, (torch.randn(4, 32),), target="interpret", out=tmp_path / "b")
    return tmp_path / "b"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda data: data[:-10], "its content does not have its digest"),
        (
            lambda data: data.replace(b"softmax", b"softmin", 1),
            "its content does not have its digest",
        ),
        (lambda data: b"", "it is not a file that tracejit wrote"),
        (lambda data: b"\x80\x04\x95 a pickle", "it is not a file that tracejit wrote"),
        (lambda data: encode("plans", Item({})), "it holds plans, not bundle"),
        (lambda data: encode("bundle", Item({})), r"it is not as tracejit writes it"),
    ],
)
def test_damaged_files(file: Path, change: Any, why: str) -> None:
    file.write_bytes(change(file.read_bytes()))
    with pytest.raises(BadBundle, match=f"{why}.*build it again with tracejit.build") as caught:
        tracejit.load(file)
    assert str(file) in str(caught.value)
    assert not (file.parent / "cache" / "plans").exists()


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("torch", "1.0 abc", "it was built with torch 1.0 abc, here is "),
        ("triton", "1.0", "it was built with triton 1.0, here is "),
        ("sources", "abc", "it was built with other sources of tracejit"),
        ("tracejit", "0.0.9", "it was built with tracejit 0.0.9, here is "),
        ("machine", "pdp11", "it was built with machine pdp11, here is "),
    ],
)
def test_other_versions(file: Path, field: str, value: str, why: str) -> None:
    made = bundle.unpack(file.read_bytes())
    file.write_bytes(
        bundle.pack(keyed(replace(made, environment={**made.environment, field: value})))
    )
    with pytest.raises(BadBundle, match=why):
        tracejit.load(file)


def keyed(made: bundle.Bundle) -> bundle.Bundle:
    """With keys, as `pack` needs them (those of a file are not kept)."""
    return bundle.here(made)


def test_a_gpu_bundle_may_come_from_another_build_of_torch(file: Path) -> None:
    made = bundle.unpack(file.read_bytes())
    here = made.environment
    other = {**here, "torch": here["torch"].replace("+", "+cu999") + "", "machine": "pdp11"}
    bundle.check_environment(
        replace(made, target="cuda:90", environment={**other, "target": "cuda:90"})
    )
    with pytest.raises(ValueError, match="torch 1.0"):
        bundle.check_environment(
            replace(made, target="cuda:90", environment={**other, "torch": "1.0 abc"})
        )
    assert bundle.release("2.13.0+cu128 abc") == bundle.release("2.13.0+cpu abc") == "2.13.0 abc"


def test_contents_that_break_the_rules(file: Path) -> None:
    """With right digests all the way: a plan that calls what it may not, kernels under wrong names
    or for another target, guards of no kind that there is."""
    made = keyed(bundle.unpack(file.read_bytes()))
    plan, (name, kernel) = made.plan, next(iter(made.plan.kernels.items()))
    source, guards = kernel.source, made.record.guards
    bad = {
        "names that its manifest does not bind": replace(
            made, plan=replace(plan, text="def run(inputs):\n    open('x')\n    return inputs\n")
        ),
        "is stored under another name": replace(
            made, plan=replace(plan, kernels={"../x": kernel, name: kernel})
        ),
        "is for cuda:90, the bundle for interpret": replace(
            made,
            plan=replace(
                plan, kernels={name: replace(kernel, source=replace(source, target="cuda:90"))}
            ),
        ),
        "no guard is spelled": replace(
            made,
            record=replace(
                made.record, guards={**guards, "nodes": [[-1, "eval", "x", "any", None]]}
            ),
        ),
        "which is no target": replace(made, target="../up"),
    }
    for why, broken in bad.items():
        with pytest.raises(ValueError, match=why):
            bundle.unpack(bundle.pack(broken))


def test_a_gpu_kernel_without_machine_code(tmp_path: Path) -> None:
    made = tracejit.build(scaled, (torch.randn(4, 32),), target="hip:gfx942", out=tmp_path / "b")
    kernels = {name: replace(kernel, binary=None) for name, kernel in made.plan.kernels.items()}
    with pytest.raises(ValueError, match="has no machine code"):
        bundle.unpack(bundle.pack(replace(made, plan=replace(made.plan, kernels=kernels))))


def test_a_bundle_is_files_of_the_store(file: Path) -> None:
    item = decode("bundle", file.read_bytes())
    assert decode("records", item.parts["record"]).fields["summary"].endswith("scaled")
    assert decode("plans", item.parts["plan"]).text("plan.py").startswith("#")


def test_a_cache_that_cannot_be_written(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (file.parent / "in the way").write_text("")
    monkeypatch.setattr(config, "cache_dir", str(file.parent / "in the way" / "cache"))
    with (
        pytest.warns(tracejit.runtime.errors.CacheWarning),
        pytest.raises(BadBundle, match="does not take it; set TRACEJIT_CACHE_DIR"),
    ):
        tracejit.load(file)

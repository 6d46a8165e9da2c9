"""From the decorator to a stored plan and back, in this process and in a second one that starts
warm."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import tracejit
from tracejit.api import dispatcher_of
from tracejit.dispatch import MOST_ENTRIES
from tracejit.runtime import cpu, log, targets
from tracejit.runtime.config import config
from tracejit.runtime.errors import (
    BackendHint,
    CacheWarning,
    CompilerError,
    CompilerWarning,
    RanEagerly,
)
from tracejit.runtime.files import FORMAT
from tracejit.runtime.worker import worker

PROGRAM = Path(__file__).with_name("warm_program.py")


@pytest.fixture(autouse=True)
def separate(fresh_cache: Path) -> Iterator[None]:
    log.forget()
    yield
    worker.drain()


def chain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return torch.relu(x * y + x) * 2


def softmax(x: torch.Tensor) -> torch.Tensor:
    return torch.softmax(x, dim=-1)


def compiled(function: Any, **options: Any) -> Any:
    return tracejit.compile(function, **{"backend": "interpret", "wait": True, **options})


def entries(function: Any) -> list[str]:
    return [entry.source for entry in dispatcher_of(function).entries]


def test_pointwise_chain() -> None:
    f = compiled(chain)
    x, y = torch.randn(8, 32), torch.randn(32)
    for _ in range(3):
        assert torch.equal(f(x, y), chain(x, y))
    assert entries(f) == ["recorded"]
    (entry,) = dispatcher_of(f).entries
    assert (
        entry.run is not None and entry.bound is not None and len(entry.bound.stored.kernels) == 1
    )


def test_softmax_is_one_kernel() -> None:
    f = compiled(softmax)
    x = torch.randn(4, 40)
    f(x)
    torch.testing.assert_close(f(x), softmax(x))
    (entry,) = dispatcher_of(f).entries
    assert entry.bound is not None and len(entry.bound.stored.manifest["kernels"]) == 1


def test_second_object_finds_the_plan_on_disk() -> None:
    x = torch.randn(4, 40)
    compiled(softmax)(x)
    again = compiled(softmax)
    torch.testing.assert_close(again(x), softmax(x))
    assert entries(again) == ["disk"]


def test_another_shape_is_another_entry_and_says_why() -> None:
    f = compiled(softmax)
    f(torch.randn(4, 40))
    f(torch.randn(4, 41))
    assert entries(f) == ["recorded"] * 2
    missed = dispatcher_of(f).entries[-1].because
    assert missed is not None
    assert (missed.path, missed.expected, missed.found) == ("x.size(1)", "40", "41")


def test_entries_are_limited() -> None:
    f = compiled(softmax)
    for size in range(1, MOST_ENTRIES + 4):
        x = torch.randn(2, size)
        torch.testing.assert_close(f(x), softmax(x))
    assert len(entries(f)) == MOST_ENTRIES
    (reason,) = dispatcher_of(f).reasons  # told once
    assert reason.kind == "entries" and "x.size(1) was 8, is 9" in reason.text
    assert f"{MOST_ENTRIES} entries exist" in str(tracejit.explain(f))


def test_entries_by_data_are_limited() -> None:
    f = compiled(lambda x: x[x > 0].sum() * 2)
    for size in range(1, MOST_ENTRIES + 4):
        x = torch.arange(20.0) + size - 20
        torch.testing.assert_close(f(x), x[x > 0].sum() * 2)
    reasons = [r.text for r in dispatcher_of(f).reasons if r.kind == "entries"]
    assert len(reasons) == 1 and "None" not in reasons[0]


def test_background_compilation() -> None:
    f = compiled(chain, wait=False)
    x, y = torch.randn(8, 32), torch.randn(32)
    assert torch.equal(f(x, y), chain(x, y))
    worker.drain()
    (entry,) = dispatcher_of(f).entries
    assert entry.run is not None
    assert torch.equal(f(x, y), chain(x, y))


def test_threads_compile_once() -> None:
    calls: list[int] = []

    def function(x: torch.Tensor) -> torch.Tensor:
        return x * 3 + 1

    f = compiled(function)
    x = torch.randn(64)
    barrier, wrong = threading.Barrier(6), []

    def use() -> None:
        barrier.wait()
        for _ in range(5):
            if not torch.equal(f(x), x * 3 + 1):
                wrong.append(1)
        calls.append(1)

    threads = [threading.Thread(target=use) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 6 and not wrong and entries(f) == ["recorded"]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 16)
        self.norm = nn.LayerNorm(16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.nn.functional.gelu(self.inner(self.norm(x)))


def test_module_with_changing_state() -> None:
    block = Block().eval().requires_grad_(False)
    f = compiled(block)
    x = torch.randn(2, 16)
    f(x)
    torch.testing.assert_close(f(x), block(x))
    block.inner.weight.mul_(2)  # values are never baked in
    torch.testing.assert_close(f(x), block(x))
    block.inner = nn.Linear(16, 16).requires_grad_(False)
    torch.testing.assert_close(f(x), block(x))
    block.norm.eps = 1.0
    torch.testing.assert_close(f(x), block(x))
    assert len(entries(f)) == 2
    missed = dispatcher_of(f).entries[-1].because
    assert missed is not None and missed.path == "self.norm.eps" and missed.found == "1.0"


def test_two_modules_of_one_class_share_a_plan_on_disk() -> None:
    first, second = (Block().eval().requires_grad_(False) for _ in range(2))
    x = torch.randn(2, 16)
    compiled(first)(x)
    f = compiled(second)
    torch.testing.assert_close(f(x), second(x))
    assert entries(f) == ["disk"]


def test_write_to_an_argument() -> None:
    def function(x: torch.Tensor) -> None:
        x.mul_(2).add_(1)

    f = compiled(function)
    x = torch.ones(8)
    assert f(x) is None and f(x) is None
    assert torch.equal(x, torch.full((8,), 7.0))


def test_errors_of_the_function_are_its_own() -> None:
    def function(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return x + y

    f = compiled(function)
    good = torch.ones(3)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="must match the size of tensor b"):
            f(torch.ones(3), torch.ones(4))
        assert torch.equal(f(good, good), good * 2)


def test_index_out_of_range_is_eagers_error() -> None:
    def function(x: torch.Tensor, i: torch.Tensor) -> torch.Tensor:
        return x.index_select(0, i) * 2

    f = compiled(function)
    x, good, bad = torch.randn(4, 3), torch.tensor([1, 3]), torch.tensor([1, 4])
    assert torch.equal(f(x, good), function(x, good)) and torch.equal(f(x, good), function(x, good))
    with pytest.raises((IndexError, RuntimeError), match="index out of range"):
        f(x, bad)
    assert torch.equal(f(x, good), function(x, good))


def test_data_decides() -> None:
    def function(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x - 1

    f = compiled(function)
    for sign in (1.0, 1.0, -1.0, -1.0, 1.0):
        x = torch.full((4,), sign)
        assert torch.equal(f(x), function(x))


@pytest.mark.skipif(bool(cpu.lacking()), reason="no native kernels here")
def test_auto_on_the_cpu_is_native() -> None:
    if torch.cuda.is_available():
        pytest.skip("the CPU is not alone here")
    f = tracejit.compile(softmax, wait=True)
    x = torch.randn(4, 40)
    for _ in range(3):
        torch.testing.assert_close(f(x), softmax(x))
    (entry,) = dispatcher_of(f).entries
    assert entry.run is not None and dispatcher_of(f).reasons == []


LACKING = {
    "no llvmlite": ("llvm_version", lambda: "", "need llvmlite: pip install 'tracejit"),
    "an old llvmlite": ("llvm_version", lambda: "0.41.1", "llvmlite 0.45 or later, not 0.41.1"),
    "an old CPU": ("host_levels", lambda: (), "need a CPU with avx512, avx2, neon"),
}


@pytest.mark.parametrize("what", LACKING)
@pytest.mark.parametrize("backend", ["auto", "native"])
def test_what_native_kernels_lack_is_hinted_once(
    backend: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, found, words = LACKING[what]
    monkeypatch.setattr(cpu, name, found)
    targets._choose.cache_clear()
    f = tracejit.compile(softmax, backend=backend)
    x = torch.randn(4, 40)
    try:
        with pytest.warns(BackendHint, match=words) as caught:
            assert torch.equal(f(x), softmax(x))
        assert len(caught) == 1 and caught[0].filename == __file__
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            f(x)
    finally:
        targets._choose.cache_clear()
    assert entries(f) == [] and dispatcher_of(f).reasons[0].kind == "backend"


def test_a_call_that_needs_gradients_is_hinted_once() -> None:
    layer = torch.nn.Linear(40, 4)
    f, g = tracejit.compile(layer, backend="auto"), tracejit.compile(layer, backend="auto")
    x = torch.randn(4, 40)
    with pytest.warns(BackendHint, match=r"Linear ran eagerly: .* torch\.no_grad\(\)") as caught:
        assert torch.equal(f(x), layer(x))
    assert len(caught) == 1 and caught[0].filename == __file__
    for again in (f, g):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            again(x)
    log.forget()
    with warnings.catch_warnings():  # a program whose warnings are errors goes on all the same
        warnings.simplefilter("error")
        assert torch.equal(tracejit.compile(layer, backend="auto")(x), layer(x))


def test_a_backend_that_is_not_installed_says_so_and_runs_eagerly(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "numpy" else find(name, *a)
    )
    targets._choose.cache_clear()
    f = tracejit.compile(softmax, backend="interpret")
    x = torch.randn(4, 40)
    words = "the interpreter needs numpy: pip install 'tracejit\\[cpu\\]'"
    try:
        with pytest.warns(BackendHint, match=words):
            assert torch.equal(f(x), softmax(x))
    finally:
        targets._choose.cache_clear()
    assert entries(f) == []


def test_offline_target(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    monkeypatch.setattr(config, "target", "cuda:90")
    f = tracejit.compile(chain, backend="triton", wait=True)
    x, y = torch.randn(8, 32), torch.randn(32)
    assert torch.equal(f(x, y), chain(x, y)) and torch.equal(f(x, y), chain(x, y))
    (entry,) = dispatcher_of(f).entries
    assert entry.run is None and entry.reason.kind == "offline" and entry.bound is not None
    (kernel,) = entry.bound.stored.kernels.values()
    assert kernel.binary is not None and kernel.binary.code
    again = tracejit.compile(chain, backend="triton", wait=True)
    assert torch.equal(again(x, y), chain(x, y))
    assert entries(again) == ["disk"]


def test_under_an_outer_tracer_it_is_the_plain_function() -> None:
    f = compiled(chain)
    x, y = torch.randn(3, 4), torch.randn(4)
    f(x, y)
    graph = torch.fx.experimental.proxy_tensor.make_fx(f)(x, y)
    assert torch.ops.aten.relu.default in {node.target for node in graph.graph.nodes}
    assert torch.equal(torch.func.vmap(f, (0, None))(x, y), torch.func.vmap(chain, (0, None))(x, y))
    with torch.device("cpu"):
        assert torch.equal(f(x, y), chain(x, y))

    def outer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return f(x, y) + 1

    g = compiled(outer)
    assert torch.equal(g(x, y), chain(x, y) + 1) and torch.equal(g(x, y), chain(x, y) + 1)
    assert entries(g) == ["recorded"]


def failing(monkeypatch: pytest.MonkeyPatch) -> None:
    from tracejit import compiler

    def broken(*anything: Any, **more: Any) -> Any:
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(compiler, "finish", broken)


def test_failing_compiler_is_no_failing_program(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch)
    f = compiled(softmax)
    x = torch.randn(4, 40)
    with pytest.warns(CompilerWarning, match=r"stage 'schedule' \(ZeroDivisionError: a bug\)"):
        assert torch.equal(f(x), softmax(x))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(f(x), softmax(x))
    assert "ZeroDivisionError: a bug" in str(tracejit.explain(f))
    traces = tracejit.last_traces(f)
    assert traces[0].name == "recorded" and "softmax" in traces[0].text
    assert traces[-1].name == "schedule" and "a bug" in traces[-1].text


def test_failing_compiler_is_an_error_under_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    failing(monkeypatch)
    f = compiled(softmax, strict=True)
    x = torch.randn(4, 40)
    for _ in range(2):
        with pytest.raises(CompilerError, match="schedule") as caught:
            f(x)
        assert isinstance(caught.value.__cause__, ZeroDivisionError)


def test_strict_turns_fallbacks_into_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RanEagerly, match="backend"):
        tracejit.compile(softmax, backend="eager", strict=True)(torch.randn(2))
    monkeypatch.setattr(config, "strict", True)
    with pytest.raises(RanEagerly, match="backend"):
        tracejit.compile(softmax, backend="eager")(torch.randn(2))


def test_explain_and_last_traces() -> None:
    f = compiled(chain)
    x, y = torch.randn(8, 32), torch.randn(32)
    found = tracejit.explain(f, x, y)
    text = str(found)
    assert "aten.relu" in text and "test_end_to_end.py:" in text and "guards (" in text
    data = json.loads(json.dumps(found.to_json()))
    (entry,) = data["entries"]
    assert entry["program"]["ops"]["aten.relu"] == 1 and entry["target"] == "interpret"
    assert {guard["path"] for guard in entry["guards"]} >= {"x", "y"}
    assert [t.name for t in tracejit.last_traces(f)][-2:] == ["plan", "machine code"]
    again = compiled(chain)
    assert "aten.relu" in str(tracejit.explain(again, x, y))
    assert tracejit.last_traces(again) == []


@pytest.mark.parametrize("kind", ["kernels", "plans", "records"])
@pytest.mark.parametrize("how", ["truncated", "flipped", "other version"])
def test_damaged_cache_gives_correct_results(fresh_cache: Path, kind: str, how: str) -> None:
    x = torch.randn(4, 40)
    compiled(softmax)(x)
    files = [path for path in (fresh_cache / kind).rglob("*") if path.is_file()]
    assert files
    for path in files:
        data = path.read_bytes()
        if how == "truncated":
            data = data[: len(data) // 2]
        elif how == "flipped":
            data = data[:-5] + bytes([data[-5] ^ 4]) + data[-4:]
        else:
            data = data.replace(b"tracejit %d " % FORMAT, b"tracejit 7 ", 1)
        path.write_bytes(data)
    f = compiled(softmax)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.testing.assert_close(f(x), softmax(x))
    named = [w for w in caught if issubclass(w.category, CacheWarning) and str(files[0]) in str(w)]
    assert bool(named) is (how != "other version")  # another version's file is no damage
    torch.testing.assert_close(f(x), softmax(x))
    assert entries(f) == ["recorded"]
    again = compiled(softmax)
    torch.testing.assert_close(again(x), softmax(x))
    assert entries(again) == ["disk"]


def test_unusable_cache_directory(fresh_cache: Path) -> None:
    fresh_cache.write_text("a file is in the way")
    f = compiled(softmax)
    x = torch.randn(4, 40)
    with pytest.warns(CacheWarning, match="nothing is cached"):
        f(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(f(x), softmax(x))
    assert entries(f) == ["recorded"]


def run_program(directory: Path, *words: str) -> dict[str, Any]:
    environment = {
        **os.environ,
        "TRACEJIT_CACHE_DIR": str(directory),
        "PYTHONPATH": str(PROGRAM.parents[2]),
    }
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(PROGRAM), *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_second_process_starts_warm(tmp_path: Path) -> None:
    cold = run_program(tmp_path / "cache")
    warm = run_program(tmp_path / "cache")
    assert cold["sources"] == [["recorded"]] * 3 and warm["sources"] == [["disk"]] * 3
    assert cold["right"] and warm["right"]
    assert "tracejit.trace.recorder" in cold["modules"]
    for name in warm["modules"]:
        assert not name.startswith(
            ("tracejit.trace", "tracejit.fuse", "tracejit.codegen", "tracejit.ops")
        ), name
        assert name not in (
            "sympy",
            "tracejit.compiler",
            "tracejit.firstcall",
            "tracejit.ir.graph",
        ), name


def test_processes_at_once_compile_and_share(tmp_path: Path) -> None:
    threads, found = [], []
    for _ in range(3):
        threads.append(
            threading.Thread(target=lambda: found.append(run_program(tmp_path / "cache")))
        )
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert len(found) == 3 and all(result["right"] for result in found)
    assert not (tmp_path / "cache" / "damaged").exists()


def test_importing_is_light() -> None:
    found = run_program(Path("unused"), "import-only")
    heavy = ("sympy", "triton", "llvmlite", "torch._dynamo", "torch._inductor", "tracejit.trace")
    assert [name for name in found["modules"] if name.startswith(heavy)] == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_compiling(tmp_path: Path) -> None:
    found = run_program(tmp_path / "cache", "fork")
    assert found["child"] == 0 and found["right"]


def test_exit_while_compiling(tmp_path: Path) -> None:
    assert run_program(tmp_path / "cache", "exit")["right"]

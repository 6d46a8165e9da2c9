"""Object code put into memory without LLVM: every native kernel of the tests is loaded so; here is
what they do not show."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import tracejit
from tests.executors import TARGET
from tracejit.api import dispatcher_of
from tracejit.codegen.native.objects import compile_text
from tracejit.runtime import cpu
from tracejit.runtime.devices import native, objectfile

LEVEL = next((name for name in cpu.host_levels() if cpu.LEVELS[name].machine == "x86_64"), "")
pytestmark = [
    pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels"),
    pytest.mark.skipif(not LEVEL, reason="object files of x86-64"),
]
TEXT = """
@table = private constant [3 x i64] [i64 10, i64 20, i64 30]
@where = private constant [2 x ptr] [ptr @twice, ptr @next]
@seen = internal global i64 0
@count = internal global i64 5
@outside = external global i64
declare i64 @strtol(ptr, ptr, i32)
@digits = private constant [3 x i8] c"42\\00"

define internal i64 @twice(i64 %x) noinline {
  %y = add i64 %x, %x
  ret i64 %y
}

define i64 @next() {
  %old = load i64, ptr @count
  %new = add i64 %old, 1
  store i64 %new, ptr @count
  store i64 %new, ptr @seen
  ret i64 %new
}

define i64 @all(i64 %k) {
  %place = getelementptr i64, ptr @table, i64 %k
  %item = load i64, ptr %place
  %slot = getelementptr ptr, ptr @where, i64 0
  %f = load ptr, ptr %slot
  %double = call i64 %f(i64 %item)
  %n = call i64 @strtol(ptr @digits, ptr null, i32 10)
  %o = load i64, ptr @outside
  %s = load i64, ptr @seen
  %a = add i64 %double, %n
  %b = add i64 %a, %o
  %c = add i64 %b, %s
  ret i64 %c
}
"""
OUTSIDE = ctypes.c_int64(1000)


def resolve(name: str) -> int:
    if name == "outside":
        return ctypes.addressof(OUTSIDE)
    function = getattr(ctypes.CDLL(None), name)
    return ctypes.cast(function, ctypes.c_void_p).value or 0


def loaded() -> objectfile.Image:
    code, _ = compile_text(TEXT, cpu.LEVELS[LEVEL])
    return objectfile.load(code, resolve)


def test_constants_data_and_functions_elsewhere() -> None:
    image = loaded()
    result = ctypes.c_int64
    following = ctypes.CFUNCTYPE(result)(image.addresses["next"])
    everything = ctypes.CFUNCTYPE(result, ctypes.c_int64)(image.addresses["all"])
    assert everything(1) == 40 + 42 + 1000 + 0
    assert (following(), following()) == (6, 7)
    assert everything(2) == 60 + 42 + 1000 + 7
    assert loaded().addresses["next"] != image.addresses["next"]  # with data of its own


def test_nothing_is_both_written_and_executed() -> None:
    image = loaded()
    rights = {}
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(x, 16) for x in line.split()[0].split("-"))
        for name, address in image.addresses.items():
            if first <= address < last:
                rights[name] = line.split()[1]
    assert rights["all"] == rights["next"] == "r-xp"
    assert rights.get("count", "rw-p") == "rw-p"


@pytest.mark.parametrize("what", ["empty", "text", "cut", "another machine"])
def test_what_is_not_understood(what: str) -> None:
    code, _ = compile_text(TEXT, cpu.LEVELS[LEVEL])
    other, _ = compile_text("define i32 @one() {\n ret i32 1\n}", cpu.LEVELS["neon"])
    given = {"empty": b"", "text": b"hello" * 40, "cut": code[:200], "another machine": other}
    with pytest.raises(objectfile.Unknown):
        objectfile.load(given[what], resolve)


def test_a_missing_function_is_named() -> None:
    code, _ = compile_text(
        "declare void @f_nowhere()\ndefine void @g() {\n call void @f_nowhere()\n ret void\n}",
        cpu.LEVELS[LEVEL],
    )
    with pytest.raises(OSError, match="f_nowhere"):
        native.entry("g", code, ("f_nowhere",))


def test_llvm_takes_over(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> None:
    def unknown(*_: object) -> None:
        raise objectfile.Unknown("a test")

    monkeypatch.setattr(objectfile, "load", unknown)
    compiled = tracejit.compile(lambda x: x.exp() + 1, wait=True, strict=True)
    x = torch.randn(100)
    compiled(x)
    torch.testing.assert_close(compiled(x), x.exp() + 1)
    assert dispatcher_of(compiled).entries[0].run is not None


def test_a_warm_process_loads_no_llvm(fresh_cache: Path) -> None:
    program = (
        "import sys, torch, tracejit\n"
        "f = tracejit.compile(lambda x: x.tanh().softmax(-1), wait=True, strict=True)\n"
        "x = torch.ones(4, 50)\n"
        "for _ in range(3): f(x)\n"
        "print(tracejit.explain(f).entries[0].source, 'llvmlite.binding' in sys.modules)\n"
    )
    file = fresh_cache.parent / "program.py"
    file.write_text(program)
    said = [
        subprocess.run(
            [sys.executable, str(file)],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "TRACEJIT_CACHE_DIR": str(fresh_cache)},
        ).stdout.split()
        for _ in range(2)
    ]
    assert said == [["recorded", "True"], ["disk", "False"]], TARGET

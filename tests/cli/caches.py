"""A cache as a program leaves it, for the tests of `tracejit cache`: two functions, one compiled
for Triton's interpreter and one for a GPU that is not there; the first found once on disk."""

from __future__ import annotations

import atexit
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from click.testing import CliRunner, Result

import tracejit
from tracejit.cli.cache.commands import cache
from tracejit.runtime.cache import Cache, Kernel, StoredPlan, make_record
from tracejit.runtime.config import config
from tracejit.runtime.files import FORMAT, temporary_name
from tracejit.runtime.kernel import Binary, KernelSource

INTERPRETED, COMPILED = "tests.cli.caches.attend", "tests.cli.caches.norm"


def attend(x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    return (x @ w).relu().softmax(-1)


def norm(x: torch.Tensor, residual: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    y = x + residual
    return y, y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6)


@functools.cache
def _made() -> Path:
    """Compiled once in this process, and removed with it."""
    folder = Path(tempfile.mkdtemp(prefix="tracejit-caches-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    before = config.cache_dir, config.target
    config.cache_dir, config.target = str(folder / "cache"), "cuda:90"
    try:
        x, w = torch.randn(8, 16), torch.randn(16, 32)
        for _ in range(2):  # the second finds the first's program on disk
            tracejit.compile(attend, backend="interpret", wait=True)(x, w)
        tracejit.compile(norm, backend="triton", wait=True)(torch.randn(4, 64), torch.randn(4, 64))
    finally:
        config.cache_dir, config.target = before
    return folder / "cache"


def filled(folder: Path) -> Path:
    """A copy of the cache, to do anything with."""
    return Path(shutil.copytree(_made(), folder / "cache"))


def run(directory: Path, *words: str, stdin: str | None = None) -> Result:
    """`tracejit cache WORDS --dir DIRECTORY`."""
    return CliRunner().invoke(cache, [*words, "--dir", str(directory)], input=stdin)


def text(directory: Path, *words: str) -> str:
    """What the command prints; it succeeds."""
    found = run(directory, *words)
    assert found.exit_code == 0, found.output or found.exception
    return found.stdout


def document(directory: Path, *words: str, code: int = 0) -> dict[str, Any]:
    """Its JSON."""
    found = run(directory, *words, "--json")
    assert found.exit_code == code, found.output or found.exception
    data: dict[str, Any] = json.loads(found.stdout)
    assert list(data)[0] == "schema" and data["schema"] == 1
    return data


def fails(directory: Path, *words: str) -> str:
    """The sentence of the error that the command raises, which the command line prints."""
    found = run(directory, *words)
    assert isinstance(found.exception, tracejit.TracejitError), found.output
    sentence = str(found.exception)
    assert "\n" not in sentence and not found.stdout
    return sentence


def keys(directory: Path, kind: str, target: str = "") -> list[str]:
    """Whole keys of a kind, for a target if one is given."""
    words = ("ls", "--kind", kind, "--target", target)
    return [entry["key"] for entry in document(directory, *words)["entries"]]


def only(directory: Path, kind: str, target: str) -> str:
    """The key of the only entry of a kind for a target."""
    (key,) = keys(directory, kind, target)
    return key


def path(directory: Path, kind: str, target: str) -> Path:
    """The file of the only entry of a kind for a target."""
    (found,) = (directory / kind).rglob(only(directory, kind, target))
    return found


def other_format(file: Path) -> Path:
    """Make it a file of another version of the format."""
    head = f"tracejit {FORMAT} ".encode()
    assert file.read_bytes().startswith(head)
    file.write_bytes(file.read_bytes().replace(head, b"tracejit 99 ", 1))
    return file


def snapshot(directory: Path) -> dict[str, bytes]:
    """Every file below, with its bytes."""
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


SOURCE = KernelSource(
    "relu", "def relu(x):\n    pass\n", "interpret", (("x", "*fp32"),), ("x",), {}, 1
)
MANIFEST = {
    "title": "model.f for interpret",
    "launches": 1,
    "calls": 2,
    "bytes": {"read": 8, "written": 4, "peak": 16},
}
PLAN = StoredPlan("abc" + "0" * 61, "# model.f for interpret\ndef run(): pass\n", MANIFEST, {})


def handwritten(folder: Path) -> Path:
    """A cache with a kernel and a plan that know little of themselves: no report, no graph, no
    record, and not in which environment they were made."""
    made = Cache(folder / "cache")
    made.write_kernel(Kernel("abd" + "0" * 61, SOURCE))
    made.write_plan(PLAN)
    return folder / "cache"


def add_kernel(directory: Path, key: str, source: KernelSource, binary: Binary | None) -> None:
    """One more kernel, by the beginning of its key, with a plan `fd…` that uses it."""
    kernel = Kernel(key + "0" * (64 - len(key)), source, binary)
    plan = StoredPlan("fd" + "0" * 62, PLAN.text, MANIFEST, {source.name: kernel})
    assert Cache(directory).write_plan(plan)


def web(folder: Path) -> Path:
    """Plans f and g with a kernel of their own each and one that they share, two records that lead
    to f and one that leads to g, and a kernel that nothing uses. All used long ago, g last."""
    made = Cache(folder / "cache")
    kernels = {
        name: Kernel(letter * 64, replace(SOURCE, name=name))
        for name, letter in {"own_f": "1", "shared": "2", "own_g": "3", "alone": "4"}.items()
    }
    made.write_kernel(kernels["alone"])
    recent = {"6" * 64, "2" * 64, "3" * 64}
    for number, (name, count) in enumerate({"f": 2, "g": 1}.items()):
        used = {n: kernels[n] for n in (f"own_{name}", "shared")}
        key = str(5 + number) * 64
        made.write_plan(
            StoredPlan(key, PLAN.text, {**MANIFEST, "title": f"m.{name} for cuda:90"}, used)
        )
        for which in range(count):
            record = make_record({}, [which], key, f"m.{name}")
            made.write_record("f" * 64, record)
        if name == "g":
            recent.add(f"{'f' * 64}/{record.key}")
    for file in made.store.files():
        days = 10 if file.key in recent else 20
        os.utime(file.path, (time.time() - days * 86400,) * 2)
    return folder / "cache"


def leave_behind(directory: Path) -> list[Path]:
    """What processes that were killed leave: a temporary file and a claim. Beside them, those of a
    process that runs: this one."""
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = temporary_name("0" * 64)
    names = [f"kernels/{own.replace(f'.{os.getpid()}.', f'.{ended.pid}.')}", "locks/kernel"]
    for name in (*names, f"kernels/{own}"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_bytes(b"half")
    return [directory / name for name in names]

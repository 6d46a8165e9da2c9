"""The built wheel holds all four folders and works where the checkout has never been."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("pyproject.toml", "README.md", "LICENSE", "tracejit", "codegen", "runtime", "benchmarks")

PROGRAM = """
import torch, tracejit

@tracejit.compile(backend="interpret", wait=True, strict=True)
def f(x, y):
    return torch.relu(x * y + 1).sum(-1)

x, y = torch.arange(24.).reshape(4, 6) - 12, torch.arange(6.)
want = torch.relu(x * y + 1).sum(-1)
for _ in range(3):
    torch.testing.assert_close(f(x, y), want)
assert tracejit.last_traces(f), "the call was not compiled"
print(tracejit.__file__, tracejit.__version__)
"""


def run(*command: str | Path, cwd: Path, **environ: str) -> str:
    """Standard output of a command; its standard error is in the failure."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "TRACEJIT_"))}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=kept | environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def copied_source(where: Path) -> Path:
    """The files that a build reads, links kept, so that building leaves nothing in the checkout."""
    where.mkdir()
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, where / part, symlinks=True, ignore=ignore)
        else:
            shutil.copy(ROOT / part, where / part)
    return where


def build_wheel(source: Path, out: Path) -> Path:
    """Build with the setuptools that is installed: no network, no isolation."""
    options = ["--no-deps", "--no-build-isolation", "--no-index", "-q", "-w", out]
    run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=source)
    return next(out.glob("*.whl"))


def modules(names: list[str]) -> set[str]:
    return {name for name in names if name.endswith(".py")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied_source(tmp_path_factory.mktemp("packaging") / "source")


@pytest.fixture(scope="module")
def wheel(source: Path) -> Path:
    return build_wheel(source, source.parent / "wheel")


@pytest.fixture(scope="module")
def sdist(source: Path) -> Path:
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    run(sys.executable, "-c", build, source.parent / "sdist", cwd=source)
    return next((source.parent / "sdist").glob("*.tar.gz"))


def in_checkout() -> set[str]:
    """The package's modules as they should be named once installed."""
    found = {
        f"tracejit/{p.relative_to(ROOT)}"
        for part in ("codegen", "runtime", "benchmarks")
        for p in modules_under(part)
    }
    return found | {str(p.relative_to(ROOT)) for p in modules_under("tracejit")}


def modules_under(part: str) -> list[Path]:
    """Python files below a folder, links not followed."""
    return [
        Path(base) / name
        for base, _, names in os.walk(ROOT / part)
        for name in names
        if name.endswith(".py")
    ]


def test_wheel_holds_every_module(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert modules(names) == in_checkout()
    assert "tracejit/py.typed" in names
    tops = {name.split("/")[0] for name in names}
    assert {t for t in tops if not t.endswith(".dist-info")} == {"tracejit"}, (
        "a generic name got out"
    )


def test_sdist_holds_every_module(sdist: Path) -> None:
    with tarfile.open(sdist) as archive:
        names = {n.split("/", 1)[1] for n in archive.getnames() if "/" in n}
    assert in_checkout() <= names
    assert {"LICENSE", "README.md", "pyproject.toml"} <= names


def test_sdist_builds_the_same_wheel(sdist: Path, wheel: Path, tmp_path: Path) -> None:
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path, filter="data")
    again = build_wheel(next(tmp_path.glob("tracejit-*")), tmp_path / "wheel")
    assert modules(zipfile.ZipFile(again).namelist()) == modules(zipfile.ZipFile(wheel).namelist())


def test_wheel_works_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    venv.create(empty, with_pip=False)
    python = empty / "bin" / "python"
    pip = [sys.executable, "-m", "pip", "--python", python]
    run(*pip, "install", "-q", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path)
    # torch and triton come from here, as a plain path: .pth files in it are not followed, so that
    # an editable tracejit stays out of sight.
    (Path(site.strip()) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    shown = run(python, "program.py", cwd=tmp_path, TRACEJIT_CACHE_DIR=str(tmp_path / "cache"))
    assert str(empty) in shown
    assert shown.split()[-1] == wheel.name.split("-")[1], "the version stands in two places"

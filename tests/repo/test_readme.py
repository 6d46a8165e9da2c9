"""What README and docs show is what happens: kernel, figures and sessions are written by tools."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """A fresh interpreter, the checkout importable."""
    environ = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environ, capture_output=True, text=True)


def test_kernel_is_the_compilers() -> None:
    done = python("tools/readme_kernel.py", "--check")
    assert done.returncode == 0, done.stderr or "run `python tools/readme_kernel.py` and look at it"


def test_figures_are_those_of_the_committed_result() -> None:
    done = python("tools/readme_bench.py", "--check")
    assert done.returncode == 0, done.stderr or "run `python tools/readme_bench.py`"


def test_sessions_are_the_commands() -> None:
    """Every session of docs/cli.md, run anew."""
    done = python("tools/cli_docs.py", "--check")
    assert done.returncode == 0, done.stdout + done.stderr


def test_first_example_runs(tmp_path: Path) -> None:
    """As pasted: from an empty folder, from a file."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    (example,) = [block for block in blocks if "import tracejit" in block]
    (tmp_path / "example.py").write_text(example)
    done = python("example.py", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "torch.Size([64, 128])" in done.stdout

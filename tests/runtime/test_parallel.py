"""Kernels compiled at once (codegen/parallel.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tracejit.codegen.parallel import each

AT_EXIT = """
import atexit
from tracejit.codegen.parallel import each

atexit.register(lambda: print(list(each(str, [1, 2, 3]))))
"""


def test_results_come_in_order() -> None:
    assert list(each(str, range(20))) == [str(n) for n in range(20)]


def test_an_error_of_the_work_is_raised() -> None:
    def work(n: int) -> int:
        if n == 2:
            raise RuntimeError("two")
        return n

    results = each(work, [1, 2, 3])
    assert next(results) == 1
    with pytest.raises(RuntimeError, match="two"):
        next(results)


def test_while_the_interpreter_exits(tmp_path: Path) -> None:
    """Its thread pools refuse work by then: a job under way is done by its own thread."""
    program = tmp_path / "program.py"
    program.write_text(AT_EXIT)
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == ("['1', '2', '3']\n", "")

"""Writes the README's before and after: a function, and the Triton kernel that it became.

    python tools/readme_kernel.py [--check]

With --check nothing is written; the exit status is 1 if the README shows another kernel than the
compiler makes.
"""

from __future__ import annotations

import inspect
import os
from pathlib import Path

os.environ["TRACEJIT_TARGET"] = "cuda:90"  # read when tracejit is imported

import marked
import torch

import tracejit

README = Path(__file__).resolve().parent.parent / "README.md"
BEGIN = "<!-- kernel: written by tools/readme_kernel.py -->\n"
END = "<!-- end of kernel -->\n"


def add_and_norm(x, residual, weight):
    x = x + residual
    scale = torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
    return x, x * scale * weight


def kernels() -> list[str]:
    """The text of each kernel for the target, after the interpreter gave eager's result."""
    args = torch.randn(512, 4096), torch.randn(512, 4096), torch.randn(4096)
    checked = tracejit.compile(add_and_norm, backend="interpret", wait=True, strict=True)
    for _ in range(2):
        torch.testing.assert_close(checked(*args), add_and_norm(*args))
    f = tracejit.compile(add_and_norm, backend="triton", wait=True, strict=True)
    (entry,) = tracejit.explain(f, *args).entries
    return list(entry.kernel_texts.values())


def block() -> str:
    """What stands between the two marks of the README."""
    made = kernels()
    before = inspect.getsource(add_and_norm).strip()
    kernel = made[0].strip()
    what = "one kernel" if len(made) == 1 else f"{len(made)} kernels, the first"
    return (
        f"```python\n{before}\n```\n\n"
        f"on two float32 matrices of 512 × 4096 is {what} for an H100:\n\n"
        f"```python\n{kernel}\n```\n"
    )


if __name__ == "__main__":
    raise SystemExit(marked.main(README, BEGIN, END, block()))

"""`import tracejit` stays light: what it must not load, and what it may cost beyond torch."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("sympy", "triton", "llvmlite", "torch._dynamo", "torch._inductor", "numpy.testing")
HEAVY_OWN = (
    "tracejit.trace",
    "tracejit.fuse",
    "tracejit.ops",
    "tracejit.codegen",
    "tracejit.autograd",
)

PROGRAM = """
import json, sys, time
import torch
before = set(sys.modules)
start = time.perf_counter()
import tracejit
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "new": sorted(set(sys.modules) - before)}))
"""


def imported() -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_loads_nothing_heavy() -> None:
    new = imported()["new"]
    heavy = HEAVY + HEAVY_OWN
    loaded = [m for m in new if any(m == h or m.startswith(h + ".") for h in heavy)]
    assert loaded == []


def test_costs_a_tenth_of_a_second_at_most() -> None:
    # The best of three: another process on the machine can only make it slower.
    assert min(imported()["seconds"] for _ in range(3)) <= 0.1

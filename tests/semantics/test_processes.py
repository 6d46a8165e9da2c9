"""A second process takes the first one's plans where its state is the same, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("process_program.py")


def run(cache: Path, *arguments: str) -> Any:
    """What the program prints in a process of its own."""
    environment = {**os.environ, "TRACEJIT_CACHE_DIR": str(cache)}
    done = subprocess.run(
        [sys.executable, str(PROGRAM), *arguments],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_other_state_in_another_process(tmp_path: Path) -> None:
    first = run(tmp_path, "2.0", "bias")
    again = run(tmp_path, "2.0", "bias")
    other = run(tmp_path, "3.0", "none")
    assert first["right"] and again["right"] and other["right"]
    assert {s for sources in first["sources"] for s in sources} == {"recorded"}
    assert {s for sources in again["sources"] for s in sources} == {"disk"}
    net, scaled, indexed = other["sources"]
    assert set(net) == set(scaled) == {"recorded"} and set(indexed) == {"disk"}

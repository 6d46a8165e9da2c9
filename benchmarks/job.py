"""What a child process is asked to do, and what it tells while doing it: JSON, a line each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

Event = dict[str, Any]
Tell = Callable[[Event], None]  # {"outcome": …} or an answer of its own


@dataclass(frozen=True)
class Job:
    """One process's work. `kind` names a function of tracejit.benchmarks.measures, or is "serve":
    answer orders (tracejit.benchmarks.serving)."""

    kind: str
    device: str = "cpu"
    threads: int = 0  # 0: as many as torch takes by itself
    workload: str = ""
    peers: tuple[str, ...] = ()
    caches: str = ""  # the folder that holds a folder of caches for each peer
    tiny: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        fields = json.loads(text)
        return cls(**fields | {"peers": tuple(fields["peers"])})


@dataclass
class Outcome:
    """What became of one peer: its samples by series, or why there are none."""

    peer: str
    status: str = "ok"  # or "failed", "wrong", "missing"
    why: str = ""
    series: dict[str, list[float]] = field(default_factory=dict)


def one_line(error: BaseException) -> str:
    """An exception's class and the first line of its message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    return text if len(text) <= 200 else f"{text[:199]}…"

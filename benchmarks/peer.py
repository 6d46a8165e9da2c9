"""What a peer is: a way of running a workload. It imports what it needs in its methods, so that
the process that only starts others stays light."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from tracejit.benchmarks.registry import Work, Workload

Function = Callable[..., Any]


class Peer:
    """One that runs a function as it is."""

    name: ClassVar[str] = "eager"
    package: ClassVar[str] = ""  # without which it cannot run, and the extra that brings it
    extra: ClassVar[str] = ""
    foreign: ClassVar[bool] = False  # its results are not torch's: only their values can be eager's
    stored: ClassVar[bool] = False  # keeps compiled programs: a warm start differs from a cold one
    prepares: ClassVar[bool] = False  # its first use on a machine leaves something for all later
    tunes: ClassVar[bool] = False  # times what it compiles: nothing else may run then
    guess: ClassVar[tuple[float, float]] = (4, 4)  # seconds of a cold and a warm start's process

    def available(self, device: str) -> str:
        """Why it cannot run on this device; "" if it can."""
        if self.package and importlib.util.find_spec(self.package) is None:
            hint = f": pip install 'tracejit[{self.extra}]'" if self.extra else ""
            return f"{self.package} is not installed{hint}"
        return ""

    def lacks(self, workload: Workload) -> str:
        """Why it has no version of this workload; "" if it has one."""
        return ""

    def environment(self, caches: Path, threads: int) -> dict[str, str]:
        """Its process's variables, which put all it keeps on disk below `caches`."""
        return {}

    def load(self, threads: int) -> None:
        """Import what a program that uses it imports, and what its first call is bound to."""

    def version(self, work: Work, port: str) -> Function:
        """What computes the work, in this peer's terms."""
        return work.function

    def inputs(self, work: Work) -> tuple[Any, ...]:
        """The arguments of a call, converted if need be."""
        return work.args

    def compile(self, function: Function, device: str) -> Function:
        """The function as this peer runs it; a call returns when its result is there."""
        return function

    def result(self, value: Any) -> Any:
        """What a call returned, as torch's."""
        return value

    def forget(self) -> None:
        """Drop what was compiled for one workload, before the next in the same process."""

    def fault(self, compiled: Function) -> str:
        """Why a function that was called is not what this peer is measured as; "" if it is."""
        return ""

    def note(self, device: str) -> str:
        """What it does on this device, in words."""
        return "PyTorch, operation by operation"

    def remark(self, device: str) -> str:
        """What must stand beside each of its figures lest they mislead; "" if nothing."""
        return ""

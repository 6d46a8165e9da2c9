"""The workloads that can be measured, by name. Single ones are decorated functions
(tracejit.benchmarks.workloads), suites are tables (tracejit.benchmarks.micro, .modelsuite), whose
rows have names such as `micro/softmax/64K/bf16`.

Importing this loads no torch: a list of them is shown at once.
"""

from __future__ import annotations

import fnmatch
import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracejit.runtime.errors import BadOption, MissingExtra

UNPORTED = "written for PyTorch only"


@dataclass(frozen=True)
class Work:
    """A function or a module in eval mode, and the arguments of its calls."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    skipped: int = 0  # bytes of its arguments that it does not read
    options: Mapping[str, Any] = field(
        default_factory=dict
    )  # keywords of other frameworks' versions


Build = Callable[[bool], Work]  # of whether it is to be tiny


@dataclass(frozen=True)
class Pace:
    """How long a workload is measured: rounds at most, seconds of a block, and those of all blocks
    of one peer, by which there are fewer rounds if calls are slow (0: always all)."""

    rounds: int
    seconds: float
    total: float = 0.0


@dataclass(frozen=True)
class Workload:
    """A row of the registry. `build(tiny)` makes the work; the tiny one is all overhead."""

    name: str
    about: str
    build: Build
    needs: str = ""  # a package that is optional, or ""
    default: bool = True  # measured when no workload is named
    measures: tuple[str, ...] = ()  # taken when none is named; all if empty
    without: tuple[str, ...] = ()  # peers that are measured only if named
    port: str = ""  # the function of tracejit.benchmarks.ports that is the same for others
    unported: str = UNPORTED  # why there is none
    team: str = ""  # workloads of one team share the peers' processes
    pace: Pace | None = None
    streams: bool = False  # whether memory bounds it: bytes per second say how good it is

    @property
    def suite(self) -> str:
        """ "micro" of `micro/softmax/64K/bf16`; "" of a single one."""
        return self.name.partition("/")[0] if "/" in self.name else ""


REGISTRY: dict[str, Workload] = {}
TABLES = ("workloads", "micro", "modelsuite")  # modules that enter rows


def enter(row: Workload) -> None:
    """Add a row."""
    REGISTRY[row.name] = row


def workload(
    about: str, **fields: Any
) -> Callable[[Callable[[bool], Work]], Callable[[bool], Work]]:
    """Enter a function `(tiny) -> Work` under its name (`_` becomes `-`), with these fields."""

    def entered(build: Build) -> Build:
        enter(Workload(build.__name__.replace("_", "-"), about, build, **fields))
        return build

    return entered


def registered() -> dict[str, Workload]:
    """All workloads by name, in the order in which they are shown: single ones, then suites."""
    for table in TABLES:
        importlib.import_module(f"tracejit.benchmarks.{table}")
    return dict(sorted(REGISTRY.items(), key=lambda item: item[1].suite))


def chosen(words: Iterable[str]) -> list[Workload]:
    """The workloads that these words name, in the order of the words; the default ones if there
    are none. A word is a name, a pattern (`micro/*/bf16`), or the beginning of names (`micro`,
    `models/gpt`).

    Raises BadOption for a word that names none, MissingExtra if a package is missing.
    """
    known = registered()
    wanted = list(words)
    found = {} if wanted else {name: row for name, row in known.items() if row.default}
    for word in wanted:
        named = {name: row for name, row in known.items() if matches(name, word)}
        if not named:
            raise BadOption(name="workload", value=word, legal=", ".join(heads(known)))
        found |= {name: row for name, row in named.items() if name not in found}
    rows = list(found.values())
    need(rows)
    return rows


def matches(name: str, word: str) -> bool:
    """Whether the word is this name, or its first parts, or a pattern of either."""
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in (word, f"{word}/*"))


def heads(names: Iterable[str]) -> list[str]:
    """The single names, and each suite's as `micro/…`."""
    return list(dict.fromkeys(f"{n.partition('/')[0]}/…" if "/" in n else n for n in names))


def need(workloads: Iterable[Workload]) -> None:
    """Raise MissingExtra if a package that these workloads need is not installed."""
    lacking: dict[str, list[str]] = {}
    for row in workloads:
        if row.needs and importlib.util.find_spec(row.needs) is None:
            lacking.setdefault(row.needs, []).append(row.name)
    for package, names in lacking.items():
        what = f"{'workload' if len(names) == 1 else 'each of the workloads'} {', '.join(names)}"
        raise MissingExtra(what=what, packages=package, extra="bench")

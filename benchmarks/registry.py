"""The workloads that can be measured: one decorated function each (tracejit.benchmarks.workloads).

Importing this loads no torch: a list of them is shown at once.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from tracejit.runtime.errors import BadOption, MissingExtra


@dataclass(frozen=True)
class Work:
    """A function or a module in eval mode, and the arguments of its calls."""

    function: Callable[..., Any]
    args: tuple[Any, ...]


@dataclass(frozen=True)
class Workload:
    """A row of the registry. `build(tiny)` makes the work; the tiny one is all overhead."""

    name: str
    about: str
    build: Callable[[bool], Work]
    needs: str  # a package that is optional, or ""
    default: bool  # measured when no workload is named


REGISTRY: dict[str, Workload] = {}


def workload(
    about: str, *, needs: str = "", default: bool = True
) -> Callable[[Callable[[bool], Work]], Callable[[bool], Work]]:
    """Enter a function `(tiny) -> Work` under its name (`_` becomes `-`)."""

    def enter(build: Callable[[bool], Work]) -> Callable[[bool], Work]:
        name = build.__name__.replace("_", "-")
        REGISTRY[name] = Workload(name, about, build, needs, default)
        return build

    return enter


def registered() -> dict[str, Workload]:
    """All workloads by name, in the order in which they are shown."""
    importlib.import_module("tracejit.benchmarks.workloads")
    return REGISTRY


def chosen(names: Iterable[str]) -> list[Workload]:
    """The workloads of these names; the default ones if there are none.

    Raises BadOption for a name that is not registered, MissingExtra if a package is missing.
    """
    known = registered()
    wanted = list(dict.fromkeys(names)) or [w.name for w in known.values() if w.default]
    for name in wanted:
        if name not in known:
            raise BadOption(name="workload", value=name, legal=", ".join(known))
    found = [known[name] for name in wanted]
    need(found)
    return found


def need(workloads: Iterable[Workload]) -> None:
    """Raise MissingExtra if a package that these workloads need is not installed."""
    lacking: dict[str, list[str]] = {}
    for row in workloads:
        if row.needs and importlib.util.find_spec(row.needs) is None:
            lacking.setdefault(row.needs, []).append(row.name)
    for package, names in lacking.items():
        what = f"{'workload' if len(names) == 1 else 'each of the workloads'} {', '.join(names)}"
        raise MissingExtra(what=what, packages=package, extra="bench")

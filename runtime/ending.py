"""What a compiled check of guards does when all of them hold: the last lines of its text."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tracejit.runtime import private
from tracejit.runtime.outputs import Recipe
from tracejit.runtime.plan import Leave, Run

MISS: Any = object()  # what a check returns instead: something differs from what was bound


@dataclass(frozen=True)
class Ending:
    """Lines of Python that return the result of a call, given its `args`, its `kwargs`, the
    program's `inputs` and the objects `held` for it, and what other names in them stand for."""

    lines: tuple[str, ...]
    names: Mapping[str, Any] = field(default_factory=dict)

    @functools.cached_property
    def function(self) -> Callable[..., Any]:
        """The same as a function of all four, for guards that were not compiled."""
        body = "\n    ".join(self.lines)
        names = dict(self.names)
        exec(f"def ending(args, kwargs, inputs, held):\n    {body}\n", names)
        found: Callable[..., Any] = names["ending"]
        return found


INPUTS = Ending(("return inputs",))


def instead(call: Callable[[tuple[Any, ...], dict[str, Any]], Any]) -> Ending:
    """Leave the call to another function."""
    return Ending(("return instead(args, kwargs)",), {"instead": call})


def running(run: Run, shown: Run, recipe: Recipe, failed: Callable[..., Any]) -> Ending:
    """Run a plan and build the return value. What the plan raises is for `failed` to judge; Leave
    is for the caller. `shown`: the plan as it runs while torch's profiler is active."""
    lines = (
        "try:",
        f"    outputs = (shown if {private.PROFILING} else run)(inputs)",
        *(f"    {line}" for line in recipe.lines),
        f"    return {recipe.result}",
        "except Leave:",
        "    raise",
        "except Exception as error:",
        "    return failed(error, args, kwargs)",
    )
    names = {"run": run, "shown": shown, "Leave": Leave, "failed": failed}
    return Ending(lines, {**recipe.names, **names, "profiler": private.profiler()})

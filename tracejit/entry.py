"""One compiled specialisation of a function: its guards, what calls do once they hold, and why it
was needed."""

from __future__ import annotations

import functools
import opcode
import weakref
from typing import TYPE_CHECKING, Any

from tracejit.runtime.checker import Checker
from tracejit.runtime.ending import instead, running
from tracejit.runtime.guards import GuardSet
from tracejit.runtime.reasons import Failure, Reason

if TYPE_CHECKING:
    from tracejit.dispatch import Dispatcher
    from tracejit.runtime.bind import Bound
    from tracejit.runtime.plan import Run

MOST_RAISED = 50  # calls whose plan raised before the plan is given up in any case


class Entry:
    """A specialisation. `run` is None while it is compiled, for another machine, or failed: see
    `reason`."""

    __slots__ = (
        "__weakref__",
        "_run",
        "because",
        "bound",
        "check",
        "dispatcher",
        "error",
        "raised",
        "reason",
        "seconds",
        "source",
        "tree",
    )

    def __init__(
        self, dispatcher: Dispatcher, guards: GuardSet, source: str, because: Failure | None
    ) -> None:
        # No cycles: a compiled model dies with its last user.
        self.dispatcher: Any = weakref.proxy(dispatcher)
        self.check = Checker(guards, dispatcher.function)
        self.bound: Bound | None = None
        self.run = None
        self.reason: Reason | None = Reason("pending", "the program is being compiled")
        self.error: BaseException | None = None
        self.source = source  # "recorded" or "disk"
        self.because = because  # why the entries before it did not do
        # Entries with the same guards are the branches of one tree: the first one's number.
        fellows = (n for n, e in enumerate(dispatcher.entries) if e.guards.alike(guards))
        self.tree = next(fellows, len(dispatcher.entries))
        self.seconds: dict[str, float] = {}
        self.raised = 0  # calls whose plan raised

    @property
    def guards(self) -> GuardSet:
        return self.check.guards

    def become(self, bound: Bound, offline: bool) -> None:
        """Take the loaded plan: from now on calls run it (unless it is for a machine that is not
        here)."""
        self.bound = bound
        if offline:
            self.reason = Reason("offline", f"compiled for {bound.target}, which is not here")
        else:
            self.run, self.reason = bound.plan.run, None

    def fail(self, reason: Reason, error: BaseException | None) -> None:
        """Calls with these guards run eagerly for this reason."""
        self.run, self.reason, self.error = None, reason, error

    @property
    def run(self) -> Run | None:
        """The plan's function."""
        return self._run

    @run.setter
    def run(self, run: Run | None) -> None:
        """What calls do from now on once the guards hold: run the plan, or run eagerly."""
        self._run = run
        owner = self.dispatcher.__class__
        method = owner.wait_eagerly if run is None else owner.broken
        then = functools.partial(method, self.dispatcher, weakref.proxy(self))
        if run is None or self.bound is None:
            self.check.end(instead(then))
        else:
            plan = self.bound.plan
            shown = plan.shown if run is plan.run else run
            self.check.end(running(run, shown, self.bound.recipe, then))

    def took(self, what: str) -> str:
        """A time of the entry, for the log."""
        return f"{self.seconds[what] * 1e3:.1f} ms"

    @property
    def decisions(self) -> list[Any]:
        """What the data decided when the call was recorded, in order: [the line, the outcome]."""
        found: list[Any] = self.bound.stored.manifest["decisions"] if self.bound is not None else []
        return found

    def parts_from(self, entry: Entry, decision: tuple[int, Any]) -> bool:
        """Whether a call that left `entry` at this decision would leave this entry's plan too: one
        with the same guards, but for another outcome here or before. One that is being compiled may
        be the one."""
        if self.bound is None or self.tree != entry.tree:
            return False
        number, found = decision
        mine, others = self.decisions[: number + 1], entry.decisions[:number]
        return not mine or mine != [*others, [mine[-1][0], found]]

    def catches(self, error: Exception, function: Any, args: Any, kwargs: Any) -> bool:
        """Whether the program may have caught an error of the plan's as eager's own: some of its
        code handles errors, and a plan raised so not too often."""
        self.raised += 1
        if self.raised > MOST_RAISED or not isinstance(error, (RuntimeError, IndexError)):
            return False
        values = self.guards.values(function, args, kwargs)
        return isinstance(values, list) and any(map(handles_errors, values))


def handles_errors(function: Any) -> bool:
    """Whether a function has an `except`, or a `with` that may be one."""
    code = getattr(function, "__code__", None)
    return code is not None and not HANDLERS.isdisjoint(code.co_code[::2])


HANDLERS = {
    opcode.opmap[name]
    for name in ("POP_EXCEPT", "CHECK_EXC_MATCH", "JUMP_IF_NOT_EXC_MATCH", "WITH_EXCEPT_START")
    if name in opcode.opmap
}

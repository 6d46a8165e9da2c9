"""Why something ran eagerly, was not fused or was compiled again: a kind from one table, and words.

Every refusal in tracejit is a `Reason`. Kinds are few and stable, so that tests and reports can
count them; the text says what happened in this case, and `place` where (the user's file:line, a
guard's path, a stage of the compiler).
"""

from __future__ import annotations

from dataclasses import dataclass, field

KINDS: dict[str, str] = {
    # before recording
    "backend": "the chosen backend does not compile for these tensors, so the call runs eagerly",
    "outer-tracer": "the call happens inside another tracer, dispatch mode or functorch transform",
    "autograd": "gradients are needed, and only inference is compiled",
    "entries": "as many entries of the function are kept as may be, and none fits this call",
    "thread": "another thread is recording, and observation belongs to one thread",
    # what a recording met
    "output": "the return value has a part that cannot be rebuilt from tensors and constants",
    "tensor": "a tensor has a layout, subclass or device that the graph does not represent",
    "mutation": "a write was seen that the graph does not represent",
    "data-dependent": "a result's size or Python's control flow depends on the values of a tensor",
    "raised": "an operation raised in this call, and the program went on",
    "random": "random numbers were drawn in a way that a plan cannot repeat",
    "op": "an operation was called that the graph does not represent",
    "impure": "code ran that is not known to be free of effects (clocks, I/O, printing, random)",
    "side-effect": "the call changed Python state that a plan cannot replay",
    "unguardable": "an object was read that no access path reaches, or that no guard describes",
    "generator": "a generator or coroutine outlives the call",
    "hook": "a hook or a profiler was active that a plan would not call",
    # guards
    "left": "a number or an index computed from data was not as recorded; the plan was left",
    # the compiler
    "compiler": "a stage of the compiler failed",
    "extern": "the operation is a library call",
    # runtime
    "cache": "the disk cache could not be used",
    "offline": "the program was compiled for a target that is not here, so the call runs eagerly",
    "pending": "compilation runs in the background; until it is done calls run eagerly",
}


@dataclass(frozen=True)
class Reason:
    """One refusal: `kind` is a key of KINDS, `text` says what was met, `place` where (may be
    empty)."""

    kind: str
    text: str
    place: str = ""

    def __str__(self) -> str:
        where = f" ({self.place})" if self.place else ""
        return f"{self.kind}: {self.text}{where}"

    def to_json(self) -> dict[str, str]:
        """The three fields."""
        return {"kind": self.kind, "text": self.text, "place": self.place}


@dataclass(frozen=True)
class Failure:
    """Something that is not as it was recorded: where, what it was, and what it is now.

    `check` is the guard's ("state", "version", "sharing", "distinct" for what is no path, "data"
    for what a plan computed, at the line `path`); `node` the guard's index, if it is a node's.
    """

    path: str
    expected: str
    found: str
    check: str
    node: int = field(default=-1, compare=False)

    def __str__(self) -> str:
        return f"{self.path} was {self.expected}, is {self.found}"

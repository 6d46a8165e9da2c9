"""A kernel as data: its source with all that a launch needs to know, and what a compiler made of
it. All JSON-able.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class KernelSource:
    """One generated kernel for one target.

    `params` are the pointer parameters in launch order with their Triton types (`*fp32`);
    `divisible` names those for which the machine code assumes 16-byte alignment, so a launch with
    another pointer copies first. `grid` is the number of programs (0: nothing to do). `reads` and
    `writes` are bytes moved by one launch.
    """

    name: str
    text: str
    target: str
    params: tuple[tuple[str, str], ...]
    outputs: tuple[str, ...]  # names of the parameters that the kernel writes
    constants: dict[str, int]
    grid: int
    num_warps: int = 4
    num_stages: int = 1
    divisible: tuple[str, ...] = ()
    spans: tuple[int, ...] = ()  # elements reachable through each parameter
    reads: int = 0
    writes: int = 0
    strategy: str = ""  # in words, for explain
    # The same kernel with lighter tiles, made when asked for: what to compile if this one spills.
    # Not kept in JSON.
    lighter: tuple[Callable[[], KernelSource], ...] = field(default=(), compare=False, repr=False)

    def to_json(self) -> dict[str, Any]:
        """All fields but `lighter` as JSON values; `from_json` takes them back."""
        fields = asdict(replace(self, lighter=()))
        del fields["lighter"]
        return fields

    @staticmethod
    def from_json(data: dict[str, Any]) -> KernelSource:
        """The KernelSource that `to_json` described, also after a round trip through JSON text."""
        fields = dict(data)
        fields["params"] = tuple((name, kind) for name, kind in data["params"])
        for name in ("outputs", "divisible", "spans"):
            fields[name] = tuple(data[name])
        return KernelSource(**fields)


@dataclass(frozen=True)
class Binary:
    """What a compiler made of a KernelSource: machine code, and the facts that loading and reports
    need.

    `metadata` is JSON: what the launcher of the kernel language asks for (shared memory, warps,
    scratch, entry name).
    """

    code: bytes
    kind: str  # "cubin", "hsaco" or "object"
    metadata: dict[str, Any] = field(default_factory=dict)
    assembly: str = ""  # ptx or amdgcn
    registers: int | None = None  # None: the compiler does not say
    spills: int | None = None  # bytes (CUDA) or registers (HIP) spilled to memory
    shared: int = 0  # bytes of shared memory
    seconds: float = 0.0  # time the compiler took
    compiled: KernelSource | None = (
        None  # what was compiled, if not the source asked for (that one spilled)
    )

    def to_json(self) -> dict[str, Any]:
        """Everything but the machine code and the assembly, as JSON values."""
        fields = asdict(replace(self, code=b"", assembly="", compiled=None))
        del fields["code"], fields["assembly"]
        fields["compiled"] = self.compiled.to_json() if self.compiled else None
        return fields

    @staticmethod
    def from_json(data: dict[str, Any], code: bytes, assembly: str = "") -> Binary:
        """The Binary that `to_json` described, with its machine code (and assembly, where it was
        kept)."""
        fields = dict(data)
        compiled = fields.pop("compiled", None)
        if compiled is not None:
            fields["compiled"] = KernelSource.from_json(compiled)
        return Binary(code=code, assembly=assembly, **fields)

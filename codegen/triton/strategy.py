"""How a nest is laid over programs, chosen before a line is written: tile sizes, warps, and whether
a row fits.

A pointwise nest is one flat range cut into blocks. A nest with reductions is tiles of rows ×
columns: *persistent* when a program holds its rows whole, *looped* when it walks them in chunks.
`ladder` gives what to try next when the machine code of a choice spills registers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tracejit.fuse.index import reach
from tracejit.fuse.loopnest import LoopNest
from tracejit.fuse.scalar import Load
from tracejit.ir.dtypes import itemsize


@dataclass(frozen=True)
class Strategy:
    """kind: "pointwise", "persistent" or "looped". XBLOCK rows (or elements) and RBLOCK columns a
    program.
    """

    kind: str
    xblock: int
    rblock: int = 1
    num_warps: int = 4
    num_stages: int = 1

    def __str__(self) -> str:
        warps = _count(self.num_warps, "warp")
        if self.kind == "pointwise":
            return f"pointwise, {_count(self.xblock, 'element')} a program, {warps}"
        how = "held whole" if self.kind == "persistent" else f"in chunks of {self.rblock} columns"
        return f"{self.kind} reduction, {_count(self.xblock, 'row')} a program {how}, {warps}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


@dataclass(frozen=True)
class Limits:
    """What a kind of target can hold. Interpreting costs per program and hardly per element, so
    there blocks are huge.
    """

    block: int  # elements of a pointwise block, at most
    tile: int  # elements of a tile of several rows
    row: int  # columns of a row that is held whole
    chunk: int  # columns of a chunk of a longer row
    programs: int  # how many programs it takes to keep the device busy
    threads: int  # in a warp
    warps: int  # in a program, at most


GPU = Limits(block=1024, tile=1024, row=16384, chunk=4096, programs=512, threads=32, warps=16)
LIMITS: dict[str, Limits] = {
    "cuda": GPU,
    "hip": replace(GPU, threads=64, warps=8),
    "interpret": Limits(
        block=1 << 16, tile=1 << 16, row=1 << 16, chunk=1 << 16, programs=1, threads=32, warps=4
    ),
}


def limits_of(target: str) -> Limits:
    """The limits for a target such as "cuda:90". Raises ValueError for a kind that has none."""
    kind = target.split(":")[0]
    if kind not in LIMITS:
        raise ValueError(
            f"the Triton generator knows no target {target!r}; it knows {', '.join(LIMITS)}"
        )
    return LIMITS[kind]


def choose(nest: LoopNest, target: str) -> Strategy:
    """The first choice for a nest on a target."""
    limits = limits_of(target)
    if not nest.reduction:
        return _pointwise(nest, limits)
    rows, columns = max(nest.rows, 1), nest.columns
    if columns_are_far(nest):
        return _outer(rows, columns, limits)
    width = next_power(columns)
    scanned = any(
        s.op == "scan" for s in nest.body()
    )  # a scan is a lot of code for each element of a thread
    if width > (limits.chunk if scanned else limits.row):
        return Strategy("looped", 1, limits.chunk, min(limits.warps, limits.chunk // 256))
    xblock = min(max(limits.tile // width, 1), _share(rows, limits))
    return Strategy("persistent", xblock, width, _warps(xblock * width, 16, limits))


def _pointwise(nest: LoopNest, limits: Limits) -> Strategy:
    """The largest block that divides the range, if that is not too small; enough blocks to fill the
    device.
    """
    total = max(nest.rows, 1)
    block = min(limits.block, max(_share(total, limits), 128), next_power(total))
    whole = total & -total  # the largest power of two that divides the range
    if 128 <= whole < block:
        block = whole
    # At least 16 bytes a thread for the narrowest buffer, so that accesses are as wide as they get.
    narrow = min((itemsize(b.dtype) for b in nest.buffers), default=4)
    return Strategy("pointwise", block, 1, _warps(block, max(16 // max(narrow, 2), 4), limits))


def _outer(rows: int, columns: int, limits: Limits) -> Strategy:
    """Neighbouring rows lie together in memory: wide in rows, so that accesses are."""
    xblock = min(64, next_power(rows))
    if limits.programs == 1:
        xblock = min(next_power(rows), limits.tile)
    width = next_power(columns)
    most = (
        max(limits.tile * 4 // xblock, 1) if limits.programs > 1 else max(limits.tile // xblock, 1)
    )
    kind = "persistent" if width <= most else "looped"
    rblock = min(width, most)
    return Strategy(kind, xblock, rblock, _warps(xblock * rblock, 16, limits))


def _share(total: int, limits: Limits) -> int:
    """A power of two: what a program takes of `total` so that there are enough programs."""
    return next_power(total) if limits.programs == 1 else last_power(total // limits.programs)


def _warps(elements: int, each: int, limits: Limits) -> int:
    """Warps so that a thread has about `each` elements."""
    return max(min(last_power(elements // (each * limits.threads)), limits.warps), 1)


def ladder(first: Strategy, nest: LoopNest, target: str) -> Iterator[Strategy]:
    """`first`, then what holds less at a time: more warps, fewer rows, shorter chunks. No choice
    twice.
    """
    limits = limits_of(target)
    seen: set[Strategy] = set()
    current: Strategy | None = first
    while current is not None and current not in seen:
        seen.add(current)
        yield current
        current = _lighter(current, nest, limits)


def _lighter(now: Strategy, nest: LoopNest, limits: Limits) -> Strategy | None:
    if now.num_warps < limits.warps and now.xblock * now.rblock // now.num_warps > limits.threads:
        return replace(now, num_warps=now.num_warps * 2)
    if now.kind == "pointwise":
        return replace(now, xblock=now.xblock // 2) if now.xblock > 128 else None
    if now.xblock > 1 and not columns_are_far(nest):
        return replace(now, xblock=now.xblock // 2)
    if now.rblock > 128:
        return replace(now, kind="looped", rblock=now.rblock // 2)
    return None


def columns_are_far(nest: LoopNest) -> bool:
    """Whether neighbouring rows lie closer in memory than neighbouring columns, for most of what is
    loaded.
    """
    if not nest.parallel or not nest.reduction:
        return False
    row, column = nest.parallel[-1], nest.reduction[-1]
    votes = 0
    for scalar in nest.body():
        if isinstance(scalar.arg, Load):
            down, across = scalar.arg.index.coefficient(row), scalar.arg.index.coefficient(column)
            if down and across:
                votes += 1 if abs(down) < abs(across) else -1
    return votes > 0


def next_power(n: int) -> int:
    """The smallest power of two that is at least n (1 for n < 1)."""
    return 1 << max(n - 1, 0).bit_length()


def last_power(n: int) -> int:
    """The largest power of two that is at most n (1 for n < 1)."""
    return 1 << max(n.bit_length() - 1, 0)


def is_wide(nest: LoopNest, strategy: Strategy) -> bool:
    """Whether positions can pass 2³¹, so that they are computed in 64 bits."""
    ends = [
        nest.rows + strategy.xblock,
        nest.columns + strategy.rblock,
        *(b.span for b in nest.buffers),
    ]
    ends += [reach(index) for index in nest.indices()]
    return max(ends) >= 1 << 31

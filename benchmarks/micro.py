"""The micro suite as data: kernels, sizes, element types. A row's name is
`micro/KERNEL/SIZE/DTYPE`; what a kernel computes stands once for each framework in
tracejit.benchmarks.ports, under the kernel's name."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tracejit.benchmarks.registry import UNPORTED, Pace, Work, Workload, enter

Shape = tuple[int, ...]
SIZES: dict[str, tuple[int, int]] = {  # rows × width
    "16": (4, 4),
    "1K": (16, 64),
    "64K": (128, 512),
    "1M": (1024, 1024),
    "16M": (16384, 1024),
}
DTYPES = {"fp32": "float32", "bf16": "bfloat16"}
PACE = Pace(rounds=12, seconds=0.02, total=0.3)
BAG = 4  # rows of the table that are summed


def planes(rows: int) -> int:
    """How many planes a cube of so many rows in all has."""
    return max(2, rows // 512)


def vocabulary(rows: int) -> int:
    """How many rows the table has from which so many are taken."""
    return min(4 * rows, 8192)


# Shapes of floats by what an input is called, of rows and width.
FLOATS: dict[str, Callable[[int, int], Shape]] = {
    "x": lambda rows, width: (rows, width),
    "row": lambda rows, width: (width,),
    "column": lambda rows, width: (rows, 1),
    "turned": lambda rows, width: (width, rows),
    "half": lambda rows, width: (rows, width // 2),
    "cube": lambda rows, width: (planes(rows), rows // planes(rows), width),
    "channel": lambda rows, width: (rows // planes(rows),),
    "table": lambda rows, width: (vocabulary(rows), width),
}
# Shapes of indices, and what they are less than.
INDICES: dict[str, Callable[[int, int], tuple[Shape, int]]] = {
    "targets": lambda rows, width: ((rows,), width),
    "ids": lambda rows, width: ((rows,), vocabulary(rows)),
    "bags": lambda rows, width: ((rows, BAG), vocabulary(rows)),
}


@dataclass(frozen=True)
class Kernel:
    """One line of the suite: its name, what it computes, its inputs."""

    name: str
    about: str
    inputs: str
    unported: str = ""  # why other frameworks have no version, if they have none


KERNELS = (
    Kernel("gate", "gelu(a·b + a)·sigmoid(b)", "x x"),
    Kernel(
        "gate-into",
        "the same into a buffer that is there",
        "x x x",
        "results are values in this framework: it cannot write into a buffer that is given",
    ),
    Kernel("chain", "a chain of 11 pointwise operations on two inputs", "x x"),
    Kernel("broadcast", "x·row + column", "x row column"),
    Kernel("transpose", "the transpose, stored", "x"),
    Kernel("transpose-add", "x plus a transpose", "x turned"),
    Kernel("sum-rows", "sum over the last axis", "x"),
    Kernel("sum-columns", "sum over the first axis", "x"),
    Kernel("sum-middle", "sum over the middle one of three axes", "cube"),
    Kernel("sum-all", "sum of everything", "x"),
    Kernel("max-columns", "maximum over the first axis", "x"),
    Kernel("var-rows", "variance over the last axis", "x"),
    Kernel("softmax", "softmax over the last axis", "x"),
    Kernel("nll", "mean negative log-likelihood of log-softmax", "x targets"),
    Kernel("layer-norm", "layer norm with weight and bias", "x row row"),
    Kernel("rms-norm", "root-mean-square norm with weight", "x row"),
    Kernel("group-norm", "group norm with weight and bias", "cube channel channel"),
    Kernel("rotary", "rotary position embedding", "x half half"),
    Kernel("gelu-gate", "gelu(a)·b", "x x"),
    Kernel("silu-gate", "silu(a)·b", "x x"),
    Kernel("argmax", "argmax over the last axis", "x"),
    Kernel("cumsum", "cumulative sum over the last axis", "x"),
    Kernel("embedding-add", "embedding plus positions", "table ids x"),
    Kernel("embedding-sum", f"sum of {BAG} embeddings a row", "table bags"),
)


def build(kernel: Kernel, size: str, dtype: str, tiny: bool) -> Work:
    """The kernel on random inputs; a tiny one has the least size."""
    import torch

    rows, width = SIZES["16" if tiny else size]
    names = kernel.inputs.split()
    args = tuple(_input(name, rows, width, getattr(torch, DTYPES[dtype])) for name in names)
    functions = importlib.import_module("tracejit.benchmarks.ports.torch_micro")
    skipped = 0
    if "table" in names:  # rows that no index names are not read
        table, ids = args[:2]
        skipped = (table.shape[0] - ids.unique().numel()) * width * table.element_size()
    return Work(getattr(functions, kernel.name.replace("-", "_")), args, skipped)


def _input(name: str, rows: int, width: int, dtype: Any) -> Any:
    import torch

    if name in FLOATS:
        return torch.randn(FLOATS[name](rows, width)).to(dtype)
    shape, limit = INDICES[name](rows, width)
    return torch.randint(0, limit, shape)


for _kernel in KERNELS:
    for _size in SIZES:
        for _dtype in DTYPES:
            enter(
                Workload(
                    f"micro/{_kernel.name}/{_size}/{_dtype}",
                    _kernel.about,
                    functools.partial(build, _kernel, _size, _dtype),
                    default=False,
                    measures=("steady",),
                    without=("max-autotune",),
                    port="" if _kernel.unported else f"micro:{_kernel.name}",
                    unported=_kernel.unported or UNPORTED,
                    team="micro",
                    pace=PACE,
                    streams=True,
                )
            )

"""Attention as one kernel: softmax(scale · Q·Kᵀ + mask)·V, whose scores are never stored.

Not a loop nest, since no chain of reductions over the same axes describes it; it stands in a nest's
place in a Program (RunKernel), with what plans and reports ask of a nest: name, buffers, origins,
bytes moved, a listing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch

from tracejit.fuse.loopnest import Buffer
from tracejit.fuse.program import Program, Ref, RunExtern, RunKernel, Slot, Step, makes, op_name
from tracejit.ir.dtypes import itemsize
from tracejit.ir.graph import Origin, span
from tracejit.runtime import log

OP = "aten.scaled_dot_product_attention"
DTYPES = frozenset({"f32", "bf16", "f16"})
MASKS = DTYPES | {"bool"}


@dataclass(frozen=True)
class Operand:
    """A tensor of four dims, batch, heads, rows, columns; a dim that is broadcast has stride 0."""

    dtype: str
    sizes: tuple[int, int, int, int]
    strides: tuple[int, int, int, int]

    @property
    def span(self) -> int:
        return span(self.sizes, self.strides)

    @property
    def count(self) -> int:
        """Different elements."""
        steps = zip(self.sizes, self.strides, strict=True)
        return math.prod(size for size, stride in steps if stride)

    def __str__(self) -> str:
        return f"{self.dtype}{list(self.sizes)} strides {list(self.strides)}"


@dataclass(frozen=True)
class Attention:
    """The kernel before it has a language. Heads of the query are those of the keys, `group` times.
    With `causal`, row i sees keys 0 … i. A bool mask is true where a key is seen; another one is
    added. A row that sees no key gives zeros.
    """

    name: str
    query: Operand
    key: Operand
    value: Operand
    mask: Operand | None
    out: Operand
    causal: bool
    scale: float
    origins: tuple[Origin, ...] = ()

    @property
    def operands(self) -> dict[str, Operand]:
        """What the kernel is called with, in order, by the names of its parameters."""
        masks = {} if self.mask is None else {"mask": self.mask}
        return {"query": self.query, "key": self.key, "value": self.value, **masks, "out": self.out}

    @property
    def buffers(self) -> tuple[Buffer, ...]:
        return tuple(Buffer(n, o.dtype, o.span, n == "out") for n, o in self.operands.items())

    @property
    def rows(self) -> int:
        """Rows of the result."""
        return math.prod(self.out.sizes[:3])

    @property
    def group(self) -> int:
        """Heads of the query that share one of the keys."""
        return self.query.sizes[1] // self.key.sizes[1]

    @property
    def operations(self) -> int:
        """Multiplications and additions of the two products, those with unseen keys left out."""
        batch, heads, rows, width = self.query.sizes
        keys = self.key.sizes[2]
        seen = sum(min(i + 1, keys) for i in range(rows)) if self.causal else rows * keys
        return 2 * batch * heads * seen * (width + self.value.sizes[3])

    def bytes_moved(self) -> tuple[int, int]:
        """Bytes read and written by one run, each element counted once."""
        operands = self.operands.items()
        read = sum(o.count * itemsize(o.dtype) for n, o in operands if n != "out")
        return read, self.out.count * itemsize(self.out.dtype)

    def __str__(self) -> str:
        lines = [f"attention {self.name}(scale {self.scale:.6g}{', causal' * self.causal}):"]
        lines += [f"    {name}: {operand}" for name, operand in self.operands.items()]
        return "\n".join(lines)


class Refused(Exception):
    """A call that stays a library call; the message says why."""


def as_attention(step: RunExtern, slots: Mapping[str, Slot], name: str = "attention") -> Attention:
    """The kernel that does what the call `step` does. Raises Refused.

    `slots` has the tensors that the step uses, by name.
    """
    if step.op.removesuffix(".default") != OP:
        raise Refused(f"{step.op} is no attention")
    query, key, value, mask, causal, scale, grouped = _arguments(*step.args, **step.kwargs)
    (out,) = step.outs
    q, k, v, o = (
        _four(s) for s in (_slot(query, slots), _slot(key, slots), _slot(value, slots), out)
    )
    batch, heads, rows, width = q.sizes
    _check(q, k, v, o, grouped)
    k, v = (_broadcast(x, (batch, *x.sizes[1:])) for x in (k, v))
    seen = (batch, heads, rows, k.sizes[2])
    masking = None if mask is None else _broadcast(_four(_slot(mask, slots)), seen)
    if masking is not None and (masking.dtype not in MASKS or causal):
        raise Refused(f"a mask of {masking.dtype}{' that is causal too' * causal}")
    scale = 1 / math.sqrt(width) if scale is None else float(scale)
    if not (scale and math.isfinite(scale)) or (causal and scale < 0):  # eager's is NaN
        raise Refused(f"scale {scale}")
    origins = (step.origin,) if step.origin.file else ()
    return Attention(name, q, k, v, masking, o, bool(causal), scale, origins)


def _arguments(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Any, ...]:
    """The call's arguments. Raises Refused for dropout."""
    if dropout_p:
        raise Refused("dropout draws random numbers")
    return query, key, value, attn_mask, is_causal, scale, enable_gqa


def _slot(argument: Any, slots: Mapping[str, Slot]) -> Slot:
    if not isinstance(argument, Ref):
        raise Refused(f"the argument {argument!r} is no tensor")
    return slots[argument.name]


def _four(slot: Slot) -> Operand:
    """A tensor with leading dims of size 1 until it has four. Raises Refused."""
    if len(slot.sizes) > 4 or not all(isinstance(n, int) for n in (*slot.sizes, *slot.strides)):
        raise Refused(f"{slot.name} of sizes {slot.sizes}")
    missing = 4 - len(slot.sizes)
    sizes = cast("tuple[int, int, int, int]", (*[1] * missing, *slot.sizes))
    strides = cast("tuple[int, int, int, int]", (*[0] * missing, *slot.strides))
    return Operand(slot.dtype, sizes, strides)


def _broadcast(operand: Operand, sizes: Sequence[int]) -> Operand:
    """With its dims of size 1 repeated. Raises Refused where that does not give `sizes`."""
    if any(old not in (1, new) for old, new in zip(operand.sizes, sizes, strict=True)):
        raise Refused(f"{operand} against {list(sizes)}")
    strides = [0 if n == 1 else s for n, s in zip(operand.sizes, operand.strides, strict=True)]
    return replace(operand, sizes=tuple(sizes), strides=tuple(strides))  # type: ignore[arg-type]  # still four


def _check(q: Operand, k: Operand, v: Operand, o: Operand, grouped: bool) -> None:
    """Raise Refused for what the kernels do not do."""
    if {q.dtype, k.dtype, v.dtype} - DTYPES or not q.dtype == k.dtype == v.dtype:
        raise Refused(f"dtypes {q.dtype}, {k.dtype}, {v.dtype}")
    if 0 in (*q.sizes, *k.sizes, *v.sizes):
        raise Refused("there is nothing to attend to")
    if k.sizes[3] != q.sizes[3] or v.sizes[2] != k.sizes[2] or v.sizes[1] != k.sizes[1]:
        raise Refused(f"{q}, {k}, {v}")
    if o.sizes != (*q.sizes[:3], v.sizes[3]) or o.dtype != q.dtype:
        raise Refused(f"a result {o}")
    if q.sizes[1] % k.sizes[1] or not (grouped or k.sizes[1] in (1, q.sizes[1])):
        raise Refused(f"{q.sizes[1]} heads of the query for {k.sizes[1]} of the keys")


def run(nest: Attention, buffers: Mapping[str, torch.Tensor]) -> None:
    """Do what the kernel does, in plain torch: for bisecting."""
    given = {
        name: buffers[name].as_strided(o.sizes, o.strides, buffers[name].storage_offset())
        for name, o in nest.operands.items()
    }
    query, key, value = (given[name].float() for name in ("query", "key", "value"))
    mask = given.get("mask")
    if mask is not None and mask.dtype != torch.bool:
        mask = mask.float()
    options: dict[str, Any] = {"is_causal": nest.causal, "scale": nest.scale, "enable_gqa": True}
    attend = torch.nn.functional.scaled_dot_product_attention
    given["out"].copy_(attend(query, key, value, attn_mask=mask, **options))


def with_attention(program: Program) -> Program:
    """The program with its attention calls as kernels, where there are such; one kernel for all
    that are equal but for their name. Refusals are told on the debugging ladder."""
    slots = {slot.name: slot for slot in program.inputs}
    taken = {s.nest.name for s in program.steps if isinstance(s, RunKernel)}
    known: dict[Attention, Attention] = {}
    steps: list[Step] = []
    for step in program.steps:
        if isinstance(step, RunExtern) and step.op.removesuffix(".default") == OP:
            step = _kernel(step, slots, known, taken)
        steps.append(step)
        slots.update({slot.name: slot for slot in makes(step)})
    return replace(program, steps=steps)


def _kernel(
    step: RunExtern, slots: Mapping[str, Slot], known: dict[Attention, Attention], taken: set[str]
) -> RunKernel | RunExtern:
    """The step as a kernel, or as it is."""
    try:
        found = as_attention(step, slots)
    except Refused as reason:
        what = f"{step.outs[0].name} {op_name(step.op)}"
        log.say(log.FUSION, f"{what} stays a library call: {reason}")
        return step
    key = replace(found, origins=())
    if key not in known:
        names = ("attention", *(f"attention_{k}" for k in range(1, len(taken) + 2)))
        name = next(n for n in names if n not in taken)
        taken.add(name)
        known[key] = replace(found, name=name)
    kernel = known[key]
    tensors = [a.name for a in _arguments(*step.args, **step.kwargs)[:4] if a is not None]
    args = dict(zip(kernel.operands, [*tensors, step.outs[0].name], strict=True))
    return RunKernel(kernel, args, step.outs, (step.origin,))

"""A loop nest as plain torch: every axis is a dimension, every expression a tensor broadcast over
them.

It is slow and obvious, and there to say whether a wrong result comes from the nest or from a
generator. `source` gives the text, which the device "reference" runs; `run` runs a nest at once.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from tracejit.fuse.index import Atom, Axis, FloorDiv, Index, Indirect
from tracejit.fuse.loopnest import LoopNest, Store, kernel_source
from tracejit.fuse.scalar import FUNCTIONS, Load, NoRule, Scalar
from tracejit.ir.dtypes import TORCH
from tracejit.runtime.kernel import KernelSource


def _call(*names: str, arity: int = 1) -> dict[str, str]:
    holes = ", ".join(f"{{{k}}}" for k in range(arity))
    return {name: f"torch.{name}({holes})" for name in names}


# Word -> torch expression of its operands, which are tensors of one dtype.
RULES: dict[str, str] = {
    "add": "{0} + {1}",
    "sub": "{0} - {1}",
    "mul": "{0} * {1}",
    "div": "{0} / {1}",
    "idiv": 'torch.div({0}, {1}, rounding_mode="trunc")',
    "imod": "torch.fmod({0}, {1})",
    "neg": "-{0}",
    "eq": "{0} == {1}",
    "ne": "{0} != {1}",
    "lt": "{0} < {1}",
    "le": "{0} <= {1}",
    "gt": "{0} > {1}",
    "ge": "{0} >= {1}",
    "and": "{0} & {1}",
    "or": "{0} | {1}",
    "xor": "{0} ^ {1}",
    "not": "~{0}",
    "shl": "{0} << {1}",
    "shr": "{0} >> {1}",
    "where": "torch.where({0}, {1}, {2})",
    **_call(*FUNCTIONS, "abs", "sqrt", "rsqrt", "floor", "ceil", "trunc", "round"),
    **_call("isnan", "signbit"),
    **_call("fmod", "minimum", "maximum", "fmin", "fmax", "pow", arity=2),
    **_call("atan2", "hypot", "copysign", "nextafter", arity=2),
    "philox": "ops.word({0}, {1})",
}
# Written by `_Writer.expression`: they have an argument.
SPECIAL = frozenset({"const", "index", "load", "reduce", "scan", "cast", "bitcast"})


def source(nest: LoopNest, name: str) -> KernelSource:
    """The nest as a torch function of its buffers, for the device "reference". Raises NoRule."""
    params = [(param(b.name), b.dtype) for b in nest.buffers]
    text = _Writer(nest).text(name)
    return kernel_source(nest, name, text, "reference", "plain torch", params, grid=1)


def generate(nest: LoopNest, name: str, *, target: str = "reference") -> KernelSource:
    """The generator for the target "reference": `source`."""
    return source(nest, name)


def run(nest: LoopNest, tensors: Mapping[str, torch.Tensor]) -> None:
    """Run a nest on tensors by the names of its buffers; outputs are written in place."""
    from tracejit.runtime import devices

    devices.load(source(nest, "nest"))(*(tensors[b.name] for b in nest.buffers))


def param(buffer: str) -> str:
    """The parameter for a buffer: never a keyword, never one of the text's own names."""
    return f"{buffer}_"


class _Writer:
    """Writes one nest."""

    def __init__(self, nest: LoopNest) -> None:
        self.nest = nest
        self.names: dict[int, str] = {}
        self.lines: list[str] = []

    def text(self, name: str) -> str:
        for scalar in self.nest.body():
            self.names[scalar.key] = f"t{len(self.names)}"
            origin = self.nest.line_of.get(scalar.key)
            note = f"  # {origin}" if origin is not None and origin.file else ""
            self.lines.append(f"{self.names[scalar.key]} = {self.expression(scalar)}{note}")
        for store in self.nest.stores:
            self.lines.append(self.store(store))
        heads = [
            f"axis_{a.name} = ops.axis({k}, {len(self.nest.axes)}, {a.size}, device)"
            for k, a in enumerate(self.nest.axes)
        ]
        body = [f"device = {param(self.nest.buffers[0].name)}.device", *heads, *self.lines]
        lines = [f'"""{name}: plain torch, to compare with."""', "", "import torch", ""]
        lines += ["from tracejit.runtime.devices import reference_math as ops", "", ""]
        lines.append(f"def {name}({', '.join(param(b.name) for b in self.nest.buffers)}):")
        return "\n".join([*lines, *(f"    {line}" for line in body), ""])

    def expression(self, scalar: Scalar) -> str:
        args = [self.names[a.key] for a in scalar.args]
        dtype = str(TORCH[scalar.dtype])
        if scalar.op == "const":
            value = repr(scalar.arg).replace("inf", 'float("inf")').replace("nan", 'float("nan")')
            return f"torch.tensor({value}, dtype={dtype}, device=device)"
        if scalar.op == "index":
            return self.index(scalar.arg)
        if scalar.op == "load":
            assert isinstance(scalar.arg, Load)
            where = [param(scalar.arg.buffer), self.index(scalar.arg.index), *args]
            return f"ops.load({', '.join(where)})"
        if scalar.op in ("reduce", "scan"):
            return f'ops.{scalar.op}("{scalar.arg}", {args[0]}, {self.sizes()})'
        if scalar.op == "cast":
            return f"{args[0]}.to({dtype})"
        if scalar.op == "bitcast":
            return f"{args[0]}.view({dtype})"
        if scalar.op not in RULES:
            raise NoRule("reference", scalar.op, scalar.dtype)
        return RULES[scalar.op].format(*args)

    def sizes(self) -> str:
        """The reduction axes as {dimension: size}."""
        return repr({k: a.size for k, a in enumerate(self.nest.axes) if a.reduce})

    def index(self, index: Index) -> str:
        parts = [f"{self.atom(atom)} * {coefficient}" for atom, coefficient in index.terms]
        constant = f"torch.tensor({index.const}, device=device)"
        return " + ".join([*parts, str(index.const)] if parts else [constant])

    def atom(self, atom: Atom) -> str:
        if isinstance(atom, Axis):
            return f"axis_{atom.name}"
        if isinstance(atom, Indirect):
            return self.names[atom.scalar.key]
        symbol = "//" if isinstance(atom, FloorDiv) else "%"
        return f"(({self.index(atom.index)}) {symbol} {atom.divisor})"

    def store(self, store: Store) -> str:
        parts = [param(store.buffer), self.index(store.index), self.names[store.value.key]]
        masks = [] if store.mask is None else [self.names[store.mask.key]]
        return f"ops.store({', '.join([*parts, *masks])})"

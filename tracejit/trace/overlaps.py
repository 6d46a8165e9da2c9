"""Calls that write to memory that they also read, or write to twice.

Such a call gives what its functional form gives only if it has read an element before it writes to
it. That is so where each element is computed from the one in its own place; else it depends on the
order in which the call goes over memory, and the recording ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tracejit.runtime.private import schema_of
from tracejit.trace.aliases import Alias, Storage
from tracejit.trace.meta import tensors_in
from tracejit.trace.recording import Refused
from tracejit.trace.schema import Facts
from tracejit.trace.spans import disjoint
from tracejit.trace.storages import Storages


def check(found: Storages, facts: Facts, targets: Sequence[Alias], operands: Sequence[Any]) -> None:
    """`targets` are written by a call with these other arguments. Several targets and a list of as
    many operands go in pairs. Raises Refused.
    """
    homes: dict[Storage, list[int]] = {}
    for number, target in enumerate(targets):
        others = homes.setdefault(target.home, [])
        if not all(disjoint(target, targets[other]) for other in others):
            raise Refused("mutation", f"{facts.name} writes to memory twice")
        others.append(number)
    for operand in operands:
        alone = len(targets) == 1
        for place, tensor in enumerate(tensors_in(operand)):
            home = found.home(tensor)
            for number in homes.get(home, ()) if home is not None else ():
                alias, target = found.find(tensor), targets[number]
                paired = alone or (place == number and isinstance(operand, (list, tuple)))
                if not (paired and _in_place(facts, alias, target)) and not disjoint(alias, target):
                    text = f"{facts.name} reads elements that it writes to"
                    raise Refused("mutation", text)


def _in_place(facts: Facts, alias: Alias, target: Alias) -> bool:
    """Whether each element is read only to compute the one in the same place."""
    mine = (alias.dtype, alias.sizes, alias.strides, alias.offset)
    theirs = (target.dtype, target.sizes, target.strides, target.offset)
    op = facts.functional
    return mine == theirs and (
        torch.Tag.pointwise in op.tags
        or op is torch.ops.aten.copy.default
        or schema_of(op).name.startswith("aten::_foreach_")
    )

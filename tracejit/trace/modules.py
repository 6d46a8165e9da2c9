"""What the observer guards of an nn.Module besides its attributes: submodules, parameters and
buffers that are read, and hooks when it is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from tracejit.runtime import private
from tracejit.runtime.origins import CORE
from tracejit.runtime.paths import TABLES, instance_dict
from tracejit.trace.kinds import HOLDERS
from tracejit.trace.plans import Plan

if TYPE_CHECKING:
    from tracejit.trace.reach import Reach

# Dicts in which a module keeps how its hooks are called.
_HOOK_DETAILS = (
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
)


def parts(
    reach: Reach, plan: Plan, value: Any, node: int, names: frozenset[str] | None, depth: int
) -> None:
    """Submodules, parameters and buffers by name; all (`names` is None) of the containers of
    torch.nn.
    """
    holder = isinstance(value, HOLDERS)
    whole = names is None or holder
    for step, table in TABLES.items():
        held = instance_dict(value).get(table)
        if held is None:
            continue
        if whole and node >= 0 and reach.tree.nodes[node].step != "ref":
            reach.tree.child(node, "attr", table, held)
        for name in list(held) if names is None or whole else sorted(held.keys() & names):
            if holder and plan.origin == CORE and node >= 0:
                reach.child(node, step, name, held[name])
            else:
                reach.step(plan, node, step, name, held[name], depth)


def all_parts(reach: Reach, value: torch.nn.Module) -> None:
    """All submodules, parameters and buffers of a reached module (torch walks them)."""
    node = reach.tree.known.get(id(value), -1)
    if node < 0 or reach.tree.nodes[node].step == "ref":
        return
    for step, table in TABLES.items():
        held = instance_dict(value).get(table)
        if held is not None:
            reach.tree.child(node, "attr", table, held)
            for name in list(held):
                reach.child(node, step, name, held[name])


def called(reach: Reach, module: Any) -> None:
    """`module(…)`: its hooks, and the class that its forward is found in."""
    node = reach.tree.known.get(id(module))
    if node is None:
        return
    attributes = instance_dict(module)
    # Without gradients, hooks of the backward pass are not called.
    for name in private.HOOKS if torch.is_grad_enabled() else private.HOOKS[:2]:
        hooks = attributes.get(name)
        if hooks:
            _called_hooks(reach, node, name, attributes)
        elif hooks is not None:
            reach.tree.child(node, "hooks", name, hooks, ("empty", None))
    if "forward" in attributes:
        reach.child(node, "attr", "forward", attributes["forward"])


def _called_hooks(reach: Reach, node: int, name: str, attributes: dict[str, Any]) -> None:
    """Hooks of a module: how many, which, and how they are called. Their keys mean nothing."""
    for table in (name, *_HOOK_DETAILS):
        held = attributes[table]
        index = reach.tree.child(node, "attr", table, held, ("length", len(held)))
        if table == name:
            for position, hook in enumerate(held.values()):
                reach.child(index, "nthvalue", position, hook)

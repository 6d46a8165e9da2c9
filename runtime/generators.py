"""Random generators in a plan: library calls that seed them, take their states and set them, and
putting them all back when a plan is left.

A generator is an argument of these calls; None is the CPU's default one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

State = tuple[torch.Generator, torch.Tensor]


def seed(generator: torch.Generator | None, number: int) -> None:
    """`generator.manual_seed(number)`."""
    (generator or torch.default_generator).manual_seed(number)


def seed_all(number: int) -> None:
    """`torch.manual_seed(number)`: the default generators of all devices."""
    torch.manual_seed(number)


def get_state(generator: torch.Generator | None) -> torch.Tensor:
    """`generator.get_state()`: a new tensor."""
    return (generator or torch.default_generator).get_state()


def set_state(generator: torch.Generator | None, state: torch.Tensor) -> None:
    """`generator.set_state(state)`."""
    (generator or torch.default_generator).set_state(state)


# Calls of plans that are not torch's. All but the last leave another state than they found.
CALLS: dict[str, Callable[..., Any]] = {
    "tj.seed": seed,
    "tj.seed_all": seed_all,
    "tj.set_state": set_state,
    "tj.get_state": get_state,
}


def default_of(device: str) -> torch.Generator:
    """The default generator of a device."""
    if device == "cpu":
        return torch.default_generator
    torch.cuda.init()
    return torch.cuda.default_generators[torch.device(device).index or 0]


def states(generators: Sequence[torch.Generator], devices: Sequence[str]) -> list[State]:
    """The states now of generators, and of the defaults of the CPU and of CUDA devices."""
    found = [torch.default_generator, *map(default_of, devices), *generators]
    return [(each, each.get_state()) for each in found]


def restore(kept: Sequence[State]) -> None:
    for generator, state in kept:
        generator.set_state(state)

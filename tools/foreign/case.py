"""A model or function that no one here wrote, and how it is made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Case:
    """`build` gives what to compile, seeded and in eval mode, and the arguments of one call."""

    name: str
    package: str  # as a distribution is named: "timm"
    build: Callable[[], tuple[Callable[..., Any], tuple[Any, ...]]]


def pass_over_torchvision() -> None:
    """Import torchvision beside torch's CPU build, where its C++ part does not load: the shape
    rules that it registers for its own operators are left out."""
    register = torch.library.register_fake

    def registered(op: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(op, str) and op.startswith("torchvision::"):
            return lambda function: function
        return register(op, *args, **kwargs)

    torch.library.register_fake = registered
    try:
        import torchvision  # noqa: F401
    finally:
        torch.library.register_fake = register

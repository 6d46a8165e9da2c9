"""State: what a function reads besides its arguments, changed between calls."""

from __future__ import annotations

import copy
import dataclasses
import enum
import functools
import io
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .cases import CHANGED, Wrap, attempt, case, t

S = "State"


def frozen(module: Any) -> Any:
    return module.requires_grad_(False)


class Plain:
    """An object that is no module."""

    def __init__(self, scale: float = 2.0) -> None:
        self.scale = scale
        self.inner: Any = None


@dataclasses.dataclass
class Config:
    scale: float = 2.0
    inner: Any = None


class Net(nn.Module):
    """Reads state of many kinds in its forward."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)
        self.scale, self.config = 1.0, Config(inner=Config())
        self.holder = Plain()
        self.holder.inner = Plain(3.0)
        self.drop = nn.Dropout(0.5)
        self.names = ["a", "b"]
        self.table = {"shift": 1.0}

    def mix(self, x: Any) -> Any:
        return x * self.scale

    def forward(self, x: Any) -> Any:
        for name in self.names:
            x = getattr(self, name)(x)
        x = self.mix(x) * self.config.scale + self.config.inner.scale
        x = x * self.holder.inner.scale
        for value in self.table.values():
            x = x + value
        return self.drop(x)


def net() -> Any:
    return frozen(Net()).eval()


def changing(name: str, *changes: Callable[[Any], Any], eager: str = "", wrong: str = "") -> None:
    """A case: a module that is called, changed, and called again, for each of the changes."""

    def program(c: Wrap) -> Iterator[Any]:
        m = net()
        f, x = c(m), t(2, 4)
        yield f(x)
        yield f(x)
        yield f(x)
        yield CHANGED
        for change in changes:
            change(m)
            yield attempt(f, x)
            yield attempt(f, x), dict(m.named_buffers())
            yield attempt(f, x)

    case(S, name, eager=eager, wrong=wrong)(program)


def setting(path: str, value: Any) -> Callable[[Any], None]:
    """Sets an attribute at a path; a function makes the value anew."""

    def change(m: Any) -> None:
        *parents, last = path.split(".")
        made = value() if callable(value) else value
        setattr(functools.reduce(getattr, parents, m), last, made)

    return change


changing("attribute of a module", setting("scale", 3.0), setting("scale", 3), setting("scale", 1.0))
changing("attribute of a nested plain object", setting("holder.inner.scale", 5.0),
         setting("holder.inner", lambda: Plain(7.0)))  # fmt: skip
changing("attribute of a dataclass config", setting("config.scale", 5.0),
         setting("config.inner.scale", 0.5), setting("config", lambda: Config(1.5, Config(9.0))))  # fmt: skip
changing("train()/eval()", lambda m: m.train(), lambda m: m.eval(), lambda m: m.drop.train())

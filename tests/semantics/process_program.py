"""The program that test_processes runs in processes of their own, with other values of what its
functions read. Prints JSON: whether the results were right, and where each entry came from.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of

SCALE = float(sys.argv[1])
FLAGS = {"bias": sys.argv[2] == "bias"}


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4, bias=FLAGS["bias"])
        self.drop = torch.nn.Dropout(0.5)
        self.register_buffer("steps", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.steps += 1
        return self.drop(self.linear(x)) * self.steps


def scaled(x: torch.Tensor) -> Any:
    x.mul_(SCALE)
    return x[1:], (x + SCALE).relu(), x.shape


def indexed(x: torch.Tensor, i: torch.Tensor) -> Any:
    return x[i] * 2 if x.sum() > 0 else x - 1


def run(wrap: Any) -> list[Any]:
    """What the calls give, writes and random numbers included."""
    torch.manual_seed(0)
    net = Net().requires_grad_(False)
    called = [wrap(net), wrap(scaled), wrap(indexed)]
    seen: list[Any] = []
    for training in (True, False, True):
        net.train(training)
        x = torch.randn(3, 4)
        seen += [called[0](x), *called[1](x)[:2], x, net.steps.clone()]
        for sign in (1, -1):
            seen.append(called[2](sign * x.abs(), torch.tensor([0, 2])))
    try:
        called[2](x.abs(), torch.tensor([0, 9]))
    except IndexError as error:
        seen.append(str(error))
    seen.append(torch.get_rng_state())
    if wrap is not plain:
        seen.append([[e.source for e in dispatcher_of(f).entries] for f in called])
    return seen


def plain(function: Any) -> Any:
    return function


def same(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor):
        return bool(a == b)
    return a.shape == b.shape and a.stride() == b.stride() and torch.allclose(a, b, atol=1e-6)


if __name__ == "__main__":
    expected = run(plain)
    *got, sources = run(lambda f: tracejit.compile(f, backend=BACKEND, wait=True))
    right = len(expected) == len(got) and all(map(same, expected, got))
    print(json.dumps({"right": right, "sources": sources}))

"""A function that runs eagerly has the calls in it compiled on their own, and does what it did."""

from __future__ import annotations

import functools
import importlib
import linecache
import logging
import sys
import traceback
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import tracejit
from tests.executors import BACKEND
from tracejit.api import dispatcher_of
from tracejit.split import Parts

compiled = functools.partial(tracejit.compile, backend=BACKEND, wait=True)


class Block(nn.Module):
    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), scale

    def forward(self, x: Any) -> Any:
        return torch.relu(self.inner(x)) * self.scale + x


class Base(nn.Module):
    def mix(self, x: Any) -> Any:
        return x * 3


class Loud(Base):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(), Block(3.0)])
        self.seen: list[Any] = []

    def mix(self, x: Any) -> Any:
        return super().mix(x) - 1

    def forward(self, x: Any, *, say: str = "layer") -> Any:
        for number, block in enumerate(self.blocks):
            x = block(x)
            print(say, number, [float(v) for v in (1, 2)])
        return scaled(self.mix(x), shift=1)


def scaled(x: Any, shift: int = 0) -> Any:
    return x * 2 + shift


def parts(f: Any) -> dict[str, Any]:
    found = dispatcher_of(f).parts
    made = found.made.values() if found is not None else ()
    return {part.dispatcher.name.rpartition(".")[2]: part.dispatcher for part in made}


@pytest.fixture(autouse=True)
def inference(fresh_cache: Path) -> Any:
    with torch.no_grad():
        yield


def test_calls_are_compiled_and_the_rest_is_done_each_time(capsys: Any) -> None:
    net = Loud()
    f, x = compiled(net), torch.randn(2, 4)
    expected = net(x)
    printed = capsys.readouterr().out
    for _ in range(4):
        torch.testing.assert_close(f(x), expected)
        assert capsys.readouterr().out == printed
    found = parts(f)
    assert found.keys() == {"Block", "scaled", "mix"}
    assert all(each.entries[0].check.held > 1 for each in found.values())
    assert [reason.kind for reason in dispatcher_of(f).reasons] == ["impure"]
    assert f(x, say="other") is not None and "other 0" in capsys.readouterr().out
    text = str(tracejit.explain(f))
    assert "calls in it, compiled on their own:" in text and "scaled: 1 entry, 1 kernel" in text
    assert [part["name"].rpartition(".")[2] for part in tracejit.explain(f).to_json()["parts"]]


def test_changes_are_seen(capsys: Any) -> None:
    net = Loud()
    f, x = compiled(net), torch.randn(2, 4)
    for _ in range(3):
        f(x)
    net.blocks[0].scale = 7.0
    torch.testing.assert_close(f(x), net(x))
    net.blocks[1] = Block(5.0)
    torch.testing.assert_close(f(x), net(x))
    net.forward = lambda x: x + 1  # type: ignore[method-assign]
    torch.testing.assert_close(f(x), x + 1)
    del net.forward
    handle = net.register_forward_hook(lambda module, args, out: out * 0)
    assert f(x).abs().sum() == 0
    handle.remove()
    Loud.forward.__kwdefaults__["say"] = "changed"
    try:
        torch.testing.assert_close(f(x), net(x))
        assert "changed 0" in capsys.readouterr().out
    finally:
        Loud.forward.__kwdefaults__["say"] = "layer"


def test_closures_defaults_and_lines() -> None:
    factor = torch.tensor(2.0)
    log = logging.getLogger("tests.split")
    block = Block()

    def f(x: Any, fail: bool = False) -> Any:
        nonlocal factor
        log.warning("called %s", fail)
        y = block(x) * factor
        if fail:
            raise ValueError("on purpose")
        return y, (lambda v: block(v))(x)

    g, x = compiled(f), torch.randn(2, 4)
    for _ in range(3):
        torch.testing.assert_close(g(x), f(x))
    factor = torch.tensor(5.0)
    torch.testing.assert_close(g(x), f(x))
    assert "Block" in parts(g)
    lines = []
    for function in (f, g):
        with pytest.raises(ValueError, match="on purpose") as error:
            function(x, True)
        frames = traceback.extract_tb(error.tb)
        lines.append([(s.filename, s.lineno, s.name) for s in frames if s.name == "f"])
    assert lines[0] == lines[1]


def test_the_place_of_a_log_record_is_the_users(caplog: Any) -> None:
    log = logging.getLogger("tests.split")

    def f(x: Any) -> Any:
        log.warning("here")
        return scaled(x)

    g = compiled(f)
    for _ in range(3):
        f(torch.ones(1)), g(torch.ones(1))
    assert len({(r.pathname, r.lineno, r.funcName) for r in caplog.records}) == 1


def made_here(x: Any) -> Any:
    print()
    return (lambda v: v + 1)(x)


def generating(x: Any) -> Any:
    print()
    yield scaled(x)


def _pick(called: Any) -> Any:
    return called, SimpleNamespace(helps=True)


def split(function: Any) -> Any:
    return Parts(_pick).of(function)


def test_what_is_not_split() -> None:
    space: dict[str, Any] = {}
    exec("def f(x):\n    print()\n    return x\n", space)
    for function in (generating, space["f"], lambda x: print(x), len, Loud, torch.add):
        assert split(function) is None
    hooked = Loud()
    hooked.register_forward_pre_hook(lambda module, args: None)
    assert split(hooked) is None and split(Loud()) is not None
    assert split(made_here) is not None


def test_a_source_that_is_not_the_functions_any_more(tmp_path: Path, monkeypatch: Any) -> None:
    file = tmp_path / "edited_later.py"
    file.write_text("def f(x):\n    print()\n    return abs(x)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    module = importlib.import_module("edited_later")
    assert split(module.f) is not None
    file.write_text("def f(x):\n    print()\n    return max(x, 1)\n")
    linecache.clearcache()
    assert split(module.f) is None


def test_what_only_runs_eagerly_is_called_as_it_is(capsys: Any) -> None:
    def loud(x: Any) -> Any:
        return x

    net = nn.Sequential(Loud(), Loud())
    f, x = compiled(net), torch.randn(2, 4)
    for _ in range(5):
        torch.testing.assert_close(f(x), net(x))
    assert [r.kind for r in dispatcher_of(f).reasons] == ["impure"]


def test_calls_of_imported_modules(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    """Python 3.11 compiles `math.sqrt(x)` in another way if the module imports `math`."""
    (tmp_path / "importing.py").write_text(
        "import math\n"
        "import os.path as where\n"
        "try:\n    from random import Random\nexcept ImportError:\n    Random = None\n"
        "def helper(x): return (x * 2).relu() + 1\n"
        "def f(x):\n"
        "    print(math.sqrt(4.0), where.basename('a/b'), Random.__name__.lower())\n"
        "    return helper(x)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("importing")
    compiled = tracejit.compile(module.f, backend=BACKEND, wait=True)
    for _ in range(3):
        assert compiled(torch.ones(3)).equal(module.helper(torch.ones(3)))
    (part,) = tracejit.explain(compiled).parts
    assert part.entries
    assert capsys.readouterr().out == "2.0 b random\n" * 3


def test_a_partial_of_a_module_or_method(capsys: Any) -> None:
    """Its calls are compiled as the module's own are."""
    net, x = Loud(), torch.randn(2, 4)
    with torch.no_grad():
        expected = net(x)
        for made in (functools.partial(net, say="part"), functools.partial(net.forward, say="f")):
            f = compiled(made)
            assert all(torch.allclose(f(x), expected) for _ in range(3))
            parts = tracejit.explain(f).parts
            assert sum(bool(part.entries) for part in parts) >= 2
    said = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in said] == ["layer"] * 2 + ["part"] * 6 + ["f"] * 6

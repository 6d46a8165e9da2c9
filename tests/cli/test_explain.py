"""`tracejit explain`: finding the function, giving it arguments, the report as text and JSON."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

import tracejit
from tracejit.cli import explain, locate
from tracejit.cli.root import tracejit as command
from tracejit.runtime import cpu, targets
from tracejit.runtime.config import config
from tracejit.runtime.errors import BadOption, MissingExtra, TracejitError
from tracejit.runtime.targets import BACKENDS

MODEL = """\
import torch
import tracejit
from torch import nn

calls = 0


def temperature(x, t=2.0):
    return (x / t).softmax(-1)


def noisy(x):
    print("in noisy")
    return x + 1


def wrong(x):
    return inner(x)


def inner(x):
    raise ZeroDivisionError("in the model")


def constant():
    return torch.ones(4) * 2


def pair():
    return (torch.ones(2, 8),), {"t": 4.0}


def single():
    return torch.ones(2, 8)


class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, x):
        return self.norm(self.linear(x).relu()) + x.sum()

    @tracejit.compile(backend="interpret")
    def encode(self, x):
        return self.linear(x) * 2


class Sized(nn.Module):
    def __init__(self, width):
        super().__init__()


net = Net()


@tracejit.compile(backend="interpret", wait=True)
def compiled(x):
    return x * 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> Iterator[Path]:
    """A folder with the model's file, in which the command runs."""
    (tmp_path / "shop.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(config, "target", "")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def run(*words: str) -> Result:
    return CliRunner().invoke(command, ["explain", *words])


def text(*words: str) -> str:
    done = run(*words)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def document(*words: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(text(*words, "--json"))
    assert found.pop("schema") == 1
    return found


def mistake(*words: str) -> str:
    """The message of a UsageError, which the command prints with exit status 2."""
    done = CliRunner().invoke(command, ["explain", *words], standalone_mode=False)
    assert isinstance(done.exception, click.UsageError), (done.output, done.exception)
    return done.exception.format_message()


# the report


def test_text_of_a_function() -> None:
    found = text("shop.py:temperature", "--args", "torch.randn(8, 32)", "--backend", "interpret")
    for words in (
        "shop.temperature (backend='interpret'): 1 compiled entry\n",
        "\nentry 0, recorded: plan ",
        "\n  captured 2 operations: aten._softmax x1, aten.div.Tensor x1\n",
        "1 kernel, 1 launch, 0 library calls; bytes read 1,024, written 1,024",
        "shop.py:9 in temperature\n",
        "x is a float32 tensor [8, 32] on cpu, contiguous, no grad",
        "torch's state: grad mode off",
        "and, listed by --guards: ",
    ):
        assert words in found
    assert "def run(" not in found and "graph(" not in found and "exists" not in found


def test_texts_that_are_asked_for() -> None:
    found = text(
        *("shop:temperature", "--args", "torch.randn(8, 32), t=3.0", "--backend", "interpret"),
        *("--source", "--graph", "--guards"),
    )
    assert "plan of entry 0\n# shop.temperature for interpret\ndef run(inputs):" in found
    assert "div_softmax of entry 0" in found and "@triton.jit" in found
    assert "graph of entry 0\n# recorded\ngraph(x: f32[8, 32]):" in found
    assert "# after the passes" in found and "aten.exp" in found
    assert "args has length 1" in found and "keyword arguments are t" in found


def test_json_has_all_of_it() -> None:
    words = ("shop:Net", "--args", "torch.randn(4, 8)", "--args", "torch.randn(2, 8)")
    found = document(*words, "--backend", "interpret")
    assert found.keys() == {"name", "backend", "entries", "fallbacks", "parts", "recompiled"}
    assert (found["name"], found["backend"], found["fallbacks"]) == ("shop.Net", "interpret", [])
    (recompiled,) = found["recompiled"]
    assert recompiled == {
        "entry": 1,
        "path": "x.size(0)",
        "check": "tensor",
        "was": "4",
        "now": "2",
        "text": "x.size(0) was 4, is 2",
    }
    first, second = found["entries"]
    assert first["source"] == "recorded" and first["target"] == "interpret"
    assert first["plan"] != second["plan"] and len(first["record"]) == 64
    assert {"record", "compile", "total"} == first["seconds"].keys()
    program = first["program"]
    assert program["ops"]["aten.addmm"] == 1
    assert program["captured"][-1]["op"] == "aten.add.Tensor"
    assert program["captured"][-1]["line"].endswith("shop.py:44 in forward")
    assert program["captured"][-1]["result"] == "f32[4, 8]"
    (call,) = program["library"]
    assert call["op"] == "aten.addmm" and call["line"].endswith("shop.py:44 in linear")
    refused = program["refused"][0]
    assert refused["reason"] and len(refused["between"]) == 2
    sides = [operation for side in refused["between"] for operation in side]
    assert all(o.keys() == {"value", "name", "op", "line"} for o in sides)
    assert all("shop.py:44" in o["line"] and o["op"].startswith("aten.") for o in sides)
    kernel = program["kernels"][0]
    assert kernel["lines"] and kernel["strategy"] and kernel["reads"] > 0
    assert kernel["registers"] is None and "def " in kernel["text"]
    assert {"path": "x", "check": "tensor"}.items() <= next(
        g for g in first["guards"] if g["path"] == "x"
    ).items()
    assert program["bytes"].keys() >= {"read", "written", "peak"} and program["stages"]


def test_a_refusal_in_words() -> None:
    found = text("shop:Net", "--args", "torch.randn(4, 8)", "--backend", "interpret")
    assert "\n  not fused:\n    " in found
    assert "in norm) + " in found or "in forward) + " in found


def test_the_same_from_disk() -> None:
    words = ("shop:Net", "--args", "torch.randn(4, 8)", "--args", "torch.randn(2, 8)")
    recorded = document(*words, "--backend", "interpret")
    found = document(*words, "--backend", "interpret")
    assert [entry["source"] for entry in found["entries"]] == ["disk", "disk"]
    assert found["recompiled"] == recorded["recompiled"]
    for old, new in zip(recorded["entries"], found["entries"], strict=True):
        assert new["seconds"].keys() == {"load"}
        for key in ("program", "guards", "plan", "record", "graph"):
            assert new[key] == old[key]


def test_machine_code_without_a_gpu() -> None:
    found = document("shop:temperature", "--args", "torch.randn(8, 32)", "--target", "cuda:90")
    (entry,) = found["entries"]
    (kernel,) = entry["program"]["kernels"]
    assert entry["target"] == "cuda:90" and found["backend"] == "triton"
    assert kernel["registers"] > 0 and kernel["machine_code"] > 0 and kernel["spills"] == 0
    assert "offline" in entry["state"]


def test_a_call_that_runs_eagerly_says_why() -> None:
    words = ("shop:noisy", "--args", "torch.ones(2)", "--backend", "reference")
    found = text(*words)
    assert "calls that ran eagerly:\n  impure: calls builtins.print" in found
    (fallback,) = document(*words)["fallbacks"]  # what the function prints goes to stderr
    assert fallback["kind"] == "impure" and "shop.py:13" in fallback["place"]
    assert fallback["about"].startswith("code ran")


def test_gradients_only_if_asked_for() -> None:
    words = ("shop:net", "--args", "torch.randn(4, 8)", "--backend", "reference")
    assert "grad mode off" in text(*words)
    assert "autograd" in text(*words, "--grad")


# what the cache holds


def test_what_is_stored_for_a_function() -> None:
    empty = text("shop.py:temperature")
    assert "shop.temperature: 0 stored entries" in empty and str(config.cache_dir) in empty
    assert "tracejit explain shop.py:temperature --args 'torch.randn(4, 8)'" in empty
    called = document("shop:temperature", "--args", "torch.ones(8, 32)", "--backend", "interpret")
    document("shop:temperature", "--args", "torch.ones(8, 32)", "--backend", "interpret")
    found = document("shop:temperature")
    (entry,) = found["entries"]
    assert (found["backend"], entry["source"], entry["hits"]) == ("", "stored", 1)
    for key in ("program", "guards", "plan", "record", "graph"):
        assert entry[key] == called["entries"][0][key]
    assert "1 process started with it)" in text("shop:temperature", "--guards", "--source")
    assert document("shop:temperature", "--target", "cuda:90")["entries"] == []


def test_stored_by_a_script_or_by_other_code(folder: Path) -> None:
    script = MODEL + (
        "\nif __name__ == '__main__':\n"
        "    tracejit.compile(temperature, backend='interpret', wait=True)(torch.ones(2, 8))\n"
    )
    (folder / "script.py").write_text(script)
    environ = {"TRACEJIT_CACHE_DIR": config.cache_dir, "PYTHONPATH": _root()}
    subprocess.run([sys.executable, "script.py"], env=environ, check=True)
    (entry,) = document("script.py:temperature")["entries"]
    assert "no call reaches it" not in entry["state"]
    (folder / "script.py").write_text(script.replace("x / t", "x * t"))
    sys.modules.pop("script")
    (entry,) = document("script.py:temperature")["entries"]
    assert "of other code or another version, so that no call reaches it now" in entry["state"]


def _root() -> str:
    return str(Path(__file__).resolve().parents[2])


# functions and arguments


@pytest.mark.parametrize(
    ("where", "name"),
    [
        ("shop:Net", "shop.Net"),
        ("shop:net", "shop.Net"),
        ("shop:net.forward", "shop.Net.forward"),
        ("shop:Net.forward", "shop.Net.forward"),
        ("shop:Net.encode", "shop.Net.encode"),
        ("shop.py:compiled", "shop.compiled"),
        ("./shop.py:compiled", "shop.compiled"),
    ],
)
def test_what_can_be_named(where: str, name: str) -> None:
    found = document(where, "--args", "torch.randn(4, 8)", "--backend", "reference")
    assert found["name"] == name and len(found["entries"]) == 1


def test_a_compiled_function_keeps_its_backend() -> None:
    assert document("shop:compiled", "--args", "torch.ones(2)")["backend"] == "interpret"
    assert (
        document("shop:compiled", "--args", "torch.ones(2)", "--backend", "reference")["backend"]
        == "reference"
    )


def test_files_in_folders_and_with_odd_names(folder: Path) -> None:
    package = folder / "goods" / "parts"
    package.mkdir(parents=True)
    (folder / "goods" / "__init__.py").touch()
    (package / "__init__.py").touch()
    (package / "shelf.py").write_text("from .board import two\n\n\ndef f(x):\n    return x * two\n")
    (package / "board.py").write_text("two = 2\n")
    (folder / "my-model.py").write_text("def f(x):\n    return x + 1\n")
    words = ("--args", "torch.ones(2)", "--backend", "reference")
    assert document("goods/parts/shelf.py:f", *words)["name"] == "goods.parts.shelf.f"
    assert document("my-model.py:f", *words)["name"] == "my-model.f"


def test_arguments_of_a_maker() -> None:
    for maker in ("shop:pair", "pair"):
        found = text("shop:temperature", "--inputs", maker, "--backend", "reference")
        assert "t == 4.0" in found
    assert "x is a float32 tensor [2, 8]" in text(
        "shop:temperature", "--inputs", "single", "--backend", "reference"
    )


def test_a_function_without_parameters_is_called() -> None:
    found = document("shop:constant", "--backend", "reference")
    assert found["entries"][0]["program"]["ops"]["aten.ones"] == 1


MISTAKES = {
    ("shop",): "'shop' is not MODULE:FUNCTION, such as model.py:forward",
    ("shp:f",): "there is no module 'shp' (did you mean shop.py?)",
    ("nothing_like.it:f",): "there is no module 'nothing_like.it'",
    ("shpo.py:f",): "there is no file 'shpo.py' (did you mean shop.py?)",
    ("shop:temprature",): "shop has no 'temprature' (did you mean temperature?)",
    ("shop:Net.zzz",): "Net has no 'zzz'; it has ",
    ("shop:calls",): "calls cannot be called: its type is int",
    ("shop:Sized",): "Sized needs width to be made: name an instance, or a function",
    ("shop:temperature", "--args", "1, 2, 3"): "the arguments do not fit (x, t=2.0): too many",
    ("shop:temperature", "--args", "x("): "--args 'x(': SyntaxError: ",
    ("shop:temperature", "--args", "nope"): "--args 'nope': NameError: name 'nope' is not defined",
    (
        "shop:temperature",
        "--inputs",
        "temperature",
    ): "--inputs names a function that needs x itself",
    ("shop:temperature", "--args", "1", "--inputs", "pair"): "--args and --inputs both",
    ("shop:temperature", "--target", "sm_90"): "--target 'sm_90' is none of cuda:<sm>, hip:<gfx>",
    ("shop:temperature", "--calls", "0"): "Invalid value for '--calls'",
    ("shop:temperature", "--backend", "gpu"): "Invalid value for '--backend': 'gpu' is not one of",
}


@pytest.mark.parametrize("words", MISTAKES)
def test_mistakes(words: tuple[str, ...]) -> None:
    assert MISTAKES[words] in mistake(*words)


def test_a_backend_whose_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = run("shop:temperature", "--args", "torch.ones(2)", "--backend", "interpret")
    assert isinstance(done.exception, MissingExtra)
    assert str(done.exception) == "backend='interpret' needs numpy: pip install 'tracejit[cpu]'"


def test_kernels_are_those_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("shop:temperature", "--args", "torch.ones(2, 8)")
    found = document(*words)
    here = targets.choose("auto", "cpu").target
    assert (found["backend"], found["entries"][0]["target"]) == ("auto", here)
    monkeypatch.setattr(explain, "nothing_here", lambda: True)
    found = document(*words)
    assert (found["backend"], found["entries"][0]["target"]) == ("triton", "cuda:90")


@pytest.mark.parametrize(
    ("target", "backend"),
    [("native:neon", "native"), ("hip:gfx942", "triton"), ("interpret", "interpret")],
)
def test_a_target_chooses_the_backend(target: str, backend: str) -> None:
    found = document("shop:temperature", "--args", "torch.ones(2, 8)", "--target", target)
    assert (found["backend"], found["entries"][0]["target"]) == (backend, target)


def test_a_machine_without_native_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "llvm_version", lambda: "")
    targets._choose.cache_clear()
    try:
        found = mistake("shop:temperature", "--backend", "native")
    finally:
        targets._choose.cache_clear()
    assert "--backend native: native kernels need llvmlite: pip install 'tracejit[cpu]'" in found


def test_backends_are_those_of_compile() -> None:
    (option,) = (p for p in explain.explain.params if p.name == "backend")
    assert list(BACKENDS) == list(option.type.choices)
    with pytest.raises(BadOption) as caught:
        tracejit.compile(len, backend="nonsense")
    assert isinstance(caught.value, TracejitError)
    assert str(caught.value) == (
        f"backend='nonsense' is not one of {', '.join(map(repr, BACKENDS))}"
    )


# the user's own errors


def test_an_error_of_the_user_is_shown_as_python_would() -> None:
    done = run("shop:wrong", "--args", "torch.ones(2)", "--backend", "reference")
    lines = done.stderr.splitlines()
    assert done.exit_code == 1
    assert lines[0] == "Traceback (most recent call last):" and "shop.py" in lines[1]
    assert lines[-1] == "ZeroDivisionError: in the model"
    files = [line for line in lines if line.startswith("  File ")]
    assert len(files) == 2 and all("shop.py" in line for line in files)


def test_an_error_in_the_module(folder: Path) -> None:
    (folder / "half.py").write_text("import not_there_at_all\n")
    done = run("half.py:f")
    assert done.exit_code == 1 and "No module named 'not_there_at_all'" in done.stderr
    assert "click" not in done.stderr
    (folder / "ending.py").write_text("raise SystemExit(3)\n")
    assert mistake("ending.py:f") == "the program ended itself (exit status 3)"


# how it looks


def test_long_lines_go_on_further_in() -> None:
    line = "    guards of " + " ".join(["a word"] * 20)
    broken = explain.wrapped(line, 60).splitlines()
    assert all(len(part) <= 60 for part in broken) and len(broken) > 2
    assert all(part.startswith("        ") for part in broken[1:])
    assert explain.wrapped("  short", 60) == "  short"


@pytest.mark.parametrize(
    ("line", "style"),
    [
        ("shop.f (backend='auto'): 2 compiled entries", "bold"),
        ("entry 0, recorded: plan 1", "bold"),
        ("last specialised again because x was 1, is 2", "yellow"),
        ("  not fused:", "yellow"),
        ("  guards (3):", ""),
        ("      shop.py:3 in f", "dim"),
        ("    x is a float32 tensor", ""),
    ],
)
def test_styles(line: str, style: str) -> None:
    assert explain.styled(line).style == style


def test_signatures() -> None:
    assert locate.required(lambda a, b=1, *c, d, **e: None) == ["a", "d"]
    assert locate.required(print) == []

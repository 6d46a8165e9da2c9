"""What explain prints, and that its guards read as sentences."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

import tracejit
from tracejit.api import dispatcher_of
from tracejit.runtime.config import config
from tracejit.runtime.errors import TracejitWarning
from tracejit.runtime.guards import GuardSet, Node
from tracejit.runtime.reasons import KINDS
from tracejit.sentences import sentence, state_words

EXPECTED = Path(__file__).parent / "explain.txt"


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "cache_dir", str(tmp_path / "cache"))


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = torch.nn.Linear(16, 16)
        self.norm = torch.nn.LayerNorm(16)
        self.drop = torch.nn.Dropout(0.1)
        self.scales = {"in": 1.0, "out": 2.0}

    def forward(self, x: torch.Tensor, quietly: bool = True) -> torch.Tensor:
        if not quietly:
            print("not quietly")
        y = x + torch.nn.functional.gelu(self.inner(self.norm(x)))
        return self.drop(y) * self.scales["out"]


def block() -> Block:
    return tracejit.compile(Block().eval().requires_grad_(False), backend="interpret", wait=True)


def steady(text: str) -> str:
    """Without what differs between runs: times, hashes, line numbers, folders."""
    text = text.replace(f"{Path(__file__).parents[2]}/", "")
    text = re.sub(r"[\d.]+ ms", "N ms", text)
    text = re.sub(r"(plan|hash) [0-9a-f]+", r"\1 H", text)
    return re.sub(r"\.py:\d+", ".py:N", text) + "\n"


def test_a_whole_text(capsys: pytest.CaptureFixture[str]) -> None:
    """`ACCEPT=1 pytest tests/runtime/test_explain.py` writes tests/runtime/explain.txt anew."""
    compiled = block()
    compiled(torch.randn(8, 16))
    compiled(torch.randn(4, 16))
    compiled(torch.randn(4, 16), False)
    capsys.readouterr()
    text = steady(str(tracejit.explain(compiled)))
    if os.environ.get("ACCEPT") == "1":
        EXPECTED.write_text(text)
    assert text == EXPECTED.read_text()


def test_json_has_all_guards() -> None:
    found = tracejit.explain(block(), torch.randn(8, 16)).to_json()
    (entry,) = json.loads(json.dumps(found))["entries"]
    texts = [guard["text"] for guard in entry["guards"]]
    assert "self.drop.p == 0.1" in texts and "type(self.drop) is the class Dropout" in texts
    assert entry["ambient"]["grad mode"] is True
    assert all(guard.keys() == {"path", "check", "expected", "text"} for guard in entry["guards"])


def test_json_of_the_program() -> None:
    found = tracejit.explain(block(), torch.randn(8, 16)).to_json()
    program = json.loads(json.dumps(found))["entries"][0]["program"]
    assert [each["op"] for each in program["captured"]].count("aten.gelu") == 1
    assert all("test_explain.py:" in each["line"] for each in program["captured"])
    (refused,) = program["refused"]
    first, second = refused["between"]
    assert {each["name"] for each in first} == {"layer_norm"} and second[0][
        "op"
    ] == "aten.mul.Tensor"
    assert "in norm" in first[0]["line"] and "in forward" in second[0]["line"]
    assert [kernel["name"] for kernel in program["kernels"]] == ["layer_norm", "gelu_add_mul"]


def chain(x: torch.Tensor) -> torch.Tensor:
    return x.relu() + 1


def test_hits_are_processes_that_started_with_it(fresh_cache: Path) -> None:
    x = torch.randn(3)
    first = tracejit.compile(chain, backend="interpret", wait=True)
    assert [entry.hits for entry in tracejit.explain(first, x).entries] == [0]
    for _ in range(2):  # one process, one hit
        again = tracejit.compile(chain, backend="interpret", wait=True)
        (entry,) = tracejit.explain(again, x).entries
        assert (entry.source, entry.hits) == ("disk", 1)


def test_without_a_cache_the_last_compilation_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(config, "cache_dir", str(tmp_path / "file"))
    with pytest.warns(TracejitWarning, match="is not a directory|cannot be"):
        compiled = tracejit.compile(chain, backend="reference", wait=True)
        (entry,) = tracejit.explain(compiled, torch.ones(3)).to_json()["entries"]
    assert [each["op"] for each in entry["program"]["captured"]] == ["aten.relu", "aten.add.Tensor"]


def test_why_it_was_specialised_again() -> None:
    compiled = tracejit.compile(chain, backend="reference", wait=True)
    assert tracejit.explain(compiled, torch.ones(3)).to_json()["recompiled"] == []
    reasons = []
    for x, grad in ((torch.ones(3, 2), True), (torch.ones(3, 2).double(), True), (None, False)):
        with torch.set_grad_enabled(grad):
            x = torch.ones(3, 2).double() if x is None else x
            reasons.append(tracejit.explain(compiled, x).to_json()["recompiled"][-1])
    keys = ("path", "check", "was", "now")
    assert [tuple(reason[key] for key in keys) for reason in reasons] == [
        ("x.dim()", "tensor", "1", "2"),
        ("x.dtype", "tensor", "float32", "float64"),
        ("grad mode", "state", "True", "False"),
    ]
    assert reasons[1]["text"] == "x.dtype was float32, is float64"


def test_fallbacks_in_json(capsys: pytest.CaptureFixture[str]) -> None:
    (fallback,) = tracejit.explain(block(), torch.randn(8, 16), False).to_json()["fallbacks"]
    assert fallback["kind"] == "impure" and "test_explain.py:" in fallback["place"]
    assert fallback["about"] == KINDS["impure"]


def one(check: str, expected: Any) -> str:
    return sentence(
        GuardSet([Node(-1, "args", None, "any"), Node(0, "item", 0, check, expected)], [], {}), 1
    )


@pytest.mark.parametrize(
    ("check", "expected", "text"),
    [
        ("const", None, "args[0] is None"),
        ("const", True, "args[0] is True"),
        ("const", 1, "args[0] == 1"),
        ("const", ["dtype", "float16"], "args[0] == torch.float16"),
        ("container", ["builtins:list", 3], "args[0] is a list of 3"),
        ("container", ["builtins:dict", []], "args[0] is an empty dict"),
        ("container", ["builtins:dict", ["a", 1]], "args[0] is a dict with keys 'a', 1"),
        ("container", ["builtins:set", ["a"]], "args[0] is a set with elements 'a'"),
        ("type", "shop.parts:Outer.Item", "args[0] is an Item"),
        ("function", ["m:f", "ab12cd34ef", 0, []], "code of args[0] unchanged (hash ab12cd34)"),
        ("lib", "torch.nn:relu", "args[0] is the library's torch.nn.relu"),
        ("kwargs", [False, []], "no keyword arguments"),
        ("kwargs", [True, ["b", "a"]], "keyword arguments are b, a, in this order"),
        ("same", 0, "args[0] is the same object as args"),
        ("is", "m:Thing", "args[0] is the very object that was there (a Thing)"),
        ("absent", None, "args[0] is not set"),
        ("empty", None, "args[0] is empty"),
        ("length", 2, "args[0] has length 2"),
    ],
)
def test_sentences(check: str, expected: Any, text: str) -> None:
    assert one(check, expected) == text


def test_sentences_about_tensors() -> None:
    from tracejit.runtime.predicates import tensor_meta

    x = torch.zeros(8, 4)
    assert one("tensor", tensor_meta(x)) == (
        "args[0] is a float32 tensor [8, 4] on cpu, contiguous, no grad"
    )
    assert one("tensor", tensor_meta(x.long().t())) == (
        "args[0] is an int64 tensor [4, 8] on cpu, strides [1, 4], no grad"
    )
    assert one("tensor", tensor_meta(torch.nn.Parameter(x))) == (
        "args[0] is a float32 parameter [8, 4] on cpu, contiguous, requires grad"
    )
    assert one("tensor", tensor_meta(x.to_sparse())) == (
        "args[0] is a float32 tensor [8, 4] on cpu, layout sparse_coo, no grad"
    )
    assert one("tensor", tensor_meta(torch.zeros(2, dtype=torch.complex64).conj())) == (
        "args[0] is a complex64 tensor [2] on cpu, contiguous, no grad, conjugated"
    )


def test_every_predicate_has_a_sentence() -> None:
    from tracejit.runtime.predicates import PREDICATES
    from tracejit.sentences import _SENTENCES

    assert {*_SENTENCES, "same"} == set(PREDICATES)


def test_state_in_words() -> None:
    state = {"grad mode": False, "autocast": {"cpu": "bfloat16"}, "TF32": False}
    assert state_words(state) == "grad mode off, autocast cpu bfloat16"
    assert state_words({"grad mode": True, "TF32": True}) == "grad mode on, TF32 on"


def decided(x: torch.Tensor) -> torch.Tensor:
    x = x * 2 if x.sum() > 0 else x - 1
    return x[x > 0]


def test_the_trace_tree() -> None:
    compiled = tracejit.compile(decided, backend="reference", wait=True)
    for x in (torch.ones(2), -torch.ones(2), torch.tensor([1.0, -0.5])):
        compiled(x)
        torch.testing.assert_close(compiled(x), decided(x))
    found = tracejit.explain(compiled)
    assert found.fallbacks == [] and [entry.tree for entry in found.entries] == [0, 0, 0]
    first, second, third = [entry.decisions for entry in found.entries]
    assert [outcome for _, outcome in first] == [True, [2, 1]]
    assert [outcome for _, outcome in second] == [False, [0, 1]]
    assert [outcome for _, outcome in third] == [True, [1, 1]]
    file = "test_explain.py"
    text = re.sub(rf"\S*{file}:\d+", file, str(found))
    assert (
        f"""trace tree, by what the data decided:
  {file} in decided: True
    {file} in decided: size (2, 1)
      entry 0
    {file} in decided: size (1, 1)
      entry 2
  {file} in decided: False
    {file} in decided: size (0, 1)
    entry 1
"""
        in text
    )
    assert f"entry 1 because {file} in decided was True, is False" in text
    assert f"entry 2 because {file} in decided was (2, 1), is (1, 1)" in text


def test_a_call_goes_straight_to_the_branch_of_its_outcome() -> None:
    def f(x: torch.Tensor) -> torch.Tensor:
        return x * int(x[0])

    compiled = tracejit.compile(f, backend="reference", wait=True)
    for number in (1, 2, 3, 4):
        compiled(torch.full((2,), float(number)))
    entries = dispatcher_of(compiled).entries
    for entry in entries[1:3]:  # what would leave at once is not tried
        entry.run = lambda inputs: pytest.fail("a branch that cannot be the one")
    assert compiled(torch.full((2,), 4.0)).tolist() == [16.0, 16.0]


def test_a_branch_that_is_being_compiled_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = tracejit.compile(decided, backend="reference")
    tracejit.explain(compiled, torch.ones(2))
    monkeypatch.setattr("tracejit.firstcall.worker.submit", lambda job: None)
    for _ in range(4):
        torch.testing.assert_close(compiled(-torch.ones(2)), decided(-torch.ones(2)))
    entries = dispatcher_of(compiled).entries
    assert [entry.reason and entry.reason.kind for entry in entries] == [None, "pending"]

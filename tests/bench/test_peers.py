"""No peer is measured whose results are not eager's; one that fails does not stop the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tracejit.benchmarks import measures, peers
from tracejit.benchmarks.equality import difference
from tracejit.benchmarks.job import Event, Job
from tracejit.benchmarks.peers import PEERS, Function, Peer, Tracejit


class Wrong(Peer):
    name = "wrong"

    def compile(self, function: Function, device: str) -> Function:
        return lambda *args: function(*args) * 1.01


class Raises(Peer):
    name = "raises"

    def compile(self, function: Function, device: str) -> Function:
        raise RuntimeError("no such thing\nand more lines")


class NotItself(Peer):
    name = "not itself"

    def fault(self, compiled: Function) -> str:
        return "ran eagerly: a reason"


FAKES = (Wrong(), Raises(), NotItself())


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> None:
    for peer in FAKES:
        monkeypatch.setitem(PEERS, peer.name, peer)


def outcomes(kind: str, *names: str, **more: Any) -> dict[str, Event]:
    """What a job tells of each peer, done in this process."""
    told: list[Event] = []
    job = Job(kind, workload="pointwise", peers=names, tiny=True, rounds=3, seconds=1e-4, **more)
    getattr(measures, kind)(job, told.append)
    return {e["outcome"]["peer"]: e["outcome"] for e in told if "outcome" in e}


@pytest.mark.usefixtures("fakes")
def test_in_rounds() -> None:
    found = outcomes("rounds", "eager", "wrong", "raises", "not itself", "eager again")
    assert {name: o["status"] for name, o in found.items()} == {
        "eager": "ok",
        "wrong": "wrong",
        "raises": "failed",
        "not itself": "failed",
        "eager again": "ok",
    }
    assert "of 16 values differ, by up to 0.0" in found["wrong"]["why"]
    assert found["raises"]["why"] == "RuntimeError: no such thing"
    assert found["not itself"]["why"] == "ran eagerly: a reason"
    assert [len(found[n]["series"].get("call", [])) for n in ("eager", "eager again")] == [3, 3]
    assert found["wrong"]["series"] == found["not itself"]["series"] == {}


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("name", ["wrong", "raises", "not itself"])
def test_at_the_start(name: str) -> None:
    found = outcomes("start", name)[name]
    assert found["status"] != "ok" and found["why"] and found["series"] == {}


def test_a_start_has_all_figures() -> None:
    series = outcomes("start", "eager")["eager"]["series"]
    assert set(series) == {
        "import torch",
        "import",
        "own",
        "first call",
        "steady",
        "memory start",
        "memory steady",
    }
    assert len(series["steady"]) >= 3 and all(map(len, series.values()))


def test_recording_is_beside_eager() -> None:
    found = outcomes("recording", "eager", "tracejit", "eager again")
    assert [len(o["series"]["call"]) for o in found.values()] == [3, 3, 3]
    assert len(found["tracejit"]["series"]["first"]) == 1


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (torch.ones(4, 3), ""),
        (torch.ones(4, 3) + 1e-6, ""),
        (torch.ones(4, 3).mul_(1.001), "output 0: 12 of 12 values differ, by up to 0.001"),
        (torch.full((4, 3), float("nan")), "output 0: 12 of 12 values differ, by up to nan"),
        (torch.ones(4, 3).double(), "output 0: dtype torch.float64, not torch.float32"),
        (torch.ones(4, 1), "output 0: shape (4, 1), not (4, 3)"),
        (torch.ones(3, 4).t(), "output 0: strides (1, 4), not (3, 1)"),
        ((torch.ones(4, 3),), "a tuple of 1 parts, not eager's"),
        (None, "a NoneType of 1 parts, not eager's"),
    ],
)
def test_difference(ours: Any, said: str) -> None:
    assert difference(ours, torch.ones(4, 3)) == said


def test_difference_of_other_leaves() -> None:
    assert difference((1, torch.ones(1)), (1, torch.ones(1))) == ""
    assert difference((1, True), (1, 1)) == "output 1: True, not 1"
    assert "1 of 2 values differ" in difference(torch.tensor([1, 2]), torch.tensor([1, 3]))
    # The stride of a dimension of one element is of no consequence.
    assert difference(torch.ones(3, 1), torch.ones(1, 3).t()) == ""


def test_variables_are_in_force_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", "mine")
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    with measures.environment(PEERS["torch.compile"], "/caches"):
        assert os.environ["TRITON_CACHE_DIR"] == "/caches/torch.compile/triton"
        assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "/caches/torch.compile/inductor"
    assert os.environ["TRITON_CACHE_DIR"] == "mine" and "TORCHINDUCTOR_CACHE_DIR" not in os.environ


def test_no_two_peers_share_a_cache() -> None:
    folders = [
        folder
        for peer in PEERS.values()
        for name, folder in peer.environment(Path("/c") / peer.name).items()
        if name.endswith("_DIR")
    ]
    assert len(folders) == len(set(folders)) == 6


def test_tracejit_says_what_it_does_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a generator for the device: compiled for a GPU, run eagerly. With one: used."""
    from tracejit.runtime import targets
    from tracejit.runtime.config import config

    monkeypatch.setattr(config, "target", "cuda:90")
    peer = Tracejit()
    assert peer.remark("cpu") == "compiled for cuda:90, calls run eagerly here"
    assert "calls run eagerly" in peer.note("cpu")
    monkeypatch.setattr(targets, "choose", lambda backend, device: targets.Choice("native:avx2"))
    assert (peer.remark("cpu"), peer.note("cpu")) == ("", "kernels for native:avx2")


def test_tracejit_that_ran_eagerly_is_not_measured() -> None:
    """A call that is refused raises under strict; nothing compiled at all is a fault."""
    import tracejit

    assert Tracejit().fault(tracejit.compile(abs)) == "nothing was compiled"


def test_only_the_control_is_eager_under_another_name() -> None:
    assert [type(p) for p in PEERS.values()][-1] is peers.EagerAgain
    assert all(p.name == name for name, p in PEERS.items())

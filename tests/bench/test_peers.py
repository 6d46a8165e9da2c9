"""No peer is measured whose results are not eager's; one that fails does not stop the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tracejit.benchmarks import equality, measures, peers, serving
from tracejit.benchmarks.equality import difference
from tracejit.benchmarks.job import Event, Job
from tracejit.benchmarks.peer import Function, Peer
from tracejit.benchmarks.peers import PEERS, Tracejit


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


def served(name: str, *orders: Event) -> list[Event]:
    """What a serving process of this peer answers, done in this one."""
    told: list[Event] = []
    serving.serve(Job("serve", peers=(name,)), told.append, iter(orders))
    return told


def started(name: str) -> dict[str, Any]:
    """The outcome of a start, done in this process."""
    told: list[Event] = []
    measures.start(Job("start", workload="pointwise", peers=(name,), tiny=True), told.append)
    found: dict[str, Any] = told[-1]["outcome"]
    return found


OPEN = {"do": "open", "workload": "pointwise", "measure": "overhead"}
STATES = {
    "eager": ("ok", ""),
    "wrong": ("wrong", "of 16 values differ, by up to 0.0"),
    "raises": ("failed", "RuntimeError: no such thing"),
    "not itself": ("failed", "ran eagerly: a reason"),
}


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("name", STATES)
def test_nothing_is_served_that_is_wrong(name: str) -> None:
    (answer,) = served(name, dict(OPEN))
    status, why = STATES[name]
    assert answer["outcome"]["status"] == status and why in answer["outcome"]["why"]
    assert (answer["bytes"] > 0) is (name in ("eager", "wrong", "not itself"))


def test_a_served_workload_is_timed() -> None:
    orders = ({"do": "size", "seconds": 1e-4}, {"do": "block", "calls": 3}, {"do": "close"})
    opened, size, block, closed = served("eager", dict(OPEN), *orders)
    assert opened["bytes"] == 3 * 16 * 4
    assert size["calls"] >= 1 and size["seconds"] > 0 and block["seconds"] > 0 and closed == {}


def test_one_workload_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was compiled for one is forgotten before the next is opened."""
    forgotten: list[str] = []
    monkeypatch.setattr(Peer, "forget", lambda self: forgotten.append(self.name))
    softmax = {"do": "open", "workload": "micro/softmax/16/bf16", "measure": "steady"}
    first, second = served("eager", dict(OPEN), softmax)
    assert first["outcome"]["status"] == second["outcome"]["status"] == "ok"
    assert forgotten == ["eager"] * 2  # and at the end


class Lazy(Peer):
    """Returns the buffer that it was given, and writes nothing into it."""

    name = "lazy"

    def compile(self, function: Function, device: str) -> Function:
        return lambda a, b, out: out


def test_a_buffer_that_eager_fills_proves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PEERS, "lazy", Lazy())
    into = {"do": "open", "workload": "micro/gate-into/1K/fp32", "measure": "steady"}
    assert served("lazy", dict(into))[0]["outcome"]["status"] == "wrong"
    assert served("eager", dict(into))[0]["outcome"]["status"] == "ok"


@pytest.mark.usefixtures("fakes")
@pytest.mark.parametrize("name", ["wrong", "raises", "not itself"])
def test_at_the_start(name: str) -> None:
    found = started(name)
    assert found["status"] != "ok" and found["why"] and found["series"] == {}


def test_a_start_has_all_figures() -> None:
    series = started("eager")["series"]
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
    order = {"do": "open", "workload": "micro/softmax/16/fp32", "measure": "recording"}
    opened, block = served("tracejit", dict(order), {"do": "block", "calls": 1})
    assert len(opened["outcome"]["series"]["first"]) == 1 and block["seconds"] > 0
    assert served("eager", dict(order))[0]["outcome"]["series"] == {}


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


def test_every_part_of_a_large_result_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Compared by parts, with one tolerance: relative to the largest value of all."""
    monkeypatch.setattr(equality, "PART", 8)
    eager = torch.ones(10, 4)
    eager[0, 0], eager[1, 1] = 1000.0, float("inf")
    ours = eager.clone()
    ours[9, 3] += 0.05
    assert difference(ours, eager) == ""
    ours[9, 3] += 0.5
    ours[4, 0] = 3
    assert difference(ours, eager) == "output 0: 2 of 40 values differ, by up to 2"
    ours[1, 1] = 1
    assert "3 of 40 values differ, by up to inf" in difference(ours, eager)


@pytest.mark.parametrize(
    ("ours", "said"),
    [
        (torch.tensor([[1, 2], [3, 4]], dtype=torch.int32), ""),
        (torch.tensor([[1, 2], [3, 5]], dtype=torch.int32), "1 of 4 values differ, by up to 1"),
        (torch.tensor([[1.0, 2], [3, 4]]), "dtype torch.float32, not torch.int64"),
        (torch.tensor([1, 2]), "shape (2,), not (2, 2)"),
    ],
)
def test_only_values_of_other_frameworks_count(ours: torch.Tensor, said: str) -> None:
    """Their layouts and index types are their own."""
    found = difference(ours, torch.tensor([[1, 3], [2, 4]]).t(), foreign=True)
    assert found == (f"output 0: {said}" if said else "")


def test_difference_of_other_leaves() -> None:
    assert difference((1, torch.ones(1)), (1, torch.ones(1))) == ""
    assert difference((1, True), (1, 1)) == "output 1: True, not 1"
    assert "1 of 2 values differ" in difference(torch.tensor([1, 2]), torch.tensor([1, 3]))
    # The stride of a dimension of one element is of no consequence.
    assert difference(torch.ones(3, 1), torch.ones(1, 3).t()) == ""


def test_no_two_peers_share_a_cache() -> None:
    folders = [
        folder
        for peer in PEERS.values()
        for name, folder in peer.environment(Path("/c") / peer.name, 2).items()
        if "/c/" in folder
    ]
    assert len(folders) == len(set(folders)) == 8


def test_tracejit_says_what_it_does_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a generator for the device: compiled for a GPU, run eagerly. With one: used."""
    from tracejit.runtime import targets
    from tracejit.runtime.config import config
    from tracejit.runtime.reasons import Reason

    monkeypatch.setattr(config, "target", "cuda:90")
    none = targets.Choice(reason=Reason("backend", "no generator"))
    monkeypatch.setattr(targets, "choose", lambda backend, device: none)
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

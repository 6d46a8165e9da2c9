"""How it is measured: orders, blocks, statistics."""

from __future__ import annotations

import pytest

from tracejit.benchmarks import timing
from tracejit.benchmarks.memory import Resident
from tracejit.benchmarks.stats import differences, geomean, ratios, speedup, spread
from tracejit.benchmarks.timing import order


def test_each_is_in_each_place_equally_often() -> None:
    orders = [order("abcd", turn) for turn in range(8)]
    assert orders[0] == list("abcd") and orders[1] == list("bcda") and orders[4] == list("dcba")
    for place in range(4):
        assert sorted(o[place] for o in orders) == sorted("abcd" * 2)


def test_no_neighbour_is_always_the_same() -> None:
    before = {tuple(o[i : i + 2]) for o in (order("abcd", t) for t in range(8)) for i in range(3)}
    for name in "abcd":
        assert len({first for first, second in before if second == name}) >= 2


def test_a_block_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    monkeypatch.setattr(timing.time, "perf_counter", lambda: events.append("clock") or 0.0)
    timing.block(lambda: events.append("call"), 2, lambda: events.append("wait"))
    assert events == ["call", "wait", "clock", "call", "call", "wait", "clock"]


def test_blocks_are_sized_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "block", lambda call, calls, wait: 0.002)
    assert timing.calls_for(lambda: None, 0.02) == 10
    assert timing.calls_for(lambda: None, 0.0001) == 1


def test_spread() -> None:
    found = spread([5.0, 1.0, 4.0, 2.0, 3.0])
    assert (found.least, found.low, found.median, found.high) == (1, 2, 3, 4)
    assert found.width == 2
    assert spread([7.0]).width == 0 and spread([7.0]).median == 7
    with pytest.raises(ValueError, match="no samples"):
        spread([])


def test_ratios_are_of_the_same_round() -> None:
    assert ratios([2.0, 9.0], [1.0, 3.0]) == [2.0, 3.0]
    assert differences([2.0, 9.0], [1.0, 3.0]) == [1.0, 6.0]
    with pytest.raises(ValueError):
        ratios([1.0], [1.0, 2.0])


def test_speedup_is_of_the_least() -> None:
    assert speedup([2.0, 9.0], [8.0, 4.0]) == 2.0
    assert geomean([2.0, 8.0]) == pytest.approx(4.0)


def test_peak_is_of_what_came_after_the_restart() -> None:
    gauge, size = Resident(), 64 << 20
    before = gauge.now()
    block = bytearray(b"x") * size
    high = gauge.peak()
    del block
    assert high >= before + size - (1 << 20)
    if gauge.restart():
        assert gauge.peak() < high - size // 2

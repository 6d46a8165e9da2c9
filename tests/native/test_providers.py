"""Who computes a matrix product: measured once for a machine, kept in the cache, chosen by time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from tracejit.cli.cache.commands import cache
from tracejit.codegen.native import providers
from tracejit.codegen.native.trials import Trial, trial
from tracejit.ir.convolutions import Windows
from tracejit.ir.products import GENERATED, LIBRARY, ONEDNN, Sizes
from tracejit.runtime import cpu
from tracejit.runtime.errors import CacheWarning

pytestmark = pytest.mark.skipif(bool(cpu.lacking()), reason=cpu.lacking() or "native kernels")
TARGET = f"native:{cpu.host_levels()[0]}" if cpu.host_levels() else ""
OTHER = next((f"native:{name}" for name in cpu.LEVELS if name not in cpu.host_levels()), "")


class Clock:
    """Stands for the measurement; remembers for which products it was asked."""

    def __init__(self) -> None:
        self.asked: list[Sizes | Windows] = []

    def __call__(self, trial: Trial, target: str) -> providers.Times:
        self.asked.append(trial.stand_in)
        return {LIBRARY: 1.0, GENERATED: 2.0}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch, fresh_cache: Path) -> Clock:
    found = Clock()
    monkeypatch.setattr(providers, "_known", {})
    monkeypatch.setattr(providers, "_measure", found)
    return found


@pytest.mark.parametrize(
    ("times", "chosen"),
    [
        ({LIBRARY: 10.0, GENERATED: 9.0, ONEDNN: 11.0}, GENERATED),
        ({LIBRARY: 10.0, GENERATED: 10.9, ONEDNN: 11.0}, GENERATED),  # within the margin
        ({LIBRARY: 10.0, GENERATED: 11.1, ONEDNN: 11.0}, LIBRARY),
        ({LIBRARY: 10.0, GENERATED: 11.1, ONEDNN: 9.0}, ONEDNN),
        ({LIBRARY: 10.0, GENERATED: 11.0}, GENERATED),
    ],
)
def test_the_quickest_is_chosen(times: providers.Times, chosen: str) -> None:
    assert providers.best(times, 1.1) == chosen


def test_large_products_get_no_margin(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    near = {LIBRARY: 10.0, GENERATED: 10.5}
    monkeypatch.setattr(providers, "_measure", lambda trial, target: near)
    assert providers.provider(Sizes("f32", 1, 100, 64, 64), TARGET) == GENERATED
    assert providers.provider(Sizes("f32", 1, 1000, 64, 64), TARGET) == GENERATED  # short sums
    assert providers.provider(Sizes("f32", 1, 1000, 64, 640), TARGET) == LIBRARY
    assert providers.provider(Sizes("f32", 1, 1000, 64, 6400), TARGET) == LIBRARY


def test_each_class_is_measured_once(clock: Clock) -> None:
    for sizes in (
        Sizes("f32", 1, 1, 10, 20),
        Sizes("f32", 1, 1, 4000, 20),
        Sizes("f32", 1, 1, 10, 4000),
        Sizes("f32", 1, 5, 10, 20),
        Sizes("f32", 1, 32, 10, 20),
        Sizes("bf16", 1, 32, 10, 20),
        Sizes("f32", 3, 32, 10, 20),
        Sizes("f32", 7, 1, 10, 20),
        Sizes("f32", 1, 200, 10, 20),
        Sizes("f32", 1, 257, 10, 20),
        Sizes("f32", 1, 10**6, 10, 20),
        Sizes("f32", 1, 300, 10, 200),
        Sizes("f32", 1, 400, 10, 1024),
        Sizes("f32", 1, 300, 10, 2000),
    ):
        assert providers.provider(sizes, TARGET) == LIBRARY
    rows = [(s.dtype, s.batch, s.m, s.k) for s in clock.asked]
    f32 = [(1, 1, 512), (1, 8, 512), (8, 112, 64), (1, 112, 512)]
    f32 += [(1, 1008, 64), (1, 252, 256), (1, 252, 2048)]
    assert sorted(rows) == sorted([("bf16", 1, 8, 512), *(("f32", *each) for each in f32)])


def test_times_are_kept(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    some, others = Sizes("f32", 1, 1, 8, 8), Sizes("f32", 1, 8, 8, 8)
    providers.provider(some, TARGET)
    providers.provider(others, TARGET)
    monkeypatch.setattr(providers, "_known", {})  # as in another process
    found = [providers.outcome(trial(s), TARGET) for s in (some, others)]
    assert found == [{"by": LIBRARY, "microseconds": {LIBRARY: 1.0, GENERATED: 2.0}}] * 2
    assert len(clock.asked) == 2


def test_more_threads_are_another_machine(clock: Clock) -> None:
    sizes, before = Sizes("f32", 1, 1, 8, 8), torch.get_num_threads()
    providers.provider(sizes, TARGET)
    torch.set_num_threads(before + 1)
    try:
        providers.provider(sizes, TARGET)
    finally:
        torch.set_num_threads(before)
    assert len(clock.asked) == 2


def test_a_damaged_file_is_measured_again(
    clock: Clock, fresh_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = Sizes("f32", 1, 1, 8, 8)
    providers.provider(sizes, TARGET)
    (path,) = (p for p in (fresh_cache / "hosts").rglob("*") if p.is_file())
    path.write_bytes(path.read_bytes()[:-3])
    monkeypatch.setattr(providers, "_known", {})
    with pytest.warns(CacheWarning):
        assert providers.provider(sizes, TARGET) == LIBRARY
    assert len(clock.asked) == 2


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
def test_measured_for_real(dtype: str, batch: int, fresh_cache: Path) -> None:
    """Every provider that can do it has a time, also in a mode of this thread."""
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.device("meta"):
        found = providers.outcome(trial(Sizes(dtype, batch, 3, 8, 8)), TARGET)
    times = found["microseconds"]
    assert {LIBRARY, GENERATED} <= times.keys() <= {LIBRARY, GENERATED, ONEDNN}
    assert all(0 < value < 1e6 for value in times.values())
    assert found["by"] in times


def windows(channels: int, image: int, kernel: int, dtype: str = "f32", batch: int = 1) -> Windows:
    both = (kernel, kernel)
    places = (image - kernel + 1,) * 2
    return Windows(dtype, batch, channels, (image, image), 8, places, both, (1, 1), (0, 0), (1, 1))


def test_each_class_of_convolutions_is_measured_once(clock: Clock) -> None:
    names = {}
    for wanted in (
        windows(3, 50, 7),
        windows(16, 9, 4),
        windows(64, 50, 1),
        windows(3, 9, 1),
        windows(64, 18, 3),
        windows(64, 18, 3, batch=2),
        windows(64, 30, 3),
        windows(64, 30, 3, "bf16"),
    ):
        assert providers.provider(wanted, TARGET) == LIBRARY
        names[wanted] = trial(wanted).name.removeprefix(f"{wanted.dtype} convolution, ")
    assert list(names.values()) == [
        *("few channels", "few channels", "of one place", "of one place"),
        *("small images", "large images", "large images", "large images"),
    ]
    assert len(clock.asked) == 5


@pytest.mark.parametrize("dtype", ["f32", "f64", "bf16", "f16"])
@pytest.mark.parametrize("shape", [(3, 50, 7), (64, 50, 1), (64, 8, 3), (64, 30, 3)])
def test_convolutions_measured_for_real(
    dtype: str, shape: tuple[int, int, int], fresh_cache: Path
) -> None:
    found = providers.outcome(trial(windows(*shape, dtype)), TARGET)
    assert {GENERATED} <= found["microseconds"].keys() <= {LIBRARY, GENERATED}
    assert all(0 < value < 1e7 for value in found["microseconds"].values())


@pytest.mark.skipif(not OTHER, reason="this machine has every level")
def test_nothing_is_measured_for_another_machine(clock: Clock) -> None:
    assert providers.provider(Sizes("f32", 1, 8, 8, 8), OTHER) == GENERATED
    assert providers.provider(Sizes("bf16", 1, 8, 8, 8), OTHER) == LIBRARY
    assert not clock.asked


@pytest.mark.parametrize(("words", "left"), [("prune", 1), ("clear --yes", 0)])
def test_only_clearing_removes_times(
    words: str, left: int, clock: Clock, fresh_cache: Path
) -> None:
    providers.provider(Sizes("f32", 1, 1, 8, 8), TARGET)
    done = CliRunner().invoke(cache, [*words.split(), "--dir", str(fresh_cache)])
    assert done.exit_code == 0, done.output
    assert len(list((fresh_cache / "hosts").iterdir())) == left

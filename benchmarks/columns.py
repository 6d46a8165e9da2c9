"""The columns of each measure's table, and how times and ratios are written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tracejit.benchmarks.document import Row, samples
from tracejit.benchmarks.peers import CONTROL, EAGER
from tracejit.benchmarks.stats import Spread, differences, ratios, spread
from tracejit.runtime.words import size_words

Cells = list[str]
Rows = dict[str, Row]
BASELINE = "torch.compile"  # whose start-up the others' is compared with
NONE = "–"


@dataclass(frozen=True)
class Layout:
    """A measure's table: its title, columns, what they hold for a peer, and what that means."""

    title: str
    columns: tuple[str, ...]
    cells: Callable[[Rows, str], Cells]
    caption: str
    of_baseline: str = ""  # what else to say where the baseline was measured


def startup_cells(rows: Rows, peer: str) -> Cells:
    """Import; cold and warm: median, range, and how much sooner than the baseline."""
    cells = [_median(samples(rows, peer, "import"), seconds)]
    for name in ("cold", "warm"):
        mine, theirs = samples(rows, peer, name), samples(rows, BASELINE, name)
        cells += [_median(mine, seconds), ranging(mine, seconds)]
        if peer in (EAGER, CONTROL) or not mine or not theirs:
            cells.append(NONE)
        else:
            cells.append(times(spread(theirs).median / spread(mine).median))
    return cells


def steady_cells(rows: Rows, peer: str) -> Cells:
    """Least, median, quartiles; the ratio to eager in the same round, and its quartiles."""
    return _in_rounds(rows, peer, ratios, times)


def overhead_cells(rows: Rows, peer: str) -> Cells:
    """As steady, but how much more than eager, not how many times."""
    return _in_rounds(rows, peer, differences, signed)


def recording_cells(rows: Rows, peer: str) -> Cells:
    """As steady, and the first recorded call."""
    return [*steady_cells(rows, peer), _median(samples(rows, peer, "first"), seconds)]


def _in_rounds(
    rows: Rows,
    peer: str,
    against: Callable[[list[float], list[float]], list[float]],
    words: Callable[[float], str],
) -> Cells:
    """Samples of rounds, and what they are against eager's of the same rounds."""
    mine, eager = samples(rows, peer, "call"), samples(rows, EAGER, "call")
    found = spread(mine)
    cells = [seconds(found.least), seconds(found.median), between(found, seconds)]
    if peer == EAGER or len(eager) != len(mine):
        return [*cells, NONE, NONE]
    beside = spread(against(mine, eager))
    return [*cells, words(beside.median), between(beside, words)]


def memory_cells(rows: Rows, peer: str) -> Cells:
    """Peaks of a cold start, a warm one, and of steady calls; these beside eager's."""
    cold, warm = samples(rows, peer, "cold start"), samples(rows, peer, "warm start")
    steady = _steady_memory(rows, peer)
    eager = _steady_memory(rows, EAGER)
    return [
        *(_median(found, size_words) for found in (cold, warm, steady)),
        times(steady[0] / eager[0]) if steady and eager and eager[0] else NONE,
    ]


def _steady_memory(rows: Rows, peer: str) -> list[float]:
    """Of the process that starts warm: what one that compiles nothing takes."""
    return samples(rows, peer, "warm steady") or samples(rows, peer, "cold steady")


TIMES = ("least", "median", "quartiles")
IN_ROUNDS = (
    "Ratios are taken in each round: their median and quartiles. "
    "“eager again” is the control: within its spread nothing is a difference."
)
LAYOUTS = {
    "startup": Layout(
        "Start-up: a compiler's own seconds, in a fresh process",
        ("import", "cold", "of", "sooner", "warm", "of", "sooner"),
        startup_cells,
        "From the first call to the end of the second, less twice the quickest steady call; "
        "importing the peer stands beside it, importing torch is not in it.\nEager's own seconds "
        "are torch's set-up; “eager again” shows the noise.",
        "Sooner: torch.compile's seconds divided by the peer's. Inductor's precompiled C++ headers "
        "were there before the first cold start.",
    ),
    "steady": Layout(
        "Steady state: seconds per call",
        (*TIMES, "÷ eager", "quartiles"),
        steady_cells,
        IN_ROUNDS,
    ),
    "overhead": Layout(
        "Overhead: seconds per call on tiny inputs",
        (*TIMES, "over eager", "quartiles"),
        overhead_cells,
        IN_ROUNDS.replace("Ratios", "Differences"),
    ),
    "recording": Layout(
        "Recording: seconds of a call that is recorded and observed",
        (*TIMES, "÷ eager", "quartiles", "the first"),
        recording_cells,
        IN_ROUNDS,
    ),
    "memory": Layout(
        "Memory: peak during calls, above what the process had before the peer was imported",
        ("cold start", "warm start", "steady calls", "÷ eager"),
        memory_cells,
        "On the CPU resident pages, code and libraries included, compilers in processes of their "
        "own not; on a GPU what torch allocated.",
    ),
}


def between(found: Spread, words: Callable[[float], str]) -> str:
    """The quartiles: `12.6…13.4 ms`, `980 µs…1.02 ms`, `0.84…0.88×`."""
    return joined(words(found.low), words(found.high))


def ranging(found: list[float], words: Callable[[float], str]) -> str:
    """From the least to the most, if there are several."""
    return joined(words(min(found)), words(max(found))) if len(found) > 1 else NONE


def joined(low: str, high: str) -> str:
    """A unit that both have stands once."""
    unit = high.lstrip("+−0123456789.")
    return f"{low.removesuffix(unit)}…{high}"


def _median(found: list[float], words: Callable[[float], str]) -> str:
    return words(spread(found).median) if found else NONE


def seconds(value: float) -> str:
    """Three digits and a unit: `4.72 ms`."""
    if value < 0:
        return signed(value)
    for unit, size in (("s", 1.0), ("ms", 1e-3), ("µs", 1e-6)):
        if value >= size:
            return f"{_digits(value / size)} {unit}"
    return f"{_digits(value / 1e-9)} ns"


def signed(value: float) -> str:
    """A difference of times: `+2.10 µs`."""
    return f"{'−' if value < 0 else '+'}{seconds(abs(value))}"


def times(value: float) -> str:
    """A ratio: `0.45×`, `36.8×`, `152×`."""
    return f"{_digits(value)}×"


def _digits(value: float) -> str:
    places = 2 if abs(value) < 10 else 1 if abs(value) < 100 else 0
    return f"{value:.{places}f}"

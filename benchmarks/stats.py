"""Minimum, quartiles, ratios and geometric means of samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What is shown of a list of samples."""

    least: float
    low: float  # the lower quartile
    median: float
    high: float  # the upper quartile

    @property
    def width(self) -> float:
        """Between the quartiles."""
        return self.high - self.low


def spread(samples: Sequence[float]) -> Spread:
    """Raises ValueError if there are no samples."""
    if not samples:
        raise ValueError("no samples")
    if len(samples) == 1:
        return Spread(*[samples[0]] * 4)
    low, median, high = statistics.quantiles(samples, n=4, method="inclusive")
    return Spread(min(samples), low, median, high)


def ratios(samples: Sequence[float], base: Sequence[float]) -> list[float]:
    """Of samples of the same rounds, each divided by its round's base."""
    return [mine / theirs for mine, theirs in zip(samples, base, strict=True)]


def differences(samples: Sequence[float], base: Sequence[float]) -> list[float]:
    """Of samples of the same rounds, each less its round's base."""
    return [mine - theirs for mine, theirs in zip(samples, base, strict=True)]


def speedup(samples: Sequence[float], base: Sequence[float]) -> float:
    """How many times faster than the base: of the least of each, which noise changes least."""
    return min(base) / min(samples)


def geomean(values: Sequence[float]) -> float:
    """The geometric mean. Raises StatisticsError if there are no values."""
    return statistics.geometric_mean(values)

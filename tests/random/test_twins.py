"""2,000 random steps on eager and compiled twins of random modules: no difference."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.random.twin_steps import Tally, counting_plans
from tests.random.twins import LENGTH, Machine

STEPS = 2000


class Counted(Machine):
    tally = Tally()


def test_twins(fresh_cache: Path) -> None:
    how = settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=STEPS // LENGTH + 8,  # some rules find nothing to do
        stateful_step_count=LENGTH,
        suppress_health_check=list(HealthCheck),
    )
    with counting_plans():
        run_state_machine_as_test(Counted, settings=how)
    print(Counted.tally)
    assert Counted.tally.steps >= STEPS
    assert Counted.tally.plans > Counted.tally.calls * 0.25

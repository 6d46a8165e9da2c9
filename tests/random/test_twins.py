"""2,000 random steps on eager and compiled twins of random modules: no difference."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.random.twin_modules import Spec
from tests.random.twin_steps import Different, Fresh, Tally, Twin, Twins, counting_plans
from tests.random.twins import LENGTH, Machine

STEPS = 2000


class Counted(Machine):
    tally = Tally()


def test_twins(fresh_cache: Path) -> None:
    how = settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=STEPS // LENGTH + 5,  # some rules find nothing to do
        stateful_step_count=LENGTH,
        suppress_health_check=list(HealthCheck),
    )
    with counting_plans():
        run_state_machine_as_test(Counted, settings=how)
    print(Counted.tally)
    assert Counted.tally.steps >= STEPS
    assert Counted.tally.plans > Counted.tally.calls * 0.25


def draw(twin: Twin) -> None:
    torch.set_rng_state(twin.random)
    torch.rand(1)
    twin.random = torch.get_rng_state()


CHANGES: dict[str, Callable[[Twin], object]] = {
    "value": lambda t: t.held[0].add_(1e-3),
    "layout": lambda t: t.held[0].t_(),
    "sharing": lambda t: t.held.__setitem__(1, t.held[0][:]),
    "gradient": lambda t: t.held[0].requires_grad_(),
    "parameter": lambda t: t.module.blocks["0"].weight.mul_(1.01),
    "attribute": lambda t: setattr(t.module, "scale", 1),
    "nested attribute": lambda t: setattr(t.module.blocks["1"].config, "flag", True),
    "list": lambda t: t.module.results.append(1),
    "mode": lambda t: t.module.blocks["1"].train(),
    "hook": lambda t: t.module.register_forward_hook(print),
    "random": draw,
}


@pytest.mark.parametrize("name", CHANGES)
def test_differences_are_seen(name: str, fresh_cache: Path) -> None:
    twins = Twins(Spec(("linear", "plain")))
    for seed in range(2):
        twins.do("call", Fresh((4, 4), seed=seed))
    CHANGES[name](twins.compiled)
    with pytest.raises(Different):
        twins.do("forget")
    twins.close()

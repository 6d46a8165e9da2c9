"""Guards as JSON hold in another process that has the same program, and only there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import dataclasses, enum, json, sys
import torch
from torch import nn

class Mode(enum.Enum):
    ON = 1
    OFF = 2

@dataclasses.dataclass
class Config:
    p: float = 0.1
    mode: Mode = Mode.ON
    sizes: tuple = (1, 2)

SCALE = {scale}
def activation(x):
    return x.relu() {tail}

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 2), nn.Dropout({p})])
        self.config = Config()
    def forward(self, x, *, gain=1.0):
        for layer in self.layers:
            x = layer(x)
        if self.config.mode is Mode.OFF:
            return x
        return activation(x) * SCALE * gain * len(self.config.sizes)

torch.set_grad_enabled(False)
net = Net().eval()
x = torch.zeros(1, 2)
if sys.argv[1] == "write":
    from tracejit.trace.observe import Observer
    from tracejit.trace.recorder import record
    observer = Observer(net, (x,), dict(gain=2.0))
    result, recording = record(net, (x,), dict(gain=2.0), observer=observer)
    guards = observer.finish(recording)
    print(json.dumps(guards.to_json()))
else:
    from tracejit.runtime.guards import GuardSet
    guards = GuardSet.from_json(json.load(open(sys.argv[1])))
    found = guards.values(net, (x,), dict(gain=2.0))
    print("holds" if isinstance(found, list) else str(found))
    if isinstance(found, list):
        found = guards.given(found)
        assert len(found) == 3 and found[guards.inputs.index("x")] is x
        from tracejit.runtime.checker import Checker
        check = Checker(guards, net)
        assert all(a is b for a, b in zip(check.closely((x,), dict(gain=2.0)), found))
        heavy = ("tracejit.trace", "tracejit.fuse", "torch._dynamo")
        loaded = [m for m in sys.modules if m.startswith(heavy)]
        assert not loaded, loaded
"""


def run(path: Path, argument: str, **changes: str) -> str:
    """Run the program, changed as asked, in a process of its own; what it prints."""
    values = {"scale": "2.0", "tail": "", "p": "0.1", **changes}
    text = PROGRAM
    for name, value in values.items():
        text = text.replace("{" + name + "}", value)
    path.write_text(text)
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, str(path), argument], capture_output=True, text=True, env=env, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("guards")
    guards = folder / "guards.json"
    guards.write_text(run(folder / "program.py", "write"))
    assert json.loads(guards.read_text())["nodes"]
    return guards


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, "holds"),
        ({"scale": "3.0"}, "global __main__.SCALE was 2.0, is 3.0"),
        ({"p": "0.2"}, "self.layers[1].p was 0.1, is 0.2"),
        ({"tail": "+ 1"}, "code of global __main__.activation was"),
    ],
)
def test_another_process(written: Path, changes: dict[str, str], expected: str) -> None:
    assert run(written.parent / "again.py", str(written), **changes).startswith(expected)


def test_moved_code_is_the_same_code(written: Path) -> None:
    folder = written.parent / "elsewhere"
    folder.mkdir()
    assert run(folder / "other_name.py", str(written), tail="\n\n# a comment") == "holds"

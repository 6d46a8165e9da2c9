"""docs/architecture.md follows a value from a call to the returned tensor: every hop that it names
is a function of ours that runs, in that order."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
Hop = tuple[str, str]  # a file, and a function in it
WALKS = ("The first call", "A compiled call", "The first call of a warm process")


def walk(title: str) -> list[Hop]:
    """The hops of one walk: the first two cells of the table's rows."""
    found = re.search(rf"^### {title}\n(.*?)(?=^##|\Z)", PAGE, re.S | re.M)
    assert found, f"docs/architecture.md has no walk {title!r}"
    return re.findall(r"^\| `([^`]+)` \| `([^`]+)` \|", found[1], re.M)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Hop]]:
    """What runs in each walk: in a first process, and in a second that finds its plan."""
    cache = str(tmp_path_factory.mktemp("life"))
    first, _, _, compiled = calls_of_a_process(cache, 4)
    (warm,) = calls_of_a_process(cache, 1)
    return dict(zip(WALKS, (first, compiled, warm), strict=True))


def calls_of_a_process(cache: str, calls: int) -> list[list[Hop]]:
    """For each call, the functions of ours that it runs, as they begin."""
    words = [sys.executable, __file__, cache, str(calls)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return [[(file, name) for file, name in call] for call in json.loads(done.stdout)]


@pytest.mark.parametrize("title", WALKS)
def test_a_walk_is_what_runs(title: str, runs: dict[str, list[Hop]]) -> None:
    hops = walk(title)
    assert len(hops) >= 3
    ran = iter(runs[title])
    for file, name in hops:
        assert (file, name.rpartition(".")[2]) in ran, f"{file} {name} is not what runs next"
        if not file.startswith("<"):
            assert defines(ROOT / file, name), f"{file} has no {name}"


def defines(file: Path, name: str) -> bool:
    """Whether the text of a file defines a function, or a class and a method of this name."""
    text = file.read_text()
    return all(re.search(rf"\b(def|class) {part}\b", text) for part in name.split("."))


# --- the program that is followed ---


def f(x: Any, w: Any, b: Any) -> Any:
    import torch

    return torch.softmax(x @ w + b, -1)


def hop(frame: FrameType) -> Hop | None:
    """File and function of a frame of ours; generated text goes by the words in its brackets."""
    path = Path(frame.f_code.co_filename)
    if path.name.startswith("<"):
        return re.sub(r" [0-9a-f]{6,}", "", path.name), frame.f_code.co_name
    path = path.resolve()
    ours = path.is_relative_to(ROOT) and ".venv" not in path.parts
    return (str(path.relative_to(ROOT)), frame.f_code.co_name) if ours else None


def main(cache: str, calls: int) -> None:
    sys.path[:0] = [str(ROOT)]
    import torch

    import tracejit
    from tracejit.codegen.native import providers
    from tracejit.runtime.config import config

    config.cache_dir = cache
    # Whether `x @ w` is a kernel is measured on each machine. Here it is.
    providers.provider = lambda wanted, target: providers.GENERATED
    compiled = tracejit.compile(f, wait=True)
    arguments = torch.randn(4, 8), torch.randn(8, 16), torch.randn(16)
    found: list[list[Hop]] = []
    known: dict[Any, Hop | None] = {}

    def trace(frame: FrameType, event: str, argument: Any) -> None:
        if frame.f_code not in known:
            known[frame.f_code] = hop(frame)
        where = known[frame.f_code]
        if where is not None:
            found[-1].append(where)

    for _ in range(calls):
        found.append([])
        sys.settrace(trace)
        try:
            compiled(*arguments)
        finally:
            sys.settrace(None)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

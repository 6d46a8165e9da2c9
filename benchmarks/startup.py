"""The compiler's own seconds: what a program waits for before it runs at its steady speed.

    python -m benchmarks.startup [--blocks 4 16] [--json OUT]

For each peer: from the first call to the end of the second, less two steady calls. Every figure is
a fresh process: cold with an empty cache, warm with the cache that the cold one filled. tracejit
compiles for cuda:90 offline, so no GPU is needed; torch.compile generates C++ for the CPU it finds.
Eager is timed twice, as a control: its own seconds are torch's lazy set-up, and the difference of
the two rows is the noise of every other figure.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

PEERS = ("eager", "tracejit", "torch.compile", "eager again")
CACHES = ("TRACEJIT_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")


def measure(call: Callable[[], Any], rounds: int = 20) -> dict[str, float]:
    """Own seconds, the first call's and the median steady call's."""
    begin = time.perf_counter()
    call()
    first = time.perf_counter() - begin
    call()
    two = time.perf_counter() - begin
    steady = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        steady.append(time.perf_counter() - start)
    usual = statistics.median(steady)
    return {"own": two - 2 * usual, "first": first, "steady": usual}


def child(peer: str, blocks: int) -> dict[str, float]:
    """One peer's figures, in this process. Equality with eager is checked after timing."""
    import torch

    from benchmarks.workloads import gpt

    torch.manual_seed(0)
    work = gpt(blocks)
    begin = time.perf_counter()
    compiled = compiled_by(peer, work.model)
    wrapping = time.perf_counter() - begin
    with torch.no_grad():
        figures = measure(lambda: compiled(*work.args))
        torch.testing.assert_close(compiled(*work.args), work.model(*work.args))
        if peer == "eager":
            figures |= recording(work)
    return figures | {"wrapping": wrapping}


def compiled_by(peer: str, model: Any) -> Callable[..., Any]:
    """The model as the peer gives it back; importing the peer is part of the price."""
    if peer == "tracejit":
        import tracejit

        return tracejit.compile(model, backend="triton", wait=True)
    if peer == "torch.compile":
        import torch

        return torch.compile(model)
    return model


def recording(work: Any) -> dict[str, float]:
    """Seconds of an eager call and of a recorded one, medians of 10 in a warm process."""
    from tracejit.trace.observe import Observer
    from tracejit.trace.recorder import record

    def recorded() -> None:
        observer = Observer(work.model, work.args, {})
        _, made = record(work.model, work.args, {}, observer=observer)
        observer.finish(made.sources)

    return {
        "eager_call": median_seconds(lambda: work.model(*work.args)),
        "recorded_call": median_seconds(recorded),
    }


def median_seconds(call: Callable[[], Any], rounds: int = 10) -> float:
    call()
    found = []
    for _ in range(rounds):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def in_fresh_process(peer: str, blocks: int, caches: Path) -> dict[str, float]:
    """Run `child` in a process of its own with its caches below `caches`."""
    environ = os.environ | {name: str(caches / name) for name in CACHES}
    environ["TRACEJIT_TARGET"] = "cuda:90"
    command = [sys.executable, "-m", "benchmarks.startup", "--child", peer, "--blocks", str(blocks)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{peer} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def rows(blocks: int) -> dict[str, dict[str, float]]:
    """Every peer, cold and warm: {"tracejit cold": figures, …}."""
    found = {}
    for peer in PEERS:
        with tempfile.TemporaryDirectory() as caches:
            states = ("",) if peer.startswith("eager") else (" cold", " warm")
            for state in states:
                print(f"… {blocks} blocks, {peer}{state}", file=sys.stderr, flush=True)
                found[peer + state] = in_fresh_process(peer, blocks, Path(caches))
    return found


def shown(blocks: int, found: dict[str, dict[str, float]]) -> str:
    """The table of one size."""
    lines = [f"GPT, {blocks} blocks, 256 wide, 4 × 128 tokens", ""]
    lines.append(f"{'':22}{'own seconds':>12}{'first call':>12}{'steady ms':>12}")
    for name, f in found.items():
        lines.append(f"{name:22}{f['own']:12.3f}{f['first']:12.3f}{1000 * f['steady']:12.2f}")
    cold = found["torch.compile cold"]["own"] / found["tracejit cold"]["own"]
    warm = found["torch.compile warm"]["own"] / found["tracejit warm"]["own"]
    eager = found["eager"]
    lines += ["", f"torch.compile / tracejit: cold {cold:.1f}×, warm {warm:.1f}×"]
    lines.append(
        f"recording: {1000 * eager['recorded_call']:.1f} ms where eager takes "
        f"{1000 * eager['eager_call']:.1f} ms"
    )
    return "\n".join(lines)


def machine() -> dict[str, Any]:
    import torch
    import triton

    return {
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "triton": triton.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--json", type=Path, help="write every figure to this file")
    parser.add_argument("--child", choices=PEERS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        print(json.dumps(child(asked.child, asked.blocks[0])))
        return
    results = {}
    for blocks in asked.blocks:
        results[blocks] = rows(blocks)
        print(shown(blocks, results[blocks]), end="\n\n", flush=True)
    if len(results) > 1:
        few, many = min(results), max(results)
        ratio = results[many]["tracejit cold"]["own"] / results[few]["tracejit cold"]["own"]
        print(f"tracejit cold, {many} blocks / {few} blocks: {ratio:.2f}×")
    if asked.json:
        document = {"machine": machine(), "own_seconds": results}
        asked.json.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()

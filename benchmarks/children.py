"""Child processes: their events, a limit for each silence, and nothing left of them afterwards."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from tracejit.benchmarks.job import Event, Job
from tracejit.benchmarks.peers import PEERS
from tracejit.runtime.errors import TracejitError

LIMIT = 300.0  # seconds that a peer may be silent before it is given up
SET_ASIDE = "TRACEJIT_"  # settings of the user's shell that would change what is measured


class Died(TracejitError, RuntimeError):
    """A child ended too early or was silent for too long."""

    template = "{why}"


def command(job: Job) -> list[str]:
    """What starts the child."""
    return [sys.executable, "-m", "tracejit.benchmarks", "--job", job.to_json()]


def environment(job: Job, folder: str) -> dict[str, str]:
    """A child's variables: all its temporary files and caches are below `folder`."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(SET_ASIDE)}
    kept |= {"TMPDIR": folder, "PYTHONWARNINGS": "ignore", "HF_HUB_OFFLINE": "1"}
    for name in job.peers:
        kept |= PEERS[name].environment(Path(job.caches) / name)
    if job.threads:
        kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
    return kept


def events(job: Job, folder: str, limit: float = LIMIT) -> Iterator[Event]:
    """What the child of this job tells. Raises Died. However this ends, the child and those that it
    started are gone."""
    with tempfile.TemporaryFile(dir=folder) as errors:
        process = subprocess.Popen(
            command(job),
            env=environment(job, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            start_new_session=True,  # Ctrl-C reaches us alone; its whole group is killed at once
        )
        try:
            yield from _told(process, limit)
            if process.wait(limit) != 0:
                raise Died(why=_ending(process.returncode, errors))
        except subprocess.TimeoutExpired:
            raise Died(why=f"did not end within {limit:.0f} s") from None
        finally:
            _kill(process)


def _told(process: subprocess.Popen[bytes], limit: float) -> Iterator[Event]:
    """Events until the child closes its output."""
    lines: queue.Queue[bytes] = queue.Queue()
    assert process.stdout is not None
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=limit)
        except queue.Empty:
            raise Died(why=f"no answer for {limit:.0f} s: given up") from None
        if not line:
            return
        yield json.loads(line)


def _pump(stream: IO[bytes], lines: queue.Queue[bytes]) -> None:
    """Each line, then an empty one."""
    with stream:
        for line in stream:
            lines.put(line)
    lines.put(b"")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The child's whole process group: compilers that it started too."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _ending(code: int, errors: IO[bytes]) -> str:
    """How a child ended: the signal, or the last line that it wrote."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return f"killed by {signal.Signals(-code).name}" if code < 0 else lines[-1][:200]

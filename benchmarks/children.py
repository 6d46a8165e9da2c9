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
# Settings of the user's shell that would change what is measured: each start would compile a peer's
# Python sources anew.
SET_ASIDE = ("TRACEJIT_", "PYTHONDONTWRITEBYTECODE")


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
        kept |= PEERS[name].environment(Path(job.caches) / name, job.threads)
    if job.threads:
        kept |= dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(job.threads))
    return kept


class Child:
    """A child process at work. When the `with` ends, however it does, the child and those that it
    started are gone."""

    def __init__(self, job: Job, folder: str, limit: float = LIMIT) -> None:
        self.limit = limit
        self.errors = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (close() closes it)
        self.process = subprocess.Popen(
            command(job),
            env=environment(job, folder),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            start_new_session=True,  # Ctrl-C reaches us alone; its whole group is killed at once
        )
        self.lines: queue.Queue[bytes] = queue.Queue()
        pumped = (self.process.stdout, self.lines)
        threading.Thread(target=_pump, args=pumped, daemon=True).start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child and all that it started."""
        _kill(self.process)
        self.errors.close()

    def send(self, order: Event) -> None:
        """Give it an order."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has ended: so says the answer
            self.process.stdin.write(json.dumps(order).encode() + b"\n")
            self.process.stdin.flush()

    def answer(self) -> Event:
        """What it answers. Raises Died."""
        answer = self.next()
        if answer is None:
            raise Died(why=self.ending())
        return answer

    def next(self) -> Event | None:
        """What it tells next; None once it has closed its output. Raises Died."""
        try:
            line = self.lines.get(timeout=self.limit)
        except queue.Empty:
            raise Died(why=f"no answer for {self.limit:.0f} s: given up") from None
        event: Event | None = json.loads(line) if line else None
        return event

    def ending(self) -> str:
        """How it ended, in words; "" if as it should. Raises Died if it does not end."""
        try:
            code = self.process.wait(self.limit)
        except subprocess.TimeoutExpired:
            raise Died(why=f"did not end within {self.limit:.0f} s") from None
        return _ending(code, self.errors) if code else ""


def events(job: Job, folder: str, limit: float = LIMIT) -> Iterator[Event]:
    """What the child of this job tells until it ends. Raises Died."""
    with Child(job, folder, limit) as child:
        while (event := child.next()) is not None:
            yield event
        if why := child.ending():
            raise Died(why=why)


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
        with contextlib.suppress(BrokenPipeError):  # of an order that it did not read
            process.stdin.close()


def _ending(code: int, errors: IO[bytes]) -> str:
    """How a child ended: the signal, or the last line that it wrote."""
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or ["no message"]
    return f"killed by {signal.Signals(-code).name}" if code < 0 else lines[-1][:200]

"""One background thread that compiles, so that calls never wait for it.

At exit the job under way is finished, since a compiler that is cut off inside native code can bring
the process down; jobs not begun are dropped. A forked child starts without a thread and without the
parent's jobs.
"""

from __future__ import annotations

import atexit
import os
import queue
import threading
from collections.abc import Callable

Job = Callable[[], None]


class Leaving(Exception):
    """The process is exiting: the job under way need not wait for anything any more."""


class Worker:
    """A queue of jobs and the daemon thread that runs them one after another. A job may not
    raise."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._jobs: queue.Queue[Job | None] = queue.Queue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self.closing = False  # exit has begun

    def submit(self, job: Job) -> None:
        """Run the job soon. After exit has begun it is dropped."""
        with self._lock:
            if self.closing:
                return
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="tracejit-compiler", daemon=True
                )
                self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        jobs = self._jobs
        while (job := jobs.get()) is not None:
            job()
            jobs.task_done()
        jobs.task_done()

    def drain(self) -> None:
        """Wait until every job submitted so far is done."""
        self._jobs.join()

    def close(self) -> None:
        """Finish the job under way, drop the others."""
        with self._lock:
            self.closing = True
            thread = self._thread
        while True:
            try:
                self._jobs.get_nowait()
            except queue.Empty:
                break
            self._jobs.task_done()
        if thread is not None:
            self._jobs.put(None)
            thread.join()


worker = Worker()
atexit.register(worker.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=worker._reset)

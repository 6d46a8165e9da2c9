"""`python -m tracejit.benchmarks` is `tracejit bench`; with `--job JSON` it is a child process of
it, which writes one JSON object a line on standard output and may be given orders, a JSON object a
line on standard input."""

from __future__ import annotations

import json
import os
import queue
import sys
import threading

from tracejit.benchmarks.job import Event, Job


def main() -> None:
    if sys.argv[1:2] == ["--job"]:
        child(Job.from_json(sys.argv[2]))
    else:
        from tracejit.cli import main as command

        sys.argv.insert(1, "bench")
        command()


def child(job: Job) -> None:
    """Do the job. What libraries print goes to standard error, where it does not disturb."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    orders: queue.Queue[Event] = queue.Queue()
    threading.Thread(target=listen, args=(orders,), daemon=True).start()

    def tell(event: Event) -> None:
        out.write(json.dumps(event) + "\n")
        out.flush()

    from tracejit.benchmarks import measures, serving

    if job.kind == "serve":
        serving.serve(job, tell, iter(orders.get, None))
    else:
        getattr(measures, job.kind)(job, tell)


def listen(orders: queue.Queue[Event]) -> None:
    """Pass orders on. The parent holds the other end of standard input: when it is gone, so is this
    process."""
    text = b""
    while read := os.read(0, 1 << 16):  # not sys.stdin, whose lock the interpreter wants at its end
        *lines, text = (text + read).split(b"\n")
        for line in lines:
            orders.put(json.loads(line))
    os._exit(1)


if __name__ == "__main__":
    main()

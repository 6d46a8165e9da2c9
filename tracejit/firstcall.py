"""A call that no entry and no stored plan fits: run it eagerly and record it.

The result is eager's own. What was recorded is compiled in the background, or at once with
wait=True; the compiler (tracejit.compilation) is imported there, so that the call does not wait for
it.
"""

from __future__ import annotations

import time
from typing import Any

from tracejit.dispatch import Dispatcher, Entry, milliseconds
from tracejit.runtime import forks, log
from tracejit.runtime.errors import RanEagerly
from tracejit.runtime.reasons import Reason
from tracejit.runtime.targets import Choice
from tracejit.runtime.worker import worker
from tracejit.trace.observe import Observer
from tracejit.trace.recorder import record as record_calls


def record(
    dispatcher: Dispatcher,
    choice: Choice,
    signature: Any,
    because: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run and record the call, under the dispatcher's lock; `because` of what none of the entries
    does. Gives the call's own result, or raises
    its own error."""
    start = time.perf_counter()
    observer = Observer(dispatcher.function, args, kwargs)
    result, recording = record_calls(dispatcher.function, args, kwargs, observer=observer)
    refused = recording.refused
    if refused is None and recording.graph is not None:
        writes = bool(recording.graph.writes)
        guards = observer.finish(
            recording.sources, writes, recording.held, recording.changed, recording.generators
        )
    else:
        observer.release()
        guards = refused or Reason("op", "nothing was recorded")
    seconds = {"record": time.perf_counter() - start}
    if isinstance(guards, Reason):
        guards = dispatcher.placed(guards)
        if dispatcher.is_lasting(guards, signature):
            dispatcher.refused[signature] = guards
        dispatcher.note(guards)
        if dispatcher.strict:
            raise RanEagerly(name=dispatcher.name, reason=guards)
        return result
    check = guards.check or guards.compile(dispatcher.function)
    entry = Entry(dispatcher, guards, check, "recorded")
    entry.seconds.update(seconds)
    entry.because = because
    log.say(
        log.CACHE,
        f"{dispatcher.name}: recorded {recording.calls} calls in {milliseconds(entry, 'record')}",
    )
    dispatcher.entries = (*dispatcher.entries, entry)

    def job() -> None:
        with forks.gate:  # a child could not finish an import under way
            from tracejit import compilation
        compilation.complete(dispatcher, entry, recording, guards, choice)

    if dispatcher.options.wait:
        try:
            job()
        except BaseException:  # Ctrl-C: the next call begins anew
            dispatcher.entries = tuple(e for e in dispatcher.entries if e is not entry)
            raise
        if entry.error is not None and dispatcher.strict:
            raise dispatcher.failure(entry)
    else:
        worker.submit(job)
    return result

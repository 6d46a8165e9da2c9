"""A call that no entry and no stored plan fits: run it eagerly and record it.

The result is eager's own. What was recorded is compiled in the background, or at once with
wait=True; the compiler (tracejit.compilation) is imported there, so that the call does not wait for
it.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any

from tracejit.entry import Entry
from tracejit.runtime import forks, log
from tracejit.runtime.errors import BackendHint, RanEagerly
from tracejit.runtime.reasons import Failure, Reason
from tracejit.runtime.targets import Choice
from tracejit.runtime.worker import worker
from tracejit.trace.recorder import observed
from tracejit.trace.recording import Recording

if TYPE_CHECKING:
    from tracejit.dispatch import Dispatcher


def record(
    dispatcher: Dispatcher,
    choice: Choice,
    signature: Any,
    because: Failure | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Any:
    """Run and record the call, under the dispatcher's lock; `because` of what none of the entries
    does. Gives the call's own result, or raises its own error."""
    start = time.perf_counter()
    result, recording, guards = observed(dispatcher.function, args, kwargs)
    if isinstance(guards, Reason):
        refuse(dispatcher, signature, guards)
        return result
    entry = Entry(dispatcher, guards, "recorded", because)
    entry.seconds["record"] = time.perf_counter() - start
    took = entry.took("record")
    log.say(log.CACHE, f"{dispatcher.name}: recorded {recording.calls} calls in {took}")
    dispatcher.entries = (*dispatcher.entries, entry)
    compile(dispatcher, entry, recording, choice)
    return result


def refuse(dispatcher: Dispatcher, signature: Any, reason: Reason) -> None:
    """Note why a call was not captured, with a hint if that can be helped. Raises RanEagerly under
    strict."""
    reason = dispatcher.placed(reason)
    if dispatcher.is_lasting(reason, signature):
        dispatcher.refused[signature] = reason
    dispatcher.note(reason)
    if dispatcher.strict:
        raise RanEagerly(name=dispatcher.name, reason=reason)
    if reason.kind == "autograd":
        text = (
            f"{dispatcher.name} ran eagerly: {reason.text}, and only inference is compiled; "
            "use torch.no_grad() or torch.inference_mode()"
        )
        with contextlib.suppress(BackendHint):  # nothing is wrong, also where warnings are errors
            log.warn_once(text, BackendHint, "autograd", up=6)


def compile(dispatcher: Dispatcher, entry: Entry, recording: Recording, choice: Choice) -> None:
    """Compile what was recorded, soon or at once. Raises CompilerError under strict."""

    def job() -> None:
        with forks.gate:  # a child could not finish an import under way
            from tracejit import compilation
        compilation.complete(dispatcher, entry, recording, choice)

    if not dispatcher.options.wait:
        worker.submit(job)
        return
    try:
        job()
    except BaseException:  # Ctrl-C: the next call begins anew
        dispatcher.entries = tuple(e for e in dispatcher.entries if e is not entry)
        raise
    if entry.error is not None and dispatcher.strict:
        raise dispatcher.failure(entry)

"""What a handler with `to=` returns, on its way to the next stage, where it wants neither a context nor middleware.

Nothing stands between the loop and such a handler: it is called as one without `to=` is, and what it gives is encoded
into a buffer that the messages of a job share. So a job of messages that succeed is one output. What that buffer does
not take (another class, a value too large for it, several targets) goes the careful way, which says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from zerowait.handlers.outputs import Gathered, Tagged

if TYPE_CHECKING:
    from zerowait.handlers.crew import Crew
    from zerowait.handlers.runs import Run


def onward(crew: Crew, run: Run) -> Callable[[Any], None]:
    """What takes each value that is not None, on the loop, directly after its handler has given it.

    It raises the caller's mistakes; then nothing is sent for this message, which has failed.
    """
    outputs, to = crew.kit.outputs, crew.spec.to
    target = to[0] if len(to) == 1 else None
    tagged: Tagged | None = None  # the last of the run's outputs, if that takes more
    gathered: Gathered | None = None
    is_known = False  # the target takes what is sent here: the short way does not ask again

    def pass_on(value: Any) -> None:
        nonlocal tagged, gathered
        if run.cut:  # its timeout was over, though it did not heed that: it has failed, and sends nothing
            return
        sent, index = run.outputs, run.position
        if not sent or sent[-1] is not tagged:  # what was gathered is reported, or something came behind it
            tagged = None
            gathered = outputs.gather(target) if is_known else None
        if gathered is None or not gathered.take(value, index):
            carefully(value, index)
        elif tagged is None:
            tagged = index, gathered
            sent.append(tagged)

    def carefully(value: Any, index: int) -> None:
        nonlocal is_known
        made = [(index, outputs.prepare(each, value, {})) for each in to]  # all of them, or none
        is_known = target is not None
        run.outputs.extend(made)

    return pass_on

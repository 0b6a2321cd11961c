"""What a push gives: a receipt, and what became of its message. Both ask the sheaf that the message lies in."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

from msgspec import MsgspecError, msgpack

from zerowait.errors import Cancelled, Dead, Expired, OutcomeUnknown, UsageError
from zerowait.names import message_id
from zerowait.pending import Pending, T_co, anew, refuse_elsewhere

if TYPE_CHECKING:
    from zerowait.callbacks import Callbacks
    from zerowait.outbox.sheaf import Sheaf

State = Literal["accepted", "stored", "sent", "handled", "dead", "expired", "withdrawn"]


class _OfMessage(Pending[T_co]):
    """Of one message of a sheaf."""

    _sheaf: Any
    _index: int

    def _unwatch(self, call: Callable[[], object]) -> None:
        self._sheaf.forget(self._index, call)

    def _here(self) -> None:
        refuse_elsewhere(self._sheaf.lane.intake.pid, "This receipt")

    def _same(self, other: object) -> bool:
        return isinstance(other, type(self)) and other._sheaf is self._sheaf and other._index == self._index

    def _callbacks(self) -> Callbacks:
        callbacks: Callbacks = self._sheaf.lane.intake.callbacks
        return callbacks


class Receipt(_OfMessage["Receipt"]):
    """What `push` returns. Done when the message is *safe* (on disk; in memory if that was asked), never waiting for a
    worker.

    It gives itself, so that `receipt = zw.push(…)` and `receipt = await zw.push(…)` both work. Awaiting it raises
    OutcomeUnknown if the outbox file failed meanwhile and did not come back.
    """

    def done(self) -> bool:
        sheaf: Sheaf = self._sheaf
        return sheaf.is_stored(self._index) or sheaf.error is not None

    def _value(self) -> Receipt:
        error = self._sheaf.error
        if error is not None and (
            not self._sheaf.is_settled(self._index) or self._sheaf.state(self._index) == "unknown"
        ):
            raise anew(error)
        return self

    def _watch(self, call: Callable[[], object]) -> None:
        self._sheaf.when_stored(self._index, call)

    def _line(self) -> str:
        return "write `await zw.push(…)`"

    @property
    def id(self) -> str:
        """The message's id, `<outbox>-<epoch>-<number>`, once the receipt is done; "" before."""
        sheaf: Sheaf = self._sheaf
        if not sheaf.is_stored(self._index) or not sheaf.epoch:
            return ""
        box: int = sheaf.lane.intake.box
        return message_id(box, sheaf.epoch, sheaf.first + self._index)

    @property
    def channel(self) -> str:
        """The channel's name."""
        name: str = self._sheaf.channel
        return name

    @property
    def duplicate(self) -> bool:
        """Whether a push with the same `id=` had been accepted before: then this is the receipt of that one. Known
        once it is done."""
        return bool(self._sheaf.duplicate)

    @property
    def state(self) -> State:
        """Where the message is. A redelivered one goes back from sent to stored; in memory, accepted is stored."""
        state: Any = self._sheaf.state(self._index)
        return "accepted" if state == "unknown" else state

    @property
    def handled(self) -> Pending[None]:
        """Done when a worker has handled it. Raises Dead, Expired, or Cancelled (after `withdraw`), whichever became of
        it."""
        self._here()
        if self._sheaf.lane.intake.is_plain:
            raise UsageError(
                f"{self.channel} goes to a bare ZeroMQ socket, which acknowledges nothing: nobody can know that."
            )
        return Handled(self._sheaf, self._index)

    def withdraw(self) -> Pending[bool]:
        """Takes it back if no worker has begun it. True: it was taken back, and the ledger counts it as dropped."""
        self._here()
        pending: Pending[bool] = self._sheaf.lane.intake.withdraw(self._sheaf, self._index)
        return pending

    def __repr__(self) -> str:
        short = self.id
        box, _, rest = short.partition("-")
        name = f" {box[:4]}-{rest.rpartition('-')[2]}" if short else ""
        return f"<Receipt {self.channel}{name}: {self.state}>"

    def __reduce__(self) -> Any:
        raise UsageError("A receipt belongs to the process that pushed; send its `id` instead.")


class Handled(_OfMessage[None]):
    """The end of a push."""

    def done(self) -> bool:
        return bool(self._sheaf.is_settled(self._index))

    def _value(self) -> None:
        state = self._sheaf.state(self._index)
        if state == "handled":
            return
        receipt = Receipt(self._sheaf, self._index)
        if state == "dead":
            note = self._sheaf.note(self._index)
            said = _said(note.text) if note is not None and note.text else {}
            raise Dead(
                reason=str(said.get("reason", "no reason is noted")),
                attempts=note.failures if note is not None else 0,
                traceback=str(said.get("traceback", "")),
                channel=receipt.channel,
                id=receipt.id,
            )
        if state == "expired":
            raise Expired(channel=receipt.channel, id=receipt.id)
        if state == "withdrawn":
            words = "the message was taken back before it ran: withdrawn, or dropped by `zerowait outbox drop`"
            raise Cancelled(words, channel=receipt.channel, id=receipt.id)
        error = self._sheaf.error
        raise anew(error) if error is not None else OutcomeUnknown(channel=receipt.channel)

    def _watch(self, call: Callable[[], object]) -> None:
        self._sheaf.when_settled(self._index, call)

    def _line(self) -> str:
        return "write `await receipt.handled`"

    def __repr__(self) -> str:
        return f"<handled of {Receipt(self._sheaf, self._index)!r}>"


def _said(text: bytes) -> dict[str, Any]:
    """What the note of a dead letter says. It may come from another version, or from a damaged file."""
    try:
        return msgpack.decode(text, type=dict[str, Any])
    except (MsgspecError, ValueError, TypeError, RecursionError):
        return {"reason": "its note of why cannot be read"}

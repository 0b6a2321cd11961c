"""Every error, one tree. Each class says whose fault it is, what is safe, and what to do.

Exception
├─ ZerowaitError
│  ├─ NotAccepted            raised by the verb itself: nothing was taken
│  │  ├─ QueueFull  EncodeError  TooLarge  Closed
│  │  └─ StoreError          (also an OSError)
│  ├─ NotHandled             raised by whoever waits
│  │  ├─ NoResponder  PeerLost  RemoteError  BadAnswer  Dead  Cancelled  Overflowed
│  │  └─ Expired             (also a TimeoutError)
│  ├─ NotPermitted           (also a PermissionError)   at the call once known, else while waiting
│  ├─ ContractMismatch                                  waiting for workers that expect what is sent
│  ├─ OutcomeUnknown         (also an OSError)          awaiting a receipt
│  ├─ SettingsError          (also a ValueError)
│  └─ UsageError             (also a RuntimeError)
└─ Verdict                   said by handlers
   └─ RetryLater  Reject
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Protocol


class Room(Protocol):
    """What `QueueFull.room` is: done once there is room again. A `Pending[None]`."""

    def done(self) -> bool: ...
    def result(self, timeout: float | None = None) -> None: ...
    def __await__(self) -> Generator[object, None, None]: ...


class ZerowaitError(Exception):
    """The base of everything zerowait raises. Its text is a sentence for the person who reads it."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    # Some classes are also an OSError, whose own text would be "[Errno 28] …" and whose arguments are not ours.
    def __str__(self) -> str:
        return self.message


class NotAccepted(ZerowaitError):
    """Raised by the verb itself: **nothing was taken**, so the caller still holds the only copy of the value."""


class QueueFull(NotAccepted):
    """The outbox holds as much as it may. Nobody's fault: workers are slower than senders, or away.

    Nothing was taken; what was accepted before is safe. Try again when `room` is done (`await error.room`, or
    `error.room.result()`), let the error become a 503, start more workers, or raise `outbox_bytes`, `outbox_messages`,
    `memory_bytes` or `memory_messages`.

    limit_bytes, limit_messages: the outbox's bounds. room: done when the outbox is at most 90 % full.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        limit_bytes: int,
        limit_messages: int,
        room: Room,
        channel: str = "",
        durable: bool = True,
    ) -> None:
        which, settings = ("on disk", "outbox") if durable else ("in memory", "memory")
        refused = f"the message for {channel} was not taken" if channel else "the message was not taken"
        super().__init__(
            message
            or f"The outbox {which} is full ({limit_messages:,} messages or {amount(limit_bytes)}): {refused}. "
            f"What it holds is safe and leaves as workers take it. Try again when `error.room` is done, start more "
            f"workers, or raise {settings}_messages and {settings}_bytes."
        )
        self.limit_bytes = limit_bytes
        self.limit_messages = limit_messages
        self.room = room


class EncodeError(NotAccepted):
    """The value cannot be encoded, or is not of the channel's type. The caller's mistake: change the value or the type.

    Nothing was taken. path: the place inside the value, as `$.attachments[2].size`; `$` is the value itself.
    """

    def __init__(self, message: str, *, path: str = "$") -> None:
        super().__init__(message)
        self.path = path


class TooLarge(NotAccepted):
    """The encoded message, or its headers, is over the limit. Nothing was taken.

    Send the address of the data in place of the data, or raise `message_bytes` at both ends.

    size_bytes: what it would have been. limit_bytes: what is allowed.
    """

    def __init__(self, message: str | None = None, *, size_bytes: int, limit_bytes: int, channel: str = "") -> None:
        which = f"The message for {channel}" if channel else "The message"
        super().__init__(
            message
            or f"{which} is {amount(size_bytes)}, more than the {amount(limit_bytes)} allowed: nothing was taken. "
            "Send where the data is in place of the data, or raise message_bytes at both ends."
        )
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class StoreError(NotAccepted, OSError):
    """The outbox file cannot be opened or written: disk full, an I/O error, a foreign file. The machine's fault.

    Nothing was taken; what was stored before is safe, and is delivered once the file can be written again, without a
    restart. path: the file or folder. errno: the operating system's number, None if it gave none.
    """

    errno: int | None
    path: str

    def __init__(self, message: str, *, path: object = "", errno: int | None = None) -> None:
        ZerowaitError.__init__(self, message)
        self.path = str(path)
        self.errno = errno
        self.strerror = message
        self.filename = self.path or None


class Closed(NotAccepted):
    """The client was closed before this call. Nothing was taken. Enter it again (`with client:`), or make another."""

    def __init__(self, message: str | None = None, *, name: str = "") -> None:
        which = f"The client {name!r}" if name else "The client"
        super().__init__(
            message or f"{which} is closed: nothing was taken. Enter it again with `with`, or push before closing it."
        )


class NotHandled(ZerowaitError):
    """Raised by whoever waits for the outcome, never by the verb. channel, id: of the message it is about."""

    def __init__(self, message: str, *, channel: str = "", id: str = "") -> None:
        super().__init__(message)
        self.channel = channel
        self.id = id


class NoResponder(NotHandled):
    """Nobody serves the channel. The request **certainly did not run**, so that asking again is safe.

    Start a worker for it, or look at the name: the text names the channels that are served. If somebody serves it and
    does not answer, the text says who, and for how long.
    """


class PeerLost(NotHandled):
    """The worker died, stood still or was cut off while it had the request: **it may have run**.

    Ask again only what may run twice; a channel declared `idempotent=True` is asked again by itself. peer: its name.
    """

    def __init__(self, message: str, *, channel: str = "", id: str = "", peer: str = "") -> None:
        super().__init__(message, channel=channel, id=id)
        self.peer = peer


class Expired(NotHandled, TimeoutError):
    """The deadline or `ttl` passed first. sent: False, it certainly did not run; True, it may have."""

    def __init__(self, message: str | None = None, *, channel: str = "", id: str = "", sent: bool = False) -> None:
        ran = "It had been sent: it may have run." if sent else "It had not been sent: it certainly did not run."
        NotHandled.__init__(
            self, message or f"{_which(channel, id)} ran out of its time. {ran}", channel=channel, id=id
        )
        self.sent = sent


class RemoteError(NotHandled):
    """The handler raised. The fault is in the handler or in the value it was given; asking again gives the same.

    type: the exception's class, as text (no class is looked up by it). message: its text. traceback: where it
    happened over there, without local variables; shown below this error as a note.
    """

    def __init__(self, *, type: str, message: str, traceback: str = "", channel: str = "", id: str = "") -> None:
        where = f"The handler of {channel}" if channel else "The handler"
        super().__init__(f"{where} raised {type}: {message}", channel=channel, id=id)
        self.type = type
        self.message = message
        self.traceback = traceback
        if traceback:
            self.add_note("At the worker:\n" + traceback)

    def __str__(self) -> str:
        return str(self.args[0])


class BadAnswer(NotHandled):
    """The handler ran, and its answer cannot be given to you: it is not of the type promised, for the two ends
    disagree, or it is larger than one of them takes (`message_bytes`). path: the place in it."""

    def __init__(self, message: str, *, path: str = "$", channel: str = "", id: str = "") -> None:
        super().__init__(message, channel=channel, id=id)
        self.path = path


class Dead(NotHandled):
    """A push that became a dead letter: it is kept, and no longer tried.

    Look at it with `zerowait dead show`, mend the cause, and give it back with `zerowait dead retry`.

    reason: what sent it there, in words. attempts: how often it ran. traceback: of the last failure, if there was one.
    """

    def __init__(
        self,
        message: str | None = None,
        *,
        reason: str,
        attempts: int = 0,
        traceback: str = "",
        channel: str = "",
        id: str = "",
    ) -> None:
        times = {0: "before it ran", 1: "after 1 attempt"}.get(attempts, f"after {attempts} attempts")
        super().__init__(
            message
            or f"{_which(channel, id)} is a dead letter {times}: {reason.rstrip('.')}. It is kept: "
            "see `zerowait dead show`, and `zerowait dead retry` once the cause is mended.",
            channel=channel,
            id=id,
        )
        self.reason = reason
        self.attempts = attempts
        self.traceback = traceback
        if traceback:
            self.add_note("At the worker:\n" + traceback)


class Cancelled(NotHandled):
    """You took it back yourself, by `cancel()` or `withdraw()`. Not an `asyncio.CancelledError`: your task goes on."""


class Overflowed(NotHandled):
    """A subscription with `overflow="disconnect"` was slower than a publisher: it has ended, with these events lost.

    Subscribe again, with a larger queue or a quicker loop. missed: how many. peer: the publisher's name.
    """

    def __init__(self, *, channel: str, peer: str, missed: int) -> None:
        super().__init__(
            f"The queue of the subscription to {channel} is full: {peer} has ended it, and {missed:,} events that "
            'waited there are lost. Subscribe again, with a larger queue= or overflow="drop_oldest".',
            channel=channel,
        )
        self.peer = peer
        self.missed = missed


class NotPermitted(ZerowaitError, PermissionError):
    """The peer does not let this process do that. The operator's decision: ask for the right, or change the keys.

    A push accepted before this was known loses nothing: it waits, and the log says why.
    """

    def __init__(self, message: str) -> None:
        ZerowaitError.__init__(self, message)


class ContractMismatch(ZerowaitError):
    """The two ends disagree about a channel's kind or types. Deploy the same contract at both ends.

    Raised by `workers(…).at_least(n)`. A push is accepted all the same and loses nothing: it waits until they agree,
    and the log, the notice `Mismatched` and `zerowait status` say what differs. difference: in words.
    """

    def __init__(self, message: str | None = None, *, difference: str, channel: str = "") -> None:
        which = f"The two ends of {channel} disagree" if channel else "The two ends disagree"
        super().__init__(
            message or f"{which}: {difference}. Messages wait until both ends are deployed with the same contract."
        )
        self.difference = difference


class OutcomeUnknown(ZerowaitError, OSError):
    """The outbox file failed while this message was being written, and did not come back: it may be on disk or not.

    If it is, it will be delivered. Push again only what may be handled twice, or give it an `id=`.
    """

    def __init__(self, message: str | None = None, *, channel: str = "", path: object = "") -> None:
        which = f"the message for {channel}" if channel else "the message"
        where = f"The outbox {path}" if path else "The outbox"
        ZerowaitError.__init__(
            self,
            message
            or f"{where} failed while {which} was being written and did not come back: it may be on disk, and is then "
            "delivered later, or not. Push it again only if it may be handled twice.",
        )


class SettingsError(ZerowaitError, ValueError):
    """A setting is unknown, of a wrong type or out of bounds. origin: file and line, or variable."""

    def __init__(self, message: str, *, origin: str = "") -> None:
        ZerowaitError.__init__(self, f"{origin}: {message}" if origin else message)
        self.origin = origin


class UsageError(ZerowaitError, RuntimeError):
    """The program must be changed; the text says to what. Nobody catches it, so one class is enough."""


class Verdict(Exception):
    """Raised inside a handler to end it by its own decision. Not an error of zerowait's, so not a `ZerowaitError`."""


class RetryLater(Verdict):
    """`raise RetryLater(after=60)`: try this message again, that many seconds from now, not after the policy's delay.

    It counts as an attempt, and the policy's `attempts` and `max_age` still end it. after: seconds, 0 or more; what is
    above 1e9 (thirty years) is that.
    """

    def __init__(self, after: float, reason: str = "") -> None:
        if type(after) not in (int, float) or not 0 <= after < float("inf"):
            raise UsageError(f"RetryLater(after=…) takes seconds, 0 or more and finite, not {after!r}.")
        super().__init__(reason or f"try again in {after:g} s")
        self.after = float(after)
        self.reason = reason


class Reject(Verdict):
    """`raise Reject("why")`: no attempt will ever succeed; the message becomes a dead letter now, with this reason."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def amount(nbytes: int) -> str:
    """A number of bytes as people write it: `2 GiB`, `64 MiB`, `812 bytes`."""
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if nbytes >= size:
            return f"{nbytes / size:.4g} {unit}"
    return f"{nbytes} bytes"


def _which(channel: str, id: str) -> str:
    return (
        f"Message {id} for {channel}" if id and channel else f"The message for {channel}" if channel else "The message"
    )

"""Notices: what happened that a program may want to act on. `client.listen(DeadLettered, fn)` calls `fn` with each.

Frozen records, given on zerowait's callback thread after the fact. `sentence` says it for people, as the log does.
"""

from __future__ import annotations

from msgspec import Struct


class Notice(Struct, frozen=True, kw_only=True):
    """The base of all notices: `listen(Notice, fn)` hears them all."""

    @property
    def sentence(self) -> str:
        """What happened, in words."""
        raise NotImplementedError


class DeadLettered(Notice, frozen=True, kw_only=True):
    """One of this process's pushes became a dead letter. rule: what sent it there: "attempts", "reject", "decode" …"""

    channel: str
    id: str
    reason: str
    rule: str = ""
    attempts: int = 0
    worker: str = ""

    @property
    def sentence(self) -> str:
        by = f" at {self.worker}" if self.worker else ""
        tries = "1 attempt" if self.attempts == 1 else f"{self.attempts} attempts"
        return f"Message {self.id} of {self.channel} is a dead letter after {tries}{by}: {self.reason}"


class PeerUp(Notice, frozen=True, kw_only=True):
    """A process is connected. channels: what it serves now; one that is still starting may serve more in a moment."""

    name: str
    instance: str
    channels: tuple[str, ...] = ()
    process: str = ""  # its name and pid, and its address if it is on another machine: as the log calls it

    @property
    def sentence(self) -> str:
        serves = f", which serves {', '.join(self.channels)}" if self.channels else ""
        return f"Connected to {self.process or self.name}{serves}"


class PeerGone(Notice, frozen=True, kw_only=True):
    """A process is gone. how: "said goodbye", "died", or "silent". returned: this process's messages that it had, which
    go to others now."""

    name: str
    instance: str
    how: str
    returned: int = 0
    process: str = ""  # as of PeerUp

    @property
    def sentence(self) -> str:
        what = "the message that it had is" if self.returned == 1 else f"the {self.returned} messages that it had are"
        back = f"; {what} given to others" if self.returned else ""
        return f"{self.process or self.name} is gone ({self.how}){back}"


class PeerStuck(Notice, frozen=True, kw_only=True):
    """For so many seconds the handlers' loop of a process has not turned, or it has not answered at all, although it is
    connected, or lives on this machine and is not stopped. It keeps what it has begun, and gets nothing new until it
    goes on. Told once, when it begins."""

    name: str
    instance: str
    seconds: float
    process: str = ""  # as of PeerUp

    @property
    def sentence(self) -> str:
        return f"{self.process or self.name} is there, but has been stuck for {self.seconds:.1f} s"


class Mismatched(Notice, frozen=True, kw_only=True):
    """A process serves a channel and expects another type than this one sends: nothing of it goes there.

    Its messages wait for another worker, or until both ends are deployed with the same contract. sent, expected: the
    two types, in words. difference: the first thing that does not fit. Told once for each process, and again each
    minute while messages wait and nobody else takes them.
    """

    channel: str
    name: str
    instance: str
    sent: str
    expected: str
    difference: str
    process: str = ""  # as of PeerUp

    @property
    def sentence(self) -> str:
        return (
            f"Nothing of {self.channel} is sent to {self.process or self.name}: {self.difference}. Sent is "
            f"{self.sent}, expected there is {self.expected}. The messages wait here, safe: deploy both ends with the "
            "same contract"
        )


class StoreBroken(Notice, frozen=True, kw_only=True):
    """An outbox file cannot be written. What is in it is safe; pushes raise StoreError until it is mended. reason: in
    the operating system's words."""

    path: str
    reason: str

    @property
    def sentence(self) -> str:
        return (
            f"The outbox {self.path} cannot be written ({self.reason}); what is in it is safe, and pushes are refused"
        )


class StoreMended(Notice, frozen=True, kw_only=True):
    """An outbox file can be written again, seconds after it could not."""

    path: str
    seconds: float

    @property
    def sentence(self) -> str:
        return f"The outbox {self.path} can be written again, after {self.seconds:.1f} s"


class Refused(Notice, frozen=True, kw_only=True):
    """Something from outside was refused: a stranger's bytes, another version, a frame that breaks the protocol.

    peer: its name, or where it came from. Like the lines in the log, of the same reason only the 1st, 2nd, 4th, 8th …
    is told, so that a stranger who tries for ever is no flood. Who does not even speak ZeroMQ is cut off without a
    word.
    """

    peer: str
    reason: str

    @property
    def sentence(self) -> str:
        return f"Refused {self.peer}: {self.reason}"


class Unserved(Notice, frozen=True, kw_only=True):
    """Messages wait for a channel that nobody serves: told after 10 s, and each minute. waiting: how many, those due
    later too. served: the channels that are, the nearest name first. silent: who serves it and does not answer, for how
    long and what to do, in words; "" if nobody does."""

    channel: str
    waiting: int
    served: tuple[str, ...] = ()
    silent: str = ""

    @property
    def sentence(self) -> str:
        if self.silent:
            them = "1 message waits" if self.waiting == 1 else f"{self.waiting} messages wait"
            return f"{them} for {self.channel}: {self.silent.removesuffix('.')}"
        others = f"; served are {', '.join(self.served[:5])}" if self.served else "; nothing is served"
        waits = "1 message waits" if self.waiting == 1 else f"{self.waiting} messages wait"
        return f"{waits} for {self.channel}, which nobody serves{others}"

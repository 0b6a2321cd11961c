"""A listening socket and everybody who came by it.

A ROUTER knows its peers by routing id and says nothing of their coming and going; its monitor tells of connections, by
descriptor, and nothing of ids. The first frame of a peer joins the two: it carries the descriptor it came by. Four
rules keep that right although descriptors are used again at once:

- libzmq tells of a connection's end before it closes the descriptor. So before a descriptor is believed, the monitor is
  read to its end: what still stands for it then is its present owner.
- All that a peer said can be read by the time its end is told. So its Lost waits until the ROUTER was seen empty, or
  for half a second of there always being more: its frames come before its Lost.
- A peer whose end was told before its first frame was read has no connection any more, and is Lost right after it. If
  its descriptor is already another's, it takes that one's place until the other speaks.
- Of two with the same descriptor the later lives. Their ids say which that is: ZeroMQ numbers its peers as they come.

When thousands come at once, what they say waits here for its turn. Who has spoken in time is not cut off for it: nobody
is called silent while there are frames unread, for five seconds more. And what somebody had said who is gone by now
is nobody's first word.

A peer cannot be closed by ZeroMQ's means; it is cut off through its descriptor (`shears`).
"""

from __future__ import annotations

import select
import sys
import time
from collections import deque
from collections.abc import Iterator

from zerowait.engines.brokerless.bare import (
    ACCEPTED,
    DISCONNECTED,
    LISTENING,
    READABLE,
    Bare,
    Frame,
    Monitor,
    Unusable,
    connection_of,
    content,
)
from zerowait.engines.brokerless.descriptors import Spare, has_unread, is_any_left
from zerowait.engines.brokerless.dialled import BEHIND_S, FRAMES_A_TURN, SEVERAL_PARTS
from zerowait.engines.brokerless.shears import Shears, cut
from zerowait.engines.brokerless.wire_events import Event, Heard, Lost

WATCHED = LISTENING | ACCEPTED | DISCONNECTED
EMPTYING_S = 0.5
PARTING_S = 0.2  # what was sent to a peer just before it was dropped has this long to leave
CROWDED_S = 1.0  # with too many who have not spoken, this is how long each may be silent
RELIEF_S = 0.1  # who has waited so long to be accepted waits for a descriptor
REBIND_S = (0.1, 5.0)


class Door:
    """A connection that was accepted: who came by it, once he has spoken."""

    __slots__ = ("caller", "descriptor", "since")

    def __init__(self, descriptor: int, since: float) -> None:
        self.descriptor = descriptor
        self.since = since
        self.caller: Caller | None = None


class Caller:
    """A peer that dialled us. muted: dropped, so that what it still says is not heard. leaving: its Lost is to come."""

    __slots__ = ("conn", "door", "leaving", "line", "muted", "who")

    def __init__(self, conn: int, who: bytes, line: Listener, door: Door | None) -> None:
        self.conn = conn
        self.who = who
        self.line = line
        self.door = door
        self.muted = False
        self.leaving = False

    def send(self, frame: bytes) -> bool:
        if self.leaving:
            return True
        taken = self.line.bare.write_to(self.who, frame)
        if taken is None:
            self.line.depart(self, "the connection is gone")
            return True
        return taken

    def has_unread(self) -> bool:
        """Whether it has said something that ZeroMQ's thread has not read yet, as far as its connection is known."""
        return self.door is not None and has_unread(self.door.descriptor)


class Listener:
    """numbers: gives each caller its own. callers: by number, of all listeners; kept up to date here.

    connections: how many there may be at once. handshakes: with more than so many that have not yet spoken, patience is
    short. handshake_s: seconds from coming to speaking.
    """

    # Writable means that any peer can be written to; of the one that cannot it says nothing.
    writable_tells = False

    def __init__(
        self,
        endpoint: str,
        bare: Bare,
        monitor: Monitor,
        shears: Shears,
        *,
        ipv6: bool,
        numbers: Iterator[int],
        callers: dict[int, Caller],
        connections: int,
        handshakes: int,
        handshake_s: float,
    ) -> None:
        self.endpoint = endpoint
        self.bare = bare
        self.monitor = monitor
        self.ignored = 0  # frames of those whom we had dropped
        self.is_behind = False  # when it was read last, there was more
        self.cut_off = 0  # connections that we ended: one too many, silent, or against the rules
        self._ipv6 = ipv6
        # macOS has no address for the other end of a local socket, and without one libzmq gives no descriptor.
        self._is_connection_told = endpoint.startswith("tcp:") or sys.platform == "linux"
        self._shears = shears
        self._numbers = numbers
        self._callers = callers
        self._connections = connections
        self._handshakes = handshakes
        self._handshake_s = handshake_s
        self._by_id: dict[bytes, Caller] = {}
        self._doors: dict[int, Door] = {}
        self._silent: dict[int, Door] = {}  # those of them where nobody has spoken yet, the oldest first
        self._gone: set[bytes] = set()  # who may still have something unread here; ids are never given twice
        self._departed: deque[tuple[Caller, str, float]] = deque()
        self._to_cut: deque[tuple[float, Door]] = deque()
        # Given up when none is left, so that libzmq can take in what it otherwise tries to take in without a pause.
        self._spare = Spare()
        self._listening = -1  # libzmq's descriptor; readable while somebody waits to be accepted
        self._waiting_since: float | None = None
        self._bound = True
        self._pause = REBIND_S[0]
        self._rebind_at = 0.0

    # -- what comes ------------------------------------------------------------------------------------------------

    def read(self, events: list[Event], sure: bool) -> bool:
        """Tells what has come. sure: the descriptor said that there is something. True: this must be read again."""
        departed = len(self._departed)
        more = self.is_behind = (sure or bool(self.bare.is_ready() & READABLE)) and self._read_some(events)
        if not more:
            self._gone.clear()
        for _ in range(departed):
            caller, reason, since = self._departed[0]
            if more and time.monotonic() - since < EMPTYING_S:
                break
            self._departed.popleft()
            self._by_id.pop(caller.who, None)
            if more:
                self._gone.add(caller.who)
            if not caller.muted:
                del self._callers[caller.conn]
                events.append(Lost(caller.conn, reason))
        return more or bool(self._departed)

    def _read_some(self, events: list[Event]) -> bool:
        for n in range(FRAMES_A_TURN):
            said = self.bare.read_from()
            if said is None:
                return False
            who, frame = said
            caller = self._by_id.get(who)
            if caller is not None and not caller.muted and not frame.more:
                events.append(Heard(caller.conn, content(frame)))
            elif self._gone and who in self._gone:
                self._hear(None, frame, events, first=False)
            else:
                self._hear(caller or self._admit(who, frame, events), frame, events, first=caller is None)
            if n == 0 and not self.bare.is_ready() & READABLE:
                return False
        return True

    def _hear(self, caller: Caller | None, frame: Frame, events: list[Event], *, first: bool) -> None:
        several = frame.more and self.bare.skip_rest() > 0
        if caller is None or caller.muted:
            self.ignored += 1
        elif several:
            if not first:
                events.append(Lost(caller.conn, SEVERAL_PARTS))
            self.drop(caller, 0.0)
        else:
            events.append(Heard(caller.conn, content(frame), first))

    def _admit(self, who: bytes, frame: Frame, events: list[Event]) -> Caller | None:
        """None: it is none of ours, for it chose its id itself, or speaks ZeroMQ's protocol of before 2013 (random
        bytes do that too). As one that never spoke, it is cut off in time."""
        self.look(events)
        descriptor = connection_of(frame)
        if len(who) != 5 or who[0] != 0 or (descriptor < 0 and self._is_connection_told):
            return None
        door = self._doors.get(descriptor)
        caller = self._by_id[who] = Caller(next(self._numbers), who, self, door)
        self._callers[caller.conn] = caller
        if door is None:
            if descriptor >= 0:
                self.depart(caller, "the other side closed the connection right after its first words")
            return caller
        if door.caller is not None:
            if not _came_later(who, door.caller.who):
                self.depart(caller, "the other side closed the connection right after its first words")
                return caller
            self.depart(door.caller, "the other side closed the connection")
        door.caller = caller
        self._silent.pop(descriptor, None)
        return caller

    # -- who comes and goes ------------------------------------------------------------------------------------------

    def look(self, events: list[Event]) -> bool:
        """Takes note of what has happened to connections. True: this must be read, for somebody has left."""
        now = time.monotonic()
        for event, value in self.monitor.read():
            if event == ACCEPTED:
                self._leave(value, "its connection's descriptor is another's now")
                door = self._doors[value] = self._silent[value] = Door(value, now)
                if len(self._doors) > self._connections or not self._spare.is_held():
                    self._to_cut.appendleft((0.0, door))
            elif event == DISCONNECTED:
                self._leave(value, "the other side closed the connection, or no longer answers")
            else:
                self._listening = value
        return bool(self._departed)

    def _leave(self, descriptor: int, reason: str) -> None:
        self._silent.pop(descriptor, None)
        door = self._doors.pop(descriptor, None)
        if door is not None and door.caller is not None:
            self.depart(door.caller, reason)

    def depart(self, caller: Caller, reason: str) -> None:
        if not caller.leaving:
            caller.leaving = True
            self._departed.append((caller, reason, time.monotonic()))

    def drop(self, caller: Caller, parting_s: float = PARTING_S) -> None:
        """Hears nothing more of it, and cuts it off once what was sent to it has had time to leave."""
        self._callers.pop(caller.conn, None)
        caller.muted = True
        if caller.door is not None:
            self._to_cut.append((time.monotonic() + parting_s, caller.door))
        elif not caller.leaving:
            # The system does not say which connection it is: forgotten, it is a stranger if it speaks again.
            del self._by_id[caller.who]

    def is_waiting(self) -> bool:
        return bool(self._silent or self._to_cut or not self._bound or self._waiting_since or self.is_urgent())

    def is_urgent(self) -> bool:
        return not self._spare.is_held()

    def tick(self, now: float, events: list[Event]) -> None:
        patience = self._handshake_s if len(self._silent) <= self._handshakes else min(CROWDED_S, self._handshake_s)
        for door in list(self._silent.values()):
            if now - door.since < patience:
                break
            # His first words may be among what is unread, here or before ZeroMQ's thread; not for ever, since others
            # may speak without a pause. The socket is not asked here: that would take the sign from its descriptor
            # that there is something to read.
            if now - door.since >= patience + BEHIND_S or not (self.is_behind or has_unread(door.descriptor)):
                self._cut(door, events)
        for _ in range(len(self._to_cut)):
            at, door = self._to_cut.popleft()
            if at <= now:
                self._cut(door, events)
            else:
                self._to_cut.append((at, door))
        if not self._bound:
            self._bind_again(now)
        else:
            self._mind_descriptors(now, events)

    def _cut(self, door: Door, events: list[Event]) -> None:
        with self._shears.holding(door.descriptor) as connection:
            # If it ended before we had hold of it, that was told before its descriptor could become another's.
            self.look(events)
            if connection is not None and self._doors.get(door.descriptor) is door:
                self._silent.pop(door.descriptor, None)
                self.cut_off += 1
                cut(connection)

    # -- when there are no descriptors left --------------------------------------------------------------------------

    def _mind_descriptors(self, now: float, events: list[Event]) -> None:
        """Who cannot be accepted for want of a descriptor is tried again by libzmq without a pause, which costs a core.

        So it gets the spare one, and whoever comes by that is cut off, until nobody waits.
        """
        if not self._is_somebody_waiting():
            self._waiting_since = None
            self._spare.take_back()
        elif self._waiting_since is None:
            self._waiting_since = now  # libzmq will have taken him in before we look again, if it can
        elif now - self._waiting_since >= RELIEF_S:
            self._waiting_since = now
            self._relieve(now, events)

    def _is_somebody_waiting(self) -> bool:
        if self._listening < 0:
            return False
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        return bool(poll.poll(0))

    def _relieve(self, now: float, events: list[Event]) -> None:
        if is_any_left():
            pass  # libzmq is only busy
        elif self._spare.is_held():
            self._spare.give_up()
        elif self._doors:
            self._cut(next(reversed(self._doors.values())), events)  # the newest: it has least to lose
        else:
            # Unbinding would end every connection that came by here; there is none.
            self.bare.unbind(self.endpoint)
            self._bound, self._listening = False, -1
            self._rebind_at = now + self._pause

    def _bind_again(self, now: float) -> None:
        if now < self._rebind_at:
            return
        try:
            self.bare.bind(self.endpoint, ipv6=self._ipv6)
        except Unusable:
            self._pause = min(self._pause * 2, REBIND_S[1])
            self._rebind_at = now + self._pause
        else:
            self._bound, self._pause = True, REBIND_S[0]

    def close(self) -> None:
        self._spare.give_up()


def _came_later(who: bytes, other: bytes) -> bool:
    return (int.from_bytes(who[1:], "big") - int.from_bytes(other[1:], "big")) % 2**32 < 2**31

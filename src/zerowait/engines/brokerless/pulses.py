"""Whether a process of this machine that says nothing is held: it lives, and cannot run a line of Python (rules §4.3).

Two signs together. The thread that owns its protocol counts its turns in a file (`unbegun_file`): one that is well
turns at least once a second, whatever has become of its connections. And ZeroMQ's own threads, which need no
interpreter, greet whoever connects to its socket: those of a process that is stopped or frozen do not."""

from __future__ import annotations

import socket
from contextlib import suppress

from msgspec import Struct

from zerowait.engines.brokerless.directory import Directory
from zerowait.engines.brokerless.protocol.worker.unbegun import Listing
from zerowait.engines.brokerless.unbegun_file import Reading

STILL_S = 1.5  # without a turn for so long it stands still; with less than that of grace nobody is ever found held
FRESH_S = 2.5  # a greeting is a sign for so long
MOST = 64  # that are felt at once: each has two descriptors
KEPT_S = 60.0  # who was not felt for so long is forgotten


class Looked(Struct, frozen=True):
    """listing: it is held, and this has not begun there. stirs: it stood still until a moment ago."""

    listing: Listing | None = None
    stirs: bool = False


class _Pulse(Struct, eq=False):
    """of: its file. beats: as they were last, since when."""

    of: Reading
    beats: int
    since: float
    felt_at: float
    stood_s: float = 0.0  # how long it has stood still, at most, since it is felt
    greeted_at: float | None = None
    asked: socket.socket | None = None

    def close(self) -> None:
        self.of.close()
        if self.asked is not None:
            self.asked.close()


class Pulses:
    """On the network thread. Nothing here waits."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._pulses: dict[int, _Pulse] = {}

    def feel(self, instance: int, now: float) -> None:
        """Of one that is lost: at once, and each second or so from then on."""
        for old in [each for each, pulse in self._pulses.items() if now - pulse.felt_at >= KEPT_S]:
            self.forget(old)
        pulse = self._pulses.get(instance)
        if pulse is None and len(self._pulses) < MOST:
            pulse = self._begin(instance, now)
        if pulse is not None:
            self._touch(pulse, instance, now)

    def _begin(self, instance: int, now: float) -> _Pulse | None:
        try:
            of = Reading(self._directory.lying_path(instance))
        except OSError:
            return None
        beats = of.beats()
        if beats is None:
            of.close()
            return None
        pulse = self._pulses[instance] = _Pulse(of, beats, now, now)
        return pulse

    def _touch(self, pulse: _Pulse, instance: int, now: float) -> None:
        beats = pulse.of.beats()
        if beats != pulse.beats and beats is not None:
            pulse.stood_s = max(pulse.stood_s, pulse.felt_at - pulse.since)
            pulse.beats, pulse.since = beats, now
        pulse.felt_at = now
        self._ask(pulse, instance, now)

    def _ask(self, pulse: _Pulse, instance: int, now: float) -> None:
        """Takes the greeting of its socket, and asks for the next."""
        if pulse.asked is not None:
            try:
                said = pulse.asked.recv(64)
            except BlockingIOError:
                return  # it has not greeted us: it is not asked twice
            except OSError:
                said = b""
            pulse.asked.close()
            pulse.asked = None
            if said:
                pulse.greeted_at = now
        path = self._directory.socket_of(instance)
        if path is None:
            return
        try:
            asked = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        except OSError:
            return  # no descriptors are left
        asked.setblocking(False)
        try:
            asked.connect(str(path))
        except OSError:  # not there, or too many wait before us
            asked.close()
        else:
            pulse.asked = asked

    def look(self, instance: int, now: float) -> Looked:
        """Of one that has been lost for the grace."""
        pulse = self._pulses.get(instance)
        if pulse is None:
            return Looked()
        self._touch(pulse, instance, now)
        if now - pulse.since < STILL_S:
            return Looked(stirs=pulse.stood_s >= STILL_S)
        if pulse.greeted_at is None or now - pulse.greeted_at > FRESH_S:
            return Looked()
        return Looked(pulse.of.listing())

    def forget(self, instance: int) -> None:
        pulse = self._pulses.pop(instance, None)
        if pulse is not None:
            with suppress(OSError):
                pulse.close()

    def close(self) -> None:
        for instance in list(self._pulses):
            self.forget(instance)

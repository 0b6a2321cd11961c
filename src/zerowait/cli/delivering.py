"""What `zerowait outbox deliver` does: whoever has the outboxes of a name open goes on, and what nobody has is
delivered from here."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter

from msgspec import Struct, field

from zerowait.cli.output import OK, PARTIAL, UNAVAILABLE, colours, tell, tell_silent
from zerowait.cli.reach import LOOK_S, TAKEN_OVER_S, Reach, silent_of
from zerowait.names import process_name
from zerowait.words import plural


class _Seen(Struct):
    """What the outboxes of a name hold. channels: channel → messages in those that nobody has open; letters: dead ones;
    files: their ids. by: process → messages. silent: outboxes that cannot be read, or whose processes do not answer,
    and why."""

    channels: Counter[str] = field(default_factory=Counter[str])
    letters: int = 0
    files: set[int] = set()
    by: dict[str, int] = {}
    silent: dict[str, str] = {}

    @property
    def waiting(self) -> int:
        return self.channels.total()


def deliver(reach: Reach, name: str, timeout: float) -> int:
    """Gives the exit code. timeout: seconds for delivering, once it is known what there is."""
    seen = _look(reach, name)
    tell_silent(seen.silent)
    _tell_owners(name, seen)
    code = UNAVAILABLE if seen.silent else OK
    if seen.files:
        code = max(code, _deliver(reach, name, timeout, seen))
    elif not seen.by and not seen.silent:
        _tell_none(name, seen)
    return code


def _tell_none(name: str, seen: _Seen) -> None:
    letters = ": only dead letters are there (zerowait dead list)" if seen.letters else " any more"
    tell(f"No message of {name} waits{letters}.")


def _tell_owners(name: str, seen: _Seen) -> None:
    for who, held in seen.by.items():
        tell(f"{who} has {plural(held, 'message')} of {name} and goes on delivering {'it' if held == 1 else 'them'}.")


def _look(reach: Reach, name: str) -> _Seen:
    found = reach.status_of_all(name)
    mine = [box for box in found.boxes if box.name == name]
    seen = _Seen(letters=sum(each.dead for box in mine for each in box.channels))
    seen.files = {int(box.id, 16) for box in mine}
    for each in (each for box in mine for each in box.channels):
        seen.channels[each.channel] += each.unsettled
    for status in found.statuses:
        if held := sum(box.unsettled for box in status.boxes if box.name == name and box.id):
            seen.by[process_name(status.name, status.pid)] = held
    if found.untold:  # it is with one of those that did not answer
        why = f"somebody has it open, and did not say within {TAKEN_OVER_S:g} s what is in it. Try again"
        seen.silent = {**{f"outbox {file.path.name}": why for file in found.untold}, **found.silent}
    else:
        seen.silent = silent_of(found, reach.files(name))
    return seen


def _deliver(reach: Reach, name: str, timeout: float, seen: _Seen) -> int:
    """Opens a client of that name, which takes over what its namesakes have left, until nothing is left to deliver."""
    from zerowait import log
    from zerowait.client import Client

    if seen.waiting:
        tell(f"{plural(seen.waiting, 'message')} of {name} to deliver …")
    else:  # what handlers have sent may still lie there, and wait for a word that only who has the file open gets
        _tell_none(name, seen)
    log.configure("warning", "text", coloured=colours(sys.stderr))
    began = time.monotonic()
    with Client(name, settings=reach.settings) as client:
        while time.monotonic() < began + timeout:
            boxes = client.status().boxes
            missing = {file.id for file in reach.files(name) if file.id in seen.files} - {
                int(box.id, 16)
                for box in boxes
                if box.id  # none: not open yet
            }
            # One that is missing for longer has been taken over by another process, which delivers it.
            if not any(box.unsettled for box in boxes) and (not missing or time.monotonic() > began + TAKEN_OVER_S):
                break
            time.sleep(LOOK_S)
        served = {channel for channel in seen.channels if client.workers(channel)}
        # What stays is said below. The client would say so too, and advise the very command that has just been tried.
        peers = logging.getLogger("zerowait.peers")
        level = peers.level
        peers.setLevel(logging.ERROR)
        try:
            client.close(0).result()
        finally:
            peers.setLevel(level)
    after = _look(reach, name)
    elsewhere = {who: held - seen.by.get(who, 0) for who, held in after.by.items()}
    taken = {who: held for who, held in elsewhere.items() if held > 0}
    left, gone = after.waiting, sum(taken.values())
    tell_silent({who: why for who, why in after.silent.items() if who not in seen.silent})
    if seen.waiting or left:
        tell(f"{max(0, seen.waiting - left - gone):,} delivered, {left:,} left")
    _tell_owners(name, _Seen(by=taken))
    if unserved := sorted(channel for channel, held in after.channels.items() if held and channel not in served):
        tell(f"Nobody serves {', '.join(unserved)}: what is left waits, safe, until somebody does.")
    if after.silent:
        return UNAVAILABLE
    return OK if not left else PARTIAL if left < seen.waiting else UNAVAILABLE

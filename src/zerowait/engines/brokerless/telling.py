"""What happens among processes, told to people: a line in the log, and a notice for programs that listen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from math import inf
from pathlib import Path
from typing import Any, cast

from msgspec import Struct, msgpack
from msgspec.structs import replace

from zerowait import notices
from zerowait.callbacks import Callbacks
from zerowait.engines.brokerless.protocol.effects import WE_LEAVE, Say
from zerowait.message import Bury
from zerowait.names import message_id
from zerowait.outbox.attempt import Notice as OutboxNotice

log = logging.getLogger("zerowait.peers")

LISTED = 10  # names in a line
REFUSALS_MOST = 256  # different words that are counted apart: they are the other end's
WORDS_MOST = 200
LEFT = ("it left", "left", "it had to leave")  # said goodbye: "has left" follows
IN_ORDER = (*LEFT, WE_LEAVE)  # so a connection ends that is not lost


class Stays(Struct, frozen=True, kw_only=True):
    """What stays of a channel in an outbox when its process leaves: so many messages. Of these handled: workers have
    them. later: not due yet, the first of them in due_in_s. The rest waits. earlier: of all, accepted before this life;
    later_earlier: of these not due yet. served: somebody may take them. unfit: who serves the channel and
    expects another type, by name. unmet: who serves it, and there is no connection. tried: its addresses, and what is
    wrong there, in words."""

    messages: int = 0
    handled: int = 0
    later: int = 0
    due_in_s: float = inf
    earlier: int = 0
    later_earlier: int = 0
    served: bool = False
    unfit: tuple[str, ...] = ()
    unmet: tuple[str, ...] = ()
    tried: str = ""

    def and_(self, *, handled: int, later: int, due_in_s: float, earlier: int, later_earlier: int) -> Stays:
        return replace(
            self,
            handled=self.handled + handled,
            later=self.later + later,
            due_in_s=min(self.due_in_s, due_in_s),
            earlier=self.earlier + earlier,
            later_earlier=self.later_earlier + later_earlier,
        )

    def of(self, messages: int) -> Stays:
        """The same when so many have stayed in the end: some may have ended since it was looked."""
        handled = min(self.handled, messages)
        return replace(
            self,
            messages=messages,
            handled=handled,
            later=min(self.later, messages - handled),
            earlier=min(self.earlier, messages),
        )

    def new(self) -> Stays:
        """Those that this life has accepted. Who has most of a channel has the oldest, so those are not among them."""
        messages = self.messages - self.earlier
        handled = min(messages, max(0, self.handled - self.earlier + self.later_earlier))
        later = min(messages - handled, max(0, self.later - self.later_earlier))
        return replace(self, messages=messages, handled=handled, later=later, earlier=0, later_earlier=0)

    @property
    def waiting(self) -> int:
        return self.messages - self.handled - self.later

    def due(self) -> str:
        """When the first of those is due that are not yet, for people."""
        at = datetime.now(UTC).astimezone() + timedelta(seconds=min(self.due_in_s, 1e9))
        return at.strftime("%H:%M:%S" if self.due_in_s < 43_200 else "%Y-%m-%d %H:%M")

    def awaited(self) -> str:
        """Whom they wait for, where there is somebody."""
        if self.served:
            return "for a free worker"
        if not self.unfit:
            return f"for {', '.join(self.unmet[:LISTED])}, with which there is no connection"
        names = ", ".join(self.unfit[:LISTED])
        return f"for a worker of their type, {names} {'expects' if len(self.unfit) == 1 else 'expect'} another"

    @property
    def is_served(self) -> bool:
        """Whether there is somebody, be he busy, not met yet, or of another type."""
        return bool(self.served or self.unfit or self.unmet)

    def in_words(self) -> str:
        tried = f" ({self.tried})" if self.tried else ""
        wait = f"wait {self.awaited()}" if self.is_served else f"that nobody takes{tried}"
        parts = [
            (self.handled, "being handled"),
            (self.later, f"not due before {self.due()}"),
            (self.waiting, wait),
        ]
        said = [(count, words) for count, words in parts if count]
        if self.waiting == self.messages and not self.is_served:
            return f"nobody takes {'it' if self.messages == 1 else 'them'}{tried}"
        if len(said) == 1:
            return said[0][1]
        return ", ".join(f"{count} {words}" for count, words in said)


class Telling:
    def __init__(self, name: str, callbacks: Callbacks) -> None:
        self._name = name
        self._callbacks = callbacks
        self._listeners: dict[object, tuple[type[Any], Callable[[Any], object]]] = {}
        self._refused: dict[str, int] = {}
        self._broken_at: dict[str, float] = {}  # path → since when

    def listen(self, kind: type[Any], fn: Callable[[Any], object]) -> Callable[[], None]:
        name = object()
        self._listeners[name] = kind, fn

        def stop() -> None:
            self._listeners.pop(name, None)

        return stop

    def notice(self, notice: notices.Notice) -> None:
        for kind, fn in list(self._listeners.values()):
            if isinstance(notice, kind):
                self._callbacks.call(lambda fn=fn: fn(notice))  # type: ignore[misc]

    def say(self, said: Say, peer: str) -> None:
        """peer: the process that it is about, as `process_name` calls it."""
        name, instance = peer.partition(" ")[0], f"{said.instance:016x}"  # no name has a space (`check_process`)
        match said.topic:
            case "met":
                log.debug("connected to %s", peer)
                self.notice(notices.PeerUp(name=name, instance=instance, channels=said.channels, process=peer))
            case "lost" if said.words in IN_ORDER:
                log.debug("the connection to %s is closed: %s", peer, said.words)
            case "lost":
                log.info(
                    "the connection to %s is lost (%s); what it holds is kept for it", peer, said.words or "closed"
                )
            case "dead":
                self._ended(said, f"{peer} has died", "at once")
                self._gone(said, peer, name, instance, "died")
            case "gone":
                self._ended(said, f"{peer} is gone ({said.words})")
                self._gone(said, peer, name, instance, "silent")
            case "left":
                log.info("%s has left", peer)
                self._gone(said, peer, name, instance, "said goodbye")
            case "stuck":
                log.warning("%s: %s", peer, said.words)
                self.notice(notices.PeerStuck(name=name, instance=instance, seconds=said.seconds, process=peer))
            case "unstuck":
                log.info("%s: %s", peer, said.words)
            case "mismatch":
                self._mismatched(said, peer, name, instance)
            case "misfit":
                log.warning(
                    "%s publishes %s as %s, and here it is expected as %s: %s. What cannot be read is counted as "
                    "missed",
                    peer,
                    said.channel,
                    *said.types,
                    said.words,
                )
            case "unsent":
                # Why they waited is not known here: they came fast, or it has not waited for those who take them.
                log.warning(
                    "%s has left, and %s. A longer `drain` there, a larger queue= here, or taking them quicker, misses "
                    "fewer",
                    peer,
                    said.words,
                )
            case "gap":
                log.warning("events of %s on %s may be missing: %s", peer, said.channel, said.words)
            case "kind":
                log.warning(
                    "%s serves %s as a %s channel, and this process uses it as another kind: what was pushed waits "
                    "here, safe, and no more is taken. Give one of the two channels another name",
                    peer,
                    said.channel,
                    said.words,
                )
            case "shared":
                log.warning(
                    "channel %s is served by %s: each message goes to one of them. If each is to have all of them, "
                    "push to a channel for each: pull shares messages out",
                    said.channel,
                    said.words,
                )
            case "refused" | "refused by":
                self._refuse(said, peer)
            case "undecided":
                log.warning("%s", said.words)
            case "fenced":
                log.error(
                    "%s; this process sends nothing of it any more, and what its receipts await is not known",
                    said.words,
                )
            case _:
                log.debug("%s: %s %s", peer, said.topic, said.words)

    def _ended(self, said: Say, end: str, when: str = "") -> None:
        """Who has nothing at that process is told, and not warned. when: what it had is given to others."""
        if said.messages:
            log.warning("%s", f"{end}; what it had begun is given to others {when}".rstrip())
        else:
            log.info("%s", end)

    def _gone(self, said: Say, peer: str, name: str, instance: str, how: str) -> None:
        self.notice(notices.PeerGone(name=name, instance=instance, how=how, returned=said.messages, process=peer))

    def _mismatched(self, said: Say, peer: str, name: str, instance: str) -> None:
        sent, expected = said.types
        notice = notices.Mismatched(
            channel=said.channel,
            name=name,
            instance=instance,
            sent=sent,
            expected=expected,
            difference=said.words,
            process=peer,
        )
        log.warning("%s", notice.sentence)
        self.notice(notice)

    def outbox(self, notice: OutboxNotice, path: Path | None) -> None:
        """From an outbox: it failed, it is back, something in it was damaged or dropped. path: None in memory."""
        where = str(path or "")
        match notice.kind:
            case "failed":
                log.error("%s", notice.text)
                self._broken_at[where] = time.monotonic()
                self.notice(notices.StoreBroken(path=where, reason=notice.reason))
            case "mended":
                log.warning("%s", notice.text)
                now = time.monotonic()
                self.notice(notices.StoreMended(path=where, seconds=now - self._broken_at.pop(where, now)))
            case _:
                log.warning("%s", notice.text)

    def dead_lettered(self, box: int, change: Bury) -> None:
        if any(issubclass(notices.DeadLettered, kind) for kind, _ in list(self._listeners.values())):
            said = _said(change.note)
            self.notice(
                notices.DeadLettered(
                    channel=change.channel,
                    id=message_id(box, change.epoch, change.number),
                    reason=str(said.get("reason", "")),
                    rule=str(said.get("rule", "")),
                    attempts=change.failures,
                    worker=str(said.get("worker", "")),
                )
            )

    def _refuse(self, said: Say, peer: str) -> None:
        words = said.words[:WORDS_MOST]
        if words not in self._refused and len(self._refused) >= REFUSALS_MOST - 1:
            words = ""  # all others together
        count = self._refused[words] = self._refused.get(words, 0) + 1
        if count & (count - 1) == 0:  # 1, 2, 4, 8 …: a stranger who tries for ever does not fill the log
            who = "the other end refused" if said.topic == "refused by" else "refused"
            log.warning("a connection with %s was ended, %s: %s (%d times)", peer, who, said.words, count)
            if said.topic == "refused":
                self.refused(peer, said.words)

    def refused(self, peer: str, reason: str) -> None:
        self.notice(notices.Refused(peer=peer, reason=reason))

    def lonely(
        self, channel: str, waiting: int, served: Sequence[str], troubles: Mapping[str, str], silent: str = ""
    ) -> None:
        """Nobody serves it, and so many messages wait. served: channels that have workers, here or by links or the
        directory. troubles: the addresses that settings name for it, each with what is wrong there, "" if nothing is
        known. silent: who serves it and does not answer, in words."""
        others = _nearest_first(channel, served)
        if silent:
            log.warning("messages of channel %s wait here, safe: %s", channel, silent)
        else:
            known = self.served_in_words(channel, served, troubles)
            log.warning("nobody serves channel %s: its messages wait here, safe.%s", channel, known)
        self.notice(notices.Unserved(channel=channel, waiting=waiting, served=tuple(others), silent=silent))

    @staticmethod
    def served_in_words(channel: str, served: Sequence[str], troubles: Mapping[str, str]) -> str:
        """What is served in place of this channel, the nearest name first, and how its addresses are: sentences that
        follow another."""
        near = get_close_matches(channel, sorted(set(served) - {channel}), 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        others = _nearest_first(channel, served)
        shown = others[:LISTED]
        more = f", and {len(others) - len(shown)} more" if len(others) > len(shown) else ""
        known = f" Served are: {', '.join(shown)}{more}." if shown else " No channel has a worker that is known here."
        tried = f" Its addresses: {addresses_in_words(troubles)}." if troubles else ""
        return hint + known + tried

    def left(self, left: Mapping[tuple[str, str, bool], Stays], folder: Path | None, plain: dict[str, int]) -> None:
        """Leaving is loud: what stays and why, where, and who will deliver it. left: (name of the outbox, channel,
        durable) → messages; one that was taken over has another's name."""
        stays: dict[str, dict[str, int]] = {}
        why = {(name, channel): each.in_words() for (name, channel, durable), each in left.items() if durable}
        lost = {channel: count for channel, count in plain.items() if count}
        for (name, channel, durable), each in left.items():
            if count := each.messages:
                counts = stays.setdefault(name, {}) if durable else lost
                counts[channel] = counts.get(channel, 0) + count
        for name, counts in sorted(stays.items()):
            they, them = ("It", "it") if sum(counts.values()) == 1 else ("They", "them")
            log.warning(
                "%s leaves %s undelivered in %s%s. %s will be delivered by the next process named %s, by any zerowait "
                "process of this user on this machine that reaches a worker for %s, or by "
                "`zerowait outbox deliver %s`",
                self._name, _in_words(counts, {each: why[name, each] for each in counts}),
                "" if name == self._name else f"the outbox of {name} in ",
                folder, they, name, them, name,
            )  # fmt: skip
        if lost:
            one = sum(lost.values()) == 1
            log.warning(
                "%s ends with %s that lay only in memory: %s lost", self._name, _in_words(lost),
                "it is" if one else "they are",
            )  # fmt: skip

    def unstored(self, counts: dict[str, int]) -> None:
        """What was accepted before it was known that the outbox could not be opened."""
        if counts:
            log.error(
                "%s ends with %s in no outbox, for it could not be opened: %s lost", self._name, _in_words(counts),
                "it is" if sum(counts.values()) == 1 else "they are",
            )  # fmt: skip


def addresses_in_words(troubles: Mapping[str, str]) -> str:
    """Addresses that settings name, each with what is wrong there."""
    return "; ".join(
        (words if words.startswith(address) else f"{address}: {words}") if words else f"{address}: no answer yet"
        for address, words in list(troubles.items())[:LISTED]
    )


def _nearest_first(channel: str, served: Sequence[str]) -> list[str]:
    others = sorted(set(served) - {channel})
    near = get_close_matches(channel, others, 1)
    return near + [name for name in others if name not in near]


def _said(note: bytes) -> dict[str, Any]:
    try:
        said: object = msgpack.decode(note) if note else {}
    except ValueError:
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _in_words(counts: dict[str, int], why: Mapping[str, str] | None = None) -> str:
    total = sum(counts.values())
    each = (", " if why is None else "; ").join(
        f"{count} for {channel}" + (f": {why[channel]}" if why is not None else "")
        for channel, count in sorted(counts.items())
    )
    return f"{total} message{'' if total == 1 else 's'} ({each})"

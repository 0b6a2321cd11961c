"""What happens among processes, told to people: a line in the log, and a notice for programs that listen."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast

from msgspec import msgpack

from zerowait import notices
from zerowait.engines.brokerless.protocol.effects import Say
from zerowait.message import Bury
from zerowait.outbox.attempt import Notice as OutboxNotice
from zerowait.pending import Callbacks, base36

log = logging.getLogger("zerowait.peers")


class Telling:
    def __init__(self, name: str, callbacks: Callbacks) -> None:
        self._name = name
        self._callbacks = callbacks
        self._listeners: list[tuple[type[Any], Callable[[Any], object]]] = []
        self._refused: dict[str, int] = {}
        self._broken_at = time.monotonic()

    def listen(self, kind: type[Any], fn: Callable[[Any], object]) -> Callable[[], None]:
        entry = (kind, fn)
        self._listeners.append(entry)

        def stop() -> None:
            if entry in self._listeners:
                self._listeners.remove(entry)

        return stop

    def notice(self, notice: notices.Notice) -> None:
        for kind, fn in list(self._listeners):
            if isinstance(notice, kind):
                self._callbacks.call(lambda fn=fn: fn(notice))  # type: ignore[misc]

    def say(self, said: Say, peer: str) -> None:
        """peer: name and pid of the process that it is about."""
        name, instance = peer.split(" ", 1)[0], f"{said.instance:016x}"
        match said.topic:
            case "met":
                log.debug("connected to %s", peer)
                self.notice(notices.PeerUp(name=name, instance=instance))
            case "lost":
                log.info(
                    "the connection to %s is lost (%s); what it holds is kept for it", peer, said.words or "closed"
                )
            case "dead":
                log.warning("%s has died; what it had begun is given to others at once", peer)
                self.notice(notices.PeerGone(name=name, instance=instance, how="died"))
            case "gone":
                log.warning("%s is gone (%s); what it had begun is given to others", peer, said.words)
                self.notice(notices.PeerGone(name=name, instance=instance, how="silent"))
            case "left":
                log.info("%s has left", peer)
                self.notice(notices.PeerGone(name=name, instance=instance, how="said goodbye"))
            case "stuck":
                log.warning("%s: %s", peer, said.words)
            case "unstuck":
                log.info("%s: %s", peer, said.words)
            case "lonely":
                self._lonely(said.channel, peer)
            case "refused" | "refused by":
                self._refuse(said, peer)
            case "fenced":
                log.error(
                    "%s; this process sends nothing of it any more, and what its receipts await is not known",
                    said.words,
                )
            case _:
                log.debug("%s: %s %s", peer, said.topic, said.words)

    def outbox(self, notice: OutboxNotice) -> None:
        """From an outbox: it failed, it is back, something in it was damaged or dropped."""
        match notice.kind:
            case "failed":
                log.error("%s", notice.text)
                self._broken_at = time.monotonic()
                self.notice(notices.StoreBroken(path="", reason=notice.text))
            case "reopened":
                log.warning("%s", notice.text)
                self.notice(notices.StoreMended(path="", seconds=time.monotonic() - self._broken_at))
            case _:
                log.warning("%s", notice.text)

    def dead_lettered(self, box: int, change: Bury) -> None:
        if any(issubclass(notices.DeadLettered, kind) for kind, _ in self._listeners):
            said = _said(change.note)
            self.notice(
                notices.DeadLettered(
                    channel=change.channel,
                    id=f"{box:016x}-{base36(change.epoch)}-{change.number}",
                    reason=str(said.get("reason", "")),
                    rule=str(said.get("rule", "")),
                    attempts=change.failures,
                    worker=str(said.get("worker", "")),
                )
            )

    def _refuse(self, said: Say, peer: str) -> None:
        count = self._refused[said.words] = self._refused.get(said.words, 0) + 1
        if count & (count - 1) == 0:  # 1, 2, 4, 8 …: a stranger who tries for ever does not fill the log
            who = "the other end refused" if said.topic == "refused by" else "refused"
            log.warning("a connection with %s was ended, %s: %s (%d times)", peer, who, said.words, count)

    def _lonely(self, channel: str, served: str) -> None:
        names = served.split(", ") if served else []
        near = get_close_matches(channel, names, 1)
        hint = f" Did you mean {near[0]}?" if near else ""
        known = (
            f"Served are: {', '.join(near + [n for n in names if n not in near][:10])}."
            if names
            else "Nobody is there at all."
        )
        log.warning("nobody serves channel %s: its messages wait here, safe. %s%s", channel, known, hint)

    def left(self, left: dict[tuple[str, bool], int], folder: Path | None, plain: dict[str, int]) -> None:
        """Leaving is loud: what stays, where, and who will deliver it."""
        stays = {channel: count for (channel, durable), count in left.items() if durable and count}
        lost = {channel: count for (channel, durable), count in left.items() if not durable and count}
        for channel, count in plain.items():
            if count:
                lost[channel] = lost.get(channel, 0) + count
        if stays:
            log.warning(
                "%s leaves %s undelivered in %s. They will be delivered by the next process named %s, by any zerowait "
                "process of this user on this machine that reaches a worker for them, or by "
                "`zerowait outbox deliver %s`",
                self._name, _in_words(stays), folder, self._name, self._name,
            )  # fmt: skip
        if lost:
            log.warning("%s ends with %s that lay only in memory: they are lost", self._name, _in_words(lost))


def _said(note: bytes) -> dict[str, Any]:
    try:
        said: object = msgpack.decode(note) if note else {}
    except ValueError:
        return {}
    return cast("dict[str, Any]", said) if isinstance(said, dict) else {}


def _in_words(counts: dict[str, int]) -> str:
    total = sum(counts.values())
    each = ", ".join(f"{count} for {channel}" for channel, count in sorted(counts.items()))
    return f"{total} message{'' if total == 1 else 's'} ({each})"

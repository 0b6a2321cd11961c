"""What may be called what: the rules for the names of channels, apps and clients; and what messages and processes are
called for people."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from zerowait.errors import UsageError

CHANNEL_BYTES = 200
KEY_BYTES = 200

_CHANNEL = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_PATTERN = re.compile(r"([A-Za-z0-9_-]+|\*)(\.([A-Za-z0-9_-]+|\*))*(\.>)?|>")
_MESSAGE = re.compile(r"[0-9a-f]{16}-[0-9a-z]+-[0-9]+")
_PROCESS = re.compile(r"[A-Za-z0-9_-]{1,64}")


def exact(text: str) -> str:
    """The same text, of no class of its own: what is encoded, and compared by its type, is text and nothing else."""
    return str.__str__(text)


def check_channel(name: object) -> str:
    """Gives the name back if a channel may be called so: dotted words of `[A-Za-z0-9_-]`, at most 200 bytes.

    Raises UsageError that says what to write instead.
    """
    if not isinstance(name, str):
        raise UsageError(f'A channel\'s name is a string, as in PushChannel[int]("numbers"), not {name!r}.')
    if _CHANNEL.fullmatch(name) is None:
        wild = " Only topics may hold * and >." if "*" in name or ">" in name else ""
        raise UsageError(
            f"{name!r} cannot be the name of a channel: write words of letters, digits, _ and -, "
            f'with dots between them, as in "mail.parse".{wild}'
        )
    if len(name) > CHANNEL_BYTES:
        raise UsageError(f"The channel name {name[:40]!r}… is {len(name)} bytes long: at most {CHANNEL_BYTES}.")
    return exact(name)


def check_topic(name: object) -> str:
    """The same for a topic, whose name may also hold `*` for one word, and end in `>` for the rest."""
    if isinstance(name, str) and is_pattern(name):
        return exact(name)
    if isinstance(name, str) and ("*" in name or ">" in name) and len(name) <= CHANNEL_BYTES:
        raise UsageError(
            f"{name!r} cannot be the name of a topic: `*` stands for one whole word and `>` for all that follow it, at "
            'the end, as in "mail.flagged.*" or "mail.>".'
        )
    return check_channel(name)


def is_pattern(name: str) -> bool:
    """Whether this may stand for several channels: words, `*` for any one word, `>` at the end for the rest."""
    return _PATTERN.fullmatch(name) is not None and len(name) <= CHANNEL_BYTES


def check_process(name: object, owner: str) -> str:
    """Gives the name back if an app, a client or a namespace may be called so: `[A-Za-z0-9_-]{1,64}`."""
    if not isinstance(name, str) or _PROCESS.fullmatch(name) is None:
        raise UsageError(
            f"{name!r} cannot be the name of {owner}: 1 to 64 letters, digits, _ and - (files are called after it)."
        )
    return exact(name)


def nearest(name: str, known: list[str]) -> str | None:
    """The known name that was probably meant, if one is near enough."""
    from difflib import get_close_matches  # only mistakes pay for it

    found = get_close_matches(name, known, 1, 0.6)
    return found[0] if found else None


def process_name(name: str, pid: int, where: str = "") -> str:
    """A process's name for people. where: its address, if it is on another machine."""
    return f"{name} (pid {pid}{f' at {where}' if where else ''})"


def message_id(box: int, epoch: int, number: int) -> str:
    """A message's name for people: `<outbox>-<epoch>-<number>`, in hexadecimal, base 36 and decimal."""
    return f"{box:016x}-{_base36(epoch)}-{number}"


def is_message_id(text: str) -> bool:
    """Whether it has all parts of one."""
    return _MESSAGE.fullmatch(text) is not None


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


def checked_key(key: object) -> bytes:
    """As it lies in the outbox. Raises UsageError."""
    if isinstance(key, str):
        try:
            encoded = key.encode()
        except UnicodeEncodeError:  # half a character
            encoded = b""
        if 0 < len(encoded) <= KEY_BYTES:
            return encoded
    raise UsageError(
        f"key= is a text of 1 to {KEY_BYTES} bytes, whose messages are handled one after another, not {key!r:.80}: "
        "nothing was taken."
    )


def new_id() -> int:
    """A number of 64 bits, not 0, that nobody else has: of an instance, an outbox."""
    return int.from_bytes(_draw(8), "big") or 1


# `os.urandom` and all that stands on it give the interpreter up, which beside busy threads comes back after 5 ms for
# each of them; this asks the same source and does not. macOS has only the former.
_draw: Callable[[int], bytes] = getattr(os, "getrandom", os.urandom)

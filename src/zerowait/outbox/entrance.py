"""What a call of `push` means: which channel and outbox, encoded how, due when. Raises the caller's mistakes, and then
took nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from math import inf
from typing import Any

from msgspec import Struct

from zerowait.channels import LONGEST_S, Channel, Terms
from zerowait.codec import Codec
from zerowait.errors import TooLarge, UsageError
from zerowait.names import check_channel, checked_key, exact
from zerowait.outbox.intake import Intake
from zerowait.outbox.lane import Lane
from zerowait.outbox.plaincodec import plain_encoder
from zerowait.outbox.sheaf import Sheaf
from zerowait.plain import Plain
from zerowait.settings import Settings

PRIORITIES = {"low": -1, "normal": 0, "high": 1}
ID_BYTES = 200
REMEMBERED = 4_096  # channels whose way and lanes are kept; a program that makes up names would keep them for ever
OPTIONS = frozenset({"durable", "ttl", "delay", "at", "key", "id", "priority", "headers"})


class Way(Struct):
    """Where a channel's messages go, by its declaration and the settings."""

    name: str
    codec: Codec[Any]
    durable: bool
    ttl: float | None
    plain: Plain | None
    encode: Callable[[Any], bytes]
    terms: Terms | None  # as declared; None: pushed to by name only


class Ready(Struct):
    """An encoded message with its options: what a handler sends, until it has succeeded."""

    lane: Lane
    payload: bytes
    options: dict[str, Any]


class Entrance:
    """intake: the outbox for durable (True) or memory (False). plain: the way out to a bare socket. short: the client's
    lanes for the short way, which this fills. want: told of each channel that is pushed to. declare: told of the type
    of what goes there, before the first of it is taken. headers: of the client, under those of the call. other_kind:
    if a peer serves that channel as another kind than push, the kind and who."""

    def __init__(
        self,
        settings: Settings,
        *,
        intake: Callable[[bool], Intake],
        plain: Callable[[str, Plain], Intake],
        short: dict[Any, Lane],
        want: Callable[[str], None],
        declare: Callable[[str, Codec[Any]], None],
        headers: Callable[[], Mapping[str, str]] | None = None,
        other_kind: Callable[[str], tuple[str, str] | None] = lambda channel: None,
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._plain = plain
        self._short = short
        self._want = want
        self._declare = declare
        self._headers = headers
        self._other_kind = other_kind
        self._ways: dict[Any, Way] = {}
        self._lanes: dict[tuple[Any, bool], Lane] = {}

    def accept(self, to: Any, value: Any, options: Mapping[str, Any]) -> tuple[Sheaf, int]:
        """Takes the message, or raises and has taken nothing."""
        ready = self.prepare(to, value, options)
        return ready.lane.append(ready.payload, **ready.options)

    def prepare(self, to: Any, value: Any, options: Mapping[str, Any]) -> Ready:
        """Checks and encodes, takes nothing."""
        way = self._ways.get(to) if isinstance(to, (str, Channel)) else None
        if way is None:
            if len(self._ways) >= REMEMBERED:
                self._forget_older_half()
            way = self._ways[to] = self._way(to)
        elif way.terms is not None and isinstance(to, Channel) and to.terms is not way.terms:
            compare_terms(to, way.terms, "pushed to")
        if (other := self._other_kind(way.name)) is not None:
            raise UsageError(
                f"push() sends to push channels, and {way.name} is served as a {other[0]} channel by {other[1]}: "
                "nothing was taken. Give one of the two another name."
            )
        durable = self._durable(way, options.get("durable"))
        way.codec.check(value, self._settings.check == "deep", way.name)
        payload = way.encode(value)
        if len(payload) > self._settings.message_bytes:
            raise TooLarge(size_bytes=len(payload), limit_bytes=self._settings.message_bytes, channel=way.name)
        lane = self._lane(to, way, durable, value)
        return Ready(lane, payload, self._options(way, lane, options))

    def short(self, to: Any) -> Lane | None:
        """The lane of a target that was sent to before, if what goes there may take the short way: then it has
        `exact`."""
        return self._short.get(to)

    def release(self, ready: Ready) -> tuple[Sheaf, int]:
        """A handler has succeeded: what it sends is taken even if the outbox is full."""
        return ready.lane.append(ready.payload, **ready.options, force=True)

    # -- which way -----------------------------------------------------------------------------------------------------

    def _way(self, to: Any) -> Way:
        if isinstance(to, str):
            name, terms = check_channel(to), None
            codec: Codec[Any] = Codec(Any)
        elif isinstance(to, Channel):
            if to.kind != "push":
                raise UsageError(f"push() sends to push channels, and {to!r} is of kind {to.kind}.")
            name, codec, terms = to.name, to.codec(), to.terms
        else:
            channel = getattr(to, "__zerowait_channel__", None)
            if channel is not None:
                raise UsageError(f"push() takes the channel, not the handler: push({channel!r}, …).")
            raise UsageError(f"push() takes a PushChannel or a channel's name first, not {to!r:.80}.")
        decided = self._settings.channel(name)
        said = terms.durable if terms is not None else None
        durable = (
            decided.durable if decided.durable is not None else said if said is not None else self._settings.durable
        )
        plain = decided.plain or (terms.plain if terms is not None else None)
        if plain is not None and (decided.durable or said):
            raise UsageError(f"{name} goes to bare ZeroMQ sockets, which acknowledge nothing: it cannot be durable.")
        encode = codec.encode if plain is None else plain_encoder(plain, codec)
        ttl = decided.ttl if decided.ttl is not None else terms.ttl if terms is not None else None
        if ttl is not None and ttl > LONGEST_S:
            where = "the settings of channel" if decided.ttl is not None else "channel"
            raise UsageError(
                f"ttl of {where} {name} is {ttl:g} seconds, more than 100 years: leave it away, and messages never "
                "expire."
            )
        return Way(name, codec, durable and plain is None, ttl, plain, encode, terms)

    def _forget_older_half(self) -> None:
        """Of the channels, by their first push. Nothing of their messages is lost with a lane: its intake knows its
        open sheaves. Who is still pushed to is remembered anew at the next push, which takes the careful way."""
        for to in list(self._ways)[: REMEMBERED // 2]:
            self._short.pop(to, None)
            for durable in (True, False):
                self._lanes.pop((to, durable), None)
            self._ways.pop(to, None)

    def _durable(self, way: Way, said: Any) -> bool:
        if said is None:
            return way.durable
        if not isinstance(said, bool):
            raise UsageError(f"durable= is True or False, not {said!r}.")
        if said and way.plain is not None:
            raise UsageError(
                f"{way.name} goes to a bare ZeroMQ socket, which acknowledges nothing: leave durable= away."
            )
        return said

    def _lane(self, to: Any, way: Way, durable: bool, value: Any) -> Lane:
        lane = self._lanes.get((to, durable))
        if lane is not None:
            return lane
        intake = self._intake(durable) if way.plain is None else self._plain(way.name, way.plain)
        exact = way.codec.exact
        if (
            way.terms is None
            and way.codec.encode_into is not None
            and not hasattr(value.__class__, "__pydantic_validator__")
        ):
            exact = value.__class__  # a name takes everything: whatever comes first has the short way
        if way.plain is not None:
            exact = None
        else:
            self._declare(way.name, way.codec)  # first: from the next line on other threads can push there
        lane = self._lanes[to, durable] = Lane(intake, way.name, exact, way.codec.encode_into, ttl=way.ttl)
        is_short = self._headers is None and self._settings.check == "type" and exact is not None
        if is_short and durable == way.durable:
            self._short[to] = lane
        self._want(way.name)
        return lane

    # -- options -------------------------------------------------------------------------------------------------------

    def _options(self, way: Way, lane: Lane, given: Mapping[str, Any]) -> dict[str, Any]:
        options: dict[str, Any] = {}
        headers = dict(self._headers()) if self._headers is not None else {}
        if given:
            for unknown in given.keys() - OPTIONS:
                raise UsageError(f"push() takes no {unknown}=: it takes {', '.join(sorted(OPTIONS))}.")
            if (key := given.get("key")) is not None:
                options["key"] = checked_key(key)
            if (name := given.get("id")) is not None:
                options["id"] = _checked_id(name)
            said: Any = given.get("headers")
            if said is not None and not hasattr(said, "items"):
                raise UsageError(f'headers= takes a mapping of text to text, as {{"trace": "1"}}, not {said!r:.80}.')
            headers.update(said or {})
            self._times(given, lane, options)
            priority = given.get("priority", "normal")
            if not isinstance(priority, str) or priority not in PRIORITIES:
                raise UsageError(f'priority= is "low", "normal" or "high", not {priority!r:.80}.')
            if priority != "normal":
                options["priority"] = PRIORITIES[priority]
        if headers:
            options["headers"] = checked_headers(headers, f"a message for {way.name}", self._settings.headers_bytes)
        if way.plain is not None and options:
            raise UsageError(f"{way.name} goes to a bare ZeroMQ socket, which knows no {', '.join(sorted(options))}.")
        return options

    def _times(self, given: Mapping[str, Any], lane: Lane, options: dict[str, Any]) -> None:
        delay, at, ttl = given.get("delay"), given.get("at"), given.get("ttl")
        if delay is not None and at is not None:
            raise UsageError("Say delay= or at=, not both.")
        now = lane.intake.now_us()
        due = now
        if delay is not None:
            due = options["due"] = now + int(_seconds("delay", delay, least=0.0) * 1e6)
        elif at is not None:
            if not isinstance(at, datetime) or at.tzinfo is None:
                raise UsageError(f"at= takes a datetime with its time zone, as datetime.now(UTC), not {at!r}.")
            moment = at.timestamp()
            if moment - now / 1e6 > LONGEST_S:
                raise UsageError(f"at= takes a moment within the next 100 years, not {at}.")
            due = options["due"] = max(now, int(moment * 1e6))
        if ttl is not None:
            options["expires"] = due + int(_seconds("ttl", ttl) * 1e6)


def checked_headers(headers: Mapping[str, str], of: str, limit_bytes: int) -> dict[str, str]:
    """As they are encoded. of: what they belong to, in words. Raises UsageError for what is no text, and TooLarge."""
    size = 0
    checked: dict[str, str] = {}
    for name, value in headers.items():
        if not all(isinstance(part, str) for part in (name, value)):
            raise UsageError(f"Headers are text: {name!r} is {value!r}.")
        try:
            size += len(name.encode()) + len(value.encode())
        except UnicodeEncodeError:
            raise UsageError(f"Headers are text, and {name!r}: {value!r} is none: it has half a character.") from None
        checked[exact(name)] = exact(value)
    if size > limit_bytes:
        raise TooLarge(
            f"The headers of {of} are {size} bytes, more than the {limit_bytes} allowed: nothing was taken. Put the "
            "data into what they belong to, or raise headers_bytes.",
            size_bytes=size,
            limit_bytes=limit_bytes,
        )
    return checked


def _checked_id(id: Any) -> str:
    if not isinstance(id, str) or not 0 < len(id.encode(errors="replace")) <= ID_BYTES or not id.isprintable():
        raise UsageError(f"id= is a text of 1 to {ID_BYTES} bytes by which you know the message, not {id!r:.80}.")
    return exact(id)


def compare_terms(to: Channel, first: Terms, where: str) -> None:
    """Equal channels go the same way, so that the terms of a second declaration would be passed over in silence."""
    known, said = _in_words(first), _in_words(to.terms)
    if known != said:
        raise UsageError(
            f"{to!r} is declared twice and not alike: with {known} where it was first {where}, and with {said} here. "
            "Nothing was taken. Declare it once, in a module that both import."
        )


def _in_words(terms: Terms) -> str:
    said = {name: getattr(terms, name) for name in terms.__struct_fields__ if name != "declared"}
    return (
        ", ".join(f"{name}={value!r}" for name, value in said.items() if value not in _UNSAID.get(name, (None,)))
        or "no terms"
    )


_UNSAID: dict[str, tuple[Any, ...]] = {
    "idempotent": (False,), "errors": ((),), "retain": (False,), "history": (0,), "reliable": (False,),
}  # fmt: skip


def _seconds(name: str, value: Any, least: float | None = None) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value < inf:
        raise UsageError(f"{name}= takes seconds as a number, not {value!r}.")
    if value < 0 or (least is None and value == 0):
        raise UsageError(f"{name}= takes seconds {'from 0 on' if least is not None else 'above 0'}, not {value!r}.")
    if value > LONGEST_S:  # moments are microseconds in 64 bits, in files and on the wire
        raise UsageError(f"{name}= takes seconds, 100 years of them at most, and this is more: nothing was taken.")
    return float(value)

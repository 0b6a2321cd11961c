"""What a call of `request` or `stream` means: which channel, typed how, by when. Raises the caller's mistakes, and then
took nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import inf
from typing import Any, cast

from msgspec import Struct, field

from zerowait.ambient import DEADLINE
from zerowait.channels import LONGEST_S, Channel, Terms, check_timeout
from zerowait.codec import Codec
from zerowait.errors import TooLarge, UsageError
from zerowait.failures import NO_ERRORS, Errors
from zerowait.names import check_channel, checked_key
from zerowait.outbox.entrance import checked_headers, compare_terms
from zerowait.outbox.intake import Intake
from zerowait.outbox.plaincodec import plain_encoder
from zerowait.plain import Plain, check_plain
from zerowait.requests.box import Requests
from zerowait.requests.bundle import AskLane, Bundle
from zerowait.settings import Settings

REMEMBERED = 4_096  # channels that are kept; a program that makes up names would keep them for ever
LANES = 64  # of a channel, one for each timeout
VERBS = {"request": "request()", "stream": "stream()", "push": "push()", "topic": "publish()"}
OPTIONS = {
    "request": frozenset({"timeout", "hedge", "key", "headers", "returns"}),
    "stream": frozenset({"timeout", "headers", "yields"}),
}
UNSAID: Any = object()


class Way(Struct):
    """How a channel is asked, by its declaration and the settings."""

    name: str
    codec: Codec[Any]
    out: Codec[Any]
    errors: Errors
    timeout: float | None
    idempotent: bool
    terms: Terms | None
    plain: Plain | None
    encode: Callable[[Any], bytes]
    lanes: dict[tuple[float | None, bool], AskLane] = field(default_factory=dict[tuple[float | None, bool], AskLane])


class Asking:
    """intake, requests: where requests gather. short: the client's lanes for the short way, which this fills. use: told
    of each channel that is asked at, with its kind, whether what is asked may run twice, and the type of what is
    asked. headers: of the client, under those of the call. other_kind: if a peer serves that channel as another kind
    than this one, its kind, and who. clock: of deadlines. plain: where requests for a bare socket gather, by channel,
    socket, what it answers, and whether it may be asked twice."""

    def __init__(
        self,
        settings: Settings,
        *,
        intake: Callable[[], Intake],
        requests: Callable[[], Requests],
        short: dict[Any, AskLane],
        use: Callable[[str, str, bool, Codec[Any]], None],
        headers: Callable[[], Mapping[str, str]] | None,
        other_kind: Callable[[str, str], tuple[str, str] | None],
        clock: Callable[[], float],
        plain: Callable[[str, Plain, Codec[Any], bool], Requests],
    ) -> None:
        self._settings = settings
        self._intake = intake
        self._requests = requests
        self._short = short
        self._use = use
        self._headers = headers
        self._other_kind = other_kind
        self._clock = clock
        self._plain = plain
        self._ways: dict[Any, Way] = {}

    def ask(self, kind: str, to: Any, value: Any, options: Mapping[str, Any]) -> tuple[Bundle, int]:
        """Takes the request, or raises and has taken nothing."""
        for name in options.keys() - OPTIONS[kind]:
            raise UsageError(f"{VERBS[kind]} takes no {name}=: it takes {', '.join(sorted(OPTIONS[kind]))}.")
        key = checked_key(said) if (said := options.get("key")) is not None else None
        if key is not None and options.get("hedge"):
            raise UsageError(
                "hedge=True asks two workers at once, and requests of one key run one after another: nothing was "
                "taken. Leave one of the two away."
            )
        way = self._way(kind, to, options)
        if way.plain is not None and (key is not None or options.get("headers") or options.get("hedge")):
            raise UsageError(f"{way.name} goes to a bare ZeroMQ socket, which knows neither headers, key nor hedge.")
        if way.plain is None and (other := self._other_kind(way.name, kind)) is not None:
            raise UsageError(
                f"{VERBS[kind]} asks at {kind} channels, and {way.name} is served as a {other[0]} channel by "
                f"{other[1]}: nothing was taken. Use {VERBS.get(other[0], 'another verb')}, or another name."
            )
        lane = self._lane(kind, to, way, options, value)
        expires = self._expires(lane)
        way.codec.check(value, self._settings.check == "deep", way.name)
        payload = way.encode(value)
        if len(payload) > self._settings.message_bytes:
            raise TooLarge(size_bytes=len(payload), limit_bytes=self._settings.message_bytes, channel=way.name)
        headers = dict(self._headers()) if self._headers is not None and way.plain is None else {}
        said = options.get("headers")
        if said is not None and not hasattr(said, "items"):
            raise UsageError(f'headers= takes a mapping of text to text, as {{"trace": "1"}}, not {said!r:.80}.')
        headers.update(said or {})
        if headers:
            headers = checked_headers(headers, f"a message for {way.name}", self._settings.headers_bytes)
        bundle, index = lane.append(payload, expires=expires, headers=headers or None, key=key)
        return cast("Bundle", bundle), index

    def _expires(self, lane: AskLane) -> int | None:
        """What is asked inside a handler gets at most what is left of the deadline of what that works on."""
        deadline = DEADLINE.get()
        if deadline is None:
            return None
        left = max(0.0, deadline - self._clock())
        if lane.ttl is not None and lane.ttl <= left:
            return None
        return lane.intake.now_us() + int(left * 1e6)

    # -- which way -----------------------------------------------------------------------------------------------------

    def _way(self, kind: str, to: Any, options: Mapping[str, Any]) -> Way:
        out = options.get("returns" if kind == "request" else "yields", UNSAID)
        name: Any = (kind, to, repr(out) if out is not UNSAID else UNSAID)
        way = self._ways.get(name) if isinstance(to, (str, Channel)) else None
        if way is None:
            if len(self._ways) >= REMEMBERED:
                self._ways.clear()
                self._short.clear()
            way = self._ways[name] = self._make_way(kind, to, out)
        elif way.terms is not None and isinstance(to, Channel) and to.terms is not way.terms:
            compare_terms(to, way.terms, "asked at")
        return way

    def _make_way(self, kind: str, to: Any, out: Any) -> Way:
        option = "returns" if kind == "request" else "yields"
        codec: Codec[Any]
        if isinstance(to, str):
            name, terms = check_channel(to), None
            codec = Codec(Any)
            answer: Codec[Any] = Codec(Any if out is UNSAID else out)
        elif isinstance(to, Channel):
            if to.kind != kind:
                use = VERBS.get(to.kind, "another verb")
                raise UsageError(
                    f"{VERBS[kind]} asks at {kind} channels, and {to!r} is of kind {to.kind}: use {use}, or make it a "
                    f"{'RequestChannel' if kind == 'request' else 'StreamChannel'}."
                )
            if out is not UNSAID:
                raise UsageError(f"{option}= is for a channel given by its name: {to!r} says itself what comes back.")
            name, terms, codec, answer = to.name, to.terms, to.codec(), to.answer_codec()
        else:
            channel = getattr(to, "__zerowait_channel__", None)
            if channel is not None:
                raise UsageError(f"{VERBS[kind]} takes the channel, not the handler: {kind}({channel!r}, …).")
            raise UsageError(f"{VERBS[kind]} takes a channel or its name first, not {to!r:.80}.")
        decided = self._settings.channel(name)
        said = decided.timeout if decided.timeout is not None else terms.timeout if terms is not None else None
        timeout = said if said is not None else self._settings.request_timeout if kind == "request" else None
        errors = Errors(terms.errors) if terms is not None and terms.errors else NO_ERRORS
        plain = decided.plain or (terms.plain if terms is not None else None)
        if plain is not None:
            check_plain(plain, kind, name)
        encode = codec.encode if plain is None else plain_encoder(plain, codec)
        idempotent = terms.idempotent if terms is not None else False
        return Way(name, codec, answer, errors, _finite(timeout), idempotent, terms, plain, encode)

    def _lane(self, kind: str, to: Any, way: Way, options: Mapping[str, Any], value: Any) -> AskLane:
        timeout, hedge = options.get("timeout"), options.get("hedge", False)
        if not isinstance(hedge, bool):
            raise UsageError(f"hedge= is True or False, not {hedge!r}.")
        if hedge and not way.idempotent:
            raise UsageError(
                f"hedge=True asks a second worker too, and a request to {way.name} may not run twice: nothing was "
                f"taken. If it may, declare it: RequestChannel[…]({way.name!r}, idempotent=True)."
            )
        seconds = way.timeout if timeout is None else _finite(check_timeout(timeout))
        lane = way.lanes.get((seconds, hedge))
        if lane is not None:
            return lane
        if len(way.lanes) >= LANES:
            way.lanes.clear()
        if way.plain is not None:
            requests = self._plain(way.name, way.plain, way.out, way.idempotent)
            lane = way.lanes[seconds, hedge] = AskLane(
                requests.intake, way.name, None, None, timeout=seconds, out=way.out, errors=NO_ERRORS, requests=requests
            )
            return lane
        self._use(way.name, kind, way.idempotent, way.codec)  # first: from the next line on it is asked there
        exact = way.codec.exact
        if way.terms is None and not hasattr(value.__class__, "__pydantic_validator__"):
            exact = value.__class__  # a name takes everything: whatever comes first has the short way
        lane = way.lanes[seconds, hedge] = AskLane(
            self._intake(),
            way.name,
            exact,
            way.codec.encode_into,
            timeout=seconds,
            out=way.out,
            errors=way.errors,
            requests=self._requests(),
            is_stream=kind == "stream",
            hedge=hedge,
        )
        is_short = self._headers is None and self._settings.check == "type" and lane.exact is not None
        if is_short and kind == "request" and not options:
            self._short[to] = lane
        return lane


def _finite(timeout: float | None) -> float | None:
    return None if timeout is None or timeout == inf or timeout > LONGEST_S else timeout

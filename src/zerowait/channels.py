"""Channels: the names between two ends, each with a kind and types. They start nothing and can be shared by teams.

Every push looks its channel up in a dictionary, so that a channel's hash and comparison must be C code: it is a msgspec
struct of two fields, its name and its terms, where terms are equal to all terms. `PushChannel[RawMail]` is a class of
its own, made once, so that kind and types are compared with the class. msgspec structs have no `__init__`; what
`PushChannel[RawMail]("mail.parse", ttl=60)` calls is the metaclass, and that asks the kind for `make_terms`.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Literal, TypedDict, TypeVar, cast

from msgspec import Struct, StructMeta

from zerowait.contract import type_name
from zerowait.errors import UsageError
from zerowait.names import check_channel, check_topic
from zerowait.plain import Plain, check_plain
from zerowait.settings_fields import LONGEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from zerowait.codec import Codec

In = TypeVar("In")
Out = TypeVar("Out", covariant=True)

NAMES = (check_channel, check_topic)
LONGEST_S = LONGEST  # the longest time that may be said of a message, delay or ttl


class PushOptions(TypedDict, total=False):
    """What may be said of one push, at the call. It wins over the settings, the channel and the defaults.

    durable: stored on disk before it leaves. ttl: seconds; not begun so long after it was due, it expires. delay:
    seconds until it is due; at: the moment, with its time zone (one of the two). key: 1 to 200 bytes; messages of one
    key, of this client's outbox and the channel, are handled one after another in the order of pushing: a retry or a
    delay holds up what follows with its key, a dead letter does not. id: 1 to 200 bytes; a second push of the same id
    to the channel within 24 h (and 100,000 ids) is the first one again, whatever it carries: its receipt says
    `duplicate`. Known to this client's outbox. priority: among the due messages of the channel. headers: for the
    handler, text, 8 KiB in all unless a setting says otherwise.
    """

    durable: bool | None
    ttl: float | None
    delay: float | None
    at: datetime | None
    key: str | None
    id: str | None
    priority: Literal["low", "normal", "high"]
    headers: Mapping[str, str] | None


class RequestOptions(TypedDict, total=False):
    """What may be said of one request, at the call. It wins over the settings, the channel and the defaults.

    timeout: seconds until it expires, 30 unless something else says so; `math.inf` for never. In a handler it gets at
    most what is left of the deadline of what that works on. hedge: another worker is asked, too, if the first is slower
    than nineteen of twenty were; only where a request may run twice (`idempotent=True`). key: 1 to 200 bytes; requests
    of one key, of this client and the channel, run one after another in the order of asking; not together with hedge.
    headers: for the handler, text, 8 KiB in all unless a setting says otherwise.
    """

    timeout: float | None
    hedge: bool
    key: str | None
    headers: Mapping[str, str] | None


class StreamOptions(TypedDict, total=False):
    """What may be said of one stream, at the call. timeout: seconds that all of it may take; never over unless said."""

    timeout: float | None
    headers: Mapping[str, str] | None


class Terms(Struct, frozen=True, eq=False):
    """What a contract says beside name, kind and types. Any two are equal, so that a channel is found without them."""

    durable: bool | None = None
    ttl: float | None = None
    plain: Plain | None = None
    timeout: float | None = None
    idempotent: bool = False
    errors: tuple[type[Exception], ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Terms)

    def __hash__(self) -> int:
        return 0


class _ChannelMeta(StructMeta):
    if not TYPE_CHECKING:  # checkers see __init__ of each kind

        def __call__(cls, name, *types, **terms):  # noqa: N805
            if types or not cls.types:
                kind = cls.__name__.partition("[")[0]
                raise UsageError(
                    f"{kind} wants its type in brackets: {kind}[RawMail]({name!r}), "
                    "or [str], or [dict[str, int]], or [Created | Deleted]."
                )
            return super().__call__(NAMES[cls.kind == "topic"](name), cls.make_terms(**terms))


class Channel(Struct, frozen=True, cache_hash=True, metaclass=_ChannelMeta):
    """What all kinds have in common. Never made itself.

    name: dotted words. kind: "push" … types: what was given in the brackets. Immutable, hashable, picklable; equal to
    another of the same name, kind and types.
    """

    kind: ClassVar[str]
    types: ClassVar[tuple[Any, ...]] = ()
    arity: ClassVar[int] = 1

    name: str
    terms: Terms

    if not TYPE_CHECKING:  # checkers see Generic

        def __class_getitem__(cls, types):
            if cls.types:
                raise UsageError(f"{cls.__name__} has its types already.")
            return _typed(cls, types if isinstance(types, tuple) else (types,))

    @classmethod
    def codec(cls) -> Codec[Any]:
        """Of the values that are sent to it. Made at first use; raises UsageError if no message can be of that type."""
        return cls._made_once("_codec", 0)

    @classmethod
    def answer_codec(cls) -> Codec[Any]:
        """Of what comes back: of a request its answer, of a stream its items."""
        return cls._made_once("_answer_codec", 1)

    @classmethod
    def _made_once(cls, name: str, at: int) -> Codec[Any]:
        found: Codec[Any] | None = cls.__dict__.get(name)
        if found is None:
            from zerowait.codec import Codec

            found = Codec(cls.types[at])
            type.__setattr__(cls, name, found)
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        cls = type(self)
        return _remade, (cls.__mro__[1], cls.types, self.name, self.terms)


class PushChannel(Channel, Generic[In], frozen=True):
    """A channel for work: of those who `pull` it, one handles each message. `PushChannel[RawMail]("mail.parse")`.

    durable: whether a push is stored on disk before it leaves (None: not said here; yes, unless a setting says no).
    ttl: seconds; what has not begun so long after it was due expires (None: never). plain: a bare ZeroMQ socket in
    place of zerowait's own links. A call's own option wins over these, and so do the settings for this channel.

    Raises UsageError for a name that is none, for a missing type, and for values that make no sense.
    """

    kind: ClassVar[str] = "push"

    if TYPE_CHECKING:

        def __init__(
            self, name: str, *, durable: bool | None = None, ttl: float | None = None, plain: Plain | None = None
        ) -> None: ...

    @classmethod
    def make_terms(cls, *, durable: Any = None, ttl: Any = None, plain: Any = None) -> Terms:
        if durable is not None and not isinstance(durable, bool):
            raise UsageError(f"durable is True, False or None (not said here), not {durable!r}.")
        if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, (int, float)) or not 0 < ttl < inf):
            raise UsageError(f"ttl takes seconds as a number above 0, not {ttl!r}.")
        if ttl is not None and ttl > LONGEST_S:
            raise UsageError("ttl takes seconds, 100 years of them at most, and this is more: leave it away for never.")
        plain = checked_plain(plain, cls.kind)
        return Terms(durable=durable, ttl=None if ttl is None else float(ttl), plain=plain)

    @property
    def durable(self) -> bool | None:
        """Whether a push is stored before it leaves; None: not said here."""
        return self.terms.durable

    @property
    def ttl(self) -> float | None:
        """Seconds after which what has not begun expires; None: never."""
        return self.terms.ttl

    @property
    def plain(self) -> Plain | None:
        """The bare ZeroMQ socket it is bound to, if it is."""
        return self.terms.plain


class RequestChannel(Channel, Generic[In, Out], frozen=True):
    """A channel for questions: of those who `reply` to it, one answers each. `RequestChannel[str, int]("mail.count")`.

    timeout: seconds that a request may take (None: not said here; 30, unless a setting says otherwise; `math.inf`: for
    ever). idempotent: a request may run twice, so that another worker is asked when one dies, and `hedge=` is allowed.
    errors: exceptions of the contract, dataclasses: raised by the handler they arrive as themselves, with their fields.
    plain: a bare ZeroMQ socket in place of zerowait's own links, for whoever asks; who replies serves both.

    Raises UsageError for a name that is none, for missing types, and for values that make no sense.
    """

    kind: ClassVar[str] = "request"
    arity: ClassVar[int] = 2

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            *,
            timeout: float | None = None,
            idempotent: bool = False,
            errors: Iterable[type[Exception]] = (),
            plain: Plain | None = None,
        ) -> None: ...

    @classmethod
    def make_terms(cls, *, timeout: Any = None, idempotent: Any = False, errors: Any = (), plain: Any = None) -> Terms:
        if not isinstance(idempotent, bool):
            raise UsageError(f"idempotent is True or False, not {idempotent!r}.")
        plain = checked_plain(plain, cls.kind)
        return Terms(timeout=check_timeout(timeout), idempotent=idempotent, errors=_errors(errors), plain=plain)

    @property
    def timeout(self) -> float | None:
        """Seconds that a request may take; None: not said here."""
        return self.terms.timeout

    @property
    def idempotent(self) -> bool:
        """Whether a request may run twice."""
        return self.terms.idempotent

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions of the contract."""
        return self.terms.errors

    @property
    def plain(self) -> Plain | None:
        """The bare ZeroMQ socket it is bound to, if it is."""
        return self.terms.plain


class StreamChannel(Channel, Generic[In, Out], frozen=True):
    """A channel for questions with many answers: who replies to it yields them. `StreamChannel[RawMail, str]("lines")`.

    timeout: seconds that all of a stream may take (None: not said here; for ever, unless a setting says otherwise).
    errors: as of a RequestChannel. Raises what that does.
    """

    kind: ClassVar[str] = "stream"
    arity: ClassVar[int] = 2

    if TYPE_CHECKING:

        def __init__(
            self, name: str, *, timeout: float | None = None, errors: Iterable[type[Exception]] = ()
        ) -> None: ...

    @classmethod
    def make_terms(cls, *, timeout: Any = None, errors: Any = ()) -> Terms:
        return Terms(timeout=check_timeout(timeout), errors=_errors(errors))

    @property
    def timeout(self) -> float | None:
        """Seconds that all of a stream may take; None: not said here."""
        return self.terms.timeout

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """The exceptions of the contract."""
        return self.terms.errors


def checked_plain(plain: Any, kind: str) -> Plain | None:
    """Gives it back if a channel of that kind may have it; None: it has none. Raises UsageError."""
    if plain is None:
        return None
    if not isinstance(plain, Plain):
        raise UsageError(f'plain takes a Plain("text", connect="tcp://…"), not {plain!r}.')
    return check_plain(plain, kind, f"A {kind} channel")


def check_timeout(timeout: Any) -> float | None:
    """Gives it back as seconds. Raises UsageError if it is none: a number above 0, `math.inf` for never."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not timeout > 0:
        raise UsageError(f"timeout takes seconds as a number above 0 (math.inf: for ever), not {timeout!r}.")
    if inf > timeout > LONGEST_S:
        raise UsageError("timeout takes seconds, 100 years of them at most: write math.inf for ever.")
    return float(timeout)


def _errors(errors: Any) -> tuple[type[Exception], ...]:
    from zerowait.failures import Errors

    if isinstance(errors, type) or not isinstance(errors, (list, tuple, set, frozenset)):
        raise UsageError(f"errors takes a list of exception classes, as in errors=[NotFound], not {errors!r}.")
    classes: tuple[type[Exception], ...] = tuple(cast("list[type[Exception]]", errors))
    Errors(classes)
    return classes


# One class for each set of types, for equality compares classes. Types are code, so that there are not many.
_made: dict[object, type[Channel]] = {}


def _typed(kind: type[Channel], types: tuple[Any, ...]) -> type[Channel]:
    if len(types) != kind.arity:
        some = "one type" if kind.arity == 1 else f"{kind.arity} types"
        raise UsageError(f"{kind.__name__}[…] takes {some}, not {len(types)}.")
    for each in types:
        if isinstance(each, str):
            raise UsageError(f"{kind.__name__}[{each!r}]: give the type itself, not its name in quotes.")
    key: object = (kind, types)
    try:
        found = _made.get(key)
    except TypeError:  # Annotated with something that cannot be hashed
        key = (kind, repr(types))
        found = _made.get(key)
    if found is None:
        name = f"{kind.__name__}[{', '.join(type_name(each) for each in types)}]"
        namespace = {"types": types, "__module__": kind.__module__, "__qualname__": name, "__doc__": kind.__doc__}
        meta: Any = type(kind)
        # setdefault: of two threads that make the same, both get the first.
        found = _made.setdefault(key, meta(name, (kind,), namespace, frozen=True))
    return found


def _remade(kind: Any, types: tuple[Any, ...], name: str, terms: Terms) -> Channel:
    made: Any = _typed(kind, types)
    remade: Channel = StructMeta.__call__(made, name, terms)
    return remade

"""Topics: what happens, told to all who subscribe."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast

from msgspec import StructMeta

from zerowait.channels import Channel, Terms, checked_plain
from zerowait.errors import UsageError
from zerowait.names import check_channel, nearest
from zerowait.patterns import is_wild

if TYPE_CHECKING:
    from zerowait.plain import Plain

T = TypeVar("T")

HISTORY_MOST = 1_000_000
QUEUE_MOST = 10_000_000

DROP_OLDEST, CONFLATE, DISCONNECT = 0, 1, 2  # as SUBSCRIBE says it
OVERFLOWS = {"drop_oldest": DROP_OLDEST, "conflate": CONFLATE, "disconnect": DISCONNECT}
OPTIONS = frozenset({"replay", "replay_seconds", "overflow", "queue"})


class TopicTerms(Terms, frozen=True, eq=False):
    """What the contract of a topic says. declared: the pattern that `at` has filled, "" where it has not."""

    retain: bool = False
    history: int = 0
    reliable: bool = False
    declared: str = ""


class Topic(Channel, Generic[T], frozen=True):
    """What happens, told to all who subscribe: `Topic[str]("mail.flagged.*")`.

    Only a topic's name may hold `*`, which stands for one word, and `>` at its end, which stands for the rest. Such a
    topic is subscribed to as it is; to publish, `at` fills the places: `FLAGGED.at("spam")` is "mail.flagged.spam".

    retain: the publisher keeps the last value of each topic for those who join later. history: how many of the last
    events of this topic (of all that it stands for, together) the publisher keeps for `replay=`, in its memory.
    reliable: where a subscriber's queue is full, `publish` raises QueueFull, and nothing is dropped. plain: a bare
    ZeroMQ socket in place of zerowait's own links.

    Raises UsageError for a name that is none, for a missing type, and for values that make no sense.
    """

    kind: ClassVar[str] = "topic"

    if TYPE_CHECKING:

        def __init__(
            self,
            name: str,
            *,
            retain: bool = False,
            history: int = 0,
            reliable: bool = False,
            plain: Plain | None = None,
        ) -> None: ...

    @classmethod
    def make_terms(
        cls, *, retain: Any = False, history: Any = 0, reliable: Any = False, plain: Any = None, **others: Any
    ) -> TopicTerms:
        for name in others:
            if name == "durable":
                raise UsageError(
                    "A topic is not durable: what is kept for somebody who is away is said by who subscribes, "
                    '@app.subscribe(topic, group="billing", durable=True).'
                )
            raise UsageError(f"A Topic takes no {name}=: it takes retain, history, reliable, plain.")
        for name, said in (("retain", retain), ("reliable", reliable)):
            if not isinstance(said, bool):
                raise UsageError(f"{name} is True or False, not {said!r}.")
        if type(history) is not int or not 0 <= history <= HISTORY_MOST:
            raise UsageError(f"history takes how many events are kept, 0 to {HISTORY_MOST}, not {history!r}.")
        plain = checked_plain(plain, cls.kind)
        if plain is not None and (retain or history or reliable):
            raise UsageError(
                "A bare ZeroMQ socket keeps nothing and waits for nobody: leave retain=, history= and reliable= away, "
                "or plain=."
            )
        return TopicTerms(retain=retain, history=history, reliable=reliable, plain=plain)

    def at(self, *words: str) -> Topic[T]:
        """The topic with these words in place of `*` and `>`, one each; what `>` stands for may be several.

        Raises UsageError where they are not as many as there are places, or are no words.
        """
        given: tuple[Any, ...] = words
        left, filled = list(words), list[str]()
        for place in self.name.split("."):
            if place == "*":
                filled.append(left.pop(0) if left else "")
            elif place == ">":
                filled += left or [""]
                left = []
            else:
                filled.append(place)
        name = ".".join(str(word) for word in filled)
        if left or "" in filled or not all(isinstance(word, str) and "." not in word for word in given):
            raise UsageError(f"{self!r}.at({', '.join(map(repr, words))}): a word for each * and >, and no others.")
        try:
            check_channel(name)
        except UsageError as error:
            raise UsageError(f"{self!r}.at({', '.join(map(repr, words))}): {error}") from None
        terms: Any = self.terms
        return cast(
            "Topic[T]",
            StructMeta.__call__(
                type(self),
                name,
                TopicTerms(
                    retain=terms.retain,
                    history=terms.history,
                    reliable=terms.reliable,
                    declared=terms.declared or self.name,
                    plain=terms.plain,
                ),
            ),
        )

    @property
    def retain(self) -> bool:
        """Whether the last value of each topic is kept for those who join later."""
        return bool(cast("TopicTerms", self.terms).retain)

    @property
    def history(self) -> int:
        """How many of the last events are kept for `replay=`."""
        return cast("TopicTerms", self.terms).history

    @property
    def reliable(self) -> bool:
        """Whether a full queue of a subscriber is the publisher's to wait for."""
        return cast("TopicTerms", self.terms).reliable

    @property
    def plain(self) -> Plain | None:
        """The bare ZeroMQ socket it is bound to, if it is."""
        return cast("TopicTerms", self.terms).plain

    @property
    def declared(self) -> str:
        """The name that was declared: the pattern, where `at` has filled one."""
        return cast("TopicTerms", self.terms).declared or self.name

    @property
    def is_pattern(self) -> bool:
        """Whether it stands for several topics."""
        return is_wild(self.name)


def check_plain_terms(name: str, terms: Mapping[str, Any], group: str = "") -> None:
    """What a subscription may say to which bare publishers send. Raises UsageError for what they know nothing of."""
    if group:
        raise UsageError(
            f"{name} comes from bare ZeroMQ sockets, which know no groups and keep nothing: leave group= and durable= "
            "away. To have one of several handle each event, push it on from the handler."
        )
    if terms["replay"] or terms["replay_seconds"]:
        raise UsageError(f"{name} comes from bare ZeroMQ sockets, which keep nothing: leave replay= away.")
    if terms["overflow"] == DISCONNECT:
        raise UsageError(
            f'{name} comes from bare ZeroMQ sockets: overflow= is "drop_oldest" or "conflate" there, for a connection '
            "that is ended is made again without a word."
        )


def checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a subscription, whole. Raises UsageError for what makes no sense."""
    for name in given.keys() - OPTIONS:
        meant = nearest(name, sorted(OPTIONS))
        raise UsageError(
            f"subscribe takes no {name}=." + (f" Did you mean {meant}=?" if meant else "") + " durable= and group= are "
            "those of @app.subscribe."
        )
    replay, seconds = given.get("replay", 0), given.get("replay_seconds", 0.0)
    queue, overflow = given.get("queue", 1_000), given.get("overflow", "drop_oldest")
    if type(replay) is not int or not 0 <= replay <= HISTORY_MOST:
        raise UsageError(
            f"replay= takes how many events, 0 to {HISTORY_MOST}, not {replay!r}; seconds: replay_seconds=."
        )
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)) or not 0 <= seconds < 1e9:
        raise UsageError(f"replay_seconds= takes seconds, 0 or more, not {seconds!r}.")
    if type(queue) is not int or not 1 <= queue <= QUEUE_MOST:
        raise UsageError(f"queue= takes how many events may wait, 1 to {QUEUE_MOST}, not {queue!r}.")
    if overflow not in OVERFLOWS:
        raise UsageError(f'overflow= is "drop_oldest", "conflate" or "disconnect", not {overflow!r}.')
    return {"replay": replay, "replay_seconds": seconds, "queue": queue, "overflow": OVERFLOWS[overflow]}

"""Whether a worker expects what this process sends. Only what does not fit counts: a new optional field does not.

Each end describes its type in its own words, so that equal fingerprints are all that is compared as a rule. Where they
differ, SCHEMA asks the worker for its description, and until that is here nothing of the channel goes there. A worker
that does not fit gets nothing: its messages wait for one that does, or until both ends are deployed with the same
contract.

An outbox on disk keeps the types of what was pushed to it. They count for what an earlier life of this process has
left, until it says itself what it sends to the channel now, and for what other processes have left as long as it is
here. The types of a channel are compared together: which message is of which, nobody can tell any more."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from zerowait.agreement import compatible, in_words
from zerowait.contract import Description, fingerprint_of, unpacked
from zerowait.engines.brokerless.protocol.effects import Effects, Say
from zerowait.engines.brokerless.protocol.frames import MALFORMED, ProtocolError, Schema, Served
from zerowait.engines.brokerless.protocol.link import OURS, Link, Mismatch

TOLD_MOST = 1_024  # mismatches that are remembered as told
# Channels whose types are kept. An entrance knows 4,096 to push to and as many to ask at, the last ones, and declares a
# channel that it has forgotten anew: so those that are declared less recently than that can be forgotten here, too.
CHANNELS_MOST = 16_384
Types = dict[bytes, Description]  # by fingerprint


class Contracts:
    def __init__(self, effects: Effects, kind_of: Callable[[str], str]) -> None:
        self._effects = effects
        self._kind_of = kind_of
        self._ours: dict[str, Types] = {}  # channel → what this process sends to it; declared last, last
        self._most = CHANNELS_MOST
        self._left: dict[str, dict[int, Types]] = {}  # channel → outbox → what had been sent when it was opened here
        self._adopted: set[int] = set()  # outboxes of other names: nothing is pushed to them here
        self._told: dict[tuple[int, str, Mismatch], None] = {}  # insertion order: the oldest go first

    def declare(self, channel: str, description: bytes) -> bool:
        """This process sends messages of this type to that channel, perhaps beside others. False: that was known."""
        ours = self._ours[channel] = self._ours.pop(channel, {})
        name = fingerprint_of(description)
        if name in ours:
            return False
        ours[name] = unpacked(description)
        return True

    def prune(self, in_use: Callable[[], Collection[str]]) -> list[str]:
        """Whoever makes up names, one for each answer that he wants say, must not fill the memory with them: gives half
        of them that were forgotten, if there were too many. in_use: those of which that cannot be."""
        if len(self._ours) <= self._most:
            return []
        needed = in_use()
        oldest = list(self._ours)[: CHANNELS_MOST // 2]
        idle = [channel for channel in oldest if channel not in needed]
        for channel in idle:
            del self._ours[channel]
        for channel in [channel for channel in oldest if channel in self._ours]:
            self._ours[channel] = self._ours.pop(channel)
        self._most = max(CHANNELS_MOST, len(self._ours) + CHANNELS_MOST // 2)  # not looked at again so soon
        return idle

    def knows(self, channel: str) -> bool:
        """Whether this process sends anything there, or has something that was to go there."""
        return channel in self._ours or bool(self._left.get(channel))

    def left(self, box: int, channel: str, descriptions: Iterable[bytes], *, adopted: bool) -> None:
        """An outbox that is about to be opened holds messages of these types."""
        self._left.setdefault(channel, {})[box] = {fingerprint_of(each): unpacked(each) for each in descriptions}
        if adopted:
            self._adopted.add(box)

    def forget(self, box: int) -> list[str]:
        """It is not open here any more. Gives the channels for which it had types."""
        self._adopted.discard(box)
        channels = [channel for channel, boxes in self._left.items() if box in boxes]
        for channel in channels:
            del self._left[channel][box]
        return channels

    def fitting(self, link: Link, channel: str) -> Collection[int]:
        """The outboxes whose messages for this channel may go there now."""
        if not link.unfit:
            return link.resumed
        return {box for box in link.resumed if self.may_fit(link, channel, box)}

    def may_fit(self, link: Link, channel: str, box: int) -> bool:
        return (channel, self._whose(channel, box)) not in link.unfit

    def mismatch(self, link: Link, channel: str, box: int) -> Mismatch | None:
        """Why what is in this outbox does not go there; None: it may, or that is not known yet."""
        return link.unfit.get((channel, self._whose(channel, box)))

    def _whose(self, channel: str, box: int) -> int:
        """Whose types count for what is in this outbox: OURS, or its own."""
        has_own = box in self._left.get(channel, ())
        return box if has_own and (box in self._adopted or channel not in self._ours) else OURS

    def _types(self, channel: str) -> Iterator[tuple[int, Types]]:
        yield OURS, self._ours.get(channel, {})
        for box, types in self._left.get(channel, {}).items():
            if self._whose(channel, box) == box:
                yield box, types

    def answered(self, link: Link, schema: Schema) -> bool:
        """Their description has come. False: nobody has asked for it."""
        if schema.fingerprint not in link.schemas or link.schemas[schema.fingerprint] is not None:
            return False
        if fingerprint_of(schema.description) != schema.fingerprint:
            raise ProtocolError(MALFORMED, "a SCHEMA whose description does not have the fingerprint that it names")
        try:
            link.schemas[schema.fingerprint] = unpacked(schema.description)
        except ValueError as error:
            raise ProtocolError(MALFORMED, f"a SCHEMA: {error}") from None
        return True

    def look(self, link: Link) -> set[str]:
        """Compares all that is served there with what is sent; gives the channels for which that has changed."""
        before, link.unfit = link.unfit, {}
        for channel, served in link.served.items():
            for whose, types in self._types(channel):
                is_fit, mismatch = self._compare(link, served, types)
                if not is_fit:
                    link.unfit[channel, whose] = mismatch
                if mismatch is not None:
                    self._tell(link, channel, mismatch)
        changed = before.keys() ^ link.unfit.keys()
        changed |= {name for name in before.keys() & link.unfit.keys() if before[name] != link.unfit[name]}
        return {channel for channel, _ in changed}

    def _compare(self, link: Link, served: Served, types: Types) -> tuple[bool, Mismatch | None]:
        used = self._kind_of(served.channel)
        if types and served.kind != used:
            how = "messages are pushed to it here" if used == "push" else f"it is asked here as a {used} channel"
            return False, Mismatch(f"{how}, and there it is served as a {served.kind} channel", used, served.kind)
        theirs = served.fingerprint
        # A name in place of a channel takes values of any type: what does not fit is found when it is read.
        ours = [mine for name, mine in types.items() if name != theirs and mine != "any"]
        if not ours or not theirs:
            return True, None
        if theirs not in link.schemas:
            link.schemas[theirs] = None
            self._effects.send(link.conn, Schema(theirs))
        wanted = link.schemas[theirs]
        if wanted is None:
            return False, None
        mismatch = next((found for mine in ours if (found := _mismatch(mine, wanted))), None)
        return mismatch is None, mismatch

    def _tell(self, link: Link, channel: str, mismatch: Mismatch) -> None:
        """Once for each process: a connection that comes and goes is no news."""
        name = link.instance, channel, mismatch
        if name not in self._told:
            self._told[name] = None
            while len(self._told) > TOLD_MOST:
                del self._told[next(iter(self._told))]
            self._effects.add(said(link, channel, mismatch))


def said(link: Link, channel: str, mismatch: Mismatch) -> Say:
    return Say("mismatch", mismatch.difference, link.instance, channel, types=(mismatch.sent, mismatch.expected))


def _mismatch(sent: Description, wanted: Description) -> Mismatch | None:
    try:
        difference = compatible(sent, wanted)
        return Mismatch(difference, in_words(sent), in_words(wanted)) if difference else None
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        # Theirs is what a stranger says: of another version, or of no sense.
        return Mismatch("what is expected there cannot be read here: upgrade the older end", in_words(sent), "unknown")

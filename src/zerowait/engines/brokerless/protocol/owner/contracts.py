"""Whether a worker expects what this process sends. Only what does not fit counts: a new optional field does not.

Each end describes its type in its own words, so that equal fingerprints are all that is compared as a rule. Where they
differ, SCHEMA asks the worker for its description, and until that is here nothing of the channel goes there. A worker
that does not fit gets nothing: its messages wait for one that does, or until both ends are deployed with the same
contract. Not known is the type of what an earlier life of this process has left, or another whose outbox was taken
over: until this process itself says what it sends to the channel, such messages go to any worker of it."""

from __future__ import annotations

from zerowait.agreement import compatible, in_words
from zerowait.contract import Description, fingerprint_of, unpacked
from zerowait.engines.brokerless.protocol.effects import Effects, Say
from zerowait.engines.brokerless.protocol.frames import MALFORMED, ProtocolError, Schema, Served
from zerowait.engines.brokerless.protocol.link import Link, Mismatch

TOLD_MOST = 1_024  # mismatches that are remembered as told


class Contracts:
    def __init__(self, effects: Effects) -> None:
        self._effects = effects
        self._ours: dict[str, dict[bytes, Description]] = {}  # channel → fingerprint → what this process sends to it
        self._told: dict[tuple[int, str, Mismatch], None] = {}  # insertion order: the oldest go first

    def declare(self, channel: str, description: bytes) -> bool:
        """This process sends messages of this type to that channel, perhaps beside others. False: that was known."""
        ours = self._ours.setdefault(channel, {})
        name = fingerprint_of(description)
        if name in ours:
            return False
        ours[name] = unpacked(description)
        return True

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

    def look(self, link: Link) -> list[str]:
        """Compares all that is served there with what is sent; gives the channels for which that has changed."""
        changed: list[str] = []
        for channel, served in link.served.items():
            was_fit, before = channel not in link.unfit, link.unfit.get(channel)
            is_fit, mismatch = self._compare(link, served)
            if (was_fit, before) == (is_fit, mismatch):
                continue
            changed.append(channel)
            if is_fit:
                del link.unfit[channel]
            else:
                link.unfit[channel] = mismatch
                if mismatch is not None:
                    self._tell(link, channel, mismatch)
        for channel in link.unfit.keys() - link.served.keys():
            del link.unfit[channel]
        return changed

    def _compare(self, link: Link, served: Served) -> tuple[bool, Mismatch | None]:
        if served.kind != "push":
            words = f"messages are pushed to it here, and there it is served as a {served.kind} channel"
            return False, Mismatch(words, "push", served.kind)
        theirs = served.fingerprint
        # A name in place of a channel takes values of any type: what does not fit is found when it is read.
        ours = [mine for name, mine in self._ours.get(served.channel, {}).items() if name != theirs and mine != "any"]
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

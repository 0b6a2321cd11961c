"""What is asked before this process ends: whether waiting any longer is of use (rules §11.2)."""

from __future__ import annotations

from zerowait.engines.brokerless.protocol.core import Core
from zerowait.engines.brokerless.protocol.link import OURS, LinkPhase


def is_settled(core: Core) -> bool:
    """Whether waiting any longer is of no use for what this process sends: nothing is in flight, and no worker takes
    more of what waits."""
    owner = core.owner
    if any(count for custody in owner.custody.values() for count in custody.in_flight.values()):
        return False
    # Those whose outputs were chosen say in a moment that they have left: then nothing of this outbox need be kept.
    if owner.choices.outstanding(box for link in core.links.values() for box in link.boxes):
        return False
    waiting = owner.dispatch.channels()
    leaving = core.worker.draining  # then our own handlers take nothing more
    return not any(link.side == "both" or not leaving for channel in waiting for link in owner.takers(channel))


def has_finished_own(core: Core, conn: int) -> bool:
    """Whether nothing waits or is in flight of what this process pushes to channels that it serves itself. What is of
    another type than its handler expects waits for somebody else. conn: of the link to itself, its owner's end."""
    owner, link = core.owner, core.links.get(conn)
    unfit = {channel for (channel, whose), each in link.unfit.items() if whose == OURS and each} if link else set[str]()
    served = core.worker.services.keys() - unfit
    if any(channel in served for channel in owner.dispatch.channels()):
        return False
    return not any(
        count and channel in served for c in owner.custody.values() for channel, count in c.in_flight.items()
    )


def may_answer(core: Core) -> bool:
    """Whether somebody with whom there is a connection has not said yet whether he takes what waits."""
    return any(
        link.phase in (LinkPhase.DIALLED, LinkPhase.GREETED) or None in link.unfit.values()
        for link in core.links.values()
    )

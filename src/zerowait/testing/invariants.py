"""What must hold after every step, reckoned anew from the bottom: nothing here asks the code for its own sums."""

from __future__ import annotations

from collections import Counter
from math import ceil

from zerowait.engines.brokerless.protocol.link import LinkPhase
from zerowait.engines.brokerless.protocol.owner.custody import Custody
from zerowait.engines.brokerless.protocol.worker.share import TINY
from zerowait.engines.brokerless.protocol.worker.window import Window
from zerowait.outbox.outbox import Outbox
from zerowait.outbox.row import unpack_gone
from zerowait.testing.node import Node

_TINY = 1e-3
_COUNT = "SELECT name, state, first, count, gone FROM message JOIN ledger USING (channel)"


class Wrong(Exception):
    """Something that must never be."""


class Invariants:
    def __init__(self) -> None:
        # The highest limit ever: that others have said, by process, connection, channel and lane; that a process has
        # said itself, by its channel, and connection.
        self._granted: dict[int, dict[int, dict[tuple[str, int], int]]] = {}
        self._granting: dict[tuple[int, str], dict[int, int]] = {}
        self._sizes: dict[tuple[int, str], int] = {}
        self._looked: dict[int, tuple[int, int]] = {}

    # -- after a turn of the network thread -------------------------------------------------------------------------

    def of_turn(self, node: Node) -> None:
        for box in node.boxes:
            self._flights(node, box)
        if node.asker is not None:
            self._flights(node, node.instance)
        self._credits(node)
        self._cursors(node)
        for channel, window in node.core.worker.windows.items():
            self._window(node, channel, window)

    def _flights(self, node: Node, box: int) -> None:
        """What is in flight is counted rightly, and nothing is in two places."""
        custody = node.core.owner.custody.get(box)
        if custody is None:
            return
        counted = 0
        places: list[tuple[int, int]] = []
        for holder in custody.flights.holders():
            for flight in custody.flights_of(holder):
                for first, count in flight.left:
                    places += [(flight.epoch, number) for number in range(first, first + count)]
                    counted += sum(many for read, _, many in flight.pieces(first, count) if read is not None)
        told = sum(custody.in_flight.values())
        if counted != told or (custody.in_flight and min(custody.in_flight.values()) < 0):
            raise Wrong(f"{node.name} says that {told} of {box:x} are in flight, and {counted} are")
        for piece in node.core.owner.pieces(box):
            places += [(piece.segment.epoch, number) for number in range(piece.first, piece.first + piece.count)]
        if len(set(places)) < len(places):
            self._twice(node, custody, places)

    def _twice(self, node: Node, custody: Custody, places: list[tuple[int, int]]) -> None:
        times = Counter(places)
        if custody.is_asked:  # of a hedged request two may have been asked
            doubled = node.core.owner.asks._boxes[custody.box].doubled
            times.subtract((custody.epoch, at + n) for at, many in doubled for n in range(many))
        twice = [name for name, many in times.items() if many > 1]
        if twice:
            raise Wrong(f"{twice[:3]} of {custody.box:x} are in two places at once at {node.name}")

    def _cursors(self, node: Node) -> None:
        """Whoever has room has been sent all there is: a slow subscriber holds up nobody."""
        for cursors in node.core.publisher._cursors.values():
            for cursor in cursors:
                if cursor.left() > 0 and cursor.pending():
                    raise Wrong(f"{node.name} has events for subscription {cursor.id}, which has room for them")

    def _credits(self, node: Node) -> None:
        links = self._granted.setdefault(node.key, {})
        for link in node.core.links.values():
            granted = links.setdefault(link.conn, {})
            for name, credit in link.credits.items():
                highest = granted.get(name, 0)
                if credit.limit > highest:
                    highest = granted[name] = credit.limit
                if not 0 <= credit.sent <= highest:
                    raise Wrong(f"{node.name} has sent {credit.sent} units, and was never granted more than {highest}")

    def _window(self, node: Node, channel: str, window: Window) -> None:
        desk, held = node.core.worker.desk, window.held()
        lies = desk.queued(channel) + desk.running(channel)
        if held < lies - _TINY or (not lies and held > _TINY):
            raise Wrong(f"{node.name} books {held} units for {lies} messages that lie there")
        size = self._sizes.get((node.key, channel), 0)
        if window.size > size:
            size = self._sizes[node.key, channel] = window.size
        committed = 0
        granting = self._granting.setdefault((node.key, channel), {})
        for conn, share in window._shares.items():
            highest, received = granting.get(conn, 0), share.received
            if share.limit > highest:
                highest = granting[conn] = share.limit
            if received > highest:
                raise Wrong(f"{node.name} has {received} units on a link that it granted {highest}")
            promised = share.promised
            may_come = promised[0][1] if len(promised) == 1 else max([limit for _, limit in promised])
            if share.sent > may_come:
                may_come = share.sent
            if may_come > received:
                committed += may_come - received
            if share.held:
                committed += ceil(share.held - TINY)
        if committed > size:
            raise Wrong(
                f"{node.name} has granted {committed} units of {channel}, and its window was never above {size}"
            )

    # -- after a turn of the store ----------------------------------------------------------------------------------

    def of_box(self, box: Outbox) -> None:
        """Its ledger, by its rows."""
        if box._file.database is None or self._looked.get(box.id) == (box.turns, id(box)):
            return
        self._looked[box.id] = (box.turns, id(box))
        there: Counter[tuple[str, int]] = Counter()
        for channel, state, first, count, gone in box._file.database.rows(_COUNT):
            settled = unpack_gone(gone, first) if gone else None
            left = count - (len(settled) if settled is not None else 0)
            there[channel, state] += left
        for channel, row in box.ledger._rows.items():
            if min(row.accepted, row.handled, row.dead, row.expired, row.dropped, row.nbytes) < 0:
                raise Wrong(f"the ledger of {box.id:x} is below nothing: {row}")
            if there[channel, 0] != row.waiting_and_in_flight or there[channel, 3] != row.dead:
                raise Wrong(
                    f"the ledger of {box.id:x} says {row.waiting_and_in_flight} waiting or in flight and {row.dead} "
                    f"dead, and {there[channel, 0]} and {there[channel, 3]} are there"
                )

    # -- at the end --------------------------------------------------------------------------------------------------

    def at_rest(self, node: Node) -> list[str]:
        wrong: list[str] = []
        core = node.core
        for channel, window in core.worker.windows.items():
            if window.held() > _TINY:
                wrong.append(f"{node.name} books {window.held()} units of {channel} at the end")
        wrong += [
            f"{node.name} has something of {box:x} in hand at the end, and its ledger says nothing"
            for box in node.boxes
            if any(core.owner.in_flight(box).values()) or core.owner.pieces(box)
        ]
        if core.worker.lanes.is_active():
            wrong.append(f"{node.name} stands still at the end for one that is to run alone")
        wrong += [f"{node.name} has a link that is {link.phase.value} at the end" for link in core.links.values()
                  if link.phase is not LinkPhase.READY]  # fmt: skip
        return wrong

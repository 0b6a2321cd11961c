"""Bugs of how much a worker takes, and of whom (rules §7)."""

from __future__ import annotations

from typing import Any
from weakref import WeakKeyDictionary

from tests.mutants.planting import Put, bug, nothing
from zerowait.engines.brokerless.protocol.owner import credit as sender_credit
from zerowait.engines.brokerless.protocol.owner import dispatch, sender, wants
from zerowait.engines.brokerless.protocol.worker import desk, rate, share, window, worker
from zerowait.message import UNIT_BYTES

TABLE = "tests/protocol/test_window_table.py"
WINDOW = "tests/protocol/test_window.py"
RULES = "tests/protocol/test_rules.py"
ROW_1 = f"{TABLE}::test_row_1_ten_second_handlers_keep_all_runners_of_two_workers_busy"
ROW_2 = f"{TABLE}::test_row_2_a_slow_worker_of_fifty_senders_hoards_two_messages"
ROW_3 = f"{TABLE}::test_row_3_a_thousand_senders_of_one_message_each_all_have_their_turn"
ROW_4 = f"{TABLE}::test_row_4_occasional_senders_do_not_wait_behind_a_busy_one"
ROW_6 = f"{TABLE}::test_row_6_a_hundred_busy_senders_fill_one_window_not_a_hundred"
ASKED_BACK = f"{TABLE}::test_what_was_promised_to_an_idle_link_is_asked_back_for_one_that_needs_it"
LONE = f"{TABLE}::test_a_lone_message_after_another_needs_no_round_trip"
GROWS = f"{TABLE}::test_the_window_of_a_fast_handler_grows_to_its_bound_in_a_quarter_of_a_second"
RENEWED = f"{TABLE}::test_credit_is_renewed_before_it_runs_out_and_costs_few_frames"

# -- units -------------------------------------------------------------------------------------------------------------


@bug("a message costs a unit however large it is", by=WINDOW)
def _(put: Put) -> None:
    for where in (sender_credit, dispatch, sender, worker):
        put(where, "units", lambda right: lambda count, body_bytes: count)


@bug("what a message costs is reckoned otherwise at the other end", by=WINDOW)
def _(put: Put) -> None:
    put(worker, "units", lambda right: lambda count, body_bytes: count + body_bytes * 2 // UNIT_BYTES)


@bug("the last message may not overdraw", by=RULES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def cut(self: Any, pieces: Any, most_units: int, message_bytes: int) -> Any:
            found = right(self, pieces, most_units, message_bytes)
            if found is not None and found.count == 1 and dispatch.cost_of(found) > most_units:
                pieces.appendleft(found)
                return None
            return found

        return cut

    put(dispatch.Queue, "_cut", made)


@bug("any batch may overdraw", by=RULES)
def _(put: Put) -> None:
    put(dispatch.Queue, "_cut", lambda right: lambda self, pieces, most_units, message_bytes: right(
        self, pieces, 1 << 40, message_bytes))  # fmt: skip


@bug("a message is offered to a worker that takes none so large", by=RULES)
def _(put: Put) -> None:
    put(dispatch.Queue, "_fits", lambda right: lambda self, pieces, piece, message_bytes: True)


@bug("that a message is too large for its worker is told to nobody", by=RULES)
def _(put: Put) -> None:
    put(sender.Sender, "_tell_too_large", nothing)


# -- limits ------------------------------------------------------------------------------------------------------------


@bug("a limit is more to send and no total", by=WINDOW)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def grant(self: Any, limit: int, serial: int) -> bool:
            before = self.limit
            lowered = bool(right(self, limit, serial))
            self.limit = before + max(0, limit)
            return lowered

        return grant

    put(sender_credit.Credit, "grant", made)


@bug("a CREDIT that is older than one that was heard counts", by=WINDOW)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def grant(self: Any, limit: int, serial: int) -> bool:
            self.serial = -1
            return bool(right(self, limit, serial))

        return grant

    put(sender_credit.Credit, "grant", made)


@bug("what was left of the credit is carried over into the next session")
def _(put: Put) -> None:
    """What a broken connection has swallowed is never granted again."""
    carried: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()

    def opened(right: Any) -> Any:
        def open(self: Any, link: Any) -> None:
            right(self, link)
            for name, old in carried.setdefault(self, {}).get(link.instance, {}).items():
                link.credit(*name).sent = old.sent

        return open

    def closed(right: Any) -> Any:
        def close(self: Any, link: Any) -> None:
            carried.setdefault(self, {})[link.instance] = link.credits
            right(self, link)

        return close

    put(sender.Sender, "opened", opened)
    put(sender.Sender, "closed", closed)


@bug("a lowered limit is confirmed by its height and not by its number", by=WINDOW)
def _(put: Put) -> None:
    """The same limit said twice is ambiguous."""
    said: dict[tuple[int, int], int] = {}

    def say(right: Any) -> Any:
        def say(self: Any, channel: str, limit: int) -> Any:
            credit = right(self, channel, limit)
            said[id(self), credit.serial] = limit
            return credit

        return say

    def want(right: Any) -> Any:
        def want(self: Any, frame: Any) -> None:
            self.waiting, self.sent = frame.waiting, frame.sent
            height = said.get((id(self), frame.seen), 0)
            while len(self.promised) > 1 and frame.seen and self.promised[0][1] != height:
                self.promised.popleft()

        return want

    put(share.Share, "say", say)
    put(share.Share, "want", want)


@bug("what its owner says it has sent is forgotten where it has not come", by=WINDOW)
def _(put: Put) -> None:
    put(share.Share, "outstanding", lambda right: lambda self: max(0, self.highest() - self.received))


@bug("that nothing waits any more is not told", by=RULES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def tell(self: Any, link: Any, channel: str) -> None:
            if self.waiting(link, channel):
                right(self, link, channel)

        return tell

    put(wants.Wants, "tell", made)


# -- the window --------------------------------------------------------------------------------------------------------


@bug("a window holds only what runs at once", by=GROWS)
def _(put: Put) -> None:
    put(rate.Rate, "units_a_second", lambda right: lambda self: 0.0)


@bug(
    "a window holds what the handlers do in a second",
    by=ROW_6,
)
def _(put: Put) -> None:
    put(window.Window, "rate", lambda right: property(lambda self: 10 * right.fget(self)))


@bug("each link has a window of its own", by=ROW_2)
def _(put: Put) -> None:
    """The draft: a hundred busy senders make a worker hold a hundred windows."""
    put(window.Window, "room", lambda right: lambda self: right(self) + self.size * max(0, len(self._hungry) - 1))

    def made(right: Any) -> Any:
        def feed(self: Any) -> Any:
            hungry = self._hungry
            said = []
            for conn, part in list(hungry.items()):
                if part.booked < self.size:
                    said.append(self._raise(conn, part, self.size - part.booked))
            return said

        return feed

    put(window.Window, "_feed", made)


@bug("a window grows at once to what one tick has shown", by=GROWS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def tick(self: Any, now: float, running: int) -> None:
            right(self, now, running)
            wanted = int(self.concurrency + self.rate * self._config.horizon)
            self.size = max(self.concurrency, min(wanted, self._prefetch))

        return tick

    put(window.Window, "tick", made)


@bug("a window has no upper bound", by=GROWS)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def init(self: Any, *args: Any) -> None:
            right(self, *args)
            self._prefetch = 1 << 40

        return init

    put(window.Window, "__init__", made)


@bug("what a setting says of prefetch is not kept to", by=WINDOW)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def init(self: Any, channel: str, concurrency: int, config: Any, prefetch: int = 0) -> None:
            right(self, channel, concurrency, config)

        return init

    put(window.Window, "__init__", made)


@bug("time in which there is nothing to do counts for the rate", by=RULES)
def _(put: Put) -> None:
    put(rate.Rate, "tick", lambda right: lambda self, now, *, working, running: right(
        self, now, working=True, running=running))  # fmt: skip


@bug("a few that end in one moment are believed to do so again", by=WINDOW)
def _(put: Put) -> None:
    put(rate.Rate, "most", lambda right: lambda self, runners: float("inf"))


@bug(
    "who wants something first has all there is",
    by=(
        ROW_3,
        ROW_4,
    ),
)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def feed(self: Any) -> Any:
            room, said = self.room(), []
            for conn, part in list(self._hungry.items()):
                if room > 0:
                    said.append(self._raise(conn, part, room))
                    room = 0
            return said

        return feed

    put(window.Window, "_feed", made)


@bug("those who hold most are given to first", by=WINDOW)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def feed(self: Any) -> Any:
            said, room = [], self.room()
            part = max(1, (self.size - self._standing()) // len(self._hungry))
            for conn, each in sorted(self._hungry.items(), key=lambda item: -item[1].booked):
                more = min(part - each.booked, room)
                if more > 0:
                    said.append(self._raise(conn, each, more))
                    room -= more
            return said

        return feed

    put(window.Window, "_feed", made)


@bug(
    "what others hold beyond their part is not asked back",
    by=ASKED_BACK,
)
def _(put: Put) -> None:
    put(window.Window, "_ask_back", lambda right: lambda self, part, standing: [])


@bug("what was asked back is asked back again before it is confirmed", by=WINDOW)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def ask_back(self: Any, part: int, standing: int) -> Any:
            said = []
            for conn, each in list(self._hungry.items()):
                if (beyond := min(each.booked - part, each.allowed())) > 0:
                    said.append(self._lower(conn, each, each.allowed() - beyond))
            return said

        return ask_back

    put(window.Window, "_ask_back", made)


@bug("who wants nothing has no standing credit", by=LONE)
def _(put: Put) -> None:
    put(window.Window, "_stand", lambda right: lambda self: [])


@bug("credit is renewed with each message that ends", by=RENEWED)
def _(put: Put) -> None:
    put(window, "STEP", lambda right: 1 << 30)


# -- in turn -----------------------------------------------------------------------------------------------------------


@bug("a runner goes on with one sender as long as that has something", by=RULES)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def took(self: Any, box: int) -> None:
            if not self.turns[box]:
                right(self, box)

        return took

    put(desk._Channel, "took", made)


@bug("who comes back after a while stands behind those who have had a turn since", by=RULES)
def _(put: Put) -> None:
    put(desk._Channel, "took", lambda right: lambda self, box: (right(self, box), self.served.clear())[0])


@bug(
    "all that waits goes to one worker",
    by=ROW_1,
)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def pick(self: Any, channel: str, takers: Any) -> Any:
            return right(self, channel, takers[:1])

        return pick

    put(dispatch.Dispatch, "pick", made)


@bug("a lone message goes to whoever came first", by=WINDOW)
def _(put: Put) -> None:
    def made(right: Any) -> Any:
        def pick(self: Any, channel: str, takers: Any) -> Any:
            if self.waiting(channel) == 1:
                takers = takers[:1]
            return right(self, channel, takers)

        return pick

    put(dispatch.Dispatch, "pick", made)


@bug("what lies behind one long message stays there", by="tests/protocol/test_keys.py")
def _(put: Put) -> None:
    put(desk.Desk, "leave_lasting", lambda right: lambda self, channel, before: [])

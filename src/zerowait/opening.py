"""Where the rooms come together: what one client or app has open in a process, begun and ended in a visible order.

    open:   intakes (pushes are taken from here on) → network thread: directory, sockets, protocol
            → store thread: outbox file
    close:  what is held for durable groups goes into the outbox → intakes refuse → what is in flight ends, at most
            `drain` → network thread: goodbye → store thread: a last turn, files

Nothing here decides about messages.
"""

from __future__ import annotations

import atexit
import builtins
import logging
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from zerowait.callbacks import Callbacks, begin, running_loop
from zerowait.contract import packed, type_name
from zerowait.engines.brokerless.clock import clock
from zerowait.engines.brokerless.node import Node
from zerowait.engines.brokerless.plainly.ports import PlainPorts
from zerowait.engines.brokerless.telling import Stays
from zerowait.errors import UsageError, ZerowaitError
from zerowait.estate import Estate
from zerowait.feeds import Feeds
from zerowait.ground import Ground
from zerowait.outbox.entrance import Entrance
from zerowait.outbox.lane import Lane
from zerowait.pending import Promise
from zerowait.plains import Plains
from zerowait.receipts import Receipt
from zerowait.remains import remains
from zerowait.replies import Reply
from zerowait.requests.box import Requests
from zerowait.requests.bundle import Bundle
from zerowait.requests.entrance import Asking
from zerowait.results import Peers
from zerowait.settings import Settings
from zerowait.settings_fields import LONGEST
from zerowait.short import ShortWays
from zerowait.streams import Stream

if TYPE_CHECKING:
    from zerowait.codec import Codec
    from zerowait.engines.brokerless.protocol.effects import Say
    from zerowait.snapshot import Status

log = logging.getLogger("zerowait")

TOLD_S = 0.5  # for callbacks that wait their turn at the end


class Opened(Ground):
    """Everything that a client, or an app with its client, has open."""

    def __init__(
        self,
        name: str,
        settings: Settings,
        short: ShortWays,
        headers: Callable[[], Mapping[str, str]] | None,
    ) -> None:
        super().__init__(name, settings)
        self._short = short
        self._types: dict[str, tuple[bytes, Any]] = {}  # of each channel, as it was declared first
        self._closing: Promise[int] | None = None
        self.left: dict[tuple[str, str, bool], Stays] = {}  # once it is closed: (name of the outbox, channel, durable)
        self.unstored: dict[str, int] = {}  # likewise: channel → accepted, and in no outbox
        self.tells_left = True  # else whoever has it open says it himself
        self._at_exit = partial(_close_at_exit, weakref.ref(self))
        self._at_exit_of_child: Any = None
        self._lock = threading.Lock()
        self._error: ZerowaitError | None = None
        self._started: Promise[None] = self.promise("write `async with`")
        self.ports = PlainPorts(settings.message_bytes, refused=self.telling.refused)
        self.estate: Estate
        self.plains = Plains(self)
        self.feeds = Feeds(
            self, short.events, headers, group_lane=self._group_lane, plains=self.plains, ports=self.ports
        )
        self.node = Node(
            name,
            settings,
            submit=lambda box, epoch, changes, drawn: self.estate.submit(box, epoch, changes, drawn),
            reopen=lambda box, floor: self.estate.reopen(box, floor),
            answer=self._answer,
            notice=self._say,
            buried=self.telling.dead_lettered,
            lonely=self._lonely,
            wall_us=self.wall_us,
            plainly=self.ports,
            pressure=lambda before: self.estate.pressure(before),
            waiting=self._waiting,
            topical=self.feeds.topical,
        )
        self.estate = Estate(self, short.pushes)
        self.publish = self.feeds.publish
        self.subscribe = self.feeds.subscribe
        self.subscribers = self.feeds.subscribers
        self.publishers = self.feeds.publishers
        self.entrance = Entrance(
            settings,
            intake=self.estate.intake,
            plain=self.plains.intake,
            short=short.pushes,
            want=self.node.want,
            declare=self.declare,
            headers=headers,
            other_kind=self.node.other_kind,
        )
        self.asking = Asking(
            settings,
            intake=lambda: self.asked().intake,
            requests=self.asked,
            short=short.requests,
            use=self.use,
            headers=headers,
            other_kind=self.node.other_kind,
            clock=clock,
            plain=self.plains.requests,
        )
        self.requests: Requests | None = None

    # -- the parts -----------------------------------------------------------------------------------------------------

    def _lonely(self, channel: str, served: Sequence[str], troubles: Mapping[str, str]) -> None:
        waiting = 0
        for box in self.estate.boxes():
            row = box.ledger.rows().get(channel)
            if row is not None:
                waiting += row.waiting_and_in_flight - self.node.in_flight(box.id).get(channel, 0)
        self.telling.lonely(channel, waiting, served, troubles, self.node.silent(channel))

    def _waiting(self) -> set[str]:
        asked = (name for each in self.all_requests() for name, counts in each.counts().items() if counts.outstanding)
        return {*self.estate.inventory.waiting(), *asked}

    def declare(self, channel: str, codec: Codec[Any]) -> None:
        description = self._one_type(channel, codec)
        self.estate.declare(channel, description)
        self.node.declare(channel, description)

    def _one_type(self, channel: str, codec: Codec[Any]) -> bytes:
        """What this process sends there, which is one type: workers are compared with all that an outbox holds of a
        channel, so that a single push of another type would keep what is right from going anywhere."""
        description = packed(codec.describe())
        if codec.type in (Any, object):
            return description
        known, first = self._types.setdefault(channel, (description, codec.type))
        if known != description:
            here, there = type_name(codec.type), type_name(first)
            raise UsageError(
                f"{channel} carries {there} in this process, and {here} is sent to it here. "
                "Nothing was taken. Declare the channel once, in a module that both ends import."
            )
        return known

    def _group_lane(self, channel: str, codec: Codec[Any]) -> Lane:
        lane = Lane(self.estate.intake(True), channel)
        self.declare(channel, codec)
        self.node.want(channel)
        return lane

    def use(self, channel: str, kind: str, idempotent: bool, codec: Codec[Any]) -> None:
        description = self._one_type(channel, codec)
        self.node.use(channel, kind, idempotent=idempotent)
        self.node.declare(channel, description)
        self.node.want(channel)

    def asked(self) -> Requests:
        """The outbox of requests; opened with the first of them."""
        with self._lock:
            if self.requests is None:
                intake = self.estate.new_intake(durable=False, limits=self.memory_limits, wake=self.node.outboxes.asked)
                intake.box, intake.make = self.node.instance, Bundle
                self.requests = requests = Requests(
                    self.node.instance,
                    self.name,
                    intake,
                    epoch=self.now_us() // 1_000,
                    drop=self.node.drop,
                    feed=self.node.feed,
                    wake=self.node.outboxes.asked,
                    served=self.served_in_words,
                    silent=self.node.silent,
                    no_responder=self.settings.no_responder,
                )
                if self._closing is not None:
                    intake.close(self.name)
                if self._error is not None:
                    requests.refuse(self._error)
                self.node.call(lambda: self.node.ask(requests))
            return self.requests

    def all_requests(self) -> list[Requests]:
        """Those of our own links, and those that go to bare sockets."""
        return [*([self.requests] if self.requests is not None else []), *self.plains.asked()]

    def _say(self, said: Say, peer: str) -> None:
        if said.topic == "kind":
            self._short.end_at(said.channel)
        self.telling.say(said, peer)

    # -- what a client asks --------------------------------------------------------------------------------------------

    def is_ours(self) -> bool:
        """Whether this is the process that opened it, and not a child of it."""
        return self.pid == os.getpid()

    def accept(self, to: Any, value: Any, options: Mapping[str, Any]) -> Receipt:
        return Receipt(*self.entrance.accept(to, value, options))

    def ask(self, to: Any, value: Any, options: Mapping[str, Any]) -> Reply[Any]:
        return Reply(*self.asking.ask("request", to, value, options))

    def stream(self, to: Any, value: Any, options: Mapping[str, Any]) -> Stream[Any]:
        return Stream(*self.asking.ask("stream", to, value, options))

    def workers(self, of: Any) -> Peers:
        name = of if isinstance(of, str) else of.name
        self.plains.refuse_peers(name, of, "workers")
        if isinstance(of, str):
            self.node.ask_for(name)
        elif of.kind == "push":
            self.declare(name, of.codec())
            self.node.want(name)
        else:
            self.use(name, of.kind, of.terms.idempotent, of.codec())
        return Peers(self, "workers", name)

    def status(self) -> Status:
        from zerowait.observing import status_of

        return status_of(self)

    def listen(self, kind: type[Any], fn: Callable[[Any], object]) -> Callable[[], None]:
        return self.telling.listen(kind, fn)

    def in_short(self) -> str:
        waiting = sum(sum(ledger.unsettled().values()) for ledger in self.estate.inventory.ledgers())
        peers = sum(1 for peer in self.node.peers() if peer.state == "up") if self._started.done() else 0
        return f"{peers} peers, {waiting} waiting"

    def _answer(self, body: bytes, reply: Callable[[bytes], None]) -> None:
        from zerowait.observing import answer

        answer(self, body, reply)

    # -- opening -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        self.node.start(self._has_started)
        atexit.register(self._at_exit)
        if "multiprocessing.util" in sys.modules:
            # A child of multiprocessing ends by os._exit, which knows nothing of atexit; these it does run.
            from multiprocessing.util import Finalize

            self._at_exit_of_child = Finalize(None, self._at_exit, exitpriority=10)

    def _has_started(self, error: ZerowaitError | None) -> None:
        """On the network thread: it listens, or it never will."""
        if error is not None:
            self._error = error
            self.estate.fail(error)
            self._short.requests.clear()
            if self.requests is not None:
                self.requests.refuse(error)
            self.plains.fail(error)
            self.feeds.fail(error)
            self._started.fail(error)
            return
        self.estate.settle_in(self._has_boxes)

    def _has_boxes(self, error: ZerowaitError | None) -> None:
        if error is not None:
            self._error = error
            self._started.fail(error)
        else:
            self._started.set(None)

    def started(self) -> Promise[None]:
        return self._started

    # -- in a forked child ---------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """In a forked child: what is open is the parent's."""
        self.estate.abandon()
        if self.node.directory is not None:
            self.node.directory.after_fork_in_child()

    # -- closing -------------------------------------------------------------------------------------------------------

    def close(self, drain: float | None = None) -> Promise[int]:
        with self._lock:
            if self._closing is None:
                closing = self._begin_closing()
                seconds = self.settings.drain if drain is None else min(drain, LONGEST)
                name = f"zerowait closing {self.name}"
                begin(threading.Thread(target=self._close, args=(closing, seconds), name=name, daemon=True))
            assert self._closing is not None
            return self._closing

    def close_here(self) -> None:
        """The same on this thread: when the interpreter ends, no thread can be started any more."""
        with self._lock:
            if self._closing is not None:
                return
            closing = self._begin_closing()
        self._close(closing, self.settings.drain)

    def _begin_closing(self) -> Promise[int]:
        self._closing = closing = self.promise("write `await zw.close()`")
        self.plains.close(self.name)
        self.feeds.close()
        if self.requests is not None:
            self.requests.intake.close(self.name)
        if not self.feeds.groups.is_holding():  # else that goes into the outbox first
            self._close_intakes()
        return closing

    def _close_intakes(self) -> None:
        for intake in self.estate.intakes():
            intake.close(self.name)

    def _close(self, promise: Promise[int], drain: float) -> None:
        began = time.monotonic()
        try:
            if self._error is None:
                self._wait_for_opening(began + max(drain, 1.0))
                self._wait_for_groups(began + max(drain, 1.0))
                self._close_intakes()
                self._wait_for_workers(began, began + drain)
        except Exception:
            log.exception("waiting for workers while closing %s went wrong; it is closed all the same", self.name)
        left: dict[tuple[str, str, bool], int] = {}
        try:
            stays = remains(self.estate, self.node) if self._error is None else {}
            # The network first: a file that is given up must not be sent from any more.
            self.node.stop(final=self.estate.inventory.is_settled())
            for requests in self.all_requests():
                requests.close()
            self.feeds.end()
            left = self.estate.close()
            self.node.outboxes.tell_last_letters()
            self.left = {where: stays.get(where, Stays()).of(count) for where, count in left.items() if count}
            self.unstored = self.estate.unstored()
            if self.tells_left:
                self.telling.left(self.left, self.estate.folder(), self.ports.left())
                self.telling.unstored(self.unstored)
        except Exception as error:
            log.exception("closing %s went wrong", self.name)
            promise.fail(error)
        finally:
            atexit.unregister(self._at_exit)
            if self._at_exit_of_child is not None:
                self._at_exit_of_child.cancel()
            self.callbacks.flush(TOLD_S)  # whoever has waited for the end knows by then what came before it
            promise.set(sum(count for (_, _, durable), count in left.items() if durable))
            self.callbacks.stop()

    def _wait_for_opening(self, until: float) -> None:
        try:
            self._started.result(max(0.0, until - time.monotonic()))
        except (TimeoutError, ZerowaitError):
            return

    def _wait_for_groups(self, until: float) -> None:
        """What was published before it was known for which durable groups it is to be kept."""
        if self.feeds.groups.is_holding():
            with suppress(TimeoutError, ZerowaitError):
                self.feeds.groups.read().result(max(0.0, until - time.monotonic()))

    def _wait_for_workers(self, began: float, until: float) -> None:
        """While something is in flight or workers take more; a second for addresses that have not answered (rules
        §11.2)."""
        pause = 0.002
        while time.monotonic() < until and self._error is None:
            stored = self.estate.inventory.is_stored()
            if stored:
                with suppress(TimeoutError, ZerowaitError):  # what is stored has been offered, too
                    self.estate.turned().result(max(0.0, until - time.monotonic()))
            nothing_left = self.estate.inventory.is_settled() and not any(self.ports.left().values())
            plain_may_go = self._plain_may_go(began)
            patient = not nothing_left and time.monotonic() - began < 1.0
            settled = self.node.call(partial(self.node.is_settled, patient)).result(5.0)
            if stored and settled and not plain_may_go:
                return
            time.sleep(pause)  # not to synchronise: a slow look at what other threads do, until the deadline
            pause = min(0.02, pause * 1.5)

    def _plain_may_go(self, began: float) -> bool:
        """A bare peer says nothing of itself, so that what waits for one gets two seconds."""
        return time.monotonic() - began < 2.0 and any(self.ports.left().values())


def open_client(
    name: str,
    settings: Settings | None,
    short: ShortWays,
    headers: Callable[[], Mapping[str, str]] | None,
) -> Opened:
    """The first verb of a client: everything begins in the background."""
    refuse_green_threads()
    opened = Opened(name, settings if settings is not None else Settings.load(), short, headers)
    opened.start()
    return opened


def _close_at_exit(opened: weakref.ref[Opened]) -> None:
    mine = opened()
    if mine is not None and mine.is_ours():
        mine.close_here()


def nothing_to_close(name: str) -> Promise[int]:
    promise: Promise[int] = Promise(Callbacks(name), "await it")
    promise.set(0)
    return promise


def refuse_green_threads() -> None:
    """Threads that gevent or eventlet has put its own in place of share one real thread: the first wait of the network
    thread, which is in C, would stop them all."""
    for name, patched, remedy in (
        ("gevent", "is_module_patched", "gevent.monkey.patch_all(thread=False)"),
        ("eventlet", "is_monkey_patched", "eventlet.monkey_patch(thread=False)"),
    ):
        module = sys.modules.get("gevent.monkey" if name == "gevent" else "eventlet.patcher")
        asked = getattr(module, patched, None)
        if asked is not None and asked("threading" if name == "gevent" else "thread"):
            raise UsageError(
                f"{name} has patched threads, and zerowait's would all be one: the first wait would stop the program. "
                f"Leave them real: {remedy}, or use zerowait in a process of its own."
            )


def refuse_blocking(instead: str) -> None:
    """A plain `with` on a thread whose event loop runs would block it."""
    if running_loop() is not None and not hasattr(builtins, "__IPYTHON__"):
        raise UsageError(f"`with` would block the event loop that runs on this thread: write `{instead}`.")

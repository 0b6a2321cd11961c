"""The client: verbs that return at once. What they start lives in `opening`; no logic of delivery is here."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import AsyncIterable, Callable, Iterable, Mapping
from contextlib import suppress
from functools import partial
from importlib import import_module
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar, overload

from zerowait.ambient import AROUND, DEADLINE
from zerowait.errors import UsageError, ZerowaitError
from zerowait.message import BODY_START, SEGMENT_BYTES, SEGMENT_MESSAGES
from zerowait.names import check_process
from zerowait.pending import Pending
from zerowait.publications import Published
from zerowait.receipts import Receipt
from zerowait.replies import Reply
from zerowait.settings import Settings
from zerowait.short import ShortWays

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self, Unpack

    from zerowait.channels import (
        PushChannel,
        PushOptions,
        RequestChannel,
        RequestOptions,
        StreamChannel,
        StreamOptions,
    )
    from zerowait.mapping import MapOptions, Results
    from zerowait.opening import Opened
    from zerowait.outbox.lane import Lane
    from zerowait.results import Peers
    from zerowait.snapshot import Status
    from zerowait.streams import Stream
    from zerowait.subscriptions import CollectOptions, Subscription
    from zerowait.topic import Topic

In = TypeVar("In")
Out = TypeVar("Out")
_ROOMS = ("zerowait.opening", "zerowait.observing", "zerowait.loading", "zerowait.mapping")
T = TypeVar("T")


class Client:
    """Sends. Usable from any thread and any event loop; it belongs to none.

    name: lasting, `[A-Za-z0-9_-]{1,64}`. What a process of this name leaves undelivered is found and delivered by the
    next one. Several processes may share it. settings: in place of those of the machine (`Settings.load()`, at first
    use). headers: called at each push; what it gives goes along, under what the call itself says.

    Making one starts nothing. The first verb opens it in the background and does not wait; `with` and `async with` wait
    for that, and at their end for `close()`. Whatever was not closed is closed when the program ends. After a fork the
    child's first verb opens its own.
    """

    def __init__(
        self, name: str, *, settings: Settings | None = None, headers: Callable[[], Mapping[str, str]] | None = None
    ) -> None:
        self.name = check_process(name, "a client")
        self._settings = settings
        self._headers = headers
        self._short = ShortWays()
        self._lanes = self._short.pushes  # at hand, as the next two are, for who pushes a million times
        self._asks = self._short.requests
        self._topics = self._short.events
        self._opened: Opened | None = None
        self._inherited: list[Opened] = []  # in a forked child: the parent's
        self._watches_forks = False
        self._closed = False
        self._lock = threading.RLock()
        for room in _ROOMS:  # here and not at the first verb, for which an event loop may have to stand still
            import_module(room)

    # -- sending -----------------------------------------------------------------------------------------------------

    @overload
    def push(self, to: PushChannel[In], value: In, **options: Unpack[PushOptions]) -> Receipt: ...
    @overload
    def push(self, to: str, value: object, **options: Unpack[PushOptions]) -> Receipt: ...
    def push(self, to: Any, value: Any, **options: Any) -> Receipt:
        """Accepts one message for one of the workers of the channel, and returns at once.

        The receipt is done when the message is safe: on disk, or in memory with `durable=False`. From then on it is
        delivered, however often this process, its workers or the connections between them break; at least once, and
        again only for the causes listed in the documentation. Options: see `PushOptions`; seconds everywhere.

        Raises QueueFull, EncodeError, TooLarge, StoreError, Closed, all of `zerowait.errors`; then nothing was taken.
        After a QueueFull wait for room, `await error.room` or `error.room.result()`, and push again. UsageError for a
        program that must be changed.
        """
        # The short way takes no lock and makes one small object; `zerowait.outbox.intake` tells why each line is as it
        # is. All other ways begin outside the `except`s: the KeyError of a first push is no context of what it raises.
        try:
            lane = self._lanes[to]
        except (KeyError, TypeError):
            pass
        else:
            if not options and type(value) is lane.exact:
                slot = lane.slot
                try:
                    sheaf = slot.pop()
                except IndexError:
                    pass
                else:
                    try:
                        encode_into, buffer, ends = lane.encode_into, sheaf.buffer, sheaf.ends
                        encode_into(value, buffer, -1)  # type: ignore[misc]  # a lane with `exact` has it
                        index = len(ends)
                        ends.append(size := len(buffer))
                        if size > sheaf.most_bytes or index >= sheaf.last_index:
                            sheaf, slot, mine, index = lane.full(sheaf)
                            return Receipt(mine, index)
                        return Receipt(sheaf, index)
                    except BaseException as error:
                        # No call: nothing can interrupt it.
                        del sheaf.buffer[sheaf.ends[-1] if sheaf.ends else BODY_START :]
                        if isinstance(error, ZerowaitError) or not isinstance(error, Exception):
                            raise
                    finally:
                        slot.append(sheaf)
                    return self._push(to, value, options)  # the careful way: it says what is wrong, or can do it
                return self._first(to, lane, value)
        return self._push(to, value, options)

    def _first(self, to: Any, lane: Lane, value: Any) -> Receipt:
        if (told := AROUND.get()) is not None:
            told(to)
        try:
            return Receipt(*lane.first(value))
        except ZerowaitError:
            raise
        except Exception:
            pass
        return self._push(to, value, {})

    def _push(self, to: Any, value: Any, options: dict[str, Any]) -> Receipt:
        """The way of everything that is not plain: options, other types, the first push to a channel."""
        if (told := AROUND.get()) is not None:
            told(to)
        return self._open().accept(to, value, options)

    def push_all(
        self,
        to: PushChannel[In] | str,
        values: Iterable[In] | AsyncIterable[In],
        *,
        key: Callable[[In], str | None] | None = None,
        durable: bool | None = None,
        ttl: float | None = None,
        priority: str = "normal",
        progress: bool = False,
    ) -> Pending[int]:
        """Pushes all of an iterable, also an async one, and gives how many; done when all of them are safe.

        A loader's verb: it takes from `values` only while somebody waits for it (`result()`, `await`), on that thread
        or loop, and holds back while the outbox is full. A timeout or a cancelled `await` ends that waiting only: the
        next one goes on where it stopped. What it has pushed when an error ends it stays pushed.
        key: gives the key of a value, as `push(…, key=)` takes it, or None for none. What it raises, or what is no key,
        names the index of the value, of which nothing is taken.
        progress: shows a bar on stderr (extra `rich`).
        """
        from zerowait.loading import Loading
        from zerowait.progress import check_progress

        check_progress(progress)
        if key is not None and not callable(key):
            raise UsageError(f"push_all() takes as key= a function that gives the key of a value, not {key!r:.80}.")
        options = {"durable": durable, "ttl": ttl, "priority": priority}
        kept = {name: value for name, value in options.items() if value is not None and value != "normal"}
        frame = sys._getframe(1)
        caller = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        return Loading(self._open().callbacks, self.push, to, values, kept, progress, caller, key)

    @overload
    def request(self, to: RequestChannel[In, Out], value: In, **options: Unpack[RequestOptions]) -> Reply[Out]: ...
    @overload
    def request(
        self, to: str, value: object, *, returns: type[Out], **options: Unpack[RequestOptions]
    ) -> Reply[Out]: ...
    @overload
    def request(
        self, to: str, value: object, *, returns: Any = ..., **options: Unpack[RequestOptions]
    ) -> Reply[Any]: ...
    def request(self, to: Any, value: Any, **options: Any) -> Reply[Any]:
        """Asks one of the workers of the channel, and returns at once: `await` the reply, or ask for its `result()`.

        It ends with one answer or one exception before its deadline, whichever worker dies: see Reply. Options: see
        RequestOptions; seconds everywhere. returns: with a channel's name, the type of the answer. Any number may be
        outstanding, as far as `memory_messages` and `memory_bytes` reach; answers come in any order.

        Raises QueueFull, EncodeError, TooLarge, Closed, all of `zerowait.errors`; then nothing was taken. UsageError
        for a program that must be changed.
        """
        try:
            lane = self._asks[to]
        except (KeyError, TypeError):
            pass
        else:
            if not options and type(value) is lane.exact and DEADLINE.get() is None:
                try:
                    return Reply(*lane.put(value))
                except ZerowaitError:
                    raise
                except Exception:
                    pass  # the careful way says what is wrong, or can do it
        return self._open().ask(to, value, options)

    @overload
    def map(
        self, to: RequestChannel[In, Out], values: Iterable[In] | AsyncIterable[In], **options: Unpack[MapOptions]
    ) -> Results[In, Out]: ...
    @overload
    def map(
        self,
        to: str,
        values: Iterable[In] | AsyncIterable[In],
        *,
        returns: type[Out],
        **options: Unpack[MapOptions],
    ) -> Results[In, Out]: ...
    @overload
    def map(
        self, to: str, values: Iterable[In] | AsyncIterable[In], **options: Unpack[MapOptions]
    ) -> Results[In, Any]: ...
    def map(self, to: Any, values: Any, **options: Any) -> Results[Any, Any]:
        """Asks about all values, spread over all workers there are and those that join half-way, and gathers the
        answers: `result()`, `await`, `for` or `async for` in the order of the values, `as_completed()` as they come.

        At least once: what a worker held that died is given to another, so it wants handlers that may run twice; a
        value that ends each process that runs it is given up (`crash_limit`). It takes from `values`, also async ones,
        only while somebody waits or iterates, on that thread or loop, and never more than `window` (1,000) that are not
        answered. timeout: seconds for each value from when it is asked about; no end unless said. progress: shows a bar
        on stderr (extra `rich`). returns: with a channel's name, the type of the answers.

        Raises UsageError for a program that must be changed; all else is raised by whoever waits, see Results.
        """
        from zerowait.mapping import results_of

        frame = sys._getframe(1)
        caller = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        opened = self._open()
        return results_of(self.request, opened.callbacks, to, values, options, caller, opened.settings.crash_limit)

    @overload
    def stream(self, to: StreamChannel[In, Out], value: In, **options: Unpack[StreamOptions]) -> Stream[Out]: ...
    @overload
    def stream(self, to: str, value: object, *, yields: type[Out], **options: Unpack[StreamOptions]) -> Stream[Out]: ...
    @overload
    def stream(self, to: str, value: object, *, yields: Any = ..., **options: Unpack[StreamOptions]) -> Stream[Any]: ...
    def stream(self, to: Any, value: Any, **options: Any) -> Stream[Any]:
        """Asks for many answers, and returns at once: `for` and `async for` over the stream give them as they come.

        A slow reader holds the producer. Leaving the loop early, or the stream's `with`, stops it. yields: with a
        channel's name, the type of the items. Raises what `request` raises.
        """
        return self._open().stream(to, value, options)

    # -- topics ------------------------------------------------------------------------------------------------------

    @overload
    def publish(
        self, to: Topic[T], value: T, *, retain: bool | None = None, headers: Mapping[str, str] | None = None
    ) -> Pending[int]: ...
    @overload
    def publish(
        self, to: str, value: object, *, retain: bool | None = None, headers: Mapping[str, str] | None = None
    ) -> Pending[int]: ...
    def publish(self, to: Any, value: Any, *, retain: Any = None, headers: Any = None) -> Pending[int]:
        """Tells all who subscribe to the topic, and returns at once; the number is to how many it is addressed.

        A subscriber that is slow misses events and knows how many; it slows nobody. For durable groups it is safe once
        it is done. retain: whether it is kept as the topic's last value for those who join later, in place of what the
        topic says. headers: text, 8 KiB in all.

        Raises EncodeError, TooLarge, Closed; QueueFull where a subscriber of a `reliable` topic or a durable group has
        no room; then nothing was taken. UsageError for a program that must be changed.
        """
        # The short way takes no lock: `zerowait.topics.bundle` tells how.
        try:
            lane = self._topics[to]
        except (KeyError, TypeError):
            pass
        else:
            if type(value) is lane.exact and retain is None and headers is None:
                slot = lane.slot
                try:
                    bundle = slot.pop()
                except IndexError:
                    pass
                else:
                    try:
                        press = lane.press
                        if bundle is press.newest:
                            buffer, ends = bundle.buffer, bundle.ends
                            lane.encode_into(value, buffer, -1)
                            if bundle.lane is not lane:
                                bundle.turn(lane)
                            if (size := len(buffer)) <= SEGMENT_BYTES:
                                ends.append(size)
                                if len(ends) >= SEGMENT_MESSAGES:
                                    slot = press.closed
                                return Published(bundle, lane)
                            bundle.undo()  # the careful way gives it a bundle of its own
                        slot = press.closed
                    except BaseException as error:
                        bundle.undo()
                        if not isinstance(error, Exception):
                            raise
                    finally:
                        slot.append(bundle)
        options = {"retain": retain, "headers": headers}
        return self._open().publish(to, value, {name: said for name, said in options.items() if said is not None})

    @overload
    def subscribe(self, to: Topic[T], **options: Unpack[CollectOptions]) -> Subscription[T]: ...
    @overload
    def subscribe(self, to: str, *, yields: type[T], **options: Unpack[CollectOptions]) -> Subscription[T]: ...
    @overload
    def subscribe(self, to: str, **options: Unpack[CollectOptions]) -> Subscription[Any]: ...
    def subscribe(self, to: Any, **options: Any) -> Any:
        """Collects the events of a topic, or of all that its pattern matches, from this call on.

        replay: how many of the last events come first, as far as publishers keep them (`Topic(history=)`);
        replay_seconds: those of the last seconds; with both, what both allow. queue: how many events of a publisher may
        wait to be looked at; then overflow says what becomes of the next: "drop_oldest" drops the oldest that are not
        on their way here yet, "conflate" keeps the newest of each topic, "disconnect" ends the subscription, and its
        loop raises Overflowed. idle: the loop ends after so many seconds without an event. yields: the type of the
        values, where the topic is given by its name.

        Raises UsageError for options that make no sense and for more than 4,096 subscriptions at a time, and Closed.
        """
        return self._open().subscribe(to, options)

    # -- looking -----------------------------------------------------------------------------------------------------

    def subscribers(self, of: Topic[Any] | str) -> Peers:
        """Who has subscribed to this topic, or to something of its pattern. `at_least(n)`: what is published after it
        is done reaches n of them, without any sleep."""
        return self._open().subscribers(of)

    def publishers(self, of: Topic[Any] | str) -> Peers:
        """Who publishes something of this topic, and knows of our subscriptions to it."""
        return self._open().publishers(of)

    def workers(self, of: PushChannel[Any] | RequestChannel[Any, Any] | StreamChannel[Any, Any] | str) -> Peers:
        """Who serves this channel now. `at_least(n)` is the synchronised start: a Pending, done when so many are
        there."""
        return self._open().workers(of)

    def status(self) -> Status:
        """The ledger of each channel, exact at this instant, and the peers. Reads only.

        Waits half a second at most: what a busy thread of this client does not say by then is left away (no peers, no
        `oldest_at`) and named in `unknown`; so is what an earlier life has left in an outbox that is being opened. On
        an event loop it does not wait at all: `oldest_at` is there what the call before found out, and is left away,
        and named, at the first.
        """
        return self._open().status()

    def listen(self, kind: type[In], fn: Callable[[In], object]) -> Callable[[], None]:
        """Calls `fn` with each notice of this kind (see `zerowait.notices`), on the callback thread. Gives what stops
        it."""
        return self._open().listen(kind, fn)

    # -- opening and closing -------------------------------------------------------------------------------------------

    def _open(self) -> Opened:
        opened = self._opened
        if opened is not None and not self._closed and opened.is_ours():
            return opened
        with self._lock:
            if self._closed:
                from zerowait.errors import Closed

                raise Closed(name=self.name)
            if self._opened is None or not self._opened.is_ours():
                from zerowait.opening import open_client

                self._short.end()
                self._watch_forks()
                self._opened = open_client(self.name, self._settings, self._short, self._headers)
            return self._opened

    def _watch_forks(self) -> None:
        if not self._watches_forks:
            self._watches_forks = True
            here: weakref.ref[Client] = weakref.ref(self)
            os.register_at_fork(after_in_child=partial(_forked, here, self._short))

    def close(self, drain: float | None = None) -> Pending[int]:
        """Accepts nothing more, and waits in the background while workers take what is left.

        drain: seconds at most, None for the setting (5). The result is how many messages stay on disk; a log line says
        for which channels, where, and who will deliver them. A verb on a closed client raises Closed; entering it opens
        it again. UsageError if drain is not a number of seconds, 0 or more.
        """
        number = isinstance(drain, (int, float)) and not isinstance(drain, bool)
        if drain is not None and not (number and 0 <= drain < inf):
            raise UsageError(
                f"close(drain) takes seconds, finite and 0 or more, or None for the setting, not {drain!r}."
            )
        with self._lock:
            self._closed = True
            self._short.end()
            if self._opened is None or not self._opened.is_ours():
                from zerowait.opening import nothing_to_close

                return nothing_to_close(self.name)
            return self._opened.close(drain)

    def __enter__(self) -> Self:
        from zerowait.opening import refuse_blocking

        refuse_blocking("async with")
        while (before := self._before()) is not None:
            before.close().exception()  # it was logged
            self._is_over(before)
        try:
            self._open().started().result()
        except BaseException as error:
            # Nothing of a failed opening stays, so that the next `with` tries anew.
            closing = self.close(0)
            if isinstance(error, Exception):
                closing.exception()
            raise
        return self

    def _before(self) -> Opened | None:
        """What was closed and must have ended before this can be open again. None: from here on it is not closed."""
        with self._lock:
            if self._closed and self._opened is not None and self._opened.is_ours():
                return self._opened
            self._closed = False
            return None

    def _is_over(self, before: Opened) -> None:
        with self._lock:
            if self._opened is before:
                self._opened = None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close().result()

    async def __aenter__(self) -> Self:
        while (before := self._before()) is not None:
            with suppress(Exception):  # it was logged
                await before.close()
            self._is_over(before)
        try:
            await self._open().started()
        except BaseException as error:
            closing = self.close(0)
            if isinstance(error, Exception):
                with suppress(Exception):
                    await closing
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        opened = self._opened
        state = "closed" if self._closed else "not open" if opened is None else opened.in_short()
        return f"<Client {self.name}: {state}>"

    def __reduce__(self) -> Any:
        raise UsageError(f"A client cannot be pickled: make one in the process that uses it, as Client({self.name!r}).")


def _forked(client: weakref.ref[Client], short: ShortWays) -> None:
    """In a child: the short ways end, so that its first verb opens its own. The parent's things stay referenced and
    untouched: were they collected here, closing them would close the parent's."""
    short.end()
    mine = client()
    if mine is not None:
        mine._lock = threading.RLock()  # another thread of the parent's may have held the old one
    opened = mine._opened if mine is not None else None
    if mine is not None and opened is not None:
        mine._inherited.append(opened)
        opened.abandon()

"""What verbs return: objects that one may ask, wait for on a thread, or await in a loop. Nothing here waits by itself.

A `Pending` belongs to no loop and no thread. What it knows it asks of something else (a receipt asks the sheaf its
message lies in), so a push that nobody asks about pays for one small record and nothing more.
"""

from __future__ import annotations

import builtins
import copy
import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from msgspec import MsgspecError, Struct, msgpack

from zerowait.errors import Cancelled, Dead, Expired, OutcomeUnknown, UsageError, ZerowaitError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from typing import Self

    from zerowait.outbox.sheaf import Sheaf

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Pending(Struct, Generic[T_co], gc=False, eq=False):
    """Something that will be there: `result()` waits for it on a thread, `await` in a loop, as often as one likes.

    `done()` never waits. Cancelling the task that awaits it cancels nothing else.
    """

    def done(self) -> bool:
        """Whether `result()` would return, or raise, at once."""
        raise NotImplementedError

    def _value(self) -> T_co:
        """The result, once it is done. Raises what waiting for it raises."""
        raise NotImplementedError

    def _watch(self, call: Callable[[], object]) -> None:
        """Calls back once when it is done, on whatever thread notices; at once if it is done."""
        raise NotImplementedError

    def _unwatch(self, call: Callable[[], object]) -> None:
        """Takes back a `_watch` that has not called yet; nothing if it has."""
        raise NotImplementedError

    def _here(self) -> None:
        """Raises UsageError in a forked child, where what it waits for never comes."""

    def _same(self, other: object) -> bool:
        """Whether both stand for one thing."""
        return self is other

    def _callbacks(self) -> Callbacks:
        raise NotImplementedError

    def _line(self) -> str:
        """What to write in place of a wait that would block a loop."""
        return "await it"

    def result(self, timeout: float | None = None) -> T_co:
        """Waits until it is done and gives it, or raises what became of it.

        timeout: seconds, None for no end. TimeoutError ends the waiting and nothing else. UsageError on a thread whose
        event loop runs (there: `await`), unless it is done already, and in a forked child of the process it is of.
        """
        self._here()
        if not self.done():
            self._refuse_on_a_loop()
            over = threading.Event()
            tell = over.set
            self._watch(tell)
            try:
                over.wait(timeout)
            finally:
                if not over.is_set():
                    self._unwatch(tell)
            if not over.is_set() and not self.done():
                raise TimeoutError(f"not done within {timeout:g} s; nothing was cancelled: {self!r}")
        return self._value()

    def exception(self, timeout: float | None = None) -> Exception | None:
        """As `result`, but gives the error in place of raising it; None if there is none."""
        self._here()
        if not self.done():
            try:
                self.result(timeout)
            except TimeoutError:
                if not self.done():
                    raise
            except UsageError:
                if not self.done():
                    raise
            except Exception as error:
                return error
        try:
            self._value()
        except Exception as error:
            return error
        return None

    def cancelled(self) -> bool:
        """Whether it was ended by your own `cancel()` or `withdraw()`."""
        return self.done() and isinstance(self.exception(), Cancelled)

    def add_done_callback(self, fn: Callable[[Self], object]) -> None:
        """Calls `fn(self)` once it is done: in the loop this is called from, else on zerowait's callback thread."""
        self._here()
        loop = running_loop()
        callbacks = self._callbacks()
        call = _Call(fn, self)

        def over() -> None:
            if loop is None:
                callbacks.call(call)
            else:
                try:
                    loop.call_soon_threadsafe(call)
                except RuntimeError:  # the loop is closed: nobody is there to be told
                    call.drop()

        call.watcher = over
        callbacks.remember(call)
        self._watch(over)

    def remove_done_callback(self, fn: Callable[[Self], object]) -> int:
        """Forgets every registration of `fn`; gives how many there were."""
        forgotten = self._callbacks().forget(self, fn)
        for watcher in forgotten:
            self._unwatch(watcher)
        return len(forgotten)

    def __await__(self) -> Generator[Any, None, T_co]:
        self._here()
        if not self.done():
            import asyncio

            loop = asyncio.get_running_loop()
            over: asyncio.Future[None] = loop.create_future()

            def tell() -> None:
                if not over.done():
                    over.set_result(None)

            def notice() -> None:
                try:
                    loop.call_soon_threadsafe(tell)
                except RuntimeError:
                    return  # the loop is closed: nobody awaits any more

            self._watch(notice)
            try:
                yield from over
            except GeneratorExit:
                raise  # perhaps from the garbage collection, on a thread that holds the very lock `_unwatch` takes
            except BaseException:
                self._unwatch(notice)
                raise
        return self._value()

    def _refuse_on_a_loop(self) -> None:
        if running_loop() is not None and not hasattr(builtins, "__IPYTHON__"):
            raise UsageError(f"This would block the event loop that runs on this thread: {self._line()} instead.")
        if getattr(threading.current_thread(), "is_zerowait_callbacks", False):
            raise UsageError("This would wait inside a done-callback, which keeps all other callbacks from running.")


def running_loop() -> AbstractEventLoop | None:
    """The event loop that runs on this thread. asyncio is not imported for the question."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return None
    loop: AbstractEventLoop | None = asyncio._get_running_loop()
    return loop


class _Call:
    """A registered callback: called at most once, and not after it was removed."""

    __slots__ = ("fn", "of", "watcher")

    def __init__(self, fn: Callable[[Any], object], of: Any) -> None:
        self.fn: Callable[[Any], object] | None = fn
        self.of = of
        self.watcher: Callable[[], object] | None = None

    def drop(self) -> None:
        self.fn = self.of = self.watcher = None

    def __call__(self) -> None:
        fn, of = self.fn, self.of
        self.drop()
        if fn is not None:
            fn(of)


class Callbacks:
    """The thread on which callbacks from outside a loop run, one after another. It starts with the first of them."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._queue: deque[Callable[[], object] | None] = deque()
        self._there = threading.Semaphore(0)
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()
        self._known: list[_Call] = []
        self._prune_at = 64
        self.pid = os.getpid()

    def remember(self, call: _Call) -> None:
        with self._lock:
            if len(self._known) >= self._prune_at:
                self._known = [known for known in self._known if known.fn is not None]
                self._prune_at = max(64, 2 * len(self._known))
            self._known.append(call)

    def forget(self, of: Pending[Any], fn: object) -> list[Callable[[], object]]:
        """Ends all that `fn` is registered for with the same pending; gives what watches for each."""
        found: list[Callable[[], object]] = []
        with self._lock:
            for call in self._known:
                watcher = call.watcher
                if watcher is not None and call.fn == fn and of._same(call.of):
                    call.drop()
                    found.append(watcher)
            if found:
                self._known = [known for known in self._known if known.fn is not None]
        return found

    def call(self, fn: Callable[[], object]) -> None:
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=f"zerowait callbacks {self._name}", daemon=True)
                self._thread.is_zerowait_callbacks = True  # type: ignore[attr-defined]
                self._thread.start()
        self._queue.append(fn)
        self._there.release()

    def stop(self) -> None:
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.append(None)
            self._there.release()
            if thread is not threading.current_thread():
                thread.join(1.0)

    def _run(self) -> None:
        while True:
            self._there.acquire()
            fn = self._queue.popleft()
            if fn is None:
                return
            try:
                fn()
            except BaseException:  # also a SystemExit: nobody would run the callbacks after it
                import logging

                logging.getLogger("zerowait").exception("a callback raised; the others run on")
            del fn  # what it holds on to is not kept until the next one comes


class Promise(Pending[T], Generic[T], gc=True, weakref=True):
    """A pending whose result is set by whoever made it."""

    callbacks: Callbacks
    line: str = "await it"
    lock: Any = None
    is_over: bool = False
    outcome: Any = None
    error: Exception | None = None
    watchers: list[Callable[[], object]] | None = None

    def __post_init__(self) -> None:
        self.lock = threading.Lock()

    def set(self, outcome: T) -> None:
        self._end(outcome, None)

    def fail(self, error: Exception) -> None:
        self._end(None, error)

    def _end(self, outcome: Any, error: Exception | None) -> None:
        with self.lock:
            if self.is_over:
                return
            self.outcome, self.error, self.is_over = outcome, error, True
            watchers, self.watchers = self.watchers, None
        for call in watchers or ():
            call()

    def done(self) -> bool:
        return self.is_over

    def _value(self) -> T:
        if self.error is not None:
            raise anew(self.error)
        outcome: T = self.outcome
        return outcome

    def _watch(self, call: Callable[[], object]) -> None:
        with self.lock:
            if not self.is_over:
                if self.watchers is None:
                    self.watchers = []
                self.watchers.append(call)
                return
        call()

    def _unwatch(self, call: Callable[[], object]) -> None:
        with self.lock:
            if self.watchers is not None and call in self.watchers:
                self.watchers.remove(call)

    def _here(self) -> None:
        if not self.is_over:
            refuse_elsewhere(self.callbacks.pid, "What you wait for here")

    def _callbacks(self) -> Callbacks:
        return self.callbacks

    def _line(self) -> str:
        return self.line

    def __repr__(self) -> str:
        state = "waiting" if not self.is_over else f"{self.error!r}" if self.error else f"{self.outcome!r:.60}"
        return f"<Pending: {state}>"


State = Literal["accepted", "stored", "sent", "handled", "dead", "expired", "withdrawn"]


class Receipt(Pending["Receipt"]):
    """What `push` returns. Done when the message is *safe* (on disk; in memory if that was asked), never waiting for a
    worker.

    It gives itself, so that `receipt = zw.push(…)` and `receipt = await zw.push(…)` both work. Awaiting it raises
    OutcomeUnknown if the outbox file failed meanwhile and did not come back.
    """

    _sheaf: Any
    _index: int

    def done(self) -> bool:
        sheaf: Sheaf = self._sheaf
        return sheaf.is_stored(self._index) or sheaf.error is not None

    def _value(self) -> Receipt:
        error = self._sheaf.error
        if error is not None and not self._sheaf.is_settled(self._index):
            raise anew(error)
        if error is not None and self._sheaf.state(self._index) == "unknown":
            raise anew(error)
        return self

    def _watch(self, call: Callable[[], object]) -> None:
        self._sheaf.when_stored(self._index, call)

    def _unwatch(self, call: Callable[[], object]) -> None:
        self._sheaf.forget(self._index, call)

    def _here(self) -> None:
        refuse_elsewhere(self._sheaf.lane.intake.pid, "This receipt")

    def _same(self, other: object) -> bool:
        return isinstance(other, Receipt) and other._sheaf is self._sheaf and other._index == self._index

    def _callbacks(self) -> Callbacks:
        callbacks: Callbacks = self._sheaf.lane.intake.callbacks
        return callbacks

    def _line(self) -> str:
        return "write `await zw.push(…)`"

    @property
    def id(self) -> str:
        """The message's id, `<outbox>-<epoch>-<number>`, once the receipt is done; "" before."""
        sheaf: Sheaf = self._sheaf
        if not sheaf.is_stored(self._index) or not sheaf.epoch:
            return ""
        box: int = sheaf.lane.intake.box
        return f"{box:016x}-{base36(sheaf.epoch)}-{sheaf.first + self._index}"

    @property
    def channel(self) -> str:
        """The channel's name."""
        name: str = self._sheaf.channel
        return name

    @property
    def duplicate(self) -> bool:
        """Whether a push with the same `id=` had been accepted before. Known once the receipt is done."""
        return False

    @property
    def state(self) -> State:
        """Where the message is. A redelivered one goes back from sent to stored; in memory, accepted is stored."""
        state: Any = self._sheaf.state(self._index)
        return "accepted" if state == "unknown" else state

    @property
    def handled(self) -> Pending[None]:
        """Done when a worker has handled it. Raises Dead, Expired, or Cancelled (after `withdraw`), whichever became of
        it."""
        self._here()
        if self._sheaf.lane.intake.is_plain:
            raise UsageError(
                f"{self.channel} goes to a bare ZeroMQ socket, which acknowledges nothing: nobody can know that."
            )
        return Handled(self._sheaf, self._index)

    def withdraw(self) -> Pending[bool]:
        """Takes it back if no worker has begun it. True: it was taken back, and the ledger counts it as dropped."""
        self._here()
        pending: Pending[bool] = self._sheaf.lane.intake.withdraw(self._sheaf, self._index)
        return pending

    def __repr__(self) -> str:
        short = self.id
        box, _, rest = short.partition("-")
        name = f" {box[:4]}-{rest.rpartition('-')[2]}" if short else ""
        return f"<Receipt {self.channel}{name}: {self.state}>"

    def __reduce__(self) -> Any:
        raise UsageError("A receipt belongs to the process that pushed; send its `id` instead.")


class Handled(Pending[None]):
    """The end of a push."""

    _sheaf: Any
    _index: int

    def done(self) -> bool:
        return bool(self._sheaf.is_settled(self._index))

    def _value(self) -> None:
        state = self._sheaf.state(self._index)
        if state == "handled":
            return
        receipt = Receipt(self._sheaf, self._index)
        if state == "dead":
            note = self._sheaf.note(self._index)
            said = _said(note.text) if note is not None and note.text else {}
            raise Dead(
                reason=str(said.get("reason", "no reason is noted")),
                attempts=note.failures if note is not None else 0,
                traceback=str(said.get("traceback", "")),
                channel=receipt.channel,
                id=receipt.id,
            )
        if state == "expired":
            raise Expired(channel=receipt.channel, id=receipt.id)
        if state == "withdrawn":
            words = "the message was taken back before it ran: withdrawn, or dropped by `zerowait outbox drop`"
            raise Cancelled(words, channel=receipt.channel, id=receipt.id)
        error = self._sheaf.error
        raise anew(error) if error is not None else OutcomeUnknown(channel=receipt.channel)

    def _watch(self, call: Callable[[], object]) -> None:
        self._sheaf.when_settled(self._index, call)

    def _unwatch(self, call: Callable[[], object]) -> None:
        self._sheaf.forget(self._index, call)

    def _here(self) -> None:
        refuse_elsewhere(self._sheaf.lane.intake.pid, "This receipt")

    def _same(self, other: object) -> bool:
        return isinstance(other, Handled) and other._sheaf is self._sheaf and other._index == self._index

    def _callbacks(self) -> Callbacks:
        callbacks: Callbacks = self._sheaf.lane.intake.callbacks
        return callbacks

    def _line(self) -> str:
        return "write `await receipt.handled`"

    def __repr__(self) -> str:
        return f"<handled of {Receipt(self._sheaf, self._index)!r}>"


def _said(text: bytes) -> dict[str, Any]:
    """What the note of a dead letter says. It may come from another version, or from a damaged file."""
    try:
        return msgpack.decode(text, type=dict[str, Any])
    except (MsgspecError, ValueError, TypeError, RecursionError):
        return {"reason": "its note of why cannot be read"}


def refuse_elsewhere(pid: int, what: str) -> None:
    """In a child of the process with that id; 0: it is not known."""
    if pid and pid != os.getpid():
        raise UsageError(
            f"{what} belongs to process {pid}, and this is process {os.getpid()}, forked from it, to which nothing of "
            "it is told. Wait for it there; what this process pushes itself has receipts of its own."
        )


def anew(error: Exception) -> Exception:
    """The same error as a new object: one that is raised again and again keeps the frames of each time."""
    try:
        again = _copied(error)
    except Exception:
        again = error  # of a class that cannot be copied
    if type(again) is not type(error):
        again = error
    if again is not error:
        again.__cause__, again.__context__ = error.__cause__, error.__context__
        again.__suppress_context__ = error.__suppress_context__
        for note in getattr(error, "__notes__", ()):
            if note not in getattr(again, "__notes__", ()):
                again.add_note(note)
    return again.with_traceback(None)


def _copied(error: Exception) -> Exception:
    if not isinstance(error, ZerowaitError):
        return copy.copy(error)
    # Not by their `__init__`, whose arguments they do not keep.
    again = type(error).__new__(type(error))
    again.args = error.args
    again.__dict__.update(error.__dict__)
    if hasattr(again, "__notes__"):
        again.__notes__ = list(again.__notes__)
    if isinstance(error, OSError) and isinstance(again, OSError):
        again.errno, again.strerror, again.filename = error.errno, error.strerror, error.filename
    return again


def base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"

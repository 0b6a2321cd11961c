"""Looking after outboxes that nobody has open (rules §11.1): those of namesakes at once, those of others if this
process is the adopter of the namespace and there are workers for what waits in them. What is delivered is given back.

A file that is left where it is is looked into once, and again when it has changed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zerowait.engines.brokerless.shelf import OutboxFile, OutboxLock
from zerowait.errors import Closed, StoreError
from zerowait.outbox.file import is_asked, is_bare, peek
from zerowait.outbox.outbox import Outbox

if TYPE_CHECKING:
    from zerowait.ground import Ground

log = logging.getLogger("zerowait.outbox")

ADOPT_S = 1.0  # how often it looks
OPENING_S = 30.0  # a file of some million messages is read through when it is opened
ENDS_S = 2.0  # how long closing waits for a look that is under way

Stamp = tuple[int, int, int, int]


class Adopter:
    """A thread of its own, from `start` to `stop`.

    is_ready: whether this process has what it needs of its own. open: opens a file under its lock, which is its from
    then on; done once it delivers. close: gives an opened one up; done once its file is closed, None if that cannot be
    yet. is_empty: whether nothing at all is kept in it. mind: called at each look.
    """

    def __init__(
        self,
        opened: Ground,
        *,
        is_ready: Callable[[], bool],
        open: Callable[[Path, OutboxLock], Future[Outbox]],
        close: Callable[[Outbox], Future[None] | None],
        is_empty: Callable[[Outbox], bool],
        mind: Callable[[], None],
    ) -> None:
        self._opened = opened
        self._is_ready = is_ready
        self._open = open
        self._close = close
        self._is_empty = is_empty
        self._mind = mind
        self._adopted: dict[int, Outbox] = {}
        self._settled: set[int] = set()  # those of them with which nothing was left to do at the last look
        self._idle: set[int] = set()  # those of them in which nothing waited when they were opened: no news to people
        self._seen: dict[Path, tuple[Stamp, dict[str, int]]] = {}  # files left where they are, and what waits in them
        self._told: set[tuple[Path, str]] = set()
        self._wrong = ""  # what was wrong with the last look
        self._leaving = threading.Event()
        name = f"zerowait adopter {opened.name}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Takes nothing over any more; waits for a look that is under way."""
        self._leaving.set()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(ENDS_S)

    def tell_once(self, path: Path, error: StoreError) -> None:
        """Any thread. A file that cannot be opened was left alone."""
        if (path, error.message) not in self._told:
            self._told.add((path, error.message))
            log.warning("an outbox that nobody has open was left alone: %s", error)

    def _run(self) -> None:
        while not self._leaving.is_set():
            try:
                self._look()
            except Closed:
                return
            except Exception as error:
                if not self._leaving.is_set() and str(error) != self._wrong:
                    self._wrong = str(error)
                    self._say_wrong(error)
            else:
                self._wrong = ""
            self._leaving.wait(ADOPT_S)

    @staticmethod
    def _say_wrong(error: Exception) -> None:
        """Once, and again only after a look that went well: it is tried each second, perhaps for hours."""
        if isinstance(error, StoreError):
            log.warning("outboxes that nobody has open cannot be looked for; it is tried again each second: %s", error)
        else:
            log.error("looking for outboxes that nobody has open went wrong", exc_info=error)

    def _look(self) -> None:
        self._mind()
        directory, name = self._opened.node.directory, self._opened.name
        if directory is None or not self._is_ready():
            return
        self._give_back_settled()
        elected = None
        files = directory.outboxes()
        if len(self._seen) > len(files):
            self._seen.clear()  # most of these are gone
        for file in files:
            if self._leaving.is_set():
                return
            if file.owned:
                continue
            if file.name != name:
                if elected is None:
                    elected = self._opened.node.call(directory.try_elect).result(5.0)
                if not elected:
                    continue
            try:
                self._take_over(file, always=file.name == name)
            except StoreError as error:
                self.tell_once(file.path, error)

    # -- taking over ---------------------------------------------------------------------------------------------------

    def _take_over(self, file: OutboxFile, *, always: bool) -> None:
        path = file.path
        if not always and self._is_left_alone(path):
            return
        directory = self._opened.node.directory
        assert directory is not None
        lock = directory.lock_outbox(path)
        if lock is None:
            return
        is_ours = False
        try:
            waiting = peek(path)
            # With nothing but dead letters in it there is nothing to do until one is given back: whoever only looks at
            # them changes the file, too. An empty one is opened to be removed.
            # What was sent and waits for its choice asks the owner of its input, who must have that one's file open.
            if (
                always
                or (self._is_served(waiting) if waiting else is_bare(path, self._opened.disk_limits.ids_kept_us))
                or is_asked(path)
            ):
                is_ours = True
            else:
                self._leave_alone(path, waiting)
        finally:
            if not is_ours:
                lock.release()
        if is_ours:
            opening = self._open(path, lock)
            opening.add_done_callback(self._is_open)
            _wait_for(opening, f"opening the outbox {path.name}")

    def _is_open(self, over: Future[Outbox]) -> None:
        """On the store thread, however long it took."""
        if over.exception() is None:
            box = over.result()
            self._adopted[box.id] = box
            if not box.ledger.unsettled():
                self._idle.add(box.id)

    def _is_served(self, waiting: dict[str, int]) -> bool:
        """Whether there is a worker for any of these channels. They are looked for from now on."""
        node = self._opened.node
        for channel in waiting:
            node.want(channel)
        return any(node.workers(channel) or channel in node.core.worker.services for channel in waiting)

    def _leave_alone(self, path: Path, waiting: dict[str, int]) -> None:
        if (stamp := _stamp(path)) is not None:
            self._seen[path] = stamp, waiting

    def _is_left_alone(self, path: Path) -> bool:
        """Whether it was looked into before, has not changed since, and there is still nothing to be done with it."""
        seen = self._seen.get(path)
        if seen is not None and seen[0] == _stamp(path) and not self._is_served(seen[1]):
            return True
        self._seen.pop(path, None)
        return False

    # -- giving back ---------------------------------------------------------------------------------------------------

    def _give_back_settled(self) -> None:
        """Closes what is delivered, so that its own name finds it again, or its file is gone."""
        for box in list(self._adopted.values()):
            if not self._is_over(box):
                self._settled.discard(box.id)
            elif box.id not in self._settled:
                self._settled.add(box.id)  # at the next look: by then its workers have heard that it is settled
            else:
                self._give_back(box)

    def _is_over(self, box: Outbox) -> bool:
        """Nothing waits, nothing is in flight. What else is kept in it, dead letters, stays with a process of its name;
        any other leaves them in the file, where that process and the command line find them."""
        if box.intake.broken is not None or box.ledger.unsettled() or box.stubs() or box.prepared():
            return False
        return box.name != self._opened.name or self._is_empty(box)

    def _give_back(self, box: Outbox) -> None:
        closing = self._close(box)
        if closing is None:
            return
        self._settled.discard(box.id)
        del self._adopted[box.id]
        closing.add_done_callback(lambda over: self._is_closed(box, over))
        assert box.path is not None
        _wait_for(closing, f"closing the outbox {box.path.name}")

    def _is_closed(self, box: Outbox, over: Future[None]) -> None:
        """On the store thread, however long it took."""
        if over.exception() is not None:
            return  # the store thread has ended, and closed it
        assert box.path is not None
        # A letter that was given back just before waits in it now, and nobody was offered it.
        waiting = box.ledger.unsettled()
        level = logging.DEBUG if box.id in self._idle else logging.INFO
        self._idle.discard(box.id)
        self._leave_alone(box.path, waiting)
        if waiting:
            count = sum(waiting.values())
            log.info("the outbox %s, which was taken over, is closed, and %d wait in it again", box.path.name, count)
            return
        what = "it is closed, with the dead letters that it holds" if box.path.exists() else "it is removed"
        log.log(level, "everything of the outbox %s, which was taken over, is settled: %s", box.path.name, what)


def _wait_for(future: Future[Any], what: str) -> None:
    """Raises what it raised. One that takes long goes on by itself, and what follows from it follows then."""
    try:
        future.result(OPENING_S)
    except TimeoutError:
        if future.done():
            raise  # its own
        log.warning("%s takes longer than %g s; it goes on", what, OPENING_S)


def _stamp(path: Path) -> Stamp | None:
    """What changes when somebody has had a file open: he wrote to it, or died and left what he wrote in its log."""
    try:
        status = path.stat()
    except OSError:
        return None
    try:
        log_ns = Path(f"{path}-wal").stat().st_mtime_ns
    except OSError:
        log_ns = 0
    return status.st_ino, status.st_mtime_ns, status.st_size, log_ns

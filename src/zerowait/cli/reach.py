"""How the command line reaches what it asks: living processes by their socket, outboxes that nobody owns by their file.

Both take the same questions and give the same answers, so that a command need not know which it talks to. A file is
opened under its lock, and only for as long as the answer takes: a process that wants to adopt it waits no longer.

An outbox changes hands: a script that leaves still holds its lock when it answers nobody any more, and whoever looks
into a file, to take it over or to show it, holds that for a moment. What lies in such a file is not known, and not
nothing: it is waited for (`_wait`), by who only looks for a moment, by who is to act on all of it until somebody says
what is in it. It may change hands between the look at who has it and the question, too: then who was asked has nothing
to say of it, and all are asked again (`_heard`).
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, ValidationError, convert, to_builtins

from zerowait.cli.output import FAILED, UNAVAILABLE, Failure, styled, tell, tell_silent
from zerowait.contract import Description, unpacked
from zerowait.errors import ZerowaitError
from zerowait.names import process_name
from zerowait.settings import Settings
from zerowait.snapshot import Answer, BoxStatus, LetterDetail, LetterFilter, LetterStatus, Question, Status

if TYPE_CHECKING:
    from zerowait.engines.brokerless.directory import Directory, Entry, OutboxFile

T = TypeVar("T")

PATIENCE_S = 3.0  # a process whose network thread does not answer in this time is stuck, or has just ended
TYPES_S = 1.0  # the same, where only the reading of what is given is helped by the answer
HANDS_S, LOOK_S = 0.5, 0.05  # how long, and how often, it is waited for that an outbox has changed hands
TAKEN_OVER_S = 3.0  # in which a process has found and opened what another has left
AT_ONCE = 16
TAKEN = Answer(False, error="somebody opens or closes it at this moment: ask again")
PAGE = 500  # letters or ids in one question or answer: far below what one frame holds


class Reply(Struct, frozen=True):
    """One place's answer. who: the process or the file, for people."""

    who: str
    answer: Answer

    @property
    def is_taken(self) -> bool:
        """An outbox that changes hands at this moment: what is in it, somebody else says."""
        return self.answer is TAKEN

    def value(self, kind: type[T]) -> T | None:
        """What it says, typed; nothing if it could not say it."""
        if not self.answer.ok:
            return None
        try:
            return convert(self.answer.value, kind)
        except ValidationError:
            return None  # another version of zerowait, whose records are different


class Place(Struct, frozen=True):
    """A living process, or an outbox that nobody owns. ask: raises ZerowaitError or OSError if there is no answer."""

    who: str
    ask: Callable[[Question], Answer]
    living: bool = True
    outbox: str | None = None  # its name, if it is an outbox

    def reply(self, question: Question) -> Reply:
        try:
            return Reply(self.who, self.ask(question))
        except (ZerowaitError, OSError) as error:
            return Reply(self.who, Answer(False, error=str(error)))


class Unreadable(Struct, frozen=True):
    """An outbox that another version of zerowait has written, and nobody has open."""

    name: str
    path: str
    format: int


class Found(Struct):
    """What was found everywhere. silent: who did not answer, and why. untold: files of which all was to be known, and
    nobody has said anything."""

    statuses: list[Status] = []
    boxes: list[BoxStatus] = []  # that no process owns
    letters: list[LetterStatus] = []
    silent: dict[str, str] = {}
    unreadable: list[Unreadable] = []
    untold: list[OutboxFile] = []


def _is_there(folder: Path) -> bool:
    """Raises Failure if that cannot be told: it is another user's, say."""
    try:
        return stat.S_ISDIR(os.stat(folder).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        what = error.strerror or type(error).__name__
        raise Failure(
            f"{folder} cannot be looked into: {what}. Run this as the user whose processes these are, or set "
            "ZEROWAIT_HOME to a folder of your own.",
            UNAVAILABLE,
        ) from None


class Reach:
    """One namespace of this user on this machine."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.namespace = settings.namespace
        self.home = settings.home_folder()
        # Looking makes nothing: where there is no folder, nobody has been yet.
        self._directory: Directory | None = None
        self._living: list[Entry] = []
        if _is_there(self.home / self.namespace):
            from zerowait.engines.brokerless.directory import Directory

            self._directory = Directory(self.home, self.namespace)

    @classmethod
    def named(cls, namespace: str | None) -> Reach:
        """The namespace that an option names, else that of the settings."""
        return cls(Settings.load(flags={"namespace": namespace}))

    def places(self, within: float = HANDS_S) -> list[Place]:
        """Whoever can be asked: the living, oldest first, then the outboxes that nobody owns. An outbox that changes
        hands at this moment, or that somebody looks into, is waited for, at most so many seconds: who looked would miss
        what is in it."""
        living: list[Entry] = []
        files: list[OutboxFile] = []

        def is_each_with_somebody() -> bool:
            living[:], files[:] = self._alive(), self.files()
            known = {box for entry in living for box in entry.boxes}
            return all(not file.owned or file.id in known for file in files)

        _wait(is_each_with_somebody, within)
        processes = [
            Place(process_name(entry.name, entry.pid), partial(_ask_process, entry))
            for entry in living
            if entry.endpoints
        ]
        known = {box for entry in living for box in entry.boxes}
        return processes + [
            Place(_name_of(file), partial(self._ask_file, file), living=False, outbox=file.name)
            for file in files
            if file.id not in known and (file.owned or _other_format(file) is None)
        ]

    def _heard(self, ask: Callable[[], bool], within: float, is_enough: Callable[[], bool] = lambda: False) -> None:
        """Asks until no outbox has changed hands meanwhile, for at most so many seconds. ask: asks all, and says
        whether each could answer. is_enough: what they said is all that was asked for."""

        def is_heard() -> bool:
            before = self._holders()
            is_known = ask()
            after = self._holders()
            return is_enough() or (is_known and all(after.get(box, pid) == pid for box, pid in before.items()))

        _wait(is_heard, within)

    def _holders(self) -> dict[int, int | None]:
        """The process that says of each outbox that it has it; None: nobody says so."""
        pids = {box: entry.pid for entry in self._alive() for box in entry.boxes}
        return {file.id: pids.get(file.id) for file in self.files()}

    def _alive(self) -> list[Entry]:
        """The living, as they are now."""
        if self._directory is not None and (seen := self._directory.look()) is not None:  # None: nothing has changed
            self._living = seen
        return self._living

    def unreadable(self) -> list[Unreadable]:
        """The outboxes that nobody has open and that are of another version: they are no places to ask, ever."""
        files = [(file, _other_format(file)) for file in self.files() if not file.owned]
        return [Unreadable(file.name, str(file.path), format) for file, format in files if format is not None]

    def types(self, channel: str) -> list[Description]:
        """What those on this machine expect who serve this channel. Who does not answer at once is passed over."""
        serving = [
            Place(entry.name, partial(_ask_process, entry, patience=TYPES_S))
            for entry in self._alive()
            if entry.endpoints and channel in entry.serves
        ]
        question = Question("channel.types", {"channel": channel})
        found: list[Description] = []
        for reply in _at_once(lambda place: place.reply(question), serving[:AT_ONCE]) if serving else ():
            for packed in reply.value(list[bytes]) or ():
                with suppress(ValueError):
                    found.append(unpacked(packed))
        return found

    def files(self, name: str | None = None) -> list[OutboxFile]:
        """The outbox files, owned or not."""
        return self._directory.outboxes(name) if self._directory is not None else []

    @contextmanager
    def locked(self, file: OutboxFile) -> Generator[bool]:
        """Keeps everybody else from that outbox. False: somebody has it."""
        lock = self._directory.lock_outbox(file.path) if self._directory is not None else None
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    def ask_all(self, question: Question, *, living_only: bool = False, outbox: str | None = None) -> list[Reply]:
        """Everybody's answer to one question. outbox: of what nobody has open, only those of that name are asked."""
        places = [
            place
            for place in self.places()
            if place.living or not (living_only or (outbox is not None and place.outbox not in (None, outbox)))
        ]
        replies = _at_once(lambda place: place.reply(question), places)
        return [reply for reply in replies if not reply.is_taken]

    def ask_for_letters(self, question: Question, is_found: Callable[[Reply], bool] = lambda _: False) -> list[Reply]:
        """Everybody's answer to a question of dead letters, asked again while their outboxes change hands; for
        TAKEN_OVER_S at most, and not once one is what was asked for. What is done to a letter is done once: of the
        answers to all rounds, one says so."""
        replies: list[Reply] = []

        def ask() -> bool:
            replies[:] = [reply for reply in replies if reply.answer.ok]
            places = self.places()
            told = _at_once(lambda place: place.reply(question), places)
            replies.extend(told)
            return not any(_is_passing(place, reply) for place, reply in zip(places, told, strict=True))

        self._heard(ask, TAKEN_OVER_S, lambda: any(map(is_found, replies)))
        return replies

    def status(self) -> Found:
        """The living, and the ledgers of the outboxes that nobody owns."""
        return self._status(HANDS_S)

    def status_of_all(self, name: str) -> Found:
        """The same, asked again until somebody has said of each outbox of that name what is in it, or why it cannot be
        read; TAKEN_OVER_S at most."""
        found = Found()

        def is_all_told() -> bool:
            nonlocal found
            found = self._status(0.0)
            found.untold = self._untold(found, name)
            return not found.untold

        _wait(is_all_told, TAKEN_OVER_S)
        return found

    def _untold(self, found: Found, name: str) -> list[OutboxFile]:
        told = {box.id for box in (*found.boxes, *(box for status in found.statuses for box in status.boxes)) if box.id}
        unreadable = {box.path for box in found.unreadable}
        return [
            file
            for file in self.files(name)
            if f"{file.id:016x}" not in told and str(file.path) not in unreadable and _name_of(file) not in found.silent
        ]

    def _status(self, within: float) -> Found:
        places = self.places(within)
        found = Found(unreadable=self.unreadable())
        for place, reply in zip(places, _at_once(lambda place: place.reply(Question("status")), places), strict=True):
            if place.living and (status := reply.value(Status)) is not None:
                found.statuses.append(status)
            elif reply.is_taken:
                continue  # somebody took it since we looked
            elif not place.living and (box := reply.value(BoxStatus)) is not None:
                found.boxes.append(box)
            else:
                found.silent[reply.who] = reply.answer.error or "it is of another version of zerowait"
        return found

    def letter(self, id: str) -> LetterDetail:
        """One dead letter whole. Raises Failure if those who answered have none of that id."""
        question = Question("dead.show", {"id": id})
        replies = self.ask_for_letters(question, lambda reply: reply.value(LetterDetail) is not None)
        for reply in replies:
            if (letter := reply.value(LetterDetail)) is not None:
                return letter
        silent = {reply.who: reply.answer.error for reply in replies if not reply.answer.ok}
        tell_silent(silent)
        who = "Those who answered have" if silent else "There is"
        short = " Of a longer ID at least 4 characters are needed, of its beginning or its end." if len(id) < 4 else ""
        raise Failure(f"{who} no dead letter {id}.{short}", UNAVAILABLE if silent else FAILED)

    def letters(self, which: LetterFilter, limit: int | None) -> Found:
        """Dead letters from everywhere, the oldest first, at most `limit`."""
        found = Found(unreadable=self.unreadable())
        letters: dict[str, LetterStatus] = {}  # by id: one whose outbox has changed hands may be told twice

        def ask() -> bool:
            found.silent.clear()
            letters.clear()
            places, is_known = self.places(), True
            told = _at_once(lambda place: _letters(place, which, limit), places)
            for place, (its, failed) in zip(places, told, strict=True):
                letters.update((letter.id, letter) for letter in its)
                if failed is not None:
                    found.silent[failed.who] = failed.answer.error
                    is_known = is_known and not _is_passing(place, failed)
            return is_known

        self._heard(ask, TAKEN_OVER_S)
        found.letters = sorted(letters.values(), key=lambda letter: letter.died_at or letter.accepted_at)
        del found.letters[limit if limit is not None else len(found.letters) :]
        return found

    def _ask_file(self, file: OutboxFile, question: Question) -> Answer:
        from zerowait.outbox.answering import answer
        from zerowait.outbox.outbox import Outbox

        assert self._directory is not None
        lock = self._directory.lock_outbox(file.path)
        if lock is None:
            return TAKEN
        try:
            box = Outbox.open(file.path, file.name, now_us=_now_us, lock=lock)
        except BaseException:
            lock.release()
            raise
        try:
            return answer(box, question)
        finally:
            box.close()


def tell_unreadable(found: Found) -> None:
    """Those of another version, and what can be done: nothing is wrong with who asks, so no exit code says it."""
    for box in found.unreadable:
        tell(
            f"{styled('not readable:', sys.stderr, fg='yellow')} the outbox {box.name} is of format {box.format}, not "
            f"readable by this version. Deliver it with that version, or discard it: remove the file {box.path}"
        )


def _wait(is_known: Callable[[], bool], seconds: float) -> None:
    """Until what changes hands is with somebody again, or so long."""
    until = time.monotonic() + seconds
    while not is_known() and time.monotonic() < until:
        time.sleep(LOOK_S)


def _name_of(file: OutboxFile) -> str:
    return f"{file.path.name} (no process)"


def silent_of(found: Found, files: Iterable[OutboxFile]) -> dict[str, str]:
    """Which of these files could not be read, and why."""
    return {who: found.silent[who] for who in map(_name_of, files) if who in found.silent}


def _other_format(file: OutboxFile) -> int | None:
    from zerowait.outbox.database import other_format

    return other_format(file.path)


def _now_us() -> int:
    return time.time_ns() // 1_000


def _ask_process(entry: Entry, question: Question, *, patience: float = PATIENCE_S) -> Answer:
    from zerowait.engines.brokerless.asking import ask

    return ask(entry.endpoints[0], question, patience)


def _is_passing(place: Place, reply: Reply) -> bool:
    """Whether it may be otherwise in a moment: the outbox is between two hands, or the process leaves, and is found for
    longer than it answers. A file that cannot be read stays so, and so does what was refused."""
    return not reply.answer.ok and not reply.answer.is_final and (place.living or reply.is_taken)


def _letters(place: Place, which: LetterFilter, limit: int | None) -> tuple[list[LetterStatus], Reply | None]:
    """One place's dead letters, page by page; and its reply if it fell silent."""
    found: list[LetterStatus] = []
    last: dict[str, str] = {}  # a process may have several outboxes, and each goes on behind its own last one
    while True:
        page = PAGE if limit is None else min(PAGE, limit)
        args = {"which": to_builtins(which), "limit": page, "after": list(last.values())}
        reply = place.reply(Question("dead.list", args))
        if not reply.answer.ok:
            return found, reply
        more = reply.value(list[LetterStatus]) or []
        found.extend(more)
        last.update((letter.id.partition("-")[0], letter.id) for letter in more)
        if len(more) < page or (limit is not None and len(found) >= limit):
            return found, None


def _at_once(ask: Callable[[Place], T], places: Iterable[Place]) -> list[T]:
    """Asks them together: one that does not answer keeps nobody waiting but itself."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE, "zerowait-ask") as pool:
        return list(pool.map(ask, places))

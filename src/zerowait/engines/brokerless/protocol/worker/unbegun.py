"""What lies at a worker and has not begun, told to the owners on its machine (rules §4.3).

A list of what has *not* begun, where "§5" lists what has: of all that it does not name, what runs, what has ended and
is not told, what is on its way between two lines of code, it must be taken that it has begun. So a list that is full,
torn or out of date makes an owner take back too little, and never too much.

    word 0        beats: how often the thread that owns the protocol has turned
    1 …           outboxes: [outbox, fence, n], the latest BATCH of it that was read. A later one has not been
    …             parcels: [outbox, epoch, first number that has not begun, the number after the last]

Each word is written whole; one of each entry is written last, and first when it goes: then it is 0. Before a runner may
have a message, its parcel says that it has begun, and only then it is asked for the last time whether that is still
allowed: what an owner finds here after the permission has lapsed does not begin any more (`Desk.start`)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import Final

import msgspec

from zerowait.engines.brokerless.protocol.frames import Part
from zerowait.engines.brokerless.protocol.worker.parcel import Parcel
from zerowait.numbers import Numbers

BOXES: Final = 1_024
PARCELS: Final = 2_048
_HEAD, _BOX, _PARCEL = 1, 3, 4  # words
_WORD: Final = 8  # bytes
_ENTRY: Final = Struct("@4Q")  # of a parcel: native, so that each word is stored whole, and in this order
_PARCELS_AT = _HEAD + BOXES * _BOX
WORDS: Final = _PARCELS_AT + PARCELS * _PARCEL
MESSAGES_MOST: Final = 1_024  # of a parcel

Dispatch = tuple[int, int]  # (fence, n)


class Listing(msgspec.Struct, frozen=True):
    """A list as it was read. read: outbox → the latest dispatch of it that has arrived. unbegun: what has and has not
    begun, (outbox, epoch) → numbers."""

    beats: int
    read: dict[int, Dispatch]
    unbegun: dict[tuple[int, int], Numbers]

    def spares(self, box: int, epoch: int, dispatch: Dispatch, first: int, count: int) -> list[tuple[int, int]]:
        """What of these, sent there under that number, has certainly not begun."""
        read = self.read.get(box)
        if read is not None and dispatch > read:
            return [(first, count)]
        unbegun = self.unbegun.get((box, epoch))
        return unbegun.overlap(first, count) if unbegun is not None else []


class Unbegun:
    """The list of this process. words: `WORDS` of them, all 0, each of which is stored whole."""

    def __init__(self, words: memoryview[int]) -> None:
        self._words = words
        self._bytes = words.cast("B")
        self._boxes: dict[int, list[int]] = {}  # outbox → where its words begin, and what they say: fence, n
        self._free_boxes = list(range(_PARCELS_AT - _BOX, _HEAD - 1, -_BOX))
        self._free = list(range(WORDS - _PARCEL, _PARCELS_AT - 1, -_PARCEL))

    def let_go(self) -> object:
        """What the words were in, which nobody looks into any more. Nothing else may be called afterwards."""
        behind = self._words.obj
        self._bytes.release()
        self._words.release()
        return behind

    def beat(self) -> None:
        """The thread that owns the protocol turns."""
        self._words[0] = (self._words[0] + 1) & 0xFFFFFFFF

    def met(self, box: int, epoch: int, held: Iterable[Part]) -> None:
        """Its owner is there, with this epoch, and is told that these are held, or have ended: of what it thinks to be
        here no other dispatch has been read."""
        is_new = box not in self._boxes and bool(self._free_boxes)
        if is_new:
            self._boxes[box] = mark = [self._free_boxes.pop(), 0, 0]
            self._words[mark[0] + 1] = self._words[mark[0] + 2] = 0
        for dispatch in [(epoch, 0), *((part.fence, part.n) for part in held)]:
            self.came(box, *dispatch)
        if is_new:  # last: until all is said nothing is known of it, and what runs has been read
            self._words[self._boxes[box][0]] = box

    def came(self, box: int, fence: int, n: int) -> None:
        """A BATCH of that number is about to be looked at."""
        mark = self._boxes.get(box)
        if mark is None:
            return  # without a place for it nothing is known: all that was sent from there may have been read
        if fence > mark[1]:
            self._words[mark[0] + 1] = mark[1] = fence  # first: what stands there in between is later, never earlier
            self._words[mark[0] + 2] = mark[2] = n
        elif n > mark[2] and fence == mark[1]:
            self._words[mark[0] + 2] = mark[2] = n

    def forget(self, box: int) -> None:
        """Nothing of that outbox is known here any more."""
        mark = self._boxes.pop(box, None)
        if mark is not None:
            self._words[mark[0]] = 0
            self._free_boxes.append(mark[0])

    def put(self, parcel: Parcel) -> None:
        """It lies at the desk from now on."""
        if not self._free or parcel.stop - parcel.at > MESSAGES_MOST:
            return  # not listed: as if it had begun
        parcel.place = at = self._free.pop()
        first = parcel.first
        _ENTRY.pack_into(
            self._bytes, at * _WORD, parcel.box, parcel.delivery.epoch, first + parcel.at, first + parcel.stop
        )

    def begins(self, parcel: Parcel, at: int) -> None:
        """Its messages before that index have begun, or are about to. Also back, where they may not after all."""
        if parcel.place:
            self._words[parcel.place + 2] = parcel.first + at

    def remove(self, parcel: Parcel) -> None:
        """It lies there no more: all of it has begun, or was taken out."""
        if at := parcel.place:
            self._words[at + 3] = 0
            parcel.place = 0
            self._free.append(at)


class Unlisted(Unbegun):
    """No list is kept: to whoever finds this process held, all that it was sent may have begun."""

    def __init__(self) -> None:
        """Nothing is written anywhere."""

    def let_go(self) -> object:
        return None

    def beat(self) -> None:
        return

    def met(self, box: int, epoch: int, held: Iterable[Part]) -> None:
        return

    def came(self, box: int, fence: int, n: int) -> None:
        return

    def forget(self, box: int) -> None:
        return

    def put(self, parcel: Parcel) -> None:
        return

    def begins(self, parcel: Parcel, at: int) -> None:
        return

    def remove(self, parcel: Parcel) -> None:
        return


def blank() -> memoryview[int]:
    """The words of a list that no file is behind, and nobody but this process reads."""
    return memoryview(bytearray(WORDS * _WORD)).cast("Q")


def read(words: Sequence[int], again: Sequence[int]) -> Listing | None:
    """The list, as it was found two times: what differs may have begun. None: it is no list."""
    if len(words) != WORDS or len(again) != WORDS:
        return None
    marks: dict[int, Dispatch] = {}
    for at in range(_HEAD, _PARCELS_AT, _BOX):
        box = again[at]
        if box and words[at] == box:
            marks[box] = max((words[at + 1], words[at + 2]), (again[at + 1], again[at + 2]))
    unbegun: dict[tuple[int, int], Numbers] = {}
    for at in range(_PARCELS_AT, WORDS, _PARCEL):
        if not again[at + 3] or words[at : at + _PARCEL] != again[at : at + _PARCEL]:
            continue
        box, epoch, first, stop = again[at : at + _PARCEL]
        if 0 < first < stop <= first + MESSAGES_MOST:
            unbegun.setdefault((box, epoch), Numbers()).add(first, stop - first)
    return Listing(again[0], marks, unbegun)

"""An outbox that cannot be written: who hears of it, and for how long nobody is told that it is lost."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path

from zerowait.errors import StoreError
from zerowait.outbox.attempt import Notice
from zerowait.outbox.intake import Intake


class Trouble:
    """Tells pushes (by the intake) and people (by notices) that it fails, and people when it goes on. seconds: what it
    waits by."""

    def __init__(self, path: Path | None, intake: Intake, notices: deque[Notice], seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self._path = path
        self._intake = intake
        self._notices = notices
        self._closed_since: float | None = None
        self._is_told = False  # somebody was told that it failed, and waits for better news

    def begins(self, error: StoreError, *, is_open: bool) -> bool:
        """It failed, perhaps once more. is_open: the file is. True: so long that waiters should be told."""
        now = self._seconds()
        if self._intake.broken is None:
            number = error.errno or errno.EAGAIN  # "temporarily unavailable" says less than our own words
            reason = os.strerror(number) if number != errno.EAGAIN else error.message
            self._notices.append(Notice("failed", error.message, reason=reason))
        self._intake.broken = error
        self._is_told = True
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            self._closed_since = None  # what is in memory stays there; there will be room again
        elif not is_open:
            if self._closed_since is None:
                self._closed_since = now
            else:
                return now - self._closed_since > self._intake.limits.store_grace
        return False

    def passes(self, said: str) -> None:
        """It was in danger, and is mended in the turn that runs."""
        self._notices.append(Notice("failed", said, reason=said))
        self._is_told = True

    def ends(self) -> None:
        """A turn has succeeded."""
        if self._is_told or self._intake.broken is not None:
            self._is_told = False
            self._intake.broken = None
            self._notices.append(Notice("mended", f"The outbox {self._path or 'in memory'} can be written again."))
        self._closed_since = None

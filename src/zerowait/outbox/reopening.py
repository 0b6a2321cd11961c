"""Opening an outbox again after an error: with certainty about the transaction that failed."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from zerowait.errors import StoreError
from zerowait.outbox.clock import Clock
from zerowait.outbox.database import Database, check
from zerowait.outbox.numbering import raise_epoch


class Reopened(NamedTuple):
    database: Database
    epoch: int  # a new one
    arrived: bool  # the transaction that was under way is on disk


def reopen(path: Path, id: int, turns: int, attempted: int | None, clock: Clock, epoch: int) -> Reopened:
    """turns: the number of the last transaction that is certain. attempted: of the one whose commit failed, if one did.

    Raises StoreError, and DatabaseError, and then nothing is open.
    """
    if not check(path):
        raise StoreError(
            f"The outbox {path} is gone: somebody removed it while it was open. What was in it is lost. Close "
            "the client and open it again to begin a new one.",
            path=path,
        )
    database = Database(path)
    try:
        box, found = database.one("SELECT id, turn FROM box")
        arrived = found == attempted
        if int.from_bytes(box, "big") != id or not (found == turns or arrived):
            raise StoreError(
                f"The file {path} is another than the one that was open (restored from a copy?). It was not "
                "changed. Close the client and open it again to use it.",
                path=path,
            )
        # What the log holds may be in the system's cache only, for its sync has failed: write it out anew.
        database.checkpoint(truncate=True)
        return Reopened(database, raise_epoch(database, clock, epoch), arrived)
    except BaseException:
        database.close()
        raise

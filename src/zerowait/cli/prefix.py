"""The first or last characters of a dead letter's id, which stand for it."""

from __future__ import annotations

from collections.abc import Iterable

from zerowait.cli.output import MISUSED, UNAVAILABLE, Failure, tell_silent
from zerowait.cli.reach import Reach
from zerowait.names import is_message_id
from zerowait.snapshot import LetterFilter

SHORTEST = 4  # so many stand for it
CANDIDATES = 10  # that are named where it means several


def whole_ids(reach: Reach, given: Iterable[str]) -> list[str]:
    """Ids of dead letters, of which some may be given by their first or last characters. Raises Failure if such a one
    means several, or if that is not known; one that means none is given back as it is."""
    return [_whole_id(reach, id) if len(id) >= SHORTEST and not is_message_id(id) else id for id in given]


def _whole_id(reach: Reach, part: str) -> str:
    which = LetterFilter(id=part)
    found = reach.letters(which, CANDIDATES + 1)
    # Looked at once more: an earlier version that is asked knows nothing of that filter, and gives all.
    candidates = [letter for letter in found.letters if which.names(letter.id)]
    if len(candidates) > 1:
        shown = [f"  {letter.id}  {letter.channel}" for letter in candidates[:CANDIDATES]]
        more = ["  …"] if len(candidates) > CANDIDATES else []
        raise Failure("\n".join([f"{part} stands in the IDs of several dead letters:", *shown, *more]), MISUSED)
    if candidates and found.silent:
        tell_silent(found.silent)
        raise Failure(
            f"{part} may mean others, too, of those who did not answer: write {candidates[0].id}.",
            UNAVAILABLE,
        )
    return candidates[0].id if candidates else part

"""Words in which people are told how many there are."""

from __future__ import annotations


def plural(n: int, word: str, words: str | None = None) -> str:
    """`1 message`, `1,000 messages`. words: of several, where an `s` at the end is not enough."""
    return f"{n:,} {word if n == 1 else words or word + 's'}"

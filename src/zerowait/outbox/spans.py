"""Ranges of message numbers with something known of each: sorted, and none over another."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from typing import Generic, Protocol, TypeVar


class Span(Protocol):
    @property
    def first(self) -> int: ...
    @property
    def count(self) -> int: ...


S = TypeVar("S", bound=Span)
K = TypeVar("K", bound=Hashable)


def over(spans: list[S], first: int, count: int) -> list[S]:
    """Those that share a number with first … first + count."""
    found: list[S] = []
    at = max(0, bisect_right(spans, first, key=_first) - 1)
    while at < len(spans) and spans[at].first < first + count:
        if spans[at].first + spans[at].count > first:
            found.append(spans[at])
        at += 1
    return found


def put(spans: list[S], span: S) -> None:
    spans.insert(bisect_right(spans, span.first, key=_first), span)


def take(spans: list[S], span: S) -> None:
    at = bisect_right(spans, span.first, key=_first) - 1
    assert spans[at] is span, "a span that is not there"
    del spans[at]


def _first(span: Span) -> int:
    return span.first


class Drafts(Generic[K, S]):
    """Lists of spans as a transaction leaves them. What it does not touch is not copied, and nothing is entered before
    it is durable."""

    def __init__(self, kept: dict[K, list[S]]) -> None:
        self._kept = kept
        self._drafts: dict[K, list[S]] = {}

    def look(self, key: K) -> list[S]:
        """Not to be changed."""
        draft = self._drafts.get(key)
        return draft if draft is not None else self._kept.get(key, [])

    def edit(self, key: K) -> list[S]:
        draft = self._drafts.get(key)
        if draft is None:
            draft = self._drafts[key] = list(self._kept.get(key, ()))
        return draft

    def enter(self) -> None:
        for key, spans in self._drafts.items():
            if spans:
                self._kept[key] = spans
            else:
                self._kept.pop(key, None)

"""Topics and the patterns that match them: `*` stands for one word, `>` at the end for one or more."""

from __future__ import annotations

from typing import Generic, TypeVar

V = TypeVar("V")

TOPIC_HEADER = "zw-topic"  # of what is pushed for a durable group: the topic, where its pattern stands for several
REMEMBERED = 8_192  # topics whose values are kept ready; a program that makes up names would keep them for ever


def is_wild(name: str) -> bool:
    """Whether it stands for several topics."""
    return "*" in name or name.endswith(">")


def matches(pattern: str, topic: str) -> bool:
    """Whether this topic is one of those."""
    return pattern == topic or (is_wild(pattern) and _covers(pattern.split("."), topic.split(".")))


def _covers(pattern: list[str], topic: list[str]) -> bool:
    if pattern[-1] == ">":
        head = pattern[:-1]
        if len(topic) <= len(head):
            return False
        topic = topic[: len(head)]
    else:
        head = pattern
    return len(head) == len(topic) and all(p in ("*", word) for p, word in zip(head, topic, strict=True))


def overlap(one: str, other: str) -> bool:
    """Whether some topic is matched by both."""
    left, right = one.split("."), other.split(".")
    for at in range(max(len(left), len(right))):
        if at >= len(left) or at >= len(right):
            return False
        a, b = left[at], right[at]
        if a == ">" or b == ">":
            return True
        if a != b and "*" not in (a, b):
            return False
    return True


def channel_of(pattern: str, group: str) -> str:
    return f"{pattern}@{group}"


def parted(channel: str) -> tuple[str, str] | None:
    """Pattern and group of such a channel; None: it is another."""
    pattern, at, group = channel.rpartition("@")
    return (pattern, group) if at and pattern and group else None


class _Node(Generic[V]):
    __slots__ = ("here", "rest", "words")

    def __init__(self) -> None:
        self.words: dict[str, _Node[V]] = {}
        self.here: list[V] = []
        self.rest: list[V] = []


class Patterns(Generic[V]):
    """Values under patterns: `match(topic)` gives those of all patterns that match it.

    A trie, walked once for each topic: what it gave is kept until a pattern comes or goes, so that an event costs one
    look into a dictionary however many patterns there are.
    """

    def __init__(self) -> None:
        self._root: _Node[V] = _Node()
        self._ready: dict[str, tuple[V, ...]] = {}

    def add(self, pattern: str, value: V) -> None:
        self._list(pattern, make=True).append(value)
        self._ready.clear()

    def remove(self, pattern: str, value: V) -> None:
        self._list(pattern, make=False).remove(value)
        self._prune(self._root, pattern.split("."), 0)
        self._ready.clear()

    def _list(self, pattern: str, *, make: bool) -> list[V]:
        node, words = self._root, pattern.split(".")
        is_open = words[-1] == ">"
        for word in words[:-1] if is_open else words:
            node = node.words.setdefault(word, _Node()) if make else node.words[word]
        return node.rest if is_open else node.here

    def _prune(self, node: _Node[V], words: list[str], at: int) -> None:
        if at < len(words) and (child := node.words.get(words[at])) is not None:
            self._prune(child, words, at + 1)
            if not (child.words or child.here or child.rest):
                del node.words[words[at]]

    def match(self, topic: str) -> tuple[V, ...]:
        found = self._ready.get(topic)
        if found is None:
            if len(self._ready) >= REMEMBERED:
                self._ready.clear()
            gathered: list[V] = []
            self._gather(self._root, topic.split("."), 0, gathered)
            found = self._ready[topic] = tuple(gathered)
        return found

    def _gather(self, node: _Node[V], words: list[str], at: int, gathered: list[V]) -> None:
        if at == len(words):
            gathered += node.here
            return
        gathered += node.rest
        for word in (words[at], "*"):
            child = node.words.get(word)
            if child is not None:
                self._gather(child, words, at + 1, gathered)

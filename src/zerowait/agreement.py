"""Whether messages of one described type can be read as another; if not, the difference in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zerowait.contract import Description

# These travel as text, so that whoever expects a string can read them. The reverse would fail for some strings.
_AS_TEXT = {"date", "time", "timedelta", "uuid", "decimal"}

WORDS_MOST = 300  # characters of a type in a sentence


def compatible(sent: Description, wanted: Description) -> str | None:
    """None if every message of the one type can be read as the other, else the first difference, in words.

    A field that only the sender has is skipped by the reader, and one that only the reader has is compatible if it is
    optional: so a new optional field is no difference, whichever end is deployed first.
    """
    return _Comparison().differ(_End(sent), _End(wanted), "")


def in_words(description: Description) -> str:
    """A type for people, in one short line: what it holds, and of a record the names and types of its fields."""
    if isinstance(description, list) and description[0] == "record":
        fields = ", ".join(f"{name}: {_words(kind)}" for name, kind, *_ in description[4])
        words = f"a record ({fields})" + (f" with {_tag(description[1])}" if description[1] else "")
    else:
        words = _words(description)
    return words if len(words) <= WORDS_MOST else words[: WORDS_MOST - 1] + "…"


class _End:
    """One of the two descriptions, at some place in it, with the records around that place."""

    __slots__ = ("around", "at", "kind")

    def __init__(self, at: Any, around: tuple[Any, ...] = ()) -> None:
        if at[0] == "up":
            at, around = around[-at[1]], around[: -at[1]]
        self.at = at
        self.around = around
        self.kind: str = at if type(at) is str else at[0]

    def inner(self, at: Any) -> _End:
        around = (*self.around, self.at) if self.kind == "record" else self.around
        return _End(at, around)

    def members(self) -> list[_End]:
        return [self.inner(each) for each in self.at[1]] if self.kind == "union" else [self]

    def items(self) -> list[_End]:
        return [self.inner(each) for each in self.at[1]] if self.kind == "tuple" else [self.inner(self.at[1])]


class _Comparison:
    def __init__(self) -> None:
        self._begun: set[tuple[int, int]] = (
            set()
        )  # pairs of records: one met again inside itself agrees if the rest does

    def differ(self, sent: _End, wanted: _End, path: str) -> str | None:
        if "any" in (sent.kind, wanted.kind):
            return None
        if "union" in (sent.kind, wanted.kind):
            return self._differ_unions(sent, wanted, path)
        match sent.kind, wanted.kind:
            case "record", "record":
                return self._differ_records(sent, wanted, path)
            case "map", "map":
                keys = self.differ(sent.inner(sent.at[1]), wanted.inner(wanted.at[1]), f"{path}[key]")
                return keys or self.differ(sent.inner(sent.at[2]), wanted.inner(wanted.at[2]), f"{path}[…]")
            case "tuple", "tuple" if len(sent.at[1]) == len(wanted.at[1]):
                pairs = enumerate(zip(sent.items(), wanted.items(), strict=True))
                return _first(self.differ(a, b, f"{path}[{at}]") for at, (a, b) in pairs)
            case (("list" | "tuple"), "list"):
                return _first(self.differ(each, wanted.items()[0], f"{path}[…]") for each in sent.items())
            case "values", "values":
                fits = all(value in wanted.at[1] for value in sent.at[1])
            case "values", _:
                fits = all(type(value).__name__ == wanted.kind for value in sent.at[1])
            case _:
                fits = sent.at == wanted.at or (sent.kind, wanted.kind) == ("int", "float")
                fits = fits or (sent.kind in _AS_TEXT and wanted.kind == "str")
        return None if fits else f"{_place(path)} is sent as {_words(sent.at)} and expected as {_words(wanted.at)}"

    def _differ_unions(self, sent: _End, wanted: _End, path: str) -> str | None:
        choices = wanted.members()
        for member in sent.members():
            differences = [self.differ(member, choice, path) for choice in choices]
            if all(differences):
                if len(differences) == 1:
                    return differences[0]
                return f"{_place(path)} is sent as {_words(member.at)} and expected as {_words(wanted.at)}"
        return None

    def _differ_records(self, sent: _End, wanted: _End, path: str) -> str | None:
        pair = (id(sent.at), id(wanted.at))
        if pair in self._begun:
            return None
        self._begun.add(pair)
        difference = self._differ_fields(sent, wanted, path)
        if difference:
            self._begun.discard(pair)
        return difference

    def _differ_fields(self, sent: _End, wanted: _End, path: str) -> str | None:
        _, tag, is_array, _, fields = sent.at
        _, wanted_tag, wanted_array, is_closed, wanted_fields = wanted.at
        if tag != wanted_tag:
            return f"{_place(path)} is sent with the tag {_tag(tag)} and expected with the tag {_tag(wanted_tag)}"
        if is_array != wanted_array:
            forms = ("an array", "a map") if is_array else ("a map", "an array")
            return f"{_place(path)} is sent as {forms[0]} of its fields and expected as {forms[1]}"
        left = {at if is_array else field[0]: field for at, field in enumerate(fields)}
        for at, (name, kind, is_required, _) in enumerate(wanted_fields):
            inner = f"{path}.{name}" if path else str(name)
            field = left.pop(at if is_array else name, None)
            if field is None:
                if is_required:
                    return f"the field {inner} is expected and is not sent"
                continue
            if is_required and not field[3]:
                return f"the field {inner} is expected and is not always sent"
            if difference := self.differ(sent.inner(field[1]), wanted.inner(kind), inner):
                return difference
        if left and is_closed:
            name = next(iter(left.values()))[0]
            return f"the field {f'{path}.{name}' if path else name} is sent and not allowed there"
        return None


def _first(differences: Iterable[str | None]) -> str | None:
    return next((each for each in differences if each), None)


def _place(path: str) -> str:
    return f"the field {path}" if path else "the message"


def _tag(tag: Any) -> str:
    return "none" if tag is None else f"{tag[0]}={tag[1]!r}"


def _words(description: Any) -> str:
    if type(description) is str:
        return {"none": "nothing", "any": "anything"}.get(description, description)
    match description:
        case ["list", item]:
            return f"list of {_words(item)}"
        case ["map", key, value]:
            return f"map of {_words(key)} to {_words(value)}"
        case ["tuple", items]:
            return f"tuple of {', '.join(map(_words, items))}"
        case ["values", values]:
            return "one of " + ", ".join(map(repr, values))
        case ["union", members]:
            return " or ".join(map(_words, members))
        case ["record", tag, _, _, fields]:
            return f"record ({', '.join(str(field[0]) for field in fields)})" + (f" with {_tag(tag)}" if tag else "")
        case _:
            return "itself"

"""All of them, by name, are in `planting.BUGS`."""

from tests.mutants import bugs, custody, keys, left_files, meeting, requests, rules, suspects, times, topics, windows

__all__ = [
    "bugs",
    "custody",
    "keys",
    "left_files",
    "meeting",
    "requests",
    "rules",
    "suspects",
    "times",
    "topics",
    "windows",
]

"""All of them, by name, are in `planting.BUGS`."""

from tests.mutants import (
    bugs,
    custody,
    held,
    keys,
    left_files,
    meeting,
    requests,
    rules,
    suspects,
    times,
    topics,
    windows,
)

__all__ = [
    "bugs",
    "custody",
    "held",
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

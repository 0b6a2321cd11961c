"""All of them, by name, are in `planting.BUGS`."""

from tests.mutants import bugs, keys, meeting, requests, rules, suspects, times, topics, windows

__all__ = ["bugs", "keys", "meeting", "requests", "rules", "suspects", "times", "topics", "windows"]

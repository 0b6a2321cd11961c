"""All of them, by name, are in `planting.BUGS`."""

from tests.mutants import bugs, keys, requests, rules, suspects, topics

__all__ = ["bugs", "keys", "requests", "rules", "suspects", "topics"]

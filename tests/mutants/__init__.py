"""All of them, by name, are in `planting.BUGS`."""

from tests.mutants import bugs, keys, suspects

__all__ = ["bugs", "keys", "suspects"]

"""All of them, by name, are in `planting.BUGS`."""

from tests.mutants import bugs, suspects

__all__ = ["bugs", "suspects"]

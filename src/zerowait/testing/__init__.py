"""Zerowait in a simulated world: whole processes on one virtual clock, with a network and disks that fail by a seed.

Nothing is promised to users of the library here yet; `tests/simulation` is its user."""

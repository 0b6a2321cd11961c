"""The command line. It holds no logic: each command asks another room, and writes what it gets."""

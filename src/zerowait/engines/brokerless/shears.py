"""A hand on a connection that belongs to somebody else in this process: to look at it, or to cut it off."""

from __future__ import annotations

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager


class Shears:
    """ZeroMQ cannot close one peer of a listening socket; shutting down the connection below does, and ZeroMQ notices.

    The two descriptors are taken at the beginning, so that it also works when the process has none left.
    """

    def __init__(self) -> None:
        self._nothing = os.open(os.devnull, os.O_RDONLY)
        self._hand = os.dup(self._nothing)

    @contextmanager
    def holding(self, descriptor: int) -> Generator[socket.socket | None]:
        """The connection with that descriptor, which stays itself even if its owner closes it meanwhile and the number
        becomes another's. None: there is no such connection."""
        connection = None
        try:
            os.dup2(descriptor, self._hand, inheritable=False)
            connection = socket.socket(fileno=self._hand)
        except OSError:
            pass
        try:
            yield connection
        finally:
            if connection is not None:
                connection.detach()
            os.dup2(self._nothing, self._hand, inheritable=False)

    def close(self) -> None:
        os.close(self._hand)
        os.close(self._nothing)


def is_itself(connection: socket.socket) -> bool:
    """Whether both ends are the same: dialling a free port of this machine can meet the very port one dials from."""
    try:
        return bool(connection.getsockname() == connection.getpeername())
    except OSError:
        return False


def cut(connection: socket.socket) -> None:
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass

"""Memory for frames, which come and go all the time and are some hundred kilobytes each."""

from __future__ import annotations

from functools import cache
from typing import Final

# Nothing that we make and drop for each frame is longer, with room for what grows by halves as it is written.
PIECE_BYTES: Final = 4 << 20


@cache  # a second one would be taken, and cleared, from what is kept
def expect_large_pieces() -> None:
    """From now on the allocator of this process keeps up to twice PIECE_BYTES that were freed, where it is glibc's.

    At first it gives whatever is longer than 128 KiB back to the system as soon as it is free, and the system makes,
    and clears, each page of the next one anew: that was a sixth of what the network thread did. It learns from what is
    freed: pieces as long as the longest one are then taken from memory that it keeps (mallopt(3), M_MMAP_THRESHOLD).
    Whoever has set that threshold himself keeps it, and with other allocators nothing happens.
    """
    bytearray(PIECE_BYTES)  # never written to, so that it takes no memory; and freed at once

"""Small files that are memory of the process that made them (`started`, `unbegun_file`)."""

from __future__ import annotations

import errno
import mmap
import os
from contextlib import suppress
from pathlib import Path

from zerowait.engines.brokerless.locks import FILE_MODE, OPEN_FLAGS


def make(path: Path, content: bytes, called: str) -> mmap.mmap:
    """A new file with that content, mapped into memory. Raises OSError; then there is no file of ours."""
    descriptor = os.open(path, OPEN_FLAGS | os.O_CREAT | os.O_EXCL, FILE_MODE)
    try:
        # Written, not only sized: memory that stands for a hole in a full file system kills who writes to it.
        if os.write(descriptor, content) != len(content):
            raise OSError(errno.ENOSPC, f"no room left for {called}", str(path))
        return mmap.mmap(descriptor, len(content))
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(descriptor)

"""Whether a disk still takes data: libraries that write videos do not say when a write fails."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from time import monotonic

EVERY = 0.5
"""Seconds between two tries."""
RESERVE = 1 << 20
"""Bytes that must be free: what comes until the next try, and the index at the end of a video."""
SHARE = 16
"""Of a small disk only this part of it is asked for."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpaceWatch:
    """Tries now and then whether the disk of a folder takes RESERVE more bytes, within the quota of this user too."""

    def __init__(self, folder: Path) -> None:
        status = os.statvfs(folder)
        self._folder = folder
        self._size = min(RESERVE, status.f_frsize * status.f_blocks // SHARE) or RESERVE
        self._next = 0.0

    def full(self) -> bool:
        """Whether it does not; False between two tries."""
        now = monotonic()
        if now < self._next:
            return False
        self._next = now + EVERY
        try:
            with tempfile.TemporaryFile(dir=self._folder) as probe:  # it has no name, so no kill leaves it behind
                os.posix_fallocate(probe.fileno(), 0, self._size)
        except OSError as error:
            return error.errno in FULL
        return False

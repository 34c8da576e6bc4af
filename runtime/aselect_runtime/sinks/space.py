"""Detecting a full disk: libraries that write videos do not report when a write fails."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path
from time import monotonic

EVERY = 0.5
"""Seconds between two checks."""
RESERVE = 1 << 20
"""Bytes that must be free: for the data until the next check, and the index at the end of a video."""
SHARE = 16
"""On a small disk only 1/SHARE of its size must be free."""
FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class SpaceWatch:
    """Checks at intervals whether RESERVE more bytes can be written to a folder's disk, within the user's quota."""

    def __init__(self, folder: Path) -> None:
        status = os.statvfs(folder)
        self._folder = folder
        self._size = min(RESERVE, status.f_frsize * status.f_blocks // SHARE) or RESERVE
        self._next = 0.0

    def full(self) -> bool:
        """Whether the disk is full; False between two checks."""
        now = monotonic()
        if now < self._next:
            return False
        self._next = now + EVERY
        try:
            with tempfile.TemporaryFile(dir=self._folder) as probe:  # without a name, so that a kill leaves no file
                os.posix_fallocate(probe.fileno(), 0, self._size)
        except OSError as error:
            return error.errno in FULL
        return False

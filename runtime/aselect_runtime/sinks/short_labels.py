"""Names of files that are made from a frame's label: a disk takes names of 255 bytes."""

from __future__ import annotations

from zlib import crc32

LONGEST = 240
"""Maximum bytes of a name without its suffix and number."""


def shortened(label: str, most: int = LONGEST) -> str:
    """The label; if its last part has more than `most` bytes, shortened and with a checksum at its end."""
    folder, slash, name = label.rpartition("/")
    data = name.encode(errors="surrogateescape")
    if len(data) > most:
        name = f"{data[: most - 9].decode(errors='ignore')}-{crc32(data):08x}"
    return folder + slash + name

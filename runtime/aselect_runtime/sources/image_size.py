"""The largest image that is accepted from a camera, stream or video; all readers check it."""

from __future__ import annotations

from aselect_runtime.errors import ImageSizeError

LARGEST_IMAGE = 1 << 26
"""Maximum pixels of one image: 8192x8192."""


def check_size(name: str, width: float, height: float) -> None:
    """Raise ImageSizeError for an image of more than LARGEST_IMAGE pixels."""
    if width * height > LARGEST_IMAGE:
        raise too_large(name, f"images of {width:.0f}x{height:.0f}")


def too_large(name: str, got: str) -> ImageSizeError:
    """The error for such images."""
    return ImageSizeError(f"{name}: got {got}, expected at most {LARGEST_IMAGE >> 20} megapixels; reduce their size")

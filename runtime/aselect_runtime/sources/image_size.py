"""The largest image that is accepted from a camera, stream or video; all readers check it."""

from __future__ import annotations

from aselect_runtime.errors import InputError

LARGEST_IMAGE = 1 << 26
"""Maximum pixels of one image: 8192x8192."""
CAMERA = "check the camera"


def check_size(name: str, width: float, height: float, advice: str = CAMERA) -> None:
    """Raise InputError for an image of more than LARGEST_IMAGE pixels; `advice` says what to do."""
    if width * height > LARGEST_IMAGE:
        raise too_large(name, f"images of {width:.0f}x{height:.0f}", advice)


def too_large(name: str, got: str, advice: str = CAMERA) -> InputError:
    """The error for such images."""
    return InputError(f"{name}: got {got}, expected at most {LARGEST_IMAGE >> 20} megapixels; {advice}")

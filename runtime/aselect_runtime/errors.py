"""All error classes. Every message says what was got, what was expected and what to do."""

from __future__ import annotations


class AselectError(Exception):
    """Root of all errors that aselect-edge raises on purpose; commands print them as one line.

    `parameter` is the name of the Python parameter to change (`imgsz`), or several such names. A command adds its
    options of those names to the message; the message itself names no option.
    """

    exit_code = 1

    def __init__(self, message: str = "", *, parameter: str | tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.parameters = (parameter,) if isinstance(parameter, str) else parameter


class InputError(AselectError):
    """A path, argument, image, video or folder given by the user cannot be used."""


class IncompleteError(InputError):
    """An input ended with an error or was given up. The run continued, and every output holds all results so far.

    `summary` is the RunSummary. This module imports nothing, so it cannot name the type.
    """

    def __init__(self, message: str, summary: object) -> None:
        super().__init__(message)
        self.summary = summary


class ImageSizeError(InputError):
    """An image has more pixels than is accepted from a camera, stream or video."""


class RecordError(InputError):
    """A JSON record is unreadable, of another schema, or of an unknown version."""


class IntegrityError(InputError):
    """A file is corrupt, truncated, or not the one that the manifest describes."""


class WriteError(AselectError):
    """A result could not be written (permission, full disk); nothing half-written is left behind."""


class MissingDependencyError(AselectError):
    """An optional package that this command needs is not installed."""


class EngineError(AselectError):
    """A TensorRT engine could not be built, loaded or run."""


class PeerError(AselectError):
    """Another process of the same run ended or cannot be reached; the run resumes if all of them are started again."""


class GateError(AselectError):
    """A result failed a check (parity, accuracy): it exists but must not be deployed."""

    exit_code = 3

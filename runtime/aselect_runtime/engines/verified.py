"""Which engines this machine has verified itself: the record in an export folder could be forged."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from aselect_runtime.errors import WriteError
from aselect_runtime.files import atomic_write
from aselect_runtime.records import Engine

log = logging.getLogger(__name__)


def verified_folder() -> Path:
    """The folder of this user's records: systemd's STATE_DIRECTORY for a service, otherwise XDG_STATE_HOME."""
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service) / "engines-verified"
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "aselect" / "engines-verified"


def is_verified(engine: Engine) -> bool:
    """Whether an engine with these bytes and this record was verified on this machine."""
    try:
        return (verified_folder() / engine.sha256).read_text(encoding="utf-8") == _text(engine)
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: no home folder
        return False


def note_verified(engine: Engine) -> None:
    """Record that an engine is verified; if this cannot be written, the next process verifies it again."""
    try:
        atomic_write(verified_folder() / engine.sha256, _text(engine))
    except (WriteError, RuntimeError) as error:
        log.warning("%s; the engine is verified again at the next start", error)


def _text(engine: Engine) -> str:
    return f"{engine.onnx_sha256} {engine.builder} {engine.version} {engine.target} {engine.gpu} {engine.agreement}\n"

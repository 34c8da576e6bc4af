"""Which engines this machine has verified itself: a folder's own record says what its writer wanted it to say."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from aselect_runtime.errors import WriteError
from aselect_runtime.files import atomic_write
from aselect_runtime.records import Engine

log = logging.getLogger(__name__)


def place() -> Path:
    """Where this user's records are: the folder that systemd gives a service, or that of the XDG specification."""
    service = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    if service:
        return Path(service) / "engines-verified"
    state = os.environ.get("XDG_STATE_HOME", "")
    return (Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state") / "aselect" / "engines-verified"


def is_verified(engine: Engine) -> bool:
    """Whether an engine of these very bytes was built or checked on this machine, for what its record says."""
    try:
        return (place() / engine.sha256).read_text(encoding="utf-8") == _text(engine)
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: there is no home folder
        return False


def note_verified(engine: Engine) -> None:
    """Remember an engine; where that cannot be written, it is checked again by the next process."""
    try:
        atomic_write(place() / engine.sha256, _text(engine))
    except (WriteError, RuntimeError) as error:
        log.warning("%s; the engine is verified again at the next start", error)


def _text(engine: Engine) -> str:
    return f"{engine.onnx_sha256} {engine.builder} {engine.version} {engine.target} {engine.gpu} {engine.agreement}\n"

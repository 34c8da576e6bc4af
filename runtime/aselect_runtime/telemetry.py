"""Switches off the telemetry of the libraries that this project uses."""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
"""For ONNX Runtime from 1.29 on, and the Hugging Face libraries; each reads its variable when it is imported."""


def switch_off() -> None:
    """Switch telemetry off; call it before those libraries are imported. A variable that is set already is kept."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
    # OpenVINO reports each import through this package, which has no variable; if the package is missing, it does not.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)

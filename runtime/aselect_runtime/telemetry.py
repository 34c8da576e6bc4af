"""Telemetry of the libraries, off: nothing that this project runs calls its makers."""

from __future__ import annotations

import os
import sys
from typing import Any

VARIABLES = ("ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY")
"""ONNX Runtime from 1.29 on, and the libraries of Hugging Face; each reads its variable when it is imported."""


def switch_off() -> None:
    """Call it before those libraries are imported; a variable that is set already stays as it is."""
    for name in VARIABLES:
        os.environ.setdefault(name, "1")
    # OpenVINO reports every import of it through this package, which has no variable; without the package it does not.
    modules: dict[str, Any] = sys.modules
    modules.setdefault("openvino_telemetry", None)

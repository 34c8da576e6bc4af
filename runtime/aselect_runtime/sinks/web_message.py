"""Messages to the live page: the model once, then an image, its class map and its figures for each result."""

from __future__ import annotations

import json
import struct
from typing import Any

import cv2

from aselect_runtime.frames import Frame, stretched
from aselect_runtime.health import Health
from aselect_runtime.records import Manifest
from aselect_runtime.results import Result

LONGEST = 1280
"""Maximum pixels of the longer side of an image on the page."""
QUALITY = 80
"""JPEG quality, 0 to 100."""
LIGHT = 1
"""PNG compression level of the class map: low, because the map is small and encoding time matters more."""


def model_message(manifest: Manifest) -> str:
    """The first message, as JSON: task, classes, input size and precision of the model."""
    _, height, width, _ = manifest.input.shape
    classes = [item.model_dump(mode="json") for item in manifest.classes]
    return json.dumps(
        {"task": manifest.task, "classes": classes, "size": [width, height], "precision": manifest.precision}
    )


def result_message(result: Result, manifest: Manifest) -> bytes:
    """A big-endian uint32 with the length of the JSON that follows, that JSON, the frame as JPEG, the map as PNG.

    The JSON is `Result.to_dict` with `stream`, `health`, `image` (number of bytes of the JPEG), the `zones` of this
    input and the latest `events` of the run. The class map is a grey image at the model's size, without letterbox
    borders: the browser colours and scales it. A classification has none.
    """
    image = cv2.imencode(".jpg", _reduced(result.captured.frame), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()
    classes = b""
    if manifest.task == "seg":
        classes = cv2.imencode(".png", result.model_class_map, [cv2.IMWRITE_PNG_COMPRESSION, LIGHT])[1].tobytes()
    head = {
        **result.to_dict(),
        "stream": result.stream,
        "health": _figures(result.health),
        "image": len(image),
        "zones": [{"name": zone.name, "points": zone.points} for zone in result.zones],
        "events": [event.to_dict() for event in result.events],
    }
    text = json.dumps(head).encode()
    return struct.pack(">I", len(text)) + text + image + classes


def _reduced(frame: Frame) -> Frame:
    scale = LONGEST / max(frame.shape[:2])
    if scale >= 1:
        return frame
    size = (max(1, round(frame.shape[0] * scale)), max(1, round(frame.shape[1] * scale)))
    return stretched(frame, size, cv2.INTER_AREA)


def _figures(health: Health) -> dict[str, Any]:
    return {
        "fps": round(health.fps, 2),
        "frames": health.frames,
        "seconds": round(health.seconds),
        "dropped": health.dropped,
        "repeated": health.repeated,
        "reconnects": health.reconnects,
        "stalled": list(health.stalled),
        "temperatures": dict(health.temperatures),
        "power_mode": health.power_mode,
        "sources": [{"name": item.name, "state": item.state, "fault": item.fault} for item in health.sources],
        "sinks": [{"name": item.name, "state": item.state, "dropped": item.dropped} for item in health.sinks],
    }

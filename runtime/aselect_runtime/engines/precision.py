"""In which types an engine really computes, as TensorRT's inspector says: what was asked may have been built in FP32.

The network is strongly typed, so an engine without a single tensor of the graph's type was not built from what the
graph says.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from aselect_runtime.errors import EngineError
from aselect_runtime.records import Manifest

WORDS: Mapping[str, str] = MappingProxyType(
    {
        "int8": r"\bint8",
        "fp8": r"fp8|float8|e4m3|e5m2",
        "bf16": r"bf16|bfloat16",
        "fp16": r"\bhalf|\bfp16|\bfloat16",
        "fp32": r"\bfloat\b|\bfp32|\bfloat32",
    }
)
"""Precision -> how the inspector writes it: `Half`, or `Row major linear FP16 format` in older versions."""


def tensor_types(information: str) -> Counter[str]:
    """How many inputs and outputs of an engine's layers have each precision; empty where the inspector does not say.

    `information` is the JSON of `get_engine_information`, of an engine that was built with detailed profiling.
    """
    try:
        layers = json.loads(information).get("Layers", [])
    except (ValueError, AttributeError):
        return Counter()
    found: Counter[str] = Counter()
    for text in _formats(layers):
        found.update(name for name, words in WORDS.items() if re.search(words, text, re.IGNORECASE))
    return found


def check_precision(types: Counter[str], rung: str, manifest: Manifest, name: str) -> None:
    """Raise EngineError where the graph's precision is nowhere in the engine, unless the inspector does not say."""
    wanted = asked(rung, manifest)
    if types and wanted != "fp32" and not types[wanted]:
        seen = ", ".join(f"{count} {each}" for each, count in types.most_common())
        raise EngineError(
            f"{name}: got an engine whose layers have only {seen} tensors, expected {wanted} as {rung} says; "
            "upgrade TensorRT, or export with the precision fp32"
        )


def asked(rung: str, manifest: Manifest) -> str:
    """The least precise type that a graph of the folder has; a fallback rung of INT8 may hold less of it."""
    if rung == manifest.model:
        return manifest.precision
    return "fp16" if manifest.precision == "fp16" and "mixed" in rung else "fp32"


def _formats(layers: list[Any]) -> Iterator[str]:
    for layer in layers:
        if isinstance(layer, dict):
            for tensor in (*layer.get("Inputs", ()), *layer.get("Outputs", ())):
                yield str(tensor.get("Format/Datatype", ""))

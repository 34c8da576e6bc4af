"""A stand-in for Triton's ONNX Runtime backend, in Python: Triton loads it as backends/onnxruntime/model.py.

It runs in Triton's own Python, where this project is not installed. The number of requests of each call is added to
the file that the environment variable BATCHES names.
"""

from __future__ import annotations

import importlib
import json
import os
from typing import Any

import numpy as np
import onnxruntime

triton: Any = importlib.import_module("triton_python_backend_utils")  # only there inside of Triton


class TritonPythonModel:
    """The interface that Triton's Python backend asks for."""

    @staticmethod
    def auto_complete_config(config: Any) -> Any:
        """Nothing is added to what config.pbtxt says."""
        return config

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        path = os.path.join(args["model_repository"], args["model_version"], "model.onnx")
        options = onnxruntime.SessionOptions()
        options.add_session_config_entry("session.x64quantprecision", "1")  # right on every processor
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = [entry["name"] for entry in config["input"]]
        self.outputs = [entry["name"] for entry in config["output"]]

    def execute(self, requests: list[Any]) -> list[Any]:
        with open(os.environ["BATCHES"], "a", encoding="utf-8") as file:
            file.write(f"{len(requests)}\n")
        given = [[triton.get_input_tensor_by_name(r, name).as_numpy() for r in requests] for name in self.inputs]
        feed = {name: np.concatenate(parts) for name, parts in zip(self.inputs, given, strict=True)}
        ends = np.cumsum([len(part) for part in given[0]])[:-1]
        answers = [np.split(answer, ends) for answer in self.session.run(self.outputs, feed)]
        return [
            triton.InferenceResponse([triton.Tensor(n, part) for n, part in zip(self.outputs, parts, strict=True)])
            for parts in zip(*answers, strict=True)
        ]

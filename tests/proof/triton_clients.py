"""Clients of a Triton server, in the Python where tritonclient is installed.

    python triton_clients.py PROTOCOL ADDRESS MODEL FRAMES.npy ANSWERS.npz

Every frame is a request of a client of its own, all at once; the answers are saved under the outputs' names.
"""

from __future__ import annotations

import importlib
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np


def main(protocol: str, address: str, model: str, frames_path: str, answers_path: str) -> None:
    """Ask `protocol` ("http" or "grpc") for the answers to uint8 frames [N, H, W, 3]."""
    triton: Any = importlib.import_module(f"tritonclient.{protocol}")
    frames = np.load(frames_path)
    ready = threading.Barrier(len(frames))
    described = triton.InferenceServerClient(address).get_model_metadata(model)
    if protocol == "grpc":
        names = [output.name for output in described.outputs]
    else:
        names = [output["name"] for output in described["outputs"]]

    def ask(frame: Any) -> list[Any]:
        client = triton.InferenceServerClient(address)
        tensor = triton.InferInput("frames", [1, *frame.shape], "UINT8")
        tensor.set_data_from_numpy(frame[None])
        ready.wait(60)
        answer = client.infer(model, [tensor])
        client.close()
        return [answer.as_numpy(name) for name in names]

    with ThreadPoolExecutor(len(frames)) as pool:
        answers = list(pool.map(ask, frames))
    by_output: dict[str, Any] = {name: np.concatenate([a[i] for a in answers]) for i, name in enumerate(names)}
    np.savez(answers_path, **by_output)


if __name__ == "__main__":
    main(*sys.argv[1:])

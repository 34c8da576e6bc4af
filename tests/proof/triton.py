"""A real Triton server answers from the repositories that are exported: `make test-triton`.

    python -m tests.proof.triton

nvidia-pytriton brings tritonserver with its Python backend. NVIDIA's own ONNX Runtime backend comes only in their
container image: a stand-in of that name (onnxruntime_backend.py) runs the graph. So the server reads config.pbtxt,
names, types and shapes, and batches requests, all as in production; that NVIDIA's backend loads the graph is not shown.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from aselect_runtime.errors import GateError
from aselect_runtime.sessions.onnx import OnnxSession
from tests.proof.environments import Environment
from tests.proof.steps import SIZE, Check, Seen, exported, prove, run

VERSION = "0.7.0"
TRITON = Environment("triton", "Triton")
"""Of its own: it needs NumPy 1."""
HERE = Path(__file__).parent
FRAMES, ROUNDS = 8, 10
KINDS = tuple((task, precision) for task in ("seg", "cls") for precision in ("fp32", "int8"))
PROTOCOLS = ("http", "grpc")


Answer = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


@dataclass(frozen=True)
class Server:
    """A running server: the addresses of both protocols, and the file of the calls' batch sizes."""

    addresses: dict[str, str]
    batches: Path


def main() -> None:
    """Run the proof."""
    prove("triton", steps)


def steps(place: Path) -> Seen:
    """Install the server where it is missing, and ask every kind of model."""
    TRITON.install(f"nvidia-pytriton=={VERSION}", f"onnxruntime=={importlib.metadata.version('onnxruntime')}")
    checks = tuple(answers(task, precision, place) for task, precision in KINDS)
    return Seen({**versions(), "onnxruntime": importlib.metadata.version("onnxruntime")}, checks)


def versions() -> dict[str, str]:
    """What it was tried with."""
    code = "import importlib.metadata as m; print(m.version('nvidia-pytriton'), m.version('tritonclient'))"
    pytriton, client = run([TRITON.python, "-I", "-c", code]).split()
    return {"nvidia-pytriton": pytriton, "tritonclient": client}


def answers(task: str, precision: str, place: Path) -> Check:
    """Clients of both protocols get what ONNX Runtime gives for each frame alone; raises GateError."""
    repository = exported(place / f"{task}-{precision}", precision, "--format", "triton", "--no-ladder", task=task)
    model = f"aselect_{task}"
    session = OnnxSession(repository / model / "1" / "model.onnx", "cpu")
    height, width = map(int, SIZE.split("x"))
    frames = np.random.default_rng(0).integers(0, 256, (FRAMES, height, width, 3), np.uint8)
    alone = [session.infer(frames[index : index + 1]) for index in range(FRAMES)]
    expected = {name: np.concatenate([answer[name] for answer in alone]) for name in alone[0]}
    np.save(place / "frames.npy", frames)
    with serving(repository, model, place) as server:
        largest = 0
        for protocol in PROTOCOLS:
            for _ in range(ROUNDS):  # until requests have met: a client may be late on a busy machine
                held_against(expected, ask(server, protocol, model, place), f"{model}, {precision}, {protocol}")
                largest = max(map(int, server.batches.read_text().split()))
                if largest > 1:
                    break
    if largest < 2:
        raise GateError(f"{model}: got every request alone, expected batches; look at dynamic_batching in config.pbtxt")
    told = f"{FRAMES} clients at once, up to {largest} in a batch, answers as ONNX Runtime's"
    return Check(f"`--format triton`, {task}, {precision}, over HTTP and gRPC", told)


@contextmanager
def serving(repository: Path, model: str, place: Path) -> Iterator[Server]:
    """A server of a model repository on free ports of this machine; it is ended, and its shared memory freed."""
    TRITON.check()
    http, grpc = free_ports()
    shared = f"aselect_triton_{os.getpid()}_"
    server = Server({"http": f"127.0.0.1:{http}", "grpc": f"127.0.0.1:{grpc}"}, place / f"{repository.name}.batches")
    server.batches.touch()
    backends, libraries = build_backends(place)
    command: list[str | Path] = [
        backends.parent / "tritonserver",
        "--model-repository",
        repository,
        "--backend-directory",
        backends,
    ]
    command += ["--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"]
    command += ["--allow-metrics=false", f"--backend-config=onnxruntime,shm-region-prefix-name={shared}"]
    environment = {
        "PATH": f"{TRITON.python.parent}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(libraries),
        "PYTHONPATH": "",
    }
    environment |= {"BATCHES": str(server.batches), "ORT_DISABLE_TELEMETRY": "1"}
    log = place / f"{repository.name}.log"
    with log.open("wb") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | environment)
    try:
        await_ready(process, f"http://{server.addresses['http']}/v2/models/{model}/ready", log)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        for region in Path("/dev/shm").glob(f"{shared}*"):
            region.unlink(missing_ok=True)


def free_ports() -> list[int]:
    """Two ports that nothing listens on."""
    with socket.socket() as first, socket.socket() as second:
        for each in (first, second):
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in (first, second)]


def build_backends(place: Path) -> tuple[Path, Path]:
    """The server with its Python backend and the stand-in, laid out as Triton wants; (backends, shared libraries)."""
    (packages,) = TRITON.place.glob("lib/python3.*/site-packages")
    server = packages / "pytriton" / "tritonserver"
    backends = place / "backends"
    if not backends.exists():
        python, stand_in = backends / "python", backends / "onnxruntime"
        shutil.copytree(server / "backends" / "python", python)
        version = packages.parent.name.removeprefix("python")
        shutil.copy(server / "python_backend_stubs" / version / "triton_python_backend_stub", python)
        (python / "triton_python_backend_stub").chmod(0o755)
        stand_in.mkdir()
        shutil.copy(HERE / "onnxruntime_backend.py", stand_in / "model.py")
        shutil.copy(server / "bin" / "tritonserver", place)
        (place / "tritonserver").chmod(0o755)
    return backends, packages / "nvidia_pytriton.libs"


def await_ready(process: subprocess.Popen[bytes], address: str, log: Path, limit_s: float = 120) -> None:
    """Return when the server says that the model is ready; raises GateError if it ends or never is."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            pass
        try:
            process.wait(0.2)
        except subprocess.TimeoutExpired:
            continue
        break
    said = log.read_text(errors="replace").strip().splitlines()[-1:]
    raise GateError(f"tritonserver: got no model that is ready ({said}), expected one; look at the repository")


def ask(server: Server, protocol: str, model: str, place: Path) -> dict[str, Answer]:
    """What clients of a protocol get for the frames of frames.npy, by output."""
    out = place / "answers.npz"
    clients: list[str | Path] = [
        TRITON.python,
        "-I",
        HERE / "triton_clients.py",
        protocol,
        server.addresses[protocol],
        model,
    ]
    run([*clients, place / "frames.npy", out], 120)
    with np.load(out) as arrays:
        return dict(arrays)


def held_against(expected: dict[str, Answer], got: dict[str, Answer], name: str) -> None:
    """Raise GateError unless classes are equal and numbers differ by no more than 1e-5."""
    if expected.keys() != got.keys():
        raise GateError(f"{name}: got the outputs {sorted(got)}, expected {sorted(expected)}; look at config.pbtxt")
    for output, wanted in expected.items():
        tolerance = 0 if wanted.dtype == np.uint8 else 1e-5
        if wanted.shape != got[output].shape or not np.allclose(got[output], wanted, rtol=0, atol=tolerance):
            raise GateError(f"{name}: got another {output} than from ONNX Runtime, expected the same; compare them")


if __name__ == "__main__":
    main()

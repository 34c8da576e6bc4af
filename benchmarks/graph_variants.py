"""One variant of the graph benchmark in a separate process; prints its figures as JSON.

    python -m benchmarks.graph_variants VARIANT shipped|xl|sd3|prx FOLDER

FOLDER holds the model that `benchmarks.graph_models.make` wrote, and the graphs that the export variants write.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

THREADS = 2
SECONDS, MOST = 3.0, 10
"""Timed runs end after this many seconds, or this many runs; at least one."""
LONG = 20.0
"""A first run longer than this counts as the measurement: a warm-up would not change it."""

Arrays = list[NDArray[np.float32]]
Variant = Callable[[str, Path], tuple[dict[str, float], Arrays]]
"""A model's key and its folder -> the figures, and the outputs to compare, if there are any."""
PLAIN, OURS = "plain/model.onnx", "ours/model.onnx"


def main(variants: Mapping[str, Variant]) -> None:
    """Run the variant that the arguments name."""
    variant, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    figures, outputs = variants[variant](key, folder)
    if outputs:
        np.savez(folder / f"{variant}.npz", *outputs)
    print(json.dumps(figures))


def timed(run: Callable[[], Any], seconds: float = SECONDS, warmups: int = 1) -> float:
    """Median milliseconds of a call, after `warmups`; for a slow call, the last warm-up is the figure."""
    for _ in range(warmups):
        start = time.perf_counter()
        run()
        first = time.perf_counter() - start
    taken: list[float] = [first] if first > LONG else []
    start = time.perf_counter()
    while not taken or (len(taken) < MOST and time.perf_counter() - start < seconds and first < LONG):
        before = time.perf_counter()
        run()
        taken.append(time.perf_counter() - before)
    return 1e3 * statistics.median(taken)


def eager(key: str, folder: Path, compiled: bool = False) -> tuple[dict[str, float], Arrays]:
    """The whole diffusers model, read by a hook."""
    import torch

    from benchmarks.graph_models import SHAPES, hooked, noisy, whole

    torch.set_num_threads(THREADS)
    model, arguments = whole(key, folder)
    seen = hooked(model, SHAPES[key].hooks)
    size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    call: Any = torch.compile(model) if compiled else model
    x = noisy(key)
    with torch.no_grad():
        # The first call compiles, and the second again, because the hooks then hold values.
        latency = timed(lambda: call(x, **arguments, return_dict=False), warmups=3 if compiled else 1)
    figures = {"latency [ms]": latency, "bytes": size}
    return figures, [feature.float().numpy() for feature in seen()]


def in_onnxruntime(graph: str, timer: Callable[[Callable[[], Any]], float] | None = timed) -> Variant:
    """An exported graph in ONNX Runtime; without a timer, only its outputs."""

    def run(_key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = THREADS
        session = onnxruntime.InferenceSession(str(folder / graph), options, providers=["CPUExecutionProvider"])
        feeds = {node.name: np.load(folder / f"{Path(graph).parent}.{node.name}.npy") for node in session.get_inputs()}
        outputs = session.run(None, feeds)
        figures = {"latency [ms]": timer(lambda: session.run(None, feeds))} if timer else {}
        return figures | {"bytes": graph_bytes(folder / graph)}, outputs

    return run


def in_openvino(graph: str, precision: str) -> Variant:
    """The deployed graph in OpenVINO, computing in `precision`."""

    def run(_key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
        import openvino

        hints = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": THREADS, "NUM_STREAMS": 1}
        compiled = openvino.Core().compile_model(folder / graph, "CPU", hints)
        request = compiled.create_infer_request()
        feeds = [np.load(folder / f"{Path(graph).parent}.{node.get_any_name()}.npy") for node in compiled.inputs]
        latency = timed(lambda: request.infer(feeds))
        outputs = [np.array(request.get_output_tensor(index).data) for index in range(len(compiled.outputs))]
        return {"latency [ms]": latency, "bytes": graph_bytes(folder / graph)}, outputs

    return run


def export_plain(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """`torch.onnx.export` of the truncated, unfolded module with the timestep as an input."""
    import onnx  # noqa: F401 - imported first, so that it is not measured
    import onnxscript  # noqa: F401
    import torch

    from benchmarks.graph_models import Truncated, noisy, whole

    before, start = after_imports(), time.perf_counter()
    model, arguments = whole(key, folder)
    module, x = Truncated(key, model, arguments).eval(), noisy(key)
    path = folder / PLAIN
    path.parent.mkdir(exist_ok=True)
    with torch.no_grad():
        torch.onnx.export(
            module, (x, arguments["timestep"]), path, dynamo=True, input_names=["x", "timestep"], verbose=False
        )
    figures = {"seconds": time.perf_counter() - start, "peak above imports [MB]": peak() - before}
    np.save(folder / "plain.x.npy", x.numpy())
    np.save(folder / "plain.timestep.npy", arguments["timestep"].numpy())
    return figures | {"bytes": graph_bytes(path)}, []


def export_ours(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """The folded graph, loaded lean, traced, simplified and written."""
    import onnxscript  # noqa: F401
    import torch  # noqa: F401

    from aselect_export.graph import trace_module
    from benchmarks.graph_models import SHAPES, Features, values

    before, start = after_imports(), time.perf_counter()
    path = folder / OURS
    path.parent.mkdir(exist_ok=True)
    x = values(key)
    names = [f"tap{index}" for index in range(len(SHAPES[key].taps))]
    trace_module(Features(key, folder).eval(), x, "x", names, path.parent).write(path)
    (path.parent / "traced.weights").unlink()
    figures = {"seconds": time.perf_counter() - start, "peak above imports [MB]": peak() - before}
    np.save(folder / "ours.x.npy", x.numpy())
    return figures | {"bytes": graph_bytes(path)}, []


def autoencoder(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """Only the autoencoder's encoder: in torch, and in its deployed form in ONNX Runtime."""
    import torch

    from aselect_edge.backbones.encoders import load_encoder
    from aselect_edge.fold import deployed_encoder
    from aselect_export.graph import trace_module
    from benchmarks.graph_models import SHAPES

    torch.set_num_threads(THREADS)
    encoder = load_encoder(str(folder)).eval()
    _, height, width = SHAPES[key].values
    pixels = torch.rand(1, 3, height * encoder.stride, width * encoder.stride) * 255
    path = folder / "encoder" / "model.onnx"
    path.parent.mkdir(exist_ok=True)
    graph = trace_module(deployed_encoder(encoder).eval(), pixels, "x", ["latents"], path.parent)
    graph.write(path)
    np.save(folder / "encoder.x.npy", pixels.numpy())
    with torch.no_grad():
        figures = {"torch [ms]": timed(lambda: encoder(pixels))}
    ort, _ = in_onnxruntime("encoder/model.onnx")(key, folder)
    vino, _ = in_openvino("encoder/model.onnx", "f32")(key, folder)
    return figures | {"onnxruntime [ms]": ort["latency [ms]"], "openvino f32 [ms]": vino["latency [ms]"]}, []


def limit(key: str, folder: Path) -> tuple[dict[str, float], Arrays]:
    """The time of only the products of the deployed graph, each in its fastest library."""
    from benchmarks.graph_limit import floor

    return floor(folder / OURS, lambda run: timed(run, seconds=1.0), THREADS, bf16=bf16_is_worth_it(key)), []


def bf16_is_worth_it(key: str) -> bool:
    """Whether bfloat16 is measured: SD3 is not where the processor only emulates it, at a hundredth of the speed."""
    flags = Path("/proc/cpuinfo").read_text()
    return key != "sd3" or "avx512_bf16" in flags or "amx_bf16" in flags


def after_imports() -> float:
    """Resident megabytes now; restarts the peak."""
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def peak() -> float:
    """Highest resident megabytes since `after_imports`."""
    return _status("VmHWM")


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) * 1024 / 1e6


def graph_bytes(path: Path) -> int:
    """Bytes of a graph, including the weights next to it."""
    return sum(file.stat().st_size for file in path.parent.glob(f"{path.name}*"))


VARIANTS: dict[str, Variant] = {
    "eager": eager,
    "compiled": lambda key, folder: eager(key, folder, compiled=True),
    "plain": in_onnxruntime(PLAIN),
    "ours": in_onnxruntime(OURS),
    "ours-openvino-f32": in_openvino(OURS, "f32"),
    "ours-openvino-bf16": in_openvino(OURS, "bf16"),
    "limit": limit,
    "export-plain": export_plain,
    "export-ours": export_ours,
    "autoencoder": autoencoder,
}


if __name__ == "__main__":
    main(VARIANTS)

"""The checks: each evaluates the collected facts and yields findings."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from aselect_runtime.doctor.facts import (
    HALF,
    Facts,
    Finding,
    L4t,
    Level,
    parse_build,
    parse_power_mode,
    parse_tegra_release,
)
from aselect_runtime.engines.versions import Builder, known_fault, parsed

LEAST_MEMORY_MIB = 1024
LEAST_DISK_MIB = 2048
OLDEST_OPENCV = (4, 8)
HEADLESS = "opencv-python-headless"
OPENCVS = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")


def examine(facts: Facts) -> list[Finding]:
    """All findings of all checks, in the order in which problems should be fixed."""
    return [finding for check in CHECKS for finding in check(facts)]


def _python(facts: Facts) -> Iterator[Finding]:
    version = ".".join(map(str, facts.python))
    if facts.python < (3, 10):
        yield Finding(
            "python", "error", f"Python {version}, expected 3.10 or newer", "use the Python of JetPack 6 or 7"
        )
    elif facts.python > (3, 13):
        yield Finding("python", "note", f"Python {version} is not tested; supported are 3.10 to 3.13")
    else:
        yield Finding("python", "ok", f"Python {version} on {facts.machine}")


def _jetpack(facts: Facts) -> Iterator[Finding]:
    if facts.tegra_release is None:
        return
    found = parse_tegra_release(facts.tegra_release)
    if found is None:
        yield Finding("jetpack", "warn", "/etc/nv_tegra_release has an unknown format")
    elif found.jetpack is None:
        yield Finding("jetpack", "warn", f"Jetson Linux {found.release} belongs to an unknown JetPack version")
    elif found.jetpack < 6:
        yield Finding(
            "jetpack",
            "error",
            f"JetPack {found.jetpack} (Jetson Linux {found.release}) has Python 3.8 and TensorRT 8",
            "flash JetPack 6 (Orin) or 7; docs/jetson.md",
        )
    else:
        board = facts.model or "Jetson"
        yield Finding("jetpack", "ok", f"JetPack {found.jetpack} (Jetson Linux {found.release}) on {board}")


def _driver(facts: Facts) -> Iterator[Finding]:
    if facts.gpu is not None and facts.driver_cuda is not None:
        cuda = ".".join(map(str, facts.driver_cuda))
        yield Finding("driver", "ok", f"{facts.gpu.name} ({facts.gpu.target}), driver for CUDA {cuda}")
    elif _jetson(facts):
        yield Finding(
            "driver",
            "error",
            "a Jetson, but its GPU cannot be used",
            "in a container: docker run --runtime nvidia …; otherwise flash JetPack again",
        )
    elif facts.driver_cuda is not None:
        yield Finding("driver", "warn", "an NVIDIA driver without a GPU", "in a container: docker run --gpus all …")
    else:
        yield Finding("driver", "note", "no NVIDIA driver: models run on the processor")


def _tensorrt(facts: Facts) -> Iterator[Finding]:
    install = (
        "make the environment with --system-site-packages, so that it sees JetPack's TensorRT"
        if _jetson(facts)
        else "pip install tensorrt"
    )
    builders: tuple[tuple[Builder, str], ...] = (("tensorrt", "TensorRT"), ("rtx", "TensorRT-RTX"))
    for builder, name in builders:
        found = facts.tensorrt if builder == "tensorrt" else facts.tensorrt_rtx
        target = facts.gpu.target if facts.gpu else ""
        if found.fault is not None:
            yield Finding("tensorrt", "error", f"{name} is installed but cannot be imported: {found.fault}", install)
        elif found.version is not None:
            fault = known_fault(builder, found.version, target)
            fix = "upgrade TensorRT (JetPack); each engine is compared with ONNX Runtime before it is used"
            yield (
                Finding("tensorrt", "warn", fault, fix)
                if fault
                else Finding("tensorrt", "ok", f"{name} {found.version}")
            )
    if facts.gpu is not None and facts.tensorrt == facts.tensorrt_rtx:
        yield Finding("tensorrt", "warn", "a GPU, but no TensorRT", install)


def _cuda_python(facts: Facts) -> Iterator[Finding]:
    if facts.gpu is None or facts.driver_cuda is None or facts.tensorrt.version is None:
        return
    wanted = f"pip install 'cuda-bindings=={'12.9' if facts.driver_cuda[0] == 12 else facts.driver_cuda[0]}.*'"
    version = facts.packages.get("cuda-bindings") or facts.packages.get("cuda-python")
    if version is None and "pycuda" in facts.packages:
        yield Finding(
            "cuda-python", "note", f"pycuda {facts.packages['pycuda']}: engines run without CUDA graphs", wanted
        )
    elif version is None:
        yield Finding("cuda-python", "error", "no cuda-python: engines can be built but not run", wanted)
    elif parsed(version)[0] > facts.driver_cuda[0]:
        driver = ".".join(map(str, facts.driver_cuda))
        yield Finding("cuda-python", "error", f"cuda-python {version} with a driver for CUDA {driver}", wanted)
    else:
        yield Finding("cuda-python", "ok", f"cuda-python {version}")


def _onnxruntime(facts: Facts) -> Iterator[Finding]:
    cpu, gpu = (facts.packages.get(name) for name in ("onnxruntime", "onnxruntime-gpu"))
    if cpu and gpu:
        keep = "onnxruntime-gpu" if facts.gpu else "onnxruntime"
        yield Finding(
            "onnxruntime",
            "error",
            f"onnxruntime {cpu} and onnxruntime-gpu {gpu} overwrite each other's files",
            f"pip uninstall -y onnxruntime onnxruntime-gpu && pip install {keep}",
        )
    elif facts.onnxruntime.fault is not None:
        what = f"ONNX Runtime is installed but cannot be imported: {facts.onnxruntime.fault}"
        yield Finding("onnxruntime", "error", what, "pip install --force-reinstall onnxruntime")
    elif facts.onnxruntime.version is None:
        level: Level = "warn" if facts.tensorrt.version else "error"
        what, fix = "no ONNX Runtime: models run on TensorRT engines only", "pip install onnxruntime"
        yield Finding("onnxruntime", level, what, fix)
    else:
        yield Finding("onnxruntime", "ok", f"{'onnxruntime-gpu' if gpu else 'onnxruntime'} {facts.onnxruntime.version}")


def _opencv(facts: Facts) -> Iterator[Finding]:
    wheels = [name for name in OPENCVS if name in facts.packages]
    if facts.opencv.version is None:
        what = f"OpenCV cannot be imported: {facts.opencv.fault}" if facts.opencv.fault else "no OpenCV"
        fix = "sudo apt install nvidia-opencv" if _jetson(facts) else "pip install opencv-python-headless"
        if "numpy" in (facts.opencv.fault or "").lower() and facts.packages.get("numpy", "").startswith("2."):
            fix = "pip install 'numpy>=1.26,<2': this OpenCV was built for NumPy 1"
        if facts.opencv.fault == HALF and not _jetson(facts):
            first = f"pip uninstall -y {' '.join(wheels)} && " if wheels else ""
            fix = f"{first}pip install --force-reinstall {HEADLESS}"
        yield Finding("opencv", "error", what, fix)
        return
    if len(wheels) > 1:
        fix = f"pip uninstall -y {' '.join(wheels)} && pip install {wheels[0]}"
        yield Finding("opencv", "warn", f"{' and '.join(wheels)} overwrite each other's files", fix)
    if _jetson(facts) and wheels:
        what = f"{wheels[0]} hides JetPack's OpenCV, which alone encodes by hardware"
        yield Finding("opencv", "warn", what, f"pip uninstall -y {' '.join(wheels)}")
    has = {feature: parse_build(facts.opencv_build, feature) for feature in ("GStreamer", "FFMPEG", "v4l/v4l2")}
    there = ", ".join(name for name, present in has.items() if present) or "nothing to read video with"
    yield Finding("opencv", "ok", f"OpenCV {facts.opencv.version} with {there}")
    if parsed(facts.opencv.version) < OLDEST_OPENCV:
        what = f"OpenCV {facts.opencv.version} is older than {'.'.join(map(str, OLDEST_OPENCV))}: not tested"
        yield Finding("opencv", "warn", what, "sudo apt install nvidia-opencv" if _jetson(facts) else "upgrade it")
    if not has["FFMPEG"]:
        yield Finding(
            "opencv", "warn", "OpenCV without FFmpeg: no video files, no rtsp://", "pip install opencv-python-headless"
        )
    if not has["v4l/v4l2"]:
        yield Finding(
            "opencv", "warn", "OpenCV without V4L2: no /dev/video cameras", "pip install opencv-python-headless"
        )
    if not facts.gstreamer:
        fix = "sudo apt install libgstreamer1.0-0 gstreamer1.0-plugins-base gstreamer1.0-plugins-good"
        yield Finding("gstreamer", "note", "no GStreamer: no csi:// cameras and no GStreamer strings", fix)


def _decoding(facts: Facts) -> Iterator[Finding]:
    if facts.decoding is None:
        yield Finding("decoding", "ok", "NVIDIA's hardware decodes video")
    elif facts.decoding:
        yield Finding("decoding", "note", f"the processor decodes video: {facts.decoding}")


def _power(facts: Facts) -> Iterator[Finding]:
    if facts.power_mode is None:
        return
    name, _ = parse_power_mode(facts.power_mode)
    if name.upper().startswith("MAXN"):
        yield Finding("power", "ok", f"power mode {name}")
    else:
        fix = "sudo nvpmodel -p --verbose lists the modes; sudo nvpmodel -m 0 && sudo jetson_clocks for the fastest"
        yield Finding("power", "note", f"power mode {name}, which is not the fastest", fix)


def _encoder(facts: Facts) -> Iterator[Finding]:
    if facts.encoder:
        yield Finding("encoder", "ok", "a hardware video encoder (NVENC)")
    elif facts.encoder is False:
        board = "Orin Nano has none" if "Orin Nano" in (facts.model or "") else "none was found"
        yield Finding("encoder", "note", f"no hardware video encoder ({board}): overlay video is encoded on the CPU")


def _cameras(facts: Facts) -> Iterator[Finding]:
    closed = [camera.path for camera in facts.cameras if not camera.readable]
    if closed:
        fix = "sudo usermod -aG video $USER, then log in again; in a container: --device /dev/video0"
        yield Finding("cameras", "warn", f"this user may not open {', '.join(closed)}", fix)
    open_ones = [camera.path for camera in facts.cameras if camera.readable]
    if open_ones:
        yield Finding("cameras", "ok", ", ".join(open_ones))
    elif not closed:
        yield Finding("cameras", "note", "no /dev/video camera")


def _space(facts: Facts) -> Iterator[Finding]:
    if facts.memory_mib < LEAST_MEMORY_MIB:
        fix = "close other programs; on a Jetson: sudo systemctl set-default multi-user.target, or add swap"
        yield Finding("memory", "warn", f"{facts.memory_mib} MiB of memory are free; a build needs more", fix)
    else:
        yield Finding("memory", "ok", f"{facts.memory_mib} MiB of memory are free")
    if facts.disk_mib < LEAST_DISK_MIB:
        yield Finding("disk", "warn", f"{facts.disk_mib} MiB of disk are free; engines need more", "free some space")
    else:
        yield Finding("disk", "ok", f"{facts.disk_mib} MiB of disk are free")


def _jetson(facts: Facts) -> bool:
    found: L4t | None = parse_tegra_release(facts.tegra_release or "")
    return found is not None or "Jetson" in (facts.model or "")


CHECKS: tuple[Callable[[Facts], Iterator[Finding]], ...] = (
    _python,
    _jetpack,
    _driver,
    _tensorrt,
    _cuda_python,
    _onnxruntime,
    _opencv,
    _decoding,
    _power,
    _encoder,
    _cameras,
    _space,
)

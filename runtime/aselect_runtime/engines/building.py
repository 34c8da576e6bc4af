"""Building engines for an export folder: what `aselect-build` does, and `aselect-run` if there is no engine yet."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from threading import Event

from aselect_runtime.engines.attempt import Attempt
from aselect_runtime.engines.builder import BuildOptions, build_engine, check_target, engine_name
from aselect_runtime.engines.cache import Key, failed_before, find, forget_failure, keys, load_plan, note_failure
from aselect_runtime.engines.fp8 import buildable, check_fp8
from aselect_runtime.engines.gpu import Gpu, find_gpu
from aselect_runtime.engines.lock import building
from aselect_runtime.engines.opening import open_memory
from aselect_runtime.engines.parity import Passing, first_passing, verification_frames
from aselect_runtime.engines.speed_gate import KEPT, faster
from aselect_runtime.engines.tensorrt_session import TensorRtSession
from aselect_runtime.engines.verified import is_verified, note_verified
from aselect_runtime.engines.versions import Builder, available, known_fault, known_targets, load, version
from aselect_runtime.errors import EngineError, GateError
from aselect_runtime.files import check_files, sha256
from aselect_runtime.folder import MANIFEST, load_folder
from aselect_runtime.progress import Progress, silent
from aselect_runtime.records import Engine, Manifest, Report

log = logging.getLogger(__name__)

REPORT = "report.json"


def add_engines(
    folder: Path,
    targets: Sequence[str],
    options: BuildOptions | None = None,
    progress: Progress = silent,
    stop: Event | None = None,
) -> tuple[Engine, ...]:
    """Build an engine per target and list it in the manifest; returns the new engines.

    Without targets, or if this machine's GPU is the only target, the engine is built for the TensorRT that
    `aselect-run` uses here and is compared with ONNX Runtime before it replaces an older one. For other targets
    TensorRT-RTX builds `model.onnx` ahead of time, unverified. Raises what `load_folder`, `check_target`,
    `build_engine` and `first_passing` raise.
    """
    precision = load_folder(folder)[0].precision  # before the lock's file is made in it
    options = options or BuildOptions()
    gpu, here = find_gpu(), runnable()
    if not targets or (here and gpu and set(targets) == {gpu.target}):
        builder = here or "tensorrt"
        check_target(None, builder)
        assert gpu is not None  # check_target has seen it
        with building(folder, stop):
            manifest, _ = load_folder(folder)
            return (_build_first_passing(folder, manifest, builder, gpu, options, progress, stop),)
    wanted = list(dict.fromkeys(check_target(target, "rtx") for target in targets))
    if precision == "fp8":
        check_fp8(wanted)
    built = []
    with building(folder, stop):
        manifest, model = load_folder(folder)
        for target in wanted:
            name = engine_name("rtx", target)
            built.append(build_engine(model, folder / name, target, "rtx", progress, options=options, stop=stop))
            manifest = _listed(manifest, built[-1])
            manifest.save(folder / MANIFEST)
    return tuple(built)


def runnable() -> Builder | None:
    """The TensorRT that can run engines on this machine; None without a usable GPU or without the package."""
    gpu = find_gpu()
    if gpu is None:
        return None
    if available("tensorrt"):
        return "tensorrt"
    return "rtx" if available("rtx") and gpu.target in known_targets(load("rtx")) else None


def open_engine(folder: Path, manifest: Manifest, progress: Progress = silent) -> TensorRtSession:
    """A session of the folder's engine for exactly this TensorRT version and GPU, which is built first if necessary.

    `manifest` is the folder's, from `load_folder`. An engine that was built for anything else is never loaded. Raises
    EngineError (no GPU or TensorRT, or the build fails) or GateError (no graph passes the parity check).
    """
    gpu, builder = find_gpu(), runnable()
    if gpu is None or builder is None:
        got = "no NVIDIA GPU" if gpu is None else f"{gpu.name} without TensorRT"
        raise EngineError(
            f"got the device tensorrt and {got}, expected a GPU with TensorRT; run aselect-doctor, or use "
            "the device auto",
            parameter="device",
        )
    engine, _ = _usable(folder, manifest, builder, gpu)
    if engine is None:
        engine = _built_once(folder, builder, gpu, progress)
    session = TensorRtSession(load_plan(folder, engine), builder, str(folder / engine.file))
    try:
        session.check(manifest)
    except BaseException:
        session.close()
        raise
    return session


def _built_once(folder: Path, builder: Builder, gpu: Gpu, progress: Progress) -> Engine:
    with building(folder):
        manifest, _ = load_folder(folder)
        engine, passed_over = _usable(folder, manifest, builder, gpu)
        if engine is not None:  # another process built it while this one waited
            return engine
        if failed_before(folder, engine_name(builder, gpu.target), _wanted(manifest, builder, gpu)):
            raise GateError(
                f"{folder}: got only wrong results from {builder} {version(builder)} on {gpu.name} before, expected "
                "those of ONNX Runtime; upgrade TensorRT, or run aselect-build to try again"
            )
        for reason in passed_over:
            log.info("not used: %s", reason)
        what = f"{builder} {version(builder)} on {gpu.name}"
        log.info("%s: no verified engine for %s yet; building one, which is done once", folder, what)
        return _build_first_passing(folder, manifest, builder, gpu, BuildOptions(), progress, None)


def _usable(folder: Path, manifest: Manifest, builder: Builder, gpu: Gpu) -> tuple[Engine | None, list[str]]:
    """The engine that fits and was verified on this machine (its record alone is not trusted), and reasons against."""
    engine, passed_over = find(folder, manifest, _wanted(manifest, builder, gpu))
    if engine is not None and not is_verified(engine):
        return None, [*passed_over, f"{engine.file}: it was never verified on this machine"]
    return engine, passed_over


def _wanted(manifest: Manifest, builder: Builder, gpu: Gpu) -> list[Key]:
    """The keys of all graphs of the folder on this machine, with any build options."""
    return list(keys(manifest, builder, gpu, None).values())


def _build_first_passing(
    folder: Path,
    manifest: Manifest,
    builder: Builder,
    gpu: Gpu,
    options: BuildOptions,
    progress: Progress,
    stop: Event | None,
) -> Engine:
    """Build and verify graph after graph; the first engine that passes replaces the one in use.

    An INT8 or FP8 engine must also be faster than the next graph's. A GPU without FP8 gets the next graph at once.
    """
    if fault := known_fault(builder, version(builder), gpu.target):
        log.warning("%s; the engine is compared with ONNX Runtime before it is used", fault)
    verification = verification_frames(folder, manifest)
    if verification is not None:
        open_memory()  # fails before a build of minutes that could not be verified
    rungs = buildable(manifest, tuple(keys(manifest, builder, gpu, options)), gpu)
    check_files(folder, {name: manifest.files[name] for name in manifest.files if name.startswith(rungs)})
    compared = any(map(manifest.is_eight_bit, rungs)) and len(rungs) > 1
    prebuilt, _ = find(folder, manifest, list(keys(manifest, builder, gpu, options).values()))
    attempt = Attempt(folder, manifest, builder, gpu, options, prebuilt, verification, compared, progress, stop)
    candidate, final = attempt.candidate, attempt.final
    try:
        passing = first_passing(rungs, attempt.build, attempt.verify, manifest.is_fp32)
        if compared and passing.rung == manifest.model:
            others = partial(first_passing, rungs[1:], attempt.build, attempt.verify, manifest.is_fp32)
            passing = faster(passing, manifest.precision, others, candidate, attempt.latency)
        candidate.replace(folder / final)
        forget_failure(folder, final)
    except GateError:
        note_failure(folder, final, _wanted(manifest, builder, gpu))
        raise
    finally:
        candidate.unlink(missing_ok=True)
        candidate.with_name(f"{candidate.name}{KEPT}").unlink(missing_ok=True)
    return _record(folder, manifest, passing, final, attempt.latency)


def _record(
    folder: Path, manifest: Manifest, passing: Passing[Engine], final: str, latency: Mapping[str, float]
) -> Engine:
    """Write the measurements into report.json, then list the engine in the manifest, from when on it is used."""
    parity = passing.parity[-1] if passing.parity else None
    engine = passing.built.model_copy(update={"file": final, "agreement": parity.agreement if parity else None})
    for note in passing.notes:
        log.warning("%s", note)
    files = dict(manifest.files)
    if (folder / REPORT).is_file():
        report = Report.load(folder / REPORT)
        others = tuple(old for old in report.parity if not old.graph.startswith(final))
        size = {name: value for name, value in report.size.items() if name != final}
        size[final] = (folder / final).stat().st_size
        times = {name: value for name, value in report.latency.items() if not name.startswith(final)}
        times |= {f"{final} ({rung}) [ms]": value for rung, value in latency.items()}
        notes = tuple(dict.fromkeys((*report.notes, *passing.notes)))  # without duplicates: builds repeat notes
        found = {"parity": (*others, *passing.parity), "size": size, "latency": times, "notes": notes}
        report.model_copy(update=found).save(folder / REPORT)
        files[REPORT] = sha256(folder / REPORT)
    _listed(manifest.model_copy(update={"files": files}), engine).save(folder / MANIFEST)
    note_verified(engine)
    return engine


def _listed(manifest: Manifest, engine: Engine) -> Manifest:
    """The manifest with an engine that replaces the earlier entry of the same file."""
    kept = tuple(other for other in manifest.engines if other.file != engine.file)
    return manifest.model_copy(update={"engines": (*kept, engine)})

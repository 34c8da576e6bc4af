"""aselect-run as a process: exit codes, one-line errors, signals, and what it never imports."""

from __future__ import annotations

import fcntl
import json
import os
import resource
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_runtime.temporaries import MOMENT
from tests import forked
from tests.runtime import videos

COMMAND = [sys.executable, "-c", "from aselect_runtime.commands.run import run; run()"]
WRITTEN = {
    "--output": "results.jsonl",
    "--events": "events.jsonl",
    "--record-events": "videos",
    "--record-calibration": "frames",
}
STREET = "synthetic://street?size=48x64&frames=6"


def _run(*arguments: object, limit: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    words = [*COMMAND[1:], *map(str, arguments)]
    if limit is None:
        return forked.run(*words)
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=60, preexec_fn=limit)


def _assert_one_line(done: subprocess.CompletedProcess[str], *words: str) -> None:
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    for word in (*words, "expected"):
        assert word in done.stderr


def test_json_is_the_only_thing_on_stdout(seg_model: Path, tmp_path: Path) -> None:
    done = _run(seg_model, STREET, "--output", tmp_path / "a.jsonl", "-o", tmp_path / "a.mp4", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    summary = json.loads(done.stdout)
    assert summary["frames"] == 6
    assert set(summary["stages"]["infer"]) == {"p50", "p95", "p99"}
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 6


def test_table_goes_to_stderr(seg_model: Path) -> None:
    done = _run(seg_model, STREET, "--max-frames", 2)
    assert (done.returncode, done.stdout) == (0, "")
    assert "2 frames" in done.stderr
    assert "p99" in done.stderr


def test_one_moment_is_in_the_names_of_everything_that_a_run_writes(seg_model: Path, tmp_path: Path) -> None:
    video = tmp_path / "a.mp4"
    videos.write(video, [number / 10 for number in range(50)])  # the last frames are bright
    (tmp_path / "rules.toml").write_text('[[rules]]\nname = "a"\nclass = "bright"\nabove = 0.4\n')
    out = tmp_path / "out"
    places = [f"{option}=${{PLACE}}/{{time}}-{name}" for option, name in WRITTEN.items()]
    words = [*COMMAND[1:], str(seg_model), str(video), "--rules", str(tmp_path / "rules.toml"), *places]
    done = forked.run(*words, variables={"PLACE": str(out)})
    assert done.returncode == 0, done.stderr
    moments, names = zip(*(path.name.split("-", 1) for path in out.iterdir()), strict=True)
    assert len(set(moments)) == 1
    assert MOMENT.fullmatch(moments[0])
    assert set(names) == {*WRITTEN.values(), "events"}  # and the folder of snapshots


def test_usage_errors_exit_2(seg_model: Path) -> None:
    assert _run().returncode == 2
    assert _run(seg_model, STREET, "--device", "abacus").returncode == 2


def test_bad_video_is_one_line_and_leaves_nothing(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mp4").write_bytes(clip.read_bytes()[:-200])
    out = tmp_path / "out"
    _assert_one_line(_run(seg_model, tmp_path / "cut.mp4", "-o", out / "a.mp4", "-o", f"{out}/masks/"), "cut.mp4")
    assert list(out.iterdir()) == []


def test_bad_model_is_one_line(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.onnx").write_bytes((seg_model / "model.onnx").read_bytes()[:100])
    done = _run(tmp_path / "cut.onnx", STREET, "--device", "cpu")
    _assert_one_line(done, "cut.onnx")
    assert "Traceback" in _run(tmp_path / "cut.onnx", STREET, "--device", "cpu", "--verbose").stderr


@pytest.mark.parametrize("name", ["video.mp4", "video.jsonl", "video.png", "masks/"])
def test_full_disk_is_one_line_and_leaves_nothing(seg_model: Path, tmp_path: Path, name: str) -> None:
    def small_files_only() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, 200))

    done = _run(seg_model, STREET, "-o", f"{tmp_path}/{name}", limit=small_files_only)
    _assert_one_line(done, name.strip("/"))
    assert [path.name for path in tmp_path.iterdir()] == ([name] if name.endswith(".jsonl") else [])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_no_permission_is_one_line(seg_model: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    _assert_one_line(_run(seg_model, STREET, "-o", tmp_path / "video.mp4"), "Permission denied")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_complete_the_outputs(seg_model: Path, tmp_path: Path, number: signal.Signals) -> None:
    lines, video = tmp_path / "a.jsonl", tmp_path / "a.mp4"
    street = "synthetic://street?size=48x64&frames=1000000"
    command = [*COMMAND, str(seg_model), street, "-o", str(lines), "-o", str(video), "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (lines.exists() and lines.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stderr) == (0, "")
    frames = json.loads(stdout)["frames"]
    assert len(lines.read_text().splitlines()) == frames > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", "a.mp4"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="sets the size of a pipe")
def test_a_reader_that_has_stopped_reading_does_not_hold_the_end(seg_model: Path, tmp_path: Path) -> None:
    street = "synthetic://street?size=48x64&frames=1000000"
    code = (
        "import aselect_runtime.pipeline.outlets as outlets; outlets.CLOSE_TIMEOUT = 0.5\n"
        "from aselect_runtime.commands.run import run; run()"
    )
    reading, writing = os.pipe()
    fcntl.fcntl(writing, 1031, 4096)  # F_SETPIPE_SZ
    command = [sys.executable, "-c", code, str(seg_model), street, "-o", "-", "-o", str(tmp_path / "last.png")]
    process = subprocess.Popen(command, stdout=writing, stderr=subprocess.PIPE, text=True)
    try:
        before, now = -1, 0
        while before != now or not now:  # until nothing more fits
            time.sleep(1)
            before, now = now, struct.unpack("i", fcntl.ioctl(reading, termios.FIONREAD, bytes(4)))[0]
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(reading)
        os.close(writing)
    assert process.returncode == 0
    assert "-: did not end within" in stderr
    assert cv2.imread(str(tmp_path / "last.png")) is not None


def test_a_signal_before_the_first_frame_ends_with_0_and_keeps_older_outputs(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "last.png").write_bytes(b"of an earlier run")
    with socket.create_server(("127.0.0.1", 0)) as server:  # a camera that accepts the connection and sends nothing
        camera = f"rtsp://127.0.0.1:{server.getsockname()[1]}/stream1"
        command = [*COMMAND, str(seg_model), camera, "-o", str(tmp_path / "last.png"), "--json"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        server.settimeout(30)
        client, _ = server.accept()
        with client:
            process.send_signal(signal.SIGTERM)
            stdout, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert json.loads(stdout)["frames"] == 0
    assert (tmp_path / "last.png").read_bytes() == b"of an earlier run"


LOADING = """
import aselect_runtime.commands.signals as signals
import aselect_runtime.sessions.compiled as compiling
import aselect_runtime.sessions.openvino as openvino

def held(folder, compile_with):
    def slow(cache):
        print(cache, flush=True)
        {hold}
        return compile_with(cache)
    return compiling.compiled(folder, slow)

openvino.compiled = held
signals.GRACE = {grace}
from aselect_runtime.commands.run import run
run()
"""
IN_PYTHON = "import time\n        while True: time.sleep(0.05)"
SWALLOWED = (
    "import time\n        try:\n            while True: time.sleep(0.05)\n        except KeyboardInterrupt: pass"
)
IN_C = (
    "import ctypes\n        lock, mutex = ctypes.CDLL(None).pthread_mutex_lock, (ctypes.c_char * 64)()\n"
    "        lock(mutex); lock(mutex)"
)
"""Waits for a lock that it holds itself, which no signal ends."""


def _interrupted_while_loading(
    model: Path, folder: Path, number: signal.Signals, hold: str, grace: float
) -> tuple[int, str, str]:
    """Exit code, standard error, and the folder that OpenVINO was to compile into."""
    pytest.importorskip("openvino", reason="the extra `openvino` is not installed")
    places = {"XDG_CACHE_HOME": str(folder / "cache"), "TMPDIR": str(folder)}
    outputs = ["-o", str(folder / "a.mp4"), "-o", f"{folder}/masks/", "--json"]
    command = [sys.executable, "-c", LOADING.format(hold=hold, grace=grace), str(model), STREET, *outputs]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, "--device", "openvino"], env={**os.environ, **places}, stdout=pipe, stderr=pipe, text=True
    )
    assert process.stdout is not None
    temporary = process.stdout.readline().strip()
    assert Path(temporary).is_dir()
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert stdout == ""
    return process.returncode, stderr, temporary


@pytest.mark.parametrize("hold", [IN_PYTHON, SWALLOWED], ids=["python", "swallowed"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_the_model_loads_leaves_one_line_and_nothing_else(
    seg_model: Path, tmp_path: Path, number: signal.Signals, hold: str
) -> None:
    code, stderr, temporary = _interrupted_while_loading(seg_model, tmp_path, number, hold, 3600)
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert (code, stderr) == (128 + number, f"{said}\n")
    assert not Path(temporary).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def test_a_library_that_does_not_return_while_the_model_loads_is_left(seg_model: Path, tmp_path: Path) -> None:
    code, stderr, temporary = _interrupted_while_loading(seg_model, tmp_path, signal.SIGTERM, IN_C, 0.1)
    assert (code, stderr) == (128 + signal.SIGTERM, "ended by SIGTERM\n")
    done = forked.run(
        *COMMAND[1:],
        str(seg_model),
        STREET,
        "--device",
        "openvino",
        variables={"XDG_CACHE_HOME": str(tmp_path / "cache")},
    )
    assert done.returncode == 0, done.stderr
    assert not Path(temporary).exists()  # the next start removes what this one could not


def test_no_frame_within_the_given_seconds_is_an_error(seg_model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        camera = f"rtsp://127.0.0.1:{server.getsockname()[1]}/stream1"
        done = _run(seg_model, camera, "--max-seconds", 0.5)
    assert done.returncode == 1
    assert "got no frame before the end" in done.stderr


def test_runtime_needs_no_offline_library(seg_model: Path, tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "for name in ('torch', 'diffusers', 'transformers', 'onnx', 'safetensors', 'matplotlib'):\n"
        "    sys.modules[name] = None\n"
        "from aselect_runtime.commands.run import run\n"
        "run()\n"
    )
    out = tmp_path / "a.mp4"
    command = [sys.executable, "-c", code, str(seg_model), STREET, "-o", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert out.exists()


def test_a_second_signal_leaves_at_once_even_where_the_session_hangs(seg_model: Path) -> None:
    code = (
        "import time\n"
        "from aselect_runtime.sessions.onnx import OnnxSession\n"
        "OnnxSession.infer = lambda *_: print('hanging', flush=True) or time.sleep(3600)\n"
        "from aselect_runtime.commands.run import run\n"
        "run()\n"
    )
    command = [sys.executable, "-c", code, str(seg_model), STREET, "--device", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "hanging\n"
    while process.poll() is None:  # two signals at once may be one
        process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2)
    assert "stopped at once" in process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM


def test_help_tells_what_happens_when_a_camera_fails() -> None:
    said = " ".join(_run("--help").stdout.split())
    assert "A camera whose connection is lost is reconnected" in said


def test_missing_onnxruntime_says_how_to_get_it_on_a_jetson_too(seg_model: Path) -> None:
    code = "import sys; sys.modules['onnxruntime'] = None; from aselect_runtime.commands.run import run; run()"
    command = [sys.executable, "-c", code, str(seg_model), STREET, "--device", "cpu"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    _assert_one_line(done, "pip install onnxruntime (on a Jetson", "'aselect-runtime[cpu]' (elsewhere)")


def test_missing_package_is_one_line(seg_model: Path) -> None:
    code = "import sys; sys.modules['cv2'] = None; from aselect_runtime.commands.run import run; run()"
    command = [sys.executable, "-c", code, str(seg_model), STREET]
    _assert_one_line(subprocess.run(command, capture_output=True, text=True, timeout=60), "'cv2'", "the extra cpu")


def test_help_and_usage_errors_do_not_wait_for_the_libraries() -> None:
    code = (
        "import sys\n"
        "import aselect_runtime.commands.run\n"
        "print(*({'cv2', 'onnxruntime', 'pydantic', 'rich.progress'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == ""


def _started(*arguments: object, lines: Path, count: int = 1) -> subprocess.Popen[str]:
    """A run that has written so many lines."""
    command = [*COMMAND, *map(str, arguments), "-o", str(lines)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while not (lines.exists() and lines.read_bytes().count(b"\n") >= count) and time.monotonic() < deadline:
        time.sleep(0.02)
    return process


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_a_killed_run_keeps_all_but_the_last_second_of_its_video(seg_model: Path, tmp_path: Path, name: str) -> None:
    street = "synthetic://street?size=48x64&frames=1000000&fps=20"
    process = _started(seg_model, street, "-o", tmp_path / name, lines=tmp_path / "a.jsonl", count=60)
    process.kill()
    process.communicate(timeout=30)
    lines = (tmp_path / "a.jsonl").read_bytes().count(b"\n")
    assert len(videos.read(tmp_path / name)) >= lines - 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jsonl", name]


def test_a_closed_terminal_completes_the_outputs_unless_nohup_says_no(seg_model: Path, tmp_path: Path) -> None:
    street = "synthetic://street?size=48x64&frames=1000000"
    process = _started(seg_model, street, "-o", f"{tmp_path}/masks/", lines=tmp_path / "a.jsonl")
    process.send_signal(signal.SIGHUP)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert (tmp_path / "masks" / "street-000000.png").is_file()

    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        process = _started(seg_model, street, lines=tmp_path / "b.jsonl")
    finally:
        signal.signal(signal.SIGHUP, before)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(timeout=0.5)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 0


def test_a_truncated_video_gives_a_summary_and_one_line(seg_model: Path, tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut.avi", videos.skipping(tmp_path / "whole.avi")
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    done = _run(seg_model, cut, whole, "-o", tmp_path / "a.mp4", "--json")
    assert done.returncode == 1
    summary = json.loads(done.stdout)
    read = summary["sources"][0]["frames"]
    assert 0 < read < 25
    assert summary["frames"] == read + 25 == len(videos.read(tmp_path / "a.mp4"))
    assert "truncated" in summary["sources"][0]["fault"]
    assert done.stderr.splitlines()[-1].startswith(f"error: {cut}: got {read} frames and the end of the file")


def test_lines_on_the_standard_output(seg_model: Path) -> None:
    done = _run(seg_model, STREET, "-o", "-")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["frame"] for line in done.stdout.splitlines()] == list(range(6))
    _assert_one_line(_run(seg_model, STREET, "-o", "-", "--json"), "stdout")


def test_a_reader_of_the_standard_output_may_leave(seg_model: Path) -> None:
    street = "synthetic://street?size=48x64&frames=100000"
    command = [*COMMAND, str(seg_model), street, "-o", "-"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["frame"] == 0
        process.stdout.close()
        assert process.wait(timeout=30) == 0


@pytest.mark.parametrize(("inputs", "output"), [("", "a.jsonl"), (STREET, "")])
def test_an_empty_name_is_one_line(seg_model: Path, tmp_path: Path, inputs: str, output: str) -> None:
    _assert_one_line(_run(seg_model, inputs, "-o", output and tmp_path / output), "empty")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--rules", ""], "got an empty word after --rules"),
        (["--rules="], "got an empty word in --rules="),
        (["--max-seconds", "inf"], "got max seconds inf"),
    ],
)
def test_values_that_say_nothing_are_one_line(seg_model: Path, words: list[str], told: str) -> None:
    _assert_one_line(_run(seg_model, STREET, *words), told)


@pytest.mark.parametrize("coding", ["utf-8", "iso-8859-1"])
@pytest.mark.parametrize(
    "name", [b"caf\xe9.mp4", "été.mp4".encode(), b"caf\xe9.png", b"a:b.mp4", b"-x.mp4", b"a%03d.avi", b"a ! b.mp4"]
)
def test_any_file_name_is_accepted(seg_model: Path, clip: Path, tmp_path: Path, name: bytes, coding: str) -> None:
    path = os.path.join(os.fsencode(tmp_path), name)
    if name.endswith(b"png"):
        cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 9, 3), np.uint8))
        os.rename(tmp_path / "a.png", path)
    else:
        shutil.copy(str(clip), os.fsdecode(path))
    outputs = [os.path.splitext(path)[0] + b"-out" + suffix for suffix in (b".mp4", b".jsonl", b".png", b"/")]
    command = [*map(os.fsencode, COMMAND), os.fsencode(seg_model), path]
    environment = {**os.environ, "PYTHONIOENCODING": coding}
    options = [part for out in outputs for part in (b"-o", out)]
    done = subprocess.run([*command, *options], capture_output=True, env=environment)
    assert done.returncode == 0, done.stderr
    assert all(os.path.exists(out) for out in outputs)
    with open(outputs[1], "rb") as lines:
        assert json.loads(lines.readline())["source"] == path.decode(errors="replace")


def test_a_name_that_is_too_long_is_one_line(seg_model: Path, tmp_path: Path) -> None:
    long = "x" * 300
    for suffix in (".mp4", ".png", ""):
        _assert_one_line(_run(seg_model, long + suffix), "File name too long")
    for suffix in (".mp4", ".mkv", ".jsonl", ".png", "/"):
        _assert_one_line(_run(seg_model, STREET, "-o", f"{tmp_path}/{long}{suffix}"), "File name too long")
    _assert_one_line(_run(long, STREET), "File name too long")


def test_a_closed_stderr_changes_no_output(seg_model: Path, clip: Path, tmp_path: Path) -> None:
    command = f"exec {shlex.join([*COMMAND, str(seg_model), str(clip), '-o', str(tmp_path / 'a.mp4'), '--json'])} 2>&-"
    done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, timeout=60, executable="/bin/sh")
    assert done.returncode == 0
    assert json.loads(done.stdout)["frames"] == len(videos.read(tmp_path / "a.mp4")) == 12
    for end in ("2>&-", ">&- 2>&-", "<&- >&- 2>&-"):
        command = f"{shlex.join([*COMMAND, str(seg_model), 'none.mp4'])} {end}"
        done = subprocess.run(command, shell=True, stdout=subprocess.PIPE, text=True, timeout=60, executable="/bin/sh")
        assert (done.returncode, done.stdout) == (1, "")


def test_a_deleted_working_folder_is_one_line_and_absolute_paths_do_without(
    seg_model: Path, clip: Path, tmp_path: Path
) -> None:
    gone = tmp_path / "gone"

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        gone.mkdir()
        command = f"rmdir {gone}; exec {shlex.join([*COMMAND, *map(str, arguments)])}"
        return subprocess.run(command, shell=True, cwd=gone, capture_output=True, text=True, timeout=60)

    _assert_one_line(run(seg_model, clip, "-o", "a.jsonl"), "working folder")
    done = run(seg_model, clip, "-o", tmp_path / "a.mp4", "--device", "cpu")
    assert done.returncode == 0, done.stderr


def test_an_incomplete_opencv_is_one_line(seg_model: Path, tmp_path: Path) -> None:
    (tmp_path / "cv2").mkdir()  # what is left when one of two wheels is uninstalled: a folder without __init__.py
    (tmp_path / "cv2" / "py.typed").touch()
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import importlib.machinery, types\n"
        "module = types.ModuleType('cv2'); module.__path__ = [sys.path[0] + '/cv2']; sys.modules['cv2'] = module\n"
        "from aselect_runtime.commands.{0} import {0}; {0}()\n"
    )
    done = subprocess.run([sys.executable, "-c", code.format("run"), seg_model, STREET], capture_output=True, text=True)
    _assert_one_line(done, "an incomplete OpenCV", "--force-reinstall")
    doctor = subprocess.run([sys.executable, "-c", code.format("doctor"), "--json"], capture_output=True, text=True)
    assert "half of it was removed" in doctor.stdout
    assert "--force-reinstall" in doctor.stdout

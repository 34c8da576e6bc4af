"""aselect-run as a process: exit codes, one-line errors, signals, and what it never imports."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

COMMAND = [sys.executable, "-c", "from aselect_runtime.commands.run import run; run()"]
STREET = "synthetic://street?size=48x64&frames=6"


def _run(*arguments: object, limit: Callable[[], None] | None = None) -> subprocess.CompletedProcess[str]:
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit)


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
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)  # two signals at once may be one
    process.send_signal(signal.SIGTERM)
    assert "stopped at once" in process.communicate(timeout=30)[1]
    assert process.returncode == 128 + signal.SIGTERM


def test_help_tells_what_happens_when_a_camera_fails() -> None:
    said = " ".join(_run("--help").stdout.split())
    assert "A camera that is lost is connected again" in said


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

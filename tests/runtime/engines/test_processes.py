"""Several processes and one export folder; signals, broken terminals and the real builder."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from threading import Event
from typing import Any

import pytest

from aselect_runtime import open_model
from aselect_runtime.engines import add_engines
from aselect_runtime.engines.lock import LOCK, building
from aselect_runtime.engines.versions import available
from aselect_runtime.files import sha256
from tests.log_lines import heard
from tests.runtime.engines.engine_folder import listed
from tests.runtime.engines.fake_gpu import Machine


def hold(folder: Path, entered: Any, leave: Any) -> None:
    with building(folder):
        entered.set()
        leave.wait(30)


def other_builder(folder: Path) -> tuple[Any, Any]:
    """A process that holds the folder's lock, and the event that lets it go."""
    context = multiprocessing.get_context("spawn")
    entered, leave = context.Event(), context.Event()
    process = context.Process(target=hold, args=(folder, entered, leave))
    process.start()
    assert entered.wait(30)
    return process, leave


def test_a_second_process_waits_for_the_first_and_says_for_whom(tmp_path: Path) -> None:
    other, leave = other_builder(tmp_path)
    said: list[str] = []

    def tell(line: str) -> None:
        said.append(line)
        leave.set()

    with heard(tell), building(tmp_path):
        assert said == [f"{tmp_path}: process {other.pid} is building an engine here; waiting for it"]
        assert (tmp_path / LOCK).read_text() == str(os.getpid())
    other.join()


def test_the_wait_for_another_process_can_be_ended(tmp_path: Path) -> None:
    stop = Event()
    with (
        building(tmp_path),
        heard(lambda _: stop.set()),
        pytest.raises(KeyboardInterrupt),
        building(tmp_path, stop),
    ):
        pytest.fail("the lock is held")


def test_a_process_that_was_killed_holds_no_lock(tmp_path: Path) -> None:
    other, _ = other_builder(tmp_path)
    other.kill()
    other.join()
    with heard(lambda line: pytest.fail(line)), building(tmp_path):
        pass


def test_a_waiting_process_uses_the_engine_of_the_other(
    ladder: Path, machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look and the lock, another process builds: here a copy of its result is put in place."""
    done = shutil.copytree(ladder, tmp_path / "done")
    add_engines(done, ())
    machine.trt.built.clear()

    def late(where: Path, *rest: Any) -> Any:
        shutil.copytree(done, ladder, dirs_exist_ok=True)
        return building(where, *rest)

    monkeypatch.setattr("aselect_runtime.engines.building.building", late)
    open_model(ladder, "tensorrt")[1].close()
    assert machine.trt.built == []


CODE = "import sys; from aselect_runtime.commands.build import build as main; main()"


def aselect_build(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


rtx = pytest.mark.skipif(not available("rtx"), reason="tensorrt-rtx is not installed")


@rtx
def test_two_real_builders_at_once_do_not_corrupt_the_folder(ladder: Path) -> None:
    both = [aselect_build(ladder, "--target", target, "--json") for target in ("sm86", "sm89")]
    outputs = [process.communicate() for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert {engine.target for engine in listed(ladder)} == {"sm86", "sm89"}
    for engine in listed(ladder):
        assert sha256(ladder / engine.file) == engine.sha256
    assert {json.loads(out)["engines"][0]["target"] for out, _ in outputs} == {"sm86", "sm89"}


@rtx
@pytest.mark.parametrize(("number", "said"), [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "ended by SIGTERM")])
def test_a_signal_ends_a_real_build_and_leaves_the_folder_as_it_was(
    ladder: Path, number: signal.Signals, said: str
) -> None:
    add_engines(ladder, ["sm86"])
    before = (ladder / "manifest.json").read_bytes(), sha256(ladder / listed(ladder)[0].file)
    targets = ",".join(["sm75", "sm80", "sm86", "sm89", "sm120"])
    process = aselect_build(ladder, "--target", targets)
    assert process.stderr is not None
    assert "building" in process.stderr.readline()
    process.send_signal(number)
    errors = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number, errors
    assert said in errors
    assert (ladder / "manifest.json").read_bytes() == before[0] or len(listed(ladder)) > 1
    assert sha256(ladder / f"engines/{Path(listed(ladder)[0].file).name}") == before[1]
    assert not [path for path in (ladder / "engines").iterdir() if path.name.startswith(".") and path.name != ".lock"]


@rtx
def test_a_build_that_is_stopped_beforehand_writes_nothing(ladder: Path) -> None:
    stop = Event()
    stop.set()
    with pytest.raises(KeyboardInterrupt):
        add_engines(ladder, ["sm86"], stop=stop)
    assert [path.name for path in (ladder / "engines").iterdir()] == [".lock"]


@rtx
def test_a_broken_terminal_does_not_end_a_build(ladder: Path) -> None:
    def broken(what: str, share: float, /) -> None:
        raise OSError(f"{what} {share}")

    assert add_engines(ladder, ["sm86"], progress=broken)[0].target == "sm86"


@rtx
def test_progress_is_reported_and_never_falls(ladder: Path) -> None:
    seen: list[float] = []

    def look(what: str, share: float, /) -> None:
        assert isinstance(what, str)
        seen.append(share)

    add_engines(ladder, ["sm86"], progress=look)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(set(seen)) > 10


def test_invalid_engines_do_not_crash_the_interpreter(tmp_path: Path) -> None:
    """TensorRT-RTX is really loaded; without a driver its runtime must not be reached, whatever the file holds."""
    (tmp_path / "x.engine").write_bytes(b"ftrt" + bytes(1000))
    code = (
        "from pathlib import Path\n"
        "from aselect_runtime.errors import AselectError\n"
        "from aselect_runtime.engines.tensorrt_session import TensorRtSession\n"
        f"for content in (b'', b'x', Path({str(tmp_path / 'x.engine')!r}).read_bytes()):\n"
        "    try:\n"
        "        TensorRtSession(content, 'rtx', 'x.engine').close()\n"
        "    except AselectError as error:\n"
        "        print('error:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("error:") == 3

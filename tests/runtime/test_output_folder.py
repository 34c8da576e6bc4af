"""Folders of results: whole or not at all, in the place of nothing but an older result."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_runtime import open_model, output_folder, run_pipeline
from aselect_runtime.errors import InputError, RecordError, WriteError
from aselect_runtime.output_folder import FolderKind, atomic_folder, check_replaceable

FULL = OSError(errno.ENOSPC, "No space left on device")
WRITER = """
import json, sys
from pathlib import Path
from tests.runtime.test_output_folder import KIND, fill
from aselect_runtime.output_folder import atomic_folder
print("ready", flush=True)
for number in range(1, 100_000):
    with atomic_folder(Path(sys.argv[1]), KIND) as folder:
        fill(folder, number)
"""


def listed(marker: Path) -> list[str]:
    try:
        found: list[str] = json.loads(marker.read_text())["files"]
    except (ValueError, KeyError, TypeError) as error:
        raise RecordError("not ours") from error
    return found


KIND = FolderKind("marker.json", listed)


def fill(folder: Path, number: int) -> None:
    """A result of three files that belong together."""
    names = ["a", "deep/b", f"only-in-{number}"]
    (folder / "deep").mkdir()
    for name in names:
        (folder / name).write_text(str(number))
    (folder / "marker.json").write_text(json.dumps({"files": names, "number": number}))


def write(path: Path, number: int) -> None:
    with atomic_folder(path, KIND) as folder:
        fill(folder, number)


def content(path: Path) -> dict[str, str]:
    return {file.relative_to(path).as_posix(): file.read_text() for file in path.rglob("*") if file.is_file()}


def whole(path: Path) -> int:
    """The number of the result that is there; all its files are of the same one."""
    number = json.loads((path / "marker.json").read_text())["number"]
    files = content(path)
    assert {name: files[name] for name in ("a", "deep/b", f"only-in-{number}")} == dict.fromkeys(
        ("a", "deep/b", f"only-in-{number}"), str(number)
    )
    return int(number)


@pytest.fixture(params=["exchange", "two renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How one folder takes another's place; not every kernel and disk can exchange them."""
    if request.param == "two renames":
        monkeypatch.setattr(output_folder, "_exchange", lambda *_: False)
    return str(request.param)


@pytest.mark.usefixtures("way")
def test_a_folder_replaces_its_older_result_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "out"
    write(path, 1)
    (path / "notes.txt").write_text("mine")
    (path / "deep" / "mine.engine").write_text("mine too")
    (path / "link").symlink_to("nowhere")
    write(path, 2)
    assert whole(path) == 2
    assert (path / "link").readlink() == Path("nowhere")
    assert content(path).keys() == {"a", "deep/b", "only-in-2", "marker.json", "notes.txt", "deep/mine.engine"}
    assert (content(path)["notes.txt"], content(path)["deep/mine.engine"]) == ("mine", "mine too")
    assert list(tmp_path.iterdir()) == [path]


def test_a_foreign_file_of_a_name_that_is_needed_is_kept_under_another(tmp_path: Path) -> None:
    write(tmp_path / "out", 1)
    (tmp_path / "out" / "only-in-2").write_text("mine")
    write(tmp_path / "out", 2)
    assert (content(tmp_path / "out")["only-in-2"], content(tmp_path / "out")["only-in-2.kept"]) == ("2", "mine")


@pytest.mark.parametrize(
    "marker", ["", "{}", "[]", '{"name": "app", "start_url": "/"}', '{"files": ["../../etc/passwd"]}']
)
def test_a_folder_with_a_marker_of_somebody_else_is_refused_before_any_work(tmp_path: Path, marker: str) -> None:
    (tmp_path / "webapp").mkdir()
    (tmp_path / "webapp" / "marker.json").write_text(marker)
    (tmp_path / "webapp" / "index.html").write_text("mine")
    before = content(tmp_path)
    with pytest.raises(InputError, match=r"marker\.json|inside the folder"), atomic_folder(tmp_path / "webapp", KIND):
        pytest.fail("must be refused before any work")
    assert content(tmp_path) == before


def test_folders_of_other_programs_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "family.jpg").touch()
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="choose another path"), atomic_folder(tmp_path / name, KIND):
            pytest.fail("must be refused before any work")
    assert (tmp_path / "photos" / "family.jpg").exists()
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    write(tmp_path / "empty", 1)
    assert whole(tmp_path / "empty") == 1


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), OSError("no libgomp.so.1"), FULL])
def test_an_interrupted_folder_leaves_the_previous_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out"
    write(path, 1)
    before = content(tmp_path)
    expected = WriteError if error is FULL else type(error)
    with pytest.raises(expected), atomic_folder(path, KIND) as temporary:  # noqa: PT012 - the block is interrupted
        fill(temporary, 2)
        raise error
    assert content(tmp_path) == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL])
def test_an_interrupt_between_the_two_renames_brings_the_previous_folder_back(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    write(path, 1)
    rename = Path.rename

    def fail_second(self: Path, target: Path) -> Path:
        if target == path and not self.name.endswith("-previous"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(output_folder, "_exchange", lambda *_: False)
    monkeypatch.setattr(Path, "rename", fail_second)
    with pytest.raises((WriteError, KeyboardInterrupt)):
        write(path, 2)
    assert whole(path) == 1
    assert list(tmp_path.iterdir()) == [path]


def test_a_process_killed_between_the_two_renames_loses_nothing(tmp_path: Path) -> None:
    write(tmp_path / "out", 1)
    code = (
        "import os, signal, sys; from pathlib import Path; from aselect_runtime import output_folder\n"
        "from tests.runtime.test_output_folder import write\n"
        "output_folder._exchange = lambda *_: False\n"
        "rename = Path.rename\n"
        "def once(self, target): rename(self, target); os.kill(os.getpid(), signal.SIGKILL)\n"
        "Path.rename = once\n"
        "write(Path(sys.argv[1]), 2)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with pytest.raises(RuntimeError), atomic_folder(tmp_path / "out", KIND):
        raise RuntimeError("a later run, which fails")
    assert whole(tmp_path / "out") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_kill_at_any_moment_leaves_a_whole_folder_and_what_it_left_goes_with_the_next(tmp_path: Path) -> None:
    chance = random.Random(0)
    path = tmp_path / "out"
    write(path, 0)
    (path / "mine.txt").write_text("mine")
    for _ in range(8):
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(chance.uniform(0, 0.1))
            process.send_signal(signal.SIGKILL)
        whole(path)
        assert (path / "mine.txt").read_text() == "mine"
    write(path, 5)
    assert whole(path) == 5
    assert [each.name for each in tmp_path.iterdir()] == ["out"]


def test_a_mount_point_is_written_inside(small_disk: Callable[[str], Path]) -> None:
    place = small_disk("1m")
    (place / "lost+found").mkdir()  # as on a new ext4 disk
    write(place, 1)
    (place / "notes.txt").write_text("mine")
    (place / "only-in-2").write_text("mine, in the way")
    write(place, 2)
    assert whole(place) == 2
    assert content(place).keys() == {"a", "deep/b", "only-in-2", "only-in-2.kept", "marker.json", "notes.txt"}
    assert os.path.ismount(place)


def test_a_full_disk_is_reported_and_leaves_the_previous_result(small_disk: Callable[[str], Path]) -> None:
    for path in ((disk := small_disk("64k")), disk / "folder"):
        write(path, 1)
        with pytest.raises(WriteError, match="No space left"), atomic_folder(path, KIND) as temporary:
            (temporary / "big").write_bytes(bytes(200_000))
        assert whole(path) == 1


def test_the_current_folder_stays_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(Path(), 1)
    write(Path(), 2)
    assert whole(Path()) == 2
    assert not list(Path().glob(".*"))


@pytest.mark.parametrize("place", ["/proc/nothing/file", "/dev/null/file"])
def test_an_unwritable_place_is_a_write_error(place: str) -> None:
    with pytest.raises(WriteError, match="expected a writable path"), atomic_folder(Path(place), KIND):
        pass


def test_a_pipe_as_marker_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    from aselect_runtime.folder import EXPORT

    os.mkfifo(tmp_path / "manifest.json")
    with pytest.raises(InputError, match="not a regular file"):
        check_replaceable(tmp_path, EXPORT)


def test_masks_of_long_names_are_written_and_replaced_by_the_next_run(seg_model: Path, tmp_path: Path) -> None:
    """Folders in folders make paths of more than 255 bytes, and a frame's number a name of more."""
    root = tmp_path / "in"
    deep = root / ("c" * 200) / ("d" * 100)
    deep.mkdir(parents=True)
    names = [deep / ("e" * 60 + ".png"), root / ("f" * 251 + ".png"), root / ("ü" * 125 + "a.png")]
    names += [root / ("g" * 245 + f"{n}.png") for n in range(2)]
    for path in names:
        path.write_bytes(cv2.imencode(".png", np.zeros((24, 32, 3), np.uint8))[1].tobytes())
    manifest, session = open_model(seg_model, "cpu")
    for _ in range(2):
        summary = run_pipeline(manifest, session, [str(root)], [f"{tmp_path / 'masks'}/"])
        assert summary.sources[0].frames == len(names)
    written = list((tmp_path / "masks").rglob("*.png"))
    assert len(written) == len(names)
    assert max(len(path.name.encode()) for path in written) <= 255

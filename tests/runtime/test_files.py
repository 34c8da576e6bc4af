"""Files: whole or not at all, and never outside the folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.errors import IntegrityError, WriteError
from aselect_runtime.files import atomic_file, atomic_write, check_files, inside, sha256
from aselect_runtime.temporaries import temporary_folder


@pytest.mark.parametrize("data", [b"\0\xff", "grün\n", b""])
def test_writing_leaves_the_file_and_nothing_else(tmp_path: Path, data: bytes | str) -> None:
    path = tmp_path / "new" / "file.bin"
    atomic_write(path, "before")
    atomic_write(path, data)
    assert path.read_bytes() == (data.encode() if isinstance(data, str) else data)
    assert list(path.parent.iterdir()) == [path]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_the_previous_one(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.json"
    atomic_write(path, "before")
    with pytest.raises(error), atomic_file(path) as temporary:  # noqa: PT012 - the block is what is interrupted
        temporary.write_text("half")
        raise error
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_write_error_and_leaves_the_previous_one(small_disk: Callable[[str], Path]) -> None:
    full_disk = small_disk("16k")
    atomic_write(full_disk / "file", "before")
    with pytest.raises(WriteError, match=r"No space left.*expected"):
        atomic_write(full_disk / "file", bytes(100_000))
    assert [path.read_text() for path in full_disk.iterdir()] == ["before"]


def test_weights_on_a_full_disk_are_a_write_error(small_disk: Callable[[str], Path]) -> None:
    full_disk = small_disk("16k")
    pytest.importorskip("torch")
    from aselect_edge.backbones import DiT, DiTConfig, save_backbone
    from aselect_edge.backbones.noise import DIT_SCHEDULE

    model = DiT(DiTConfig(1, 16, 3, num_layers=1, patch_size=4, sample_size=16, num_embeds_ada_norm=3))
    with pytest.raises(WriteError, match="No space left"):
        save_backbone(model, DIT_SCHEDULE, full_disk / "out")
    assert not list(full_disk.rglob("*.safetensors"))


@pytest.mark.parametrize("place", ["/proc/nothing/file", "/dev/null/file"])
def test_an_unwritable_place_is_a_write_error(place: str) -> None:
    with pytest.raises(WriteError, match="expected a writable path"):
        atomic_write(Path(place), "text")


def test_a_folder_in_the_way_of_a_file_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(WriteError, match="name"):
        atomic_write(tmp_path / "name", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


PART = st.sampled_from(["..", ".", "", "a", "b.json", "\0", "\\", "C:", " ", "é", "\n", "\ud800", "x" * 300]) | st.text(
    max_size=5
)


@given(name=st.lists(PART, max_size=4).map("/".join))
def test_no_name_leads_outside_its_folder(name: str) -> None:
    folder = Path("/base/folder")
    try:
        path = inside(folder, name)
    except IntegrityError:
        return
    assert os.path.normpath(path).startswith(str(folder))
    assert not path.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..\\x", "", "a\0", "x" * 300])
def test_names_with_parent_folders_are_refused(name: str) -> None:
    with pytest.raises(IntegrityError, match="inside the folder"):
        inside(Path("folder"), name)
    with pytest.raises(IntegrityError, match="inside the folder"):
        check_files(Path("folder"), {name: "0" * 64})


def test_changed_truncated_and_missing_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    content = bytes(range(256)) * 5000
    path.write_bytes(content)
    hashes = {"model.onnx": sha256(path)}
    check_files(tmp_path, hashes)
    for damaged in (content[:-1], b"", b"\1" + content[1:]):
        path.write_bytes(damaged)
        with pytest.raises(IntegrityError, match=r"model\.onnx: got SHA-256"):
            check_files(tmp_path, hashes)
    path.unlink()
    with pytest.raises(IntegrityError, match="missing"):
        check_files(tmp_path, hashes)


def test_the_next_write_removes_temporary_files_of_ended_processes_only(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    code = (
        "import sys, time; from pathlib import Path; from aselect_runtime.files import atomic_file\n"
        "with atomic_file(Path(sys.argv[1])) as temporary: print(temporary, flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        atomic_write(path, "while it works")
        assert left.exists()
        process.send_signal(signal.SIGKILL)
    atomic_write(tmp_path / "other.json", "not its neighbour's business")
    assert left.exists()
    atomic_write(path, "after it was killed")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.json", "record.json"]


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_is_followed(tmp_path: Path, there: bool) -> None:
    target, link = tmp_path / "disk" / "a.bin", tmp_path / "a.bin"
    target.parent.mkdir()
    if there:
        target.write_bytes(b"old")
    link.symlink_to("disk/a.bin")
    atomic_write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"


def test_temporary_files_of_killed_runs_with_dated_names_are_removed(tmp_path: Path) -> None:
    """`{time}` gives each run names of its own, so that no later run has the name of the killed one."""
    code = (
        "import os, signal, sys; from pathlib import Path\n"
        "from aselect_runtime.files import atomic_file; from aselect_runtime.temporaries import temporary_folder\n"
        "a, b = Path(sys.argv[1], 'door-20240101T000000Z.mp4'), Path(sys.argv[1], 'masks-20240101T000000Z')\n"
        "with atomic_file(a), temporary_folder(b): os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(left) == 2
    forged = tmp_path / left[0].replace("-20240101T", "-20240102T")  # its checksum is of another name
    foreign = tmp_path / ".door-20240101T000000Z.mp4-aselect-notes.mp4"
    for path in (forged, foreign):
        path.write_text("not ours")
    atomic_write(tmp_path / "window-20240601T000000Z.mp4", "another output")
    assert {path.name for path in tmp_path.iterdir()} >= set(left)
    atomic_write(tmp_path / "door-20240601T000000Z.mp4", "the next run's")
    with temporary_folder(tmp_path / "masks-20240601T000000Z"):
        pass
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {forged.name, foreign.name, "window-20240601T000000Z.mp4", "door-20240601T000000Z.mp4"}


@pytest.mark.parametrize("name", ["a" * 255, "ä" * 127, "/".join(["b" * 200] * 10)])
def test_paths_may_be_longer_than_one_name(tmp_path: Path, name: str) -> None:
    assert inside(tmp_path, name) == tmp_path / name


@pytest.mark.parametrize("name", ["a" * 256, "ä" * 128, "b/" + "a" * 256, "/".join(["b" * 200] * 30), "a\x1b[31m", ""])
def test_paths_that_no_disk_takes_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(IntegrityError, match="expected a relative path inside"):
        inside(tmp_path, name)

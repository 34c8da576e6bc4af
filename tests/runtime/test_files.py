"""Files: whole or not at all, and never outside the folder."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aselect_runtime.errors import InputError, IntegrityError, WriteError
from aselect_runtime.files import atomic_file, atomic_folder, atomic_write, check_files, inside, sha256

FULL = OSError(errno.ENOSPC, "No space left on device")


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 16 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


@pytest.mark.parametrize("data", [b"\0\xff", "grün\n", b""])
def test_what_is_written_is_there_and_alone(tmp_path: Path, data: bytes | str) -> None:
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


def test_a_full_disk_is_a_write_error_and_leaves_the_previous_one(full_disk: Path) -> None:
    atomic_write(full_disk / "file", "before")
    with pytest.raises(WriteError, match=r"No space left.*expected"):
        atomic_write(full_disk / "file", bytes(100_000))
    assert [path.read_text() for path in full_disk.iterdir()] == ["before"]
    with pytest.raises(WriteError, match="No space left"), atomic_folder(full_disk / "folder", "marker") as temporary:
        (temporary / "marker").write_bytes(bytes(100_000))
    assert [path.name for path in full_disk.iterdir()] == ["file"]


def test_weights_on_a_full_disk_are_a_write_error(full_disk: Path) -> None:
    pytest.importorskip("torch")
    from aselect_edge.backbones import DiT, DiTConfig, save_backbone
    from aselect_edge.backbones.noise import DIT_SCHEDULE

    model = DiT(DiTConfig(1, 16, 3, num_layers=1, patch_size=4, sample_size=16, num_embeds_ada_norm=3))
    with pytest.raises(WriteError, match="No space left"):
        save_backbone(model, DIT_SCHEDULE, full_disk / "out")
    assert not list(full_disk.rglob("*.safetensors"))


@pytest.mark.parametrize("place", ["/proc/nothing/file", "/dev/null/file"])
def test_an_unwritable_place_is_a_write_error(place: str) -> None:
    with pytest.raises(WriteError, match="expected a writable place"):
        atomic_write(Path(place), "text")
    with pytest.raises(WriteError, match="expected a writable place"), atomic_folder(Path(place), "marker"):
        pass


def test_a_folder_in_the_way_of_a_file_is_a_write_error(tmp_path: Path) -> None:
    (tmp_path / "name").mkdir()
    with pytest.raises(WriteError, match="name"):
        atomic_write(tmp_path / "name", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["name"]


def test_a_folder_replaces_its_older_result_whole(tmp_path: Path) -> None:
    path = tmp_path / "out"
    for content in ("old", "new"):
        with atomic_folder(path, "marker.json") as temporary:
            (temporary / "marker.json").write_text(content)
            (temporary / content).mkdir()
            (temporary / content / "deep").touch()
    assert (path / "marker.json").read_text() == "new"
    assert not (path / "old").exists()
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError(), KeyboardInterrupt(), OSError("no libgomp.so.1"), FULL])
def test_an_interrupted_folder_leaves_the_previous_one(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "out"
    with atomic_folder(path, "marker") as temporary:
        (temporary / "marker").write_text("before")
    expected = WriteError if error is FULL else type(error)
    with pytest.raises(expected), atomic_folder(path, "marker") as temporary:  # noqa: PT012 - as above
        (temporary / "marker").write_text("half")
        raise error
    assert (path / "marker").read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), FULL])
def test_an_interrupt_between_the_two_renames_brings_the_previous_folder_back(
    tmp_path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "out"
    with atomic_folder(path, "marker") as temporary:
        (temporary / "marker").write_text("before")
    rename = Path.replace

    def fail_second(self: Path, target: Path) -> Path:
        if target == path and not self.name.endswith("-previous"):
            raise error
        return rename(self, target)

    monkeypatch.setattr(Path, "replace", fail_second)
    with pytest.raises((WriteError, KeyboardInterrupt)), atomic_folder(path, "marker") as temporary:
        (temporary / "marker").write_text("after")
    assert (path / "marker").read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_is_not_ours_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "family.jpg").touch()
    (tmp_path / "file").write_text("mine")
    for name in ("photos", "file"):
        with pytest.raises(InputError, match="marker"), atomic_folder(tmp_path / name, "marker"):
            pytest.fail("must be refused before any work")
    assert (tmp_path / "photos" / "family.jpg").exists()
    assert (tmp_path / "file").read_text() == "mine"
    (tmp_path / "empty").mkdir()
    with atomic_folder(tmp_path / "empty", "marker") as temporary:
        (temporary / "marker").touch()
    assert (tmp_path / "empty" / "marker").exists()


PART = st.sampled_from(["..", ".", "", "a", "b.json", "\0", "\\", "C:", " ", "é", "\n", "\ud800", "x" * 300]) | st.text(
    max_size=5
)


@given(name=st.lists(PART, max_size=4).map("/".join))
def test_no_name_leaves_its_folder(name: str) -> None:
    folder = Path("/base/folder")
    try:
        path = inside(folder, name)
    except IntegrityError:
        return
    assert os.path.normpath(path).startswith(str(folder))
    assert not path.exists()


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "..\\x", "", "a\0", "x" * 300])
def test_climbing_names_are_refused(name: str) -> None:
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

"""Finding images in a folder: what is listed and what is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

from aselect_runtime.errors import InputError
from aselect_runtime.media import is_video, list_images
from tests.log_lines import heard


def _touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def _names(root: Path, images: list[Path]) -> list[str]:
    return [path.relative_to(root).as_posix() for path in images]


def test_missing_folders_and_images_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_images(tmp_path / "none")
    (tmp_path / "notes.txt").touch()
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="got no image"):
        list_images(tmp_path)


def test_images_are_listed_below_the_folder_in_order(tmp_path: Path) -> None:
    _touch(tmp_path, "b.PNG", "a/z.jpg", "a/k.jpeg", "c.txt")
    assert _names(tmp_path, list_images(tmp_path)) == ["a/k.jpeg", "a/z.jpg", "b.PNG"]


def test_what_programs_leave_behind_is_no_image(tmp_path: Path) -> None:
    root = tmp_path / ".cache" / "data"  # hidden itself, but asked for by name
    left = (".thumbnails/a.png", ".ipynb_checkpoints/a-checkpoint.png", "__MACOSX/a.png", "day/._a.png", ".b.jpg")
    _touch(root, "day/a.png", "@eaDir/a.png", "$RECYCLE.BIN/a.png", *left)
    told: list[str] = []
    with heard(told.append):
        assert _names(root, list_images(root)) == ["day/a.png"]
    assert told == [f"{root}: left out 7 hidden folders and files: $RECYCLE.BIN, .b.jpg, .ipynb_checkpoints and 4 more"]


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    root = tmp_path / "data"
    _touch(root, "a/1.png")
    _touch(tmp_path, "elsewhere/2.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    assert _names(root, list_images(root)) == ["a/1.png", "linked/2.png"]


def test_every_video_suffix_counts_in_any_case() -> None:
    assert is_video(Path("a.MPG"))
    assert not is_video(Path("a.png"))

"""Finding images in a folder: what is listed, what is left out, and which split of labelled data is taken."""

from __future__ import annotations

from pathlib import Path

import pytest

from aselect_runtime.errors import InputError
from aselect_runtime.media import is_video, list_images, split_images


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
    _touch(root, "day/a.png", *left)
    assert _names(root, list_images(root)) == ["day/a.png"]


def test_linked_folders_are_followed_and_circles_end(tmp_path: Path) -> None:
    root = tmp_path / "data"
    _touch(root, "a/1.png")
    _touch(tmp_path, "elsewhere/2.png")
    (root / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "gone.png").symlink_to(tmp_path / "nowhere")
    assert _names(root, list_images(root)) == ["a/1.png", "linked/2.png"]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("val/images/v.png", "val/labels/v.png", "train/images/t.png"), ["val/images/v.png"]),
        (("val/cat/v.png", "train/cat/t.png"), ["val/cat/v.png"]),
        (("train/t.png", "train/labels/t.png"), ["train/t.png"]),
        (("images/t.png", "masks/t.png"), ["images/t.png"]),
        (("masks/t.png", "hats/t.png"), ["hats/t.png", "masks/t.png"]),
        (("a.png",), ["a.png"]),
    ],
)
def test_a_split_is_taken_and_its_label_masks_are_not(
    tmp_path: Path, files: tuple[str, ...], expected: list[str]
) -> None:
    _touch(tmp_path, *files)
    assert _names(tmp_path, split_images(tmp_path, ("val", "train"))) == expected


def test_every_video_suffix_counts_in_any_case() -> None:
    assert is_video(Path("a.MPG"))
    assert not is_video(Path("a.png"))

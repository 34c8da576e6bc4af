"""The pack: what goes in comes out, and what is not whole is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.data import open_classification, open_segmentation
from aselect_runtime.errors import InputError
from research.pack import pack
from research.tiny import read_tiny
from research.unpack import MANIFEST, read_pack, unpack
from tests.research.packed import write_data, write_teacher

LIMIT = 12_000_000


@pytest.fixture(scope="module")
def data(street_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("packed"), street_data)


@pytest.fixture(scope="module")
def packed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pack")
    out = folder / "pack.zip"
    assert pack(data, out, LIMIT, teacher=write_teacher(folder / "teacher.safetensors")) <= LIMIT
    return out


def test_what_is_unpacked_is_read_like_what_was_packed(data: Path, packed: Path, tmp_path: Path) -> None:
    folder = unpack(packed, tmp_path / "data", workers=1)
    for split in ("train", "val"):
        ours, theirs = (open_segmentation(root / "camvid", split) for root in (folder, data))
        assert len(ours) == len(theirs)
        assert ours.classes == theirs.classes
        (frame, label), (wanted, truth) = ours.read(0), theirs.read(0)
        np.testing.assert_array_equal(label, truth)
        assert np.abs(frame.astype(int) - wanted).mean() < 8, "AVIF loses a little"
        birds, known = (open_classification(root / "cub40", split) for root in (folder, data))
        assert birds.labels == known.labels
    assert not (folder / "camvid" / "test").exists()
    tiles, labels = read_tiny(folder / "tinyimagenet")
    grey = tiles.mean((1, 2, 3))
    index = np.round(grey / 20).astype(int)  # image n is 20 n, of class n % 2
    assert np.abs(grey - 20 * index).max() < 4
    np.testing.assert_array_equal(labels, index % 2)
    assert sorted(index) == list(range(12))


def test_a_pack_of_one_set_has_nothing_of_the_others(data: Path, packed: Path, tmp_path: Path) -> None:
    teacher = write_teacher(tmp_path / "teacher.safetensors")
    pack(data, tmp_path / "one.zip", LIMIT, teacher=teacher, quality={"camvid": 90})
    held = read_pack(tmp_path / "one.zip")
    assert {name.split("/")[0] for name in held} == {"camvid", "teacher.safetensors"}
    finer = [(len(content), len(read_pack(packed)[name])) for name, content in held.items() if name.endswith(".avif")]
    assert finer
    assert all(here > there for here, there in finer)


def test_the_same_data_give_the_same_pack(data: Path, packed: Path, tmp_path: Path) -> None:
    teacher = packed.parent / "teacher.safetensors"
    pack(data, tmp_path / "again.zip", LIMIT, teacher=teacher)
    assert (tmp_path / "again.zip").read_bytes() == packed.read_bytes()


def test_a_limit_that_leaves_no_room_is_reported_and_nothing_is_left(data: Path, packed: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"got 1000 bytes for the pack, expected at least \d+"):
        pack(data, tmp_path / "pack.zip", 1000, teacher=packed.parent / "teacher.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_a_truncated_pack_is_refused(packed: Path, tmp_path: Path) -> None:
    cut = tmp_path / "pack.zip"
    cut.write_bytes(packed.read_bytes()[:-1000])
    with pytest.raises(InputError, match=r"got an incomplete pack .*make gpu-pack"):
        unpack(cut, tmp_path / "data", workers=1)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("change", ["version", "content"])
def test_a_pack_of_another_version_or_content_is_refused(packed: Path, tmp_path: Path, change: str) -> None:
    other = tmp_path / "pack.zip"
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(other, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == MANIFEST and change == "version":
                content = json.dumps({**json.loads(content), "version": 99}).encode()
            if name == "cub40/classes.json" and change == "content":
                content += b" "
            target.writestr(name, content)
    told = "version 99, expected 1" if change == "version" else r"cub40/classes\.json is damaged"
    with pytest.raises(InputError, match=told):
        unpack(other, tmp_path / "data", workers=1)


def test_images_come_out_in_their_size(packed: Path, tmp_path: Path) -> None:
    folder = unpack(packed, tmp_path / "data", workers=1)
    image = cv2.imread(str(next((folder / "cub40/train/jay").iterdir())))
    assert image is not None
    assert image.shape == (40, 50, 3)

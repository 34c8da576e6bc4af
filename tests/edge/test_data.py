"""Labelled folders: what pairs up, and every way in which one can be wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.data import open_classification, open_segmentation, read_classes
from aselect_edge.data.readers import labels_of
from aselect_runtime.errors import InputError
from aselect_runtime.records import Task
from tests.log_lines import heard

JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["classes", "id", "name", "color_rgb", "ignore_index"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "masks"
    for split, names in (("train", ("b", "a")), ("val", ("v",))):
        for kind in ("images", "labels"):
            (root / split / kind).mkdir(parents=True)
        for name in names:
            cv2.imwrite(str(root / split / f"images/{name}.png"), np.full((4, 6, 3), 9, np.uint8))
            cv2.imwrite(str(root / split / f"labels/{name}.png"), np.array([[0, 1, 2, 255, 0, 1]] * 4, np.uint8))
    _classes(
        root,
        [{"id": 2, "name": "two"}, {"id": 0, "name": "zero", "color_rgb": [1, 2, 3]}, {"id": 1, "name": "one"}],
    )
    return root


def _classes(data: Path, entries: object, **more: object) -> Path:
    path = data / "classes.json"
    path.write_text(json.dumps({"classes": entries, **more}))
    return path


def test_labels_are_found_whichever_task_is_asked_for(data: Path, tmp_path: Path) -> None:
    tasks: tuple[Task, ...] = ("seg", "cls")
    for asked in tasks:
        found = labels_of(data, asked)
        assert found is not None
        assert found[0] == "seg"
    (tmp_path / "empty").mkdir()
    assert labels_of(tmp_path / "empty", "seg") is None
    assert labels_of(tmp_path / "nowhere", "cls") is None


def test_labels_of_the_task_that_is_asked_for_come_first(data: Path) -> None:
    for name in ("red", "blue"):  # a folder for each class, too
        (data / "train" / name).mkdir()
        cv2.imwrite(str(data / "train" / name / "a.png"), np.zeros((4, 6, 3), np.uint8))
    tasks: tuple[Task, ...] = ("seg", "cls")
    for asked in tasks:
        found = labels_of(data, asked)
        assert found is not None
        assert found[0] == asked


def test_images_are_paired_with_their_labels(data: Path) -> None:
    split = open_segmentation(data, "train")
    assert [(image.name, label.name) for image, label in split.pairs] == [("a.png", "a.png"), ("b.png", "b.png")]
    assert [info.name for info in split.classes] == ["zero", "one", "two"]
    assert split.classes[0].colour == (1, 2, 3)
    assert len({info.colour for info in split.classes}) == 3
    image, label = split.read(0)
    assert (image.shape, label.shape) == ((4, 6, 3), (4, 6))
    assert label[0].tolist() == [0, 1, 2, 255, 0, 1]


def test_a_listed_ignore_class_is_not_a_class(data: Path) -> None:
    path = _classes(data, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}, {"id": 11, "name": "void"}], ignore_index=11)
    classes, ignore = read_classes(path)
    assert ([info.name for info in classes], ignore) == (["a", "b"], 11)


def test_missing_parts_are_named(data: Path) -> None:
    (data / "train/labels/b.png").unlink()
    with pytest.raises(InputError, match=r"labels/b\.png: no such file \(1 missing\)"):
        open_segmentation(data, "train")
    with pytest.raises(InputError, match=r"got no test split .*expected one of train, val"):
        open_segmentation(data, "test")
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_segmentation(data / "nowhere", "val")


@pytest.mark.parametrize(
    ("label", "fault"),
    [
        (np.zeros((4, 5), np.uint8), "got 4x5, expected the image's 4x6"),
        (np.full((4, 6, 3), (0, 0, 9), np.uint8), "got the mode RGB, expected class indices .* labelmap.txt"),
        (np.full((4, 6), 300, np.uint16), "got the value 300, expected classes from 0 to 255"),
        (np.full((4, 6), 3, np.uint8), "got class 3, expected 0 to 2 or 255"),
    ],
)
def test_wrong_labels_are_named(data: Path, label: np.ndarray[Any, Any], fault: str) -> None:
    cv2.imwrite(str(data / "train/labels/a.png"), label)
    with pytest.raises(InputError, match=rf"a\.png: {fault}"):
        open_segmentation(data, "train").read(0)


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n", b"text"])
def test_corrupt_labels_are_named(data: Path, content: bytes) -> None:
    (data / "train/labels/a.png").write_bytes(content)
    with pytest.raises(InputError, match=r"labels/a\.png: .*expected"):
        open_segmentation(data, "train").read(0)


@pytest.mark.parametrize("length", [0, 8, 60])
def test_unreadable_images_are_left_out_and_named(data: Path, length: int) -> None:
    path = data / "train/images/a.png"
    path.write_bytes(path.read_bytes()[:length])
    told: list[str] = []
    with heard(told.append):
        assert [image.name for image, _ in open_segmentation(data, "train").pairs] == ["b.png"]
    assert told == [f"{data}: left out 1 unreadable images: {path}"]
    (data / "train/images/b.png").write_bytes(b"text")
    with pytest.raises(InputError, match=r"a\.png: cannot be decoded, nor any of the 2 images"):
        open_segmentation(data, "train")


@pytest.mark.parametrize(
    "entries",
    [
        [],
        [{"id": 0}],
        [{"id": 1, "name": "a"}],
        [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}],
        [{"id": 0, "name": "a"}, {"id": "1", "name": "b"}],
        [{"id": 0, "name": ""}],
        [{"id": 0, "name": "a", "color_rgb": [0, 0, 256]}],
        [{"id": float("inf"), "name": "a"}],
        [{"id": i, "name": "a"} for i in range(300)],
        "road",
        None,
    ],
)
def test_wrong_classes_are_refused(data: Path, entries: object) -> None:
    with pytest.raises(InputError, match=r"classes\.json: .*expected"):
        read_classes(_classes(data, entries))


@pytest.mark.parametrize("key", ["ignore_label", "ignoreIndex", "void"])
def test_an_ignore_index_of_another_name_is_not_passed_over(data: Path, key: str) -> None:
    path = _classes(data, [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}])
    content = json.loads(path.read_text()) | {key: 7}
    content.pop("ignore_index", None)
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"got '{key}', expected ignore_index"):
        read_classes(path)
    path.write_text(json.dumps(content | {"ignore_index": 7}))
    assert read_classes(path)[1] == 7, "a note beside it"


@pytest.mark.parametrize("ignore", [-1, 256, "x", None, float("inf")])
def test_a_wrong_ignore_index_is_refused(data: Path, ignore: object) -> None:
    with pytest.raises(InputError, match=r"classes\.json: .*expected"):
        read_classes(_classes(data, [{"id": 0, "name": "a"}], ignore_index=ignore))


@pytest.mark.parametrize(
    ("entry", "more", "told"),
    [
        ({"id": 0, "name": "a", "color": [1, 2, 3]}, {}, "got 'color' of a class, expected color_rgb"),
        ({"id": 0, "name": "a", "colour_rgb": [1, 2, 3]}, {}, "got 'colour_rgb' of a class"),
        ({"id": False, "name": "a"}, {}, "got id False, expected a whole number"),
        ({"id": 0, "name": "a"}, {"ignore_index": 254.9}, "got ignore_index 254.9, expected a whole number"),
        ({"id": 0, "name": "a"}, {"ignore_index": "254"}, "got ignore_index '254'"),
        ({"id": 0, "name": "a"}, {"num_classes": 2}, "got num_classes 2 and 1 classes, expected the same number"),
    ],
)
def test_what_a_class_list_would_lose_is_refused(data: Path, entry: Any, more: Any, told: str) -> None:
    with pytest.raises(InputError, match=rf"classes\.json: .*{told}"):
        read_classes(_classes(data, [entry], **more))


@pytest.mark.parametrize("text", ["", "[", "[]", "3", '"a"', "1" * 5000, "[" * 100_000, '{"classes": {"id": 0}}'])
def test_a_file_that_is_no_list_of_classes_is_refused(data: Path, text: str) -> None:
    (data / "classes.json").write_text(text)
    with pytest.raises(InputError, match=r"classes\.json: .*expected"):
        read_classes(data / "classes.json")


@settings(max_examples=80, deadline=None)
@given(content=JUNK | st.lists(JUNK, max_size=3).map(lambda entries: {"classes": entries}))
def test_any_json_is_classes_or_an_input_error(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = tmp_path_factory.getbasetemp() / "classes.json"
    path.write_text(json.dumps(content))
    try:
        classes, ignore = read_classes(path)
    except InputError:
        return
    assert classes
    assert 0 <= ignore <= 255


def test_the_streets_of_the_tests_are_a_valid_folder(street_data: Path, tmp_path: Path) -> None:
    shutil.copytree(street_data, tmp_path / "copy")
    split = open_segmentation(tmp_path / "copy", "val")
    assert len(split) == 3
    assert all(split.read(index)[1].max() < len(split.classes) for index in range(3))


@pytest.fixture
def birds(tmp_path: Path) -> Path:
    root = tmp_path / "birds"
    for split, names in (("train", ("b.wren", "a.jay", "c.owl")), ("val", ("a.jay", "c.owl"))):
        for name in names:
            (root / split / name).mkdir(parents=True)
            for copy in range(2):
                cv2.imwrite(str(root / split / name / f"{copy}.jpg"), np.full((4, 6, 3), 9, np.uint8))
    return root


def test_folders_are_classes_in_the_order_of_trains_names(birds: Path) -> None:
    train, val = open_classification(birds, "train"), open_classification(birds, "val")
    assert [info.name for info in train.classes] == ["a.jay", "b.wren", "c.owl"]
    assert train.classes == val.classes
    assert train.labels == (0, 0, 1, 1, 2, 2)
    assert val.labels == (0, 0, 2, 2)
    assert (len(val), val.paths[2].parent.name) == (4, "c.owl")
    image, label = val.read(3)
    assert (image.shape, label) == ((4, 6, 3), 2)


@pytest.mark.parametrize("key", ["folder", "name"])
def test_classes_json_orders_and_names_the_folders(birds: Path, key: str) -> None:
    entries = [{"id": i, "name": f"n{i}", key: name} for i, name in enumerate(("c.owl", "a.jay", "b.wren"))]
    _classes(birds, entries)
    train = open_classification(birds, "train")
    assert [info.name for info in train.classes] == [entry["name"] for entry in entries]
    assert train.labels == (1, 1, 2, 2, 0, 0)


def test_what_is_wrong_with_a_classification_folder_is_named(birds: Path) -> None:
    with pytest.raises(InputError, match=r"got no test split .*expected one of train, val"):
        open_classification(birds, "test")
    (birds / "val/d.tit").mkdir()
    with pytest.raises(InputError, match=r"d\.tit: not one of the 3 classes"):
        open_classification(birds, "val")
    (birds / "train/d.tit").mkdir()
    with pytest.raises(InputError, match=r"d\.tit: got no image"):
        open_classification(birds, "train")


def test_the_other_task_is_offered(data: Path, birds: Path, tmp_path: Path) -> None:
    with pytest.raises(
        InputError,
        match=r"expected a folder of images per class; choose the task seg, which the layout images and masks fits",
    ):
        open_classification(data, "train")
    with pytest.raises(InputError, match="choose the task cls, which the layout one folder of classes fits"):
        open_segmentation(birds / "train", "train")
    empty = tmp_path / "empty"
    empty.mkdir()
    for open_ in (open_segmentation, open_classification):
        with pytest.raises(InputError, match=r"got nothing, expected .*; docs/data.md"):
            open_(empty, "train")

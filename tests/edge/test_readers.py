"""Data sets as they unpack: what each layout holds, what is held out of it, and what is said of a damaged one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from aselect_edge.data import (
    images_of,
    is_labelled,
    open_classification,
    open_data,
    open_segmentation,
)
from aselect_edge.data.layout import FEWEST, HELD_OUT, held_out
from aselect_edge.training import RECIPES
from aselect_edge.training.segmenting import Segmenting
from aselect_runtime.errors import InputError
from aselect_runtime.records import Task
from tests.edge.layouts import (
    COLOURS,
    COLUMNS,
    INDICES,
    LABELMAP,
    ROWS,
    VALUES,
    Make,
    ade20k,
    aircraft,
    birds,
    cars,
    cells,
    cityscapes,
    coco,
    cvat,
    dogs,
    flat_classes,
    flat_masks,
    flowers,
    image,
    mask,
    matlab,
    text,
    voc,
)
from tests.edge.layouts.cases import yolo as outlines
from tests.log_lines import heard

Harm = Callable[[Path], object]
MASKS: dict[str, tuple[Make, list[str], list[int]]] = {
    "flat": (flat_masks, ["class-0", "class-3", "class-6"], [0, 1, 2, 255, 0, 1]),
    "cvat": (cvat, ["background", "kerb stone", "road"], [0, 1, 2, 2, 0, 1]),
    "voc": (voc, ["background", "aeroplane", "bicycle"], [0, 0, 20, 255, 0, 0]),
    "coco": (coco, ["person", "banner"], [1] * COLUMNS),
    "ade20k": (ade20k, ["screen door", "wall", "screen"], [255, 1, 3, 255, 255, 1]),
    "cityscapes": (cityscapes, ["road", "sidewalk", "building"], [0, 7, 18, 0, 0, 7]),
}
CLASSES: dict[str, tuple[Make, list[str], dict[str, tuple[str, int]]]] = {
    "birds": (birds, ["Eider (Ducks, Geese)", "Eider (Birds)", "Wren (dark)"], {"test": ("02/0000-50.jpg", 2)}),
    "flowers": (flowers, ["pink primrose"], {"train": ("jpg/image_00003.jpg", 101), "val": ("jpg/image_00002.jpg", 0)}),
    "dogs": (dogs, ["Chihuahua", "basenji"], {"test": ("n02085620-Chihuahua/test_0.jpg", 0)}),
    "cars": (
        cars,
        ["AM General Hummer SUV 2000", "Ram C/V Cargo Van Minivan 2012"],
        {"test": ("cars_test/00000.jpg", 0)},
    ),
    "aircraft": (aircraft, ["F/A-18", "DC 10"], {"test": ("images/1025792.jpg", 1), "val": ("images/1025791.jpg", 1)}),
    "flat": (flat_classes, ["jay", "wren"], {}),
}
MAKES: list[tuple[Task, Make]] = [
    *(("seg", make) for make, _, _ in MASKS.values()),
    *(("cls", make) for make, _, _ in CLASSES.values()),
]


@pytest.mark.parametrize("layout", MASKS)
def test_masks_become_classes(tmp_path: Path, layout: str) -> None:
    make, names, row = MASKS[layout]
    make(tmp_path)
    for split in ("train", "val"):
        data = open_segmentation(tmp_path, split)
        frame, label = data.read(0)
        assert [info.name for info in data.classes][: len(names)] == names
        assert [frame.shape, label.shape] == [(ROWS, COLUMNS, 3), (ROWS, COLUMNS)]
        assert label.dtype == np.uint8
        assert (label[0].tolist(), data.ignore_index) == (row, 255)


def test_coco_s_segments_are_distinguished_by_all_three_channels(tmp_path: Path) -> None:
    coco(tmp_path)
    assert open_segmentation(tmp_path, "val").read(0)[1][:, 0].tolist() == [1, 0, 0, 255]


def test_voc_s_classes_have_its_colours(tmp_path: Path) -> None:
    voc(tmp_path)
    classes = open_segmentation(tmp_path, "train").classes
    assert len(classes) == 21
    assert [classes[index].colour for index in (0, 1, 15, 20)] == [
        (0, 0, 0),
        (128, 0, 0),
        (192, 128, 128),
        (0, 64, 128),
    ]


@pytest.mark.parametrize("layout", CLASSES)
def test_lists_become_classes(tmp_path: Path, layout: str) -> None:
    make, names, splits = CLASSES[layout]
    make(tmp_path)
    train = open_classification(tmp_path, "train")
    assert [info.name for info in train.classes][: len(names)] == names
    assert set(train.labels) <= set(range(len(train.classes)))
    for split, first in splits.items():
        data = open_classification(tmp_path, split)
        assert (data.name(0), data.labels[0]) == first
        assert data.classes == train.classes
        assert data.read(0)[0].shape == (ROWS, COLUMNS, 3)


@pytest.mark.parametrize(("task", "make"), MAKES)
def test_every_image_is_in_one_split(tmp_path: Path, task: Task, make: Make) -> None:
    make(tmp_path)
    there = [split for split in ("train", "val", "test") if is_labelled(tmp_path, split, task)]
    assert there[:2] == ["train", "val"]
    splits = [open_data(tmp_path, split, task) for split in there]
    paths = [data.path(index) for data in splits for index in range(len(data))]
    images = [path for path in tmp_path.rglob("*.*") if path.suffix == ".jpg" or path.stem.endswith("leftImg8bit")]
    assert sorted(paths) == sorted(images)
    assert images_of(tmp_path) == [splits[0].path(index) for index in range(len(splits[0]))]


@pytest.mark.parametrize(("task", "make"), MAKES)
def test_a_layout_fits_one_task(tmp_path: Path, task: Task, make: Make) -> None:
    make(tmp_path)
    other: Task = "cls" if task == "seg" else "seg"
    assert not is_labelled(tmp_path, "train", other)
    with pytest.raises(InputError, match=f"expected .*choose the task {task}"):
        open_data(tmp_path, "train", other)


def test_what_is_guessed_is_reported(tmp_path: Path) -> None:
    flat_masks(tmp_path)
    told: list[str] = []
    with heard(told.append):
        data = open_segmentation(tmp_path, "val")
    assert [f"{len(data)} of its 40 training images are held out" in told[1], "used the 3 values" in told[0]] == [
        True
    ] * 2


@settings(deadline=None, max_examples=40)
@given(first=st.integers(0, 10**9), count=st.integers(250, 400), more=st.integers(0, 400))
def test_more_images_move_none(first: int, count: int, more: int) -> None:
    names = [f"{first + number}.jpg" for number in range(count + more)]
    before, after = held_out(names[:count]), held_out(names)
    assert before == {index for index in after if index < count} or len(before) == FEWEST


@given(count=st.integers(1, 60))
def test_ten_are_held_out_where_there_are_twice_as_many(count: int) -> None:
    held = held_out([f"wren/{number}.jpg" for number in range(count)])
    assert len(held) >= min(10, max(1, count // 2))
    assert len(held) <= max(10, count // 2)


def test_what_is_held_out_does_not_depend_on_the_name_of_the_folder(tmp_path: Path) -> None:
    held = []
    for name in ("downloads", "renamed"):
        for number in range(40):
            image(tmp_path / name / f"{number}.jpg")
            mask(tmp_path / name / f"{number}_mask.png")
        held.append({path.stem for path, _ in open_segmentation(tmp_path / name, "val").pairs})
    assert held[0] == held[1]


def test_a_tenth_is_held_out() -> None:
    assert len(held_out([f"wren/{number}.jpg" for number in range(2000)])) == pytest.approx(2000 * HELD_OUT, rel=0.15)


def test_a_subset_keeps_labels_with_images(tmp_path: Path) -> None:
    birds(tmp_path)
    data = open_classification(tmp_path, "test")
    some = data.subset([7, 2])
    assert [some.read(index)[1] for index in (0, 1)] == [data.labels[7], data.labels[2]]
    assert [some.name(0), some.name(1)] == [data.name(7), data.name(2)]


@pytest.mark.parametrize("split", ["valid", "validation"])
def test_splits_go_by_several_names(tmp_path: Path, split: str) -> None:
    flat_classes(tmp_path / "training")
    flat_classes(tmp_path / split)
    assert [len(open_classification(tmp_path, name)) for name in ("train", "val")] == [40, 40]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_colours_are_classes_where_a_labelmap_says_so(tmp_path: Path, mode: str) -> None:
    flat_masks(tmp_path)
    text(tmp_path / "labelmap.txt", LABELMAP)
    coloured = Image.fromarray(INDICES.astype(np.uint8) if mode == "L" else COLOURS[INDICES])
    for path in (tmp_path / "masks").iterdir():
        coloured.convert(mode, palette=Image.Palette.ADAPTIVE).save(path)
    data = open_segmentation(tmp_path, "train")
    assert [(info.name, info.colour) for info in data.classes][1] == ("kerb stone", (250, 50, 83))
    np.testing.assert_array_equal(data.read(0)[1], INDICES)


def test_masks_of_16_bits_are_read(tmp_path: Path) -> None:
    flat_masks(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        cv2.imwrite(str(path), VALUES.astype(np.uint16))
    np.testing.assert_array_equal(open_segmentation(tmp_path, "val").read(0)[1], VALUES)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        (["road:1,2"], "got 'road:1,2', expected name:red,green,blue"),
        (["road:1,2,300::"], "expected name:red,green,blue"),
        (["road:::"], "expected name:red,green,blue"),
        (["road:0,0,0", "sky:0,0,0"], "two classes of the same colour"),
        (["road:0,0,0", "road:1,0,0"], "the class 'road' twice"),
        ([], "got no class"),
        (["background:0,0,0::"], "got the colour 250,50,83, expected one of the 1 in labelmap.txt"),
    ],
)
def test_what_is_wrong_with_a_labelmap_is_named(tmp_path: Path, lines: list[str], fault: str) -> None:
    cvat(tmp_path)
    text(tmp_path / "labelmap.txt", lines)
    with pytest.raises(InputError, match=fault):
        open_segmentation(tmp_path, "train").read(0)


def test_images_of_an_export_may_be_of_any_kind(tmp_path: Path) -> None:
    cvat(tmp_path)
    first = tmp_path / "JPEGImages/clip/frame 00.jpg"
    first.rename(first.with_suffix(".JPEG"))
    assert open_segmentation(tmp_path, "train").path(0) == first.with_suffix(".JPEG")
    first.with_suffix(".JPEG").unlink()
    with pytest.raises(InputError, match=r"frame 00\.jpg: no such file, .*default\.txt lists it"):
        open_segmentation(tmp_path, "train")


def test_an_export_without_images_is_named(tmp_path: Path) -> None:
    cvat(tmp_path)
    (tmp_path / "JPEGImages").rename(tmp_path / "elsewhere")
    with pytest.raises(InputError, match=r"got no JPEGImages/.*export with images"):
        open_segmentation(tmp_path, "train")


def test_values_that_train_does_not_have_are_refused(tmp_path: Path) -> None:
    for split, value in (("train", 2), ("val", 9)):
        image(tmp_path / split / "images/a.jpg")
        mask(tmp_path / split / "labels/a.png", np.full((ROWS, COLUMNS), value) * (VALUES > 0))
    assert [info.name for info in open_segmentation(tmp_path, "val").classes] == ["class-0", "class-2"]
    with pytest.raises(InputError, match=r"val/labels/a\.png: got the value 9, expected one of 0, 2, 255"):
        open_segmentation(tmp_path, "val").read(0)


def test_masks_of_0_and_255_are_two_classes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        image(tmp_path / f"train/images/{name}.jpg")
        mask(tmp_path / f"train/masks/{name}.png", VALUES // 255 * 255)
    data = open_segmentation(tmp_path, "train")
    assert [info.name for info in data.classes] == ["class-0", "class-255"]
    assert data.read(0)[1][0].tolist() == [0, 0, 0, 1, 0, 0]


def cut(name: str) -> Harm:
    return lambda data: (data / name).write_bytes((data / name).read_bytes()[:60])


def lose(name: str) -> Harm:
    return lambda data: (data / name).unlink()


def line(name: str, content: str) -> Harm:
    return lambda data: (data / name).write_text(content)


FAULTS: list[tuple[Make, Harm, str]] = [
    (voc, lose("SegmentationClass/2007_000032.png"), r"2007_000032\.png: no such file.*train\.txt lists it"),
    (
        voc,
        line("ImageSets/Segmentation/train.txt", "../../secret"),
        r"train\.txt: got the path '\.\./\.\./secret\.jpg'",
    ),
    (voc, line("ImageSets/Segmentation/train.txt", "\n"), "got no image in train"),
    (voc, lambda data: mask(data / "SegmentationClass/2007_000032.png", VALUES // 2 + 30), r"032\.png: got class 30"),
    (voc, lambda data: mask(data / "SegmentationClass/2007_000032.png", VALUES[1:]), r"032\.png: got 3x6, .* 4x6"),
    (voc, cut("SegmentationClass/2007_000032.png"), r"032\.png: cannot be decoded"),
    (coco, cut("annotations/panoptic_train2017.json"), r"panoptic_train2017\.json: not understood"),
    (coco, lose("train2017/000000000009.jpg"), r"009\.jpg: no such file"),
    (coco, lambda data: mask(data / "annotations/panoptic_train2017/000000000009.png"), r"009\.png: got a L image"),
    (
        coco,
        lambda data: mask(data / "annotations/panoptic_train2017/000000000009.png", np.full((ROWS, COLUMNS, 3), 1)),
        r"009\.png: got the segment 65793",
    ),
    (ade20k, line("objectInfo150.txt", "Idx\tName\n2\tsky"), r"objectInfo150\.txt: got a table that does not"),
    (ade20k, lose("annotations/training/ADE_train_00000001.png"), r"ADE_train_00000001\.png: no such file"),
    (
        ade20k,
        lambda data: mask(data / "annotations/training/ADE_train_00000001.png", VALUES + 4),
        r"ADE_train_00000001\.png: got the value 5",
    ),
    (cityscapes, lambda d: lose(f"{next(d.rglob('*train/*/*_labelIds.png')).relative_to(d)}")(d), "no such file"),
    (birds, lose("images/00/0000-00.jpg"), r"0000-00\.jpg: no such file"),
    (birds, line("images.txt", "0000-00 /etc/passwd"), r"images\.txt: got the path '/etc/passwd'"),
    (birds, line("images.txt", "0000-00"), r"images\.txt: got '0000-00' in line 1, expected 2 columns"),
    (birds, line("classes.txt", "295 Eider"), r"classes\.txt: got no line for class"),
    (birds, line("train_test_split.txt", "0000-00 1"), r"train_test_split\.txt: got no line for image 0000-01"),
    (birds, lambda data: (data / "classes.txt").write_bytes(b"\xff\xfb"), r"classes\.txt: got a file that is not text"),
    (flowers, cut("imagelabels.mat"), r"imagelabels\.mat: not a MATLAB file"),
    (flowers, lose("setid.mat"), r"setid\.mat: no such file"),
    (flowers, lambda data: matlab(data / "setid.mat", trnid=[[5]]), r"setid\.mat: got image 5, expected 1 to the 4"),
    (flowers, lambda data: matlab(data / "setid.mat", trnid="all"), r"setid\.mat: got other contents"),
    (flowers, lambda data: matlab(data / "setid.mat", other=[[1]]), r"setid\.mat: got no variable 'trnid'"),
    (flowers, lambda data: matlab(data / "imagelabels.mat", labels=[[103] * 4]), r"got the class '103', expected 1 to"),
    (dogs, line("train_list.mat", "file_list"), r"train_list\.mat: not a MATLAB file"),
    (dogs, lambda data: matlab(data / "train_list.mat", file_list=cells(["../x/y.jpg"])), "got the path '../x/y.jpg'"),
    (
        cars,
        lambda data: matlab(data / "devkit/cars_train_annos.mat", annotations=[[1]]),
        "got no columns fname and class",
    ),
    (
        cars,
        lambda data: matlab(data / "devkit/cars_meta.mat", class_names=cells(["a"])),
        "got the class '2', expected 1",
    ),
    (aircraft, line("data/images_variant_train.txt", "1025790 Spitfire"), "got the variant 'Spitfire'"),
    (aircraft, line("data/variants.txt", "F/A-18\nDC 10\nDC 10"), r"variants\.txt: got the class 'DC 10' twice"),
    (flat_masks, lose("masks/7.png"), r"masks/7\.png: no such file \(1 missing\)"),
]


@pytest.mark.parametrize(("make", "harm", "fault"), FAULTS)
def test_what_is_wrong_is_named(tmp_path: Path, make: Make, harm: Harm, fault: str) -> None:
    make(tmp_path)
    harm(tmp_path)
    with pytest.raises(InputError, match=fault) as caught:
        open_data(tmp_path, "train", next(task for task, each in MAKES if each is make)).read(0)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_classifier_may_have_more_classes_than_a_map_has_values(tmp_path: Path) -> None:
    for number in range(300):
        image(tmp_path / f"train/{number:03d}/a.jpg")
    classes = open_classification(tmp_path, "train").classes
    assert len(classes) == 300
    entries = {"classes": [{"id": i, "name": f"n{i}", "folder": info.name} for i, info in enumerate(classes)]}
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    assert [info.name for info in open_classification(tmp_path, "train").classes[254:257]] == ["n254", "n255", "n256"]
    flat_masks(tmp_path / "masks")
    (tmp_path / "masks/classes.json").write_text(json.dumps(entries))
    with pytest.raises(InputError, match="got 300 classes, expected at most 255"):
        open_segmentation(tmp_path / "masks", "train")


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (("val/images/v.png", "val/labels/v.png", "train/images/t.png"), ["val/images/v.png"]),
        (("val/cat/v.png", "train/cat/t.png"), ["val/cat/v.png"]),
        (("train/t.png", "train/labels/t.png"), ["train/t.png"]),
        (("images/t.png", "images/u.png", "masks/t.png", "masks/u.png"), ["images/t.png"]),
        (("cam/val/v.png", "cam/train/t.png", "cam/val/annotations/v.png"), ["cam/val/v.png"]),
        (("a.png", "a_mask.png", "masks/a.png"), ["a.png"]),
        (("a.png",), ["a.png"]),
    ],
)
def test_a_split_is_taken_and_its_label_masks_are_not(
    tmp_path: Path, files: tuple[str, ...], expected: list[str]
) -> None:
    for name in files:
        image(tmp_path / name)
    assert [path.relative_to(tmp_path).as_posix() for path in images_of(tmp_path, ("val", "train"))] == expected


def test_the_test_labels_of_cars_may_be_missing(tmp_path: Path) -> None:
    cars(tmp_path)
    (tmp_path / "cars_test_annos_withlabels.mat").unlink()
    with pytest.raises(InputError, match="got no test split in the layout Stanford Cars, expected one of train, val"):
        open_classification(tmp_path, "test")


def test_a_folder_of_frames_is_not_labelled(tmp_path: Path) -> None:
    image(tmp_path / "a.jpg")
    image(tmp_path / "front/b.jpg")
    assert not any(is_labelled(tmp_path, "val", task) for task in ("seg", "cls"))
    assert [path.name for path in images_of(tmp_path)] == ["a.jpg", "b.jpg"]


@pytest.mark.parametrize("own", [True, False])
def test_a_class_without_a_pixel_is_refused_where_the_user_names_it(tmp_path: Path, own: bool) -> None:
    (flat_masks if own else voc)(tmp_path)
    if own:
        for path in (tmp_path / "masks").iterdir():
            mask(path)
        entries = [{"id": number, "name": name} for number, name in enumerate(("road", "car", "sky", "bus"))]
        (tmp_path / "classes.json").write_text(json.dumps({"classes": entries}))
    train, val = open_segmentation(tmp_path, "train"), open_segmentation(tmp_path, "val")
    recipe = RECIPES["seg"]
    if own:
        with pytest.raises(InputError, match=r"classes\.json: got the class bus, which no mask .* \(17% of"):
            Segmenting(train, val, recipe)
        return
    told: list[str] = []
    with heard(told.append):
        Segmenting(train, val, recipe)
    assert "no mask of train has a pixel of aeroplane, bicycle, bird and 16 more" in told[0]


def test_white_masks_and_two_named_classes_are_not_trained_to_a_perfect_score(tmp_path: Path) -> None:
    flat_masks(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        mask(path, VALUES // 255 * 255)
    entries = {"classes": [{"id": 0, "name": "no"}, {"id": 1, "name": "yes"}]}
    (tmp_path / "classes.json").write_text(json.dumps(entries))
    assert open_segmentation(tmp_path, "train").read(0)[1][0].tolist() == [0, 0, 0, 1, 0, 0]
    (tmp_path / "classes.json").write_text(json.dumps({**entries, "ignore_index": 255}))
    train = open_segmentation(tmp_path, "train")
    with pytest.raises(InputError, match="got the class yes, which no mask of train contains"):
        Segmenting(train, train, RECIPES["seg"])


def test_links_in_a_circle_below_labels_are_followed_once(tmp_path: Path) -> None:
    outlines("train/images", "train/labels")(tmp_path)
    (tmp_path / "train/labels/self").symlink_to(".")
    (tmp_path / "data.yaml").write_text("names: [car, dog]\n")
    assert len(open_segmentation(tmp_path, "train")) + len(open_segmentation(tmp_path, "val")) == 2


def test_the_categories_of_train_order_those_of_val(tmp_path: Path) -> None:
    """Of COCO's panoptic masks, where each split's file lists them itself."""
    coco(tmp_path)
    before = open_segmentation(tmp_path, "val").read(0)[1]
    path = tmp_path / "annotations/panoptic_val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [each for each in content["categories"] if each["id"] == 92]
    content["annotations"][0]["segments_info"] = [
        {**each, "category_id": 92} for each in content["annotations"][0]["segments_info"]
    ]
    path.write_text(json.dumps(content))
    (banner,) = np.unique(open_segmentation(tmp_path, "val").read(0)[1][0])
    assert banner == before[0, 0]
    assert open_segmentation(tmp_path, "val").classes == open_segmentation(tmp_path, "train").classes

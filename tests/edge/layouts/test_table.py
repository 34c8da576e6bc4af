"""Every layout in the table is read as it was written down by hand, or refused by name: none is silently wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as mask_tools

from aselect_edge.data import images_of, is_labelled, open_segmentation
from aselect_edge.data.polygons import inside_runs
from aselect_runtime.errors import InputError
from tests.edge.layouts import COLOURS, INDICES, LABELMAP, VALUES, cvat, flat_masks, mask, voc
from tests.edge.layouts.cases import (
    BINARY,
    BOX,
    HALVES,
    PLAIN,
    Case,
    blurred,
    both,
    flat,
    instances,
    jpeg_masks,
    junk,
    labelme,
    lines,
    linked,
    matlab_masks,
    named,
    one_bit,
    png_text,
    sbd,
    tree,
    turned,
    yolo,
)

GREY = (VALUES % 255 * 100).astype(np.uint8)
MASK_TEXT = png_text([[1, 1, 1], [1, 1, 1]])
YAML = ("path: ../datasets/mine", "train: images/train", "val: images/val", "nc: 2", "names: [car, dog]")
ROBOFLOW = ("train: ../train/images", "val: ../valid/images", "names:", "  0: car", "  1: dog")
SPLIT_LISTS = both(lines("train.txt", "0", "1"), lines("val.txt", "2"), lines("test.txt", "3"))
READ: dict[str, Case] = {
    "split/images+masks": Case(tree("train", "val"), PLAIN, 2),
    "split/images+labels": Case(tree("train", "val", masks="{}/labels"), PLAIN, 2),
    "images/split+masks/split": Case(tree("train", "val", "test", images="images/{}", masks="masks/{}"), PLAIN, 2),
    "images/split+masks": Case(tree("train", "val", "test", images="images/{}", masks="masks"), PLAIN, 2),
    "Train, Val, Test": Case(tree("Train", "Val", "Test"), PLAIN, 2),
    "training, validation": Case(tree("training", "validation", "testing"), PLAIN, 2),
    "train+train_masks": Case(tree("train", "val", images="{}", masks="{}_masks"), PLAIN, 2),
    "train+trainannot (CamVid)": Case(tree("train", "val", images="{}", masks="{}annot"), PLAIN, 2),
    "side by side": Case(tree("train", "val", images="{}", masks="{}", ends="_mask.png"), PLAIN, 2),
    "Roboflow masks": Case(
        both(
            tree("train", "valid", images="{}", masks="{}", ends="_mask.png"),
            lines("train/_classes.csv", "Pixel Value, Class", "0, background", "1, road", "2, car"),
        ),
        PLAIN,
        2,
        names=("background", "road", "car"),
    ),
    "imgs+gt": Case(tree("train", "val", images="{}/imgs", masks="{}/gt"), PLAIN, 2),
    "JPEGImages+SegmentationClass without lists": Case(
        tree("train", images="JPEGImages", masks="SegmentationClass"), PLAIN, 1
    ),
    "flat": Case(flat(), PLAIN, 2),
    "flat of 40": Case(flat_masks, PLAIN, 30),
    "flat with lists": Case(both(flat(), SPLIT_LISTS), PLAIN, 2),
    "lists with a header and suffixes": Case(
        both(flat(), lines("train.txt", "filename", "0.jpg", "images/1.jpg masks/1.png"), lines("val.txt", "2.jpg")),
        PLAIN,
        2,
    ),
    "_mask.png": Case(flat(ends="_mask.png"), PLAIN, 2),
    "_label.png": Case(flat(ends="_label.png"), PLAIN, 2),
    "_annotation.png": Case(flat(ends="_annotation.png"), PLAIN, 2),
    "_L.png": Case(flat(ends="_L.png"), PLAIN, 2),
    ".jpg.png": Case(flat(ends=".jpg.png"), PLAIN, 2),
    ".PNG": Case(flat(ends=".PNG"), PLAIN, 2),
    ".bmp": Case(flat(ends=".bmp"), PLAIN, 2),
    ".tif": Case(flat(ends=".tif"), PLAIN, 2),
    "0 and 255": Case(flat(BINARY), HALVES, 2, names=("class-0", "class-255")),
    "0 and 255 in RGB": Case(flat(np.repeat(BINARY[..., None], 3, 2)), HALVES, 2),
    "0 and 255 with classes.json": Case(both(flat(BINARY), named("no", "yes")), HALVES, 2, names=("no", "yes")),
    "0 and 255 with a labelmap": Case(
        both(flat(BINARY), lines("labelmap.txt", "no:0,0,0::", "yes:255,255,255::")), HALVES, 2, names=("no", "yes")
    ),
    "one bit": Case(one_bit, HALVES, 2),
    "one bit with classes.json": Case(both(one_bit, named("no", "yes")), HALVES, 2, names=("no", "yes")),
    "JPEG masks of black and white": Case(jpeg_masks(BINARY), [0] * 16 + [1] * 32 + [0] * 32 + [1] * 16, 2),
    "grey levels with a labelmap": Case(
        both(flat(GREY), lines("labelmap.txt", "a:0,0,0", "b:100,100,100", "c:200,200,200")), [0, 1, 2, 0, 0, 1], 2
    ),
    "grey levels 0, 100, 200": Case(flat(GREY), [0, 1, 2, 0, 0, 1], 2, names=("class-0", "class-100", "class-200")),
    "colours with a labelmap": Case(
        both(flat(COLOURS[INDICES]), lines("labelmap.txt", *LABELMAP)), [0, 1, 2, 2, 0, 1], 2
    ),
    "colours with a labelmap of a BOM and a plain header": Case(
        both(
            flat(COLOURS[INDICES]),
            lines("labelmap.txt", "label:color_rgb:parts:actions", *LABELMAP[1:], encoding="utf-8-sig"),
        ),
        [0, 1, 2, 2, 0, 1],
        2,
        names=("background", "kerb stone"),
    ),
    "colours with class_dict.csv": Case(
        both(flat(COLOURS[INDICES]), lines("class_dict.csv", "name,r,g,b", "a,0,0,0", "b,250,50,83", "c,50,183,250")),
        [0, 1, 2, 2, 0, 1],
        2,
        names=("a", "b", "c"),
    ),
    "CVAT": Case(cvat, [0, 1, 2, 2, 0, 1], 30),
    "VOC": Case(voc, [0, 0, 20, 255, 0, 0], 1),
    "MATLAB masks": Case(matlab_masks, PLAIN, 2),
    "SBD's GTcls": Case(sbd, PLAIN, 2),
    "what systems leave behind, an empty image": Case(junk, PLAIN, 2),
    "linked folders": Case(linked, PLAIN, 2),
    "EXIF turned, masks too": Case(turned(6, (6, 4), VALUES), PLAIN, 2),
    "COCO as it unpacks": Case(
        both(
            instances("annotations/instances_train2017.json", "train2017"),
            instances("annotations/instances_val2017.json", "val2017", count=1),
        ),
        BOX,
        2,
        1,
        names=("background", "car", "dog"),
    ),
    "COCO from Roboflow": Case(
        both(
            instances("train/_annotations.coco.json", "train"),
            instances("valid/_annotations.coco.json", "valid"),
            instances("test/_annotations.coco.json", "test"),
        ),
        BOX,
        2,
        1,
    ),
    "COCO from CVAT": Case(instances("annotations/instances_default.json", "images"), BOX, 1, 1),
    "COCO from Label Studio": Case(instances("result.json", "images", name="images/{}.jpg"), BOX, 1, 1),
    "COCO of run lengths": Case(
        instances("annotations/instances_default.json", "images", {"size": [4, 6], "counts": [5, 2, 2, 2, 2, 2, 9]}),
        BOX,
        1,
        1,
    ),
    "COCO of run lengths as text": Case(
        instances("annotations/instances_default.json", "images", {"size": [4, 6], "counts": "5220007"}), BOX, 1, 1
    ),
    "YOLO images/split": Case(
        both(yolo("images/train", "labels/train"), yolo("images/val", "labels/val"), lines("data.yaml", *YAML)),
        BOX,
        2,
        1,
        names=("background", "car", "dog"),
    ),
    "YOLO split/images": Case(
        both(yolo("train/images", "train/labels"), yolo("valid/images", "valid/labels"), lines("data.yaml", *ROBOFLOW)),
        BOX,
        2,
        1,
    ),
    "YOLO from Label Studio": Case(both(yolo("images", "labels"), lines("classes.txt", "car")), BOX, 1, 1),
    "LabelMe beside": Case(labelme("", ""), BOX, 1, 1, names=("background", "car")),
    "LabelMe in annotations": Case(labelme("images", "annotations"), BOX, 1, 1),
    "LabelMe in splits": Case(both(labelme("train", "train"), labelme("val", "val")), BOX, 2, 1),
    "LabelMe rectangle": Case(labelme("", "", "rectangle", [[1, 1], [4, 3]]), BOX, 1, 1),
    "LabelMe mask": Case(labelme("", "", "mask", [[1, 1], [3, 2]], mask=MASK_TEXT), BOX, 1, 1),
    "LabelMe circle": Case(labelme("", "", "circle", [[2.5, 1.5], [4, 1.5]]), BOX, 1, 1),
}
REFUSED: dict[str, Case] = {
    "images outside the splits": Case(
        both(tree("train", "val", "extra", images="images/{}", masks="masks/{}")), fault=r"images: got extra next to"
    ),
    "a split deep inside": Case(
        tree("train", "val", images="images/city/{}", masks="masks/city/{}"), fault="got the split train nested inside"
    ),
    "val twice": Case(tree("train", "val", "valid"), fault="valid: got a second folder of the split val"),
    "a list of no image": Case(both(flat(), lines("train.txt", "0", "9")), fault=r"train\.txt: got '9'"),
    "several masks of an image": Case(
        both(flat(ends="_mask.png"), lambda d: mask(d / "masks/0_mask_2.png")), fault="several masks of the image 0"
    ),
    "two masks of an image": Case(
        both(flat(), lambda d: mask(d / "masks/0_mask.png")), fault=r"0\.jpg: got the labels"
    ),
    "blurred masks": Case(blurred, fault=r"grey levels between black and white.*nearest neighbour"),
    "0, 128 and 255": Case(
        flat(np.array([[0, 128, 255, 0, 0, 128]] * 4)), fault=r"grey levels 0, 128, 255.*labelmap\.txt"
    ),
    "white alone": Case(flat(np.full((4, 6), 255)), fault="got no value in the masks besides 255"),
    "JPEG masks of three levels": Case(
        jpeg_masks([[0, 128, 255]] * 3), fault="got a JPEG with 33% .* save the masks as PNG"
    ),
    "JPEG masks of indices": Case(jpeg_masks([[0, 1, 2]] * 3), fault="got the value 0 in the masks"),
    "grey mask with a coloured labelmap": Case(
        both(flat(np.full((4, 6), 7)), lines("labelmap.txt", *LABELMAP)), fault="got the value 7 in a grey mask"
    ),
    "colours without a labelmap": Case(flat(COLOURS[INDICES]), fault=r"got the mode RGB.*labelmap\.txt"),
    "EXIF turned, masks not": Case(turned(6, (6, 4), VALUES.T), fault=r"which its EXIF tag rotates; rotate the mask"),
    "EXIF upside down": Case(turned(3, (4, 6), VALUES), fault=r"0\.jpg: got the EXIF orientation 3"),
    "COCO boxes": Case(instances("annotations/instances_default.json", "images", []), fault="without an outline"),
    "COCO run lengths of another size": Case(
        instances("annotations/instances_default.json", "images", {"size": [4, 6], "counts": [5, 2]}),
        fault=r"instances_default\.json: got run lengths of 7 pixels",
    ),
    "COCO without images": Case(
        both(instances("annotations/instances_default.json", "elsewhere")), fault=r"got the image '0\.jpg'"
    ),
    "COCO point outside": Case(
        instances("annotations/instances_default.json", "images", [[1, 1, 40, 1, 40, 3]]), fault="got a point outside"
    ),
    "YOLO boxes": Case(
        both(yolo("images", "labels", "0 0.5 0.5 0.2 0.2"), lines("data.yaml", "names: [car]")), fault="got a box"
    ),
    "YOLO without a name": Case(
        both(yolo("images", "labels", "3 0 0 1 0 1 1"), lines("data.yaml", "names: [car]")), fault="got the class 3"
    ),
    "YOLO with names in names": Case(
        both(yolo("images", "labels"), lines("data.yaml", "a: &a [x, x]", "names: [[*a, *a], dog]")),
        fault="got a name that is no text",
    ),
    "YOLO with another count": Case(
        both(yolo("images", "labels"), lines("data.yaml", "nc: 3", "names: [car, dog]")), fault="got nc 3 and 2 classes"
    ),
    "YOLO in pixels": Case(
        both(yolo("images", "labels", "0 1 1 4 1 4 3"), lines("data.yaml", "names: [car]")), fault="points from 0 to 1"
    ),
    "YOLO without names": Case(yolo("images", "labels"), fault="names of the classes"),
    "LabelMe line": Case(labelme("", "", "line", [[1, 1], [4, 3]]), fault=r"1\.json: .*got the shape 'line'"),
    "a folder of text": Case(lines("readme.txt", "hello"), fault=r"got readme\.txt, expected images with masks or"),
    "one folder too high": Case(
        lambda data: flat()(data / "unpacked"), fault=r"got unpacked, expected .*; give .*unpacked$"
    ),
}


@pytest.mark.parametrize("layout", READ)
def test_a_layout_is_read(tmp_path: Path, layout: str) -> None:
    case, data = READ[layout], tmp_path
    case.make(tmp_path)
    data = tmp_path / "set" if (tmp_path / "set").is_dir() else tmp_path
    train = open_segmentation(data, "train")
    assert len(train) == case.train
    for split in ("train", "val"):
        opened = open_segmentation(data, split)
        assert opened.read(0)[1][case.at].tolist() == case.row
        assert [info.name for info in opened.classes][: len(case.names)] == list(case.names)
        assert all(label.name.startswith(image.stem) for image, label in opened.pairs)
        assert {info.name for info in opened.classes} == {info.name for info in train.classes}


@pytest.mark.parametrize("layout", READ)
def test_no_mask_and_no_image_of_another_split_is_learnt_from(tmp_path: Path, layout: str) -> None:
    READ[layout].make(tmp_path)
    data = tmp_path / "set" if (tmp_path / "set").is_dir() else tmp_path
    there = [split for split in ("train", "val", "test") if is_labelled(data, split, "seg")]
    images = {split: set(images_of(data, (split,))) for split in there}
    assert {
        split: set(map(open_segmentation(data, split).path, range(len(images[split])))) for split in there
    } == images
    assert sum(map(len, images.values())) == len(set().union(*images.values()))
    assert not any({*path.relative_to(data).parts} & {"masks", "labels"} for path in set().union(*images.values()))


@pytest.mark.parametrize("layout", REFUSED)
def test_a_layout_is_refused_by_name(tmp_path: Path, layout: str) -> None:
    case = REFUSED[layout]
    case.make(tmp_path)
    with pytest.raises(InputError, match=case.fault) as caught:
        open_segmentation(tmp_path, "train").read(0)
    assert "\n" not in str(caught.value)
    assert "expected" in str(caught.value)


def test_objects_belong_to_their_image_and_small_ones_stay_on_top(tmp_path: Path) -> None:
    instances("train/_annotations.coco.json", "train")(tmp_path)
    instances("val/_annotations.coco.json", "val")(tmp_path)
    source = tmp_path / "train/_annotations.coco.json"
    content = json.loads(source.read_text())
    whole = [0, 0, 6, 0, 6, 4, 0, 4]
    content["annotations"] = [
        {"id": 1, "image_id": 1, "category_id": 8, "segmentation": [[1, 1, 4, 1, 4, 3, 1, 3]]},
        {"id": 2, "image_id": 1, "category_id": 3, "segmentation": [whole]},
    ]
    source.write_text(json.dumps(content))
    train = open_segmentation(tmp_path, "train")
    assert not train.read(0)[1].any()
    assert train.read(1)[1].tolist() == [[1] * 6, [1, 2, 2, 2, 1, 1], [1, 2, 2, 2, 1, 1], [1] * 6]


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_run_lengths_as_text_are_those_of_coco_s_own_tools(pixels: list[bool]) -> None:
    where = np.asfortranarray(np.array(pixels, np.uint8)[:, None])
    encoded = mask_tools.encode(where)
    read = inside_runs({"size": encoded["size"], "counts": encoded["counts"].decode()}, (len(pixels), 1))
    assert read[:, 0].tolist() == pixels


@given(st.text(max_size=8) | st.lists(st.integers(-9, 99), max_size=6))
def test_run_lengths_fill_the_image_or_are_refused(counts: object) -> None:
    try:
        where = inside_runs({"size": [4, 6], "counts": counts}, (4, 6))
    except ValueError:
        return
    assert where.shape == (4, 6)

"""`aselect-init`: what is in a folder, and commands that work on it."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

from aselect_edge.backbones import load_backbone
from aselect_edge.commands.init import init
from aselect_edge.data import open_classification
from aselect_edge.data.repeats import told_twice
from aselect_edge.data.survey import survey
from aselect_edge.planning.first_steps import first_steps, input_size, plan
from aselect_edge.training.goal import open_goal
from aselect_edge.training.recipe import RECIPES
from aselect_runtime.errors import InputError
from aselect_runtime.files import shell_word

HEIGHT, WIDTH = 48, 64
RING = [[8, 8], [40, 8], [40, 32], [8, 32]]
"""A rectangle of 32 x 24 pixels: a quarter of an image of 64 x 48."""

pytestmark = pytest.mark.usefixtures("undrawn")


def photograph(path: Path, seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> None:
    """Noise with the region of RING brighter."""
    frame = np.random.default_rng(seed).integers(0, 90, (*size, 3), np.uint8)
    frame[8:32, 8:40] += 120
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), frame)


def with_labelme(data: Path, count: int = 24) -> None:
    for number in range(count):
        photograph(data / f"{number:02d}.jpg", number)
        shapes = [{"label": "plate", "shape_type": "polygon", "points": RING}]
        content = {"shapes": shapes, "imageHeight": HEIGHT, "imageWidth": WIDTH, "imagePath": f"{number:02d}.jpg"}
        (data / f"{number:02d}.json").write_text(json.dumps(content))


def with_yolo(data: Path, count: int = 24) -> None:
    line = "0 " + " ".join(f"{x / WIDTH} {y / HEIGHT}" for x, y in RING)
    for split, some in (("train", count - 6), ("val", 6)):
        for number in range(some):
            photograph(data / "images" / split / f"{number:02d}.jpg", number + (0 if split == "train" else 100))
            labels = data / "labels" / split
            labels.mkdir(parents=True, exist_ok=True)
            (labels / f"{number:02d}.txt").write_text(line + "\n")
    (data / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [plate]\n")


def with_classes(data: Path) -> None:
    for name, count in (("jay", 30), ("wren", 3)):
        for number in range(count):
            photograph(data / name / f"{number}.jpg", number)


@pytest.mark.parametrize(("make", "layout"), [(with_labelme, "LabelMe"), (with_yolo, "YOLO segmentation")])
def test_outlines_are_read_and_counted(tmp_path: Path, make: Callable[[Path], None], layout: str) -> None:
    make(tmp_path)
    found = survey(tmp_path)
    assert (found.task, found.layout, found.problems) == ("seg", layout, ())
    assert {split.name for split in found.splits} == {"train", "val"}
    assert sum(split.images for split in found.splits) == 24
    assert found.train is not None
    assert found.train.sizes == ((HEIGHT, WIDTH),)
    assert [each.name for each in found.train.classes] == ["background", "plate"]
    assert {each.images for each in found.train.classes} == {found.train.images}
    assert [each.share for each in found.train.classes] == pytest.approx([0.75, 0.25])


def test_folders_of_classes_are_counted_and_what_is_wrong_is_said(tmp_path: Path) -> None:
    with_classes(tmp_path)
    (tmp_path / "jay" / "7.jpg").write_bytes(b"\xff\xd8\xff half a file")
    found = survey(tmp_path)
    assert (found.task, found.unreadable) == ("cls", (tmp_path / "jay" / "7.jpg",))
    total = dict.fromkeys(("jay", "wren"), 0)
    for split in found.splits:
        for each in split.classes:
            total[each.name] += each.images
    assert total == {"jay": 29, "wren": 3}
    assert any("fewer than 10 images of wren" in problem for problem in found.problems)


def test_unequal_classes_are_said(tmp_path: Path) -> None:
    class_folders(tmp_path, {"jay": (210, 1), "wren": (10, 1)})
    (problem,) = survey(tmp_path).problems
    assert problem.startswith("train has 21 times as many images of jay as of wren")


def class_folders(data: Path, counts: dict[str, tuple[int, int]]) -> None:
    """Images of each class in train and in val, all different."""
    for number, (name, some) in enumerate(counts.items()):
        for split, count in zip(("train", "val"), some, strict=True):
            (data / split / name).mkdir(parents=True)
            for each in range(count):
                photograph(
                    data / split / name / f"{each}.jpg", 1000 * number + each + (500 if split == "val" else 0), (8, 8)
                )


def test_images_of_val_that_train_has_too_are_counted(tmp_path: Path) -> None:
    class_folders(tmp_path, {"jay": (12, 3), "wren": (12, 3)})
    assert survey(tmp_path).problems == ()
    shutil.copy(tmp_path / "train/jay/5.jpg", tmp_path / "val/jay/again.jpg")
    (problem,) = survey(tmp_path).problems
    assert problem.startswith("1 of the 7 images of val are also in train (again.jpg)")


def test_an_image_of_two_classes_is_reported(tmp_path: Path) -> None:
    class_folders(tmp_path, {"jay": (12, 3), "wren": (12, 3)})
    shutil.copy(tmp_path / "train/jay/5.jpg", tmp_path / "train/jay/twice.jpg")
    assert survey(tmp_path).problems == ()
    shutil.copy(tmp_path / "train/jay/5.jpg", tmp_path / "train/wren/again.jpg")
    (problem,) = survey(tmp_path).problems
    assert problem.startswith(
        "train has images in more than one class (jay/5.jpg and jay/twice.jpg and wren/again.jpg)"
    )


def test_an_image_that_is_listed_with_two_classes_is_reported(tmp_path: Path) -> None:
    class_folders(tmp_path, {"jay": (12, 3), "wren": (12, 3)})
    train = open_classification(tmp_path, "train")
    twice = replace(train, paths=(*train.paths, train.paths[0]), labels=(*train.labels, 1 - train.labels[0]))
    (told,) = told_twice(twice, {})
    assert told.startswith(f"train has images in more than one class ({train.name(0)})")


@pytest.mark.parametrize(("at", "same"), [(None, True), (100, False), (5_000, False), (-1, False)])
def test_only_equal_bytes_are_the_same_image(tmp_path: Path, at: int | None, same: bool) -> None:
    class_folders(tmp_path, {"jay": (1, 0), "wren": (1, 1)})
    first, second = tmp_path / "train/jay/one.bmp", tmp_path / "val/wren/two.bmp"
    photograph(first, 7, (60, 60))
    content = bytearray(first.read_bytes())
    if at is not None:
        content[at] ^= 1
    second.write_bytes(content)
    train, val = (open_classification(tmp_path, split) for split in ("train", "val"))
    repeats = [line for line in told_twice(train, {"val": val}) if "also in train (two.bmp)" in line]
    assert len(repeats) == same


@pytest.mark.parametrize("fault", ["an empty folder in val", "a class of val alone", "a single class"])
def test_commands_that_would_be_refused_are_not_printed(tmp_path: Path, fault: str) -> None:
    class_folders(tmp_path, {"jay": (12, 3), **({} if fault == "a single class" else {"wren": (12, 3)})})
    if fault == "an empty folder in val":
        (tmp_path / "val/crow").mkdir()
    if fault == "a class of val alone":
        photograph(tmp_path / "val/crow/1.jpg", 7, (8, 8))
    found = survey(tmp_path)
    assert found.refused
    assert plan(found).commands == (f"aselect-init {tmp_path}",)
    with pytest.raises(InputError) as refused:
        open_goal("cls", tmp_path, RECIPES["cls"])
    assert str(refused.value).split(":")[0] == found.problems[0].split(":")[0]


def test_a_label_that_is_not_understood_is_named_and_the_others_are_counted(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 1)):
        for number in range(count):
            photograph(tmp_path / split / "images" / f"{number}.png", number)
            mask = np.zeros((HEIGHT, WIDTH), np.uint8)
            mask[:, 32:] = 1
            (tmp_path / split / "masks").mkdir(exist_ok=True)
            cv2.imwrite(str(tmp_path / split / "masks" / f"{number}.png"), mask[: 40 if number == 2 else HEIGHT])
    classes = [{"id": 0, "name": "left"}, {"id": 1, "name": "right"}]
    (tmp_path / "classes.json").write_text(json.dumps({"classes": classes}))
    found = survey(tmp_path)
    assert found.train is not None
    assert [each.images for each in found.train.classes] == [2, 2]
    assert any("2.png: got 40x64, expected the image's 48x64" in problem for problem in found.problems)
    assert plan(found).commands == (f"aselect-init {tmp_path}",)  # training refuses the label


def test_images_without_labels_get_what_needs_none(tmp_path: Path) -> None:
    for number in range(5):
        photograph(tmp_path / f"{number}.jpg", number)
    found = survey(tmp_path)
    assert (found.task, found.images) == (None, 5)
    steps = plan(found)
    assert steps.commands == (f"aselect-select shipped --data {tmp_path} --strategy hfr-signal --out selection.json",)
    assert "LabelMe" in steps.reasons[0]


def test_a_path_with_a_leading_dash_is_no_option() -> None:
    assert shell_word(Path("-cv/a b.png")) == "'./-cv/a b.png'"
    assert shell_word(Path("cv/a.png")) == "cv/a.png"


def test_all_images_are_counted_where_the_labels_are_of_another_task(tmp_path: Path) -> None:
    for split, count in (("train", 3), ("val", 2), ("test", 4)):
        for name in ("cat", "dog"):
            for index in range(count):
                photograph(tmp_path / split / name / f"{index}.png", index)
    assert survey(tmp_path, "seg").images == 18


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder, expected one of images"):
        survey(tmp_path / "none")


@pytest.mark.parametrize("size", [(1080, 1920), (480, 640), (3000, 2000), (64, 64), (20, 500), (9, 9)])
@pytest.mark.parametrize("task", ["seg", "cls"])
def test_the_input_size_has_the_shape_of_the_images_and_fits_the_backbone(size: tuple[int, int], task: str) -> None:
    height, width = input_size([size], task)  # type: ignore[arg-type]
    load_backbone("shipped").grid((height, width))  # refuses what it cannot take
    assert height * width <= max(1.2 * 216 * 288, 32 * 32)
    if min(size) >= 480:
        assert height / width == pytest.approx(size[0] / size[1], rel=0.2)


@pytest.mark.parametrize(("make", "last"), [(with_labelme, "aselect-run"), (with_yolo, "aselect-eval")])
def test_the_commands_that_are_printed_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], last: str
) -> None:
    data = tmp_path / "own images"
    data.mkdir()
    make(data)
    monkeypatch.chdir(tmp_path)
    steps = first_steps(data)
    assert steps.forecast is not None
    assert min(steps.forecast.select_seconds, steps.forecast.feature_seconds, steps.forecast.train_seconds) > 0
    modules = {
        "aselect-select": ("aselect_edge.commands.select", "select", ["--timesteps", "0,100"]),
        "aselect-train": ("aselect_edge.commands.train", "train", ["--samples", "64"]),
        "aselect-eval": ("aselect_export.commands.evaluate", "evaluate", []),
        "aselect-export": ("aselect_export.commands.export", "export", ["--engine", "none"]),
        "aselect-run": ("aselect_runtime.commands.run", "run", ["--device", "cpu"]),
    }
    for line in steps.plan.commands:
        name, *arguments = shlex.split(line)
        module, attribute, quick = modules[name]
        command = getattr(import_module(module), attribute)
        quick = [*quick, "--max-drop", "1"] if "int8" in arguments else quick
        with pytest.raises(SystemExit) as ended:
            command.verb()([*arguments, *quick], prog_name=name)
        assert ended.value.code == 0, line
        if name == last:
            break
    assert (tmp_path / "overlay.png").is_file() == (last == "aselect-run")


def test_the_command_says_it_in_lines_and_as_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with_classes(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # what --threads sets is undone after the test

    def said(*arguments: str) -> str:
        with pytest.raises(SystemExit) as ended:
            init.verb()([str(tmp_path), "--no-estimate", *arguments], prog_name="aselect-init")
        assert ended.value.code == 0
        return capsys.readouterr().out

    text = said()
    assert "classification, layout one folder of classes; read as it is, nothing to convert" in text
    assert f"aselect-train --task cls --backbone shipped --selection selection.json --data {tmp_path}" in text
    assert "--threads" not in text
    lines = [line.strip() for line in said("--threads", "1").splitlines()]
    assert [line.endswith(" --threads 1") for line in lines if line.startswith("aselect-")] == [True] * 4 + [False]
    told = json.loads(said("--json"))
    assert told["found"]["task"] == "cls"
    assert [split["name"] for split in told["found"]["splits"]] == ["train", "val"]
    assert told["plan"]["head"] == "linear"  # 23 images are few


def test_estimates_scale_with_the_work(tmp_path: Path) -> None:
    with_yolo(tmp_path)
    found = first_steps(tmp_path).forecast
    assert found is not None
    # 18 training images of 8 views; 3x4 tokens of 224 float16 values, and a label map of 48x64 bytes to each view.
    row = 3 * 4 * 224 * 2
    assert found.views == 18 * 8
    assert found.cache_bytes == 144 * (row + 48 * 64) + 6 * row

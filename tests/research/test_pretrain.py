"""Pretraining a tiny backbone: it learns, resumes, and diffusers reads what it writes."""

from __future__ import annotations

import inspect
import itertools
import json
import re
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from aselect_edge.backbones import DiT, DiTConfig, load_backbone
from aselect_edge.backbones.dit import initialise
from aselect_edge.training.denoise import Denoising, prediction_error
from aselect_runtime.errors import InputError, IntegrityError
from research import corpus as corpora
from research import pretrain as pretraining
from research.corpus import NO_CLASS, UNLABELLED, Corpus, Source, random_crop
from research.curriculum import RULES, Curriculum, choose
from research.pretrain import SCHEDULE, Recipe, Run, batches, main, pretrain, to_tensor
from research.teaching import Lesson

TINY = DiTConfig(2, 16, 3, num_layers=1, patch_size=8, sample_size=192, num_embeds_ada_norm=5)
LESSON = Lesson(classes=5, map_classes=3, class_block=0, map_block=0)
RECIPE = Recipe(samples=40, window=16, window_batch=4, frame_batch=1, frame_every=4, warmup=2)


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    rng = np.random.default_rng(0)
    pictures = tuple(np.full((60, 80, 3), rng.integers(0, 256, 3), np.uint8) for _ in range(6))
    classless = Source(pictures[:2], np.full(2, NO_CLASS), 0.5, (0.5, 1.0))
    return Corpus((Source(pictures, np.arange(6) % 5, 0.5, (0.5, 1.0)), classless))


def test_a_run_writes_a_backbone_and_goes_on_where_it_stood(corpus: Corpus, tmp_path: Path) -> None:
    out = pretrain(corpus, tmp_path / "run", RECIPE, TINY)
    first = load_backbone(str(out))
    assert first.model.config == TINY
    assert first.schedule.config["prediction_type"] == "v_prediction"
    curve = json.loads((out / "curve.json").read_text())
    assert curve["columns"][:2] == ["samples", "loss"]
    assert [row[0] >= 40 for row in curve["rows"]] == [True]

    stamp = (out / "checkpoint.pt").read_bytes()
    pretrain(corpus, out, RECIPE, TINY)  # the budget is spent: nothing more to do
    assert (out / "checkpoint.pt").read_bytes() == stamp

    pretrain(corpus, out, replace(RECIPE, samples=60), TINY)
    rows = json.loads((out / "curve.json").read_text())["rows"]
    assert rows[0] == curve["rows"][0]
    assert len(rows) == 2
    weights = load_backbone(str(out)).model.state_dict()
    assert not torch.equal(weights["patch_embed.weight"], first.model.state_dict()["patch_embed.weight"])


def test_a_resumed_run_keeps_its_weights(corpus: Corpus, tmp_path: Path) -> None:
    def weights() -> dict[str, torch.Tensor]:
        state: dict[str, torch.Tensor] = torch.load(tmp_path / "checkpoint.pt", weights_only=True)["model"]
        return state

    recipe = replace(RECIPE, samples=8)
    pretrain(corpus, tmp_path, recipe, TINY)
    before = weights()
    assert before["blocks.0.adaln.weight"].any()  # zero in a fresh model
    pretrain(corpus, tmp_path, replace(recipe, samples=12, learning_rate=0.0), TINY)
    for name, value in weights().items():
        torch.testing.assert_close(value, before[name])


def test_a_taught_run_goes_on_and_starts_from_other_weights(corpus: Corpus, tmp_path: Path) -> None:
    start = load_backbone(str(pretrain(corpus, tmp_path / "plain", RECIPE, TINY))).model
    assert isinstance(start, DiT)
    taught = replace(RECIPE, lesson=LESSON, learning_rate=0.0)
    out = pretrain(corpus, tmp_path / "taught", taught, TINY, start)
    for name, value in load_backbone(str(out)).model.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[name])
    pretrain(corpus, out, replace(taught, samples=60), TINY)
    assert len(json.loads((out / "curve.json").read_text())["rows"]) == 2
    with pytest.raises(InputError, match="without labels that teach"):
        pretrain(corpus, tmp_path / "plain", replace(taught, samples=60), TINY)


CURRICULA = [None, Curriculum(7, "hfr", warmup=8, every=16, pictures=2, levels=3)]


@pytest.mark.parametrize("curriculum", CURRICULA, ids=["uniform", "curriculum"])
@pytest.mark.parametrize("lesson", [None, LESSON], ids=["plain", "taught"])
def test_an_interrupted_run_ends_like_one_that_was_not(
    corpus: Corpus,
    tmp_path: Path,
    lesson: Lesson | None,
    curriculum: Curriculum | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pretraining, "SAVE_EVERY", 3)
    recipe = replace(RECIPE, lesson=lesson, curriculum=curriculum)
    pretrain(corpus, tmp_path / "whole", recipe, TINY)
    saves = itertools.count(1)

    class PowerCutError(Exception):
        pass

    def save(run: Run) -> None:
        whole_save(run)
        if next(saves) == 2:
            raise PowerCutError

    whole_save = Run.save
    monkeypatch.setattr(Run, "save", save)
    with pytest.raises(PowerCutError):
        pretrain(corpus, tmp_path / "cut", recipe, TINY)
    pretrain(corpus, tmp_path / "cut", recipe, TINY)
    whole, cut = (torch.load(tmp_path / run / "checkpoint.pt", weights_only=True) for run in ("whole", "cut"))
    assert whole["step"] == cut["step"] > 6
    assert whole.get("chosen") == cut.get("chosen")
    for part in ("model", "average"):
        for name, value in whole[part].items():
            assert torch.equal(value, cut[part][name]), name
    seconds = [row[2] for row in cut["curve"]]
    assert seconds == sorted(seconds)


def test_a_curriculum_begins_after_its_warmup_and_is_chosen_anew(corpus: Corpus, tmp_path: Path) -> None:
    out = pretrain(corpus, tmp_path, replace(RECIPE, samples=44, curriculum=CURRICULA[1]), TINY)
    curve = json.loads((out / "curve.json").read_text())
    assert curve["curriculum"]["by"] == "hfr"
    assert [seen for seen, _ in curve["chosen"]] == [8, 25, 43]  # 13 samples in four steps
    for _, timesteps in curve["chosen"]:
        assert len(set(timesteps)) == 7
        assert timesteps == sorted(timesteps)
    with pytest.raises(InputError, match="give the same curriculum"):
        pretrain(corpus, tmp_path, replace(RECIPE, samples=60), TINY)


@pytest.mark.parametrize("by", RULES)
def test_each_rule_keeps_as_many_timesteps_as_asked_for(by: str, corpus: Corpus) -> None:
    model = DiT(TINY, tied=True)
    initialise(model)
    pictures = corpus.batch(np.random.default_rng(0), 3, (64, 64)).images
    curriculum = Curriculum(11, by, levels=4)  # type: ignore[arg-type]
    chosen = choose(curriculum, model, SCHEDULE, pictures, 0)
    assert chosen == choose(curriculum, model, SCHEDULE, pictures, 0)
    assert len(set(chosen)) == 11
    assert set(chosen) <= set(range(1000))
    if by == "even":
        assert (chosen[0], chosen[-1]) == (0, 999)


def test_hfr_keeps_the_timesteps_of_the_highest_ratio() -> None:
    torch.manual_seed(0)
    model = DiT(TINY, tied=True)
    initialise(model)  # its tokens are its input's, so noise is what high frequencies there are
    flat = np.full((2, 64, 64, 3), 200, np.uint8)
    assert choose(Curriculum(50, "hfr"), model, SCHEDULE, flat, 0) == list(range(950, 1000))


def test_a_curriculum_of_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="got curriculum by 'luck', expected one of") as caught:
        Curriculum(by="luck")  # type: ignore[arg-type]
    assert caught.value.parameters == ("curriculum_by",)
    with pytest.raises(InputError, match="1 or more"):
        Curriculum(0)


def test_noise_is_drawn_from_the_timesteps_asked_for() -> None:
    denoising = Denoising(SCHEDULE, torch.device("cpu"))
    noised = denoising.noised(torch.zeros(200, 3, 8, 8), torch.tensor([3, 700]))
    assert set(noised.timestep.tolist()) == {3, 700}
    assert denoising.noised(torch.zeros(200, 3, 8, 8)).timestep.unique().numel() > 100


def test_a_checkpoint_of_another_shape_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    pretrain(corpus, tmp_path, RECIPE, TINY)
    with pytest.raises(IntegrityError, match="incomplete"):
        pretrain(corpus, tmp_path, RECIPE, replace(TINY, num_layers=2))


def test_the_page_names_options_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    lines = re.findall(r"python -m research\.pretrain(.*)", page.replace("\\\n", " "))
    used = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert len(lines) > 2
    assert used <= {"--" + name.replace("_", "-") for name in inspect.signature(main).parameters}


def test_the_denoising_loss_falls(corpus: Corpus) -> None:
    torch.manual_seed(0)
    model = DiT(TINY, tied=True)
    initialise(model)
    denoising, optimiser = Denoising(SCHEDULE, torch.device("cpu")), torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    windows = batches(corpus, replace(RECIPE, window_batch=32, frame_every=1000), model, 0)
    for batch in itertools.islice(windows, 120):
        loss = prediction_error(model, denoising.noised(batch.x0), batch.told, batch.positions)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-30:]) < 0.9 * np.mean(losses[:10])


def test_a_fresh_model_predicts_zero() -> None:
    model = DiT(TINY, tied=True)
    initialise(model)
    x = torch.randn(2, 3, 16, 24)
    assert not model(x, torch.tensor([3, 900]), torch.tensor([0, 5])).any()


def test_batches_repeat_and_mix_windows_with_frames(corpus: Corpus) -> None:
    model = DiT(TINY, tied=True)
    stream, again = (batches(corpus, RECIPE, model, start) for start in (0, 2))
    seen = [next(stream) for _ in range(4)]
    assert [tuple(batch.x0.shape) for batch in seen] == [(4, 3, 16, 16)] * 3 + [(1, 3, 144, 192)]
    assert [None if b.positions is None else tuple(b.positions.shape) for b in seen] == [(4, 4, 32)] * 3 + [None]
    for ours, theirs in zip(seen[2:], again, strict=False):
        torch.testing.assert_close(ours.x0, theirs.x0)
        torch.testing.assert_close(ours.told, theirs.told)
    told = torch.cat([batch.told for batch in seen])
    assert told.min() >= 0
    assert told.max() <= model.null_label


def test_pictures_become_rgb_from_minus_one_to_one() -> None:
    tensor = to_tensor(np.array([[[[0, 127, 255]]]], np.uint8))
    torch.testing.assert_close(tensor.flatten(), torch.tensor([1.0, 127 / 127.5 - 1, -1.0]))


@settings(max_examples=60, deadline=None)
@given(
    picture=st.tuples(st.integers(1, 60), st.integers(1, 60)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    seed=st.integers(0, 99),
)
def test_a_crop_of_any_picture_has_the_size_asked_for(
    picture: tuple[int, int], size: tuple[int, int], seed: int
) -> None:
    crop = random_crop(np.random.default_rng(seed), picture, size, (0.3, 1.0))
    np.testing.assert_array_equal(crop.picture(np.full((*picture, 3), 7, np.uint8)), np.full((*size, 3), 7, np.uint8))
    np.testing.assert_array_equal(crop.labels(np.full(picture, 7, np.uint8)), np.full(size, 7, np.uint8))


def test_a_corpus_is_read_from_its_training_parts_only(
    street_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streets = corpora._streets
    monkeypatch.setattr(corpora, "_streets", lambda _: streets(1, 1))  # the whole pool takes a while to draw
    shutil.copytree(street_data, tmp_path / "camvid")
    tiny = tmp_path / "tinyimagenet"
    tiny.mkdir()
    (tiny / "classes.txt").write_text("n1\tcat\nn2\tdog\n")
    with tarfile.open(tiny / "train.tar", "w") as archive:
        for name, grey in (("n2/a.png", 20), ("n1/b.png", 10)):
            path = tmp_path / name
            path.parent.mkdir(exist_ok=True)
            cv2.imwrite(str(path), np.full((8, 8, 3), grey, np.uint8))
            archive.add(path, name)
    corpus = Corpus.load(tmp_path)
    assert [len(source.pictures) for source in corpus.sources] == [6, 2, 1]
    greys = [int(picture[0, 0, 0]) for picture in corpus.sources[1].pictures]
    assert dict(zip(greys, corpus.sources[1].labels, strict=True)) == {20: 1, 10: 0}
    images, labels, maps = corpus.batch(np.random.default_rng(0), 12, (16, 16))
    assert (images.shape, labels.shape, maps.shape) == ((12, 16, 16, 3), (12,), (12, 16, 16))
    mapped = (maps != UNLABELLED).any((1, 2))
    assert mapped.any()  # the streets
    assert (labels[mapped] == NO_CLASS).all()


def test_a_folder_without_any_set_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected at least one of them"):
        Corpus.load(tmp_path)

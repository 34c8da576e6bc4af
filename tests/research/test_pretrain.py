"""Pretraining a tiny backbone: it learns, with and without a teacher, resumes, and diffusers reads what it writes."""

from __future__ import annotations

import inspect
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from aselect_edge.backbones import DiT, DiTConfig, load_backbone
from aselect_edge.backbones.dit import initialise
from aselect_edge.training.denoise import Denoising
from aselect_edge.training.efficientnet import Features
from aselect_edge.training.fit import fit
from aselect_runtime.errors import InputError, IntegrityError
from research.alignment import walk
from research.corpus import NO_CLASS, Corpus, Source
from research.curriculum import RULES, Curriculum, choose
from research.pretrain import main
from research.pretrain_recipe import SCHEDULE, PretrainRecipe
from research.pretraining import CHECKPOINT, CURVE, Run, pretrain
from tests import forked

TINY = DiTConfig(2, 16, 3, num_layers=2, patch_size=8, sample_size=64, num_embeds_ada_norm=5)
RECIPE = PretrainRecipe(
    samples=40, batch=4, crop=(32, 32), frame_batch=2, frame=(32, 48), frame_every=4, aligned={1: 1.0}, save_every=0.0
)


class Colours:
    """A teacher whose features are the colours of the patches: a student can learn them."""

    widths = (3, 3, 3)

    def __call__(self, pixels: torch.Tensor) -> Features:
        middle = torch.nn.functional.avg_pool2d(pixels, 16)
        return Features(middle, torch.nn.functional.avg_pool2d(middle, 2), pixels.mean((2, 3)))


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return tiny_corpus()


def tiny_corpus() -> Corpus:
    """Six images of coloured blocks."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 3, 6, 8), generator=generator, dtype=torch.uint8).repeat_interleave(8, 2)
    images = images.repeat_interleave(8, 3)
    classed = Source("classed", images, torch.arange(6) % 5, 0.5, 0.0, (0.5, 1.0))
    streets = Source("streets", images[:2], torch.full((2,), NO_CLASS), 0.5, 1.0, (0.5, 1.0))
    return Corpus((classed, streets))


@pytest.mark.parametrize("teacher", [None, Colours()], ids=["alone", "taught"])
def test_a_run_writes_a_backbone_and_goes_on_where_it_stood(
    corpus: Corpus, tmp_path: Path, teacher: Colours | None
) -> None:
    out = pretrain(corpus, tmp_path / "run", RECIPE, teacher, config=TINY)
    first = load_backbone(str(out))
    assert first.model.config == TINY
    assert first.schedule.config["prediction_type"] == "v_prediction"
    curve = json.loads((out / CURVE).read_text())
    assert curve["columns"] == ["images", "seconds", "denoising", "alignment"]
    assert curve["rows"][-1][0] >= 40
    assert (curve["rows"][-1][3] > 0) == (teacher is not None)
    stamp = (out / CHECKPOINT).read_bytes()
    pretrain(corpus, out, RECIPE, teacher, config=TINY)  # the budget is spent: nothing more to do
    assert (out / CHECKPOINT).read_bytes() == stamp
    pretrain(corpus, out, replace(RECIPE, samples=60), teacher, config=TINY)
    again = json.loads((out / CURVE).read_text())["rows"]
    assert again[: len(curve["rows"])] == curve["rows"]
    weights = load_backbone(str(out)).model.state_dict()
    assert not torch.equal(weights["patch_embed.weight"], first.model.state_dict()["patch_embed.weight"])


@pytest.mark.parametrize("teacher", ["alone", "taught"])
def test_two_processes_pretrain_like_one(tmp_path: Path, free_port: int, teacher: str) -> None:
    """Steps of five crops and of three frames, so that the parts of two processes differ in size."""
    script = ["-m", "tests.research.shared_run", teacher]
    alone = forked.run(*script, tmp_path / "one")
    for done in (alone, *forked.shared([*script, tmp_path / "two"], free_port)):
        assert done.returncode == 0, done.stderr
    one, two = (json.loads((tmp_path / name / CURVE).read_text())["rows"] for name in ("one", "two"))
    figures = [[row[:1] + row[2:] for row in rows] for rows in (one, two)]  # without the seconds
    assert len(one) > 4
    np.testing.assert_allclose(figures[1], figures[0], rtol=1e-3)
    assert sorted(path.name for path in (tmp_path / "one").iterdir()) == sorted(
        path.name for path in (tmp_path / "two").iterdir()
    )


CURRICULUM = Curriculum(7, "hfr", warmup=8, every=16, images=2, levels=3)


@pytest.mark.parametrize("curriculum", [None, CURRICULUM], ids=["uniform", "curriculum"])
@pytest.mark.parametrize("teacher", [None, Colours()], ids=["alone", "taught"])
def test_an_interrupted_run_ends_like_one_that_was_not(
    corpus: Corpus,
    tmp_path: Path,
    teacher: Colours | None,
    curriculum: Curriculum | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = replace(RECIPE, curriculum=curriculum, frame=(64, 96))  # the curriculum's HFR needs a grid of 7 and more
    pretrain(corpus, tmp_path / "whole", recipe, teacher, config=TINY)
    saves = itertools.count(1)

    class PowerCutError(Exception):
        pass

    def save(run: Run) -> None:
        whole_save(run)
        if next(saves) == 4:
            raise PowerCutError

    whole_save = Run.save
    monkeypatch.setattr(Run, "save", save)
    with pytest.raises(PowerCutError):
        pretrain(corpus, tmp_path / "cut", recipe, teacher, config=TINY)
    pretrain(corpus, tmp_path / "cut", recipe, teacher, config=TINY)
    whole, cut = (torch.load(tmp_path / run / CHECKPOINT, weights_only=True) for run in ("whole", "cut"))
    assert whole["step"] == cut["step"] > 6
    assert whole["chosen"] == cut["chosen"]
    for part in ("model", "average"):
        for name, value in whole["parts"][part].items():
            assert torch.equal(value, cut["parts"][part][name]), name


def test_a_run_with_a_teacher_does_not_go_on_without_one(corpus: Corpus, tmp_path: Path) -> None:
    pretrain(corpus, tmp_path, RECIPE, Colours(), config=TINY)
    with pytest.raises(InputError, match="give the same teacher and curriculum"):
        pretrain(corpus, tmp_path, replace(RECIPE, samples=60), config=TINY)
    with pytest.raises(InputError, match="give the same teacher and curriculum"):
        pretrain(corpus, tmp_path, replace(RECIPE, samples=60, curriculum=CURRICULUM), Colours(), config=TINY)


def test_a_run_begins_with_the_weights_it_is_given(corpus: Corpus, tmp_path: Path) -> None:
    start = load_backbone(str(pretrain(corpus, tmp_path / "first", RECIPE, config=TINY))).model
    assert isinstance(start, DiT)
    still = replace(RECIPE, learning_rate=0.0)
    out = pretrain(corpus, tmp_path / "second", still, Colours(), config=TINY, start=start)
    for name, value in load_backbone(str(out)).model.state_dict().items():
        torch.testing.assert_close(value, start.state_dict()[name])


def test_no_time_at_all_leaves_a_checkpoint_that_can_be_gone_on_from(corpus: Corpus, tmp_path: Path) -> None:
    out = pretrain(corpus, tmp_path, replace(RECIPE, seconds=1e-6, samples=10**9), config=TINY)
    assert torch.load(out / CHECKPOINT, weights_only=True)["step"] == 1
    assert load_backbone(str(out)).model.config == TINY


def test_the_student_learns_to_denoise_and_what_the_teacher_says(corpus: Corpus, tmp_path: Path) -> None:
    recipe = replace(RECIPE, samples=3000, batch=16, learning_rate=3e-3, mixed=0.0, save_every=1e9)
    run = Run(tmp_path, recipe, corpus, Colours(), config=TINY)
    before = _losses_on_other_draws(run)
    fit(
        run.optimiser,
        lambda _: run.loss(),
        lambda *_: run.share,
        rate=run.rate,
        after=lambda *_: run.stepped(),
        stop=lambda: run.share >= 0.5,
    )
    denoising, alignment = (_losses_on_other_draws(run) / before).tolist()
    assert denoising < 0.97
    assert alignment < 0.6


@torch.no_grad()
def _losses_on_other_draws(run: Run) -> torch.Tensor:
    """Mean (denoising, alignment) on the same draws at each call, none of which training makes."""
    step, seen, kept = run.step, run.seen, list(run.losses)
    run.losses.clear()
    for run.step in range(10_000, 10_020):
        run.loss()
    mean = torch.stack(run.losses).mean(0)
    run.step, run.seen, run.losses = step, seen, kept
    return mean


def test_the_walk_is_the_models_own_forward_pass() -> None:
    torch.manual_seed(0)
    model = DiT(TINY, tied=True)  # torch's initialisation: nothing is zero
    x, timestep, label = torch.randn(2, 3, 32, 48), torch.tensor([3.0, 700.0]), torch.tensor([1, 5])
    table = model.positions(model.grid(32, 48))
    seen, answer = walk(model, x, timestep, label, table, {1: 1.0}, whole=True)
    assert answer is not None
    torch.testing.assert_close(answer, model(x, timestep, label))
    early, nothing = walk(model, x, timestep, label, table, {1: 1.0}, whole=False)
    assert nothing is None
    assert torch.equal(early[1], seen[1])


def test_a_curriculum_begins_after_its_warmup_and_is_chosen_anew(corpus: Corpus, tmp_path: Path) -> None:
    recipe = replace(RECIPE, samples=44, curriculum=CURRICULUM, frame=(64, 96))
    out = pretrain(corpus, tmp_path, recipe, config=TINY)
    chosen = json.loads((out / CURVE).read_text())["chosen"]
    assert [seen for seen, _ in chosen] == [8, 26, 42]  # 14 images in four steps
    for _, timesteps in chosen:
        assert len(set(timesteps)) == 7
        assert timesteps == sorted(timesteps)


@pytest.mark.parametrize("by", RULES)
def test_each_rule_keeps_as_many_timesteps_as_asked_for(by: str) -> None:
    model = DiT(TINY, tied=True)
    initialise(model)
    images = np.random.default_rng(0).integers(0, 256, (3, 64, 64, 3), np.uint8)
    curriculum = Curriculum(11, by, levels=4)  # type: ignore[arg-type]
    chosen = choose(curriculum, model, SCHEDULE, images, 0)
    assert chosen == choose(curriculum, model, SCHEDULE, images, 0)
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


def test_an_invalid_curriculum_is_refused() -> None:
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
    pretrain(corpus, tmp_path, RECIPE, config=TINY)
    with pytest.raises(IntegrityError, match="incomplete"):
        pretrain(corpus, tmp_path, RECIPE, config=replace(TINY, num_layers=3))


def test_the_page_names_options_that_exist() -> None:
    page = (Path(__file__).parents[2] / "docs" / "pretraining.md").read_text(encoding="utf-8")
    lines = re.findall(r"python -m research\.pretrain(.*)", page.replace("\\\n", " "))
    used = {option for line in lines for option in re.findall(r"--[a-z-]+", line)}
    assert len(lines) > 2
    assert used <= {"--" + name.replace("_", "-") for name in inspect.signature(main).parameters}


def test_a_fresh_model_predicts_zero() -> None:
    model = DiT(TINY, tied=True)
    initialise(model)
    x = torch.randn(2, 3, 16, 24)
    assert not model(x, torch.tensor([3, 900]), torch.tensor([0, 5])).any()

"""Labels beside the denoising loss: what is asked, of whom, and that it teaches."""

from __future__ import annotations

import torch

from aselect_edge.backbones import DiT, DiTConfig
from aselect_edge.backbones.dit import initialise
from aselect_edge.corpus import NO_CLASS, UNLABELLED
from aselect_edge.teaching import Lesson, Teacher

LESSON = Lesson(classes=4, map_classes=3, class_block=1, map_block=1, class_weight=1.0, map_weight=1.0)


def pair() -> tuple[DiT, Teacher]:
    torch.manual_seed(0)
    model = DiT(DiTConfig(2, 16, 3, num_layers=2, patch_size=8, sample_size=32, num_embeds_ada_norm=4), tied=True)
    initialise(model)
    return model, Teacher(model, LESSON)


def loss(teacher: Teacher, label: int, told: int, maps: torch.Tensor, signal: float = 1.0) -> torch.Tensor:
    answer: torch.Tensor = teacher(torch.tensor([label]), torch.tensor([told]), maps, torch.tensor([signal]))
    return answer


def test_a_picture_is_only_asked_for_a_class_that_the_model_was_not_told() -> None:
    model, teacher = pair()
    unknown = torch.full((1, 16, 24), UNLABELLED, dtype=torch.uint8)
    model(torch.randn(1, 3, 16, 24), torch.tensor([5]), torch.tensor([model.null_label]))
    assert loss(teacher, 2, model.null_label, unknown) > 0
    assert loss(teacher, 2, 2, unknown) == 0
    assert loss(teacher, NO_CLASS, model.null_label, unknown) == 0


def test_pure_noise_teaches_nothing() -> None:
    model, teacher = pair()
    model(torch.randn(2, 3, 16, 24), torch.tensor([5, 5]), torch.full((2,), model.null_label))
    maps = torch.zeros(2, 16, 24, dtype=torch.uint8)
    label, told = torch.tensor([1, 1]), torch.full((2,), model.null_label)
    first = teacher(label, told, maps, torch.tensor([1.0, 0.0]))
    maps[1], label[1] = 2, 3
    torch.testing.assert_close(first, teacher(label, told, maps, torch.tensor([1.0, 0.0])))


def test_the_probes_learn_where_each_class_is() -> None:
    model, teacher = pair()
    x = torch.zeros(2, 3, 16, 24)
    x[0, :, :8], x[1, :, :, 8:16] = 1, -1
    maps = torch.zeros(2, 16, 24, dtype=torch.uint8)
    maps[0, :8], maps[1, :, 8:12] = 1, 2  # half of a token's cells, too
    label, told = torch.tensor([0, 3]), torch.full((2,), model.null_label)
    optimiser = torch.optim.AdamW([*model.parameters(), *teacher.parameters()], lr=1e-2)
    for _ in range(120):
        model(x, torch.tensor([5, 5]), told)
        wrong = teacher(label, told, maps, torch.ones(2))
        optimiser.zero_grad()
        wrong.backward()
        optimiser.step()
    assert wrong < 0.1

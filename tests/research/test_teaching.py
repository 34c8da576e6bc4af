"""Labels beside the denoising loss: what is asked, of whom, and that it teaches."""

from __future__ import annotations

import copy

import torch
from torch.nn.functional import one_hot

from aselect_edge.backbones import DiT, DiTConfig
from aselect_edge.backbones.dit import initialise
from research.corpus import NO_CLASS, UNLABELLED
from research.teaching import DETAIL, Lesson, Teacher, _cells, watching

LESSON = Lesson(classes=4, map_classes=3, class_block=1, map_block=1, class_weight=1.0, map_weight=1.0)


def pair() -> tuple[DiT, Teacher]:
    torch.manual_seed(0)
    model = DiT(DiTConfig(2, 16, 3, num_layers=2, patch_size=8, sample_size=32, num_embeds_ada_norm=4), tied=True)
    initialise(model)
    return model, Teacher(model, LESSON)


def loss(
    pair: tuple[DiT, Teacher], label: list[int], told: list[int], maps: torch.Tensor, signal: list[float]
) -> torch.Tensor:
    """Of a pass of pictures (N, 3, 16, 24) that are the same every time."""
    model, teacher = pair
    x = torch.randn(len(label), 3, 16, 24, generator=torch.Generator().manual_seed(0))
    with watching(model, teacher.lesson.blocks) as seen:
        model(x, torch.full((len(label),), 5), torch.full((len(label),), model.null_label))
    answer: torch.Tensor = teacher(seen, torch.tensor(label), torch.tensor(told), maps, torch.tensor(signal))
    return answer


def test_a_picture_is_only_asked_for_a_class_that_the_model_was_not_told() -> None:
    model, teacher = pair()
    unknown = torch.full((1, 16, 24), UNLABELLED, dtype=torch.uint8)
    null = model.null_label
    assert loss((model, teacher), [2], [null], unknown, [1.0]) > 0
    assert loss((model, teacher), [2], [2], unknown, [1.0]) == 0
    assert loss((model, teacher), [NO_CLASS], [null], unknown, [1.0]) == 0


def test_pure_noise_teaches_nothing() -> None:
    both = pair()
    told, signal = [both[0].null_label] * 2, [1.0, 0.0]
    maps = torch.zeros(2, 16, 24, dtype=torch.uint8)
    first = loss(both, [1, 1], told, maps, signal)
    maps[1] = 2
    torch.testing.assert_close(first, loss(both, [1, 3], told, maps, signal))


def test_a_picture_that_is_nearly_noise_teaches_nearly_nothing_even_alone() -> None:
    both = pair()
    maps = torch.zeros(1, 16, 24, dtype=torch.uint8)
    for told in (2, both[0].null_label):  # asked for its class map alone, and for both
        clean, noisy = (loss(both, [2], [told], maps, [signal]) for signal in (1.0, 0.01))
        torch.testing.assert_close(noisy, 0.01 * clean)


def test_nothing_stays_on_a_model_that_was_watched() -> None:
    model, _ = pair()
    x, t, label = torch.randn(1, 3, 16, 24), torch.tensor([5]), torch.tensor([model.null_label])
    with watching(model, (0, 1)) as seen:
        model(x, t, label)
    before = seen[1]
    copy.deepcopy(model)(x + 1, t, label)
    model(x + 1, t, label)
    assert set(seen) == {0, 1}
    assert seen[1] is before


def test_cells_lie_where_their_token_does() -> None:
    rows, columns, patch = 2, 3, 8
    maps = torch.randint(0, 9, (2, rows * DETAIL, columns * DETAIL))
    fine = maps.repeat_interleave(patch // DETAIL, 1).repeat_interleave(patch // DETAIL, 2)
    cells = _cells(fine.byte(), rows * columns)
    patches = one_hot(fine, 9).permute(0, 3, 1, 2).float()
    tokens = torch.nn.functional.unfold(patches, patch, stride=patch)  # (N, classes·patch², T), what a patch holds
    tokens = tokens.unflatten(1, (9, patch, patch)).argmax(1)[:, 1 :: patch // DETAIL, 1 :: patch // DETAIL]
    torch.testing.assert_close(cells, tokens.flatten(1, 2).transpose(1, 2))


def test_the_probes_learn_where_each_class_is() -> None:
    model, teacher = pair()
    x = torch.zeros(2, 3, 16, 24)
    x[0, :, :8], x[1, :, :, 8:16] = 1, -1
    maps = torch.zeros(2, 16, 24, dtype=torch.uint8)
    maps[0, :8], maps[1, :, 8:12] = 1, 2  # half of a token's cells, too
    label, told = torch.tensor([0, 3]), torch.full((2,), model.null_label)
    optimiser = torch.optim.AdamW([*model.parameters(), *teacher.parameters()], lr=1e-2)
    for _ in range(120):
        with watching(model, teacher.lesson.blocks) as seen:
            model(x, torch.tensor([5, 5]), told)
        wrong = teacher(seen, label, told, maps, torch.ones(2))
        optimiser.zero_grad()
        wrong.backward()
        optimiser.step()
    assert wrong < 0.1

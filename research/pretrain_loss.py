"""The loss of pretraining: v prediction and, with a teacher, alignment (REPA, arXiv 2410.06940).

With a teacher, each step draws images once, computes the teacher's features once, and uses them for both halves of the
student's batch: one half is nearly clean, only aligned, and stopped after the deepest aligned block, as in deployment;
the other is at any noise level, denoised by all blocks, and aligned in proportion to the signal left in the image.
Without a teacher there is only the second half.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aselect_edge.backbones import DiT
from aselect_edge.backbones.device import reduced
from aselect_edge.team import Team
from aselect_edge.training.denoise import Denoising, Noised
from aselect_edge.training.efficientnet import Features
from aselect_edge.training.sharing import part_of
from research.alignment import Alignment, Standardise, walk
from research.corpus import NO_CLASS, Corpus
from research.pretrain_recipe import SCHEDULE, PretrainRecipe
from research.teacher import Teacher


class Objective:
    """The losses of a student, and the projectors that are learnt with it."""

    def __init__(
        self, model: DiT, recipe: PretrainRecipe, teacher: Teacher | None, device: torch.device, team: Team
    ) -> None:
        """The student is on the device; the projectors are drawn from torch's generator."""
        self.model, self.recipe, self.teacher, self.device, self.team = model, recipe, teacher, device, team
        self.denoising = Denoising(SCHEDULE, device)
        self.tables = {size: model.positions(model.grid(*size)).to(device) for size in (recipe.crop, recipe.frame)}
        if teacher is not None:
            self.alignment = Alignment(model.width, teacher.widths, recipe.aligned).to(device)
            self.standardise = Standardise(teacher.widths).to(device)

    def parts(self) -> dict[str, nn.Module]:
        """What a checkpoint holds of it; empty without a teacher."""
        return {} if self.teacher is None else {"alignment": self.alignment, "standardise": self.standardise}

    def learnt(self) -> list[nn.Parameter]:
        """The parameters of the student and of the projectors."""
        return [*self.model.parameters(), *(self.alignment.parameters() if self.teacher else ())]

    def measure(self, corpus: Corpus) -> None:
        """Measure the mean and the deviation of the teacher's features on images of the corpus."""
        if self.teacher is None:
            return
        generator = torch.Generator(self.device).manual_seed(self.recipe.seed)
        count = min(self.recipe.batch, 256)
        batches = [corpus.batch(generator, count, self.recipe.crop, False).pixels for _ in range(8)]
        self.standardise.measure([self._asked(pixels) for pixels in batches])

    def losses(
        self, pixels: Tensor, labels: Tensor, size: tuple[int, int], timesteps: Sequence[int] | None = None
    ) -> Tensor:
        """(denoising, alignment), weighted, of this process's part of the batch; the mean over the team is the batch's.

        Pixels (N, 3, H, W) RGB 0..255 of `size` (H, W); labels (N,), NO_CLASS for none; `timesteps` are those to
        denoise at, None for all.
        Noise and labels are drawn for the whole batch, so that they do not depend on the number of processes.
        """
        recipe, model = self.recipe, self.model
        targets = None if self.teacher is None else self._targets(part_of(self.team, pixels))
        x0 = pixels / 127.5 - 1
        null = torch.full_like(labels, model.null_label)
        grid, table = model.grid(*size), self.tables[size]
        dropped = torch.rand(len(x0), device=self.device) < recipe.label_dropout
        label = torch.where(dropped | (labels == NO_CLASS), null, labels)
        zero = x0.new_zeros(())
        with reduced(self.device):
            steps = None if timesteps is None else torch.tensor(timesteps, device=self.device)
            whole = self.denoising.noised(x0, steps)
            noised = Noised(*(part_of(self.team, rows) for rows in whole))
            times = self.team.size * len(noised.x) / len(x0)
            near = torch.randint(recipe.clean_steps, (len(x0),), device=self.device) if targets is not None else None
            label, null = part_of(self.team, label), part_of(self.team, null)
            seen, answer = walk(model, noised.x, noised.timestep, label, table, recipe.aligned, whole=True)
            assert answer is not None
            generative = times * recipe.denoising * F.mse_loss(answer.float(), noised.target)
            if near is None:
                return torch.stack([generative, zero])
            clean = Noised(*(part_of(self.team, rows) for rows in self.denoising.noised(x0, near)))
            clear, _ = walk(model, clean.x, clean.timestep, null, table, recipe.aligned, whole=False)
        aligned = self.alignment(clear, targets, grid, times * torch.ones_like(noised.signal) / len(noised.signal))
        weight = whole.signal * self.team.size / whole.signal.sum().clamp(min=1e-6)
        noisy = self.alignment(seen, targets, grid, part_of(self.team, weight))
        return torch.stack([generative, aligned + recipe.noisy_alignment * noisy])

    def _targets(self, pixels: Tensor) -> Features:
        """The teacher's features, standardised."""
        targets: Features = self.standardise(self._asked(pixels))
        return targets

    @torch.no_grad()
    def _asked(self, pixels: Tensor) -> Features:
        assert self.teacher is not None
        with reduced(self.device):
            return self.teacher(pixels.to(memory_format=torch.channels_last))

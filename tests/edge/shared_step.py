"""The gradients of one training step, alone or under torchrun.

python -m tests.edge.shared_step OUT DATA UNFREEZE STEP
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from aselect_edge.backbones import DiT, DiTConfig
from aselect_edge.backbones.device import CPU
from aselect_edge.backbones.noise import DIT_SCHEDULE
from aselect_edge.bundle.model import TapModel
from aselect_edge.heads import build_head, taps_for
from aselect_edge.team import assemble
from aselect_edge.training.finetune import Unfreeze, noising_of
from aselect_edge.training.goal import open_goal
from aselect_edge.training.learners import ModelLearner
from aselect_edge.training.recipe import Recipe
from aselect_edge.training.sharing import average_gradients
from aselect_runtime.records import HeadSpec, Noise, Resize, Tap


def main() -> None:
    """Write the gradient of every weight, averaged over the processes; five frames and three windows."""
    out, data, what, step = sys.argv[1:]
    torch.manual_seed(0)
    model = DiT(DiTConfig(2, 16, 3, num_layers=3, patch_size=4, sample_size=16, num_embeds_ada_norm=3), tied=True)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15)
    spec, recipe = HeadSpec(kind="edge", channels=16), Recipe(batch=5, denoising_windows=3, window=16)
    goal = open_goal("seg", Path(data), recipe)
    taps = taps_for(spec, (Tap.parse("1.query"),))
    head = build_head(spec, "seg", [model.width] * len(taps), len(goal.train.classes))
    whole = TapModel(model, head, Noise(alpha=0.99, sigma=0.14, model_timestep=50.0), taps, (32, 48), 0)
    with assemble() as team:
        noising = noising_of(model, DIT_SCHEDULE)
        learner = ModelLearner(
            whole, goal, Resize(), recipe, what=Unfreeze.parse(what), noising=noising, device=CPU, team=team
        )
        whole.train()
        torch.manual_seed(7)
        loss, _ = learner.losses(int(step), np.random.default_rng(7))
        loss.backward()
        average_gradients(team, [each for group in learner.groups for each in group["params"]])
        if team.leads:
            save_file({n: p.grad.clone() for n, p in whole.named_parameters() if p.grad is not None}, out)


if __name__ == "__main__":
    main()

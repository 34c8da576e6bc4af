"""The small DiT that is pretrained, its noise schedule, and the recipe."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from aselect_edge.backbones import DiTConfig
from research.curriculum import Curriculum

CONFIG = DiTConfig(
    num_attention_heads=7,
    attention_head_dim=32,
    in_channels=3,
    num_layers=8,
    sample_size=224,
    patch_size=16,
    num_embeds_ada_norm=200,
)
"""7.8 million parameters; 15.6 MB in float16."""
SCHEDULE: dict[str, Any] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.0001,
    "beta_end": 0.02,
    "beta_schedule": "squaredcos_cap_v2",
    "prediction_type": "v_prediction",
}


@dataclass(frozen=True)
class PretrainRecipe:
    """Budget, batches and optimiser; the run ends at `samples` images or `seconds`, whichever comes first."""

    samples: int = 10**9
    seconds: float = math.inf
    batch: int = 512
    crop: tuple[int, int] = (224, 224)
    frame_batch: int = 256
    frame: tuple[int, int] = (288, 384)
    frame_every: int = 5
    clean_steps: int = 60
    """The nearly clean half is at a timestep below this one."""
    aligned: dict[int, float] = field(default_factory=lambda: {4: 0.5, 6: 1.0})
    """Block whose input is aligned -> weight."""
    denoising: float = 1.0
    noisy_alignment: float = 0.5
    mixed: float = 0.25
    label_dropout: float = 0.5
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.03
    """Share of the budget for warm-up to the full learning rate."""
    ema: float = 0.999
    compiled: bool = False
    save_every: float = 60.0
    """Seconds from one checkpoint to the next."""
    curriculum: Curriculum | None = None
    """The timesteps to train on; None is all of them, uniformly."""
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """As JSON, which cannot represent infinity."""
        return {key: None if value == math.inf else value for key, value in asdict(self).items()}

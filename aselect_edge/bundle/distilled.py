"""A model whose tokens come from a distilled stem: as the reference of parity, as it is deployed, and as a file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from aselect_edge.bundle.model import FoldedTapModel, TapModel
from aselect_edge.fold import Stem, detached_embedding
from aselect_runtime.errors import IntegrityError
from aselect_runtime.records import StemSpec


class DistilledTapModel(TapModel):
    """An unfolded `TapModel` with a stem in place of the autoencoder and the patch embedding.

    The stem computes the image's part of the patch embedding's output. The other part, from noise, shift and bias, is
    computed by the backbone itself.
    """

    def __init__(self, full: TapModel, stem: Stem) -> None:
        """Takes the head, the backbone and all settings of `full`; raises ValueError for a stem of another stride or
        width."""
        draws = len(full.eps)
        fixed = (full.noise, full.taps, full.imgsz, full.noise_seed, full.encoder, full.condition, draws)
        super().__init__(full.backbone, full.head, *fixed)
        self.discard = full.discard
        expected = token_shape(full)
        if (stem.spec.stride, stem.spec.outputs) != expected:
            raise ValueError(
                f"got a stem of stride {stem.spec.stride} and {stem.spec.outputs} channels, expected {expected[0]} "
                f"and {expected[1]}"
            )
        self.stem = stem

    def features(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """One map (N, rows, columns, D) per tap, the mean over the draws of the noise."""
        seen: Tensor = self.stem(pixels).repeat_interleave(len(self.eps), 0)
        without_image = self.encoder.affine.columns()[1].to(pixels).expand(len(pixels), *self.eps.shape[1:])

        def add(_module: nn.Module, _inputs: tuple[Tensor, ...], tokens: Tensor) -> Tensor:
            return tokens + seen

        hook = self.backbone.embedding.register_forward_hook(add)
        try:
            return self.features_of(without_image)
        finally:
            hook.remove()

    def deployed(self) -> FoldedTapModel:
        """The same function, folded and truncated, the stem's norms in its convolutions; eval mode, float32."""
        full = super().deployed()
        detached_embedding(full.backbone)
        full.encoder = self.stem.deployed()
        return full


def token_shape(model: TapModel) -> tuple[int, int]:
    """Pixels per token along a side, and the channels of a token."""
    return model.imgsz[0] // model.grid[0], model.backbone.width


def distilled_state(stem: Stem, head: nn.Module) -> dict[str, Tensor]:
    """The tensors of a distilled encoder's file: the stem, and the head that was trained on its features."""
    parts = {"stem": stem, "head": head}
    return {f"{part}.{name}": value for part, each in parts.items() for name, value in each.state_dict().items()}


def with_distilled(full: TapModel, spec: StemSpec, path: Path) -> DistilledTapModel:
    """The model with the stem and the head of a file; raises IntegrityError if they belong to another model."""
    stem = Stem(spec)
    try:
        state = {name: value.float() if value.is_floating_point() else value for name, value in load_file(path).items()}
        nn.Module.load_state_dict(stem, _part(state, "stem"))
        nn.Module.load_state_dict(full.head, _part(state, "head"))
        return DistilledTapModel(full, stem)
    except (SafetensorError, OSError, RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise IntegrityError(
            f"{path}: not this model's distilled encoder ({reason}), expected what bundle.json says; distil again"
        ) from error


def _part(state: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    return {key.removeprefix(f"{name}."): value for key, value in state.items() if key.startswith(f"{name}.")}

"""The fold: with noise level, noise and condition fixed, the conditioning path is constant and removed, exactly.

    folded = fold(model, FoldSpec.of(model, noise, taps, (24, 32)))

One module per family holds the remaining blocks, `algebra` the identities that all of them use.
"""

from aselect_edge.fold.encoders import deployed_encoder
from aselect_edge.fold.folding import fold
from aselect_edge.fold.fusing import fused
from aselect_edge.fold.spec import Folded, FoldSpec, fixed_noise
from aselect_edge.fold.stem import Stem, detached_embedding, encoder_cost

__all__ = [
    "FoldSpec",
    "Folded",
    "Stem",
    "deployed_encoder",
    "detached_embedding",
    "encoder_cost",
    "fixed_noise",
    "fold",
    "fused",
]

"""The fold: with noise level, noise and condition fixed, the conditioning path is constant and removed, exactly.

    folded = fold(model, FoldSpec.of(model, noise, taps, (24, 32)))

One module per family holds the remaining blocks, `algebra` the identities that all of them use.
"""

from aselect_edge.fold.encoders import deployed_encoder
from aselect_edge.fold.folding import fold
from aselect_edge.fold.spec import Folded, FoldSpec, fixed_noise

__all__ = ["FoldSpec", "Folded", "deployed_encoder", "fixed_noise", "fold"]

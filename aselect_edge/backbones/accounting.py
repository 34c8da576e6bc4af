"""Every tensor of a checkpoint is used, or known not to matter; a file with any other is refused, and says which.

A tensor that is left out silently makes another model: the features look right and are not.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from aselect_edge.backbones.store import Stored, WeightStore
from aselect_runtime.errors import InputError

_MEANINGS = (
    (r"lora_|\.base_layer\.|lokr_|loha_|\.alpha$|dora_scale", "adapters that are not merged into the weights"),
    (r"[qk]_norm|norm_(added_)?[qk]\.|\.ln_[qk]\.|q_ln|k_ln", "normalised queries and keys (qk-norm)"),
    (r"rope|freqs_(cos|sin)|rotary", "rotary positions (RoPE)"),
    (r"\.mlp\.(w\d+|gate|up|down)|swiglu", "a gated MLP (SwiGLU)"),
    (r"\.norm\d?(_\w+)?\.(weight|bias)$|rms_?norm", "norms with weights (RMSNorm or an affine LayerNorm)"),
    (r"^bn\.", "statistics that normalise the latents (REPA-E)"),
    (r"^decoder_blocks\.|^dec_|^dec\.|mask_token|sideblock", "a decoder of its own"),
    (r"^r_embedder\.", "a second time (MeanFlow)"),
    (r"\.attn2\.|attn_2", "a second attention"),
    (r"(resolution|aspect_ratio|csize|ar)_embedder", "a model that is told the size of the image"),
    (r"\.sr\.|\.sr_norm", "compressed keys and values"),
    (r"experts|router|\.moe\.", "a mixture of experts"),
    (r"cls_token|cls_embed|register_token|in_context", "tokens besides those of the image"),
    (
        r"^blocks\.\d+\.|^transformer_blocks\.\d+\.|^joint_blocks\.\d+\.",
        "other blocks than config.json or the layout says",
    ),
)
"""What names stand for, where that is known."""


LONGEST = 120
"""Characters of a tensor's name in a message."""


@dataclass(frozen=True)
class Layout:
    """How the tensors of a file become a model, and which names the file may have."""

    places: Mapping[str, Stored]
    """Name in the model, which may be cut -> place in the file."""
    known: frozenset[str]
    """Every name that the whole model uses, also those beyond the cut."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that no tap depends on: the output layer, heads for training alone."""
    tables: Mapping[str, Tensor] = field(default_factory=dict)
    """Tables that are computed, not read, by their name in the file: there they may be, but of these values."""


def check_layout(store: WeightStore, layout: Layout, what: str) -> None:
    """Raises InputError that begins with `what` for a tensor that is not understood, or a table of other values."""
    pattern = re.compile("|".join(f"(?:{part})" for part in layout.ignored)) if layout.ignored else None
    unknown = [
        name
        for name in sorted(store.held)
        if name not in layout.known and name not in layout.tables and not (pattern and pattern.match(name))
    ]
    if unknown:
        more = f" and {len(unknown) - 3} more" if len(unknown) > 3 else ""
        raise InputError(
            f"{what}: got tensors that are not understood: {', '.join(map(short, unknown[:3]))}{more}"
            f"{meaning_of(unknown)}, expected none besides "
            "those of the plain model; this variant is not supported, choose another checkpoint"
        )
    for name, table in layout.tables.items():
        if name in store.held and not _same(store.tensor(name), table):
            raise InputError(
                f"{what}: got a {name} of other values than the sine-cosine table of its grid, expected that table; "
                "trained positions are not supported, choose another checkpoint"
            )


def short(name: str) -> str:
    """A tensor's name as a message shows it: whoever wrote the file may have made it as long as the file."""
    return name if len(name) <= LONGEST else f"{name[:LONGEST]}…"


def _same(stored: Tensor, table: Tensor) -> bool:
    """Whether a stored table is the computed one, whatever precision it went through."""
    if stored.numel() != table.numel():
        return False
    flat = stored.flatten()
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    return any((flat - table.flatten().to(kind).float()).abs().max() < 1e-4 for kind in kinds)


def meaning_of(names: Iterable[str]) -> str:
    """What the names stand for, where that is known, in brackets; else nothing."""
    joined = list(names)
    meant = [meaning for pattern, meaning in _MEANINGS if any(re.search(pattern, name) for name in joined)]
    return f" ({'; '.join(meant[:3])})" if meant else ""

"""Check that every tensor of a checkpoint is used or known to be irrelevant; any other tensor is refused by name.

Ignoring an unknown tensor would silently load a different model: its features look plausible and are wrong.
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
    (r"^s_embedder\.", "an encoder of its own for the condition (DDT)"),
    (r"^bn\.", "statistics that normalise the latents (REPA-E)"),
    (r"^decoder_blocks\.|^dec_|^dec\.|mask_token|sideblock", "a separate decoder"),
    (r"^r_embedder\.", "a second time input (MeanFlow)"),
    (r"\.attn2\.|attn_2", "a second attention layer"),
    (r"(resolution|aspect_ratio|csize|ar)_embedder", "an embedding of the image size"),
    (r"\.sr\.|\.sr_norm", "compressed keys and values"),
    (r"experts|router|\.moe\.", "a mixture of experts"),
    (
        r"cls_token|cls_embed|cls_proj|wg_norm|register_token|in_context",
        "tokens in addition to the image tokens (as in REG)",
    ),
    (
        r"^blocks\.\d+\.|^transformer_blocks\.\d+\.|^joint_blocks\.\d+\.",
        "blocks that config.json or the layout does not describe",
    ),
)
"""Known meanings of tensor names, as (pattern, description)."""


LONGEST = 120
"""Characters of a tensor's name in a message."""


@dataclass(frozen=True)
class Layout:
    """How the tensors of a file map to a model, and which names the file may contain."""

    places: Mapping[str, Stored]
    """Name in the model, which may be truncated -> location in the file."""
    known: frozenset[str]
    """Every name that the complete model uses, also those beyond the truncation."""
    ignored: tuple[str, ...] = ()
    """Patterns of names that no tap depends on: the output layer, heads used only in training."""
    tables: Mapping[str, Tensor] = field(default_factory=dict)
    """Tables that are computed instead of read, by their name in the file: a file may hold them with these values."""


def check_layout(store: WeightStore, layout: Layout, what: str) -> None:
    """Raise InputError, its message starting with `what`, for an unknown tensor or a table of other values."""
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
            f"{meaning_of(unknown)}, expected only "
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
    """Whether a stored table equals the computed one, allowing for the precision in which it was saved."""
    if stored.numel() != table.numel():
        return False
    flat = stored.flatten()
    kinds = (torch.float32, torch.float16, torch.bfloat16)
    return any((flat - table.flatten().to(kind).float()).abs().max() < 1e-4 for kind in kinds)


def meaning_of(names: Iterable[str]) -> str:
    """The known meanings of the names, in brackets; an empty string if none is known."""
    joined = list(names)
    meant = [meaning for pattern, meaning in _MEANINGS if any(re.search(pattern, name) for name in joined)]
    return f" ({'; '.join(meant[:3])})" if meant else ""

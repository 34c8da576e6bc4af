"""Digests of a backbone's contents: caches, bundles and selections refer to these, not to the path it came from.

Digests cover the float32 values that a model computes with, so that a checkpoint keeps its digest when it is moved,
converted or split into shards.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

from aselect_edge.backbones.building import build
from aselect_edge.backbones.family import Backbone, Condition, Encoder, Pixels
from aselect_runtime.errors import IntegrityError
from aselect_runtime.records import BackboneSource

log = logging.getLogger(__name__)

SINCE = "bundle/1.3"
"""The first bundle version that holds digests of the parts that are stored outside the bundle."""


def tensors_digest(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """SHA-256 over named tensors in any order: their names, shapes and values in float32."""
    parts = {}
    for name, tensor in tensors:
        values = tensor.detach().cpu().float().contiguous().reshape(-1).numpy()
        parts[name] = [list(tensor.shape), hashlib.sha256(values.data).hexdigest()]
    return _sha256(parts)


def weights_digest(model: Backbone, depth: int | None = None) -> str:
    """SHA-256 of a model's parameters, or of those of its first `depth` blocks and the layers before them.

    The blocks of a lean model are read from the disk, tensor by tensor.
    """
    return tensors_digest(_weights(model, depth))


def encoder_digest(encoder: Encoder) -> str:
    """SHA-256 of an encoder: weights, configuration and scale."""
    affine = encoder.affine
    scale = [encoder.stride, affine.gain, affine.offset, affine.reverse]
    config = _decisive(getattr(encoder, "config", {}))
    return _sha256([type(encoder).__name__, config, scale, tensors_digest(encoder.state_dict().items())])


def backbone_digest(
    model: Backbone, encoder: Encoder, condition: Condition | None = None, depth: int | None = None
) -> str:
    """SHA-256 of everything that decides features except noise and frames; `depth` limits it to so many blocks.

    Includes family, configuration (heads, eps and sizes are in no tensor), weights, encoder and, if given, condition.
    """
    parts = [model.family, _decisive(model.to_json()), weights_digest(model, depth), encoder_digest(encoder)]
    return _sha256([*parts, tensors_digest((condition or {}).items())])


def check_weights(model: Backbone, source: BackboneSource, depth: int) -> None:
    """Raise IntegrityError if a backbone stored outside its bundle is not the one that the bundle was trained on."""
    if source.weights_sha256 is None:
        log.warning(
            "%s: the bundle is older than %s and holds no digest of its backbone; train it again if the "
            "backbone has changed since",
            source.source,
            SINCE,
        )
        return
    now, then = _decisive(model.to_json()), _decisive(source.config)
    changed = [key for key in sorted(now.keys() & then.keys()) if now[key] != then[key]]
    if changed:
        key = changed[0]
        raise _changed(source.source, f"{key} = {now[key]!r}", repr(then[key]), "backbone's configuration")
    digest = weights_digest(model, depth)
    if digest != source.weights_sha256:
        raise _changed(source.source, f"weights {digest[:12]}…", f"{source.weights_sha256[:12]}…", "backbone")


def check_encoder(encoder: Encoder, source: BackboneSource) -> None:
    """Raise IntegrityError if an autoencoder is not the one that the bundle was trained with."""
    if isinstance(encoder, Pixels):
        return
    place, expected = source.vae or source.source, source.vae_sha256
    if expected is None:
        log.warning(
            "%s: the bundle is older than %s and holds no digest of its autoencoder; train it again if the "
            "autoencoder has changed since",
            place,
            SINCE,
        )
        return
    digest = encoder_digest(encoder)
    if digest != expected:
        raise _changed(place, f"weights and scale {digest[:12]}…", f"{expected[:12]}…", "autoencoder")


def _changed(place: str, got: str, expected: str, what: str) -> IntegrityError:
    return IntegrityError(
        f"{place}: got {got}, expected {expected}: the {what} has changed since the bundle was trained on it; "
        "restore it or train again"
    )


def _weights(model: Backbone, depth: int | None) -> Iterator[tuple[str, Tensor]]:
    names = (model if depth is None else build(type(model), model.to_json(), depth)).keys()
    state = {name: value for name, value in model.state_dict().items() if name in names}
    on_disk = [name for name, value in state.items() if value.is_meta]
    yield from ((name, value) for name, value in state.items() if not value.is_meta)
    if model.store is not None:
        yield from model.store.read(on_disk)


def _decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as JSON values, without diffusers' private fields."""
    found: dict[str, Any] = json.loads(json.dumps({k: v for k, v in config.items() if not k.startswith("_")}))
    return found


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()

"""Base of the families that wrap diffusers' own class: its first blocks, and components read through hooks."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

from torch import Tensor, nn

from aselect_edge.backbones.family import Backbone, Condition
from aselect_edge.backbones.inputs import patch_grid
from aselect_edge.backbones.limits import COUNT, DEPTH, is_count
from aselect_runtime.errors import InputError


class Wrapped(Backbone):
    """A family whose reference *is* diffusers' class: `model`, truncated to its first blocks, without output layer.

    The kept blocks are built as in the whole model, so that truncation does not turn one into a "last" block.
    """

    trunk: ClassVar[str] = "transformer_blocks"
    """diffusers' name of the list of blocks."""
    output: ClassVar[tuple[str, ...]] = ("norm_out", "proj_out")
    """diffusers' names of what comes after the blocks."""
    streamed: ClassVar[tuple[str, ...]] = ("model.transformer_blocks.",)
    prompted: ClassVar[bool] = True
    unread: ClassVar[tuple[str, ...]] = (r"norm_out\.", r"proj_out\.")

    def __init__(self, kind: Any, config: Mapping[str, Any], depth: int | None) -> None:
        super().__init__()
        self.config = dict(config)
        known = inspect.signature(kind).parameters
        try:
            self.model = kind(**{key: value for key, value in config.items() if key in known})
        except (TypeError, ValueError, ArithmeticError, RuntimeError, NotImplementedError) as error:
            raise InputError(
                f"{kind.__name__} config: not understood ({error}), expected a configuration written by diffusers; "
                f"check config.json"
            ) from error
        setattr(self.model, self.trunk, self.blocks[:depth])
        for name in self.output:
            delattr(self.model, name)

    def to_json(self) -> dict[str, Any]:
        return dict(self.config)

    def keys(self) -> dict[str, str]:
        return {name: name.removeprefix("model.") for name in self.state_dict()}

    @property
    def blocks(self) -> nn.ModuleList:
        """diffusers' blocks, up to the cut."""
        return getattr(self.model, self.trunk)

    @property
    def embedding(self) -> nn.Module:
        return self.model.pos_embed.proj

    @property
    def depth(self) -> int:
        return len(self.blocks)

    @property
    def width(self) -> int:
        return int(self.model.inner_dim)

    @property
    def channels(self) -> int:
        return int(self.model.config.in_channels)

    @property
    def side(self) -> int:
        return int(self.model.config.sample_size)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return patch_grid(self.model.config.patch_size, height, width)

    def check(self, condition: Condition, shapes: Mapping[str, tuple[int | None, ...]]) -> None:
        """Raise InputError for a condition that lacks one of the tensors, or has one of another shape.

        `shapes` are of one image, with None for any size; a condition of a batch, as in `features`, is accepted.
        """
        for name, shape in shapes.items():
            got = tuple(condition[name].shape) if name in condition else None
            fits = got is not None and len(got) == len(shape)
            if not fits or any(want not in (None, have) for want, have in zip(shape[1:], (got or ())[1:], strict=True)):
                expected = "x".join("any" if size is None else str(size) for size in shape)
                raise InputError(
                    f"condition: got {'no tensor' if got is None else 'x'.join(map(str, got))} {name}, "
                    f"expected {expected} for this {self.family} model; compute it with the model's own text encoders"
                )


def check_config(
    kind: str, config: Mapping[str, Any], counts: Iterable[str], allowed: Mapping[str, tuple[Any, ...]]
) -> None:
    """Raise InputError if a given `counts` key is not a positive integer, or an `allowed` key has another value."""
    for key in counts:
        most = DEPTH if key in ("num_layers", "depth") else COUNT
        if not is_count(config.get(key, 1), most):
            raise InputError(f"{kind} config: got {key} = {config[key]!r}, expected 1 to {most}; check config.json")
    for key, values in allowed.items():
        if key in config and config[key] not in values:
            raise InputError(
                f"{kind} config: got {key} = {config[key]!r}, expected {' or '.join(map(repr, values))}; "
                "this variant is not supported"
            )


@contextmanager
def watched(**modules: nn.Module) -> Iterator[dict[str, tuple[tuple[Any, ...], Any]]]:
    """Yield (positional arguments, result) of each module's last call, by its name here; hooks are removed after it."""
    seen: dict[str, tuple[tuple[Any, ...], Any]] = {}

    def keep(name: str) -> Any:
        def hook(_module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> None:
            seen[name] = (arguments, result)

        return hook

    hooks = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()

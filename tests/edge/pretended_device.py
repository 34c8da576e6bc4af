"""A device of its own in torch, `pretended`, that computes on the CPU: it finds tensors that were left behind.

As on CUDA, an operation whose tensors are on two devices is an error, save for CPU tensors without dimensions, and
only `.to`, `.cpu()` and copies cross over. Registering it changes the process, so tests run it in one of their own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME = "pretended"
_CROSSING = {torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default, torch.ops.aten._local_scalar_dense.default}
_CPU = torch.device("cpu")
_KEPT: list[torch.library.Library] = []
"""A library that is let go takes its registrations back."""


class Pretended(Tensor):
    """A tensor on the device; its values lie in `held`, on the CPU."""

    held: Tensor

    @staticmethod
    def __new__(cls, values: Tensor) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=values.dtype,
            device=torch.device(NAME, 0),
            requires_grad=False,
        )
        made.held = values
        return made

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        return dispatched(func, args, dict(kwargs or {}))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what it is read back as, a tensor on the CPU."""
        return self.held.__reduce_ex__(protocol)


def dispatched(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Run an operation on the values; raises RuntimeError where devices are mixed."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    strangers = [leaf for leaf in given if not isinstance(leaf, Pretended) and leaf.dim()]
    there = any(isinstance(leaf, Pretended) for leaf in given)
    if strangers and there and func not in _CROSSING:
        raise RuntimeError(f"{func}: tensors on {NAME} and on {strangers[0].device}")
    wanted = kwargs.get("device")
    away = torch.device(wanted).type == NAME if wanted is not None else there
    kwargs = {**kwargs, "device": _CPU} if wanted is not None else kwargs
    result = func(*tree_map(_values, args), **tree_map(_values, kwargs))
    if func is torch.ops.aten._to_copy.default and not away:
        return result.clone() if wanted is not None else result
    known = {id(leaf.held): leaf for leaf in given if isinstance(leaf, Pretended)}

    def wrapped(value: Any) -> Any:
        if not isinstance(value, Tensor) or not away:
            return value
        return known[id(value)] if id(value) in known else Pretended(value)

    if func is torch.ops.aten.copy_.default:
        return args[0]
    return tree_map(wrapped, result)


def _values(value: Any) -> Any:
    return value.held if isinstance(value, Pretended) else value


def register() -> None:
    """Make the device known to torch; once per process, for good."""
    _setup_privateuseone_for_python_backend(NAME)
    _KEPT.append(torch.library.Library("_", "IMPL"))
    _KEPT[0].fallback(lambda func, *args, **kwargs: dispatched(func, args, kwargs), "PrivateUse1")

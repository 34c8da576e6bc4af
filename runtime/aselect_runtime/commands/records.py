"""Options that several commands share, declared once as the fields of a frozen dataclass."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from inspect import Parameter, Signature, signature
from typing import Any, get_type_hints


def option_names(record: type) -> tuple[str, ...]:
    """The parameters that a record of options stands for, in their order."""
    return tuple(field.name for field in fields(record))


def flattened(function: Callable[..., None]) -> Callable[..., None]:
    """A command's function with each parameter that is a dataclass replaced by that dataclass's fields.

    typer sees every field as an option of its own, by its Annotated type and default; `function` gets the record.
    """
    own = signature(function, eval_str=True).parameters.values()
    records: dict[str, Any] = {one.name: one.annotation for one in own if is_dataclass(one.annotation)}
    parameters: list[Parameter] = []
    for one in own:
        if one.name in records:
            kind = records[one.name]
            hints = get_type_hints(kind, include_extras=True)
            parameters += [_parameter(field, hints[field.name]) for field in fields(kind)]
        else:
            parameters.append(one.replace(kind=Parameter.KEYWORD_ONLY))

    @functools.wraps(function)
    def flat(**arguments: Any) -> None:
        for name, kind in records.items():
            arguments[name] = kind(**{option: arguments.pop(option) for option in option_names(kind)})
        function(**arguments)

    described: Any = flat
    described.__signature__ = Signature(parameters)
    described.__annotations__ = {one.name: one.annotation for one in parameters}
    return flat


def _parameter(field: Field[Any], annotation: Any) -> Parameter:
    default = Parameter.empty if field.default is MISSING else field.default
    return Parameter(field.name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)

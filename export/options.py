"""Command-line options from the fields of a dataclass, so that a setting is declared once."""

import argparse
import dataclasses
import types
from collections.abc import Collection
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

Config = TypeVar("Config")


def add_dataclass_options(
    parser: argparse.ArgumentParser, config: type, exclude: Collection[str] = ()
) -> None:
    """Add `--field-name` for every field of the dataclass that has a default."""
    hints = get_type_hints(config)
    for field in dataclasses.fields(config):
        if field.name in exclude or field.default is dataclasses.MISSING:
            continue
        parser.add_argument(
            "--" + field.name.replace("_", "-"),
            default=field.default,
            help=f"default {field.default}",
            **_argument_type(hints[field.name]),
        )


def dataclass_from_options(
    config: type[Config], options: argparse.Namespace, **required: Any
) -> Config:
    """Build the dataclass from parsed options; required fields are given by name."""
    names = {field.name for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    values = {name: value for name, value in vars(options).items() if name in names}
    return config(**{**values, **required})


def _argument_type(hint: Any) -> dict[str, Any]:
    if get_origin(hint) is Literal:
        return {"choices": get_args(hint)}
    if hint is bool:
        return {"action": argparse.BooleanOptionalAction}
    if isinstance(hint, types.UnionType):
        hint = next(kind for kind in get_args(hint) if kind is not type(None))
    return {"type": hint}

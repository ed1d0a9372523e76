"""Configuration to frozen spec, strictly: an unknown or missing key is an error with the nearest name."""

import contextlib
import dataclasses
import hashlib
import json
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from tokjax.core.errors import SpecError, nearest

T = TypeVar("T")


def build(spec_class: type[T], config: Mapping[str, Any], *, where: str = "") -> T:
    """Converts a mapping into the frozen dataclass `spec_class`, recursing into dataclass fields.

    Lists become tuples, ints become floats where the field is a float, and the string 'None' becomes None
    where the field is optional.

    Args:
      spec_class: a dataclass type.
      config: a dict or ConfigDict with exactly the fields of `spec_class` (those with defaults may be absent).
      where: dotted path of `config` in the whole configuration, for messages.

    Raises:
      SpecError: an unknown key, a missing key, or a value of the wrong type.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "items"):
        raise SpecError(f"{where or spec_class.__name__}: expected a group of fields, got {config!r}.")
    hints = typing.get_type_hints(spec_class)
    fields = {f.name: f for f in dataclasses.fields(spec_class) if f.init}  # type: ignore[arg-type]
    values = {}
    for name, value in config.items():
        path = f"{where}.{name}" if where else str(name)
        if name not in fields:
            raise SpecError(f"{path}: {spec_class.__name__} has no such field.{nearest(str(name), fields)}")
        values[name] = _convert(hints[name], value, path)
    for name, field in fields.items():
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if required and name not in values:
            path = f"{where}.{name}" if where else name
            raise SpecError(f"{path}: missing; {spec_class.__name__} needs it.")
    return spec_class(**values)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if type(None) in args and (value is None or value == "None"):
            return None
        options = [a for a in args if a is not type(None)]
        if len(options) == 1:
            return _convert(options[0], value, path)
        return value
    if origin is typing.Literal:
        if value not in args or type(value) not in map(type, args):  # 8.0 is equal to 8, and no token width
            raise SpecError(f"{path}: got {value!r}, expected one of {', '.join(map(repr, args))}.")
        return value
    if dataclasses.is_dataclass(hint) and not isinstance(value, hint):  # type: ignore[arg-type]
        return build(hint, value, where=path)  # type: ignore[arg-type]
    if origin is tuple:
        if isinstance(value, str) or not hasattr(value, "__iter__"):
            raise SpecError(f"{path}: got {value!r}, expected a list.")
        return tuple(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint in (int, float, bool, str) and (type(value) is not hint):
        raise SpecError(f"{path}: got {value!r} ({type(value).__name__}), expected {hint.__name__}.")
    return value


def read_value(text: str) -> Any:
    """Returns what a field's value is when written on a command line.

    A number, True, False, a tuple of numbers with commas between them, or else the text.
    """
    if "," in text:
        values = tuple(read_value(part) for part in text.split(","))
        return values if all(type(value) in (int, float) for value in values) else text
    if text in ("True", "False"):
        return text == "True"
    for number in (int, float):
        with contextlib.suppress(ValueError):
            return number(text)
    return text


def read_named(text: str, *, where: str) -> tuple[str, dict[str, Any]]:
    """Returns (name, fields) of `NAME` or `NAME:field=value:...`, as in `ngram:order=4`.

    Raises:
      SpecError: a field without a value.
    """
    name, *pairs = text.split(":")
    fields: dict[str, Any] = {}
    for pair in pairs:
        field, equals, value = pair.partition("=")
        if not equals:
            raise SpecError(f"{where}: got {text!r}; write NAME or NAME:field=value.")
        fields[field] = read_value(value)
    return name, fields


def to_dict(spec: Any) -> dict[str, Any]:
    """The inverse of `build`: a plain dict that survives JSON."""
    return json.loads(json.dumps(dataclasses.asdict(spec)))


def fingerprint(value: Any) -> str:
    """Returns the first 16 hex digits of the SHA-256 of `value`'s canonical JSON form."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def check(condition: bool, field: str, value: Any, fix: str) -> None:
    """Raises SpecError "FIELD: got VALUE; FIX" unless `condition` holds. For `__post_init__`."""
    if not condition:
        raise SpecError(f"{field}: got {value!r}; {fix}")

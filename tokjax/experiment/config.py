"""Named configurations and their overrides: the only place, with the command line, that speaks ConfigDict."""

import ast
import dataclasses
import importlib
import pkgutil
import runpy
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from tokjax.core.errors import SpecError, UnknownNameError, UserError, nearest
from tokjax.core.registry import systems, tokenizers
from tokjax.experiment.image_generator import CodeDataSpec, is_image_generator
from tokjax.experiment.images import ImageDataSpec, is_image_tokenizer
from tokjax.experiment.run import DataSpec
from tokjax.sharding import MeshSpec
from tokjax.train import OptimizerSpec, TrainSpec

VARIANTS = ("smoke", "small", "paper")


def config_names() -> dict[str, str]:
    """Returns short name -> module of every configuration that ships with the library."""
    root = importlib.import_module("tokjax.configs")
    modules = pkgutil.walk_packages(root.__path__, prefix="tokjax.configs.")
    names = {m.name.rsplit(".", 1)[1]: m.name for m in modules if not m.ispkg}
    return {name: module for name, module in names.items() if not name.startswith("_")}


def load_config(reference: str) -> ConfigDict:
    """Returns the configuration `NAME[:variant]` or `PATH.py[:variant]`; the variant defaults to small.

    Raises:
      UserError: no such name or file, or a file without `get_config`.
      SpecError: no such variant.
    """
    name, _, variant = reference.partition(":")
    variant = variant or "small"
    if variant not in VARIANTS:
        raise SpecError(f"--config {reference}: no variant {variant!r}.{nearest(variant, VARIANTS)}")
    return complete(_recipe(name)(variant))


def _recipe(name: str) -> Callable[[str], ConfigDict]:
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise UserError(f"{path}: no such configuration file.")
        defined = runpy.run_path(str(path))
        if "get_config" not in defined:
            raise UserError(f"{path}: defines no get_config(variant).")
        return defined["get_config"]
    names = config_names()
    if name not in names:
        raise UnknownNameError(f"Unknown configuration {name!r}.{nearest(name, names)} A file must end in .py.")
    return importlib.import_module(names[name]).get_config


def complete(config: ConfigDict) -> ConfigDict:
    """Adds every optional field with its default, so that an override can reach it."""
    with config.unlocked():
        _fill(config.data, _data_spec(config))
        _fill(config.optimizer, OptimizerSpec)
        _fill(config.train, TrainSpec)
        _fill(config.mesh, MeshSpec)
        _fill(config.system, systems[config.system.name])
        if config.get("tokenizer", {}).get("name") in tokenizers:
            _fill(config.tokenizer, tokenizers[config.tokenizer.name])
    return config


def _data_spec(config: ConfigDict) -> type:
    if is_image_generator(config):
        return CodeDataSpec
    return ImageDataSpec if is_image_tokenizer(config.system) else DataSpec


def _fill(group: ConfigDict, spec_class: type) -> None:
    hints = typing.get_type_hints(spec_class)
    for field in dataclasses.fields(spec_class):
        if dataclasses.is_dataclass(hints[field.name]) and field.name in group:
            _fill(group[field.name], hints[field.name])
        elif field.default is not dataclasses.MISSING and field.name not in (*group, "vocab_size"):
            group[field.name] = field.default


def override(config: ConfigDict, assignments: Iterable[str]) -> ConfigDict:
    """Applies `a.b=value` assignments to existing fields; values are Python literals, else strings.

    Naming another tokenizer or system replaces its group by that one's defaults.

    Raises:
      SpecError: a field that does not exist (with the nearest name) or a value of another type.
    """
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise SpecError(f"--config.{path}: needs a value, as in --config.{path}=VALUE.")
        *parents, field = path.split(".")
        node = config
        for depth, name in enumerate([*parents, field]):
            if not isinstance(node, ConfigDict) or name not in node:
                known = list(node) if isinstance(node, ConfigDict) else []
                at = ".".join(["config", *parents[:depth]])
                raise SpecError(f"--config.{path}: {at} has no field {name!r}.{nearest(name, known)}")
            if depth < len(parents):
                node = node[name]
        if field == "name" and text != node[field]:
            with config.unlocked():
                config[parents[0]] = {"name": text}
            complete(config)
            continue
        try:
            with node.unlocked():
                node[field] = _literal(text, node[field])
        except TypeError:
            kind = type(node[field]).__name__
            raise SpecError(f"--config.{path}: got {text!r}, expected {kind}.") from None
    return config


def _literal(text: str, current: Any) -> Any:
    if isinstance(current, str):
        return text
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text

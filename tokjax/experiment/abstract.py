"""The training step of a configuration without its data: shapes alone, to count, lower or compile for any devices."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tokjax.core.errors import SpecError
from tokjax.core.registry import systems, tokenizers
from tokjax.core.spec import build
from tokjax.core.types import System
from tokjax.data.images import ImageBatch, ProxyBatch
from tokjax.data.images.code_rows import CodeBatch
from tokjax.data.word_rows import document_rows
from tokjax.data.words import word_stream
from tokjax.experiment.encoder import build_encoder, is_encoder
from tokjax.experiment.image_generator import CodeDataSpec, is_image_generator
from tokjax.experiment.images import ImageDataSpec, is_image_tokenizer
from tokjax.experiment.run import DataSpec, build_system
from tokjax.objectives.image import ImageTokenizer
from tokjax.objectives.language import LanguageSystem, stream_batch
from tokjax.objectives.masked import MaskedWordSystem
from tokjax.sharding import sharding_of
from tokjax.text import fit_tokenizer
from tokjax.train import OptimizerSpec
from tokjax.train.compile_cache import programs


@dataclasses.dataclass(frozen=True, kw_only=True)
class AbstractStep:
    """A training step that nothing was allocated for.

    Attributes:
      system: as the configuration builds it.
      lowered: the step, as `jax.stages.Lowered`, for the mesh it was asked for.
      flops: FLOPs of forward and backward pass over one global batch, by the system's own count.
    """

    system: System
    lowered: jax.stages.Lowered
    flops: float


def abstract_step(config: dict[str, Any], mesh: Mesh) -> AbstractStep:
    """Lowers the training step of a configuration for `mesh`.

    Args:
      config: as of `load_config(...).to_dict()`; its data gives the shape of the global batch.
      mesh: of devices that need not be here.

    Raises:
      SpecError: a configuration or a mesh that does not fit, or a system that only another run's codes determine.
    """
    system = abstract_system(config)

    def placed(path: Any, x: Any) -> jax.ShapeDtypeStruct:
        axes, name = ("batch", *[None] * (x.ndim - 1)), f"batch{jax.tree_util.keystr(path)}"
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_of(axes, x.shape, mesh, name=name))

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # its devices could not run the least operation
        made = programs(system, build(OptimizerSpec, config["optimizer"]), mesh)
        batch = jax.tree_util.tree_map_with_path(placed, abstract_batch(system, config["data"]))
        key = jax.eval_shape(lambda: jax.random.key(0))
        lowered = made.step.lower(made.state, batch, key, jax.ShapeDtypeStruct((), jnp.float32))
    return AbstractStep(system=system, lowered=lowered, flops=3.0 * batch_flops(system, config["data"]))


def abstract_system(config: dict[str, Any]) -> System:
    """Returns the system of a configuration whose tokenizer was not fitted to anything.

    Raises:
      SpecError: fields that do not fit, or a vocabulary that only the run of another tokenizer gives.
    """
    fields = dict(config["system"])
    of_images, of_codes = is_image_tokenizer(fields), is_image_generator(config)
    build(CodeDataSpec if of_codes else ImageDataSpec if of_images else DataSpec, config["data"], where="data")
    if of_images or of_codes:
        system = systems[fields.pop("name")]
        if issubclass(system, LanguageSystem) and "vocab_size" not in fields:
            raise SpecError(
                "system.vocab_size: missing; it is that of the tokenizer of codes_of, which is trained first. To do "
                "without one, put the number of codes and labels in a recipe of your own (PATH.py)."
            )
        return build(system, fields, where="system")
    tokenizer = dict(config.get("tokenizer") or {})
    chosen = tokenizer.pop("name", "")
    if chosen not in tokenizers:
        raise SpecError(f"tokenizer.name: got {chosen!r}; name a registered one, whose size is known without a run.")
    spec = build(tokenizers[chosen], tokenizer, where="tokenizer")
    fitted: Any = SimpleNamespace(name=chosen, spec=spec, size=getattr(spec, "vocab_size", None) or spec.size({}))
    return (build_encoder if is_encoder(fields) else build_system)(fields, fitted)


def abstract_batch(system: System, data: dict[str, Any]) -> Any:
    """Returns the shapes of a batch that `system` trains on.

    Args:
      system: as of `abstract_system`.
      data: `batch_size`, and `length` or `codes` where a row has as many positions.
    """
    rows = data["batch_size"]
    if isinstance(system, MaskedWordSystem):
        nothing: Any = []  # bytes need no source to be fitted to
        words = word_stream([b"word"], fit_tokenizer("bytes", nothing), cap=system.cap)
        return next(document_rows(words, system.row_shape(data["length"]), batch_size=rows))
    if isinstance(system, LanguageSystem):
        shape = (rows, positions(system, data))
        return jax.eval_shape(stream_batch, jax.ShapeDtypeStruct(shape, jnp.int32))
    kind: Any
    batch: Any = {"labels": ((rows,), jnp.int32), "mask": ((rows,), jnp.float32)}
    wanted: Any = system  # whose fields are those of its kind
    if not isinstance(system, ImageTokenizer):
        kind, batch["codes"] = CodeBatch, ((rows, wanted.tokens), jnp.int32)
    else:
        kind, batch["pixels"] = ImageBatch, ((rows, system.size, system.size, system.channels), jnp.float32)
        if system.proxied:
            kind, batch["codes"] = ProxyBatch, ((rows, wanted.patches), jnp.int32)
    return kind(**{name: jax.ShapeDtypeStruct(*of) for name, of in batch.items()})


def positions(system: System, data: dict[str, Any]) -> int:
    """Returns how many positions a row has: symbols of a text, words, or codes of an image.

    Raises:
      SpecError: a generator of codes of which it does not say how many.
    """
    found = data.get("length") or data.get("codes") or getattr(system, "tokens", None)
    if found is None:
        raise SpecError("data.codes: missing; give the codes of an image that are learned.")
    return found


def batch_flops(system: System, data: dict[str, Any]) -> float:
    """Returns the forward FLOPs of a batch, by the system's own count."""
    return system.flops(data["batch_size"], positions(system, data))

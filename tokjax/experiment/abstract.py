"""The training step of a configuration without its data: shapes alone, to count, lower or compile for any devices."""

import dataclasses
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from tokjax.core.registry import tokenizers
from tokjax.core.spec import build
from tokjax.core.types import System
from tokjax.data.word_rows import document_rows
from tokjax.data.words import word_stream
from tokjax.experiment.encoder import build_encoder, is_encoder
from tokjax.experiment.run import DataSpec, build_system
from tokjax.objectives.language import stream_batch
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
    """Lowers the training step of a language configuration for `mesh`.

    Args:
      config: as of `load_config(...).to_dict()`; its data gives the shape of the global batch.
      mesh: of devices that need not be here.

    Raises:
      SpecError: a configuration or a mesh that does not fit.
    """
    system = abstract_system(config)
    data = build(DataSpec, config["data"])

    def placed(x: Any) -> jax.ShapeDtypeStruct:
        axes = ("batch", *[None] * (x.ndim - 1))
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding_of(axes, x.shape, mesh, name="batch"))

    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # its devices could not run the least operation
        made = programs(system, build(OptimizerSpec, config["optimizer"]), mesh)
        batch = jax.tree.map(placed, abstract_batch(system, data))
        key = jax.eval_shape(lambda: jax.random.key(0))
        lowered = made.step.lower(made.state, batch, key, jax.ShapeDtypeStruct((), jnp.float32))
    return AbstractStep(system=system, lowered=lowered, flops=3.0 * system.flops(data.batch_size, data.length))


def abstract_system(config: dict[str, Any]) -> System:
    """Returns the system of a language configuration whose tokenizer was not fitted to anything."""
    fields = dict(config["tokenizer"])
    chosen = fields.pop("name")
    spec = build(tokenizers[chosen], fields)
    fitted: Any = SimpleNamespace(name=chosen, spec=spec, size=getattr(spec, "vocab_size", None) or spec.size({}))
    return (build_encoder if is_encoder(config["system"]) else build_system)(config["system"], fitted)


def abstract_batch(system: System, data: DataSpec) -> Any:
    """Returns the shapes of a batch that `system` trains on."""
    if isinstance(system, MaskedWordSystem):
        nothing: Any = []  # bytes need no source to be fitted to
        words = word_stream([b"word"], fit_tokenizer("bytes", nothing), cap=system.cap)
        return next(document_rows(words, system.row_shape(data.length), batch_size=data.batch_size))
    return jax.eval_shape(stream_batch, jax.ShapeDtypeStruct((data.batch_size, data.length), jnp.int32))

"""From patches to the vectors of registers, and from these, some of them dropped, to a flow of patches.

Letters: `B` batch, `P` patches of `Q` values, `N` registers, `C` channels of their vectors, `E`, `D` widths.
"""

from typing import Any

import jax
import jax.numpy as jnp

from tokjax.nn.flow_transformer import (
    TIME_CHANNELS,
    FlowTransformerSpec,
    MaskMode,
    declare_flow_head,
    declare_flow_transformer,
    declare_time,
    flow_head,
    flow_transformer,
    flow_transformer_flops,
    register_mask,
    time_embedding,
)
from tokjax.nn.layers import project
from tokjax.nn.param import Param, fan_in, normal

# Learned positions and registers are as strong as what they are added to. At the usual 0.02 attention cannot tell
# places apart at first, and learning on small images is far slower.
_places = normal(1.0)


def declare_register_encoder(
    spec: FlowTransformerSpec, patches: int, values: int, registers: int, outputs: int
) -> dict[str, Any]:
    """Declares the way from P patches of Q = `values` to N vectors of C = `outputs` channels."""
    E = spec.width
    return {
        "patches": Param((values, E), (None, "embed"), fan_in(values)),
        "positions": Param((patches, E), (None, "embed"), _places, decay=False),
        "registers": Param((registers, E), (None, "embed"), _places, decay=False),
        "body": declare_flow_transformer(spec, conditioned=False),
        "out": Param((E, outputs), ("embed", None), fan_in(E)),
    }


def encode_registers(spec: FlowTransformerSpec, params: Any, x: jax.Array, mask: MaskMode) -> jax.Array:
    """Returns the vectors float32 [B, N, C] of patches [B, P, Q]; `mask` as of `register_mask`."""
    registers = jnp.broadcast_to(params["registers"], (len(x), *params["registers"].shape))
    seen = register_mask(mask, *(params[name].shape[0] for name in ("positions", "registers")))
    embedded = project(x, params["patches"]) + params["positions"]
    _, found = flow_transformer(spec, params["body"], embedded, registers, mask=seen)
    return project(found.astype(jnp.float32), params["out"])


def declare_flow_decoder(
    spec: FlowTransformerSpec, patches: int, values: int, registers: int, inputs: int, *, noised: bool
) -> dict[str, Any]:
    """Declares the way back, from vectors of C = `inputs` channels.

    Args:
      spec: shape of the stack.
      patches: P.
      values: Q.
      registers: N.
      inputs: C.
      noised: it reads patches under noise; else one learned vector stands for all of them.
    """
    D = spec.width
    return {
        "patches": Param((values, D), (None, "embed"), fan_in(values)) if noised else Param((D,), ("embed",), _places),
        "positions": Param((patches, D), (None, "embed"), _places, decay=False),
        "vectors": Param((inputs, D), (None, "embed"), fan_in(inputs)),
        "dropped": Param((D,), ("embed",), _places, decay=False),
        "places": Param((registers, D), (None, "embed"), _places, decay=False),
        "time": declare_time(D),
        "body": declare_flow_transformer(spec, conditioned=True),
        "head": declare_flow_head(D, values),
    }


def flow_decoder(
    spec: FlowTransformerSpec,
    params: Any,
    vectors: jax.Array,
    kept: jax.Array,
    t: jax.Array,
    x: jax.Array | None = None,
) -> jax.Array:
    """Returns what is said of each patch, float32 [B, P, Q]: a velocity, or values.

    Args:
      spec: shape of the stack.
      params: arrays as declared by `declare_flow_decoder`.
      vectors: [B, N, C], of registers.
      kept: bool [B, N], registers that are not dropped; one learned vector stands for each of the others.
      t: [B], times from 0 to 1.
      x: [B, P, Q], patches at these times; None where none were declared.
    """
    registers = jnp.where(kept[..., None], project(vectors, params["vectors"]), params["dropped"]) + params["places"]
    patches = (params["patches"] if x is None else project(x, params["patches"])) + params["positions"]
    patches = jnp.broadcast_to(patches, (len(t), *patches.shape[-2:]))
    condition = time_embedding(params["time"], t)
    patches, _ = flow_transformer(spec, params["body"], patches, registers, condition=condition)
    return flow_head(params["head"], patches, condition)


def register_flops(
    encoder: FlowTransformerSpec,
    decoder: FlowTransformerSpec,
    patches: int,
    values: int,
    registers: int,
    channels: int,
    *,
    noised: bool,
) -> float:
    """Forward FLOPs per image of the encoder and of one pass of the decoder; arguments as of their declarations."""
    E, D, length = encoder.width, decoder.width, patches + registers
    ends = patches * values * (E + (1 + noised) * D) + registers * channels * (E + D)
    modulation = (TIME_CHANNELS + 3 * D) * D  # of the head, and the embedding of times
    bodies = flow_transformer_flops(encoder, 1, length, conditioned=False)
    return bodies + flow_transformer_flops(decoder, 1, length, conditioned=True) + 2.0 * (ends + modulation)

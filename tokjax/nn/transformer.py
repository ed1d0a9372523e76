"""A pre-norm transformer stack as pure functions over stacked parameters.

One block serves every system: what differs is how positions attend, and that is an argument. Weights are fused
so that a block does four matmuls (query-key-value, output, gate-up, down), grouped so that tensor parallelism
splits them by key-value head.

Letters: `B` batch, `T` tokens, `D` width, `H` heads, `G` key-value heads, `K` head width, `S` cache slots.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from tokjax.core import platform
from tokjax.core.spec import check
from tokjax.nn import layers
from tokjax.nn.attention import attention_flops, default_implementation, masked_attention
from tokjax.nn.param import Initializer, Param, fan_in, ones, stack
from tokjax.sharding import constrain

# Of `init="copying"`: what heads copy and how they match, the share of random matrices left, and the final norm.
_COPYING, _MATCHING, _NOISE, _UNSURE = 3.0, 0.1, 0.2, 0.5
# Of `init="matching"`: how heads match, and the share of random matrices in queries and keys.
_ALIKE, _RANDOM = 1.2, 0.5

Init = Literal["random", "copying", "matching"]
Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TransformerSpec:
    """Shape of a stack.

    Attributes:
      width: D, channels of the residual stream.
      layers: number of blocks.
      heads: query heads H.
      kv_heads: key-value heads G; 0 is H (no grouping).
      head_dim: K; 0 is D / H.
      hidden: MLP width; 0 is 8/3 D rounded up to a multiple of 32.
      dtype: of activations and matmuls; norms, softmax and losses stay float32.
      scan_layers: run the blocks as `lax.scan` (small programs, accelerators); None scans except on CPU, where
        an unrolled program is faster.
      remat: recompute each block in the backward pass instead of keeping its activations.
      attention: implementation for `nn.attention.attention`, or for `nn.word_stack` in stacks over the units of a word;
        None chooses by platform and shape.
      rope_theta: base of the rotary frequencies.
      smeared_keys: a key is a learned mixture, one share for each key head, of its position's own and the one before
        in the document (Olsson et al. 2022, arXiv 2209.11895). One head can then look for what came after a symbol, or
        after a state, which takes two layers otherwise. For causal stacks whose positions count from 0 in a document.
      init: `random`, or `copying`: each head starts out as a copy of what it attends to, and attends to nearly all
        alike; predictions start near uniform. For vectors without fixed directions, as drawn embeddings are: what is
        to be learned of them is close to the identity, and random matrices would first have to be unlearned. Or
        `matching`: each head attends to the positions whose first K channels are like its own, where drawn embeddings
        of as many channels have their symbols, and what it makes of them starts at random.
    """

    width: int
    layers: int
    heads: int
    kv_heads: int = 0
    head_dim: int = 0
    hidden: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"
    scan_layers: bool | None = None
    remat: bool = False
    attention: str | None = None
    rope_theta: float = 10_000.0
    smeared_keys: bool = False
    init: Init = "random"

    def __post_init__(self):
        for field in ("width", "layers", "heads"):
            check(getattr(self, field) >= 1, field, getattr(self, field), "must be at least 1.")
        if not self.head_dim:
            check(self.width % self.heads == 0, "heads", self.heads, f"must divide width {self.width}.")
            object.__setattr__(self, "head_dim", self.width // self.heads)
        if not self.kv_heads:
            object.__setattr__(self, "kv_heads", self.heads)
        if not self.hidden:
            object.__setattr__(self, "hidden", -(-8 * self.width // (3 * 32)) * 32)
        check(self.heads % self.kv_heads == 0, "kv_heads", self.kv_heads, f"must divide heads {self.heads}.")
        check(self.head_dim % 2 == 0, "head_dim", self.head_dim, "rotary positions need an even head width.")
        check(self.init in get_args(Init), "init", self.init, f"use one of {', '.join(get_args(Init))}.")


def declare_block(spec: TransformerSpec) -> dict[str, Any]:
    """Declares one block: attention and MLP, each with its norm before it."""
    D, G, K = spec.width, spec.kv_heads, spec.head_dim
    group = spec.heads // G
    read, write = fan_in(D), fan_in(spec.heads * K * 2 * spec.layers)
    if spec.init == "copying":
        read, write = _copying(spec, read, write)
    if spec.init == "matching":
        read = _matching(spec, read)
    own_share = {"own_share": Param((G,), ("kv_heads",), _spread, decay=False)} if spec.smeared_keys else {}
    return {
        "attention_norm": layers.declare_rms_norm(D),
        "query_key_value": Param((D, G, group + 2, K), ("embed", "kv_heads", None, "head_dim"), read),
        **own_share,
        "attention_out": Param((G, group, K, D), ("kv_heads", None, "head_dim", "embed"), write),
        "mlp_norm": layers.declare_rms_norm(D),
        "mlp": layers.declare_gated_mlp(D, spec.hidden, spec.layers),
    }


def _spread(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Logits of shares from 0.05 to 0.95, one a head."""
    del key
    return jnp.linspace(-3.0, 3.0, shape[0])


def _copying(spec: TransformerSpec, read: Initializer, write: Initializer) -> tuple[Initializer, Initializer]:
    """Initialisers of the fused and the output matrix: blocks of the identity, one a head, and a little noise.

    After Trockman & Kolter 2023 (arXiv 2305.09828), who find such products of matrices in trained models.
    """
    D, G, K = spec.width, spec.kv_heads, spec.head_dim
    group = spec.heads // G
    gains = jnp.array([_MATCHING] * (group + 1) + [1.0])  # queries, key, value

    def query_key_value(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return _NOISE * read(key, shape) + gains[:, None] * jnp.eye(D, G * K).reshape(D, G, 1, K)

    def out(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        return _NOISE * write(key, shape) + _COPYING / group * jnp.eye(G * K, D).reshape(G, 1, K, D)

    return query_key_value, out


def _matching(spec: TransformerSpec, read: Initializer) -> Initializer:
    """Initialiser of the fused matrix: the queries and the key of every head read the first channels."""
    D, G, K = spec.width, spec.kv_heads, spec.head_dim
    of_queries_and_key = jnp.arange(spec.heads // G + 2) <= spec.heads // G

    def query_key_value(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
        random = jnp.where(of_queries_and_key, _RANDOM, 1.0)[:, None] * read(key, shape)
        return random + jnp.where(of_queries_and_key, _ALIKE, 0.0)[:, None] * jnp.eye(D, K).reshape(D, 1, 1, K)

    return query_key_value


def declare_transformer(spec: TransformerSpec) -> dict[str, Any]:
    """Declares the stack: `layers` blocks with a leading "layers" dimension, and the final norm."""
    final = layers.declare_rms_norm(spec.width)
    if spec.init == "copying":
        final = dataclasses.replace(final, init=lambda key, shape: _UNSURE * ones(key, shape))
    return {"blocks": stack(declare_block(spec), spec.layers), "final_norm": final}


def project_heads(spec: TransformerSpec, params: Any, x: jax.Array) -> tuple[jax.Array, ...]:
    """Returns queries [B, T, H, K], keys and values [B, T, G, K] of the normalised input, not smeared, not rotated."""
    normed = layers.rms_norm(params["attention_norm"], x)
    fused = layers.project(normed, params["query_key_value"])
    query, key, value = fused[..., :-2, :], fused[..., -2, :], fused[..., -1, :]
    return query.reshape(*query.shape[:2], spec.heads, spec.head_dim), key, value


def smear(params: Any, key: jax.Array, before: jax.Array, positions: jax.Array) -> jax.Array:
    """Mixes keys with those before them, where a stack has `smeared_keys`.

    Args:
      params: of one block.
      key: [B, T, G, K].
      before: [B, T, G, K], the keys of the positions before; not read at the first position of a document.
      positions: int32 [B, T] or [T].

    Returns:
      [B, T, G, K].
    """
    own = jax.nn.sigmoid(params["own_share"])[:, None].astype(key.dtype)
    return jnp.where(positions[..., None, None] > 0, own * key + (1 - own) * before, key)


def finish_block(spec: TransformerSpec, params: Any, x: jax.Array, attended: jax.Array) -> jax.Array:
    """Adds the projected attention result [B, T, H, K] and then the MLP to the residual stream."""
    group = spec.heads // spec.kv_heads
    grouped = attended.reshape(*attended.shape[:2], spec.kv_heads, group, spec.head_dim)
    x = x + layers.project(grouped, params["attention_out"], inputs=3)
    x = x + layers.gated_mlp(params["mlp"], layers.rms_norm(params["mlp_norm"], x))
    return constrain(x, "batch", "length", None)


def transformer(spec: TransformerSpec, params: Any, x: jax.Array, positions: jax.Array, attend: Attend) -> jax.Array:
    """Runs the stack over whole sequences.

    Args:
      spec: its shape.
      params: arrays as declared by `declare_transformer`.
      x: [B, T, D] embedded input.
      positions: int32 [B, T] or [T]; [B or 1, T], from 0 in every document, with `smeared_keys`.
      attend: (q [B,T,H,K], k [B,T,G,K], v [B,T,G,K]) -> [B,T,H,K]; carries masks and implementation.

    Returns:
      [B, T, D] after the final norm.

    Raises:
      SpecError: `smeared_keys` and positions of rows [T].
    """
    fix = "this system numbers the positions of a row, not of its documents; leave it false."
    check(not spec.smeared_keys or positions.ndim == 2, "smeared_keys", True, fix)
    rotary = layers.rotary_tables(positions, spec.head_dim, spec.rope_theta)

    def block(x: jax.Array, params: Any) -> tuple[jax.Array, None]:
        query, key, value = project_heads(spec, params, x)
        if spec.smeared_keys:
            key = smear(params, key, jnp.roll(key, 1, axis=1), positions)
        attended = attend(layers.rotate(query, rotary), layers.rotate(key, rotary), value)
        return finish_block(spec, params, x, attended), None

    if spec.remat:
        block = jax.checkpoint(block)
    x = constrain(x.astype(spec.dtype), "batch", "length", None)
    x = over_layers(spec, block, x, params["blocks"])[0]
    return layers.rms_norm(params["final_norm"], x)


def init_cache(spec: TransformerSpec, batch_size: int, slots: int) -> dict[str, jax.Array]:
    """Returns an empty cache: `key` and `value` [layers, B, S, G, K]; `last` [layers, B, 1, G, K] of `smeared_keys`."""
    shape = (spec.layers, batch_size, slots, spec.kv_heads, spec.head_dim)
    cache = {"key": jnp.zeros(shape, spec.dtype), "value": jnp.zeros(shape, spec.dtype)}
    if spec.smeared_keys:
        cache["last"] = cache["key"][:, :, :1]
    return cache


def transformer_step(
    spec: TransformerSpec, params: Any, x: jax.Array, positions: jax.Array, cache: dict[str, jax.Array]
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Runs the stack over the next token of every row, reading and extending the cache.

    Args:
      x: [B, 1, D]. positions: int32 [B], the slot to write; slots up to and including it are attended to.
      cache: as made by `init_cache`; a position past its last slot is the caller's error.

    Returns:
      ([B, 1, D] after the final norm, the extended cache).
    """
    rotary = layers.rotary_tables(positions[:, None], spec.head_dim, spec.rope_theta)
    slots = jnp.arange(cache["key"].shape[2])
    visible = slots[None, None, :] <= positions[:, None, None]
    rows = jnp.arange(x.shape[0])

    def block(x: jax.Array, layer: Any) -> tuple[jax.Array, Any]:
        params, cache = layer
        query, key, value = project_heads(spec, params, x)
        new = {}
        if spec.smeared_keys:
            new["last"] = key
            key = smear(params, key, cache["last"], positions[:, None])
        new["key"] = cache["key"].at[rows, positions].set(layers.rotate(key, rotary)[:, 0])
        new["value"] = cache["value"].at[rows, positions].set(value[:, 0])
        attended = masked_attention(layers.rotate(query, rotary), new["key"], new["value"], mask=visible)
        return finish_block(spec, params, x, attended), new

    x, cache = jax.lax.scan(block, x.astype(spec.dtype), (params["blocks"], cache))
    return layers.rms_norm(params["final_norm"], x), cache


def over_layers(spec: Any, block: Callable, x: jax.Array, stacked: Any) -> tuple[jax.Array, Any]:
    """Carries `x` through `block` (x, parameters of a layer) -> (x, output) for every layer of `stacked`.

    Args:
      spec: has `layers`, and `scan_layers` as of `TransformerSpec`.
      block: one layer.
      x: what the first layer reads.
      stacked: parameters with a leading "layers" dimension.

    Returns:
      (what the last layer gives, the outputs stacked).
    """
    scan = spec.scan_layers
    if scan is None:
        scan = platform.target() != "cpu"
    return jax.lax.scan(block, x, stacked, unroll=1 if scan else spec.layers)


def transformer_flops(spec: TransformerSpec, batch_size: int, length: int, attention: float) -> float:
    """Forward FLOPs of the stack: its matmuls, and `attention` per layer (scores and weighted sum)."""
    D, H, G, K = spec.width, spec.heads, spec.kv_heads, spec.head_dim
    weights = D * (H + 2 * G) * K + H * K * D + 3 * D * spec.hidden
    return spec.layers * (2.0 * weights * batch_size * length + attention)


def attention_cost(spec: TransformerSpec, batch_size: int, length: int) -> float:
    """Forward FLOPs of one layer's causal attention over whole rows, as the chosen implementation executes it."""
    implementation = spec.attention or default_implementation(length, causal=True)
    return attention_flops(batch_size, length, spec.heads, spec.head_dim, implementation)


def window_cost(spec: TransformerSpec, batch_size: int, length: int, block: int, neighbours: int) -> float:
    """Forward FLOPs of one layer's attention in blocks, each of which sees `neighbours` blocks, itself included."""
    padded = -(-length // block) * block
    return 4.0 * batch_size * padded * neighbours * block * spec.heads * spec.head_dim

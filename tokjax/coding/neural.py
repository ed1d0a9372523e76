"""A small byte transformer, trained like any other model, as an entropy model: M1 of Lester et al. 2024.

Floating-point counts differ in the last bit from program to program, and one such bit spoils all that an arithmetic
coder writes after it. So one compiled step, of one batch shape, serves encoder and decoder, and within it the counts of
a row are a function of that row's own bytes: not of which row it is, nor of what the others hold.

A row starts with nothing: its first byte has the frequencies of bytes in the training text, and the network reads on
from there, as it does in training where a row begins inside a document. (Were it shown the end of a document first, it
would take every window for the start of one.)

M1's stack is the library's own (RMS norm, rotary positions, gated MLP), where the paper has ReLU and Shaw's relative
positions.

Letters: `B` rows, `S` cache slots, `D` width, `H` heads, `G` key-value heads, `R` = H / G, `K` head width, `V` symbols.
"""

import dataclasses
import functools
import hashlib
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import jaxlib.version
import numpy as np

from tokjax.coding import cdf
from tokjax.coding.entropy import BYTES, Engine, EntropyModel, State, entropy_models
from tokjax.coding.papers import LESTER
from tokjax.core.cached import cached_engine
from tokjax.core.errors import NumericsError, SpecError
from tokjax.core.spec import check
from tokjax.core.types import Params, Source, Tables
from tokjax.nn import layers
from tokjax.nn.attention import attention
from tokjax.nn.transformer import TransformerSpec, finish_block, project_heads, smear, transformer

FIRST = "first_bytes"  # the table of how often each byte is in the training text, int64 [256]
_PAPER = TransformerSpec(width=256, layers=3, heads=4, hidden=1024)  # 3M parameters
_BLOCK = 16  # cache slots that attention reads at a time
_MASKED, _FLOOR = -1e30, -1e20  # the score of an unseen slot; the least maximum, far above it
_PROBE_STEPS = 4
_FORWARD_ROWS, _FORWARD_SYMBOLS = 512, 16_384  # the largest batches of `next_probabilities`


@entropy_models.register(
    "transformer",
    papers=(LESTER,),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Transformer(EntropyModel):
    """Byte transformer trained by `tokjax train` and exported from its run.

    Tables: the float32 parameters of an `lm` over bytes, by path, as in `backbone/blocks/mlp/down`, and `first_bytes`
    int64 [256], how often each byte is in the text it was trained on.

    Attributes:
      backbone: shape of the stack; it runs in float32 whatever it was trained in.
      context: bytes that it may see; then it starts again.
      rows: B, the one batch size of the compiled step, a multiple of 8. The cache takes
        8 rows context layers G K bytes.
      tied: the output matrix is the embedding table.
    """

    backbone: TransformerSpec = _PAPER
    context: int = 1024
    rows: int = 256
    tied: bool = True

    def __post_init__(self):
        check(self.context >= 1, "context", self.context, "use at least 1 byte.")
        # Matrix products treat a remainder of rows by other instructions.
        check(self.rows >= 8 and self.rows % 8 == 0, "rows", self.rows, "use a multiple of 8.")

    def fit(self, source: Source) -> Tables:
        """Raises SpecError: it is trained beforehand."""
        del source
        raise SpecError(
            "entropy: a transformer is not fitted but trained. Run `tokjax train --config m1:small --workdir DIR`, "
            "then give --option entropy=DIR."
        )

    def table_names(self) -> frozenset[str]:
        """As `EntropyModel.table_names`."""
        return frozenset({FIRST, "embedding", "backbone/final_norm", *(() if self.tied else ("output",))})

    def engine(self, tables: Tables, *, symbols: int = BYTES, precision: int = cdf.PRECISION) -> Engine:
        """As `EntropyModel.engine`. Compiles, and makes sure that rows do not depend on one another.

        The step takes B = `rows` rows and donates its state; a row that reads more than `context` bytes without a
        restart has no meaning. `step` and `start` cannot be called from inside another program: compiled into it, they
        would no longer be the program that the signature describes.

        Raises:
          SpecError: an impossible number of symbols or precision.
          NumericsError: this device computes different counts in different rows.
        """
        check(symbols in (BYTES, BYTES + 1), "symbols", symbols, "use 256, or 257 with the end of a text.")
        check(cdf.FEWEST <= precision <= cdf.MOST, "precision", precision, f"use {cdf.FEWEST} to {cdf.MOST} bits.")
        return _engine((self, symbols, precision), tables)

    def next_probabilities(self, tables: Tables, prefixes: Sequence[bytes]) -> np.ndarray:
        """As `EntropyModel.next_probabilities`, by whole sequences, not steps: an engine's counts differ slightly."""
        probabilities = np.tile(_first(tables), (len(prefixes), 1))
        params, forward = _forward(self, tables)
        seen = [prefix[len(prefix) - len(prefix) % self.context :] for prefix in prefixes]
        for chosen, ids in _batches(seen):
            ends = np.array([len(seen[index]) - 1 for index in chosen] + [0] * (len(ids) - len(chosen)), np.int32)
            logits = np.asarray(forward(params, ids, ends))[: len(chosen)].astype(np.float64)
            weights = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities[chosen] = weights / weights.sum(axis=1, keepdims=True)
        return probabilities


def to_tables(params: Params, first_bytes: np.ndarray) -> Tables:
    """Returns the tables of a tree of parameters and of how often each byte is in its text, int64 [256]."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    arrays = {"/".join(key.key for key in path): np.asarray(leaf, np.float32) for path, leaf in leaves}
    return {**arrays, FIRST: np.asarray(first_bytes, np.int64)}


def to_params(tables: Tables) -> Params:
    """Returns the tree of parameters in `tables`."""
    params: dict[str, Any] = {}
    for path, array in tables.items():
        if path == FIRST:
            continue
        *parents, name = path.split("/")
        node = params
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = jnp.asarray(array)
    return params


def _first(tables: Tables) -> np.ndarray:
    """Returns the probabilities of the first byte, float64 [256]; none is 0."""
    counts = tables[FIRST]
    return (counts + 1.0) / (counts.sum() + BYTES)


@cached_engine
def _engine(settings: tuple[Transformer, int, int], tables: Tables) -> Engine:
    spec, symbols, precision = settings
    params = _by_layer(to_params(tables), spec.backbone.layers)
    step = _compile(spec, symbols, precision, params)
    first = cdf.cumulate(cdf.quantise(np.pad(_first(tables), (0, symbols - BYTES)), precision))

    def start(rows: int) -> State:
        check(rows == spec.rows, "rows", rows, f"this engine was compiled for {spec.rows}.")
        return {**_empty(spec, symbols), "cdf": jnp.asarray(np.tile(first, (rows, 1)))}

    return Engine(
        params=params,
        precision=precision,
        start=start,
        bounds=_bounds,
        cdf=lambda params, state: state["cdf"],
        step=step,
        exact=False,
        rows=spec.rows,
        context=spec.context,
        signature={
            "jax": jax.__version__,
            "jaxlib": jaxlib.version.__version__,
            "platform": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "xla_flags": sorted(f for f in os.environ.get("XLA_FLAGS", "").split() if not f.startswith("--xla_dump")),
            "rows": spec.rows,
            "context": spec.context,
            "symbols": symbols,
            "precision": precision,
            "params": _digest(tables[name] for name in sorted(tables)),
            "probe": _probe(spec, params, start, step),
        },
    )


def _compile(spec: Transformer, symbols: int, precision: int, params: Params) -> Callable[..., State]:
    """Returns `_step` as an executable, which refuses to become a part of another one."""
    deterministic: dict[str, str | bool] = {"xla_gpu_autotune_level": "0", "xla_gpu_deterministic_ops": True}
    shapes = jax.eval_shape(lambda: _empty(spec, symbols))
    step = jax.jit(functools.partial(_step, spec, symbols, precision), donate_argnums=1)
    lowered = step.lower(
        params, shapes, jax.ShapeDtypeStruct((spec.rows,), jnp.int32), jax.ShapeDtypeStruct((spec.rows,), bool)
    )
    return lowered.compile(compiler_options=deterministic if jax.default_backend() == "gpu" else None)


def _by_layer(params: Params, count: int) -> Params:
    """Splits the stacked blocks, so that the step need not cut a layer's weights out of them each time."""
    backbone = params["backbone"]
    blocks = [jax.tree.map(lambda stacked: stacked[layer], backbone["blocks"]) for layer in range(count)]  # noqa: B023
    return {**params, "backbone": {**backbone, "blocks": blocks}}


def _float32(backbone: TransformerSpec) -> TransformerSpec:
    return dataclasses.replace(backbone, dtype="float32", remat=False, attention="xla")


def _empty(spec: Transformer, symbols: int) -> State:
    """Returns a state of the right shapes, with an empty cache."""
    backbone = spec.backbone
    slots = -(-spec.context // _BLOCK) * _BLOCK
    shape = (spec.rows, backbone.kv_heads, slots, backbone.head_dim)
    return {
        "keys": [jnp.zeros(shape) for _ in range(backbone.layers)],
        "values": [jnp.zeros(shape) for _ in range(backbone.layers)],
        "last": [
            jnp.zeros((spec.rows, 1, *shape[1::2])) for _ in range(backbone.layers if backbone.smeared_keys else 0)
        ],
        "position": jnp.zeros(spec.rows, jnp.int32),
        "cdf": jnp.zeros((spec.rows, symbols + 1), jnp.uint32),
    }


def _step(
    spec: Transformer,
    vocabulary: int,
    precision: int,
    params: Params,
    state: State,
    symbols: jax.Array,
    restart: jax.Array,
) -> State:
    """Reads one symbol per row; a row that restarts, into slot 0."""
    backbone = _float32(spec.backbone)
    position = jnp.where(restart, 0, state["position"])
    rotary = layers.rotary_tables(position[:, None], backbone.head_dim, backbone.rope_theta)
    rows = jnp.arange(spec.rows)
    keys, values, last = [], [], []
    with jax.default_matmul_precision("highest"):
        x = layers.embed(params["embedding"], symbols[:, None], backbone.dtype)
        for layer, block in enumerate(params["backbone"]["blocks"]):
            query, key, value = project_heads(backbone, block, x)
            if backbone.smeared_keys:
                last.append(key)
                key = smear(block, key, state["last"][layer], position[:, None])
            query, key = layers.rotate(query, rotary), layers.rotate(key, rotary)
            keys.append(state["keys"][layer].at[rows, :, position].set(key[:, 0]))
            values.append(state["values"][layer].at[rows, :, position].set(value[:, 0]))
            x = finish_block(backbone, block, x, _attend(query, keys[-1], values[-1], position))
        hidden = layers.rms_norm(params["backbone"]["final_norm"], x)
        logits = layers.readout(params["embedding" if spec.tied else "output"], hidden, BYTES)[:, 0]
    return {
        "keys": keys,
        "values": values,
        "last": last,
        "position": position + 1,
        "cdf": _cumulative(logits, vocabulary, precision),
    }


def _attend(query: jax.Array, keys: jax.Array, values: jax.Array, position: jax.Array) -> jax.Array:
    """Attends from one token per row to its slots up to `position`, as far as the longest row reaches.

    Slots are read block by block with a running softmax (Milakov & Gimelshein 2018). To a row that ends earlier, the
    blocks behind its end are x * 1 + 0: its result is the same bits however far the others reach.

    Args:
      query: [B, 1, H, K].
      keys: [B, G, S, K], S a multiple of `_BLOCK`; values alike.
      position: int32 [B].

    Returns:
      [B, 1, H, K].
    """
    B, G, S, K = keys.shape
    query = query.reshape(B, G, -1, K) / math.sqrt(K)

    def read(index: jax.Array, carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        maximum, total, weighted = carry  # [B, G, R, 1], [B, G, R, 1], [B, G, R, K]
        key, value = (jax.lax.dynamic_slice_in_dim(x, index * _BLOCK, _BLOCK, axis=2) for x in (keys, values))
        visible = (index * _BLOCK + jnp.arange(_BLOCK) <= position[:, None])[:, None, :, None]  # [B, 1, s, 1]
        scores = jnp.einsum("bgrk,bgsk->bgrs", query, key)
        scores = jnp.where(visible.mT, scores, _MASKED)
        highest = jnp.maximum(maximum, scores.max(axis=-1, keepdims=True))
        weights, kept = jnp.exp(scores - highest), jnp.exp(maximum - highest)
        seen = jnp.where(visible, value, 0.0)  # not a weight of 0 alone: what a row left behind may be anything
        return (
            highest,
            total * kept + weights.sum(axis=-1, keepdims=True),
            weighted * kept + jnp.einsum("bgrs,bgsk->bgrk", weights, seen),
        )

    zero = jnp.zeros(query.shape, keys.dtype)
    blocks = jnp.minimum(jnp.max(position), S - 1) // _BLOCK + 1
    _, total, weighted = jax.lax.fori_loop(0, blocks, read, (zero[..., :1] + _FLOOR, zero[..., :1], zero))
    return (weighted / total).reshape(B, 1, -1, K)


def _cumulative(logits: jax.Array, symbols: int, precision: int) -> jax.Array:
    """Returns the cumulative counts uint32 [B, symbols + 1] of the bytes' logits [B, 256]; any other symbol gets 1."""
    masked = jnp.pad(logits, ((0, 0), (0, symbols - BYTES)), constant_values=-jnp.inf)
    counts = cdf.quantise_logits(masked, precision)
    return jnp.pad(jnp.cumsum(counts, axis=-1, dtype=jnp.uint32), ((0, 0), (1, 0)))


def _bounds(params: Params, state: State, symbols: jax.Array) -> tuple[jax.Array, jax.Array]:
    del params
    lower = jnp.take_along_axis(state["cdf"], symbols[:, None], axis=1)[:, 0]
    return lower, jnp.take_along_axis(state["cdf"], symbols[:, None] + 1, axis=1)[:, 0]


def _probe(spec: Transformer, params: Params, start: Callable[[int], State], step: Callable[..., State]) -> str:
    """Returns a digest of what the step computes from fixed bytes, the same again in other rows.

    Raises:
      NumericsError: it is not the same.
    """
    generator = np.random.default_rng(0)
    texts = generator.integers(0, BYTES, (_PROBE_STEPS, spec.rows), np.int32)
    texts[:, : spec.rows // 2] = texts[:, :1]  # the same text in half of the rows
    restarts = generator.random(texts.shape) < 0.25
    restarts[:, : spec.rows // 2] = restarts[:, :1]
    steps = min(_PROBE_STEPS, spec.context)

    def run(order: np.ndarray) -> list[np.ndarray]:
        state = start(spec.rows)
        for index in range(steps):
            state = step(params, state, texts[index, order], restarts[index, order])
        written = jax.tree.map(lambda cache: np.asarray(cache[:, :, :steps]), (state["keys"], state["values"]))
        return [array[np.argsort(order)] for array in (np.asarray(state["cdf"]), *jax.tree.leaves(written))]

    straight, mixed = run(np.arange(spec.rows)), run(np.roll(np.arange(spec.rows), 5))
    for first, second in zip(straight, mixed, strict=True):
        if not (np.array_equal(first, second) and (first[: spec.rows // 2] == first[0]).all()):
            raise NumericsError(
                f"On this device ({jax.devices()[0].device_kind}) the same text gives other numbers in another row, so "
                f"what one row encodes, another could not decode. Use another number of `rows` than {spec.rows}, or "
                "another device."
            )
    return _digest(straight)


def _digest(arrays: Iterator[np.ndarray] | Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()[:16]


@cached_engine
def _forward(spec: Transformer, tables: Tables) -> tuple[Params, Callable[..., jax.Array]]:
    """Returns the parameters, and (params, ids int32 [B, T], ends int32 [B]) -> logits [B, 256] at each row's end."""
    backbone = _float32(spec.backbone)

    def forward(params: Params, ids: jax.Array, ends: jax.Array) -> jax.Array:
        x = layers.embed(params["embedding"], ids)
        hidden = transformer(backbone, params["backbone"], x, jnp.arange(ids.shape[1])[None], attention)
        last = jnp.take_along_axis(hidden, ends[:, None, None], axis=1)
        return layers.readout(params["embedding" if spec.tied else "output"], last, BYTES)[:, 0]

    return to_params(tables), jax.jit(forward)


def _batches(texts: Sequence[bytes]) -> Iterator[tuple[list[int], np.ndarray]]:
    """Yields (indices of texts that are not empty, their bytes int32 [B, T]) in few shapes; rows may be left over."""
    order = sorted((index for index, text in enumerate(texts) if text), key=lambda index: len(texts[index]))
    while order:
        length = _bucket(len(texts[order[0]]))
        rows = max(8, min(_FORWARD_ROWS, _FORWARD_SYMBOLS // length))
        fitting = next((n for n, index in enumerate(order) if len(texts[index]) > length), len(order))
        rows = rows if fitting >= rows else max(8, rows // 8)
        chosen, order = order[: min(rows, fitting)], order[min(rows, fitting) :]
        ids = np.zeros((rows, length), np.int32)
        for row, index in enumerate(chosen):
            ids[row, : len(texts[index])] = np.frombuffer(texts[index], np.uint8)
        yield chosen, ids


def _bucket(length: int) -> int:
    """The row length for `length` symbols: a multiple of 8 up to 32, then a power of two."""
    return -(-length // 8) * 8 if length <= 32 else 1 << (length - 1).bit_length()

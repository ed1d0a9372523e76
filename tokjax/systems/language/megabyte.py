"""MEGABYTE: fixed patches of bytes, a global model over patches, a local model inside each
(Yu et al., NeurIPS 2023, arXiv 2305.07185).

Letters: `B` batch, `T` bytes, `P` bytes of a patch, `N` patches, `D` width.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Batch, Params
from tokjax.nn import layers
from tokjax.nn.attention import attention
from tokjax.nn.packing import shift_right
from tokjax.nn.param import Param, fan_in
from tokjax.nn.transformer import TransformerSpec, attention_cost, declare_transformer, transformer, transformer_flops
from tokjax.objectives.language import LanguageSystem

VOCAB_SIZE = 257  # bytes and the end of document


@systems.register(
    "megabyte",
    papers=(
        Paper(
            title="MEGABYTE: Predicting Million-byte Sequences with Multiscale Transformers",
            authors="Yu et al.",
            year=2023,
            url="https://arxiv.org/abs/2305.07185",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Megabyte(LanguageSystem):
    """Fixed patches of bytes, global model over patches, local model inside.

    Departures from the paper: rows hold several documents, so a patch reads only the bytes of the document that its
    last byte belongs to, and a byte reads only patches of its own document; the start vector stands in for the global
    output that a first patch lacks instead of being fed to the global stack; positions are rotary, and each stack ends
    in its norm.

    Attributes:
      backbone: the global stack, over patches.
      local: the stack inside a patch.
      patch: P, bytes of a patch; row lengths are multiples of it.
      vocab_size: 256 bytes and the end of document.
    """

    tokenizer = "bytes"

    backbone: TransformerSpec
    local: TransformerSpec
    patch: int = 8
    vocab_size: int = VOCAB_SIZE

    def __post_init__(self):
        check(self.vocab_size == VOCAB_SIZE, "vocab_size", self.vocab_size, f"megabyte reads {VOCAB_SIZE} symbols.")
        check(self.patch >= 1, "patch", self.patch, "must be at least 1 byte.")

    @property
    def alignment(self) -> int:
        """Patches are counted from the start of the row."""
        return self.patch

    def declare(self) -> Any:
        """Declares both embeddings, both stacks, the map from a patch to its bytes, and the readout (tied)."""
        P, wide, local = self.patch, self.backbone.width, self.local.width
        return {
            "patch_embedding": layers.declare_embedding(self.vocab_size, local),
            "to_patch": Param((P, local, wide), (None, "embed", "mlp"), fan_in(P * local)),
            "start": Param((wide,), ("embed",), fan_in(wide), decay=False),
            "backbone": declare_transformer(self.backbone),
            "to_bytes": Param((wide, P, local), ("mlp", None, "embed"), fan_in(wide)),
            "embedding": layers.declare_embedding(self.vocab_size, local),
            "local": declare_transformer(self.local),
        }

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, float]:
        """Logits [B, T, V] of each target; nothing can overflow. T is padded to whole patches."""
        B, length = batch.ids.shape
        P = self.patch
        pad = -length % P
        ids, segments = (jnp.pad(x, ((0, 0), (0, pad))).reshape(B, -1, P) for x in (batch.ids, batch.segment_ids))
        dtype = self.local.dtype
        N = ids.shape[1]

        # Global: patch j reads its bytes, and its output serves the bytes of patch j + 1.
        last = segments[..., -1]
        own = (segments == last[..., None])[..., None]
        pieces = layers.embed(params["patch_embedding"], ids, dtype) * own
        patches = layers.project(pieces, params["to_patch"], inputs=2)
        attend = functools.partial(attention, segment_ids=last, causal=True, implementation=self.backbone.attention)
        patches = transformer(self.backbone, params["backbone"], patches, jnp.arange(N), attend)
        start = jnp.broadcast_to(params["start"].astype(patches.dtype), (B, 1, patches.shape[-1]))
        previous = jnp.concatenate([start, patches[:, :-1]], axis=1)
        known = (shift_right(last)[..., None] == segments)[..., None]
        context = jnp.where(known, previous[:, :, None], params["start"].astype(previous.dtype))
        context = jnp.einsum("bnpw,wpd->bnpd", context, params["to_bytes"].astype(previous.dtype))

        # Local: causal inside each patch, every patch a row of its own.
        x = (layers.embed(params["embedding"], ids, dtype) + context).reshape(B * N, P, -1)
        attend = functools.partial(
            attention, segment_ids=segments.reshape(B * N, P), causal=True, implementation=self.local.attention
        )
        x = transformer(self.local, params["local"], x, jnp.arange(P), attend)
        x = x.reshape(B, N * P, -1)[:, :length]
        return layers.readout(params["embedding"], x, self.vocab_size), 0.0

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one [batch_size, length] batch."""
        P, wide, local = self.patch, self.backbone.width, self.local.width
        N = -(-length // P)
        total = transformer_flops(self.backbone, batch_size, N, attention_cost(self.backbone, batch_size, N))
        total += transformer_flops(self.local, batch_size * N, P, attention_cost(self.local, batch_size * N, P))
        maps = 2.0 * batch_size * N * P * wide * local * 2
        return total + maps + 2.0 * batch_size * length * self.vocab_size * local

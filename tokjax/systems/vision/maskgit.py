"""MaskGIT: a generator of the codes of an image tokenizer, all of them at once and the most certain first."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import Paper, systems
from tokjax.core.spec import check
from tokjax.core.types import Aux, Params, System
from tokjax.data.images.code_rows import CodeBatch
from tokjax.generate.masked import MaskedSamplingSpec, SamplingPlan, fill, masked_share
from tokjax.nn.latent_vit import declare_vectors
from tokjax.nn.layers import declare_embedding, embed
from tokjax.nn.vit import ViTSpec, declare_dense, declare_layer_norm, declare_vit, dense, layer_norm, vit, vit_flops


@systems.register(
    "maskgit",
    papers=(
        Paper(
            title="MaskGIT: Masked Generative Image Transformer",
            authors="Chang, Zhang, Jiang, Liu, Freeman",
            year=2022,
            url="https://arxiv.org/abs/2202.04200",
        ),
        Paper(
            title="An Image is Worth 32 Tokens for Reconstruction and Generation",
            authors="Yu, Weber, Deng, Shen, Cremers, Chen",
            year=2024,
            url="https://arxiv.org/abs/2406.07550",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskGit(System):
    """Codes predicted from those that are not masked, and from the class of the image; batches are `CodeBatch`.

    As TiTok trains it: the share of masked codes is arccos(u) / (pi / 2), u uniform. Blocks have their norms before
    them and there is no dropout, where the published model is a BERT with its norms after and a dropout of 0.1.

    Attributes:
      tokens: T, codes of an image.
      vocab_size: V, codes there are.
      classes: classes there are; 0 where images have none.
      body: shape of the stack.
      label_smoothing: share of the target that is spread over all codes.
      unmasked_weight: weight in the loss of codes that are not masked.
      class_drop: share of images that lose their class, so that guidance has predictions without one.
    """

    tokens: int
    vocab_size: int
    classes: int
    body: ViTSpec
    label_smoothing: float = 0.1
    unmasked_weight: float = 0.1
    class_drop: float = 0.1

    def __post_init__(self):
        check(self.tokens >= 1, "tokens", self.tokens, "must be at least 1.")
        check(self.vocab_size >= 2, "vocab_size", self.vocab_size, "must be at least 2.")
        check(self.classes >= 0, "classes", self.classes, "must be 0, for none, or more.")
        for field in ("label_smoothing", "unmasked_weight", "class_drop"):
            check(0 <= getattr(self, field) <= 1, field, getattr(self, field), "use a number from 0 to 1.")

    @property
    def unknown(self) -> int:
        """The id of a masked code."""
        return self.vocab_size

    def declare(self) -> Any:
        D = self.body.width
        return {
            # codes, the masked code, no class, classes
            "embedding": declare_embedding(self.vocab_size + 2 + self.classes, D),
            "positions": declare_vectors(D, self.tokens + 1),
            "blocks": declare_vit(self.body),
            "final_norm": declare_layer_norm(D),
            "head": declare_dense(D, self.vocab_size, ("embed", "vocab")),
        }

    def logits(self, params: Params, codes: jax.Array, labels: jax.Array) -> jax.Array:
        """Returns logits of every code, float32 [B, T, V].

        Args:
          params: arrays as declared.
          codes: int32 [B, T]; `unknown` where masked.
          labels: int32 [B], index of the class; -1 where there is none.
        """
        ids = jnp.concatenate([labels[:, None] + self.vocab_size + 2, codes], axis=1)
        x = embed(params["embedding"], ids) + embed(params["positions"], jnp.arange(self.tokens + 1))
        x = layer_norm(params["final_norm"], vit(self.body, params["blocks"], x)[:, 1:].astype(jnp.float32))
        return dense(params["head"], x)

    def loss(
        self, params: Params, state: Params, batch: CodeBatch, key: jax.Array
    ) -> tuple[jax.Array, tuple[Params, Aux]]:
        """Cross-entropy in nats per code, a code that is not masked counting `unmasked_weight`."""
        masked = mask_codes(named(key, "masks"), *batch.codes.shape)
        dropped = jax.random.uniform(named(key, "classes"), batch.labels.shape) < self.class_drop
        labels = jnp.where(dropped, -1, batch.labels)
        logits = self.logits(params, jnp.where(masked, self.unknown, batch.codes), labels)
        log_probs = jax.nn.log_softmax(logits, axis=-1)
        nll = -jnp.take_along_axis(log_probs, batch.codes[..., None], axis=-1)[..., 0]
        smooth = (1 - self.label_smoothing) * nll - self.label_smoothing * jnp.mean(log_probs, axis=-1)
        weights = jnp.where(masked, 1.0, self.unmasked_weight) * batch.mask[:, None]
        total, weight = jnp.sum(weights * smooth), jnp.sum(weights)
        seen = masked * batch.mask[:, None]
        correct = jnp.argmax(logits, axis=-1) == batch.codes
        aux = {
            "loss": (total, weight),
            "masked_nll": (jnp.sum(seen * nll), jnp.sum(seen)),
            "masked_accuracy": (jnp.sum(seen * correct), jnp.sum(seen)),
        }
        return total / jnp.maximum(weight, 1e-8), (state, aux)

    def sample(self, params: Params, labels: jax.Array, key: jax.Array, *, sampling: MaskedSamplingSpec) -> jax.Array:
        """Returns codes int32 [B, T] of images of the classes `labels` int32 [B]; -1 for any.

        Raises:
          SpecError: guidance of a model without classes.
        """
        check(self.classes > 0 or not sampling.guided, "guidance", sampling.guidance, "there are no classes; use none.")
        return self._fill(params, labels, key, SamplingPlan.of(sampling, self.tokens))

    @functools.partial(jax.jit, static_argnames="self")
    def _fill(self, params: Params, labels: jax.Array, key: jax.Array, plan: SamplingPlan) -> jax.Array:
        return fill(functools.partial(self.logits, params), labels, key, plan, unknown=self.unknown)[-1]

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of `batch_size` images of `length` codes, which is T."""
        head = 2.0 * batch_size * length * self.body.width * self.vocab_size
        return head + vit_flops(self.body, batch_size, length + 1)


def mask_codes(key: jax.Array, rows: int, tokens: int) -> jax.Array:
    """Draws which codes are masked, bool [rows, tokens]: of each row at least one, a share as of `masked_share`."""
    of_share, of_order = jax.random.split(key)
    share = masked_share(jax.random.uniform(of_share, (rows, 1)))
    count = jnp.maximum(jnp.round(tokens * share), 1)
    order = jnp.argsort(jax.random.uniform(of_order, (rows, tokens)), axis=-1)
    return order < count

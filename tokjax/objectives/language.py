"""Next-symbol prediction: the base of every language system, and the one place where its loss is computed.

Letters: `B` batch, `T` tokens, `D` width, `V` vocabulary.
"""

import abc
import math
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from tokjax.core.errors import SpecError
from tokjax.core.types import Aux, Batch, Params, Scores, System


def score_logits(logits: jax.Array, batch: Batch, overflow: jax.Array | float = 0.0) -> Scores:
    """Scores every target of `batch` under `logits` [B, T, V], in float32."""
    logits = logits.astype(jnp.float32)
    target = jnp.take_along_axis(logits, batch.targets[..., None], axis=-1)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=-1) - target
    correct = jnp.argmax(logits, axis=-1) == batch.targets
    return Scores(
        nll=nll * batch.loss_mask,
        correct=correct * batch.loss_mask,
        overflow=jnp.asarray(overflow, jnp.float32),
    )


def metrics(scores: Scores, batch: Batch) -> Aux:
    """Returns mergeable (sum, count) metrics: loss (nats per target), bits per byte, accuracy, overflow."""
    targets = jnp.sum(batch.loss_mask)
    nats = jnp.sum(scores.nll)
    return {
        "loss": (nats, targets),
        "bits_per_byte": (nats / math.log(2.0), jnp.sum(batch.units * batch.loss_mask)),
        "accuracy": (jnp.sum(scores.correct), targets),
        "overflow": (scores.overflow, targets),
    }


def mean_loss(scores: Scores, state: Params, batch: Batch) -> tuple[jax.Array, tuple[Params, Aux]]:
    """Returns what `System.loss` returns: the mean negative log likelihood per target, in nats, and the metrics."""
    return jnp.sum(scores.nll) / jnp.maximum(jnp.sum(batch.loss_mask), 1.0), (state, metrics(scores, batch))


class LanguageSystem(System):
    """A system that predicts each symbol of a stream from those before it.

    A subclass gives `logits`; one that can do better than running the whole prefix again for every symbol also
    gives `init_decode` and `decode`.

    Attributes:
      tokenizer: registered name of the tokenizer it is usually trained on; None takes any.
      vocab_size: symbols, the end of document included; the last one.
    """

    tokenizer: ClassVar[str | None] = None
    vocab_size: int

    def accept(self, tokenizer_name: str, tokenizer: Any) -> None:
        """Raises SpecError unless the system can run on this tokenizer."""
        del tokenizer
        if self.tokenizer not in (None, tokenizer_name):
            raise SpecError(
                f"tokenizer.name: got {tokenizer_name!r}; {type(self).__name__} runs on {self.tokenizer!r} only."
            )

    @property
    def alignment(self) -> int:
        """Documents start at multiples of this in evaluation rows."""
        return 1

    @abc.abstractmethod
    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array | float]:
        """Returns (float32 logits [B, T, V] of each target, number of positions that overflowed a cap).

        `logits[:, t]` depends on `batch.ids[:, : t + 1]` only, and only on those of the same segment.
        """

    def score(self, params: Params, batch: Batch) -> Scores:
        """Returns the negative log likelihood and top-1 correctness of each target [B, T]."""
        logits, overflow = self.logits(params, batch)
        return score_logits(logits, batch, overflow)

    def nll(self, params: Params, batch: Batch) -> jax.Array:
        """Returns the negative log likelihood of each target in nats, [B, T]; 0 where masked."""
        return self.score(params, batch).nll

    def loss(self, params: Params, state: Params, batch: Batch, key: jax.Array) -> tuple[jax.Array, tuple[Params, Aux]]:
        """Mean negative log likelihood per target, in nats."""
        del key
        return mean_loss(self.score(params, batch), state, batch)

    def init_decode(self, params: Params, batch_size: int, slots: int) -> Any:
        """Returns the state of generating up to `slots` symbols per row."""
        del params
        return {"ids": jnp.zeros((batch_size, slots), jnp.int32), "length": jnp.zeros((), jnp.int32)}

    def decode(self, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        """Feeds one symbol per row, int32 [B]; returns (logits [B, V] of the next one, the new state)."""
        buffer = jax.lax.dynamic_update_slice(state["ids"], ids[:, None], (0, state["length"]))
        logits, _ = self.logits(params, stream_batch(buffer))
        return logits[:, state["length"]], {"ids": buffer, "length": state["length"] + 1}


def stream_batch(ids: jax.Array) -> Batch:
    """Returns the batch of unpacked rows `ids` [B, T]: one segment each, no targets that count."""
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1], dtype=jnp.int32), ids.shape)
    zeros = jnp.zeros_like(ids)
    return Batch(
        ids=ids,
        targets=zeros,
        loss_mask=jnp.zeros(ids.shape, jnp.float32),
        segment_ids=jnp.ones_like(ids),
        positions=positions,
        units=zeros,
    )

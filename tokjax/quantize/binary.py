"""Look-up free quantization: the sign of every channel is a bit; and the entropies that keep all codes in use.

With p(c | z) proportional to exp(2 z.c / t) over all sign vectors c, bits are independent: bit b is 1 with probability
sigmoid(4 s z_b / t), where s is the size of a sign. So the entropy of one vector's code is a sum over bits, exactly.
That of the mean of p over a batch is not: it is computed over all 2^D codes where they are few, or else over groups of
bits, whose sum is an upper bound, and is called one.

Letters: `N` vectors, `D` width and bits, `K` codes.
"""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.registry import Paper, quantizers
from tokjax.core.spec import check
from tokjax.core.types import Params, Quantized
from tokjax.quantize.base import Context, Quantizer, code_stats, entropy, masked_mean, mean_square
from tokjax.quantize.gradients import straight_through, unit

EXACT_BITS = 12  # up to so many, the distribution over all codes is computed
_CHUNK = 1 << 20  # probabilities that exist at once


def bit_entropy(logits: jax.Array) -> jax.Array:
    """Returns the entropy in nats of a bit that is 1 with probability sigmoid(`logits`), of any shape."""
    p = jax.nn.sigmoid(logits)
    return -(p * jax.nn.log_sigmoid(logits) + (1.0 - p) * jax.nn.log_sigmoid(-logits))


def code_distribution(logits: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean distribution over the 2^G codes of G independent bits, [2^G]; the first bit weighs most.

    Args:
      logits: [N, G], of each bit being 1.
      mask: bool [N], vectors that count.
    """
    N, G = logits.shape
    rows = max(1, min(N, _CHUNK >> G))
    blocks = jnp.pad(logits, ((0, -N % rows), (0, 0))).reshape(-1, rows, G)
    weights = jnp.pad(mask.astype(jnp.float32), (0, -N % rows)).reshape(-1, rows)

    @jax.checkpoint
    def add(total: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        logits, weights = inputs
        logs = jnp.zeros((rows, 1))
        for bit in range(G):
            both = jnp.stack([jax.nn.log_sigmoid(-logits[:, bit]), jax.nn.log_sigmoid(logits[:, bit])], axis=-1)
            logs = (logs[:, :, None] + both[:, None, :]).reshape(rows, -1)
        return total + weights @ jnp.exp(logs), None

    total = jax.lax.scan(add, jnp.zeros(1 << G), (blocks, weights))[0]
    return total / jnp.maximum(jnp.sum(mask), 1)


@quantizers.register(
    "lfq",
    papers=(
        Paper(
            title="Language Model Beats Diffusion: Tokenizer is Key to Visual Generation",
            authors="Yu, Lezama, Gundavarapu, Versari, Sohn, et al.",
            year=2023,
            url="https://arxiv.org/abs/2310.05737",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class LFQ(Quantizer):
    """The sign of every channel, one bit each; the first channel's bit weighs most in the code.

    Attributes:
      commitment: weight of the loss that pulls channels to their signs.
      entropy_weight: of the loss E[H(p)] - `diversity` H(E[p]), in nats.
      diversity: weight of the batch's entropy in it.
      inverse_temperature: 1 / t.
      group_bits: bits of a group whose joint distribution is computed for the batch's entropy, at most 12. It is exact
        where all D bits are one group, else an upper bound, and reported as such.
    """

    commitment: float = 0.25
    entropy_weight: float = 0.1
    diversity: float = 1.0
    inverse_temperature: float = 100.0
    group_bits: int = EXACT_BITS

    def __post_init__(self):
        super().__post_init__()
        fix = "codes are int32; use at most 30 channels, or `grouped:groups=2/lfq`."
        check(self.width <= 30, "width", self.width, fix)
        for field in ("commitment", "entropy_weight", "diversity"):
            check(getattr(self, field) >= 0, field, getattr(self, field), "must not be negative.")
        check(self.inverse_temperature > 0, "inverse_temperature", self.inverse_temperature, "must be above 0.")
        fix = f"use 1 to {EXACT_BITS}: a group has a distribution over 2^bits codes."
        check(1 <= self.group_bits <= EXACT_BITS, "group_bits", self.group_bits, fix)

    @property
    def sizes(self) -> tuple[int, ...]:
        return (1 << self.width,)

    @property
    def shrink(self) -> float:
        return 0.5

    @property
    def sign(self) -> float:
        """What a bit adds to or takes from its channel."""
        return 1.0

    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        mask, weights = context.mask, 1 << np.arange(self.width)[::-1]
        codes = jnp.sum((z > 0) * weights, axis=-1).astype(jnp.int32)
        signs = self.lookup(params, state, codes)
        error = mean_square(z - signs, mask)
        loss = self.commitment * error
        stats = code_stats(codes, mask, self.sizes[0], error)
        if self.entropy_weight and context.train:
            logits = 4.0 * self.sign * self.inverse_temperature * z
            of_code = masked_mean(jnp.sum(bit_entropy(logits), axis=-1), mask)
            groups = range(0, self.width, self.group_bits)
            of_batch = jnp.zeros(())
            for g in groups:
                of_batch += entropy(code_distribution(logits[:, g : g + self.group_bits], mask))
            loss = loss + self.entropy_weight * (of_code - self.diversity * of_batch)
            name = "batch_entropy" if len(groups) == 1 else "batch_entropy_bound"
            found = jax.lax.stop_gradient({"code_entropy": of_code, name: of_batch})
            stats |= {name: (value, jnp.ones(())) for name, value in found.items()}
        return Quantized(codes=codes, vectors=straight_through(z, signs), loss=loss, state=state, stats=stats)

    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        del params, state
        bits = codes[..., None] >> np.arange(self.width)[::-1] & 1
        return self.sign * (2.0 * bits - 1.0)


@quantizers.register(
    "bsq",
    papers=(
        Paper(
            title="Image and Video Tokenization with Binary Spherical Quantization",
            authors="Zhao, Xiong, Krähenbühl",
            year=2024,
            url="https://arxiv.org/abs/2406.07548",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class BSQ(LFQ):
    """The sign of every channel of a vector of unit length; signs are 1 / sqrt(D) large, so codes have unit length."""

    @property
    def additive(self) -> bool:
        return False

    @property
    def sign(self) -> float:
        return 1.0 / math.sqrt(self.width)

    def prepare(self, x: jax.Array) -> jax.Array:
        return unit(x)

"""The one signature of quantizers: (params, state, vectors, key) -> codes, vectors, loss, new state.

Letters: `B` batch, `N` vectors, `D` width, `K` codes, `S` codes of a vector.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp

from tokjax.core.keys import named
from tokjax.core.registry import quantizers
from tokjax.core.spec import build, check, read_named
from tokjax.core.types import Params, Quantized

NO_CODE = -1  # in place of a code that a vector does not have; it stands for the zero vector
_COUNTED = 1 << 20  # up to so many codes, each has a counter in the statistics of a batch


@flax.struct.dataclass
class Context:
    """What a quantizer is told beside the vectors.

    Attributes:
      mask: bool [N], vectors that count in losses and statistics.
      key: of random choices; there is one wherever `train` is set.
      samples: B, to which the N vectors belong, as many to each. Static.
      train: whether the state moves and random choices are made. Static.
    """

    mask: jax.Array
    key: jax.Array | None
    samples: int = flax.struct.field(pytree_node=False)
    train: bool = flax.struct.field(pytree_node=False)

    def named(self, name: str) -> jax.Array:
        """Returns the key of the random choices `name`."""
        assert self.key is not None
        return named(self.key, name)

    def per_vector(self, of_samples: jax.Array) -> jax.Array:
        """Returns what each vector's sample has in `of_samples` [B], [N]."""
        return jnp.repeat(of_samples, len(self.mask) // self.samples, total_repeat_length=len(self.mask))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer(abc.ABC):
    """Base of quantizer specs: pure functions of parameters, which gradients train, and a state, which they do not.

    Codes, losses and statistics are computed in float32 whatever the vectors are.

    Attributes:
      width: D.
    """

    width: int

    def __post_init__(self):
        check(self.width >= 1, "width", self.width, "must be at least 1.")

    @property
    @abc.abstractmethod
    def sizes(self) -> tuple[int, ...]:
        """K of each of the S codes of a vector."""

    @property
    def code_width(self) -> int:
        """Width of the vectors that codes stand for; D, but where a quantizer only labels."""
        return self.width

    @property
    def additive(self) -> bool:
        """Whether what codes leave of a vector can be quantized in turn, as `residual` and `multiscale` do.

        Not where codes have a fixed length, or a gradient other than that of the vector they stand for.
        """
        return True

    @property
    def shrink(self) -> tuple[float, ...] | float:
        """Range of what codes leave of a vector over that of the vector, per channel; 1 where it adapts."""
        return 1.0

    @property
    def centre(self) -> tuple[float, ...] | float:
        """Middle of the range of vectors, per channel; that of what codes leave is 0."""
        return 0.0

    def declare(self) -> Any:
        """Returns the declarations of what gradients train."""
        return {}

    def init_state(self, key: jax.Array) -> Params:
        """Returns what a run starts with of what gradients do not train."""
        del key
        return {}

    def prepare(self, x: jax.Array) -> jax.Array:
        """Returns `x` [..., D] moved into the space that codes lie in: bounded, or of unit length; differentiable."""
        return x

    @abc.abstractmethod
    def assign(self, params: Params, state: Params, z: jax.Array, context: Context) -> Quantized:
        """Quantizes prepared vectors, float32 [N, D]; see `quantize`.

        Returns:
          Codes [N] or [N, S], vectors [N, code_width]; those of vectors that do not count are of no meaning.
        """

    @abc.abstractmethod
    def lookup(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        """Returns the vectors [N, code_width] of `codes` int32 [N], all of which exist; [N, S] may hold `NO_CODE`."""

    def quantize(
        self,
        params: Params,
        state: Params,
        x: jax.Array,
        key: jax.Array | None = None,
        *,
        mask: jax.Array | None = None,
        train: bool = False,
    ) -> Quantized:
        """Quantizes vectors.

        Args:
          params: arrays as declared.
          state: as of `init_state`, or what the last training step returned.
          x: [..., D], of any float type.
          key: of random choices, needed in training.
          mask: bool [...], vectors that exist; all by default. The others get `NO_CODE` and zero vectors, and count
            in neither loss nor statistics.
          train: whether the state moves and random choices are made.

        Returns:
          Codes int32 [...], or [..., S] where a vector has several; vectors [..., code_width] of the type of `x`, equal
          to `dequantize(codes)` where nothing is drawn; the rest as of `Quantized`.

        Raises:
          SpecError: `x` has another width, or training has no key.
        """
        self._check(x, key, train)
        lead = x.shape[:-1]
        mask = jnp.ones(lead, bool) if mask is None else jnp.broadcast_to(mask, lead)
        flat = mask.reshape(-1)
        z = self.prepare(x.astype(jnp.float32).reshape(-1, self.width))
        samples = lead[0] if len(lead) > 1 else 1
        found = self.assign(params, state, z, Context(mask=flat, key=key, samples=samples, train=train))
        codes = jnp.where(flat.reshape(-1, *(1,) * (found.codes.ndim - 1)), found.codes, NO_CODE).astype(jnp.int32)
        vectors = jnp.where(flat[:, None], found.vectors, 0.0).astype(x.dtype)
        return dataclasses.replace(
            found, codes=codes.reshape(*lead, *codes.shape[1:]), vectors=vectors.reshape(*lead, vectors.shape[-1])
        )

    def _check(self, x: jax.Array, key: jax.Array | None, train: bool) -> None:
        check(x.shape[-1] == self.width, "width", self.width, f"the vectors have {x.shape[-1]} channels.")
        check(not train or key is not None, "key", key, "training makes random choices; give a key.")

    def dequantize(self, params: Params, state: Params, codes: jax.Array) -> jax.Array:
        """Returns the vectors float32 [..., code_width] of `codes` as of `quantize`; zero for `NO_CODE`."""
        lead = codes.shape if len(self.sizes) == 1 else codes.shape[:-1]
        flat = codes.reshape(-1, *codes.shape[len(lead) :])
        if flat.ndim == 1:
            vectors = jnp.where(flat[:, None] >= 0, self.lookup(params, state, jnp.maximum(flat, 0)), 0.0)
        else:
            vectors = self.lookup(params, state, flat)
        return vectors.reshape(*lead, self.code_width)

    def codes_shape(self, lead: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the shape of the codes of vectors [*lead, D]."""
        return lead if len(self.sizes) == 1 else (*lead, len(self.sizes))

    def bits(self, lead: tuple[int, ...]) -> float:
        """Returns the bits that the codes of vectors [*lead, D] take, all codes equally likely."""
        return math.prod(lead) * sum(math.log2(size) for size in self.sizes)

    def flops(self, count: int) -> float:
        """Returns the forward FLOPs of the matrix products that quantize `count` vectors."""
        del count
        return 0.0


def quantizer(config: str | Mapping[str, Any], *, width: int) -> Quantizer:
    """Returns the quantizer of a text or of the fields of a configuration.

    A text is NAME or NAME:field=value:..., as in `vq:codes=1024:update=ema` or `fsq:levels=8,8,8,5,5,5`; a quantizer
    made of others comes before a slash, as in `residual:depth=8/vq:codes=1024`.

    Args:
      config: the text, or its fields with the `name` among them.
      width: D.

    Raises:
      UnknownNameError, SpecError: no such quantizer, no such field, or an impossible value.
    """
    if isinstance(config, str):
        outer, slash, inner = config.partition("/")
        name, fields = read_named(outer, where="quantizer")
        if slash:
            fields["base"] = inner
    else:
        fields = dict(config)
        check("name" in fields, "quantizer.name", None, "`tokjax quantizers` lists the names.")
        name = fields.pop("name")
    return build(quantizers[name], {**fields, "width": width}, where="quantizer")


def mean_square(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of the squares of `x` [N, D] over the vectors of `mask` bool [N]; 0 where there is none."""
    total = jnp.sum(jnp.where(mask[:, None], jnp.square(x), 0.0))
    return total / (jnp.maximum(jnp.sum(mask), 1) * x.shape[-1])


def masked_mean(x: jax.Array, mask: jax.Array) -> jax.Array:
    """Returns the mean of `x` [N, ...] over the vectors of `mask` bool [N]; 0 where there is none."""
    mask = mask.reshape(-1, *(1,) * (x.ndim - 1))
    return jnp.sum(jnp.where(mask, x, 0.0), axis=0) / jnp.maximum(jnp.sum(mask), 1)


def count_codes(codes: jax.Array, mask: jax.Array, size: int) -> jax.Array:
    """Returns how often each code occurs among the vectors of `mask` bool [N], float32 [size]."""
    return jnp.zeros(size, jnp.float32).at[codes].add(mask.astype(jnp.float32))


def entropy(probabilities: jax.Array) -> jax.Array:
    """Returns the entropy in nats over the last axis; its gradient is finite at 0."""
    positive = probabilities > 0
    return -jnp.sum(jnp.where(positive, probabilities * jnp.log(jnp.where(positive, probabilities, 1.0)), 0.0), axis=-1)


def code_stats(
    codes: jax.Array, mask: jax.Array, size: int, error: jax.Array
) -> dict[str, tuple[jax.Array, jax.Array]]:
    """Returns what every quantizer reports of a batch: perplexity and share of codes in use, and the squared error.

    Args:
      codes: int32 [N].
      mask: bool [N], vectors that count.
      size: K.
      error: scalar, mean squared error per channel.
    """
    if size > _COUNTED:  # numbers the codes that occur, of which there are at most N
        ordered = jnp.sort(jnp.where(mask, codes, -1))
        new = jnp.diff(ordered, prepend=-1) != 0
        counts = count_codes(jnp.cumsum(new), ordered >= 0, len(codes) + 1)
    else:
        counts = count_codes(codes, mask, size)
    perplexity = jnp.exp(entropy(counts / jnp.maximum(jnp.sum(counts), 1.0)))
    one = jnp.ones((), jnp.float32)
    return {
        "perplexity": (perplexity, one),
        "codes_used": (jnp.sum(counts > 0) / size, one),
        "quantization_error": (jax.lax.stop_gradient(error), one),
    }

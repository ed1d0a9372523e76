"""Drawing an image's codes with a language model: after its class, nothing but codes, with guidance if wanted.

    vocabulary = CodeVocabulary(codes=tokenizer.vocab_size, classes=10)
    drawn = generate(CodeGenerator(system=lm, vocabulary=vocabulary), params, vocabulary.prompt(labels), key, steps=k)
    pixels = tokenizer.decode(tokenizer_params, state, as_prefix(drawn, tokenizer.tokens), key)

Letters: `B` batch, `T` codes of an image, `V` vocabulary.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from tokjax.core.spec import check
from tokjax.core.types import Batch, Params
from tokjax.data.images.code_rows import CodeVocabulary
from tokjax.generate.sampling import SamplingSpec
from tokjax.objectives.language import LanguageSystem
from tokjax.quantize import NO_CODE


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeSamplingSpec(SamplingSpec):
    """How the next code is chosen.

    Attributes:
      guidance: of `CodeGenerator`.
    """

    guidance: float = 1.0

    @property
    def of_id(self) -> SamplingSpec:
        """The same without guidance, which the generator has applied."""
        return SamplingSpec(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)


@dataclasses.dataclass(frozen=True, kw_only=True)
class CodeGenerator(LanguageSystem):
    """A language system that says codes only, for the loops of `generate.decoding`.

    Attributes:
      system: what was trained on rows of `data.images.code_rows`.
      vocabulary: what its ids stand for.
      guidance: s of classifier-free guidance, u + s (c - u) of the logits with and without the class; 1 is without
        guidance, at half the cost.
    """

    system: LanguageSystem
    vocabulary: CodeVocabulary
    guidance: float = 1.0

    def __post_init__(self):
        fix = f"these rows have {self.vocabulary.size} ids; give a model of as many."
        check(self.system.vocab_size == self.vocabulary.size, "system.vocab_size", self.system.vocab_size, fix)
        check(self.guidance >= 0, "guidance", self.guidance, "must not be negative; 1 is no guidance.")
        told = self.vocabulary.classes > 0 or self.guidance == 1
        check(told, "guidance", self.guidance, "there are no classes; leave it 1.")

    @property
    def vocab_size(self) -> int:  # type: ignore[override]
        """V of the system."""
        return self.system.vocab_size

    def _codes_only(self, logits: jax.Array) -> jax.Array:
        return jnp.where(jnp.arange(self.vocab_size) < self.vocabulary.codes, logits, -jnp.inf)

    def declare(self) -> Any:
        """The declarations of the system."""
        return self.system.declare()

    def logits(self, params: Params, batch: Batch) -> tuple[jax.Array, jax.Array | float]:
        """Logits [B, T, V] of each target, without guidance; -inf for what is no code."""
        logits, overflow = self.system.logits(params, batch)
        return self._codes_only(logits), overflow

    def init_decode(self, params: Params, batch_size: int, slots: int) -> Any:
        """The state of the system, for twice the rows under guidance."""
        return self.system.init_decode(params, batch_size * (1 if self.guidance == 1 else 2), slots)

    def decode(self, params: Params, state: Any, ids: jax.Array) -> tuple[jax.Array, Any]:
        """Feeds one id per row, int32 [B]; returns (logits [B, V] under guidance, the new state)."""
        if self.guidance == 1:
            logits, state = self.system.decode(params, state, ids)
            return self._codes_only(logits), state
        untold = jnp.where(ids < self.vocabulary.codes, ids, self.vocabulary.no_class)
        logits, state = self.system.decode(params, state, jnp.concatenate([ids, untold]))
        told, untold = jnp.split(logits, 2)
        return self._codes_only(untold + self.guidance * (told - untold)), state

    def flops(self, batch_size: int, length: int) -> float:
        """Forward FLOPs of one batch, both passes of guidance included."""
        return self.system.flops(batch_size * (1 if self.guidance == 1 else 2), length)


def as_prefix(codes: jax.Array, tokens: int) -> jax.Array:
    """Returns the first codes of images, int32 [B, k], as an ordered tokenizer of T = `tokens` decodes them: [B, T]."""
    return jnp.pad(codes, ((0, 0), (0, tokens - codes.shape[1])), constant_values=NO_CODE)

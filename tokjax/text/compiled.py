"""An entropy model compiled into a table: its most probable strings, each with an id, found by longest match."""

import dataclasses
import logging

import jax

from tokjax.coding import strings
from tokjax.coding.entropy import fit_entropy
from tokjax.coding.papers import LESTER
from tokjax.core.registry import Paper, tokenizers
from tokjax.core.spec import check
from tokjax.core.types import Source, Tables
from tokjax.text.string_table import StringTable

log = logging.getLogger(__name__)

SMALLEST, LARGEST = 257, 1 << 17


@tokenizers.register(
    "compiled",
    papers=(
        LESTER,
        Paper(
            title="Synthesis of noiseless compression codes",
            authors="Tunstall",
            year=1967,
            url="https://en.wikipedia.org/wiki/Tunstall_coding",
        ),
    ),
)
@dataclasses.dataclass(frozen=True, kw_only=True)
class Compiled(StringTable):
    """The most probable strings of an entropy model, by longest match: equal-information tokens without the model.

    Where one window of the paper's equal-info compression makes one token, every token is a string in a fixed table.
    This builds that table directly: the single bytes and then the strings of greatest probability. It encodes any
    bytes without loss.

    Attributes:
      vocab_size: how many strings, the 256 bytes included.
      entropy: the model: `ngram`, `unigram`, either with fields as in `ngram:order=4`, or the directory of a trained
        one.
    """

    vocab_size: int = 8192
    entropy: str = "ngram"

    def __post_init__(self):
        fix = f"use {SMALLEST} to {LARGEST}: the 256 bytes come first, and ids must fit 17 bits."
        check(SMALLEST <= self.vocab_size <= LARGEST, "vocab_size", self.vocab_size, fix)

    def fit(self, source: Source, key: jax.Array | None = None) -> Tables:
        """Fits the entropy model to every record and takes its most probable strings. `key` is not used.

        Raises:
          SourceError: the source holds no bytes.
        """
        del key
        model = fit_entropy(self.entropy, source)
        tables = strings.from_strings(strings.most_probable(model.next_probabilities, self.vocab_size))
        if self.size(tables) < self.vocab_size:
            log.warning("the model supports %d ids of the %d asked for", self.size(tables), self.vocab_size)
        return tables

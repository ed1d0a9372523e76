"""Tasks that only the context answers: look a key up in a list of pairs, or apply a permutation shown by example.

Source: Huang et al. 2023, section 4.3 (LookUp and Permutation). Symbols mean nothing by themselves.

Letters: `B` rows, `T` positions, `A` symbols of the alphabet.
"""

import dataclasses
from typing import Literal

import numpy as np

from tokjax.core.spec import check
from tokjax.core.types import Batch


@dataclasses.dataclass(frozen=True)
class Task:
    """One kind of row: the end of the document before it, examples, then questions whose answers are the targets.

    Attributes:
      kind: `lookup`: pairs of key and value, then `questions` keys from among them, each followed by its value.
        `permutation`: groups of `size` symbols, each followed by the same rearrangement of them; the last `questions`
        groups are asked for.
      size: pairs of a list, or symbols of a group.
      questions: how many answers a row asks for.
      examples: groups that are shown before the questions; not used by `lookup`.
    """

    kind: Literal["lookup", "permutation"]
    size: int
    questions: int = 4
    examples: int = 4

    def __post_init__(self):
        check(self.kind in ("lookup", "permutation"), "kind", self.kind, "use 'lookup' or 'permutation'.")
        check(self.size >= 2, "size", self.size, "use at least 2.")
        check(self.questions >= 1, "questions", self.questions, "use at least 1.")
        check(self.kind == "lookup" or self.examples >= 1, "examples", self.examples, "show at least 1.")

    @property
    def length(self) -> int:
        """T."""
        if self.kind == "lookup":
            return 2 * (self.size + self.questions)
        return 2 * self.size * (self.examples + self.questions)

    def batch(
        self, generator: np.random.Generator, rows: int, alphabet: np.ndarray, end_of_document: int, fewest: int = 0
    ) -> Batch:
        """Draws `rows` rows of T positions over the ids in `alphabet` [A]; only answers count in the loss.

        Args:
          generator: of every choice.
          rows: B.
          alphabet: int [A].
          end_of_document: the id that rows start with.
          fewest: rows of smaller tasks among the others, of any size from this to `size`, with more questions instead;
            0 for none. Small ones are learned sooner, and help with the larger.

        Raises:
          SpecError: the alphabet is smaller than what a row needs: 2 `size` different symbols for `lookup`, `size` for
            `permutation`; or `fewest` is above `size` or 1.
        """
        needed = 2 * self.size if self.kind == "lookup" else self.size
        check(len(alphabet) >= needed, "alphabet", len(alphabet), f"use at least {needed} symbols.")
        check(not fewest or 2 <= fewest <= self.size, "fewest", fewest, f"use 0, or 2 to {self.size}.")
        make = self._lookup if self.kind == "lookup" else self._permutation
        sizes = generator.integers(fewest or self.size, self.size + 1, rows)
        drawn = [make(generator, alphabet, size) for size in sizes.tolist()]
        targets = np.stack([symbols for symbols, _ in drawn]).astype(np.int32)
        asked = np.stack([asked for _, asked in drawn]).astype(np.float32)
        ids = np.concatenate([np.full((rows, 1), end_of_document, np.int32), targets[:, :-1]], axis=1)
        ones = np.ones_like(ids)
        positions = np.broadcast_to(np.arange(self.length, dtype=np.int32), ids.shape)
        arrays = {"ids": ids, "targets": targets, "loss_mask": asked, "segment_ids": ones, "units": ones}
        return Batch(**arrays, positions=positions)  # type: ignore[arg-type]  # host arrays

    def _lookup(self, generator: np.random.Generator, alphabet: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        pairs = generator.choice(alphabet, (size, 2), replace=False)
        asked = pairs[generator.integers(0, size, self.length // 2 - size)]
        symbols = np.concatenate([pairs.ravel(), asked.ravel()])
        place = np.arange(self.length)
        return symbols, (place >= 2 * size) & (place % 2 == 1)

    def _permutation(
        self, generator: np.random.Generator, alphabet: np.ndarray, size: int
    ) -> tuple[np.ndarray, np.ndarray]:
        order = generator.permutation(size)
        groups = [generator.choice(alphabet, size, replace=False) for _ in range(-(-self.length // (2 * size)))]
        symbols = np.concatenate([np.concatenate([group, group[order]]) for group in groups])[: self.length]
        group, place = np.divmod(np.arange(self.length), 2 * size)
        return symbols, (group >= self.examples) & (place >= size)

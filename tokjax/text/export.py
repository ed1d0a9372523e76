"""Fitted tokenizers as Hugging Face `tokenizer.json`, with the same ids for any text.

The file holds the tokens alone: the end-of-document id is the trainer's, and no token of the file.
"""

import itertools
import pathlib
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tokjax.coding import strings
from tokjax.core import vocabulary
from tokjax.core.errors import TokenizerError
from tokjax.core.files import write_text
from tokjax.core.types import Tables
from tokjax.text.fitted import Fitted
from tokjax.text.subwords import BPE, byte_level, to_symbols

if TYPE_CHECKING:
    import tokenizers as hf

LONGEST = 1000  # bytes in a string; the regex engine refuses patterns nested much deeper


def export_tokenizer(fitted: Fitted, path: pathlib.Path) -> None:
    """Writes `fitted` as a tokenizer.json that `tokenizers.Tokenizer.from_file` reads.

    Raises:
      TokenizerError: no form in the file gives the same ids.
      OutputError: `path` cannot be written.
    """
    write_text(path, to_hf(fitted).to_str() + "\n")


def to_hf(fitted: Fitted) -> "hf.Tokenizer":
    """Returns the `tokenizers.Tokenizer` that gives the ids of `fitted` for any text, and decodes them.

    Tables of strings (`compiled`, and `equal_info` with mode=ids): exact without exception, though at a hundredth of
    the speed of `coding.match`. `bpe`: exact but in stretches of 64 KiB without a newline, which `pretokenize.segments`
    cuts and the file does not.

    Raises:
      TokenizerError: no form in the file gives the same ids.
    """
    from tokenizers import decoders

    if "parents" in fitted.tables:
        tokenizer = _string_table(fitted.tables)
    elif isinstance(fitted.spec, BPE):
        tokenizer = _bpe(fitted.spec, fitted.tables)
    else:
        raise TokenizerError(
            f"A tokenizer of kind {fitted.name!r} cannot be exported; `bpe`, `compiled` and `equal_info` with mode=ids "
            "can."
        )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _bpe(spec: BPE, tables: Tables) -> "hf.Tokenizer":
    """Every token with the one pair that encoding by rank ever makes it from, so that merging by list is by rank."""
    from tokenizers import models

    tokens = vocabulary.unpack(tables)
    ranks = {token: rank for rank, token in enumerate(tokens)}
    pairs = (last_pair(token, ranks) for token in tokens if len(token) > 1)
    merges = [(to_symbols(pair[0]), to_symbols(pair[1])) for pair in pairs if pair]
    ids = {to_symbols(token): rank for token, rank in ranks.items()}
    return byte_level(models.BPE(ids, merges, ignore_merges=True), spec.digits)


def last_pair(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """Returns the two parts that merge into `token` last, or None where its parts merge otherwise.

    Whatever surrounds a token, the merges inside it are those of the token alone, in the same order: so it comes from
    this pair or, as a whole piece, from none.
    """
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [left + right for left, right in itertools.pairwise(parts)]
        best = min(range(len(joined)), key=lambda place: ranks.get(joined[place], len(ranks)))
        if joined[best] not in ranks:
            return None
        parts[best : best + 2] = [joined[best]]
    return parts[0], parts[1]


def _string_table(tables: Tables) -> "hf.Tokenizer":
    """A regex that follows the tree of strings cuts the text: no model of `tokenizers` takes the longest match of whole
    texts in linear time. Every prefix of a string is one, so the greedy way through the tree is the longest match."""
    import tokenizers as hf
    from tokenizers import models, pre_tokenizers

    longest = int(strings.lengths(tables).max())
    if longest > LONGEST:
        raise TokenizerError(
            f"The longest string of the table has {longest} bytes; `tokenizers` reads patterns of up to {LONGEST}. "
            "Fit a smaller vocabulary or on less repetitive text."
        )
    ids = {to_symbols(token): index for index, token in enumerate(strings.unpack(tables))}
    tokenizer = hf.Tokenizer(models.WordLevel(ids, unk_token=to_symbols(b"\0")))
    to_byte_symbols = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = pre_tokenizers.Split(hf.Regex(tree_pattern(tables)), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([to_byte_symbols, split])
    return tokenizer


def tree_pattern(tables: Tables) -> str:
    """Returns the regex over byte symbols whose match is the longest string of the set, as in `t(?:h(?:e)?|[ao])?`."""
    symbols = [re.escape(to_symbols(bytes([byte]))) for byte in tables["last_bytes"].tolist()]
    branches: list[list[str]] = [[] for _ in symbols]
    leaves: list[list[str]] = [[] for _ in symbols]
    roots: list[str] = []
    for index in reversed(range(len(symbols))):  # children come after their parents
        parent = int(tables["parents"][index])
        below = _either(branches[index], leaves[index])
        if parent == strings.ROOT:
            roots.append(symbols[index] + below)
        elif below:
            branches[parent].append(symbols[index] + below)
        else:
            leaves[parent].append(symbols[index])
    return "|".join(roots)


def _either(branches: Sequence[str], leaves: Sequence[str]) -> str:
    """An optional choice between `branches`, which go on, and `leaves`, which are one symbol."""
    choices = [*branches, *([f"[{''.join(leaves)}]"] if leaves else [])]
    return f"(?:{'|'.join(choices)})?" if choices else ""

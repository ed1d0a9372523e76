"""A tokenized corpus as a source: its documents as text, its ids as they were stored."""

import dataclasses
from pathlib import Path

import numpy as np

from tokjax.core.errors import SourceError
from tokjax.core.registry import sources
from tokjax.data.address import split_options
from tokjax.data.documents import Documents
from tokjax.data.splits import SPLITS
from tokjax.data.tokenized import layout
from tokjax.data.tokenized.stored import StoredDocuments
from tokjax.data.tokenized.streamed import StreamedTokens
from tokjax.data.windows import TokenStream
from tokjax.text.fitted import Fitted


@sources.register("tokenized")
def tokenized(rest: str) -> "TokenizedDocuments":
    """A corpus that `tokjax tokenize` wrote: tokenized:DIR[?stream=true].

    With 'stream=true' training reads its ids little by little, in an order of its own (`data.blocks`), and never holds
    them all. It is for the address to say, and not for the size of the corpus or the machine: the same address gives
    the same rows everywhere.

    Raises:
      SourceError: there is none in the folder, it is not finished, or a part of it is missing or damaged.
      TokenizerError: its tokenizer is missing or damaged.
    """
    place, options = split_options("tokenized", rest, stream="false")
    if not place:
        raise SourceError("tokenized: names no folder. Write 'tokenized:DIR', as in `tokjax tokenize --out DIR`.")
    if options["stream"] not in ("true", "false"):
        raise SourceError(f"tokenized:{rest}: stream={options['stream']}; expected 'true' or 'false'.")
    directory = Path(place).expanduser()
    dataset = layout.read_dataset(directory)
    if len(dataset.of_shards) != dataset.shards:
        raise SourceError(f"{directory}: not finished. Give its `tokjax tokenize` command again: it goes on.")
    fitted = layout.read_tokenizer(directory, dataset)
    records = StoredDocuments(directory, dataset, fitted)
    return TokenizedDocuments(
        name=f"tokenized:{rest}",
        records=records,
        indices=np.arange(len(records)),
        digests=records.index.digests,
        sizes=records.index.sizes,
        duplicates=dataset.duplicates,
        opened=len(records),
        advice="Tokenize a larger source",
        streamed=options["stream"] == "true",
    )


@dataclasses.dataclass(kw_only=True, eq=False)
class TokenizedDocuments(Documents):
    """Documents whose ids are stored. They are those of the source that was tokenized, in its order.

    Attributes:
      streamed: training reads the ids little by little.
    """

    records: StoredDocuments
    streamed: bool = False

    @property
    def fitted(self) -> Fitted:
        """The tokenizer of the stored ids."""
        return self.records.fitted

    def split(self, name: str) -> "TokenizedDocuments":
        """Returns the documents in split `name`, which are the same as in the source that was tokenized.

        Raises:
          SourceError: no split has that name, or another one was tokenized.
        """
        held = self.records.dataset.split
        if name in SPLITS and held not in (name, "all"):
            raise SourceError(
                f"{self.name} holds only the {held} split of {self.records.dataset.source}, not {name}. "
                "Tokenize it with --split all, into another place."
            )
        split = super().split(name)
        assert isinstance(split, TokenizedDocuments)
        return split

    def token_stream(self, fitted: Fitted) -> TokenStream | StreamedTokens | None:
        """Returns the stored ids as a text to train on; without `streamed` what `windows.token_stream` gives.

        Args:
          fitted: the tokenizer that is asked for.

        Returns:
          The text, or None when the ids are of another tokenizer and not `streamed`.

        Raises:
          SourceError: there are no documents, a shard is damaged, or ids of another tokenizer are `streamed`.
        """
        if fitted.hash != self.fitted.hash:
            if self.streamed:
                raise SourceError(
                    f"{self.name}: holds ids of {self.fitted.name} {self.fitted.hash}, not of {fitted.name} "
                    f"{fitted.hash}. To stream, tokenize the source with that one, or train with the stored one."
                )
            return None
        self._require_documents()
        if self.streamed:
            return StreamedTokens(self.records, self.indices)
        counts, widths = self.records.index.counts[self.indices], self.records.index.unit_bytes[self.indices]
        end = fitted.end_of_document
        length = int(counts.sum()) + len(counts) + 1
        ids = np.full(length, end, np.uint16 if end < 2**16 else np.uint32)
        units = np.zeros(length, f"u{widths.max(initial=1)}")
        position = 1
        for record in self.records.read(self.indices):
            ids[position : position + len(record.ids)] = record.ids
            units[position : position + len(record.ids)] = record.units
            position += len(record.ids) + 1
        return TokenStream(ids=ids, units=units, end_of_document=end)

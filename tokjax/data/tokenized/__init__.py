"""Corpora that are tokenized once and trained on many times: sharded ArrayRecord, written by many processes.

    tokjax fit --tokenizer bpe --source SRC --vocab 8192 --out runs/bpe
    tokjax tokenize --source SRC --tokenizer runs/bpe --out data/mine
    tokjax train --config lm --workdir runs/lm --config.source=tokenized:data/mine \
        --config.tokenizer.name=data/mine/tokenizer

A recipe that names no tokenizer, or `--config.tokenizer={}`, takes that of its source. With another one the documents
are decoded and encoded as those of any source; evaluation and splits work on them as on the text.

`layout` says what is in the directory, `write` fills it, `workers` survives killed processes, `beam` runs the same on
a cluster, and `source` reads it back.
"""

from tokjax.data.tokenized.source import TokenizedDocuments

__all__ = ["TokenizedDocuments"]

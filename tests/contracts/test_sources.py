"""What every source promises, over the registry: a new scheme must add an address to open here."""

import gzip
import json

import pytest

from tokjax.core.registry import sources
from tokjax.core.types import Source
from tokjax.data import SPLITS, load_source
from tokjax.data.tokenized.write import tokenize_source
from tokjax.text import load_tokenizer

NEEDS_NO_DATA = {
    "pydocs": "pydocs",
    "stdlib": "stdlib",
    "joined": "joined:4096:pydocs",
    "letters": "letters:joined:4096:pydocs",
    "mix": "mix:0.7*pydocs|0.3*stdlib",
}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """An address that can be opened offline for every registered scheme."""
    folder = tmp_path_factory.mktemp("sources")
    texts = [f"Text {number}.\nIts second line.\n" for number in range(150)] + ["Text 3.\nIts second line.\n"]
    for number, text in enumerate(texts):
        (folder / f"{number:03}.txt").write_text(text)
    (folder / "all.txt.gz").write_bytes(gzip.compress("\n".join(texts).encode()))
    (folder / "all.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    for number, text in enumerate(texts):
        page = f'<page xmlns="http://projectmallard.org/1.0/"><title>{text}</title></page>'
        (folder / f"{number:03}.page").write_text(page)
    tokenize_source(f"jsonl:{folder}/all.jsonl", load_tokenizer("bytes"), folder / "tokenized", workers=1)
    return NEEDS_NO_DATA | {
        "file": f"file:{folder}/*.txt",
        "paragraphs": f"file:{folder}/all.txt.gz?records=paragraphs",
        "jsonl": f"jsonl:{folder}/all.jsonl",
        "mallard": f"mallard:{folder}/*.page",
        "array_record": f"array_record:{_write_array_record(folder / 'all.array_record', texts)}",
        "tokenized": f"tokenized:{folder}/tokenized",
        "tfds": f"tfds:{_prepare_tfds(folder / 'tfds', texts)}",
    }


def _write_array_record(path, texts):
    from array_record.python import array_record_module

    writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
    for text in texts:
        writer.write(text.encode())
    writer.close()
    return path


def _prepare_tfds(folder, texts):
    import tensorflow_datasets as tfds

    class Contract(tfds.core.GeneratorBasedBuilder):
        """The texts of the contract test."""

        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"text": tfds.features.Text()})
            )

        def _split_generators(self, dl_manager):
            return {"train": self._generate_examples()}

        def _generate_examples(self):
            return ((number, {"text": text}) for number, text in enumerate(texts))

    builder = Contract(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir


@pytest.fixture(scope="module")
def opened(addresses, tmp_path_factory):
    """Opens each source once for the whole module, with a cache of its own."""
    cache = {}
    patch = pytest.MonkeyPatch()
    patch.setenv("TOKJAX_CACHE", str(tmp_path_factory.mktemp("cache")))

    def open_once(name):
        if name not in addresses:
            pytest.fail(f"Source {name!r} has no address in this test: add one to `addresses`.")
        if name not in cache:
            cache[name] = load_source(addresses[name])
        return cache[name]

    yield open_once
    patch.undo()


every_source = pytest.mark.parametrize("name", [*sources, "paragraphs"])


@every_source
def test_records_are_distinct_bytes(opened, name):
    source = opened(name)
    assert isinstance(source, Source)
    records = list(source)
    assert len(records) == len(source) > 0
    assert all(type(record) is bytes for record in records)
    assert len(set(records)) == len(records)
    assert source[len(source) // 2] == records[len(source) // 2]
    assert name in NEEDS_NO_DATA or (len(records), source.duplicates) == (150, 1)


@every_source
def test_second_opening_is_the_same(opened, addresses, name):
    source, again = opened(name), load_source(addresses[name])
    assert (again.name, again.duplicates, again.fingerprint) == (source.name, source.duplicates, source.fingerprint)
    assert list(again) == list(source)


@every_source
def test_splits_are_disjoint_and_cover(opened, name):
    source = opened(name)
    parts = [set(source.split(split)) for split in SPLITS]
    assert sum(map(len, parts)) == len(source)
    assert set().union(*parts) == set(source)
    assert len({source.fingerprint, *(source.split(split).fingerprint for split in SPLITS)}) == len(SPLITS) + 1

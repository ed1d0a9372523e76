"""TFDS folders prepared in ArrayRecord format are read without TensorFlow."""

import sys
import types

import pytest
import tensorflow_datasets

from tokjax.core.errors import SourceError
from tokjax.data import load_source
from tokjax.data.tfds import open_examples

TEXTS = [f"text {number} é" for number in range(120)]


class Tiny(tensorflow_datasets.core.GeneratorBasedBuilder):
    """A few texts with a label."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = {
            "text": tensorflow_datasets.features.Text(),
            "label": tensorflow_datasets.features.ClassLabel(num_classes=2),
        }
        return tensorflow_datasets.core.DatasetInfo(
            builder=self, features=tensorflow_datasets.features.FeaturesDict(features)
        )

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(TEXTS), "more": self._generate_examples(TEXTS[:3])}

    def _generate_examples(self, texts):
        for number, text in enumerate(texts):
            yield number, {"text": text, "label": number % 2}


def _prepare(folder, file_format):
    builder = Tiny(data_dir=folder, file_format=file_format)
    builder.download_and_prepare()
    return builder.data_dir


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return _prepare(tmp_path_factory.mktemp("array_record"), "array_record")


def test_prepared_folder_is_read_without_tensorflow(prepared):
    had_tensorflow = "tensorflow" in sys.modules
    source = load_source(f"tfds:{prepared}")
    assert sorted(source) == sorted(text.encode() for text in TEXTS)
    assert len(load_source(f"tfds:{prepared}/..?split=more")) == 3
    assert ("tensorflow" in sys.modules) == had_tensorflow


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("{0}?split=test", "no split 'test'. Known: more, train"),
        ("{0}?field=txt", "no field 'txt'. Did you mean 'text'"),
        ("{0}?field=label", "field 'label' holds int"),
        ("{0}?download=yes", "expected 'true' or 'false'"),
        ("{1}", "no dataset_info.json"),
        ("", "names no data set"),
        ("no_such_data_set_at_all", "neither a folder nor a data set that TFDS knows"),
        ("imdb_reviews", r"is not prepared in .*\?download=true"),
    ],
)
def test_mistakes_name_the_remedy(prepared, tmp_path, monkeypatch, rest, message):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(SourceError, match=message):
        load_source("tfds:" + rest.format(prepared, tmp_path))


def test_examples_lost_by_a_format_are_noticed():
    splits = {"train": types.SimpleNamespace(num_examples=3)}
    builder = types.SimpleNamespace(info=types.SimpleNamespace(splits=splits), as_data_source=lambda **_: [{}, {}])
    with pytest.raises(SourceError, match="2 examples can be read, but 3 were written"):
        open_examples(builder, "train", where="tfds:x")


def test_examples_lost_in_a_file_are_noticed(tmp_path):
    folder = _prepare(tmp_path, "array_record")
    info = tmp_path / "tiny/1.0.0/dataset_info.json"
    info.write_text(info.read_text().replace('"120"', '"121"'))
    with pytest.raises(SourceError, match="example 120 cannot be read"):
        load_source(f"tfds:{folder}")


def test_several_data_sets_below_a_folder_are_listed(tmp_path):
    for name in ("one", "two"):
        _prepare(tmp_path / name, "array_record")
    with pytest.raises(SourceError, match=r"several data sets: .*one.*two"):
        load_source(f"tfds:{tmp_path}")

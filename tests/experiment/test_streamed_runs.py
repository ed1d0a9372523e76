"""Runs on streamed mixtures: stopped and resumed they end in the same bits, and each source is scored."""

import signal

import chex
import pytest

from tokjax.core.errors import SourceError, SpecError
from tokjax.data import load_source
from tokjax.data.tokenized.write import tokenize_source
from tokjax.experiment.config import load_config, override
from tokjax.experiment.encoder import train_encoder
from tokjax.experiment.run import prepare_tokenizer, sample_documents, train_model, training_stream
from tokjax.text import fit_tokenizer, load_tokenizer
from tokjax.train import read_evaluations

FEW = ("train.steps=12", "train.eval_every=6", "train.checkpoint_every=100", "data.eval_bytes=900", "data.length=32")


@pytest.fixture(scope="module")
def corpora(tmp_path_factory):
    """Two corpora of bytes, and one of another tokenizer."""
    folder, found = tmp_path_factory.mktemp("corpora"), []
    for name, tokenizer in (("a", "bytes"), ("b", "bytes"), ("c", "words")):
        text = "\n\n".join(f"Text {name}{n} of {n * n} foxes." for n in range(150))
        (folder / f"{name}.txt").write_text(text)
        address = f"file:{folder}/{name}.txt?records=paragraphs"
        tokenize_source(address, load_tokenizer(tokenizer), folder / name, workers=1)
        found.append(f"tokenized:{folder / name}")
    return found


@pytest.fixture
def mixture(corpora):
    """One streamed, one in memory."""
    return f"mix:0.75*{corpora[0]}?stream=true|0.25*{corpora[1]}"


def config(source, *fields):
    return override(load_config("lm:smoke"), (*FEW, *fields, f"source={source}", "tokenizer={}")).to_dict()


class Stopping:
    """A text that asks the run to stop when it makes the batch with some row."""

    def __init__(self, text, at):
        self._text, self._at = text, at
        self.end_of_document = text.end_of_document

    def rows(self, numbers, **options):
        if self._at in numbers:
            self._at = None
            signal.raise_signal(signal.SIGTERM)
        return self._text.rows(numbers, **options)


@pytest.mark.slow
def test_a_resumed_run_is_an_uninterrupted_one(mixture, tmp_path):
    whole, stopped = train_model(config(mixture), tmp_path / "whole", progress=False)
    assert stopped is None
    source = load_source(mixture)
    text = Stopping(training_stream(source.split("train"), source.parts[0].fitted), at=8 * 6)
    part, stopped = train_model(config(mixture), tmp_path / "part", text=text, progress=False)
    assert stopped == "SIGTERM"
    assert 0 < part.step < 12
    resumed, _ = train_model(config(mixture), tmp_path / "part", progress=False)
    assert (resumed.step, whole.step) == (12, 12)
    chex.assert_trees_all_equal(resumed.params, whole.params)
    assert read_evaluations(tmp_path / "part")[-1] == read_evaluations(tmp_path / "whole")[-1]


def test_each_source_is_scored_and_all_by_weight(mixture, tmp_path):
    train_model(config(mixture), tmp_path, progress=False)
    names = [part.name for part in load_source(mixture).parts]
    for line in read_evaluations(tmp_path):
        apart = [line[f"bits_per_byte/{name}"] for name in names]
        assert line["bits_per_byte"] == pytest.approx(0.75 * apart[0] + 0.25 * apart[1])
        assert apart[0] != apart[1]


def test_a_sample_holds_each_source_by_weight(mixture):
    validation = load_source(mixture).split("valid")
    sizes = [sum(map(len, documents)) for documents in (validation.parts[0], validation.parts[1])]
    limit = int(min(sizes) / 0.75)
    sample = sample_documents(validation, limit)
    of_first = sum(len(raw) for raw in sample if b"Text a" in raw)
    assert 0.75 * limit <= of_first < 0.75 * limit + 40  # whole documents
    assert 0.25 * limit <= sum(map(len, sample)) - of_first < 0.25 * limit + 40


def test_sources_share_a_tokenizer(corpora, tmp_path):
    a, b, c = corpora
    both = load_source(f"mix:0.5*{a}|0.5*{b}")
    assert prepare_tokenizer({}, both, tmp_path / "both").hash == load_tokenizer("bytes").hash
    with pytest.raises(
        SourceError, match=r"different tokenizers: .* of bytes .* of words .*Tokenize all with the same"
    ):
        prepare_tokenizer({}, load_source(f"mix:0.5*{a}|0.5*{c}"), tmp_path / "mixed")
    with pytest.raises(SpecError, match=r"tokenizer.name: missing"):
        prepare_tokenizer({}, load_source(f"mix:0.5*{a}|0.5*stdlib"), tmp_path / "text")
    streamed = load_source(f"mix:0.5*{a}|0.5*{c}?stream=true")
    with pytest.raises(SourceError, match=r"c\?stream=true/train: holds ids of words .*, not of bytes"):
        training_stream(streamed.split("train"), load_tokenizer("bytes"))
    encoded = training_stream(load_source(f"mix:0.5*{a}|0.5*{c}").split("train"), load_tokenizer("bytes"))
    assert encoded.end_of_document == 256  # of what is not streamed the text is encoded anew


def test_a_tokenizer_is_fitted_on_every_document_once(corpora, tmp_path):
    a, b, c = corpora
    source = load_source(f"mix:0.8*{a}|0.1*{b}|0.1*{c}").split("train")
    fitted = prepare_tokenizer({"name": "bpe", "vocab_size": 280}, source, tmp_path)
    every = [raw for address in (a, b, c) for raw in load_source(address).split("train")]
    assert fitted.hash == fit_tokenizer("bpe", every, vocab_size=280).hash


def test_encoders_say_what_they_cannot_read(corpora, tmp_path):
    for source, says in (
        (f"mix:0.5*{corpora[0]}|0.5*{corpora[1]}", "byte2word would read each document once"),
        (f"{corpora[0]}?stream=true", "byte2word holds all words in memory. Leave '.stream=true' out"),
    ):
        recipe = override(load_config("byte2word:smoke"), (f"source={source}",)).to_dict()
        with pytest.raises(SourceError, match=says):
            train_encoder(recipe, tmp_path, progress=False)

"""Contenders with fields of their own, and what models write: over ids that mean nothing alone, and over words."""

import jax
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.core.spec import build
from tokjax.experiment.config import override
from tokjax.experiment.contenders import contender
from tokjax.experiment.run import Model, RunSpec, build_system, train_model
from tokjax.generate.bytewise import write
from tokjax.generate.sampling import SamplingSpec
from tokjax.nn.param import materialize
from tokjax.text import fit_tokenizer

FEW = ("train.steps=2", "train.eval_every=2", "optimizer.warmup_steps=1", "data.eval_bytes=1")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["equal_info:token_bits=8", "ac:token_bits=8"])
def test_compressed_text_is_sampled_whatever_the_number_of_steps(tmp_path, name):
    config = override(contender(name, source="pydocs", scale="smoke").config, (*FEW, "data.length=32"))
    model, _ = train_model(config.to_dict(), tmp_path, progress=False)
    for steps in (1, 4, 5):
        assert all(isinstance(piece, bytes) for piece in model.stream(b"The ", steps=steps, seed=steps))
    if name.startswith("equal_info"):
        assert b"".join(model.stream(b"The ", steps=40, seed=0))


@pytest.mark.parametrize("name", ["hat:cap=8:system.cap=8", "word_pooled:base=bytes"])
def test_models_over_words_of_bytes_write_what_they_score(name):
    """Sampled text, scored as a document, costs what its symbols were drawn at; no piece is half a character."""
    shallow = (f"system.{stack}.layers=1" for stack in ("backbone", "encoder", "decoder"))
    fields = ("data.length=128", "system.symbols_per_word=1.0", *shallow)  # a slot for every word, however short
    config = override(contender(name, source="pydocs", scale="smoke").config, fields).to_dict()
    tokenizer = dict(config["tokenizer"])
    fitted = fit_tokenizer(tokenizer.pop("name"), [b"text"], **tokenizer)
    system = build_system(config["system"], fitted)
    model = Model(build(RunSpec, config), fitted, system, materialize(system.declare(), jax.random.key(0)), step=0)

    options = {"steps": 20, "sampling": SamplingSpec(temperature=0.9)}
    for prompt in ("", "Paragr", "naïve "):
        drawn = list(write(system, model.params, fitted, prompt.encode(), jax.random.key(3), **options))
        pieces = list(model.stream(prompt, seed=3, **options))
        assert pieces == [character.raw for character in drawn if character.raw]
        assert all(len(piece.decode()) == 1 for piece in pieces)
        text, ended = prompt.encode() + b"".join(pieces), drawn[-1].raw == b""
        targets = [*fitted.encode(text).tolist(), fitted.end_of_document]
        symbols = [symbol for character in drawn for symbol in character.symbols]
        written = slice(-len(symbols), None) if ended else slice(-2 - len(symbols), -2)
        assert targets[written] == symbols  # all but the end of the open word and of the document
        # 20 float32 terms, each of sums in another order.
        drawn_at = -sum(character.log_probability for character in drawn)
        np.testing.assert_allclose(model.score([text]).nll[written].sum(), drawn_at, rtol=1e-4)

    begun = "漢".encode()[:2]
    pieces = list(model.stream(begun, **options))
    assert len((begun + pieces[0]).decode()) == 1 and (begun + b"".join(pieces)).decode()
    with pytest.raises(SpecError, match="steps"):
        model.stream(b"", steps=0)


def test_a_contender_takes_a_size_and_fields():
    config = contender("equal_info:token_bits=8:mode=paper:resets=False", source="pydocs", scale="smoke").config
    assert config.tokenizer.to_dict() == {"name": "equal_info", "token_bits": 8, "mode": "paper", "resets": False}
    config = contender("compiled:2048:entropy=unigram", source="pydocs", scale="smoke").config
    assert config.tokenizer.to_dict() == {"name": "compiled", "vocab_size": 2048, "entropy": "unigram"}
    config = contender("hat/patches:cap=8:system.cap=8", source="pydocs", scale="smoke").config
    assert config.tokenizer.to_dict() == {"name": "patches", "cap": 8}
    assert config.system.cap == 8
    for wrong in ("equal_info:2048", "bpe:many", "bytes:8"):
        with pytest.raises(SpecError, match="write a vocabulary size behind a trained tokenizer"):
            contender(wrong, source="pydocs", scale="smoke")

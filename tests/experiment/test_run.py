"""Contenders with fields of their own, and models over ids that mean nothing alone."""

import pytest

from tokjax.core.errors import SpecError
from tokjax.experiment.config import override
from tokjax.experiment.contenders import contender
from tokjax.experiment.run import train_model


@pytest.mark.parametrize("name", ["equal_info:token_bits=8", "ac:token_bits=8"])
def test_compressed_text_is_sampled_whatever_the_number_of_steps(tmp_path, name):
    few = ("train.steps=2", "train.eval_every=2", "optimizer.warmup_steps=1", "data.eval_bytes=1", "data.length=32")
    config = override(contender(name, source="pydocs", scale="smoke").config, few)
    model, _ = train_model(config.to_dict(), tmp_path, progress=False)
    for steps in (1, 4, 5):
        assert all(isinstance(piece, bytes) for piece in model.stream(b"The ", steps=steps, seed=steps))
    if name.startswith("equal_info"):
        assert b"".join(model.stream(b"The ", steps=40, seed=0))


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

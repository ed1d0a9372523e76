"""Configurations: names, overrides, budgets and contenders, and what each mistake says."""

import pytest

from tokjax.core.errors import CheckpointError, SpecError, UnknownNameError, UserError
from tokjax.experiment.budget import Budget
from tokjax.experiment.config import config_names, load_config, override
from tokjax.experiment.contenders import contender, row_length
from tokjax.experiment.run import prepare_tokenizer
from tokjax.text import fit_tokenizer


def test_every_recipe_has_every_variant():
    for name in config_names():
        for variant in ("smoke", "small", "paper"):
            assert load_config(f"{name}:{variant}").train.steps > 0


def test_the_variant_defaults_to_small():
    assert load_config("lm").to_dict() == load_config("lm:small").to_dict()


@pytest.mark.parametrize(
    ("reference", "error", "says"),
    [
        ("lmm", UnknownNameError, "'lm'"),
        ("lm:smal", SpecError, "'small'"),
        ("absent.py", UserError, "absent.py: no such"),
    ],
)
def test_unknown_recipes(reference, error, says):
    with pytest.raises(error, match=says):
        load_config(reference)


def test_a_recipe_may_be_a_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from tokjax.experiment.config import load_config\ndef get_config(v):\n    return load_config('lm:'+v)\n"
    )
    assert load_config(f"{path}:smoke").to_dict() == load_config("lm:smoke").to_dict()
    path.write_text("x = 1\n")
    with pytest.raises(UserError, match="get_config"):
        load_config(str(path))


def test_overrides_reach_nested_fields_and_keep_types():
    config = override(load_config("lm:smoke"), ["optimizer.learning_rate=1e-2", "source=stdlib", "train.steps=7"])
    assert (config.optimizer.learning_rate, config.source, config.train.steps) == (0.01, "stdlib", 7)


def test_overrides_reach_fields_that_recipes_leave_at_their_defaults():
    config = override(
        load_config("lm:smoke"), ["train.tensorboard=True", "optimizer.ema_decay=0.9", "system.backbone.kv_heads=1"]
    )
    assert (config.train.tensorboard, config.optimizer.ema_decay, config.system.backbone.kv_heads) == (True, 0.9, 1)


def test_naming_another_tokenizer_replaces_its_fields():
    config = override(load_config("lm:smoke"), ["tokenizer.name=words", "tokenizer.cap=20"])
    assert config.tokenizer.to_dict() == {"name": "words", "cap": 20}
    with pytest.raises(UnknownNameError, match="'hat'"):
        override(load_config("lm:smoke"), ["system.name=hatt"])


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("optimizer.learning_rat=1", "'learning_rate'"),
        ("optimiser.learning_rate=1", "'optimizer'"),
        ("train.steps=many", "expected int"),
        ("train.steps", "needs a value"),
        ("source.name=x", "no field 'name'"),
    ],
)
def test_misspelt_overrides_name_the_nearest(assignment, says):
    with pytest.raises(SpecError, match=says):
        override(load_config("lm:smoke"), [assignment])


@pytest.mark.parametrize(
    ("text", "kind", "amount"),
    [("1e13flops", "flops", 1e13), ("60s", "seconds", 60), ("5MB", "bytes", 5e6), ("2 kb", "bytes", 2e3)],
)
def test_budgets(text, kind, amount):
    assert Budget.parse(text) == Budget(kind, amount)


@pytest.mark.parametrize("text", ["0", "0s", "-5s", "flops", "1e13", "5 parsecs", "", "1.2.3s", "1e999flops"])
def test_budgets_that_are_none(text):
    with pytest.raises(SpecError, match="--budget"):
        Budget.parse(text)


def test_contenders():
    def pair(name):
        config = contender(name, source="pydocs", scale="smoke").config
        return config.system.name, config.tokenizer.to_dict()

    assert pair("bytes") == ("lm", {"name": "bytes"})
    assert pair("bpe:777") == ("lm", {"name": "bpe", "vocab_size": 777})
    assert pair("unigram")[1]["vocab_size"] == pair("bpe")[1]["vocab_size"]
    assert pair("hat")[0] == "hat"
    assert pair("lm/words") == ("lm", {"name": "words"})
    assert pair("spacebyte") == ("spacebyte", {"name": "bytes"})


@pytest.mark.parametrize(
    ("name", "error", "says"),
    [
        ("bpee", UnknownNameError, "'bpe'"),
        ("lm/bpee", UnknownNameError, "'bpe'"),
        ("bytes:300", SpecError, "vocabulary size"),
        ("bpe:big", SpecError, "vocabulary size"),
    ],
)
def test_unknown_contenders(name, error, says):
    with pytest.raises(error, match=says):
        contender(name, source="pydocs", scale="smoke")


def test_rows_hold_about_the_same_text():
    assert row_length(512, 1.0) == 512
    assert row_length(512, 4.1) == 128
    assert row_length(512, 100.0) == 32


def test_a_saved_tokenizer_is_a_contender(tmp_path):
    """A path is taken as it is, kept with the run, and not exchanged afterwards."""
    for name, cap in (("one", 16), ("other", 20)):
        fit_tokenizer("words", [b"x"], cap=cap).save(tmp_path / name)
    config = contender(str(tmp_path / "one"), source="pydocs", scale="smoke").config
    assert config.system.name == "lm"
    assert prepare_tokenizer(config.tokenizer, [], tmp_path / "run").spec.cap == 16
    assert prepare_tokenizer(config.tokenizer, [], tmp_path / "run").spec.cap == 16
    with pytest.raises(CheckpointError, match="another tokenizer"):
        prepare_tokenizer({"name": str(tmp_path / "other")}, [], tmp_path / "run")

"""The study of learned words: which group a word is in, how many fit a row, and a verdict that says what rows hold."""

import dataclasses
import functools
import json

import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.measure.language import WORD_CAP
from tokjax.studies import word_pooled as module
from tokjax.studies.word_pooled import GROUPS, symbols_per_word, verdict, word_groups, word_pooled
from tokjax.text.splitter import split
from tokjax.text.unicode_tables import unicode_tables

POOLED, BASELINES = module._CLAIMED, module._BASELINES


def rows(language="english", seeds=3, **shares):
    """Rows in which each system has (next words, rare words), with some noise over seeds."""
    return [
        {
            "language": language, "system": system, "seed": seed, "bits_per_byte": 3.0 - next_words,
            "word_accuracy": next_words * (1 + 0.01 * seed), "rare_accuracy": rare and rare * (1 + 0.01 * seed),
        }
        for system, (next_words, rare) in shares.items()
        for seed in range(seeds)
    ]  # fmt: skip


def shares(pooled, others):
    return {POOLED: pooled, **dict.fromkeys(BASELINES, others)}


def test_both_claims():
    said = verdict(rows(**shares((0.4, 0.31), (0.1, 0.01))))
    assert said.startswith("reproduced; english, next words: pooled characters 40.4 ± 1.0% against bytes 10.1")
    assert "against bytes 10.1 ± 0.2% (4.00x), characters 10.1 ± 0.2% (4.00x), subwords" in said
    assert "english, rare words: pooled characters 31.3 ± 0.8% against bytes 1.0 ± 0.0% (31.00x), " in said
    assert said.endswith("not measured: russian, chinese (give a text as --source russian=ADDRESS).")


@pytest.mark.parametrize(
    ("pooled", "others", "word"),
    [
        ((0.4, 0.2), (0.1, 0.01), "partly reproduced"),
        ((0.2, 0.31), (0.1, 0.01), "partly reproduced"),
        ((0.2, 0.02), (0.1, 0.01), "not reproduced"),
        ((0.3, 0.3), (0.1, 0.01), "not reproduced"),  # just the factors: within the noise
    ],
)
def test_what_survives(pooled, others, word):
    said = verdict(rows(**shares(pooled, others)))
    assert said.startswith(f"{word}; ")
    assert "ahead of bytes and characters and subwords beyond the noise of seeds" in said


def test_one_baseline_or_language_that_does_worse_is_enough_to_refute():
    best = shares((0.4, 0.31), (0.1, 0.01))
    assert verdict(rows(**best | {"subwords": (0.3, 0.1)})).startswith("not reproduced")
    other = rows("russian", **shares((0.1, 0.01), (0.1, 0.01)))
    said = verdict(rows(**best) + other)
    assert said.startswith("not reproduced")
    assert "russian: pooled characters are ahead of none" in said and "not measured: chinese (" in said


def test_a_single_seed_reproduces_nothing():
    assert verdict(rows(seeds=1, **shares((0.4, 0.31), (0.1, 0.01)))).startswith("not reproduced")


def test_a_baseline_without_a_hit_has_no_ratio():
    said = verdict(rows(**shares((0.4, 0.31), (0.1, 0.0))))
    assert said.startswith("reproduced") and "bytes 0.0 ± 0.0% (no ratio)" in said


def test_the_best_are_named_even_where_they_refute_the_claim():
    said = verdict(rows(**shares((0.2, 0.02), (0.1, 0.01)) | {"hat": (0.5, 0.1)}))
    assert "most next words hat 50.5 ± 1.2%; fewest bits per byte hat 2.500, pooled characters 2.800" in said


def test_words_are_grouped_by_their_count_without_punctuation():
    training = [b"the " * 100 + b"(tea) tea, " * 5, b"Tea 7 7 7"]
    text = "The the tea; Tea new, 7 12.5 ... é1".encode()
    names = [GROUPS[i] if i >= 0 else "neither" for i in word_groups([text], training)]
    words = [word.decode() for word in split(text, WORD_CAP, unicode_tables())]
    assert dict(zip(words, names, strict=True)) == {
        "The": "unseen", " the": "100 or more", " tea;": "10-99", " Tea": "1-9", " new,": "unseen",
        " 7": "numbers", " 12.": "numbers", "5": "numbers", " ...": "neither", " é1": "unseen",
    }  # fmt: skip


def test_groups_stand_in_the_order_of_words_of_all_documents():
    documents = [b"one two", b"", b"two"]
    assert word_groups(documents, [b"two"]).tolist() == [0, 1, 1]
    assert len(word_groups([b""], [b""])) == 0


def test_symbols_per_word_counts_marks_and_ends_of_documents():
    documents = [b"ab cd", b"e"]
    assert symbols_per_word({"name": "words"}, documents) == pytest.approx((6 + 3 + 2) / (3 + 2))
    characters = {"name": "word_units", "base": "characters", "vocab_size": 300}
    assert symbols_per_word(characters, ["жук".encode()]) == pytest.approx((3 + 1 + 1) / 2)


def test_an_unknown_role_is_refused(tmp_path):
    with pytest.raises(SpecError, match="no such role"):
        word_pooled(scale="smoke", seeds=1, directory=tmp_path, sources={"klingon": "pydocs"})


@pytest.mark.slow
def test_the_study_runs_in_two_languages_and_goes_on(tmp_path, monkeypatch):
    texts = {"english": "Word number {} is a word like any other.", "russian": "Слово номер {}: всё идёт хорошо."}
    for language, text in texts.items():
        (tmp_path / f"{language}.txt").write_text("\n\n".join(5 * text.format(i) for i in range(120)))
    sources = {language: f"file:{tmp_path}/{language}.txt?records=paragraphs" for language in texts}
    few = dataclasses.replace(module._SCALES["smoke"], systems=("bytes", POOLED))
    monkeypatch.setitem(module._SCALES, "smoke", few)
    study = functools.partial(
        word_pooled, scale="smoke", seeds=1, directory=tmp_path / "out", progress=False, sources=sources
    )
    result = study()
    found = [(row["language"], row["system"]) for row in result.rows]
    assert found == [(language, system) for language in texts for system in few.systems]
    for row in result.rows:
        assert 0 <= row["word_accuracy"] <= 1 and np.isfinite(row["bits_per_byte"]) and row["overflow"] < 0.05
        assert set(row["group_accuracy"]) == set(GROUPS)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["verdict"] == result.verdict
    monkeypatch.setattr(module, "words_right", lambda *_: pytest.fail("scored again"))
    assert study().rows == result.rows

"""The study of learned words: which group a word is in, how many fit a row, and claims that say what rows hold."""

import dataclasses
import functools

import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.measure.language import WORD_CAP
from tokjax.studies import word_pooled as module
from tokjax.studies.result import Result
from tokjax.studies.word_pooled import GROUPS, claims, symbols_per_word, word_groups, word_pooled
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


def outcomes(found):
    return [claim.outcome for claim in claims(found)]


UNMEASURED = ["measured", "not measured", "not measured"]


def test_both_claims():
    words, rare, ahead, *missing = claims(rows(**shares((0.4, 0.31), (0.1, 0.01))))
    assert words.outcome == rare.outcome == "reproduced" and ahead.outcome == "measured"
    assert words.ours.startswith("40.4% ± 1.0% against bytes 10.1% ± 0.2% (4.00x), characters 10.1% ± 0.2% (4.00x), ")
    assert rare.ours.startswith("31.3% ± 0.8% against bytes 1.0% ± 0.0% (31.00x), ")
    assert [claim.ours for claim in missing] == ["give --source russian=ADDRESS", "give --source chinese=ADDRESS"]


@pytest.mark.parametrize(
    ("pooled", "others", "words", "rare"),
    [
        ((0.4, 0.2), (0.1, 0.01), "reproduced", "not reproduced"),
        ((0.2, 0.31), (0.1, 0.01), "not reproduced", "reproduced"),
        ((0.2, 0.02), (0.1, 0.01), "not reproduced", "not reproduced"),
        ((0.3, 0.3), (0.1, 0.01), "not reproduced", "not reproduced"),  # just the factors: within the noise
    ],
)
def test_what_survives(pooled, others, words, rare):
    found = rows(**shares(pooled, others))
    assert outcomes(found) == [words, rare, *UNMEASURED]
    assert "ahead of bytes and characters and subwords beyond the noise of seeds" in claims(found)[2].ours


def test_one_baseline_that_does_worse_is_enough_to_refute():
    best = shares((0.4, 0.31), (0.1, 0.01))
    assert outcomes(rows(**best | {"subwords": (0.3, 0.01)}))[:2] == ["not reproduced", "reproduced"]
    assert outcomes(rows(**best | {"subwords": (0.1, 0.1)}))[:2] == ["reproduced", "not reproduced"]


def test_each_language_is_judged_on_its_own_rows():
    found = rows(**shares((0.4, 0.31), (0.1, 0.01))) + rows("russian", **shares((0.1, 0.01), (0.1, 0.01)))
    assert outcomes(found)[:6] == [*2 * ["reproduced"], "measured", *2 * ["not reproduced"], "measured"]
    said = claims(found)
    assert said[3].claim.startswith("russian: ") and "ahead of none" in said[5].ours
    assert [claim.claim for claim in said[6:]] == ["chinese: both claims"]


def test_a_single_seed_reproduces_nothing():
    assert outcomes(rows(seeds=1, **shares((0.4, 0.31), (0.1, 0.01)))) == [*2 * ["not reproduced"], *UNMEASURED]


def test_a_baseline_without_a_hit_has_no_ratio():
    rare = claims(rows(**shares((0.4, 0.31), (0.1, 0.0))))[1]
    assert rare.outcome == "reproduced" and "bytes 0.0% ± 0.0% (no ratio)" in rare.ours


def test_a_language_without_rare_words_has_none_right():
    rare = claims(rows(**shares((0.4, None), (0.1, None))))[1]
    assert rare.outcome == "not reproduced" and rare.ours.startswith("0.0% ± 0.0% against")


def test_the_best_are_named_even_where_they_refute_the_claim():
    ahead = claims(rows(**shares((0.2, 0.02), (0.1, 0.01)) | {"hat": (0.5, 0.1)}))[2]
    assert "most next words: hat 50.5% ± 1.2%; fewest bits per byte: hat 2.500 ± " in ahead.ours
    assert "pooled characters 2.800 ± " in ahead.ours


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


@pytest.mark.long
def test_the_study_runs_in_two_languages_and_goes_on(tmp_path, monkeypatch):
    texts = {"english": "Word number {} is a word like any other.", "russian": "Слово номер {}: всё идёт хорошо."}
    for language, text in texts.items():
        (tmp_path / f"{language}.txt").write_text("\n\n".join(5 * text.format(i) for i in range(120)))
    sources = {language: f"file:{tmp_path}/{language}.txt?records=paragraphs" for language in texts}
    two = ("bytes", POOLED)
    few = dataclasses.replace(module._SCALES["smoke"], systems=two, elsewhere=two)
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
    assert Result.read(tmp_path / "out" / "result.json") == result
    monkeypatch.setattr(module, "words_right", lambda *_: pytest.fail("scored again"))
    assert study().rows == result.rows

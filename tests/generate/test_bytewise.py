"""What is written is the encoding of its text, and costs what scoring that text costs."""

import functools
import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SpecError
from tokjax.generate.bytewise import END_OF_DOCUMENT, write
from tokjax.generate.sampling import SamplingSpec
from tokjax.nn.param import materialize
from tokjax.nn.transformer import TransformerSpec
from tokjax.objectives.language import stream_batch
from tokjax.systems.language.hat import Hat
from tokjax.systems.language.lm import Lm
from tokjax.systems.language.word_pooled import WordPooled
from tokjax.text import fit_tokenizer, lookahead
from tokjax.text.splitter import split
from tokjax.text.words import END_OF_WORD

CAP, ROW, STEPS = 10, 128, 38  # one bucket of cache slots for all prompts
GREEDY = SamplingSpec(temperature=0.0)
WILD = SamplingSpec(temperature=1.5)
PROMPTS = {
    "nothing": b"",
    "a word": b"The quick",
    "words and a space": "über alles ".encode(),
    "a line": b"end.\n",
    "inside a character": "naïv".encode()[:-2],
    "inside a character, alone": "漢".encode()[:2],
    "inside a character, after a space": b"so " + "😀".encode()[:3],
    "inside a character, at the cap": b"x" * (CAP - 1) + "é".encode()[:1],
    "at the cap": b"x" * CAP,
    "bytes that are no text": b"a\xff\x80\xe2a",
    "bytes that nothing completes": b"a\xed\xa0",
    "half a flag": "🇩".encode(),
}


class Brief(Hat):
    """A model that likes to end the document."""

    def _readout(self, params, hidden, word_bytes):
        return super()._readout(params, hidden, word_bytes).at[..., END_OF_DOCUMENT].add(6.0)


@functools.cache
def model(kind="hat"):
    fields = {"name": "word_units", "base": "bytes"} if kind == "word_pooled" else {"name": "words"}
    fitted = fit_tokenizer(source=[b"text"], cap=CAP, **fields)
    stack = functools.partial(TransformerSpec, layers=1, heads=2)
    if kind != "lm":
        wide, local = stack(width=32), stack(width=16)
        system = {"hat": Hat, "brief": Brief, "word_pooled": WordPooled}[kind](
            vocab_size=fitted.size + 1, backbone=wide, encoder=local, decoder=local, cap=CAP, symbols_per_word=1.0
        )
    else:
        system = Lm(vocab_size=fitted.size + 1, backbone=stack(width=32))
    rng = np.random.default_rng(0)  # initialisers take longer to compile than all the tests
    shapes = jax.eval_shape(lambda key: materialize(system.declare(), key), jax.random.key(0))
    return system, jax.tree.map(lambda s: jnp.asarray(0.5 * rng.standard_normal(s.shape, np.float32)), shapes), fitted


def written(prompt, *, seed=0, sampling=WILD, kind="hat", steps=STEPS):
    return list(write(*model(kind), prompt, jax.random.key(seed), steps=steps, sampling=sampling))


@functools.cache
def nll_of(kind):
    return jax.jit(model(kind)[0].nll)


def costs(symbols, kind="hat"):
    """Teacher-forced NLL of each of `symbols` but the first, as the yardstick computes it."""
    row = np.zeros((1, ROW), np.int32)
    row[0, : len(symbols)] = symbols
    at = np.arange(ROW)[None]
    batch = stream_batch(jnp.asarray(row)).replace(
        targets=jnp.asarray(np.roll(row, -1)),
        loss_mask=jnp.asarray(at < len(symbols) - 1, jnp.float32),
        segment_ids=jnp.asarray(at < len(symbols), jnp.int32),
    )
    return np.asarray(nll_of(kind)(model(kind)[1], batch), np.float64)[0, : len(symbols) - 1]


def whole_text(prompt, characters):
    """The prompt without the bytes that the first character begins with, and the characters."""
    held = lookahead.held(lookahead.alphabet(model()[2].tables), prompt)
    return prompt[: len(prompt) - held] + b"".join(character.raw for character in characters)


def expected_symbols(text, ended):
    fitted = model()[2]
    ids = [END_OF_DOCUMENT, *fitted.encode(text).tolist()]
    return [*ids, END_OF_DOCUMENT] if ended else ids[:-1]


def assert_exact(prompt, characters, kind="hat"):
    """The symbols are the encoding of the text and cost its score, to 1e-4 nats: sums are in another order."""
    symbols = expected_symbols(whole_text(prompt, characters), ended=characters[-1].raw == b"")
    drawn = [symbol for character in characters for symbol in character.symbols]
    assert drawn == symbols[len(symbols) - len(drawn) :]
    generated = -sum(character.log_probability for character in characters)
    np.testing.assert_allclose(generated, costs(symbols, kind)[-len(drawn) :].sum(), atol=1e-4)


@pytest.mark.parametrize("sampling", [GREEDY, WILD], ids=["greedy", "sampled"])
@pytest.mark.parametrize("case", PROMPTS)
def test_it_is_the_encoding_of_its_text_and_costs_its_score(case, sampling):
    for seed in range(1 if sampling is GREEDY else 3):
        assert_exact(PROMPTS[case], written(PROMPTS[case], seed=seed, sampling=sampling))


@pytest.mark.parametrize("case", PROMPTS)
def test_only_whole_characters_are_written(case):
    for seed in range(3):
        characters = written(PROMPTS[case], seed=seed)
        assert characters
        assert all(len(character.raw.decode()) == 1 for character in characters[:-1])
        assert len(characters[-1].raw.decode()) <= 1


def test_many_scripts_are_written_and_words_are_the_splitters():
    """A wild model meets every rule: marks, flags, joiners and the cap."""
    widths = set()
    for seed in range(12):
        characters = written(b"", seed=seed)
        text = b"".join(character.raw for character in characters)
        widths |= {len(character.raw) for character in characters}
        starts = [not number or character.symbols[0] == END_OF_WORD for number, character in enumerate(characters)]
        words = np.cumsum(starts)[: len(text.decode())]
        by_mark = [
            b"".join(c.raw for c, word in zip(characters, words, strict=False) if word == number)
            for number in sorted(set(words.tolist()))
        ]
        assert by_mark == split(text, CAP, model()[2].tables)
    assert widths >= {1, 2, 3}


@pytest.mark.parametrize("case", PROMPTS)
def test_the_mass_of_what_is_possible_is_a_probability_and_holds_what_was_drawn(case):
    for character in written(PROMPTS[case]):
        assert character.log_probability <= character.log_possible + 1e-9
        assert character.log_possible <= 1e-9


def test_nothing_but_a_forced_mark_is_drawn_at_the_cap():
    characters = written(b"x" * CAP)
    assert characters[0].symbols[0] == END_OF_WORD
    assert END_OF_WORD not in characters[0].symbols[1:]


def test_same_key_same_text_and_another_key_another():
    chex.assert_trees_all_equal(written(b"The", seed=4)[0].raw, written(b"The", seed=4)[0].raw)
    assert len({b"".join(c.raw for c in written(b"The", seed=seed)) for seed in range(4)}) > 1


def test_draws_of_the_first_symbols_follow_the_renormalised_model():
    """Frequencies of the first character over 200 seeds against exp(log_probability - log_possible)."""
    seen = {}
    for seed in range(200):
        character = next(write(*model(), b"The", jax.random.key(seed), steps=STEPS, sampling=SamplingSpec()))
        probability = np.exp(character.log_probability - character.log_possible)
        count, _ = seen.get(character.symbols, (0, 0.0))
        seen[character.symbols] = count + 1, probability
    common = {symbols: pair for symbols, pair in seen.items() if pair[1] > 0.01}
    assert sum(probability for _, probability in seen.values()) <= 1 + 1e-6
    for count, probability in common.values():
        assert abs(count - 200 * probability) < 4.5 * np.sqrt(200 * probability * (1 - probability))


@pytest.mark.parametrize("kind", ["lm", "word_pooled"])
@pytest.mark.parametrize("case", ["nothing", "a word", "inside a character"])
def test_any_model_over_words_of_bytes_writes(kind, case):
    assert_exact(PROMPTS[case], written(PROMPTS[case], kind=kind), kind)


@pytest.mark.parametrize("case", ["nothing", "a word", "words and a space", "bytes that are no text", "half a flag"])
def test_what_was_written_goes_on_alike_when_it_is_the_prompt(case):
    """Noise belongs to the position: each prefix of whole characters continues as the whole did."""
    whole = written(PROMPTS[case])
    for count in (1, len(whole) // 2, len(whole) - 1):
        begun = PROMPTS[case] + b"".join(character.raw for character in whole[:count])
        rest = written(begun, steps=sum(len(character.symbols) for character in whole[count:]))
        assert [(c.raw, c.symbols) for c in rest] == [(c.raw, c.symbols) for c in whole[count:]]


@pytest.mark.parametrize("case", PROMPTS)
def test_what_follows_the_prompt_is_told_apart_from_what_it_began(case):
    """The bytes that are not given and the prompt are the text, which takes as many steps as it has new symbols."""
    characters = written(PROMPTS[case])
    text = PROMPTS[case] + b"".join(character.raw[character.given :] for character in characters)
    assert text == whole_text(PROMPTS[case], characters)
    assert not any(character.given for character in characters[1:])
    drawn = sum(len(character.symbols) for character in characters)
    if given := characters[0].given:
        drawn -= given + (characters[0].symbols[0] == END_OF_WORD)
    assert drawn <= STEPS
    assert drawn > STEPS - 5 or not characters[-1].raw  # one more character, with its mark, has up to five symbols


def test_fewer_steps_write_the_start_of_the_same_text():
    """Not half a character at its end: where one has no room, it is left out."""
    whole = written("naïv".encode()[:-2], seed=2)
    for steps in range(1, 12):
        fewer = written("naïv".encode()[:-2], seed=2, steps=steps)
        assert fewer == whole[: len(fewer)]


@pytest.mark.parametrize(
    "sampling", [SamplingSpec(top_k=1), SamplingSpec(temperature=0.5, top_p=1e-6)], ids=["top-k", "top-p"]
)
def test_filters_keep_the_most_likely_of_what_is_possible(sampling):
    for prompt in (b"", b"x" * CAP, "漢".encode()[:2]):
        assert written(prompt, sampling=sampling) == written(prompt, sampling=GREEDY)


def test_documents_end_where_their_text_does():
    """Not behind bytes that the splitter has yet to cut: that text would be encoded otherwise."""
    ended = 0
    for case, seed in itertools.product(PROMPTS, range(3)):
        characters = written(PROMPTS[case], seed=seed, kind="brief")
        assert_exact(PROMPTS[case], characters, "brief")
        ended += characters[-1].raw == b""
        assert all(character.raw for character in characters[:-1])
        assert characters[0].raw or case != "bytes that nothing completes"
    assert ended > len(PROMPTS)


def test_other_tokenizers_and_no_steps_are_refused():
    system, params, fitted = model()
    for other in (fit_tokenizer("patches", []), fit_tokenizer("word_units", [b"x"], base="characters")):
        with pytest.raises(SpecError, match=f"got '{other.name}'; only models over words of bytes"):
            write(system, params, other, b"", jax.random.key(0), steps=1)
    with pytest.raises(SpecError, match="steps"):
        write(system, params, fitted, b"", jax.random.key(0), steps=0)

"""Byte-exact generation with a model over words: what is written is cut into words as the splitter cuts it.

A model over words of bytes (`words`, or `word_units` of bytes) predicts bytes and ends of words, and left alone it may
end a word where the splitter does not, or go on where it does. Such a stream encodes no text: the same text is scored
along another stream. Here the splitter is run again after each character, and a symbol is drawn only if some text goes
on that way:

- the end of a word, where the next character may be one that starts a word, or where the document may end;
- the first byte of a character, if some character that begins with it joins the open word (where no end of word was
  drawn) or starts a new one (where it was), as the splitter says. It decides by the whole character, so the bytes after
  the first are drawn among those that lead to such a character, and nothing else comes in between;
- the end of the document, after the end of a word or before any text.

So only UTF-8 is written, in whole characters, and the symbols drawn are the encoding of the text, marks included.

Exact: `log_probability` is the model's own, over its whole vocabulary, and sums to the score of the text.
Renormalised: a symbol is drawn among the possible ones, so its probability is the model's divided by their mass, of
which `log_possible` is the logarithm. Text is thus drawn from the model with impossible streams cut off symbol by
symbol, which is not the model conditioned on a possible stream as a whole.

Letters: `K` kinds of character, `V` vocabulary.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from tokjax.core.errors import SpecError
from tokjax.core.spec import check
from tokjax.core.types import Params
from tokjax.generate.decoding import SLOTS
from tokjax.generate.sampling import SamplingSpec, choose
from tokjax.objectives.language import LanguageSystem
from tokjax.text import lookahead
from tokjax.text.fitted import Fitted
from tokjax.text.lookahead import Alphabet
from tokjax.text.splitter import last_segment_end, piece_lengths
from tokjax.text.words import END_OF_WORD

END_OF_DOCUMENT = END_OF_WORD + 1
_SYMBOLS = 5  # of a character: an end of word and four bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Character:
    """One character as it was written, or the end of the document.

    Attributes:
      raw: its bytes; none at the end of the document.
      symbols: what was fed to the model for it: an end of word where it starts a word, and its bytes.
      log_probability: of the symbols, in nats, as the model says.
      log_possible: sum over the symbols of the logarithm of the mass of those that were possible, in nats. Where the
        prompt began the character, only its own bytes were possible.
      given: how many of its first bytes are the last ones of the prompt.
    """

    raw: bytes
    symbols: tuple[int, ...]
    log_probability: float
    log_possible: float
    given: int = 0


def write(
    system: LanguageSystem,
    params: Params,
    fitted: Fitted,
    prompt: bytes,
    key: jax.Array,
    *,
    steps: int,
    sampling: SamplingSpec | None = None,
) -> Iterator[Character]:
    """Yields the characters after `prompt`, until the document ends (an item without bytes) or `steps` are drawn.

    The open word of the prompt may go on. Where the prompt ends inside a character, the first item is the whole of it,
    and whether it starts a word is drawn in proportion to what the model says of the bytes that are there, both ways.
    Minus the sum of `log_probability` is the sum of `system.nll` over the same targets of the text, if the scored row
    has a slot for each of its words.

    Args:
      system: a model over words of bytes, such as `hat`.
      params: its parameters.
      fitted: its tokenizer.
      prompt: any bytes.
      key: noise of symbol p is drawn from fold_in(key, p).
      steps: symbols to draw at most, ends of words included; a character that they would cut short is left out.
      sampling: temperature, top-k and top-p, among the possible symbols.

    Raises:
      SpecError: a tokenizer without a `word_cap`, or steps below 1.
    """
    if fitted.spec.word_cap is None:
        raise SpecError(
            f"tokenizer: got {fitted.name!r}; only models over words of bytes write by the splitter: use 'words', or "
            f"'word_units' with base 'bytes'."
        )
    check(steps >= 1, "steps", steps, "draw at least one symbol.")
    return _write(system, params, fitted, fitted.spec.word_cap, prompt, key, steps, sampling or SamplingSpec())


def _write(
    system: LanguageSystem,
    params: Params,
    fitted: Fitted,
    cap: int,
    prompt: bytes,
    key: jax.Array,
    steps: int,
    sampling: SamplingSpec,
) -> Iterator[Character]:
    tables = fitted.tables
    letters = lookahead.alphabet(tables)
    text = prompt[: len(prompt) - lookahead.held(letters, prompt)]
    held = prompt[len(text) :]
    words = lookahead.decided_lengths(text, cap, tables)
    may_end = np.array_equal(words, piece_lengths(text, cap, tables))
    model = _Model.after(system, params, _open_stream(text, words), key, sampling, steps)
    open_word, segment = bool(text), text[last_segment_end(text) :]
    while model.drawn < steps:
        starting = lookahead.starting_kinds(letters, segment, cap, tables)
        model = dataclasses.replace(model, symbols=(), log_probability=0.0, log_possible=0.0)
        if held:
            model = _read_held(model, letters, held, starting, open_word)
        else:
            model = _draw_first(model, letters, starting, open_word, may_end)
        ended = model.symbols[-1] == END_OF_DOCUMENT
        if not ended:
            starts = not open_word or model.symbols[0] == END_OF_WORD
            model = _draw_rest(model, letters, starting if starts else ~starting)
        if model.drawn > steps:
            return
        yield dataclasses.replace(model.character, given=len(held))
        if ended:
            return
        segment += model.character.raw
        segment = segment[last_segment_end(segment) :]
        held, open_word, may_end = b"", True, True


def _open_stream(text: bytes, words: np.ndarray) -> list[int]:
    """Returns the symbols of `text` from the start of its document on, its last word open."""
    inner_ends = np.cumsum(words)[:-1]
    ids = np.insert(np.frombuffer(text, np.uint8).astype(np.int32), inner_ends, END_OF_WORD)
    return [END_OF_DOCUMENT, *ids.tolist()]


@dataclasses.dataclass(frozen=True)
class _Model:
    """A model that has read some symbols. Reading another makes another one, so that two ways on can be compared.

    Attributes:
      step: (state, symbol) -> (logits [1, V], state after it).
      pick: (logits [1, V], position) -> the symbol drawn.
      state, logits: after the symbols read.
      position: how many they are.
      drawn: how many of them were drawn.
      symbols, log_probability, log_possible: as of `Character`, since the last one.
    """

    step: Callable[[Any, int], tuple[jax.Array, Any]]
    pick: Callable[[np.ndarray, int], int]
    state: Any
    logits: jax.Array
    position: int
    drawn: int = 0
    symbols: tuple[int, ...] = ()
    log_probability: float = 0.0
    log_possible: float = 0.0

    @classmethod
    def after(
        cls,
        system: LanguageSystem,
        params: Params,
        symbols: Sequence[int],
        key: jax.Array,
        sampling: SamplingSpec,
        steps: int,
    ) -> "_Model":
        """Returns the model after `symbols`, with room for `steps` more and the characters at both ends of them."""
        most = len(symbols) + steps + 2 * _SYMBOLS
        init, advance = _programs(system, -(-most // SLOTS) * SLOTS)
        choose_id = _chooser(sampling)

        def step(state: Any, symbol: int) -> tuple[jax.Array, Any]:
            return advance(params, state, jnp.array([symbol], jnp.int32))

        state = init(params)
        for symbol in symbols:
            logits, state = step(state, symbol)
        return cls(
            step=step,
            pick=lambda logits, position: int(choose_id(logits, key, position)[0]),
            state=state,
            logits=logits,
            position=len(symbols),
        )

    @property
    def character(self) -> Character:
        """What has been read since the last character."""
        return Character(
            raw=bytes(symbol for symbol in self.symbols if symbol < END_OF_WORD),
            symbols=self.symbols,
            log_probability=self.log_probability,
            log_possible=self.log_possible,
        )

    def read(self, symbol: int, log_possible: float = 0.0) -> "_Model":
        """Returns the model after `symbol`, which was one of those whose mass has this logarithm."""
        logits, state = self.step(self.state, symbol)
        return dataclasses.replace(
            self,
            state=state,
            logits=logits,
            position=self.position + 1,
            symbols=(*self.symbols, symbol),
            log_probability=self.log_probability + float(_log_softmax(self.logits)[symbol]),
            log_possible=self.log_possible + log_possible,
        )

    def draw(self, possible: np.ndarray) -> "_Model":
        """Returns the model after a symbol drawn among those that are `possible`, bool [V]."""
        symbol = self.pick(np.where(possible, self.logits, -np.inf), self.position)
        log_possible = float(np.logaddexp.reduce(_log_softmax(self.logits)[possible]))
        return dataclasses.replace(self.read(symbol, log_possible), drawn=self.drawn + 1)


@functools.lru_cache(maxsize=8)
def _programs(system: LanguageSystem, slots: int) -> tuple[Any, Any]:
    return jax.jit(lambda params: system.init_decode(params, 1, slots)), jax.jit(system.decode)


@functools.lru_cache(maxsize=8)
def _chooser(sampling: SamplingSpec) -> Any:
    return jax.jit(functools.partial(choose, sampling))


def _log_softmax(logits: jax.Array) -> np.ndarray:
    """Log probabilities, float64 [V], from logits [1, V]."""
    values = np.asarray(logits[0], np.float64)
    return values - np.logaddexp.reduce(values)


def _draw_first(model: _Model, letters: Alphabet, starting: np.ndarray, open_word: bool, may_end: bool) -> _Model:
    """Draws the end of the open word, if it ends, and the first byte of the next character or the end of the document.

    Args:
      starting: which kinds of character start a word here, bool [K].
      open_word: whether there is a word that may go on.
      may_end: whether the document may end here.
    """
    if open_word:
        joining = lookahead.next_bytes(letters, b"", ~starting)
        model = model.draw(np.append(joining, [may_end or starting.any(), False]))
        if model.symbols != (END_OF_WORD,):
            return model
    return model.draw(np.append(lookahead.next_bytes(letters, b"", starting), [False, may_end]))


def _draw_rest(model: _Model, letters: Alphabet, kinds: np.ndarray) -> _Model:
    """Draws what is missing of a character that has begun and is of one of `kinds`, bool [K]."""
    while len(raw := model.character.raw) < lookahead.width_of(raw[0]):
        model = model.draw(np.append(lookahead.next_bytes(letters, raw, kinds), [False, False]))
    return model


def _read_held(model: _Model, letters: Alphabet, held: bytes, starting: np.ndarray, open_word: bool) -> _Model:
    """Reads the start of a character that ends the prompt; draws whether it starts a word by what each way costs."""
    kinds = lookahead.kinds_from(letters, held)
    ways = []
    if not open_word or (kinds & ~starting).any():
        ways.append(functools.reduce(_Model.read, held, model))
    if open_word and (kinds & starting).any():
        ways.append(functools.reduce(_Model.read, [END_OF_WORD, *held], model))
    costs = np.asarray([way.log_probability for way in ways])
    chosen = ways[model.pick(costs[None].astype(np.float32), model.position)]
    return dataclasses.replace(chosen, log_possible=float(np.logaddexp.reduce(costs)))

"""Between a packed row of symbols and the few of its positions that stand for words.

Letters: `B` batch, `T` symbols, `S` slots, `W` words, `D` width.
"""

import math

import flax.struct
import jax
import jax.numpy as jnp


def first_marked(marked: jax.Array, slots: int) -> tuple[jax.Array, jax.Array]:
    """Returns where the first `slots` marks of each row are.

    Args:
      marked: bool [B, T].
      slots: W; marks past it are left out.

    Returns:
      (int32 [B, W] positions, the last one where there are fewer marks; bool [B, W] whether the slot is filled).
    """
    last = marked.shape[1] - 1
    at = jax.vmap(lambda row: jnp.nonzero(row, size=slots, fill_value=last)[0])(marked)
    filled = jnp.arange(slots) < jnp.sum(marked, axis=1, keepdims=True)
    return at.astype(jnp.int32), filled


def take_positions(x: jax.Array, at: jax.Array) -> jax.Array:
    """Returns `x` [B, T] or [B, T, D] at the positions `at` [B, W] of each row."""
    return jnp.take_along_axis(x, at if x.ndim == 2 else at[..., None], axis=1)


def starts_of_segments(segment_ids: jax.Array) -> jax.Array:
    """Returns bool [B, T], True where `segment_ids` [B, T] differs from its left neighbour (0 before the row)."""
    return segment_ids != shift_right(segment_ids)


def shift_right(x: jax.Array) -> jax.Array:
    """Returns `x` [B, T] moved one position to the right, zero at the first."""
    return jnp.pad(x, ((0, 0), (1, 0)))[:, :-1]


def word_numbers(marked: jax.Array, segment_ids: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Numbers the words of a packed row in which a mark closes each word.

    Args:
      marked: bool [B, T], the marks.
      segment_ids: int32 [B, T]; 0 is padding. A word never spans two segments.

    Returns:
      Three int32 [B, T]: the number of the word as an encoder reads it (symbols, then its mark), as a decoder writes
      it (the mark before it, then symbols), and how many symbols of the latter stand up to here, 0 at a mark. Number
      0 is padding.
    """
    starts = starts_of_segments(segment_ids)
    inside = segment_ids > 0
    read = jnp.cumsum(starts | shift_right(marked), axis=1, dtype=jnp.int32) * inside
    written = jnp.cumsum(starts | marked, axis=1, dtype=jnp.int32) * inside
    at = jnp.arange(marked.shape[1])
    origin = jnp.where(marked, at, jnp.where(starts, at - 1, -1))
    return read, written, at - jax.lax.cummax(origin, axis=1)


@flax.struct.dataclass
class WordSlots:
    """Rows of T symbols of which some marks are widened to several slots, so that words need not be unpacked.

    Attributes:
      own: int32 [B, T], the slot of each symbol; the last one of a mark that has several.
      marks: int32 [B, T], marks up to and including each symbol.
      units: int32 [B, T], symbols of its word up to and including each one, 0 at a mark.
      symbol: int32 [B, S], the symbol that a slot belongs to.
      is_mark: bool [B, S], whether that is a mark.
      copy: int32 [B, S], which of a mark's slots it is, from 0; the last one for a mark that has one; 0 for others.
      read: int32 [B, S], the number of the word, a mark counted with the symbols before it; 0 is padding.
      written: int32 [B, S], the number of the word, a mark counted with the symbols after it; 0 is padding.
      place: int32 [B, S], position in the word if the mark's slots come first, on whichever side it is.
    """

    own: jax.Array
    marks: jax.Array
    units: jax.Array
    symbol: jax.Array
    is_mark: jax.Array
    copy: jax.Array
    read: jax.Array
    written: jax.Array
    place: jax.Array


def widen_marks(marked: jax.Array, segment_ids: jax.Array, *, copies: int, words: int) -> WordSlots:
    """Lays rows out anew with `copies` slots for each of the first `words` marks: S = T + words (copies - 1).

    Args:
      marked: bool [B, T], the marks that close words; none in padding.
      segment_ids: int32 [B, T]; 0 is padding. A word never spans two segments.
      copies: slots of a mark.
      words: W, how many marks are widened; the others keep one slot.
    """
    length, extra = marked.shape[1], copies - 1
    marks = jnp.cumsum(marked, axis=1, dtype=jnp.int32)
    read, written, units = word_numbers(marked, segment_ids)
    own = jnp.arange(length) + extra * jnp.minimum(marks, words)
    at = jnp.arange(length + extra * words)
    symbol = jax.vmap(lambda row: jnp.searchsorted(row, at))(own)
    used, symbol = symbol < length, jnp.minimum(symbol, length - 1)
    is_mark = take_positions(marked, symbol) & used
    copy = jnp.where(is_mark, extra - (take_positions(own, symbol) - at), 0)
    return WordSlots(
        own=own,
        marks=marks,
        units=units,
        symbol=symbol,
        is_mark=is_mark,
        copy=copy,
        read=take_positions(read, symbol) * used,
        written=take_positions(written, symbol) * used,
        place=jnp.where(is_mark, copy, extra + take_positions(units, symbol)),
    )


@flax.struct.dataclass
class Alignment:
    """Where the positions of rows go so that no word straddles a block of slots.

    Attributes:
      slot: int32 [B, T], the slot of each position.
      fits: bool [B, T], whether it has one; the others have the slot of another position.
      position: int32 [B, S], the position that a slot holds; some position where it is empty.
      filled: bool [B, S], whether it holds one.
    """

    slot: jax.Array
    fits: jax.Array
    position: jax.Array
    filled: jax.Array


_SPARE = 1 / 8  # slots beyond those of a row without gaps: words of text leave fewer than one in twenty empty


def aligned_slots(length: int, longest: int, block: int, parts: int = 1) -> int:
    """Returns S, the slots of a row of `length` positions: enough for any words of at most `longest`, or for most.

    In whole blocks, as many for each of `parts` devices.
    """
    any_words = -(-length // (block - longest + 1))
    blocks = min(any_words, 1 + math.ceil(length * (1 + _SPARE) / block))
    return -(-blocks // parts) * parts * block


def align_words(word: jax.Array, *, longest: int, block: int, parts: int = 1) -> Alignment:
    """Fills aligned blocks of slots with whole words, as many as fit in each, in their order.

    The last block is filled without regard to where words end, and positions past it have no slot: whether one has
    depends on what stands before it only.

    Args:
      word: int32 [B, T], the word of each position; equal ids of a word stand together. 0 is padding.
      longest: positions of a word at most, no more than `block`.
      block: slots of a block.
      parts: devices that split a row.
    """
    B, T = word.shape
    at = jnp.arange(T, dtype=jnp.int32)
    starts = starts_of_segments(word) | (word == 0)
    begins = jax.lax.cummax(jnp.where(starts, at, 0), axis=1)  # where the word of each position begins
    begins = jnp.pad(begins, ((0, 0), (0, 1)), constant_values=T)
    rows = jnp.arange(B)

    def next_block(first: jax.Array, _: None) -> tuple[jax.Array, jax.Array]:
        """The word that does not fit as a whole begins the next block."""
        return begins[rows, jnp.minimum(first + block, T)], first

    blocks = aligned_slots(T, longest, block, parts) // block
    firsts = jax.lax.scan(next_block, jnp.zeros(B, jnp.int32), length=blocks)[1].T  # [B, blocks]
    ends = jnp.concatenate([firsts[:, 1:], jnp.minimum(firsts[:, -1:] + block, T)], axis=1)
    fits = at < ends[:, -1:]
    number = jnp.minimum(jax.vmap(lambda row: jnp.searchsorted(row, at, side="right"))(ends), blocks - 1)
    position = firsts[..., None] + jnp.arange(block)
    return Alignment(
        slot=jnp.where(fits, number * block + at - take_positions(firsts, number), 0),
        fits=fits,
        position=jnp.minimum(position, T - 1).reshape(B, -1),
        filled=(position < ends[..., None]).reshape(B, -1),
    )

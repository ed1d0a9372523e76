"""Character classes of the word splitter for every code point, as run-length tables that a checkpoint can keep.

Each code point has one class of the low four bits and, where it applies, the flag `PICTOGRAPHIC`. The classes are
Unicode's Word_Break values (UAX #29) reduced to what the splitter's rule can tell apart.
"""

import functools
import sys

import numpy as np

from tokjax.core.types import Tables

OTHER = 0  # stands alone: symbols, ideographs, bytes that are not UTF-8
LOWER = 1  # letters of category Ll
UPPER = 2  # letters of category Lu
ALNUM = 3  # other letters of alphabetic scripts, and digits
KATAKANA = 4
CONNECTOR = 5  # ExtendNumLet that is not punctuation
PUNCTUATION = 6  # \p{P}, whatever its Word_Break value
WHITE = 7  # white space that UAX #29 never joins to its like: tab, no-break space
SPACE = 8  # U+0020
WIDE_SPACE = 9  # the other members of WSegSpace; the splitter also files here a U+0020 that continues a run
NEWLINE = 10  # line and paragraph separators except the next two
CARRIAGE_RETURN = 11
LINE_FEED = 12
EXTEND = 13  # combining marks and format characters
JOINER = 14  # U+200D
REGIONAL = 15  # regional indicators, which pair up into flags
CLASS_MASK = 0x0F
PICTOGRAPHIC = 0x80

# Later rows win: \p{P} over Word_Break, case over ALetter, Word_Break over White_Space. Not in UAX #29: there is no
# class for the mid-word characters, whose rules (WB6/7, 7b/c, 11/12) look ahead. All are \p{P}, which splits anyway,
# but U+2044 FRACTION SLASH; that one stands alone.
_PROPERTIES = (
    (r"[\p{WB=ALetter}\p{WB=Hebrew_Letter}\p{WB=Numeric}]", ALNUM),
    (r"\p{Ll}", LOWER),
    (r"\p{Lu}", UPPER),
    (r"\p{WB=Katakana}", KATAKANA),
    (r"\p{White_Space}", WHITE),
    (r"\p{WB=ExtendNumLet}", CONNECTOR),
    (r"\p{WB=WSegSpace}", WIDE_SPACE),
    (r"\p{WB=Newline}", NEWLINE),
    (r"[\p{WB=Extend}\p{WB=Format}]", EXTEND),
    (r"\p{WB=Regional_Indicator}", REGIONAL),
    (r"\p{P}", PUNCTUATION),
    (r"\u0020", SPACE),
    (r"\r", CARRIAGE_RETURN),
    (r"\n", LINE_FEED),
    (r"\u200D", JOINER),
)


@functools.cache
def _current() -> tuple[np.ndarray, np.ndarray]:
    import regex

    every = "".join(map(chr, range(sys.maxunicode + 1)))
    classes = np.full(len(every), OTHER, np.uint8)
    for pattern, value in _PROPERTIES:
        for run in regex.finditer(f"{pattern}+", every):
            classes[run.start() : run.end()] = value
    for run in regex.finditer(r"\p{Extended_Pictographic}+", every):
        classes[run.start() : run.end()] |= PICTOGRAPHIC
    starts = np.flatnonzero(np.diff(classes, prepend=~classes[:1])).astype(np.int32)
    return starts, classes[starts]


def unicode_tables() -> Tables:
    """Returns the classes of the installed Unicode version.

    Returns:
      `character_starts`, int32 [N]: the first code point of each run of equal class, ascending from 0;
      `character_classes`, uint8 [N]: the class and flag of the run.
    """
    starts, classes = _current()
    return {"character_starts": starts.copy(), "character_classes": classes.copy()}


def dense_classes(tables: Tables) -> np.ndarray:
    """Returns the class and flag of every code point, uint8 [0x110000], read-only."""
    starts = np.asarray(tables["character_starts"], np.int32)
    return _expand(starts.tobytes(), np.asarray(tables["character_classes"], np.uint8).tobytes())


@functools.lru_cache(maxsize=4)
def _expand(starts: bytes, classes: bytes) -> np.ndarray:
    bounds = np.append(np.frombuffer(starts, np.int32), sys.maxunicode + 1)
    dense = np.repeat(np.frombuffer(classes, np.uint8), bounds[1:] - bounds[:-1])
    dense.flags.writeable = False
    return dense

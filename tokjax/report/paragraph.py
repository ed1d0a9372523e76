"""One paragraph as the tokens of each system, shaded by what they cost."""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from tokjax.report.units import plural

FULL_SHADE = 8.0  # bits per byte of a uniform guess
DARKEST = 0.85  # opacity at FULL_SHADE and above, so that text stays readable
MARK_BYTES = 1  # a mark that stands for no bytes is shaded as if for one

_WHITESPACE = {
    " ": '<span class="s"> </span>',
    "\t": '<span class="tab">\t</span>',
    "\n": '<span class="n">\n</span>',
}


def paragraph_html(paragraph: Mapping[str, Any], systems: Sequence[str]) -> str:
    """Returns the legend and, under the name of each system, its tokens; systems in the order given."""
    sections = [_section(name, paragraph["systems"][name]) for name in systems if name in paragraph["systems"]]
    # In a section of its own, because the readout sticks to the bottom of the window while that is in view.
    readout = '<p class="readout" aria-live="polite" hidden>Point at a token.</p>'
    return f"<section>{_legend()}{''.join(sections)}{readout}</section>"


def token_bytes(token: Mapping[str, Any]) -> bytes:
    """Returns the bytes a token stands for."""
    return bytes.fromhex(token["hex"]) if "hex" in token else token["text"].encode()


def shade(bits: float, size: int) -> float:
    """Returns the opacity for a token of `size` bytes that costs `bits`: linear in bits per byte up to `FULL_SHADE`."""
    bits_per_byte = max(bits, 0.0) / (size or MARK_BYTES)
    return DARKEST * min(bits_per_byte / FULL_SHADE, 1.0)


def token_html(token: Mapping[str, Any]) -> str:
    """Returns a span whose text is the token, or a thin mark for a token of no bytes."""
    raw, bits = token_bytes(token), token["bits"]
    cost = f"--cost:{shade(bits, len(raw)):.3f}"
    if not raw:
        title = f"end mark · {bits:.2f} bits · 0 bytes"
        return f'<span class="m" style="{cost}" title="{title}" role="img" aria-label="{title}"></span>'
    size = "1 byte" if len(raw) == 1 else f"{len(raw)} bytes"
    title = f"{_visible(raw)} · {bits:.2f} bits · {size} · {bits / len(raw):.2f} bits/byte"
    return f'<span class="t" style="{cost}" title="{html.escape(title)}">{_body(raw)}</span>'


def _section(system: str, tokens: Sequence[Mapping[str, Any]]) -> str:
    raw = b"".join(map(token_bytes, tokens))
    bits = sum(token["bits"] for token in tokens)
    marks = sum(not token_bytes(token) for token in tokens)
    counts = f"{bits:,.0f} bits for {len(raw):,} bytes · {len(tokens) - marks:,} tokens, {plural(marks, 'mark')}"
    rate = f"<b>{bits / len(raw):.3f} bits/byte</b> · " if raw else ""
    return (
        f"<h3>{html.escape(system)} <small>{rate}{counts}</small></h3>"
        f'<p class="tokens" dir="auto">{"".join(map(token_html, tokens))}</p>'
    )


def _legend() -> str:
    steps = "".join(
        f'<span style="--cost:{shade(bits, 1):.3f}">{bits}{"+" if bits == FULL_SHADE else ""}</span>'
        for bits in range(0, int(FULL_SHADE) + 1, 2)
    )
    return (
        '<p class="soft">The same text, cut as each system cuts it. Shade is the cost of a token in bits per byte, so'
        " with letters of one width the amount of colour is the number of bits. A guess at random among 256 bytes costs"
        f" {FULL_SHADE:g} bits per byte. A thin bar is a mark that stands for no bytes, the end of a word or of the"
        " text, shaded as if for one byte. Boxed digits are bytes that are no character on their own, in hexadecimal."
        " Point at or tap a token for its numbers.</p>"
        f'<div class="scale" role="img" aria-label="Colour scale: 0 to {FULL_SHADE:g} bits per byte">{steps}</div>'
        '<p class="soft">bits per byte of the token</p>'
    )


def _body(raw: bytes) -> str:
    """Returns the token's text, with whitespace made visible and other bytes boxed, as HTML."""
    return "".join(_character(c) for c in raw.decode("utf-8", "surrogateescape"))


def _character(c: str) -> str:
    if c in _WHITESPACE:
        return _WHITESPACE[c]
    if "\udc80" <= c <= "\udcff":  # a byte that `surrogateescape` could not decode
        return f'<b class="x">{ord(c) - 0xDC00:02x}</b>'
    if not c.isprintable():  # HTML forbids or rewrites most control characters
        return f'<b class="x">{c.encode().hex()}</b>'
    return html.escape(c)


def _visible(raw: bytes) -> str:
    """Returns the token in quotes for a tooltip, undecodable bytes and control characters as escapes."""
    text = raw.decode("utf-8", "backslashreplace")
    return "“" + "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text) + "”"

"""Emoji of the npm packages emoji-datasource-VENDOR: pictures with names, categories and skin tones."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokjax.core.errors import SourceError, nearest
from tokjax.core.registry import image_sources
from tokjax.data.address import read_size, split_options
from tokjax.data.files import read_file
from tokjax.data.images.base import Image, Images, open_images
from tokjax.data.images.pixels import decode, to_channels, to_square

_TONES = {
    "1F3FB": "LIGHT", "1F3FC": "MEDIUM-LIGHT", "1F3FD": "MEDIUM", "1F3FE": "MEDIUM-DARK", "1F3FF": "DARK",
}  # fmt: skip
# Code points that change details of a drawing: skin tone, female, male, to the right, joiner, emoji style.
_DETAILS = {*_TONES, "2640", "2642", "27A1", "200D", "FE0F"}
_WHOEVER = {"1F468": "1F9D1", "1F469": "1F9D1", "1F466": "1F9D2", "1F467": "1F9D2"}  # man, woman, boy, girl
_ADVICE = "Run 'npm pack emoji-datasource-google@16.0.0', unpack it, and write 'emoji:FOLDER/package'"


@image_sources.register("emoji")
def emoji(rest: str) -> Images:
    """Emoji with names and categories, RGB on white: emoji:FOLDER[?size=64&vendor=google].

    FOLDER is an unpacked npm package such as emoji-datasource-google or emoji-datasource-twitter. An image's class is
    its category and its text its name. Variants of skin tone, gender and direction are in one split, which is the
    same one for every vendor and size.

    Raises:
      SourceError: a folder, file or option that cannot be used.
    """
    place, options = split_options("emoji", rest, size="64", vendor="")
    size = read_size("emoji", rest, options["size"])
    folder = Path(place).expanduser()
    if not place or not (folder / "emoji.json").is_file():
        raise SourceError(f"emoji:{rest}: no emoji.json in {place or 'no folder'}. {_ADVICE}.")
    vendors = sorted(path.parent.name for path in folder.glob("img/*/64"))
    vendor = options["vendor"] or (vendors[0] if len(vendors) == 1 else "")
    if vendor not in vendors:
        raise SourceError(f"emoji:{rest}: no vendor {vendor!r}.{nearest(vendor, vendors)} Choose one with '?vendor='.")
    drawings = list(_drawings(folder / "emoji.json", vendor))
    classes = sorted({drawing.category for drawing in drawings})
    records = Drawings(folder / "img" / vendor / "64", drawings, classes, size)
    return open_images(f"emoji:{rest}", records, classes=classes, advice=_ADVICE)


class Drawing(NamedTuple):
    """A picture of an emoji."""

    image: str
    name: str
    category: str
    base: str


class Drawings:
    """Pictures of emoji, decoded on access."""

    def __init__(self, folder: Path, drawings: Sequence[Drawing], classes: Sequence[str], size: int):
        self._folder, self._drawings, self._classes, self._size = folder, drawings, classes, size

    def __len__(self) -> int:
        return len(self._drawings)

    def __getitem__(self, index: int) -> Image:
        drawing = self._drawings[index]
        path = self._folder / drawing.image
        return Image(
            pixels=to_channels(to_square(decode(read_file(path), where=str(path)), self._size), 3),
            label=self._classes.index(drawing.category),
            text=drawing.name,
            group=drawing.base,
        )


def base_emoji(unified: str) -> str:
    """Returns what stays of an emoji, its code points joined by '-', without skin tone, gender and direction."""
    points = unified.split("-")
    kept = [_WHOEVER.get(point, point) for point in points if point not in _DETAILS]
    return "-".join(kept or points)


def _drawings(path: Path, vendor: str) -> Iterator[Drawing]:
    """Yields the pictures of one vendor: each emoji, followed by its skin tones."""
    try:
        for entry in json.loads(read_file(path)):
            for tones, variant in [("", entry), *entry.get("skin_variations", {}).items()]:
                if variant[f"has_img_{vendor}"]:
                    name, category = _name(entry, tones), entry["category"]
                    yield Drawing(variant["image"], name, category, base_emoji(entry["unified"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SourceError(f"{path}: not the list of emoji of emoji-datasource ({error!r}). Unpack it again.") from error


def _name(entry: dict[str, Any], tones: str) -> str:
    """Returns the name of an emoji, with its skin tones as Unicode writes them."""
    shown = ", ".join(f"{_TONES[tone]} SKIN TONE" for tone in tones.split("-") if tone)
    return f"{entry['name']}: {shown}" if shown else entry["name"]

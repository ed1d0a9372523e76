"""Images: distinct by pixels, split by group, with official splits kept whole."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_images import random_pixels

from tokjax.core.errors import SourceError
from tokjax.data import SPLITS
from tokjax.data.images import Image, base, open_images


def image(number, shape=(2, 2, 1), **fields):
    return Image(pixels=random_pixels(number, shape), **fields)


@st.composite
def records(draw):
    """Images of which some are equal, each equal one of its own group; groups keep to one official split."""
    pixels = draw(st.lists(st.integers(0, 40), min_size=1, max_size=40))
    officials = draw(st.lists(st.sampled_from(["", "", "", "valid", "test"]), min_size=8, max_size=8))
    groups = draw(st.lists(st.integers(0, 7), min_size=len(pixels), max_size=len(pixels)))
    return [image(p, group=f"g{g}", official=officials[g]) for p, g in zip(pixels, groups, strict=True)]


@given(records())
def test_equal_images_go_and_no_group_is_in_two_splits(raw):
    source = open_images("test", raw)
    assert len(source) == len({r.pixels.tobytes() for r in raw}) == len(raw) - source.duplicates
    found = [{group.tobytes() for group in source.split(split).groups} for split in SPLITS]
    assert sum(map(len, found)) == len(set.union(*found))
    assert sum(len(source.split(split)) for split in SPLITS) == len(source)


@given(records())
def test_official_splits_are_whole_and_nothing_else(raw):
    source = open_images("test", raw)
    tests = {r.pixels.tobytes() for r in raw if r.official == "test"}
    valids = {r.pixels.tobytes() for r in raw if r.official == "valid"} - tests
    for name, official in (("test", tests), ("valid", valids)):
        split = source.split(name)
        held = {split[index].pixels.tobytes() for index in range(len(split))}
        assert held == official or (not official and held <= {r.pixels.tobytes() for r in raw if not r.official})


@given(records(), st.randoms())
def test_split_depends_on_groups_alone(raw, random):
    distinct = list({r.pixels.tobytes(): r for r in raw}.values())
    sources = (open_images("test", order) for order in (distinct, random.sample(distinct, len(distinct))))
    one, other = ({name: source.split(name) for name in SPLITS} for source in sources)
    for name in SPLITS:
        assert {d.tobytes() for d in one[name].digests} == {d.tobytes() for d in other[name].digests}


@pytest.mark.parametrize(
    ("official", "shares"),
    [
        ((), {"train": 0.9, "valid": 0.05, "test": 0.05}),
        (("test",), {"train": 0.9 / 0.95, "valid": 0.05 / 0.95}),
        (("valid",), {"train": 0.9 / 0.95, "test": 0.05 / 0.95}),
        (("valid", "test"), {"train": 1.0}),
    ],
)
def test_shares_of_what_is_drawn(official, shares):
    raw = [image(10_000 + n, official=name) for n, name in enumerate(official)]
    source = open_images("test", [*raw, *(image(number) for number in range(4000))])
    drawn = {name: len(source.split(name)) - (name in official) for name in SPLITS}
    for name in SPLITS:
        share = shares.get(name, 0)
        # Five standard deviations of a binomial count; the hash is fixed, so this never flickers.
        assert abs(drawn[name] - 4000 * share) <= 5 * (4000 * share * (1 - share)) ** 0.5


def test_shape_is_part_of_an_image():
    flat = np.arange(6, dtype=np.uint8)
    source = open_images("test", [Image(pixels=flat.reshape(shape)) for shape in ((2, 3, 1), (3, 2, 1), (2, 1, 3))])
    assert (len(source), source.duplicates, source.pixels) == (3, 0, None)


def test_labels_are_part_of_the_fingerprint():
    fingerprints = {open_images("x", [image(0, label=n)], classes="ab").fingerprint for n in (-1, 0, 1)}
    assert len(fingerprints) == 3


def test_image_that_changed_is_an_error():
    raw = [image(0), image(1)]
    source = open_images("test", raw)
    raw[1] = image(2)
    np.testing.assert_array_equal(source[0].pixels, raw[0].pixels)
    with pytest.raises(SourceError, match="image 1 changed"):
        list(source)


def test_grey_among_colour_is_kept_in_memory_as_colour():
    raw = [image(0), image(1, (2, 2, 3)), image(2)]
    source = open_images("test", raw)
    assert source.pixels.shape == (3, 2, 2, 3)
    for index, record in enumerate(raw):
        np.testing.assert_array_equal(source.pixels_of(index), np.broadcast_to(record.pixels, (2, 2, 3)))
        assert source[index].pixels.shape == record.pixels.shape


@pytest.mark.parametrize("sizes", [[(2, 2, 1), (3, 2, 1)], [(2, 2, 1), (3, 2, 3)], [(2, 2, 3), (2, 3, 1), (2, 2, 3)]])
def test_images_of_several_sizes_are_read_when_asked_for(sizes):
    raw = [image(number, shape) for number, shape in enumerate(sizes)]
    source = open_images("test", raw)
    assert source.pixels is None
    assert [source.pixels_of(index).shape for index in range(len(raw))] == sizes


def test_too_many_images_are_read_when_asked_for(monkeypatch):
    monkeypatch.setattr(base, "_IN_MEMORY", 24)
    assert open_images("test", [image(number) for number in range(6)]).pixels is not None
    assert open_images("test", [image(number) for number in range(7)]).pixels is None
    assert open_images("test", [image(0), image(1), image(2, (2, 2, 3))]).pixels is None


def test_nothing_to_read_is_an_error():
    with pytest.raises(SourceError, match=r"test: no images. Add scans."):
        open_images("test", [], advice="Add scans")


def test_label_without_a_class_is_an_error():
    with pytest.raises(SourceError, match="image 1 has label 2, but there are 2 classes"):
        open_images("test", [image(0, label=1), image(1, label=2)], classes="ab")


def test_empty_split_raises_when_read():
    source = open_images("test", [image(0)], advice="Add scans")
    empty = [split for split in map(source.split, SPLITS) if not len(split)]
    assert len(empty) == 2
    for split in empty:
        for read in (iter, lambda images: images[0]):
            with pytest.raises(SourceError, match=r"only 1 image\. Add scans"):
                read(split)


def test_unknown_split_gives_the_nearest():
    with pytest.raises(SourceError, match="Did you mean 'valid'"):
        open_images("test", [image(0)]).split("validation")

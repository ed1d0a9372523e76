"""What every source of images promises, over the registry: a new one must add an address to open here."""

import importlib.util
from collections import Counter

import numpy as np
import pytest
from tiny_images import write_emoji, write_folder, write_idx, write_tfds

from tokjax.core.errors import SourceError, UnknownNameError
from tokjax.core.registry import image_sources
from tokjax.data import SPLITS
from tokjax.data.images import AugmentSpec, eval_images, load_images, train_images

NEEDS = {"digits": ("sklearn",), "photos": ("skimage", "sklearn")}


@pytest.fixture(scope="module")
def addresses(tmp_path_factory):
    """An address that can be opened offline for every registered scheme."""
    folder = tmp_path_factory.mktemp("images")
    return {
        "digits": "digits",
        "photos": "photos:?size=64",
        "fashion_mnist": f"fashion_mnist:{write_idx(folder / 'idx')}",
        "emoji": f"emoji:{write_emoji(folder / 'emoji')}?size=8",
        "folder": f"folder:{write_folder(folder / 'files')}/**/*.png",
        "tfds_images": f"tfds_images:{write_tfds(folder / 'tfds')}",
    }


@pytest.fixture(scope="module")
def opened(addresses):
    """Opens each source once for the whole module."""
    cache = {}

    def open_once(name):
        if name not in addresses:
            pytest.fail(f"Image source {name!r} has no address in this test: add one to `addresses`.")
        for package in NEEDS.get(name, ()):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{name} needs {package}: pip install 'tokjax[images]'")
        if name not in cache:
            cache[name] = load_images(addresses[name])
        return cache[name]

    return open_once


every_source = pytest.mark.parametrize("name", list(image_sources))


@every_source
def test_images_are_distinct_and_labelled(opened, name):
    source = opened(name)
    images = list(source)
    assert len(images) == len(source) > 0
    assert len({(image.pixels.shape, image.pixels.tobytes()) for image in images}) == len(images)
    for image in images:
        assert image.pixels.dtype == np.uint8 and image.pixels.ndim == 3 and image.pixels.shape[2] in (1, 3)
    assert [image.label for image in images] == source.labels.tolist()
    assert set(source.labels.tolist()) == (set(range(len(source.classes))) or {-1})


@every_source
def test_second_opening_is_the_same(opened, addresses, name):
    source, again = opened(name), load_images(addresses[name])
    assert (again.name, again.duplicates, again.classes) == (source.name, source.duplicates, source.classes)
    assert again.fingerprint == source.fingerprint
    np.testing.assert_array_equal(again.parts, source.parts)


@every_source
def test_splits_cover_and_no_group_is_in_two(opened, name):
    source = opened(name)
    parts = [source.split(split) for split in SPLITS]
    assert Counter(digest.tobytes() for part in parts for digest in part.digests) == Counter(
        digest.tobytes() for digest in source.digests
    )
    groups = [{group.tobytes() for group in part.groups} for part in parts]
    assert sum(map(len, groups)) == len(set.union(*groups))
    assert all(map(len, parts)), "this set is large enough for every split"


@every_source
def test_memory_holds_what_records_hold(opened, name):
    part = opened(name).split("valid")
    for index in range(len(part)):
        np.testing.assert_array_equal(*np.broadcast_arrays(part.pixels_of(index), part[index].pixels))


@every_source
def test_batches_of_every_source(opened, name):
    source, spec = opened(name), AugmentSpec(size=8, pad=1, scale=(0.5, 1.0))
    batch = train_images(source.split("train"), 3, seed=0, batch_size=6, augment=spec)
    assert batch.pixels.shape == (6, 8, 8, 3)
    rows = sum(int(part.mask.sum()) for part in eval_images(source.split("test"), batch_size=7, augment=spec))
    assert rows == len(source.split("test"))


def test_digits_are_known(opened):
    source = opened("digits")
    assert (len(source), source.duplicates, source.classes) == (1797, 0, tuple("0123456789"))
    assert (source.pixels.min(), source.pixels.max()) == (0, 255)
    with pytest.raises(SourceError, match="takes no address"):
        load_images("digits:3")


def test_photos_are_split_by_photograph(opened):
    source = opened("photos")
    groups = [len(np.unique(source.split(split).groups, axis=0)) for split in SPLITS]
    assert groups == [8, 1, 1]
    assert source[0].pixels.shape == (64, 64, 3)
    for wrong, message in (
        ("photos:mine", "folder:GLOB"),
        ("photos:?size=0", "size=0"),
        ("photos:?size=2000", "small"),
    ):
        with pytest.raises(SourceError, match=message):
            load_images(wrong)


def test_missing_packages_say_what_to_install(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match=r'skimage is not installed. Run: pip install "tokjax\[images\]"'):
        load_images("photos")
    monkeypatch.setitem(__import__("sys").modules, "sklearn.datasets", None)
    with pytest.raises(SourceError, match=r'pip install "tokjax\[images\]"'):
        load_images("digits")


def test_unknown_source_says_how_to_name_files(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        load_images("digit")
    with pytest.raises(UnknownNameError, match="write 'folder:"):
        load_images(str(tmp_path))

"""Image folders, Fashion-MNIST, emoji and TFDS: what they read, and what they say about files that they cannot."""

import gzip
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tiny_images import idx, random_pixels, save, write_emoji, write_folder, write_idx, write_tfds

from tokjax.core.errors import SourceError
from tokjax.data import SPLITS
from tokjax.data.images import load_images
from tokjax.data.images.emoji import base_emoji
from tokjax.data.images.fashion_mnist import DEBIAN_FOLDER, read_idx


def splits_of(source):
    """Which split each group is in."""
    return {group.tobytes(): split for split in SPLITS for group in source.split(split).groups}


def test_folder_classes_are_the_folders(tmp_path):
    source = load_images(f"folder:{write_folder(tmp_path)}/**/*.png")
    assert source.classes == ("cats", "dogs")
    assert (len(source), source.duplicates) == (60, 1)
    assert Counter(source.labels.tolist()) == {0: 31, 1: 29}  # 'cats/again.png' comes before its copy among the dogs
    assert source.pixels.shape == (61, 12, 12, 3)


def test_folder_split_does_not_depend_on_the_size(tmp_path):
    write_folder(tmp_path)
    stored, small = (load_images(f"folder:{tmp_path}/**/*.png{options}") for options in ("", "?size=4"))
    assert small[0].pixels.shape == (4, 4, 3)
    assert splits_of(stored) == splits_of(small)


def test_folder_of_images_of_several_sizes(tmp_path):
    for number, shape in enumerate([(5, 9, 3), (7, 7, 1), (9, 5, 3)]):
        save(tmp_path / f"{number}.png", random_pixels(number, shape))
    stored = load_images(f"folder:{tmp_path}/*.png")
    assert stored.pixels is None and [image.pixels.shape for image in stored] == [(5, 9, 3), (7, 7, 1), (9, 5, 3)]
    assert load_images(f"folder:{tmp_path}/*.png?size=5").pixels.shape == (3, 5, 5, 3)


def test_tiles_are_the_photograph(tmp_path):
    pixels = {name: random_pixels(number, (9, 14, 3)) for number, name in enumerate("ab")}
    for name in pixels:
        save(tmp_path / f"{name}.png", pixels[name])
    source = load_images(f"folder:{tmp_path}/*.png?cut=tiles&size=4")
    assert len(source) == 2 * 2 * 3
    for number, name in enumerate("ab"):
        tiles = [source[number * 6 + index].pixels for index in range(6)]
        rows = [np.concatenate(tiles[start : start + 3], axis=1) for start in (0, 3)]
        np.testing.assert_array_equal(np.concatenate(rows), pixels[name][:8, :12])
        assert len({group.tobytes() for group in source.groups[number * 6 : number * 6 + 6]}) == 1
    assert len(np.unique(source.groups, axis=0)) == 2


def test_folder_mistakes_name_the_remedy(tmp_path):
    save(tmp_path / "good.png", random_pixels(0))
    (tmp_path / "bad.jpg").write_bytes(b"not an image")
    (tmp_path / "empty").mkdir()
    for rest, message in (
        (f"{tmp_path}/*", r"bad\.jpg: not a complete image"),
        (f"{tmp_path}/empty/*", "matches no file"),
        (f"{tmp_path}", "is a folder. To read all files in it"),
        ("", r"folder:folder/\*\*/\*\.png"),
        (f"{tmp_path}/*.png?size=big", "size=big; expected a positive number"),
        (f"{tmp_path}/*.png?sise=4", "Did you mean 'size'"),
        (f"{tmp_path}/*.png?cut=half", "expected 'square' or 'tiles'"),
        (f"{tmp_path}/*.png?cut=tiles", "tiles of which size"),
        (f"{tmp_path}/*.png?cut=tiles&size=13", "no images. Add files, or use smaller tiles"),
    ):
        with pytest.raises(SourceError, match=message):
            load_images(f"folder:{rest}")


def test_a_file_that_changes_is_noticed(tmp_path):
    for number in range(2):
        save(tmp_path / f"{number}.png", random_pixels(number))
    source = load_images(f"folder:{tmp_path}/*.png")
    save(tmp_path / "1.png", random_pixels(2))
    with pytest.raises(SourceError, match="image 1 changed"):
        source[1]


def test_fashion_mnist_keeps_its_test_set(tmp_path):
    source = load_images(f"fashion_mnist:{write_idx(tmp_path)}")
    assert (len(source), source.duplicates) == (89, 1)
    test = source.split("test")
    assert test.labels.tolist() == list(range(10))
    assert (test[0].pixels == 7).all()  # it is in the training files too, and left those
    assert len(source.split("train")) + len(source.split("valid")) == 79


def test_idx_round_trip(tmp_path):
    for shape in ((3,), (2, 3, 4)):
        array = random_pixels(0, shape)
        (tmp_path / "plain").write_bytes(idx(array))
        (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(array), mtime=0))
        for name in ("plain", "packed.gz"):
            np.testing.assert_array_equal(read_idx(tmp_path / name, len(shape)), array)


def packed(content: bytes) -> bytes:
    """``content`` by gzip, without the time, so that every worker names these tests alike."""
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train-images-idx3-ubyte.gz", packed(b""), "not an IDX file of bytes with 3 dimensions"),
        ("train-images-idx3-ubyte.gz", packed(idx(np.zeros(9, np.uint8))), r"begins with 00000801"),
        ("train-images-idx3-ubyte.gz", packed(bytes([0, 0, 13, 3]) + bytes(12)), "not an IDX file"),
        ("train-images-idx3-ubyte.gz", packed(idx(np.zeros((9, 2, 2), np.uint8))[:-1]), "holds 35 bytes, but"),
        ("train-images-idx3-ubyte.gz", b"no archive", "not a complete gzip file"),
        ("t10k-labels-idx1-ubyte.gz", packed(idx(np.zeros(9, np.uint8))), "10 images, but .* 9 labels"),
        ("t10k-labels-idx1-ubyte.gz", packed(idx(np.full(10, 10, np.uint8))), "label 10, expected 0 to 9"),
        ("t10k-labels-idx1-ubyte.gz", None, "t10k-labels-idx1-ubyte.gz: cannot be read: No such file"),
    ],
)
def test_damaged_idx_files_are_named(tmp_path, name, content, message):
    path = write_idx(tmp_path) / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=message):
        load_images(f"fashion_mnist:{tmp_path}")


def test_fashion_mnist_says_where_to_get_it(tmp_path):
    with pytest.raises(SourceError, match="Debian package dataset-fashion-mnist"):
        load_images(f"fashion_mnist:{tmp_path}/nowhere")


def test_emoji_variants_stay_together(tmp_path):
    source = load_images(f"emoji:{write_emoji(tmp_path)}")
    assert (len(source), source.classes) == (100, ("Flags", "Objects"))
    assert [source[index].text for index in range(4)] == [
        "NAME 0", "NAME 0: LIGHT SKIN TONE", "NAME 0: DARK SKIN TONE", "NAME 1",
    ]  # fmt: skip
    assert [source.classes[label] for label in source.labels[:4]] == ["Flags"] * 3 + ["Objects"]
    assert len(np.unique(source.groups[:4], axis=0)) == 2
    assert source.pixels.shape == (100, 64, 64, 3)


def test_emoji_split_is_the_same_for_every_vendor_and_size(tmp_path):
    write_emoji(tmp_path, vendors=("google", "twitter"))
    views = [load_images(f"emoji:{tmp_path}?vendor={v}&size={s}") for v, s in (("google", 8), ("twitter", 4))]
    assert views[0].fingerprint != views[1].fingerprint
    assert splits_of(views[0]) == splits_of(views[1])


def test_what_stays_of_an_emoji():
    same = [
        ("1F385", "1F385-1F3FB"),  # skin tone
        ("1F3C3", "1F3C3-1F3FF-200D-2640-FE0F-200D-27A1-FE0F"),  # runner; woman running to the right
        ("1F9D1-200D-1F33E", "1F468-1F3FC-200D-1F33E"),  # farmer; man farmer
    ]
    assert all(base_emoji(one) == base_emoji(other) for one, other in same)
    apart = [
        "1F385",
        "1F3C3",
        "1F9D1-200D-1F33E",
        "1F1E6-1F1E8",
        "1F1E6-1F1E9",
        "1F3FB",
        "1F3FC",
        "2640-FE0F",
        "27A1-FE0F",
    ]
    assert len(set(map(base_emoji, apart))) == len(apart)


def test_emoji_mistakes_name_the_remedy(tmp_path):
    folder = write_emoji(tmp_path / "one", count=3)
    both = write_emoji(tmp_path / "both", count=3, vendors=("google", "twitter"))
    broken, missing = (write_emoji(tmp_path / name, count=3) for name in ("broken", "missing"))
    (broken / "emoji.json").write_text("[1]")
    (missing / "img/google/64/1f600.png").unlink()
    for rest, message in (
        ("", "no emoji.json in no folder. Run 'npm pack"),
        (tmp_path, "no emoji.json in .* Run 'npm pack"),
        (both, "Known: google, twitter. Choose one with '.vendor='"),
        (f"{folder}?vendor=gogle", "Did you mean 'google'"),
        (f"{folder}?size=-1", "size=-1"),
        (broken, "emoji.json: not the list of emoji"),
        (missing, "1f600.png: cannot be read: No such file"),
    ):
        with pytest.raises(SourceError, match=message):
            load_images(f"emoji:{rest}")
    (broken / "emoji.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(SourceError, match="not the list of emoji"):
        load_images(f"emoji:{broken}")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_tfds(tmp_path_factory.mktemp("tfds"))


def test_tfds_official_splits(prepared):
    source = load_images(f"tfds_images:{prepared}")
    assert (len(source), source.classes) == (68, ("even", "odd"))
    valid = source.split("valid")
    assert {image.pixels.tobytes() for image in valid} == {
        random_pixels(number, (8, 8 + number % 2, 3)).tobytes() for number in range(60, 68)
    }
    assert len(source.split("train")) + len(source.split("test")) == 60
    assert splits_of(load_images(f"tfds_images:{prepared}?size=4")) == splits_of(source)


def test_tfds_one_split_is_drawn_by_hash(prepared):
    source = load_images(f"tfds_images:{prepared}?split=extra")
    assert len(source) == 30
    whole = splits_of(load_images(f"tfds_images:{prepared}?split=train"))
    assert splits_of(source).items() <= whole.items()


def test_tfds_other_fields(prepared):
    assert load_images(f"tfds_images:{prepared}?image=grey").pixels.shape == (68, 8, 8, 1)
    arrays = load_images(f"tfds_images:{prepared}?image=array&split=extra")
    assert {image.pixels.tobytes() for image in arrays} == {random_pixels(n, (6, 6, 1)).tobytes() for n in range(30)}


@pytest.mark.parametrize(
    ("rest", "message"),
    [
        ("{}?split=tests", "no split 'tests'"),
        ("{}?image=imag", "no field 'imag'. Did you mean 'image'. Choose with '.image='"),
        ("{}?label=labels", "no field 'labels'. Did you mean 'label'. Choose with '.label='"),
        ("{}?label=array", "field 'array' has no classes"),
        ("{}?image=numbers", r"example 0: field 'numbers' holds uint8 \(3,\)"),
        ("{}?image=label", "field 'label' holds int"),
        ("{}?image=deep", "example 0: has pixels of kind I;16"),
        ("{}?size=x", "size=x"),
        ("", "tfds_images: names no data set"),
    ],
)
def test_tfds_mistakes_name_the_remedy(prepared, rest, message):
    with pytest.raises(SourceError, match=message):
        load_images("tfds_images:" + rest.format(prepared))


def test_the_real_fashion_mnist():
    folder = Path(os.environ.get("TOKJAX_FASHION_MNIST", DEBIAN_FOLDER))
    if not folder.is_dir():
        pytest.skip("needs Debian's dataset-fashion-mnist, or its files in the folder $TOKJAX_FASHION_MNIST")
    source = load_images(f"fashion_mnist:{folder}")
    assert (len(source), source.duplicates, source.pixels.shape) == (70_000, 0, (70_000, 28, 28, 1))
    assert np.bincount(source.labels).tolist() == [7000] * 10
    assert np.bincount(source.split("test").labels).tolist() == [1000] * 10
    assert abs(len(source.split("valid")) / 60_000 - 0.05 / 0.95) < 5 * (0.05 / 60_000) ** 0.5


@pytest.mark.parametrize(("vendor", "distinct"), [("google", 3767), ("twitter", 3752)])
def test_the_real_emoji(vendor, distinct):
    folder = Path(os.environ.get("TOKJAX_EMOJI", "")) / f"emoji-datasource-{vendor}"
    if not (folder / "emoji.json").is_file():
        pytest.skip(f"needs the npm package emoji-datasource-{vendor}@16.0.0 unpacked in the folder $TOKJAX_EMOJI")
    source = load_images(f"emoji:{folder}?size=32")
    assert (len(source), source.duplicates, len(source.classes)) == (distinct, 3786 - distinct, 10)
    assert source.pixels.shape == (3786, 32, 32, 3)
    assert all(len(source.split(split)) > 100 for split in SPLITS)

"""Batches of images: pure functions of the step, each image once an epoch, the same for any number of hosts."""

from collections import Counter

import chex
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tiny_images import random_pixels

from tokjax.core.errors import SourceError, SpecError
from tokjax.core.spec import build
from tokjax.data.images import AugmentSpec, Image, eval_images, open_images, train_images
from tokjax.data.images.batches import random_box, shift_and_flip
from tokjax.data.images.pixels import to_float, to_uint8

PLAIN = AugmentSpec(size=4, channels=1)


def numbered(count, shape=(4, 4, 1)):
    """Images whose first pixels say which they are, as does the label."""
    raw = []
    for number in range(count):
        pixels = np.full(shape, number // 250, np.uint8)
        pixels[0, 0] = number % 250
        raw.append(Image(pixels=pixels, label=number))
    return open_images("test", raw, classes=[str(number) for number in range(count)])


specs = st.builds(
    AugmentSpec,
    size=st.integers(1, 6),
    channels=st.sampled_from([1, 3]),
    pad=st.integers(0, 7),
    flip=st.sampled_from([0.0, 0.5, 1.0]),
    scale=st.sampled_from([None, (0.1, 1.0), (1.0, 1.0)]),
)


@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 2**63 - 1))
def test_epoch_visits_each_image_once_across_batches(count, batch_size, seed):
    images = numbered(count)
    steps = -(-3 * count // batch_size)
    batches = [train_images(images, step, seed=seed, batch_size=batch_size, augment=PLAIN) for step in range(steps)]
    labels = np.concatenate([batch.labels for batch in batches])
    for epoch in range(3):
        assert sorted(labels[epoch * count : (epoch + 1) * count]) == list(range(count))
    for batch in batches:
        np.testing.assert_array_equal(to_uint8(batch.pixels[:, 0, 0, 0]), batch.labels)
        assert (batch.mask == 1).all()


def test_epochs_and_seeds_differ_in_order():
    images = numbered(60)
    orders = [
        train_images(images, step, seed=seed, batch_size=60, augment=PLAIN).labels.tolist()
        for step, seed in ((0, 0), (1, 0), (0, 1))
    ]
    assert len(set(map(tuple, orders))) == 3


def test_order_and_variations_are_fixed_for_all_numpy_versions():
    assert train_images(numbered(5), 0, seed=7, batch_size=5, augment=PLAIN).labels.tolist() == [4, 1, 3, 2, 0]
    images = open_images("test", [Image(pixels=np.arange(16, dtype=np.uint8).reshape(4, 4, 1))])
    spec = AugmentSpec(size=4, channels=1, pad=1, flip=0.5)
    rows = to_uint8(train_images(images, 3, seed=7, batch_size=2, augment=spec).pixels)[..., 0]
    np.testing.assert_array_equal(rows[0], [[4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15], [12, 13, 14, 15]])
    np.testing.assert_array_equal(rows[1], [[6, 5, 4, 4], [10, 9, 8, 8], [14, 13, 12, 12], [14, 13, 12, 12]])


@given(st.sampled_from([1, 2, 3, 4, 6, 12]), st.integers(0, 20), specs, st.booleans())
def test_hosts_together_are_one_host(hosts, step, spec, in_memory):
    images = numbered(17)
    images.pixels = images.pixels if in_memory else None
    options = {"seed": 5, "batch_size": 12, "augment": spec}
    whole = train_images(images, step, **options)
    parts = [train_images(images, step, **options, host=host, hosts=hosts) for host in range(hosts)]
    chex.assert_trees_all_equal(whole, jax.tree.map(lambda *rows: np.concatenate(rows), *parts))


@given(specs, st.integers(0, 9), st.sampled_from([(4, 4, 1), (4, 4, 3), (7, 5, 3), (2, 3, 1)]))
def test_batches_have_one_shape_and_lie_within_the_range(spec, step, shape):
    images = open_images("test", [Image(pixels=random_pixels(number, shape)) for number in range(6)])
    batch = train_images(images, step, seed=1, batch_size=4, augment=spec)
    chex.assert_shape(batch.pixels, (4, spec.size, spec.size, spec.channels))
    chex.assert_shape([batch.labels, batch.mask], (4,))
    chex.assert_type([batch.pixels, batch.mask], np.float32)
    chex.assert_type(batch.labels, np.int32)
    assert np.abs(batch.pixels).max() <= 1
    assert (batch.labels == -1).all()


@given(specs)
def test_memory_and_files_give_the_same_batches(spec):
    images = open_images(
        "test", [Image(pixels=random_pixels(number, (4, 4, 1 + 2 * (number % 2)))) for number in range(6)]
    )
    batch = train_images(images, 2, seed=1, batch_size=8, augment=spec)
    images.pixels = None
    chex.assert_trees_all_equal(batch, train_images(images, 2, seed=1, batch_size=8, augment=spec))


@given(
    arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([1, 3]))),
    st.integers(-6, 6),
    st.integers(-6, 6),
)
def test_shift_and_flip(pixels, down, right):
    B = len(pixels)
    still, yes, no = np.zeros((B, 2), np.int64), np.ones(B, bool), np.zeros(B, bool)
    mirrored = shift_and_flip(pixels, still, yes)
    np.testing.assert_array_equal(mirrored, pixels[:, :, ::-1])
    np.testing.assert_array_equal(shift_and_flip(mirrored, still, yes), pixels)
    np.testing.assert_array_equal(shift_and_flip(pixels, still, no), pixels)
    padded = np.pad(pixels, [(0, 0), (6, 6), (6, 6), (0, 0)], mode="edge")
    _, H, W, _ = pixels.shape
    moved = shift_and_flip(pixels, np.tile([down, right], (B, 1)), no)
    np.testing.assert_array_equal(moved, padded[:, 6 + down : 6 + down + H, 6 + right : 6 + right + W])


def test_rows_vary_on_their_own_and_anew_each_step():
    images = open_images("test", [Image(pixels=random_pixels(0, (8, 8, 3)))])
    for spec in (AugmentSpec(size=8, pad=4), AugmentSpec(size=8, scale=(0.2, 1.0))):
        rows = [
            row.tobytes()
            for step in range(2)
            for row in train_images(images, step, seed=0, batch_size=8, augment=spec).pixels
        ]
        assert len(set(rows)) > 12  # of 81 places, or of boxes that are all different


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_share_of_mirror_images(probability):
    pixels = random_pixels(0, (2, 2, 1))
    images = open_images("test", [Image(pixels=pixels)])
    spec = AugmentSpec(size=2, channels=1, flip=probability)
    batch = train_images(images, 0, seed=0, batch_size=400, augment=spec)
    mirrored = (to_uint8(batch.pixels) == pixels[:, ::-1]).all(axis=(1, 2, 3)).mean()
    assert abs(mirrored - probability) <= 5 * (probability * (1 - probability) / 400) ** 0.5


@given(
    st.integers(1, 300),
    st.integers(1, 300),
    st.sampled_from([(0.08, 1.0), (0.5, 0.5), (1.0, 1.0)]),
    arrays(np.float64, 4, elements=st.floats(0, 1, exclude_max=True)),
)
def test_random_boxes_lie_inside_and_have_the_asked_area(height, width, scale, draws):
    top, left, bottom, right = random_box(height, width, scale, draws)
    assert 0 <= top < bottom <= height and 0 <= left < right <= width
    tall, wide = bottom - top, right - left
    share = tall * wide / (height * width)
    assert share <= scale[1] + 1e-9
    if tall < height - 1e-6 and wide < width - 1e-6:
        assert share >= scale[0] - 1e-9
        assert 3 / 4 - 1e-6 <= wide / tall <= 4 / 3 + 1e-6


@given(st.integers(1, 30), st.integers(1, 8))
def test_evaluation_holds_every_image_once_as_it_is(count, batch_size):
    images = numbered(count)
    batches = list(eval_images(images, batch_size=batch_size, augment=AugmentSpec(size=4, channels=1, pad=3, flip=1.0)))
    assert len(batches) == -(-count // batch_size)
    for batch in batches:
        chex.assert_shape(batch.pixels, (batch_size, 4, 4, 1))
        padding = batch.mask == 0
        assert (batch.labels[padding] == -1).all() and not batch.pixels[padding].any()
    kept = [(batch.pixels[batch.mask == 1], batch.labels[batch.mask == 1]) for batch in batches]
    pixels, labels = (np.concatenate(arrays) for arrays in zip(*kept, strict=True))
    assert labels.tolist() == list(range(count))
    np.testing.assert_array_equal(pixels, to_float(images.pixels))


def test_a_limit_draws_from_everywhere_in_a_fixed_order():
    images = numbered(200)
    chosen = [
        [
            label
            for batch in eval_images(images, batch_size=7, augment=PLAIN, limit=limit)
            for label in batch.labels
            if label >= 0
        ]
        for limit in (20, 50, 1000)
    ]
    assert list(map(len, chosen)) == [20, 50, 200]
    assert set(chosen[0]) < set(chosen[1]) and chosen[1] == sorted(chosen[1])
    assert Counter(label // 100 for label in chosen[1]).keys() == {0, 1}


def test_other_sizes_are_cut_to_their_centre_square():
    pixels = random_pixels(0, (4, 8, 3))
    (batch,) = eval_images(open_images("test", [Image(pixels=pixels)]), batch_size=1, augment=AugmentSpec(size=4))
    np.testing.assert_array_equal(to_uint8(batch.pixels[0]), pixels[:, 2:6])


def test_a_spec_is_built_from_a_configuration():
    config = {"size": 32, "pad": 4, "scale": [0.2, 1.0]}
    assert build(AugmentSpec, config) == AugmentSpec(size=32, pad=4, scale=(0.2, 1.0))
    assert build(AugmentSpec, {"size": 32, "scale": "None"}).scale is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": 0}, {"channels": 2}, {"pad": -1}, {"flip": 1.5}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)},
        {"scale": (0.5,)}, {"scale": (0.5, 1.5)},
    ],
)  # fmt: skip
def test_impossible_variations(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        AugmentSpec(**{"size": 4, **wrong})


@pytest.mark.parametrize(
    "wrong",
    [{"batch_size": 0}, {"batch_size": 3, "hosts": 2}, {"host": 2, "hosts": 2}, {"seed": -1}, {"step": -1}],
)
def test_impossible_batches(wrong):
    with pytest.raises(SpecError):
        train_images(numbered(3), **{"step": 0, "seed": 0, "batch_size": 2, "augment": PLAIN, **wrong})
    for bad in ({"batch_size": 0}, {"limit": 0}):
        with pytest.raises(SpecError):
            eval_images(numbered(3), **{"batch_size": 2, "augment": PLAIN, **bad})


def test_empty_split_says_what_to_do():
    source = open_images("test", [Image(pixels=random_pixels(0))])
    empty = next(split for split in map(source.split, ("valid", "train")) if not len(split))
    with pytest.raises(SourceError, match="only 1 image"):
        train_images(empty, 0, seed=0, batch_size=1, augment=PLAIN)
    with pytest.raises(SourceError, match="only 1 image"):
        eval_images(empty, batch_size=1, augment=PLAIN)

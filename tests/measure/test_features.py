"""Extractors and the distances over them: fingerprints, splits, and that worse images are farther away."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tokjax.core.errors import SourceError, SpecError
from tokjax.measure.distances import IncomparableError, frechet_distance, kernel_distance
from tokjax.measure.features import PYRAMID_WIDTHS, Features, Preparation, extract, random_pyramid
from tokjax.measure.sliced import SlicedWasserstein, from_pyramid, laplacian_pyramid

SIDE = 32


def drawings(seed, count=150):
    """Disks, bars and checkers of random colours and places, float32 [count, 32, 32, 3] in [-1, 1]."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    images = np.empty((count, SIDE, SIDE, 3))
    for number, image in enumerate(images):
        ground, ink = generator.uniform(-1, 1, (2, 3))
        top, left, size = generator.integers(8, 24), generator.integers(8, 24), generator.integers(3, 9)
        shape = (
            (y - top) ** 2 + (x - left) ** 2 < size**2,
            np.abs((y - top) + (x - left) * generator.uniform(-1, 1)) < size / 2,
            (y // size + x // size) % 2 == 0,
        )[number % 3]
        image[:] = np.where(shape[..., None], ink, ground)
    return images.astype(np.float32)


def photos(seed, count=150):
    """Tiles of two photographs."""
    data = pytest.importorskip("skimage.data")
    generator = np.random.default_rng(seed)
    tiles = []
    for number in range(count):
        photo = (data.astronaut, data.chelsea, data.coffee)[number % 3]()
        top, left = (generator.integers(0, side - SIDE) for side in photo.shape[:2])
        tiles.append(photo[top : top + SIDE, left : left + SIDE])
    return np.stack(tiles).astype(np.float32) / 127.5 - 1


def blur(images, strength):
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(images, (0, strength, strength, 0))


def noise(images, strength):
    return np.clip(images + strength * np.random.default_rng(1).standard_normal(images.shape), -1, 1).astype("f")


def jpeg(images, quality):
    image_module = pytest.importorskip("PIL.Image")

    def coded(image):
        buffer = io.BytesIO()
        image_module.fromarray(np.uint8(np.round((image + 1) * 127.5))).save(buffer, "JPEG", quality=quality)
        return np.asarray(image_module.open(buffer), np.float32) / 127.5 - 1

    return np.stack([coded(image) for image in images])


def drop_modes(images, kept):
    """The first `kept` of three kinds, again and again."""
    chosen = [i for i in range(len(images)) if i % 3 < kept]
    return images[np.resize(chosen, len(images))]


def batches(images, size=60):
    return [images[at : at + size] for at in range(0, len(images), size)]


PYRAMID = random_pyramid()
PYRAMID_WIDTH = 2 * (3 + sum(PYRAMID_WIDTHS))
SLICED = SlicedWasserstein(levels=2, patches=16, projections=64)


def seen(images):
    """Features and patches."""
    return extract(PYRAMID, batches(images), name="x"), SLICED.descriptors(batches(images))


def all_distances(images, reference):
    """FD, KD and SWD of what was `seen` of two sets."""
    return {
        "FD": frechet_distance(images[0], reference[0]).value,
        "KD": kernel_distance(images[0], reference[0]).value,
        "SWD": SLICED.distance(images[1], reference[1], name="x", against="y").value,
    }


@functools.cache
def intact(source):
    """Clean images, what is seen of other images of the same kind, and the distances of the former from them."""
    images, reference = source(1), seen(source(2))
    return images, reference, all_distances(seen(images), reference)


@pytest.mark.parametrize("source", [drawings, pytest.param(photos, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("corrupt", "strengths"),
    [(blur, (0.6, 1.0, 2.0)), (noise, (0.1, 0.2, 0.4)), (jpeg, (20, 10, 4)), (drop_modes, (2, 1))],
)
def test_distances_grow_with_corruption(source, corrupt, strengths):
    images, reference, clean = intact(source)
    found = [clean, *(all_distances(seen(corrupt(images, strength)), reference) for strength in strengths)]
    for metric in found[0]:
        values = [distances[metric] for distances in found]
        assert values == sorted(values) and len(set(values)) == len(values), (metric, values)


def test_the_split_into_batches_does_not_matter():
    images, features = drawings(0, 30), PYRAMID
    whole = extract(features, [images], name="x")
    parts = extract(features, batches(images[:20], 10), name="x") + extract(features, [images[20:]], name="x")
    assert len(parts) == 30
    np.testing.assert_allclose(parts.vectors, whole.vectors, atol=1e-6)
    np.testing.assert_allclose(parts.moments.covariance, whole.moments.covariance, atol=1e-6)
    bare = extract(features, batches(images, 10), name="x", keep_vectors=False)
    assert bare.vectors is None and (bare + parts).vectors is None
    assert bare.moments.mean == pytest.approx(whole.moments.mean, abs=1e-6)
    sliced = SlicedWasserstein(levels=2, patches=4)
    for one, other in zip(sliced.descriptors([images]), sliced.descriptors(batches(images, 10)), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_a_fingerprint_is_of_weights_and_preparation():
    base = random_pyramid()
    assert base.fingerprint == random_pyramid().fingerprint
    others = [
        random_pyramid(seed=1),
        random_pyramid(1),
        random_pyramid(widths=(16, 32)),
        *(random_pyramid(prepare=Preparation(**{name: value}))
          for name, value in (("crop", 8), ("resize", 8), ("antialias", False), ("eight_bit", False))),
        Features(name="other", apply=base.apply, params=base.params),
    ]  # fmt: skip
    assert len({base.fingerprint, *(other.fingerprint for other in others)}) == 1 + len(others)
    images = drawings(0, 6)
    with pytest.raises(IncomparableError, match="fingerprint"):
        frechet_distance(extract(base, [images], name="x"), extract(others[0], [images], name="y"))
    assert frechet_distance(extract(base, [images], name="x"), extract(base, [images], name="y")).label == (
        "FD(random_pyramid)"
    )


def test_preparation():
    images = jnp.asarray(drawings(0, 2))
    plain = Preparation(eight_bit=False)
    np.testing.assert_array_equal(plain(images), images)
    cropped = Preparation(crop=10, eight_bit=False)(images)
    np.testing.assert_array_equal(cropped, images[:, 11:21, 11:21])
    shrunk = Preparation(resize=16, eight_bit=False)(images)
    assert shrunk.shape == (2, 16, 16, 3)
    assert jnp.mean(shrunk) == pytest.approx(float(jnp.mean(images)), abs=0.01)
    rounded = np.asarray(Preparation()(images))
    np.testing.assert_allclose(rounded, images, atol=1 / 255 + 1e-6)
    np.testing.assert_allclose((rounded + 1) * 127.5, np.round((rounded + 1) * 127.5), atol=1e-4)
    with pytest.raises(SpecError, match="32 x 32 pixels"):
        Preparation(crop=40)(images)
    with pytest.raises(SpecError, match="resize"):
        Preparation(resize=0)


def test_any_network_serves_under_its_name():
    classifier = Features(
        name="digits classifier", apply=lambda params, x: x.reshape(len(x), -1) @ params["w"],
        params={"w": np.ones((SIDE * SIDE * 3, 2), np.float32)},
    )  # fmt: skip
    images = drawings(0, 4)
    found = classifier(images)
    assert found.shape == (4, 2)
    np.testing.assert_allclose(found[:, 0], images.sum(axis=(1, 2, 3)), atol=20)  # 3,072 roundings to 1/255
    flat = Features(name="unpooled", apply=lambda params, x: x, params={})
    with pytest.raises(SpecError, match="Pool over positions"):
        flat(images)


@pytest.mark.parametrize(
    ("images", "match"),
    [
        (np.zeros((2, 8, 8, 3), np.uint8), "give float"),
        (np.zeros((8, 8, 3), np.float32), "give float"),
        (np.full((1, 8, 8, 3), 255.0), "scale or clip"),
        (np.full((1, 8, 8, 3), np.nan, np.float32), "scale or clip"),
    ],
)
def test_images_in_another_form_say_so(images, match):
    with pytest.raises(SourceError, match=match):
        random_pyramid()(images)
    with pytest.raises(SourceError, match=match):
        SlicedWasserstein(levels=1).descriptors([images])


def test_filters_see_edges_only_and_not_where_they_are():
    image = np.full((1, 64, 64, 3), -0.5, np.float32)
    features = random_pyramid(prepare=Preparation(eight_bit=False))
    np.testing.assert_allclose(features(image), [[-0.5] * 3 + [0.0] * (PYRAMID_WIDTH - 3)], atol=1e-4)
    image[:, 28:32, 28:32] = 0.5
    found = features(image)
    assert (found[0, 6:] >= 0).all() and found[0, 6:].max() > 1e-3
    np.testing.assert_allclose(features(np.roll(image, (4, 4), (1, 2))), found, atol=1e-4)


def test_bands_add_up_to_the_image():
    images = jax.random.uniform(jax.random.key(0), (2, 21, 32, 3))
    bands = laplacian_pyramid(images, 3)
    assert [band.shape[1:3] for band in bands] == [(21, 32), (11, 16), (6, 8)]
    np.testing.assert_allclose(from_pyramid(bands), images, atol=1e-6)
    flat = laplacian_pyramid(jnp.ones((1, 16, 16, 1)), 2)
    np.testing.assert_allclose(flat[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(flat[1], 1.0, atol=1e-6)


def test_sliced_distance_of_a_set_from_itself_and_of_a_shift():
    sliced = SlicedWasserstein(levels=1, patch=1, patches=64, projections=256)
    images = drawings(0, 40)
    patches = sliced.descriptors([images])
    assert sliced.distance(patches, patches, name="x", against="x").value == 0.0
    grey = [np.repeat(p[..., :1], 3, axis=-1) for p in patches]
    moved = [g + 0.5 * g.std() for g in grey]
    # A shift by (1, 1, 1) / 2 in units of the reference, seen along a random unit vector: sqrt(3) / 2 times E|u|, and
    # E|u| of a coordinate of a unit vector in 3 dimensions is 1/2.
    expected = np.sqrt(3) / 2 / 2
    assert sliced.by_level(moved, grey)[0] == pytest.approx(expected, rel=0.1)
    found = sliced.distance(patches, patches, name="x", against="r")
    assert (found.label, found.n, found.reference_n) == ("SWD(laplacian_patches)", 40, 40)
    other = SlicedWasserstein(levels=1, patch=1, patches=64, projections=256, seed=1)
    with pytest.raises(IncomparableError, match="fingerprint"):
        found - other.distance(patches, patches, name="x", against="r")


def test_what_cannot_be_sliced_says_so():
    sliced = SlicedWasserstein(levels=2, patches=4)
    with pytest.raises(SourceError, match="no images"):
        sliced.descriptors([])
    with pytest.raises(SourceError, match="fewer levels"):
        sliced.descriptors([np.zeros((1, 12, 12, 3), np.float32)])
    with pytest.raises(SourceError, match="as many images"):
        sliced.by_level(sliced.descriptors([drawings(0, 3)]), sliced.descriptors([drawings(0, 6)]))
    with pytest.raises(SpecError, match="levels"):
        SlicedWasserstein(levels=0)
    with pytest.raises(SourceError, match="no images"):
        extract(random_pyramid(), [], name="x")

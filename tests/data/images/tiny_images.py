"""Tiny data sets on disk, in the formats that the sources read."""

import gzip
import io
import json
import struct

import numpy as np
import tensorflow_datasets
from PIL import Image as Pillow


def random_pixels(number, shape=(12, 12, 3)):
    return np.random.default_rng(number).integers(0, 256, shape, np.uint8)


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(path, **options)


def idx(array):
    """An IDX file of unsigned bytes, as its format is published."""
    return bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write_idx(folder, *, train=80, test=10):
    """A folder like Fashion-MNIST's; the first training image is also a test image."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, count, seed in (("train", train, 1), ("t10k", test, 2)):
        pixels = random_pixels(seed, (count, 6, 6))
        pixels[0] = 7
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(pixels)))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return folder


def write_emoji(folder, *, count=60, vendors=("google",)):
    """A folder like the npm package: every third emoji has skin tones."""
    entries = []
    for number in range(count):
        unified = f"{0x1F600 + number:X}"
        variants = {tone: f"{unified}-{tone}" for tone in ("1F3FB", "1F3FF")} if number % 3 == 0 else {}
        drawn = {f"has_img_{vendor}": True for vendor in vendors}
        entries.append(
            {"name": f"NAME {number}", "unified": unified, "image": f"{unified.lower()}.png", **drawn}
            | {"category": "Objects" if number % 2 else "Flags"}
            | {
                "skin_variations": {
                    t: {"image": f"{u.lower()}.png", "unified": u, **drawn} for t, u in variants.items()
                }
            }
        )
        for place, code in enumerate([unified, *variants.values()]):
            for view, vendor in enumerate(vendors):
                pixels = random_pixels([number, place, view], (8, 8, 4))
                save(folder / "img" / vendor / "64" / f"{code.lower()}.png", pixels)
    (folder / "emoji.json").write_text(json.dumps(entries))
    return folder


def write_folder(folder, *, count=60):
    """Two classes of images of one size, one of them twice."""
    for number in range(count):
        save(folder / ("cats" if number % 2 else "dogs") / f"{number}.png", random_pixels(number))
    save(folder / "cats" / "again.png", random_pixels(0))
    return folder


class Drawn(tensorflow_datasets.core.GeneratorBasedBuilder):
    """A few random images with a label."""

    VERSION = tensorflow_datasets.core.Version("1.0.0")

    def _info(self):
        features = tensorflow_datasets.features
        fields = {
            "image": features.Image(shape=(None, None, 3)),
            "grey": features.Image(shape=(None, None, 1)),
            "deep": features.Image(shape=(None, None, 1), dtype=np.uint16),
            "array": features.Tensor(shape=(6, 6, 1), dtype=np.uint8),
            "numbers": features.Tensor(shape=(3,), dtype=np.uint8),
            "label": features.ClassLabel(names=["even", "odd"]),
        }
        return tensorflow_datasets.core.DatasetInfo(builder=self, features=features.FeaturesDict(fields))

    def _split_generators(self, dl_manager):
        return {
            "train": self._generate_examples(range(60)),
            "validation": self._generate_examples(range(60, 68)),
            "extra": self._generate_examples(range(30)),
        }

    def _generate_examples(self, numbers):
        for number in numbers:
            yield (
                number,
                {
                    "image": _png(random_pixels(number, (8, 8 + number % 2, 3))),
                    "grey": _png(random_pixels(number, (8, 8))),
                    "deep": _png(random_pixels(number, (8, 8)).astype(np.uint16) * 257),
                    "array": random_pixels(number, (6, 6, 1)),
                    "numbers": np.arange(3, dtype=np.uint8),
                    "label": number % 2,
                },
            )


def _png(pixels):
    file = io.BytesIO()
    Pillow.fromarray(pixels).save(file, "PNG")
    file.seek(0)
    return file


def write_tfds(folder):
    builder = Drawn(data_dir=folder, file_format="array_record")
    builder.download_and_prepare()
    return builder.data_dir

"""Images as data: sources, their splits, and the batches that models read.

    from tokjax.data.images import AugmentSpec, eval_images, load_images, train_images

    images = load_images("emoji:emoji-datasource-google?size=32")
    batch = train_images(images.split("train"), step=0, seed=0, batch_size=64, augment=AugmentSpec(size=32))

`base` is what every source is, `pixels` decodes and resizes, `batches` makes batches, `code_rows` does so of codes,
`files` reads image files, and each other module is a source.
"""

from tokjax.data.images.base import Image, Images, load_images, open_images
from tokjax.data.images.batches import AugmentSpec, ImageBatch, ProxyBatch, eval_images, train_images

__all__ = [
    "AugmentSpec",
    "Image",
    "ImageBatch",
    "Images",
    "ProxyBatch",
    "eval_images",
    "load_images",
    "open_images",
    "train_images",
]

"""TiTok trained in a single stage, against pixels.

    tokjax train --config titok:small --workdir runs/titok

`paper` is TiTok-BL-128 with 8,192 codes (VQ-8k): 128 codes of a 256-pixel image, a base encoder and a large decoder.
Its perceptual loss is of random features, with the weight that LPIPS and ConvNeXt-S have together; for LPIPS set
system.reconstruction.features=vgg16 and system.reconstruction.weights.
"""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.language._base import stack
from tokjax.configs.vision._base import IMAGES, VITS, recipe

# Rows of a patch, codes of an image, both transformers, and what is quantized how.
_SYSTEMS = {
    "smoke": {
        "patch": 2, "latents": 4, "code_width": 8, "quantizer": "vq:codes=64:revival=anchor",
        "encoder": stack(width=32, layers=2, heads=2), "decoder": stack(width=32, layers=2, heads=2),
    },
    "small": {
        "patch": 4, "latents": 16, "code_width": 16, "quantizer": "vq:codes=512:revival=anchor",
        "encoder": stack(width=128, layers=4, heads=4), "decoder": stack(width=128, layers=4, heads=4),
        "reconstruction": {"squared": 1.0, "perceptual": 0.1},
    },
    "paper": {
        "patch": 16, "latents": 128, "code_width": 64, "quantizer": "vq:codes=8192:revival=anchor",
        "encoder": VITS["base"], "decoder": VITS["large"],
        "reconstruction": {
            "squared": 1.0, "perceptual": 1.1, "adversarial": 0.1, "adversarial_from": 200_000, "lecam": 0.001,
        },
    },
}  # fmt: skip
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": 32, "steps": 30, "learning_rate": 3e-3, "warmup": 5},
    "small": {"batch_size": 32, "steps": 3000, "learning_rate": 1e-3, "warmup": 100},
    "paper": {"batch_size": 256, "steps": 650_000, "learning_rate": 1e-4, "warmup": 10_000, "b2": 0.999},
}


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    return recipe(variant, {"name": "titok", **IMAGES[variant], **_SYSTEMS[variant]}, **_SCALES[variant])

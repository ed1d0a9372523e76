"""VQGAN: codes on a grid between convolutions; the tokenizer that TiTok learns from and is compared with.

    tokjax train --config vqgan:small --workdir runs/vqgan

`paper` is the VQGAN of MaskGIT at 256 pixels, 16 x 16 of 1,024 codes, whose weights `nn.titok_weights.vqgan_params`
reads; its losses are those of TiTok's second stage, as far as they need no weights of others. For LPIPS set
system.reconstruction.features=vgg16 and system.reconstruction.weights.
"""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.vision._base import IMAGES, recipe

BODIES = {
    "smoke": {"widths": [16, 32], "blocks": 1},
    "small": {"widths": [32, 64, 64], "blocks": 1},
    "paper": {"widths": [128, 128, 256, 256, 512], "blocks": 2, "layout": "maskgit"},
}
CODES = {"smoke": 64, "small": 512, "paper": 1024}
CODE_WIDTHS = {"smoke": 4, "small": 8, "paper": 256}
RECONSTRUCTIONS = {
    "smoke": {"squared": 1.0},
    "small": {"squared": 1.0, "perceptual": 0.1},
    "paper": {
        "squared": 1.0, "perceptual": 0.1, "adversarial": 0.01, "adversarial_from": 20_000, "lecam": 0.001,
    },
}  # fmt: skip
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": 32, "steps": 30, "learning_rate": 3e-3, "warmup": 5},
    "small": {"batch_size": 32, "steps": 2000, "learning_rate": 1e-3, "warmup": 100},
    "paper": {"batch_size": 256, "steps": 500_000, "learning_rate": 1e-4, "warmup": 5_000},
}


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    revival = "" if variant == "paper" else ":update=ema:revival=batch"
    system = {
        "name": "vqgan",
        **IMAGES[variant],
        "body": BODIES[variant],
        "code_width": CODE_WIDTHS[variant],
        "quantizer": f"vq:codes={CODES[variant]}{revival}",
        "reconstruction": RECONSTRUCTIONS[variant],
    }
    return recipe(variant, system, **_SCALES[variant])

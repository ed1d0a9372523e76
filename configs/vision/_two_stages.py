"""What the two-stage recipes of TiTok share: the proxy is what `vqgan` trains at the same scale."""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.language._base import stack
from tokjax.configs.vision._base import IMAGES, VITS, recipe
from tokjax.configs.vision.vqgan import BODIES, CODE_WIDTHS, CODES, RECONSTRUCTIONS

_PATCHES = {"smoke": 2, "small": 4, "paper": 16}
_QUANTIZED = {"smoke": (64, 8), "small": (512, 12), "paper": (4096, 12)}  # codes, and channels of what they stand for
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": 32, "steps": 30, "learning_rate": 3e-3, "warmup": 5},
    "small": {"batch_size": 32, "steps": 3000, "learning_rate": 1e-3, "warmup": 100},
    "paper": {"batch_size": 256, "steps": 1_000_000, "learning_rate": 1e-4, "warmup": 10_000},
}


def two_stages(variant: str, size: str, latents: int) -> ConfigDict:
    """Returns the recipe of the first stage.

    Args:
      variant: `smoke`, `small` or `paper`.
      size: of both transformers at `paper` scale.
      latents: codes of an image at `paper` scale; at the others as many per patch.
    """
    bodies = {"smoke": stack(width=32, layers=2, heads=2), "small": stack(width=128, layers=4, heads=4)}
    image, patch = IMAGES[variant], _PATCHES[variant]
    codes, code_width = _QUANTIZED[variant]
    body = bodies.get(variant, VITS[size])
    system = {
        "name": "titok",
        **image,
        "patch": patch,
        "latents": latents * (image["size"] // patch) ** 2 // 256,
        "encoder": body,
        "decoder": body,
        "code_width": code_width,
        "quantizer": f"vq:codes={codes}:cosine=True",
        "stage": "proxy",
        "proxy": {"body": BODIES[variant], "codes": CODES[variant], "code_width": CODE_WIDTHS[variant]},
        "reconstruction": RECONSTRUCTIONS[variant],
    }
    config = recipe(variant, system, **_SCALES[variant])
    config["proxy"] = None  # the run of the vqgan, which the first stage needs
    return config

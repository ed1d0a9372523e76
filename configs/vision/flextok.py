"""FlexTok: an image as ordered codes, decoded by a rectified flow at any length.

    tokjax train --config flextok:small --workdir runs/flextok

`smoke` and `small` work on pixels: no pretrained autoencoder is small enough to come with the library. `small` reads
tiles of ten photographs, which need no download; a better source is `fashion_mnist` (28 x 28 grey: set system.size=28
and system.channels=1) or 'emoji:FOLDER/package?size=32', an unpacked npm package emoji-datasource-google.

`paper` is d18-d28 at 256 pixels with 256 codes, on latents of 32 x 32 x 16. Set system.latent.weights to a trained
autoencoder of that body: the paper's own, of SDXL's shape, is not ours. The published sizes (573M for d18-d18, 1.4B for
d18-d28) are those of blocks of 12 D^2, 573.3M and 1,366M; ours have 1,369M. The modulation of the decoder's blocks,
which the published sizes seem to leave out, is 1,079M more. Batch, rate and steps of `paper` are ours.
"""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR
from tokjax.configs.vision._base import IMAGES, recipe

_SYSTEMS = {
    "smoke": {
        "patch": 2, "registers": 8, "code_width": 4, "quantizer": "fsq:levels=5,5,4,4",
        "encoder_body": {"layers": 2, "width": 32, "head_dim": 16},
        "decoder_body": {"layers": 2, "width": 32, "head_dim": 16},
        "steps": 8,
    },
    "small": {
        "patch": 4, "registers": 32, "code_width": 5, "quantizer": "fsq:levels=8,8,5,5,5",
        "encoder_body": {"layers": 4, "width": 128, "head_dim": 32},
        "decoder_body": {"layers": 4, "width": 128, "head_dim": 32},
        "steps": 20,
    },
    "paper": {
        "patch": 2, "registers": 256, "code_width": 6, "quantizer": "fsq:levels=8,8,8,5,5,5",
        "encoder_body": {"layers": 18, **ACCELERATOR},
        "decoder_body": {"layers": 28, **ACCELERATOR},
        "steps": 25, "guidance": {"kind": "apg", "scale": 7.5},
        "latent": {"body": {"widths": [128, 256, 512, 512], "blocks": 2}, "channels": 16, "weights": ""},
    },
}  # fmt: skip
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": 32, "steps": 30, "learning_rate": 3e-3, "warmup": 5},
    "small": {"batch_size": 32, "steps": 1000, "learning_rate": 1e-3, "warmup": 50},
    "paper": {"batch_size": 1024, "steps": 250_000, "learning_rate": 5e-4, "warmup": 10_000},
}


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    system = {"name": "flextok", **IMAGES[variant], **_SYSTEMS[variant]}
    return recipe(variant, system, **_SCALES[variant], weight_decay=0.02, final_fraction=0.01)

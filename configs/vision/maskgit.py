"""MaskGIT over the codes of TiTok: images of a class, all codes at once.

The command line does not train generators of codes yet. In Python, `train.fit` does, on batches
`CodeBatch.of(batch, codes)` of a trained tokenizer; tests/systems/test_maskgit.py shows how.

`smoke` and `paper` learn the codes of `titok_l32` at the same scale, of digits and of ImageNet; `small` those of
`titok:small`, whose photographs have no classes. Sampling as published for L-32:
`MaskedSamplingSpec(steps=8, temperature=9.5, guidance=4.5, schedule="linear")`.
"""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, stack
from tokjax.configs.vision._base import recipe

_SYSTEMS = {
    "smoke": {"tokens": 2, "vocab_size": 64, "classes": 10, "body": stack(width=32, layers=2, heads=2)},
    "small": {"tokens": 16, "vocab_size": 512, "classes": 0, "body": stack(width=128, layers=4, heads=4)},
    "paper": {
        "tokens": 32, "vocab_size": 4096, "classes": 1000, "body": stack(width=768, layers=24, heads=16, **ACCELERATOR),
    },
}  # fmt: skip
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": 32, "steps": 30, "learning_rate": 3e-3, "warmup": 5},
    "small": {"batch_size": 32, "steps": 3000, "learning_rate": 1e-3, "warmup": 100},
    "paper": {"batch_size": 2048, "steps": 500_000, "learning_rate": 2e-4, "warmup": 10_000},
}


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    system = {"name": "maskgit", **_SYSTEMS[variant]}
    return recipe(variant, system, **_SCALES[variant], b2=0.96, weight_decay=0.03, final_fraction=0.05)

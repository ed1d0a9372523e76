"""SpaceByte: bytes, with global blocks at word starts.

tokjax train --config spacebyte:small --workdir runs/spacebyte
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    stacks = {
        "smoke": {
            "backbone": stack(width=64, layers=2, heads=2),
            "before": stack(width=32, layers=1, heads=2),
            "after": stack(width=32, layers=1, heads=2),
            "window": 32,
        },
        "small": {
            "backbone": stack(width=128, layers=4, heads=4),
            "before": stack(width=64, layers=2, heads=2),
            "after": stack(width=64, layers=2, heads=2),
            "window": 64,
        },
        "paper": {
            "backbone": stack(width=1536, layers=24, heads=16, **ACCELERATOR),
            "before": stack(width=768, layers=12, heads=8, **ACCELERATOR),
            "after": stack(width=768, layers=12, heads=8, **ACCELERATOR),
            "window": 768,
        },
    }[variant]
    config = recipe(
        variant,
        tokenizer={"name": "bytes"},
        system={"name": "spacebyte", **stacks, "bytes_per_word": 6.0 if variant == "paper" else 5.0},
    )
    if variant == "paper":
        config.data.length = 6144
        config.data.batch_size = 64
    return config

"""MEGABYTE: fixed patches of bytes.

    tokjax train --config megabyte:small --workdir runs/megabyte

`paper` has the shape of the 1.3B + 218M model of Yu et al. 2023 with patches of 8 bytes.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    stacks = {
        "smoke": {
            "backbone": stack(width=64, layers=2, heads=2),
            "local": stack(width=32, layers=1, heads=2),
            "patch": 4,
        },
        "small": {
            "backbone": stack(width=128, layers=4, heads=4),
            "local": stack(width=64, layers=2, heads=2),
            "patch": 4,
        },
        "paper": {
            "backbone": stack(width=2048, layers=24, heads=32, **ACCELERATOR),
            "local": stack(width=1024, layers=14, heads=16, **ACCELERATOR),
            "patch": 8,
        },
    }[variant]
    config = recipe(variant, tokenizer={"name": "bytes"}, system={"name": "megabyte", **stacks})
    if variant == "paper":
        config.data.length = 8192
        config.data.batch_size = 64
    return config

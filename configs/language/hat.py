"""Hierarchical Autoregressive Transformer over words of bytes.

    tokjax train --config hat:small --workdir runs/hat

`paper` is the 1B scale of Neitemeier et al. 2025; the sizes of its encoder and decoder are not published, ours hold
about 3% of the parameters.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    stacks = {
        "smoke": {
            "backbone": stack(width=64, layers=2, heads=2),
            "encoder": stack(width=32, layers=1, heads=2),
            "decoder": stack(width=32, layers=1, heads=2),
        },
        "small": {
            "backbone": stack(width=128, layers=4, heads=4),
            "encoder": stack(width=64, layers=1, heads=2),
            "decoder": stack(width=64, layers=2, heads=2),
        },
        "paper": {
            "backbone": stack(width=2048, layers=20, heads=16, **ACCELERATOR),
            "encoder": stack(width=512, layers=4, heads=8, **ACCELERATOR),
            "decoder": stack(width=512, layers=4, heads=8, **ACCELERATOR),
        },
    }[variant]
    cap = 64 if variant == "paper" else 30
    config = recipe(
        variant,
        tokenizer={"name": "words", "cap": cap},
        system={"name": "hat", **stacks, "cap": cap, "symbols_per_word": 5.0},
    )
    if variant == "paper":
        config.data.length = 8192
        config.data.batch_size = 64
    return config

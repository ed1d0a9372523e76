"""Decoder-only transformer over BPE.

    tokjax train --config lm:small --workdir runs/lm

`paper` is the 403M model of Lester et al. 2024, section 3: 24 layers of 16 heads, 1,024 channels, an MLP of 4,096. Like
the paper's count, this one is without the embedding: 34M, with our vocabulary and one table for input and output.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    backbone = {
        "smoke": stack(width=64, layers=2, heads=2),
        "small": stack(width=128, layers=4, heads=4),
        "paper": stack(width=1024, layers=24, heads=16, hidden=4096, **ACCELERATOR),
    }[variant]
    vocab_size = {"smoke": 512, "small": 4096, "paper": 32_768}[variant]
    return recipe(
        variant,
        tokenizer={"name": "bpe", "vocab_size": vocab_size},
        system={"name": "lm", "backbone": backbone, "tied": True},
    )

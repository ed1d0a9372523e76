"""The transformer of 7B parameters that words of bytes are compared with, over 65,536 subwords.

    tokjax plan --config lm_7b:paper --topology v5p:4x4x4
    tokjax train --config lm_7b:paper --workdir runs/lm_7b

`paper` has the blocks of Llama 2 at 7B (Touvron et al. 2023): 32 layers of 32 heads, 4,096 channels, an MLP of 11,008;
and as many subwords as Neitemeier et al. 2025 compare with, in two tables: 7.0B parameters. A step reads 2M subwords;
batch, rate and steps are ours. `smoke` and `small` are those of `lm`.
"""

from ml_collections import ConfigDict

from tokjax.configs.language import lm
from tokjax.configs.language._base import ACCELERATOR, recipe, stack

BACKBONE = stack(width=4096, layers=32, heads=32, hidden=11_008, **ACCELERATOR)


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    if variant != "paper":
        return lm.get_config(variant)
    config = recipe(
        variant,
        tokenizer={"name": "bpe", "vocab_size": 65_535},  # with the end of a document, rows that devices can split
        system={"name": "lm", "backbone": BACKBONE, "tied": False},
    )
    config.data.update(length=4096, batch_size=512)
    config.optimizer.update(learning_rate=3e-4, warmup_steps=2000)
    config.train.steps = 500_000
    return config

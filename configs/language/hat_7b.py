"""The hierarchical transformer over words of bytes at the 7B scale of Neitemeier et al. 2025.

    tokjax plan --config hat_7b:paper --topology v5p:4x4x4
    tokjax train --config hat_7b:paper --workdir runs/hat_7b

The sizes of the paper's model are not published. `paper` has the backbone of `lm_7b` over rows of as many words as that
has subwords, and an encoder and a decoder that hold about 2% of its 6.6B parameters, as the paper says of its own. What
`lm_7b` has more is its tables. `smoke` and `small` are those of `hat`.
"""

from ml_collections import ConfigDict

from tokjax.configs.language import hat
from tokjax.configs.language._base import ACCELERATOR, recipe, stack
from tokjax.configs.language.lm_7b import BACKBONE


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    if variant != "paper":
        return hat.get_config(variant)
    local = stack(width=1024, layers=6, heads=16, **ACCELERATOR)
    config = recipe(
        variant,
        tokenizer={"name": "words", "cap": 64},
        system={
            "name": "hat", "backbone": BACKBONE, "encoder": local, "decoder": local, "cap": 64, "symbols_per_word": 5.0,
        },
    )  # fmt: skip
    config.data.update(length=20_480, batch_size=512)
    config.optimizer.update(learning_rate=3e-4, warmup_steps=2000)
    config.train.steps = 500_000
    return config

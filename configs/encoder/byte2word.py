"""Byte2Word: words read from their bytes, subwords of masked words predicted.

    tokjax train --config byte2word:small --workdir runs/byte2word

`paper` has the backbone, steps and vocabulary of BERT base; its embedding holds a tenth of the parameters of a table of
30,000 subwords. Byte width and number of queries are ours: the abstract of Lee et al. 2022 gives the tenth alone.
"""

from ml_collections import ConfigDict

from tokjax.configs.encoder._base import recipe


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    sizes = {
        "smoke": "byte_width=24:queries=4",
        "small": "byte_width=36:queries=8",
        "paper": "byte_width=256:queries=10",
    }[variant]
    return recipe(variant, {"name": "byte2word", "embedding": f"pooled_bytes:kind=latent_query:{sizes}"})

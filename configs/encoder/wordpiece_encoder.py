"""The subword encoder that Byte2Word is measured against: BERT with whole words masked.

tokjax train --config wordpiece_encoder:small --workdir runs/wordpiece
"""

from ml_collections import ConfigDict

from tokjax.configs.encoder._base import recipe


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    return recipe(variant, {"name": "wordpiece_encoder", "one_mask": False})

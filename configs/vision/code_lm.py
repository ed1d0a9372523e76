"""A language model over the codes of a trained image tokenizer: images of a class, one code after the other.

    tokjax train --config flextok:small --workdir runs/flextok
    tokjax train --config code_lm:small --config.codes_of=runs/flextok --workdir runs/code_lm
    tokjax generate --workdir runs/code_lm --count 16 --out runs/drawn

Any image tokenizer will do. Of one with ordered codes, `flextok`, `data.codes` generates the first ones only: these
decode to an image, too. `paper` has the 1.33B parameters of the generator of Bachmann et al. 2025, which learns 32 of
the 256 codes here; their batch, rate and shape are not known to us, so that these are ours.
"""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, stack
from tokjax.configs.vision._base import generator_recipe

_BACKBONES = {
    "smoke": stack(width=32, layers=2, heads=2),
    "small": stack(width=128, layers=4, heads=4),
    "paper": stack(width=2048, layers=24, heads=16, hidden=5464, **ACCELERATOR),
}
_SCALES: dict[str, dict[str, Any]] = {
    "smoke": {"batch_size": 32, "steps": 30, "learning_rate": 3e-3, "warmup": 5},
    "small": {"batch_size": 32, "steps": 3000, "learning_rate": 1e-3, "warmup": 100},
    "paper": {"batch_size": 1024, "steps": 250_000, "learning_rate": 3e-4, "warmup": 5000, "codes": 32},
}


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    system = {"name": "lm", "backbone": _BACKBONES[variant], "tied": True}
    return generator_recipe(variant, system, **_SCALES[variant], b2=0.95, weight_decay=0.05, final_fraction=0.1)

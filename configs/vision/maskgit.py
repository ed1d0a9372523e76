"""MaskGIT over the codes of a trained image tokenizer: images of a class, all codes at once.

    tokjax train --config titok:small --workdir runs/titok
    tokjax train --config maskgit:small --config.codes_of=runs/titok --workdir runs/maskgit
    tokjax generate --workdir runs/maskgit --count 16 --out runs/drawn

`smoke` and `small` learn the codes of `titok` at the same scale, of digits and of photographs, which have no classes;
`paper` those of `titok_l32`, of ImageNet. For another tokenizer or source, set system.tokens, system.vocab_size and
system.classes; a wrong one says what it should be. Sampling as published for L-32: `--sampling steps=8 --sampling
temperature=9.5 --sampling guidance=4.5 --sampling schedule=linear`.
"""

from typing import Any

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, stack
from tokjax.configs.vision._base import generator_recipe

_SYSTEMS = {
    "smoke": {"tokens": 4, "vocab_size": 64, "classes": 10, "body": stack(width=32, layers=2, heads=2)},
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
    return generator_recipe(variant, system, **_SCALES[variant], b2=0.96, weight_decay=0.03, final_fraction=0.05)

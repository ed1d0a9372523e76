"""Lexinvariant model that is told, in training, what each symbol of its random alphabets stands for.

    tokjax train --config decipher:small --workdir runs/decipher

It learns to read ciphers on a CPU. Prediction alone takes far longer to teach that: `lexinvariant` has no second loss
(`system.naming`), and is the model of Huang et al. 2023. Ciphers are letters and spaces; --config.source=letters:SOURCE
folds any other text. Drawn vectors have channels of their own, as many as a head, so that from the first step on heads
find the positions with the same symbol and, as keys are smeared, those that came after it.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale; `paper` has the size of `lexinvariant:paper`."""
    ours = {"init": "matching", "smeared_keys": True}
    backbone = {
        "smoke": stack(width=64, layers=2, heads=2, head_dim=16, hidden=64, **ours),
        "small": stack(width=128, layers=8, heads=4, hidden=192, **ours),
        "paper": stack(width=1024, layers=12, heads=8, hidden=2688, **ours, **ACCELERATOR),
    }[variant]
    channels = backbone.get("head_dim", backbone["width"] // backbone["heads"])
    config = recipe(
        variant,
        tokenizer={"name": "alphabet", "vocab_size": 132},
        system={
            "name": "lexinvariant",
            "backbone": backbone,
            "embedding": f"lexinvariant:channels={channels}",
            "naming": 2.0,
        },
    )
    config.source = "letters:joined:4096:pydocs"
    if variant == "small":
        config.optimizer.update(learning_rate=2e-3, b2=0.98)
        config.data.update(length=256, batch_size=8)
        config.train.update(steps=4000, eval_every=1000, checkpoint_every=1000)
    if variant == "paper":
        config.data.update(length=512)
        config.train.steps = 250_000
    return config

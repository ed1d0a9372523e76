"""Decoder-only transformer whose embeddings are drawn anew in every sequence.

    tokjax train --config lexinvariant:small --workdir runs/lexinvariant

`small` reads letters and spaces only, so that it can be given ciphers. In both small variants heads start as copies of
what they attend to, and keys are smeared; from random matrices, with plain keys, such short runs learn little.

`paper` is the 150M character model of Huang et al. 2023, section 4: 12 layers of 8 heads of 128 channels, an MLP of
4096, rows of 512 characters, 250,000 steps. Its text is the Pile; give any TFDS set as --config.source=tfds:NAME. Its
optimizer is Adafactor; ours is AdamW, and the learning rate our own. Ours has rotary positions and a gated MLP: three
matrices, 2,688 wide, so that a block has about as many parameters.
"""

from ml_collections import ConfigDict

from tokjax.configs.language._base import ACCELERATOR, recipe, stack


def get_config(variant: str = "small") -> ConfigDict:
    """Returns the recipe at `smoke`, `small` or `paper` scale."""
    backbone = {
        "smoke": stack(width=64, layers=2, heads=2, hidden=64, init="copying", smeared_keys=True),
        "small": stack(width=128, layers=4, heads=4, hidden=128, init="copying", smeared_keys=True),
        "paper": stack(width=1024, layers=12, heads=8, hidden=2688, **ACCELERATOR),
    }[variant]
    config = recipe(
        variant,
        tokenizer={"name": "alphabet", "vocab_size": 132},
        system={"name": "lexinvariant", "backbone": backbone},
    )
    config.source = "joined:4096:pydocs"
    if variant == "small":
        config.optimizer.learning_rate = 5e-3
        config.source = "letters:joined:4096:pydocs"
        config.data.update(length=256, batch_size=16)
        config.train.steps = 3000
    if variant == "paper":
        config.data.update(length=512)
        config.train.steps = 250_000
    return config
